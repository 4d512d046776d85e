"""Configuration classes of the models, and the named configurations."""

from .configuration_violet import VioletConfig, VioletVisionConfig
from .named_configurations import NAMED_CONFIGURATIONS, named_configuration

__all__ = ["NAMED_CONFIGURATIONS", "VioletConfig", "VioletVisionConfig", "named_configuration"]

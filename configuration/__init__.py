"""Configuration classes of the models, and the named configurations."""

from .configuration_violet import NAMED_CONFIGURATIONS, VioletConfig, VioletVisionConfig, named_configuration

__all__ = ["NAMED_CONFIGURATIONS", "VioletConfig", "VioletVisionConfig", "named_configuration"]

"""Weights in and out: converting other code's, publishing ours."""

from .cards import CARDS, CardError, write_model_card
from .conversion import ConversionReport, export_original, from_original
from .planning import ConversionError
from .publishing import HubError, Push, pull, push
from .starting_points import build_model, build_processor
from .weight_files import WeightsError

__all__ = [
    "CARDS",
    "CardError",
    "ConversionError",
    "ConversionReport",
    "Push",
    "HubError",
    "WeightsError",
    "build_model",
    "build_processor",
    "export_original",
    "from_original",
    "pull",
    "push",
    "write_model_card",
]

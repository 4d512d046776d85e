"""Weights in and out: converting other code's, publishing ours."""

from .cards import CARDS, PRE_TRAINING, QUESTION_ANSWERING, CardText, write_model_card
from .conversion import ConversionReport, export_original, from_original
from .planning import ConversionError
from .starting_points import build_model
from .weight_files import WeightsError

__all__ = [
    "CARDS",
    "PRE_TRAINING",
    "QUESTION_ANSWERING",
    "CardText",
    "ConversionError",
    "ConversionReport",
    "WeightsError",
    "build_model",
    "export_original",
    "from_original",
    "write_model_card",
]

"""Weights in and out: converting the original's, publishing ours."""

from .cards import CARDS, PRE_TRAINING, QUESTION_ANSWERING, CardText, write_model_card
from .conversion import ConversionReport, from_original

__all__ = [
    "CARDS",
    "PRE_TRAINING",
    "QUESTION_ANSWERING",
    "CardText",
    "ConversionReport",
    "from_original",
    "write_model_card",
]

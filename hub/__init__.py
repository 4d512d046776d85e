"""Weights in and out: converting the original's, publishing ours."""

from .cards import CARDS, CardError, write_model_card
from .conversion import ConversionReport, from_original

__all__ = [
    "CARDS",
    "CardError",
    "ConversionReport",
    "from_original",
    "write_model_card",
]

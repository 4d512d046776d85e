"""Weights in and out: converting the original's, publishing ours."""

from .cards import CARDS, CardError, write_model_card
from .conversion import ConversionReport, from_original
from .publishing import HubError, Push, pull, push

__all__ = [
    "CARDS",
    "CardError",
    "ConversionReport",
    "Push",
    "HubError",
    "from_original",
    "pull",
    "push",
    "write_model_card",
]

"""Weights in and out: converting the original's, publishing ours."""

from .cards import PRE_TRAINING, QUESTION_ANSWERING, write_model_card
from .conversion import ConversionReport, from_original

__all__ = ["PRE_TRAINING", "QUESTION_ANSWERING", "ConversionReport", "from_original", "write_model_card"]

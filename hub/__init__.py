"""Weights in and out: converting the original's, publishing ours."""

from .conversion import ConversionReport, from_original

__all__ = ["ConversionReport", "from_original"]

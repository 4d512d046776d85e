"""Text sides: what turns words into states. A new one is a file here and a line of `TEXTS`."""

from .text_side import TEXTS, TextSide, build_text_side

__all__ = ["TEXTS", "TextSide", "build_text_side"]

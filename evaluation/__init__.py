"""Numbers that say how well a model answers."""

from .answers import AnswerAccuracy

__all__ = ["AnswerAccuracy"]

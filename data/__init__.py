"""Data sets: the built-in moving shapes, and a user's own tables."""

from .moving_shapes import moving_shapes, open_ended
from .tables import QUESTION_COLUMNS, TableError, read_table

__all__ = ["QUESTION_COLUMNS", "TableError", "moving_shapes", "open_ended", "read_table"]

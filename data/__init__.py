"""Data sets: the built-in moving shapes, a user's own tables, and the files of the original code."""

from .moving_shapes import (
    captioned,
    described,
    fill_in_the_blank,
    gallery,
    moving_shapes,
    multiple_choice,
    open_ended,
)
from .original import TsvVideos, UnsafePickleError, original_captions, read_captions, read_pickle, read_video
from .tables import QUESTION_COLUMNS, TableError, read_table

__all__ = [
    "QUESTION_COLUMNS",
    "TableError",
    "TsvVideos",
    "UnsafePickleError",
    "captioned",
    "described",
    "fill_in_the_blank",
    "gallery",
    "moving_shapes",
    "multiple_choice",
    "open_ended",
    "original_captions",
    "read_captions",
    "read_pickle",
    "read_table",
    "read_video",
]

"""Data sets: the built-in moving shapes."""

from .moving_shapes import moving_shapes, open_ended

__all__ = ["moving_shapes", "open_ended"]

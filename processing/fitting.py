"""Where a frame goes in the picture that a model sees: padded, stretched, or cut."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from transformers.image_utils import SizeDict


class Fit(NamedTuple):
    """
    How a frame becomes the model's picture: resized to `width` x `height` pixels, of which the picture of `size`
    (height, width) begins at (`left`, `top`); both are negative if the picture is larger.
    """

    width: float
    height: float
    left: float
    top: float
    size: tuple[float, float]


def fit_of(
    frame: Sequence[int],
    size: SizeDict,
    do_pad_to_square: bool,
    do_stretch: bool,
    do_resize: bool,
    draw: int | None,
) -> Fit:
    """Where a frame (height, width) goes in the picture that `_preprocess` makes of it."""
    height, width = frame
    if do_pad_to_square:
        left, top, wide, tall = padding(height, width, size)
        return Fit(width, height, -left, -top, (tall, wide))
    if do_stretch or not do_resize:
        return Fit(1, 1, 0, 0, (1, 1))
    covering, spare = covering_size(height, width, size)
    top, left = (spare[0] // 2, spare[1] // 2) if draw is None else drawn_place(spare, draw)
    return Fit(covering.width, covering.height, left, top, (size.height, size.width))


def covering_size(height: int, width: int, size: SizeDict) -> tuple[SizeDict, list[int]]:
    """The size of a frame (height, width) that covers `size`, and the rows and columns that it has beyond that."""
    factor = max(size.height / height, size.width / width)
    covering = SizeDict(height=round(height * factor), width=round(width * factor))
    return covering, [covering.height - size.height, covering.width - size.width]


def padding(height: int, width: int, size: SizeDict) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a frame (height, width) in the black picture of the shape of `size` around it."""
    tall = max(height, round(width * size.height / size.width))
    wide = max(width, round(height * size.width / size.height))
    return (wide - width) // 2, (tall - height) // 2, wide, tall


def drawn_place(spare: Sequence[int], draw: int) -> tuple[int, int]:
    """(top, left) of a crop, with `spare` rows and columns left over: what `draw` decides, the same in all frames."""
    top, left = np.random.default_rng([draw, 1]).integers(0, spare, endpoint=True).tolist()
    return top, left

"""Boxes beside a clip: those of the frames that are taken, in shares of the pictures that the model sees."""

from collections.abc import Sequence
from typing import Any

import torch

from ..modeling_violet.area_pooling import WHOLE, check_boxes
from .fitting import Fit

Boxes = Any
"""Of a clip: (x1, y1, x2, y2) in shares of its frames, one for all; or one for each frame of the video, None for a
frame that does not show the thing; or None for whole frames."""


def boxes_of_frames(boxes: Boxes, indices: Sequence[int], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The boxes of the frames that are taken.

    Args:
        boxes: see `Boxes`.
        indices: the frames' numbers in the video.
        name: what messages call the clip.

    Returns:
        (frames, 4) float32 and (frames,) int64, 1 for a frame that shows its box.

    Raises:
        ValueError: for boxes that are none (see `check_boxes`), or that are fewer than the frames.
    """
    if boxes is None:
        boxes = WHOLE
    of_frame = not isinstance(boxes, str) and hasattr(boxes, "__len__")
    if not of_frame or len(boxes) == 0:
        raise ValueError(f"{name}: `boxes` is {boxes!r}: give (x1, y1, x2, y2), or one of them for each frame.")
    if not (boxes[0] is None or hasattr(boxes[0], "__len__")) or getattr(boxes, "ndim", 2) == 1:
        box = check_boxes(list(boxes), name=f"{name}: `boxes`")
        return box.expand(len(indices), 4), torch.ones(len(indices), dtype=torch.long)
    if max(indices) >= len(boxes):
        raise ValueError(
            f"{name}: there are {len(boxes)} boxes, and the frame {max(indices)} is taken: give one for each frame of "
            "the video (None if it is not seen), or four numbers for all."
        )
    taken = [boxes[i] for i in indices]
    shown = torch.tensor([box is not None for box in taken])
    if not shown.any():
        raise ValueError(f"{name}: none of the frames that are taken ({list(indices)}) shows the box.")
    filled = torch.as_tensor([list(WHOLE) if box is None else [float(x) for x in box] for box in taken])
    return check_boxes(filled, shown, name=f"{name}: `boxes`"), shown.long()


def check_row_boxes(boxes: Boxes, name: str) -> None:
    """
    Refuses boxes of a whole video that `boxes_of_frames` would refuse for one of its frames.

    Raises:
        ValueError: see there.
    """
    one_for_all = len(boxes) == 4 and not any(box is None or hasattr(box, "__len__") for box in boxes)
    boxes_of_frames(boxes, [0] if one_for_all else range(len(boxes)), name)


def fit_boxes(boxes: torch.Tensor, shown: torch.Tensor, fit: Fit, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Boxes in shares of the frame -> in shares of the model's picture, and which of them it shows. What is cut off with
    the frame's edges is cut off.

    Raises:
        ValueError: if nothing of the boxes is left in any frame.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    across = [(x * fit.width - fit.left) / fit.size[1] for x in (x1, x2)]
    down = [(y * fit.height - fit.top) / fit.size[0] for y in (y1, y2)]
    moved = torch.stack([across[0], down[0], across[1], down[1]], -1).clamp(0, 1)
    left = shown.bool() & (moved[:, 0] < moved[:, 2]) & (moved[:, 1] < moved[:, 3])
    if not left.any():
        box = tuple(round(number, 3) for number in boxes[shown.bool()][0].tolist())
        raise ValueError(
            f"{name}: the box {box} lies in what is cut off when frames are made square. Pad them instead "
            "(`do_pad_to_square=True`)."
        )
    return torch.where(left.unsqueeze(-1), moved, moved.new_tensor(WHOLE)), left.long()

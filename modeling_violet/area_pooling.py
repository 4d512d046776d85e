"""
Area pooling of boxes: the mean of a map, taken as constant in each cell, over each of the equal parts of a box.

It has no parameters, and a whole frame is a box as any other, so a model of frames reads regions with the same
weights (the PoolAggregator of MM-GEM, arXiv:2405.19333, whose formula is not public: this one is ours). A box of one
cell gives that cell exactly, which RoIAlign does not, and parts never overlap, as windows of adaptive pooling do.
"""

from collections.abc import Sequence
from typing import Any

import torch

from .losses import at_least_float32

WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The box (x1, y1, x2, y2) of a whole frame, in shares of its width and height."""


def check_boxes(boxes: Any, frame_mask: torch.Tensor | None = None, name: str = "`boxes`") -> torch.Tensor:
    """
    Boxes that people or files gave, as a tensor.

    Args:
        boxes: (..., 4), each (x1, y1, x2, y2) in shares of the frame's width and height, from its upper left corner.
        frame_mask: (...), 1 for a frame that shows its box; what stands at a 0 is not read.
        name: what they are called, for messages.

    Returns:
        (..., 4), float32; whole frames at a 0 of the mask.

    Raises:
        ValueError: for a box in pixels, outside of the frame, without an area or upside down, with its numbers; for a
            tube that no frame shows.
    """
    found = torch.as_tensor(boxes, dtype=torch.float32)
    if found.dim() == 0 or found.shape[-1] != 4:
        raise ValueError(
            f"{name}: a box is 4 numbers (x1, y1, x2, y2), shares of the frame's width and height; got the shape "
            f"{tuple(found.shape)}."
        )
    if frame_mask is not None:
        shown = frame_mask.bool()
        if shown.shape != found.shape[:-1]:
            raise ValueError(
                f"{name}: the frame mask has the shape {tuple(shown.shape)} for boxes of {tuple(found.shape)}: one "
                "number a box is needed."
            )
        if shown.dim() and not bool(shown.any(-1).all()):
            raise ValueError(f"{name}: the frame mask is 0 for all frames, so no frame shows the box: leave it out.")
        found = torch.where(shown.unsqueeze(-1), found, found.new_tensor(WHOLE))
    for box in found.reshape(-1, 4)[~_is_box(found).flatten()][:1]:
        raise ValueError(f"{name}: {_what_is_wrong(box.tolist())}")
    return found


def _is_box(boxes: torch.Tensor) -> torch.Tensor:
    """(..., 4) -> (...), whether each is a part of the frame with an area; not of NaN."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2) & (x2 <= 1) & (y2 <= 1)


def _what_is_wrong(box: Sequence[float]) -> str:
    """A sentence about four numbers that are no box."""
    x1, y1, x2, y2 = box
    shown = "(" + ", ".join(f"{number:g}" for number in box) + ")"
    if not all(abs(number) < float("inf") for number in box):
        return f"the box {shown} has a number that is none: give (x1, y1, x2, y2) in shares of the frame."
    if max(box) > 2:
        return (
            f"the box {shown} is in pixels, and shares of the frame are needed, from 0 to 1: divide x1 and x2 by its "
            "width, y1 and y2 by its height."
        )
    if min(box) < 0 or max(box) > 1:
        return f"the box {shown} lies outside of the frame, which goes from 0 to 1: cut it off at the frame's edge."
    for low, high, first, last, which in ((x1, x2, "x1", "x2", "left"), (y1, y2, "y1", "y2", "upper")):
        if low >= high:
            return (
                f"the box {shown} has {first} {low:g} and {last} {high:g}: {first} is its {which} edge and must be "
                "less. (Is it x, y, width, height?)"
            )
    raise AssertionError(f"{shown} is a box")


def boxes_of_steps(boxes: torch.Tensor, shown: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The boxes of frames as those of an encoder's steps in time: of equally many frames each, the mean of those shown.

    Args:
        boxes: (batch, frames, 4).
        shown: (batch, frames), 1 for a frame that shows its box.

    Returns:
        (batch, steps, 4) and (batch, steps).

    Raises:
        ValueError: if the steps do not divide the frames.
    """
    frames = boxes.shape[1]
    if frames % steps:
        raise ValueError(f"`boxes`: there are {frames} of each video, one a frame, for {steps} steps in time.")
    if frames == steps:
        return boxes, shown
    # (batch, frames, ...) -> (batch, steps, frames of a step, ...)
    boxes, shown = boxes.unflatten(1, (steps, -1)), shown.unflatten(1, (steps, -1))
    weights = shown.to(boxes.dtype).unsqueeze(-1)
    any_shown = shown.any(2)
    means = (boxes * weights).sum(2) / weights.sum(2).clamp(min=1)
    return torch.where(any_shown.unsqueeze(-1), means, boxes.new_tensor(WHOLE)), any_shown.to(shown.dtype)


def area_weights(low: torch.Tensor, high: torch.Tensor, cells: int, parts: int) -> torch.Tensor:
    """
    What each cell gives to each of the equal parts of a stretch: M[p, r] = the length of part p that lies in the cell
    [r, r + 1], divided by the part's length.

    Args:
        low, high: (...), the stretch, in shares of the axis.
        cells: of the axis.
        parts: in which the stretch is cut.

    Returns:
        (..., parts, cells), at least in float32; each row's sum is 1.
    """
    low, high = at_least_float32(low)[..., None], at_least_float32(high)[..., None]
    length = (high - low) / parts * cells  # (..., 1), of a part, in cells
    begin = low * cells + torch.arange(parts, device=low.device) * length  # (..., parts)
    cell = torch.arange(cells, device=low.device, dtype=low.dtype)
    # (..., parts, 1) against (cells,) -> (..., parts, cells)
    inside = torch.minimum((begin + length)[..., None], cell + 1) - torch.maximum(begin[..., None], cell)
    return inside.clamp(min=0) / length[..., None]


def pool_boxes(states: torch.Tensor, boxes: torch.Tensor | None, parts: int) -> torch.Tensor:
    """
    The mean over each of `parts` x `parts` equal parts of a box in each frame.

    Args:
        states: (batch, steps, rows, columns, width).
        boxes: (batch, steps, 4), or (batch, 4) for all steps, (x1, y1, x2, y2) in shares of the frame; None for whole
            frames. They are not checked here, see `check_boxes`.
        parts: along each side.

    Returns:
        (batch, steps, parts, parts, width): row by row from the box's upper left corner.
    """
    batch, steps, rows, columns = states.shape[:4]
    if boxes is None:
        boxes = torch.tensor(WHOLE, device=states.device).expand(batch, steps, 4)
    elif boxes.dim() == 2:
        boxes = boxes[:, None].expand(batch, steps, 4)
    x1, y1, x2, y2 = boxes.unbind(-1)
    down = area_weights(y1, y2, rows, parts).to(states.dtype)  # (batch, steps, parts, rows)
    across = area_weights(x1, x2, columns, parts).to(states.dtype)
    return torch.einsum("btpr,btrcd,btqc->btpqd", down, states, across)

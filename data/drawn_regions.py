"""Regions of the drawn videos: a shape's box in each frame, and the words for that shape only."""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .moving_shapes import Subject, plan_clip

if TYPE_CHECKING:
    from datasets import Dataset

Tube = list[list[float] | None]
"""Of each frame (x1, y1, x2, y2) in shares of its width and height, or None if it does not show the thing."""


def tube_of(subject: Subject, num_frames: int) -> Tube:
    """The square of a shape's radius around its centre in each frame that shows it, cut off at the frame's edges."""
    tube: Tube = [None] * num_frames
    corners = np.stack([sign * subject.radius + place for sign in (-1, 1) for place in (subject.x, subject.y)], 1)
    for frame, box in zip(subject.frames, corners.clip(0, 1).tolist(), strict=True):
        tube[frame] = box
    return tube


def regions(dataset: "Dataset") -> "Dataset":
    """
    One row per shape of each drawn video, those of a video side by side, in the order in which they act: `video`,
    `caption` (the shape's own words), `boxes` (see `Tube`), `kind`, `id`. The tubes are planned again from the seed
    that the folder's settings tell.

    Args:
        dataset: a split of `moving_shapes`.

    Raises:
        ValueError: for rows of other videos.
    """
    from datasets import Dataset

    rows = []
    for clip in dataset.select_columns(["video", "id", "kind"]):
        seed, num_frames = _drawn_with(Path(clip["video"]).parents[1])
        split, index = clip["id"].rsplit("-", 1)
        for number, subject in enumerate(plan_clip(seed, split, int(index), num_frames)):
            rows.append(
                {
                    "id": f"{clip['id']}-{number}",
                    "video": clip["video"],
                    "kind": clip["kind"],
                    "caption": subject.clause,
                    "boxes": tube_of(subject, num_frames),
                }
            )
    return Dataset.from_list(rows)


@functools.lru_cache
def _drawn_with(folder: Path) -> tuple[int, int]:
    """The seed and the frames of a clip of a folder of drawn videos."""
    try:
        drawn = json.loads((folder / "settings.json").read_text())["drawn"]
        return drawn["seed"], drawn["num_frames"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} holds no drawn videos (`moving_shapes`), so nothing tells their boxes.") from error

"""Pictures of what a model saw and what it answered."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class AnsweredClip:
    """
    Attributes:
        frames: (frames, height, width, 3) uint8, what the model saw, in order.
        answers: for each question `question`, `answer`, `score` (0 to 1) and, where it is known, `truth`.
        title: a line above the frames.
    """

    frames: np.ndarray
    answers: Sequence[Mapping[str, Any]]
    title: str = ""


def draw_answers(path: str | os.PathLike, clips: Sequence[AnsweredClip]) -> Path:
    """A PNG of the clips, one below the other: the frames of each over the questions, answers and scores."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [height for clip in clips for height in (2.4, 0.2 + 0.36 * len(clip.answers))]
    width = max(2.0 * max(len(clip.frames) for clip in clips), 8.0)
    picture = Figure(figsize=(width, sum(heights)), layout="constrained")
    FigureCanvasAgg(picture)
    parts = np.asarray(picture.subfigures(len(heights), 1, height_ratios=heights, squeeze=False))[:, 0].tolist()
    for clip, upper, lower in zip(clips, parts[::2], parts[1::2], strict=True):
        upper.suptitle(clip.title, fontsize=11)
        for number, axes in enumerate(upper.subplots(1, len(clip.frames), squeeze=False)[0]):
            axes.imshow(clip.frames[number], interpolation="nearest")
            axes.set_title(f"frame {number + 1} of {len(clip.frames)}", fontsize=8)
            axes.set_axis_off()
        _write_answers(lower.subplots(), clip.answers)

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.png")
    picture.savefig(partial, dpi=120)
    partial.replace(path)
    return path


def _write_answers(axes, answers: Sequence[Mapping[str, Any]]) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(answers), 0)
    for row, answer in enumerate(answers):
        truth = answer.get("truth")
        right = truth is None or truth == answer["answer"]
        said = answer["answer"] if right else f"{answer['answer']} (it is: {truth})"
        axes.text(0.02, row + 0.5, answer["question"], va="center", fontsize=10)
        axes.text(
            0.45, row + 0.5, said, va="center", fontsize=10, weight="bold", color="black" if right else "crimson"
        )
        axes.barh(row + 0.5, 0.15 * answer["score"], left=0.75, height=0.45, color="rebeccapurple")
        axes.text(0.92, row + 0.5, f"{answer['score']:.0%}", va="center", fontsize=9)

"""Pictures of what a model saw and what it answered."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def draw_answers(
    path: str | os.PathLike, frames: np.ndarray, answers: Sequence[dict[str, Any]], title: str = ""
) -> Path:
    """
    A PNG of the frames that a model saw, in order, over its answers.

    Args:
        path: where to write it.
        frames: (frames, height, width, 3) uint8.
        answers: for each question `question`, `answer`, `score` (0 to 1) and, where it is known, `truth`.
        title: a line above the frames.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(frames)
    picture = Figure(figsize=(max(2.2 * count, 8), 2.9 + 0.42 * len(answers)), layout="constrained")
    FigureCanvasAgg(picture)
    upper, lower = picture.subfigures(2, 1, height_ratios=[2.6, 0.3 + 0.42 * len(answers)])
    upper.suptitle(title, fontsize=11)
    for number, axes in enumerate(np.atleast_1d(upper.subplots(1, count))):
        axes.imshow(frames[number], interpolation="nearest")
        axes.set_title(f"frame {number + 1} of {count}", fontsize=8)
        axes.set_axis_off()

    axes = lower.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(answers), 0)
    for row, answer in enumerate(answers):
        truth = answer.get("truth")
        right = truth is None or truth == answer["answer"]
        said = answer["answer"] if right else f"{answer['answer']} (it is: {truth})"
        axes.text(0.01, row + 0.5, answer["question"], va="center", fontsize=10)
        axes.text(0.5, row + 0.5, said, va="center", fontsize=10, weight="bold", color="black" if right else "crimson")
        axes.barh(row + 0.5, 0.15 * answer["score"], left=0.76, height=0.4, color="rebeccapurple")
        axes.text(0.93, row + 0.5, f"{answer['score']:.0%}", va="center", fontsize=9)

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.png")
    picture.savefig(partial, dpi=130)
    partial.replace(path)
    return path

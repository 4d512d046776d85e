"""Pictures of what a model saw and what it answered."""

import io
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
        answers: for each question `question`, `answer`, `score` (0 to 1) and, if it is known, `truth`.
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

    return _save(picture, path)


def film_strip(frames: np.ndarray, height: int = 120, most: int = 6) -> bytes:
    """
    A JPEG of a clip's frames side by side, evenly chosen if there are more than `most`.

    Args:
        frames: (frames, height, width, 3) uint8.
        height: of the strip in pixels.
    """
    from PIL import Image

    chosen = frames[np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int)]
    width = max(1, round(height * chosen.shape[2] / chosen.shape[1]))
    strip = Image.new("RGB", ((width + 4) * len(chosen) - 4, height), "white")
    for number, frame in enumerate(chosen):
        strip.paste(
            Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC), ((width + 4) * number, 0)
        )
    written = io.BytesIO()
    strip.save(written, "JPEG", quality=85)
    return written.getvalue()


def _save(picture, path: str | os.PathLike) -> Path:
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


def draw_growth(
    path: str | os.PathLike, axes_of: Mapping[str, tuple[Sequence[float], Sequence[float], float]]
) -> Path:
    """
    A PNG of how times grow, both scales logarithmic.

    Args:
        axes_of: by what grows: sizes, the seconds of each, and the exponent that was fitted.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots()
    for name, (sizes, seconds, power) in axes_of.items():
        relative = [[value / values[0] for value in values] for values in (sizes, seconds)]
        axes.loglog(*relative, marker="o", linewidth=1.2, label=f"{name}: {power:.2f}")
    axes.set_xlabel("size, of the smallest")
    axes.set_ylabel("time, of the smallest")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, title="exponents", title_fontsize=8)
    return _save(picture, path)


def draw_curves(path: str | os.PathLike, lines: Sequence[Mapping[str, float]]) -> Path:
    """
    A PNG of a run's log, one panel per quantity: its course in training, and on each validation set (`DATASET/NAME`).

    Args:
        lines: each with its `step` and any values by name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in lines:
        for name, value in line.items():
            dataset, _, quantity = name.rpartition("/")
            if name != "step":
                curves = panels.setdefault(quantity, {})
                curves.setdefault(dataset or "training", []).append((line["step"], value))
    columns = min(4, max(1, len(panels)))
    rows = -(-len(panels) // columns)
    picture = Figure(figsize=(4.2 * columns, 2.8 * max(rows, 1)), layout="constrained")
    FigureCanvasAgg(picture)
    for axes, (quantity, curves) in zip(
        picture.subplots(rows, columns, squeeze=False).flat, panels.items(), strict=False
    ):
        for label, points in curves.items():
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2)
        axes.set_title(quantity, fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    for axes in picture.axes[len(panels) :]:
        axes.set_axis_off()
    return _save(picture, path)


@dataclass
class PictureRow:
    """
    Attributes:
        label: stands in front of the row.
        left, right: one picture per frame, (height, width, 3) with values of 0 to 1; as many on both sides, or none.
        notes: a line above the left side, and one above the right.
    """

    label: str
    left: Sequence[np.ndarray]
    right: Sequence[np.ndarray]
    notes: tuple[str, str] = ("", "")


@dataclass
class MaskedClip:
    """
    One clip under one mask.

    Attributes:
        title: names the clip and the mask.
        rows: from top to bottom.
        lines: what was said about it, below the title.
    """

    title: str
    rows: Sequence[PictureRow]
    lines: Sequence[str] = ()


def draw_masking(path: str | os.PathLike, clips: Sequence[MaskedClip]) -> Path:
    """A PNG of the clips, one below the other: a row of frames for what is shown, its left beside its right side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    side, label, head, line = 1.35, 1.9, 0.6, 0.26  # inches
    columns = max(len(row.left) for clip in clips for row in clip.rows)
    heights = [head + line * len(clip.lines) + (side + line) * len(clip.rows) for clip in clips]
    width, height = label + (2 * columns + 0.3) * side, sum(heights) + line
    picture = Figure(figsize=(width, height))
    FigureCanvasAgg(picture)
    top = height
    for clip in clips:
        picture.text(0.1 / width, (top - 0.35) / height, clip.title, fontsize=13, weight="bold", va="center")
        top -= head
        for text in clip.lines:
            picture.text(0.1 / width, (top - line / 2) / height, text, fontsize=10.5, va="center")
            top -= line
        for row in clip.rows:
            middle = (top - line - side / 2) / height
            picture.text(0.1 / width, middle, row.label, fontsize=10.5, va="center", linespacing=1.4)
            beside = label + (columns + 0.3) * side
            for start, frames, note in ((label, row.left, row.notes[0]), (beside, row.right, row.notes[1])):
                picture.text(start / width, (top - 0.6 * line) / height, note, fontsize=9.5, va="center")
                for number, frame in enumerate(frames):
                    place = (start + number * side, top - line - side, 0.95 * side, 0.95 * side)
                    axes = picture.add_axes((place[0] / width, place[1] / height, place[2] / width, place[3] / height))
                    axes.imshow(np.clip(frame, 0, 1), interpolation="nearest")
                    axes.set_axis_off()
            top -= side + line
    return _save(picture, path)


@dataclass
class FlowPicture:
    """
    The flow between a clip and its caption. Where it comes from is told as a multiple of what uniform attention gives.

    Attributes:
        title: names the clip.
        frames: (frames, height, width, 3) of 0 to 1.
        patches: (frames, rows, columns), how much of each patch is in the text's states.
        hidden: (frames, rows, columns), True where a patch was hidden.
        words: the text's tokens.
        of_words: (words,), how much of each is in the states of the video.
        layers: of each layer, over uniform attention, by direction.
        lines: what is said below the title.
    """

    title: str
    frames: np.ndarray
    patches: np.ndarray
    hidden: np.ndarray
    words: Sequence[str]
    of_words: np.ndarray
    layers: Mapping[str, Sequence[float]]
    lines: Sequence[str] = ()


def draw_flow(path: str | os.PathLike, clips: Sequence[FlowPicture]) -> Path:
    """
    A PNG of the clips, one below the other: the frames, the same under the flow from each patch into the text (hidden
    patches have a frame), the flow from each word into the video, and both directions layer by layer. All colours of a
    picture mean the same.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(clip.frames) for clip in clips)
    side, charts = 1.6, 5.2  # inches
    heights = [2 * side + 0.75 + 0.24 * len(clip.lines) for clip in clips]
    picture = Figure(figsize=(columns * side + 0.9 + charts, sum(heights)), layout="constrained")
    FigureCanvasAgg(picture)
    most = max(2.0, *(float(clip.patches.max()) for clip in clips))
    parts = np.asarray(picture.subfigures(len(clips), 1, height_ratios=heights, squeeze=False))[:, 0].tolist()
    for clip, part in zip(clips, parts, strict=True):
        part.suptitle("\n".join([clip.title, *clip.lines]), fontsize=10, x=0.01, ha="left")
        left, right = part.subfigures(1, 2, width_ratios=[columns * side + 0.9, charts])
        _draw_sources(left.subplots(2, columns, squeeze=False), left, clip, most)
        words, layers = right.subplots(1, 2, width_ratios=[1, 1.1])
        _draw_layers(words, layers, clip)
    return _save(picture, path)


def _draw_sources(grid: Any, part: Any, clip: FlowPicture, most: float) -> None:
    from matplotlib.patches import Rectangle

    height, width = clip.frames.shape[1:3]
    tall, wide = height / clip.patches.shape[1], width / clip.patches.shape[2]
    for axes in grid.flat:
        axes.set_axis_off()
    for number, frame in enumerate(clip.frames):
        grid[0, number].imshow(frame, interpolation="nearest")
        grid[0, number].set_title(f"frame {number + 1}", fontsize=8)
        grid[1, number].imshow(frame.mean(-1), cmap="gray", vmin=0, vmax=1.6, interpolation="nearest")
        heat = grid[1, number].imshow(
            clip.patches[number],
            cmap="magma",
            vmin=0,
            vmax=most,
            alpha=0.6,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="nearest",
        )
        for row, column in np.argwhere(clip.hidden[number]):
            corner = (column * wide - 0.5, row * tall - 0.5)
            grid[1, number].add_patch(Rectangle(corner, wide, tall, fill=False, edgecolor="cyan", linewidth=1.5))
    if clip.hidden.any():
        grid[1, 0].set_title("cyan: was hidden", fontsize=8, loc="left")
    bar = part.colorbar(heat, ax=list(grid[1]), fraction=0.04, pad=0.02)
    bar.set_label("in the text (1: uniform)", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _draw_layers(words: Any, layers: Any, clip: FlowPicture) -> None:
    places = np.arange(len(clip.words))
    words.barh(places, clip.of_words, color="teal")
    words.set_yticks(places, clip.words, fontsize=8)
    words.set_ylim(max(len(clip.words), 12) - 0.5, -0.5)
    words.axvline(1, color="black", linewidth=0.8, linestyle=":")
    words.set_title("each word in the video (1: uniform)", fontsize=9)
    words.tick_params(axis="x", labelsize=8)
    for name, values in clip.layers.items():
        layers.plot(range(1, len(values) + 1), values, marker="o", markersize=4, label=name)
    layers.axhline(1, color="black", linewidth=0.8, linestyle=":")
    layers.set_xticks(range(1, max(map(len, clip.layers.values())) + 1))
    layers.set_ylim(bottom=0)
    layers.set_title("each layer (1: uniform)", fontsize=9)
    layers.set_xlabel("layer", fontsize=8)
    layers.tick_params(labelsize=8)
    layers.grid(alpha=0.3)
    layers.legend(fontsize=8, loc="lower left")


@dataclass
class ExpertPicture:
    """
    Who took the tokens of one layer.

    Attributes:
        title: names the layer.
        load: of each source of tokens, such as video and text: how many each expert took, (E,), and behind them how
            many nobody took, over the tokens that each expert would have if all had as many.
        lines: what is said below the title.
    """

    title: str
    load: Mapping[str, np.ndarray]
    lines: Sequence[str] = ()


def draw_experts(path: str | os.PathLike, layers: Sequence[ExpertPicture]) -> Path:
    """A PNG, a panel for each layer: a bar for each expert, in parts by the source of its tokens, and for nobody."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(layers))
    rows = -(-len(layers) // columns)
    most = max(sum(layer.load.values()).max() for layer in layers)  # type: ignore[union-attr]
    picture = Figure(figsize=(5.0 * columns, 0.4 + 3.6 * rows), layout="constrained")
    FigureCanvasAgg(picture)
    for axes, layer in zip(picture.subplots(rows, columns, squeeze=False).flat, layers, strict=False):
        count = len(next(iter(layer.load.values())))
        names, bottom = [*map(str, range(1, count)), "nobody"], np.zeros(count)
        for (source, values), colour in zip(
            layer.load.items(), ("#4477aa", "#ee6677", "#228833", "#ccbb44"), strict=False
        ):
            axes.bar(range(count), values, bottom=bottom, label=source, color=colour, width=0.8)
            bottom += values
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.axvline(count - 1.5, color="grey", linewidth=0.8)
        axes.set_xticks(range(count), names, fontsize=8)
        axes.set_xlabel("expert", fontsize=8)
        axes.set_ylabel("tokens (1: as many for each)", fontsize=8)
        axes.set_ylim(0, 1.15 * max(most, 1))
        axes.set_title("\n".join([layer.title, *layer.lines]), fontsize=9)
        axes.tick_params(axis="y", labelsize=8)
        axes.legend(fontsize=8, loc="upper right", ncols=4)
    for axes in picture.axes[len(layers) :]:
        axes.set_axis_off()
    return _save(picture, path)

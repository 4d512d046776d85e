"""Clips to load: a folder's mp4 files, or drawn ones of the size that clips of the web have."""

from pathlib import Path

import numpy as np

from ..data.moving_shapes import encode_clip

COUNT, FRAMES, FEW_FRAMES, HEIGHT, WIDTH = 8, 250, 80, 240, 320


def real_or_drawn(folder: str | None, output: Path, quick: bool = False) -> tuple[str, ...]:
    """
    The mp4 files of a folder; without one, drawn clips of ten seconds, 320 x 240, of a texture that moves;
    quickly done, of three seconds.

    Raises:
        ValueError: for a folder without mp4 files.
    """
    if folder is not None:
        found = tuple(sorted(str(path) for path in Path(folder).glob("*.mp4")))
        if not found:
            raise ValueError(f"{folder} has no mp4 files.")
        return found
    made, length = [], FEW_FRAMES if quick else FRAMES
    for number in range(COUNT):
        texture = np.random.default_rng(number).integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        picture = np.kron(texture, np.ones((8, 8, 1), dtype=np.uint8))
        frames = np.stack([np.roll(picture, (step, 2 * step), axis=(0, 1)) for step in range(length)])
        path = output / f"clip{number}.mp4"
        encode_clip(frames, path)
        made.append(str(path))
    return tuple(made)

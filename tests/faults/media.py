"""Small clips in six containers for the campaign, made with PyAV, and ways to spoil a file."""

import random
from pathlib import Path

import numpy as np
from campaign import inputs

FRAMES, RATE, HEIGHT, WIDTH = 48, 25, 48, 64
CONTAINERS = {
    "mp4": ("libx264", "yuv420p"),
    "avi": ("mpeg4", "yuv420p"),
    "webm": ("libvpx", "yuv420p"),
    "mkv": ("libx264", "yuv420p"),
    "ts": ("mpeg2video", "yuv420p"),
    "mov": ("mjpeg", "yuvj420p"),
}


def clips() -> dict[str, Path]:
    """A clip of `FRAMES` frames in each container."""
    folder = inputs("media", _make)
    return {kind: folder / f"whole.{kind}" for kind in CONTAINERS}


def _make(folder: Path) -> None:
    import av

    blocks = np.random.default_rng(1).integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    for kind, (codec, pixels) in CONTAINERS.items():
        with av.open(str(folder / f"whole.{kind}"), "w") as output:
            stream = output.add_stream(codec, rate=RATE, options={"g": "12"})
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pixels
            for number in range(FRAMES):
                moved = np.roll(picture, 3 * number, axis=1) ^ np.uint8(number)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
            output.mux(stream.encode())


def spoil(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """(what was done, the file with damage in one to four places)"""
    data, done = bytearray(content), []
    for _ in range(chance.choice((1, 1, 2, 4))):
        way = chance.choice(("flip", "head", "zero", "noise", "cut", "double", "drop", "swap"))
        place, length = chance.randrange(len(data)), chance.choice((1, 4, 16, 188, 400))
        end = min(len(data), place + length)
        if way == "flip":
            data[place] ^= 1 << chance.randrange(8)
        elif way == "head":  # where the tables are: at the beginning, or at the end
            place = chance.choice((place % 1000, max(0, len(data) - 1 - place % 1500))) % len(data)
            data[place] = chance.choice((0, 1, 255, chance.randrange(256)))
        elif way == "zero":
            data[place:end] = bytes(end - place)
        elif way == "noise":
            data[place:end] = chance.randbytes(end - place)
        elif way == "cut":
            del data[max(1, place) :]
        elif way == "double":
            data[place:place] = data[place:end]
        elif way == "drop":
            del data[place:end]
        else:
            other = chance.randrange(len(data))
            data[place:end] = data[other : other + end - place].ljust(end - place, b"\0")
        done.append(f"{way} at {place}")
        if len(data) < 2:
            break
    return ", ".join(done), bytes(data)

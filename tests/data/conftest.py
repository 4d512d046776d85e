"""Small files in the original code's forms, written as plainly as can be."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def picture():
    """A tone -> the JPEG of a small picture."""
    return make_picture


@pytest.fixture(scope="session")
def write_tsv():
    return write


def make_picture(tone: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 12), (tone, 2 * tone, 0)).save(file, "JPEG")
    return file.getvalue()


def write(path: Path, rows: list[list[bytes | str]], index: bool = True) -> Path:
    """Rows of an id and frames: bytes are written as base64, text as it is."""
    lines = [
        b"\t".join(base64.b64encode(cell) if isinstance(cell, bytes) else cell.encode() for cell in row) + b"\n"
        for row in rows
    ]
    path.write_bytes(b"".join(lines))
    if index:
        starts = np.cumsum([0, *map(len, lines)])[:-1]
        path.with_suffix(".lineidx").write_text("".join(f"{start}\n" for start in starts))
    return path


@pytest.fixture
def tsv(tmp_path) -> Path:
    rows = [["a", make_picture(10), make_picture(20)], ["b", make_picture(30)], ["c#1", make_picture(40)]]
    return write(tmp_path / "clips.tsv", rows)


@pytest.fixture
def original(shared_folder) -> Path:
    return shared_folder / "data" / "original"

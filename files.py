"""Outputs that are whole or absent: everything that the package writes goes through here."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import torch

MANIFEST = "manifest.json"


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Writes a file under a temporary name, flushes it and renames it: a reader sees the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return path


def write_json(path: str | os.PathLike, value: Any) -> Path:
    """`write_text` of indented JSON; NaN and infinity are refused, since other readers refuse them."""
    return write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_tensors(
    path: str | os.PathLike, tensors: "Mapping[str, torch.Tensor]", metadata: Mapping[str, str] | None = None
) -> Path:
    """The like for a safetensors file."""
    from safetensors.torch import save_file

    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    save_file(dict(tensors), partial, None if metadata is None else dict(metadata))
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    return path


@contextmanager
def new_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write, `.NAME.partial`, which becomes `path`, or replaces it, when the block ends without error."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """
    A folder to fill, `.NAME.partial`, which becomes `path` when the block ends without an error. What a killed process
    left of it is replaced.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    yield partial
    _flush(partial)
    partial.rename(path)


def save_into(folder: str | os.PathLike, write: Callable[[Path], Any]) -> None:
    """
    Lets `write` fill a temporary folder and then moves each of its files into `folder`, over those of the same name:
    a process killed meanwhile leaves every file whole.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".partial"
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    write(partial)
    _flush(partial)
    for file in sorted(partial.iterdir()):
        file.replace(folder / file.name)
    partial.rmdir()


def seal(folder: str | os.PathLike) -> None:
    """Writes the manifest of a filled folder, sizes and sha256, last: a folder without one was not finished."""
    folder = Path(folder)
    _flush(folder)
    write_json(folder / MANIFEST, _listing(folder))


def is_whole(folder: str | os.PathLike) -> bool:
    """Whether a sealed folder still holds exactly what its manifest says."""
    folder = Path(folder)
    try:
        expected = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return expected == _listing(folder)


def _listing(folder: Path) -> dict[str, dict[str, Any]]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != MANIFEST)
    return {str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}


def sha256(path: str | os.PathLike) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())

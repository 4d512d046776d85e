"""Outputs that are whole or absent: everything that the package writes goes through here."""

import ctypes
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PARTIAL = ".partial"
"""In a folder: what is being written into it."""
MOST_JSON_BYTES = 2**26
"""A manifest, configuration or index that is larger is refused: it is no such thing."""


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Writes a file under a temporary name, flushes it and renames it: a reader sees the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def read_json(path: str | os.PathLike, most_bytes: int = MOST_JSON_BYTES) -> Any:
    """
    What a small JSON file holds: a manifest, a configuration, an index.

    Raises:
        ValueError: it is no JSON, nested too deeply, or has more than `most_bytes`.
        OSError: it cannot be read.
    """
    size = os.stat(path).st_size
    if size > most_bytes:
        raise ValueError(f"{path} has {size} bytes; at most {most_bytes} are read")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path}: its JSON is nested too deeply") from error


def write_json(path: str | os.PathLike, value: Any) -> Path:
    """`write_text` of indented JSON; NaN and infinity are refused, since other readers refuse them."""
    return write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_tensors(
    path: str | os.PathLike, tensors: "Mapping[str, torch.Tensor]", metadata: Mapping[str, str] | None = None
) -> Path:
    """Writes a safetensors file: whole, or not at all."""
    from safetensors.torch import save_file

    path = Path(path)
    with _replacing(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(dict(tensors), partial, None if metadata is None else dict(metadata))
        partial.chmod(mode)  # safetensors lets only its owner read it
    return path


@contextmanager
def new_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write, `.NAME.partial`, which becomes `path`, or replaces it, when the block ends without error."""
    with _replacing(Path(path)) as partial, open(partial, "wb") as file:
        yield file


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A name to write under; that file takes `path`'s place when the block ends, and is deleted if it fails."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            partial.unlink()
        raise
    _sync(path.parent)


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """
    A folder to fill, `.NAME.partial`, which becomes `path` when the block ends without an error, and is deleted if it
    fails. What a killed process left of it is replaced.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True)
        yield partial
        _flush(partial)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # the first error is the one to tell
        raise
    _sync(path.parent)


def save_into(folder: str | os.PathLike, write: Callable[[Path], Any]) -> None:
    """
    Lets `write` fill a temporary folder and then puts its files into `folder`, over those of the same name and all at
    once: a process killed meanwhile leaves the older files or the new ones. The older shards and index of
    weights that are written now go, and other files stay.

    For that a second folder is made, of the new files and hard links to the older ones, and the two exchange their
    names. If that cannot be (a mounted folder, the working directory, a system other than Linux) files are moved
    one by one: each of them is whole, but a process killed between two of them leaves both kinds.

    Raises:
        OSError: the files cannot be written. If only the older ones cannot be deleted, the log says so.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / PARTIAL
    if partial.exists():
        shutil.rmtree(partial)
    try:
        partial.mkdir()
        write(partial)
        _put_into(folder, partial)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)  # the first error is the one to tell
        if number := re.search(r"\(os error (\d+)\)", str(error)):  # so say libraries in Rust, by errors of their own
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from error
        raise
    for changed in (folder, folder.parent):
        _sync(changed)


def _put_into(folder: Path, partial: Path) -> None:
    """The second half of `save_into`: the files of `partial` take their places in the folder, and `partial` goes."""
    files = sorted(file.relative_to(partial) for file in partial.rglob("*") if file.is_file())
    mode = partial.stat().st_mode & 0o666
    for file in files:  # only their owner can read those of safetensors
        (partial / file).chmod(mode)
    _flush(partial)
    weights = {_weights_of(file) for file in files}
    older = {file.relative_to(folder) for file in folder.glob("*.safetensors*")}
    stale = {file for file in older.difference(files) if _weights_of(file) in weights}
    replaces = bool(stale) or any((folder / file).exists() for file in files)
    if not (replaces and _exchanged(folder, partial, files, stale)):
        files.sort(key=lambda file: file.name == "config.json")  # without it there is no checkpoint yet
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (partial / file).replace(folder / file)
        for file in stale:
            (folder / file).unlink()
        delete_or_tell(partial)


def delete_or_tell(folder: Path) -> None:
    """Deletes a folder that nothing reads; if it cannot be, the log says so."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        logger.warning("%s could not be deleted (%s): nothing reads it, delete it yourself.", folder, error)


def _weights_of(file: Path) -> str:
    """`model.safetensors` for itself, its shards and their index; another file's own path."""
    index = re.fullmatch(r"(.+)\.safetensors\.index(\..+)?\.json", str(file))
    if index:
        return f"{index[1]}{index[2] or ''}.safetensors"
    return re.sub(r"-\d{5}-of-\d{5}\.safetensors$", ".safetensors", str(file))


def _exchanged(folder: Path, partial: Path, files: Sequence[Path], stale: set[Path]) -> bool:
    """Whether a folder of `partial`'s files and this one's others, but the stale ones, has taken this one's place."""
    successor = folder.with_name(f".{folder.name}.partial")
    left_out = {folder / file for file in stale.union(files)} | {partial}

    def passed_over(where: str, names: list[str]) -> set[str]:
        return {name for name in names if Path(where) / name in left_out}

    try:
        if Path.cwd().is_relative_to(folder):
            return False
        if successor.exists():
            shutil.rmtree(successor)
        shutil.copytree(folder, successor, symlinks=True, ignore=passed_over, copy_function=os.link)
        for file in files:
            (successor / file).parent.mkdir(parents=True, exist_ok=True)
            os.link(partial / file, successor / file)
        _exchange(folder, successor)
    except OSError as error:
        shutil.rmtree(successor, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):  # moving files would fail half way
            raise
        return False
    # `successor` is the name of the older folder now. What somebody wrote into it meanwhile is no part of it.
    for path in successor.rglob("*"):
        file = path.relative_to(successor)
        if path.is_file() and file not in stale and PARTIAL not in file.parts and not (folder / file).exists():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            path.replace(folder / file)
    delete_or_tell(successor)
    return True


def _exchange(one: Path, other: Path) -> None:
    """
    Gives two folders each other's name, in one step.

    Raises:
        OSError: if the system or the file system cannot.
    """
    exchange = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if exchange is None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    at_cwd, rename_exchange = -100, 2
    if exchange(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), ctypes.c_uint(rename_exchange)) != 0:
        raise OSError(errno.ENOTSUP, f"{one} and {other} cannot be exchanged")


def put_folder(partial: Path, folder: Path) -> None:
    """Gives a filled folder its name; an older folder of that name then has the name of the new one."""
    if folder.exists():
        try:
            _exchange(partial, folder)
        except OSError:
            aside = partial.with_name(f"{partial.name}.new")
            partial.rename(aside)
            folder.rename(partial)
            aside.rename(folder)
    else:
        partial.rename(folder)
    _sync(folder.parent)


def seal(folder: str | os.PathLike) -> None:
    """
    Writes the manifest of a filled folder last: the size and sha256 of each file, and a sum of its own. A folder
    without one was not finished.
    """
    folder = Path(folder)
    _flush(folder)
    write_text(folder / MANIFEST, _text(_with_own(_listing(folder))))


def is_whole(folder: str | os.PathLike) -> bool:
    """Whether a sealed folder still holds exactly what its manifest says."""
    return find_damage(folder) is None


def find_damage(folder: str | os.PathLike) -> str | None:
    """What a sealed folder does not hold as its manifest says, by file; None if it is whole."""
    folder = Path(folder)
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        found = _listing(folder)
        if text in (_text(_with_own(found)), _text(found)):  # the latter before manifests had a sum of their own
            return None
        expected = json.loads(text)
        own = expected.pop(MANIFEST)
    except FileNotFoundError:
        return f"{MANIFEST} is missing, which is written last"
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"{MANIFEST} is damaged"
    for name in sorted({*expected, *found}) if _with_own(expected)[MANIFEST] == own else ():
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is not in {MANIFEST}"
        if expected[name] != found[name]:
            return _difference(name, expected[name], found[name])
    return f"{MANIFEST} is damaged"


def _difference(name: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    if expected["bytes"] != found["bytes"]:
        return f"{name} has {found['bytes']} bytes, and {expected['bytes']} in {MANIFEST}"
    return f"{name} has other content than {MANIFEST} says (sha256)"


def _text(listing: Mapping[str, Any]) -> str:
    return json.dumps(listing, indent=2) + "\n"


def _with_own(listing: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest's content: what it lists, and the sum of that, so that its own damage is known as such."""
    return {**listing, MANIFEST: {"sha256": hashlib.sha256(_text(listing).encode()).hexdigest()}}


def _listing(folder: Path) -> dict[str, dict[str, Any]]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != MANIFEST)
    return {str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}


def sha256(path: str | os.PathLike) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        if path.is_file() or path.is_dir():
            _sync(path)


def _sync(path: Path) -> None:
    """Waits until a file's content, or a folder's names, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if not (
            path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)
        ):  # a file system that has no such thing
            raise
    finally:
        os.close(number)

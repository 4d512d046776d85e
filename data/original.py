"""Readers for the files of the original VIOLET code: pictures in a TSV, captions in a JSON, tokens in a pickle.

    >>> TsvVideos("msrvtt.tsv").read("video7010")  # the JPEG files of its frames
    >>> rows = original_captions("msrvtt.tsv", "txt_msrvtt-retrieval.json", "train")
    >>> decode_video(read_video(rows[0]["video"]))

Nothing is written or converted, and nothing in a file is run.
"""

import base64
import binascii
import functools
import io
import json
import logging
import os
import pickle
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, overload

import numpy as np

from .tables import TableError

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

logger = logging.getLogger(__name__)


class TsvVideos(Sequence):
    """The videos or images of a `.tsv`: a line is an id and the base64 of its JPEG frames, between tabs.

    The `.lineidx` beside it holds the byte at which each line starts; where it is absent, one scan of the file finds
    out. After that a row is read by itself. Each process opens the file when it first reads, so that an object may be
    pickled, or used after a fork.

    Raises:
        TableError: for a file that is absent or empty, or a `.lineidx` that is none or belongs to another file.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).absolute()
        if self.path.suffix != ".tsv":
            raise TableError(f"{self.path}: a .tsv file is needed.")
        if not self.path.is_file():
            raise TableError(f"{self.path}: there is no such file.")
        self._bytes = self.path.stat().st_size
        self._opened: tuple[int, BinaryIO, threading.Lock] | None = None
        index = self.path.with_suffix(".lineidx")
        self._starts = self._read_index(index) if index.is_file() else self._scan(index)
        if not len(self._starts):
            raise TableError(f"{self.path}: the file has no lines.")
        self._read_line(len(self._starts) - 1)

    def _read_index(self, index: Path) -> np.ndarray:
        starts, before = [], -1
        with open(index, encoding="ascii", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                text = line.strip()
                if not text.isdigit() or not before < int(text) < self._bytes:
                    raise TableError(
                        f"{index}, line {number}: {text[:40]!r} is no place after {max(before, 0)} in "
                        f"{self.path.name}, which has {self._bytes} bytes. Delete the .lineidx to do without it."
                    )
                before = int(text)
                starts.append(before)
        if starts and starts[0] != 0:
            raise TableError(f"{index}, line 1: the first line of {self.path.name} starts at byte 0, not {starts[0]}.")
        return np.array(starts, np.int64)

    def _scan(self, index: Path) -> np.ndarray:
        logger.warning("%s is absent: reading all of %s once to find its lines.", index, self.path)
        starts, place = [], 0
        with open(self.path, "rb") as file:
            for line in file:
                starts.append(place)
                place += len(line)
        return np.array(starts, np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    @functools.cached_property
    def ids(self) -> list[str]:
        """The id of each row. The first use reads the beginning of every line."""
        return [self._read_id(row) for row in range(len(self))]

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        rows = {name: row for row, name in reversed(list(enumerate(self.ids)))}
        if len(rows) < len(self):
            logger.warning("%s: %d lines repeat an id; the first counts.", self.path, len(self) - len(rows))
        return rows

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    @overload
    def __getitem__(self, row: int) -> list[bytes]: ...
    @overload
    def __getitem__(self, row: slice) -> list[list[bytes]]: ...
    def __getitem__(self, row):
        if isinstance(row, slice):
            return [self.read(i) for i in range(*row.indices(len(self)))]
        return self.read(row)

    def read(self, row: int | str) -> list[bytes]:
        """The encoded frames, as a rule JPEG, of a row, given by its number from 0 or its id.

        Raises:
            TableError: if there is no such id, or the line holds no frames or no base64.
            IndexError: if there is no such row.
        """
        if isinstance(row, str):
            if row not in self._rows:
                raise TableError(
                    f"{self.path}: no line has the id {row!r}; the first of {len(self)} is {self.ids[0]!r}."
                )
            row = self._rows[row]
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.path}: there is no row {row}; the rows are 0 to {len(self) - 1}.")
        row %= len(self)
        name, *columns = self._read_line(row).split(b"\t")
        place = f"{self.path}, line {row + 1} (id {_text(name)!r})"
        if not any(columns):
            raise TableError(f"{place}: no frame columns; an id, a tab and base64 pictures between tabs are needed.")
        frames = []
        for number, column in enumerate(columns, start=1):
            try:
                frames.append(base64.b64decode(column, validate=True))
            except binascii.Error as error:
                raise TableError(f"{place}, frame {number}: bad base64 ({error}): {_text(column[:20])!r}…") from error
            if not column:
                raise TableError(f"{place}, frame {number}: the column is empty.")
        return frames

    def _read_line(self, row: int) -> bytes:
        """A line without its end, checked to be one whole line."""
        start, end = self._span(row)
        line = self._read_bytes(start, end - start)
        place = f"{self.path.with_suffix('.lineidx')}, line {row + 1}"
        advice = "Delete the .lineidx to do without it, or make it again."
        if start and self._read_bytes(start - 1, 1) != b"\n":
            raise TableError(f"{place}: no line of {self.path.name} starts at byte {start}. {advice}")
        if start + len(line) < end:
            after = f"of {self.path.name} a line starts at byte {start + len(line)}"
            raise TableError(f"{place}: an entry is missing after it: {after}. {advice}")
        return line.rstrip(b"\r\n")

    def _read_id(self, row: int) -> str:
        start, end = self._span(row)
        begin = self._read_bytes(start, min(256, end - start))
        if b"\t" not in begin:
            begin = self._read_line(row)
        return _text(begin.split(b"\t", 1)[0])

    def _span(self, row: int) -> tuple[int, int]:
        end = self._starts[row + 1] if row + 1 < len(self) else self._bytes
        return int(self._starts[row]), int(end)

    def _read_bytes(self, start: int, most: int) -> bytes:
        """From byte `start` to the end of its line, or `most` bytes."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), open(self.path, "rb"), threading.Lock()  # noqa: SIM115
        _, file, lock = self._opened
        with lock:
            file.seek(start)
            return file.readline(most)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __repr__(self) -> str:
        return f"TsvVideos({str(self.path)!r})"


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


class UnsafePickleError(ValueError):
    """A pickle that asks for more than arrays and plain containers; nothing of it was run."""


def read_pickle(path: str | os.PathLike) -> Any:
    """What a pickle holds, if that is made of numpy arrays of numbers or text, numpy scalars and dtypes, str, bytes,
    int, float, bool, None, list, tuple and dict alone; unlike `pickle.load` it can run nothing.

    Raises:
        UnsafePickleError: if the pickle asks for anything else.
        TableError: if the file is absent, damaged or no pickle.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path}: there is no such file.")
    try:
        with open(path, "rb") as file:
            return _plain(_Unpickler(file).load(), {})
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path} {error}; only arrays and plain containers are read.") from None
    except RecursionError as error:
        raise TableError(f"{path}: its containers are nested too deeply.") from error
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as error:
        raise TableError(f"{path}: damaged, or no pickle ({error}).") from error


class _Dtype:
    """Stands in for `numpy.dtype` while a pickle is read: numpy's own takes any state for true, even a wrong size."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if not isinstance(code, str) or not re.fullmatch(r"[biuf][1248]|f16|c8|c16|[SU]\d+|\?", code):
            raise UnsafePickleError(f"holds an array of dtype {code!r}")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.value = self.value.newbyteorder(">" if state[1] == ">" else "<" if state[1] == "<" else "=")


class _Array:
    """Stands in for an array while a pickle is read: an array is first made empty and then told what it holds."""

    def __init__(self, value: np.ndarray | None = None):
        self.value = value

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, in_columns, data = state
        self.value = _array(data, dtype, shape, "F" if in_columns else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """numpy checks that the data suffice for the shape."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise UnsafePickleError("holds an array of Python objects")
    return np.ndarray(shape, dtype.value, buffer=data, order=order).copy(order=order)


def _latin1(text: str, encoding: str) -> bytes:
    """How the protocols before 3 write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"asks for the encoding {encoding!r}")
    return text.encode("latin-1")


class _Unpickler(pickle.Unpickler):
    """Knows the few names by which numpy 1 and 2 write arrays; each stands for something of this file."""

    def find_class(self, module: str, name: str) -> Any:
        # A function is made anew each time: a pickle can set attributes of what it gets.
        spelling = re.sub(r"^numpy\.core\.", "numpy._core.", module)  # numpy 1, numpy 2
        known: dict[tuple[str, str], Callable] = {
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
            ("numpy._core.multiarray", "_reconstruct"): lambda kind, shape, code: _Array(),
            ("numpy._core.multiarray", "scalar"): lambda dtype, data: _array(data, dtype, (), "C")[()],
            ("numpy._core.numeric", "_frombuffer"): lambda *contents: _Array(_array(*contents)),
            ("_codecs", "encode"): lambda text, encoding: _latin1(text, encoding),
            ("__builtin__", "bytes"): lambda: b"",
            ("builtins", "bytes"): lambda: b"",
        }
        try:
            return known[spelling, name]
        except KeyError:
            raise UnsafePickleError(f"asks for {module}.{name}") from None


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """`value` with its stand-ins replaced; `done` maps the id of a container to (the container, what became of it)."""
    if value is None or isinstance(value, str | bytes | int | float | np.generic):
        return value
    if isinstance(value, _Array | _Dtype):
        if value.value is None:
            raise UnsafePickleError("holds an array without content")
        return value.value
    if type(value) not in (list, tuple, dict):
        raise UnsafePickleError(f"holds an object of type {type(value).__name__}")
    if id(value) not in done:
        done[id(value)] = value, None
        if isinstance(value, dict):
            result: Any = {_plain(key, done): _plain(content, done) for key, content in value.items()}
        else:
            result = type(value)(_plain(item, done) for item in value)
        done[id(value)] = value, result
    elif done[id(value)][1] is None:
        raise UnsafePickleError("holds a container that is inside itself")
    return done[id(value)][1]


def read_captions(path: str | os.PathLike, split: str) -> list[tuple[str, str]]:
    """(id, caption) pairs of a split, from either layout: `{split: {id: [caption, …]}}`, a pair a caption, or
    `{split: [{"video": id, "caption": …}]}`.

    Raises:
        TableError: if the file is absent, no JSON or of another layout, or lacks the split.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path}: there is no such file.")
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TableError(f"{path}: not JSON ({error}).") from error
    if not isinstance(splits, dict):
        raise TableError(f"{path}: an object with splits is needed, not {type(splits).__name__}.")
    if split not in splits:
        raise TableError(f"{path}: there is no split {split!r}; it has {', '.join(splits) or 'none'}.")
    content = splits[split]
    if isinstance(content, dict):
        pairs = []
        for name, captions in content.items():
            captions = [captions] if isinstance(captions, str) else captions
            if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
                found = json.dumps(captions)[:60]
                raise TableError(f"{path}, split {split!r}, id {name!r}: a list of captions is needed, not {found}.")
            pairs += [(name, caption) for caption in captions]
        return pairs
    if not isinstance(content, list):
        raise TableError(f"{path}, split {split!r}: a list or an object is needed, not {type(content).__name__}.")
    for number, row in enumerate(content):
        place = f"{path}, split {split!r}, item {number}"
        if not isinstance(row, dict):
            raise TableError(f"{place}: an object with 'video' and 'caption' is needed, not {type(row).__name__}.")
        for column in ("video", "caption"):
            if not isinstance(row.get(column), str):
                raise TableError(f"{place}: {column!r} is missing or no text (it has {', '.join(row)}).")
    return [(row["video"], row["caption"]) for row in content]


def original_captions(tsv: str | os.PathLike, captions_json: str | os.PathLike, split: str) -> "Dataset":
    """One row a caption whose pictures the TSV holds: `id`, `video`, `caption`; `video` is a text for `read_video`.

    Captions without pictures and pictures without captions are left out, with a warning that counts them.

    Raises:
        TableError: if a file cannot be used, or no caption of the split has pictures.
    """
    from datasets import Dataset

    videos = _videos(str(Path(tsv).absolute()))
    pairs = read_captions(captions_json, split)
    found = [(name, caption) for name, caption in pairs if name in videos]
    lost = [name for name, _ in pairs if name not in videos]
    if not found:
        raise TableError(
            f"{captions_json}, split {split!r}: none of its {len(pairs)} captions has pictures in {videos.path}: "
            f"ids are like {pairs[0][0]!r} here and {videos.ids[0]!r} there."
            if pairs
            else f"{captions_json}: the split {split!r} has no captions."
        )
    if lost:
        logger.warning(
            "%s, split %r: %d of %d captions have no pictures in %s; the first id is %r.",
            captions_json, split, len(lost), len(pairs), videos.path, lost[0],
        )  # fmt: skip
    captioned = {name for name, _ in pairs}
    silent = [name for name in videos.ids if name not in captioned]
    if silent:
        logger.warning(
            "%s: %d of %d have no caption in %s, split %r; the first id is %r.",
            videos.path, len(silent), len(videos), captions_json, split, silent[0],
        )  # fmt: skip
    return Dataset.from_list(
        [{"id": name, "video": f"{videos.path}#{name}", "caption": caption} for name, caption in found]
    )


def read_video(reference: str) -> "list[Image]":
    """The RGB frames behind `"{path of a .tsv}#{id}"`: what `decode_video` and the processor take as one clip.

    The TSV is opened once in each process.

    Raises:
        TableError: if the text is no such reference, or what it names is absent or damaged.
    """
    from PIL import Image

    path, mark, name = reference.partition(".tsv#")
    if not mark:
        raise TableError(f"{reference!r} is no reference: '{{path of a .tsv}}#{{id}}' is needed.")
    videos = _videos(path + ".tsv")
    frames = []
    for number, data in enumerate(videos.read(name), start=1):
        try:
            frames.append(Image.open(io.BytesIO(data)).convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise TableError(f"{reference}, frame {number}: no picture, or a damaged one ({error}).") from error
    return frames


@functools.lru_cache(maxsize=16)
def _videos(path: str) -> TsvVideos:
    return TsvVideos(path)

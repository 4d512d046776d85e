"""The original code's TSV files: one video or image per line, its frames as base64.

>>> TsvVideos("msrvtt.tsv").read("video7010")  # the JPEG files of its frames
"""

import array
import base64
import binascii
import functools
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from .name_index import NameIndex
from .tables import TableError

logger = logging.getLogger(__name__)


class TsvVideos(Sequence):
    """The videos or images of a `.tsv`: a line is an id and the base64 of its JPEG frames, between tabs.

    In VIOLETv2's files the column behind the id may hold something else, such as a label; the frames then start in the
    next one. A file is read so if its first and its last line both have a picture there, and none before it.

    The `.lineidx` beside it holds the byte at which each line starts; if it is absent, one scan of the file finds
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
        ends = self._read_bytes(0, self._bytes), self._read_line(len(self._starts) - 1)
        self._first_frame = 2 if all(_has_label(line) for line in ends) else 1

    def _read_index(self, index: Path) -> np.ndarray:
        starts, before = array.array("q"), -1
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
        starts, place = array.array("q"), 0
        with open(self.path, "rb") as file:
            for line in file:
                starts.append(place)
                place += len(line)
        return np.array(starts, np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def iterate_ids(self) -> Iterator[str]:
        """The id of each row, in order: the beginning of every line is read."""
        return map(self.read_id, range(len(self)))

    @property
    def ids(self) -> list[str]:
        """The id of each row, read again at each use."""
        return list(self.iterate_ids())

    @functools.cached_property
    def _names(self) -> NameIndex:
        names = NameIndex(self.iterate_ids())
        if names.repeated:
            logger.warning("%s: %d lines repeat an id; the first counts.", self.path, names.repeated)
        return names

    def find(self, name: str) -> int | None:
        """The number of the first row with this id; None if there is none. The first use reads all ids."""
        return next((row for row in self._names.candidates(name) if self.read_id(row) == name), None)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

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
            number = self.find(row)
            if number is None:
                raise TableError(
                    f"{self.path}: no line has the id {row!r}; the first of {len(self)} is {self.read_id(0)!r}."
                )
            row = number
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.path}: there is no row {row}; the rows are 0 to {len(self) - 1}.")
        row %= len(self)
        columns = self._read_line(row).split(b"\t")
        name, columns = columns[0], columns[self._first_frame :]
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
        if row == len(self) - 1 and self._read_bytes(self._bytes - 1, 1) != b"\n":
            whole = self._read_line(0).count(b"\t") + 1 - self._first_frame
            if len(frames) < whole:  # cut off between two frames, it looks like a line
                raise TableError(
                    f"{place}: the file ends in this line, after {len(frames)} frames of {whole}: was it cut off? "
                    "Fetch it again; if it is whole, put a line's end behind it."
                )
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

    def read_id(self, row: int) -> str:
        """The id of a row."""
        start, end = self._span(row)
        begin = self._read_bytes(start, min(256, end - start))
        if b"\t" not in begin:
            begin = self._read_line(row)
        return _text(begin.split(b"\t", 1)[0])

    def size(self, row: int) -> int:
        """The bytes of a row's line."""
        start, end = self._span(row)
        return end - start

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


def _has_label(line: bytes) -> bool:
    """Whether the second column is no picture and the third is one: JPEG, PNG, WebP or GIF in base64."""
    beginnings = (b"/9j/", b"iVBORw0KGgo", b"UklGR", b"R0lGOD")
    columns = line.split(b"\t", 3)
    return len(columns) > 2 and not columns[1].startswith(beginnings) and columns[2].startswith(beginnings)


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")

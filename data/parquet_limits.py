"""How much a Parquet file may unpack, read from its footer and the heads of its pages before Arrow unpacks any."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData

MOST_PAGE_BYTES = 2**26
"""A page, which is what Arrow unpacks at a time, has about 1 MiB."""
MOST_BATCH_BYTES = 2**30
"""Rows that are unpacked at a time take at most that, if none of them is a list."""
MOST_BATCH_ROWS = 1000
MOST_VALUES, MOST_VALUES_PER_BYTE = 2**20, 8
"""Equal values take next to no bytes: as many rows, or values of a column, of any file, and more of a larger one."""

_HEAD_BYTES = 2**20
_PAGE_HEADS = (5, 7, 8)  # of a data page, a dictionary page, a data page of the second version
_BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12


class ParquetLimitError(ValueError):
    """A file that would unpack to too much, or whose pages are not where it says."""


def rows_at_a_time(path: Path, metadata: "FileMetaData") -> int:
    """
    How many rows may be unpacked at a time.

    Raises:
        ParquetLimitError: a page, the number of rows or of a column's values is above its limit.
    """
    most = MOST_VALUES + MOST_VALUES_PER_BYTE * os.path.getsize(path)
    largest: dict[str, int] = {}
    _limit("rows", metadata.num_rows, most)
    with open(path, "rb") as file:
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            _limit(f"rows in row group {number}", group.num_rows, most)
            for place in range(group.num_columns):
                column = group.column(place)
                name = column.path_in_schema
                where = f"column {name!r} of row group {number}"
                _limit(f"values in {where}", column.num_values, most)
                for size, values in _pages(file, column, where):
                    _limit(f"bytes in a page of {where}", size, MOST_PAGE_BYTES)
                    _limit(f"values in a page of {where}", values, most)
                    largest[name] = max(largest.get(name, 1), size)
    return min(max(MOST_BATCH_BYTES // max(sum(largest.values()), 1), 1), MOST_BATCH_ROWS)


def _limit(what: str, count: int, most: int) -> None:
    if not 0 <= count <= most:
        raise ParquetLimitError(f"it has {count} {what}; at most {most} are read")


def _pages(file: BinaryIO, column: Any, where: str) -> Iterator[tuple[int, int]]:
    """(bytes when it is unpacked, values) of each page of a column, by its head."""
    first = column.data_page_offset
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < first:
        first = column.dictionary_page_offset
    place, end = first, first + column.total_compressed_size
    size = file.seek(0, os.SEEK_END)
    if not 0 <= first <= end <= size:
        raise ParquetLimitError(f"{where} is to lie from byte {first} to {end}, and the file has {size}")
    while place < end:
        file.seek(place)
        head = _struct(_Bytes(file))
        unpacked, packed = head.get(2), head.get(3)
        if not isinstance(unpacked, int) or not isinstance(packed, int) or packed < 0:
            raise ParquetLimitError(f"at byte {place} of the file there is no page of {where}")
        yield unpacked, max([head[kind].get(1, 0) for kind in _PAGE_HEADS if kind in head], default=0)
        place = file.tell() + packed


class _Bytes:
    """The bytes of one page's head, a limited number of them."""

    def __init__(self, file: BinaryIO):
        self._file, self._left = file, _HEAD_BYTES

    def take(self, count: int) -> bytes:
        self._left -= count
        content = self._file.read(count) if self._left >= 0 else b""
        if len(content) != count:
            raise ParquetLimitError("the head of a page is not whole")
        return content

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ParquetLimitError("a number in the head of a page has no end")

    def integer(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)


def _struct(content: _Bytes, depth: int = 0) -> dict[int, Any]:
    """A structure in Thrift's compact form: field -> integer or structure; others are passed over."""
    found, field = {}, 0
    while (head := content.take(1)[0]) != 0:
        field = field + (head >> 4) if head >> 4 else content.integer()
        found[field] = _value(content, head & 15, depth)
    return found


def _value(content: _Bytes, kind: int, depth: int, in_list: bool = False) -> Any:
    if kind in _BOOLEANS:
        return content.take(1) if in_list else None
    if kind in _INTEGERS:
        return content.integer()
    if kind in (_BYTE, _DOUBLE):
        return content.take(1 if kind == _BYTE else 8)
    if kind == _BINARY:
        return content.take(content.varint())
    if kind in _LISTS:
        head = content.take(1)[0]
        for _ in range(content.varint() if head >> 4 == 15 else head >> 4):
            _value(content, head & 15, depth + 1, in_list=True)
        return None
    if kind == _STRUCT and depth < 8:
        return _struct(content, depth + 1)
    raise ParquetLimitError("the head of a page is damaged")

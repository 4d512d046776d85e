"""Files of rows as they stand: CSV, JSONL, JSON, Parquet. `read_rows` checks what is in them."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .parquet_limits import ParquetLimitError, rows_at_a_time

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]

TABLE_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".json", ".parquet")
CHUNK = 4096
"""Rows that are held as Python objects at a time."""


class TableError(ValueError):
    """Data that cannot be used; the message names file, row and column."""


def iterate_table(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """
    (line or item number from 1, row) of a `.csv`, whose first line names the columns, a `.jsonl`, a `.json` with a
    list of objects, or a `.parquet`.

    Raises:
        TableError: for a file that is absent or of another form.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        known = ", ".join(TABLE_SUFFIXES)
        raise TableError(f"{path}: a table is one of {known}, not {suffix or 'without a suffix'}.")
    if not path.is_file():
        raise TableError(f"{path}: there is no such file.")
    if suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    try:
        items = _csv_rows(path) if suffix == ".csv" else _json_items(path)
        for number, item in items:
            if not isinstance(item, dict):
                raise TableError(f"{path}, row {number}: an object with columns is needed, not {type(item).__name__}.")
            yield number, item
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except csv.Error as error:
        raise TableError(f"{path}: not a CSV table ({error}).") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if None in row:
                raise TableError(f"{path}, line {reader.line_num}: more fields than the header has columns.")
            yield reader.line_num, row


def _json_items(path: Path) -> Iterator[tuple[int, Any]]:
    with open(path, encoding="utf-8-sig") as file:
        if path.suffix.lower() != ".json":
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, parse_json(line, f"{path}, line {number}")
            return
        items = parse_json(file.read(), f"{path}")
    if not isinstance(items, list):
        splits = f"; of a file of splits name one, as in {path}@{next(iter(items), 'train')}" if items else ""
        raise TableError(f"{path}: a list of objects is needed, not {type(items).__name__}{splits}.")
    yield from enumerate(items, start=1)


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(rows_at_a_time(path, file.metadata)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except ParquetLimitError as error:
        raise TableError(f"{path}: refused before it was unpacked: {error}.") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise TableError(f"{path}: not a Parquet file, or a damaged one ({error}).") from error


def as_dataset(rows: Iterable[Row], source: str) -> "Dataset":
    """
    Rows as a `datasets.Dataset`. They are read one by one: as Python objects, a hundred thousand would cost ten times
    the memory.

    Raises:
        TableError: if there are none, or a column's values are of several kinds.
    """
    import pyarrow
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint
    from datasets.table import InMemoryTable

    tables: list[pyarrow.Table] = []
    chunk: list[Row] = []

    def close_chunk() -> None:
        names = list(dict.fromkeys(name for row in chunk for name in row))
        columns = {name: [row.get(name) for row in chunk] for name in names}
        for name, values in columns.items():
            try:
                columns[name] = pyarrow.array(values)
            except pyarrow.ArrowException as error:
                raise TableError(f"{source}: the values of column {name!r} are of several kinds ({error}).") from error
        tables.append(pyarrow.table(columns))
        chunk.clear()

    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            close_chunk()
    if chunk:
        close_chunk()
    if not tables:
        raise TableError(f"{source}: there are no rows.")
    try:
        table = pyarrow.concat_tables(tables, promote_options="permissive")
    except pyarrow.ArrowException as error:
        raise TableError(f"{source}: the values of a column are of several kinds ({error}).") from error
    pyarrow.default_memory_pool().release_unused()  # else it keeps as much again as the rows take
    # A fingerprint of the content would pickle all of it.
    return Dataset(InMemoryTable(table), fingerprint=generate_random_fingerprint())


def parse_json(text: str, place: str) -> Any:
    """The value of a JSON text; `place` is its name in messages."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        raise TableError(f"{place}: not JSON ({error}).") from error


def load_json(path: Path) -> Any:
    """
    What a JSON file holds.

    Raises:
        TableError: if it is absent, not UTF-8 or not JSON.
    """
    if not path.is_file():
        raise TableError(f"{path}: there is no such file.")
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"), f"{path}")
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from error

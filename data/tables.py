"""A user's own table of videos, questions and answers: CSV, JSONL or JSON -> `datasets.Dataset`."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

QUESTION_COLUMNS = ("video", "question", "answer")
"""What a table for open-ended questions needs; it may also have `caption` and `question_type`."""


class TableError(ValueError):
    """A table that cannot be used; the message names file, row and column."""


def read_table(
    path: str | os.PathLike,
    columns: tuple[str, ...] = QUESTION_COLUMNS,
    video_folder: str | os.PathLike | None = None,
    check: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> "Dataset":
    """
    Rows of a `.csv`, `.jsonl` or `.json` (a list of objects) file, checked before anything is trained on them.

    Args:
        path: the file. A CSV's first line names the columns.
        columns: those that every row must fill; others are kept as they are.
        video_folder: where relative `video` paths start; by default the table's own folder. URLs stay as they are.
        check: a row -> the row as it is wanted; a `ValueError` says what is wrong with it.

    Returns:
        The rows, `video` as an absolute path or URL.

    Raises:
        TableError: for a file, row or column that is missing, empty or not readable, or a video that is not there.
    """
    from datasets import Dataset

    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path}: there is no such file.")
    rows = _read_rows(path)
    if not rows:
        raise TableError(f"{path}: the table has no rows.")
    folder = path.parent if video_folder is None else Path(video_folder)
    absent, checked = [], []
    for number, row in rows:
        for column in columns:
            value = row.get(column)
            if value is None or not str(value).strip():
                there = ", ".join(str(name) for name in row)
                raise TableError(f"{path}, row {number}: column {column!r} is missing or empty (it has {there}).")
        if not str(row["video"]).startswith(("http://", "https://")):
            video = folder / row["video"]
            row["video"] = str(video.absolute())
            if not video.exists():
                absent.append((number, video))
        try:
            checked.append(row if check is None else check(row))
        except ValueError as error:
            raise TableError(f"{path}, row {number}: {error}") from error
    if absent:
        number, video = absent[0]
        raise TableError(
            f"{path}, row {number}: there is no video {video} ({len(absent)} of {len(rows)} rows lack theirs). "
            "Relative paths start at the table's folder, or at the video folder where one is given."
        )
    names = list(dict.fromkeys(name for row in checked for name in row))
    return Dataset.from_list([{name: row.get(name) for name in names} for row in checked])


def _read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line or item number from 1, row)"""
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            with open(path, newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                rows = []
                for row in reader:
                    if None in row:
                        raise TableError(f"{path}, line {reader.line_num}: more fields than the header has columns.")
                    rows.append((reader.line_num, row))
            return rows
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from error
    if suffix == ".json":
        items = list(enumerate(_parse_json(text, f"{path}"), start=1))
    elif suffix in (".jsonl", ".ndjson"):
        lines = ((number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip())
        items = [(number, _parse_json(line, f"{path}, line {number}")) for number, line in lines]
    else:
        raise TableError(f"{path}: a table is .csv, .jsonl or .json, not {suffix or 'without a suffix'}.")
    for number, item in items:
        if not isinstance(item, dict):
            raise TableError(f"{path}, row {number}: an object with columns is needed, not {type(item).__name__}.")
    return items


def _parse_json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise TableError(f"{place}: not JSON ({error}).") from error

"""`read_rows`: a table, a folder, shards, a data set of the Hub or the original's files -> rows."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..processing.decoding import is_encoded_file
from ..processing.joined_clips import join_clips
from .annotations import original_rows
from .composite import read_composite
from .folders import folder_rows
from .hub_rows import HUB, hub_rows
from .remote import is_url
from .shards import TarShard, find_shards, is_shards
from .sources import absolute_reference, open_pickle, open_tsv
from .tables import Row, TableError, as_dataset, iterate_table

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = {
    "open-ended": ("video", "question", "answer"),
    "masked-answer": ("video", "question", "answer"),
    "multiple-choice": ("video", "question", "options", "answer"),
    "fill-in-the-blank": ("video", "text", "answer"),
    "retrieval": ("video", "caption"),
    "captioning": ("video", "caption"),
    "classification": ("video", "label"),
}
"""
What a row of each task must have. One for open-ended questions may also have `caption` and `question_type`, one for
masked answers `options` too, of which `answer` is then the number.
"""


TEXTS = ("caption", "question", "text")
"""Columns that may be a list of sentences; they become one text, one sentence per line."""


def read_rows(
    source: str | os.PathLike,
    columns: tuple[str, ...] = COLUMNS["open-ended"],
    video_folder: str | os.PathLike | None = None,
    check: Callable[[Row], Row] | None = None,
) -> "Dataset":
    """
    Rows of one of these, checked before anything is trained on them:

    - a table: `.csv`, `.jsonl`, `.json` (a list of objects) or `.parquet`;
    - a folder of clips, with their captions beside them (see `folder_rows`);
    - WebDataset's shards, by path or URL: `train-{000..003}.tar`, `train-*.tar`, a folder with a manifest;
    - `hub:name[:config][@split]`, a data set of the Hub, or of a local folder that `load_dataset` takes;
    - the original's files: `txt_task.json@split` (see `read_original`), a `.yaml` of TSVs (see `read_composite`), or
      a `.tsv` or `.pkl` by itself, which has videos without words.

    Args:
        source: which.
        columns: those that every row must fill, but the question of a multiple choice, which may be empty: then only
            the options are told apart. Other columns are kept as they are.
        video_folder: where relative `video` paths of a table start, by default its own folder; or where the pictures
            of the original's `.json` are: a `.tsv`, a `.pkl`, a folder.
        check: a row -> the row as it is wanted; a `ValueError` says what is wrong with it.

    Returns:
        The rows; `video` is a text for `open_video`, with an absolute path or URL. A list of clips becomes one video
        (`join_clips`), a list of sentences one text with one sentence per line.

    Raises:
        TableError: for a file, row or column that is missing, empty or not readable, or a video that is not there.
    """
    source = os.fspath(source)
    annotations, mark, split = source.rpartition("@")
    if mark and annotations.endswith(".json"):
        if video_folder is None:
            raise TableError(
                f"{source}: its pictures are needed too: a .tsv, a .pkl or a folder, as the video folder."
            )
        rows = original_rows(annotations, video_folder, split, columns)
        checked = _apply(check, enumerate(rows), source)
    elif source.endswith((".yaml", ".yml")):
        checked = _apply(check, enumerate(read_composite(source)), source)
    else:
        folder = Path(video_folder) if video_folder is not None else _own_folder(source)
        checked = _apply(check, _with_videos(_numbered_rows(source), source, columns, folder), source)
    return as_dataset(checked, source)


def _own_folder(source: str) -> Path:
    path = Path(source.removeprefix(HUB))
    return path if path.is_dir() else Path() if source.startswith(HUB) else path.parent


def _numbered_rows(source: str) -> Iterator[tuple[int, Row]]:
    if source.startswith(HUB):
        return hub_rows(source)
    if is_shards(source):
        shards = find_shards(source).shards
        return enumerate((row for shard in shards for row in TarShard(shard).rows()), start=1)
    if is_url(source):
        raise TableError(f"{source}: of what lies behind a URL, shards are read (.tar, or their manifest.json).")
    if Path(source).is_dir():
        return folder_rows(Path(source))
    if source.endswith((".tsv", ".pkl")):
        path = str(Path(source).absolute())
        names = open_tsv(path).iterate_ids() if source.endswith(".tsv") else open_pickle(path)
        return enumerate(({"id": name, "video": f"{path}#{name}"} for name in names), start=1)
    return iterate_table(Path(source))


def _with_videos(
    rows: Iterable[tuple[int, Row]], source: str, columns: tuple[str, ...], folder: Path
) -> Iterator[tuple[int, Row]]:
    """The rows, with every column filled and `video` as an absolute text; raises at the end if videos are absent."""
    locate = functools.lru_cache(maxsize=4096)(absolute_reference)
    is_container = source.endswith((".tsv", ".pkl")) or (not source.startswith(HUB) and is_shards(source))
    absent, first, count = 0, None, 0
    for number, row in rows:
        if "options" in columns and row.get("question") is None:
            row["question"] = ""
        for column in TEXTS:
            if isinstance(row.get(column), list | tuple):  # a paragraph, sentence by sentence
                row[column] = "\n".join(map(str, row[column]))
        for column in columns:
            value = row.get(column)
            may_be_empty = column == "question" and "options" in columns
            if value is None or not (str(value).strip() or may_be_empty):
                has = ", ".join(str(name) for name in row)
                raise TableError(f"{source}, row {number}: column {column!r} is missing or empty (it has {has}).")
        there = is_container  # of its own clips it has made the references itself
        if is_encoded_file(row["video"]):  # as datasets writes a column of videos
            row["video"] = _path_of_file(row["video"], f"{source}, row {number}", folder)
        if not is_container:
            row["video"], there = _located(row["video"], locate, folder)
        count += 1
        if not there:
            absent += 1
            first = first or (number, row["video"])
        yield number, row
    if first is not None:
        raise TableError(
            f"{source}, row {first[0]}: there is no video {first[1]} ({absent} of {count} rows lack theirs). "
            "Relative paths start at the table's folder, or at the video folder if one is given."
        )


def _located(video: Any, locate: Callable[[str, Path], tuple[str, bool]], folder: Path) -> tuple[str, bool]:
    """A row's `video`, one clip or a list of them, as one absolute text, and whether all is there."""
    if not isinstance(video, list | tuple):
        return locate(str(video), folder)
    found = [locate(str(clip), folder) for clip in video]
    absent = [clip for clip, there in found if not there]
    return (absent[0], False) if absent else (join_clips([clip for clip, _ in found]), True)


def _path_of_file(video: Mapping[str, Any], place: str, folder: Path) -> str:
    if video.get("bytes") is not None:
        raise TableError(f"{place}: the video's bytes are in the table. Give its folder as a data set: {HUB}{folder}.")
    if not video.get("path"):
        raise TableError(f"{place}: column 'video' has neither a path nor bytes.")
    return video["path"]


def _apply(check: Callable[[Row], Row] | None, rows: Iterable[tuple[int, Row]], source: str) -> Iterator[Row]:
    for number, row in rows:
        try:
            yield row if check is None else check(row)
        except TableError:
            raise
        except ValueError as error:
            raise TableError(f"{source}, row {number}: {error}") from error


def rows_digest(rows: "Dataset", folders: bool = True) -> str:
    """
    The sha256 of what the rows hold, in their order: which split a number was measured on.

    Args:
        folders: whether a video's whole path counts, or only its last name.
    """
    digest = hashlib.sha256()
    for row in rows:
        if not folders:
            row = {**row, "video": PurePosixPath(str(row["video"])).name}
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()

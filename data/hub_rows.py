"""Rows of the Hub's data sets, `hub:name[:config][@split]`, and the videos that such a data set holds itself."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shards import StoredClip
from .tables import TableError

if TYPE_CHECKING:
    from datasets import Dataset

HUB = "hub:"


def hub_rows(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 0, row); `video` is the path of the row's file, or the text by which `open_video` finds it here.

    Raises:
        TableError: if there is no such data set, configuration or split, or the split is not said and there are
            several.
    """
    rows = _load(source)
    for number, row in enumerate(rows):
        video = row.get("video")
        if isinstance(video, dict):  # of the type Video, not decoded
            path = video.get("path")
            in_file = video.get("bytes") is None and path and os.path.isfile(path)
            row["video"] = path if in_file else f"{source}#{number}"
        yield number, row


def hub_clip(reference: str) -> StoredClip:
    """
    The video file that a row of such a data set holds.

    Raises:
        TableError: if there is no such row, or no video in it.
    """
    source, _, number = reference.rpartition("#")
    rows = _load(source)
    if not number.isdigit() or int(number) >= len(rows):
        raise TableError(f"{reference}: there is no such row; there are {len(rows)}, from 0.")
    video = rows[int(number)].get("video")
    if not isinstance(video, dict) or not video.get("bytes"):
        raise TableError(f"{reference}: the row holds no video.")
    return [(Path(video.get("path") or "").suffix.lower() or ".mp4", video["bytes"])]


def without_decoding(rows: Any) -> Any:
    """
    The rows of a `datasets.Dataset` whose column `video` has the type Video: their videos as files, and not as
    decoders, which would all be opened. Other rows come back as they are.
    """
    from datasets import Dataset, Video

    if isinstance(rows, Dataset) and isinstance(rows.features.get("video"), Video):
        return rows.cast_column("video", Video(decode=False))
    return rows


@functools.lru_cache(maxsize=8)
def _load(source: str) -> "Dataset":
    from datasets import DatasetDict, load_dataset

    name, _, split = source.removeprefix(HUB).partition("@")
    name, _, config = name.partition(":")
    try:
        rows = load_dataset(name, config or None, split=split or None)
    except (OSError, ValueError, KeyError) as error:  # the errors of `datasets` are of these kinds
        raise TableError(f"{source}: cannot be loaded: {error}") from error
    if isinstance(rows, DatasetDict):
        if len(rows) > 1:
            raise TableError(f"{source}: which split? Write {source}@{next(iter(rows))}; it has {', '.join(rows)}.")
        (rows,) = rows.values()
    return without_decoding(rows)

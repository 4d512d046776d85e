"""`violet prepare paragraphs`: a table of captioned clips -> rows of consecutive clips of one video."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.files import write_text
from .rows import read_rows
from .tables import Row, TableError


@dataclass(frozen=True)
class GroupedClips:
    """What `group_clips` did: rows, clips read, and clips of runs that are too short for a row."""

    rows: int
    clips: int
    left_out: int


def group_clips(
    source: str | os.PathLike,
    output: str | os.PathLike,
    num_clips: int,
    max_gap: float | None = None,
    video_folder: str | os.PathLike | None = None,
) -> GroupedClips:
    """
    Writes a `.jsonl` whose rows each have `num_clips` clips that follow one another: `id`, `video`, the list of their
    paths, `caption`, the list of their captions, both in the order of time, `source`, and `start` and, if the table
    has it, `end` in seconds of it.

    Clips of a video are cut into groups from its first on. What is left at the end of a run is in a group with the
    clips before it, so that each clip is in a row; clips of a run that is too short for a group are left out.

    Args:
        source: what `read_rows` takes; its rows have `video`, a clip, `caption`, `source`, the name of the video that
            it is cut from, `start`, the seconds at which, and perhaps `end`.
        output: the file.
        num_clips: of a row.
        max_gap: seconds from a clip's `end` to the next one's `start` beyond which they do not follow one another; by
            default all clips of a video do.
        video_folder: as of `read_rows`.

    Raises:
        TableError: if the source cannot be read, a row lacks its place, or no row comes out.
        FileExistsError: if the file is there already.
    """
    output = Path(output)
    if num_clips < 1 or (max_gap is not None and max_gap < 0) or output.suffix != ".jsonl":
        raise TableError(
            "--num_clips must be 1 or more, --max_gap not below 0, --output a .jsonl file; got "
            f"{num_clips}, {max_gap}, {output}."
        )
    if output.exists():
        raise FileExistsError(f"{output} is there already.")
    clips = _by_video(source, max_gap, video_folder)
    lines, left_out = [], 0
    for of_video in clips.values():
        for run in _runs(of_video, max_gap):
            firsts = _group_starts(len(run), num_clips)
            left_out += 0 if firsts else len(run)
            lines += [json.dumps(_joined(run[first : first + num_clips]), ensure_ascii=False) for first in firsts]
    if not lines:
        raise TableError(f"{source}: no video has {num_clips} clips that follow one another.")
    write_text(output, "\n".join(lines) + "\n")
    return GroupedClips(len(lines), sum(map(len, clips.values())), left_out)


def _by_video(
    source: str | os.PathLike, max_gap: float | None, video_folder: str | os.PathLike | None
) -> dict[str, list[Row]]:
    """The clips of each video, in the order of time."""
    clips: dict[str, list[Row]] = {}
    for number, row in enumerate(read_rows(source, ("video", "caption", "source", "start"), video_folder), start=1):
        place = f"{source}, row {number}"
        row = {**row, "start": _seconds(row, "start", place), "end": _seconds(row, "end", place)}
        if max_gap is not None and row["end"] is None:
            raise TableError(f"{place}: column 'end' is missing or empty; --max_gap needs it.")
        clips.setdefault(str(row["source"]), []).append(row)
    return {name: sorted(rows, key=lambda row: row["start"]) for name, rows in clips.items()}


def _seconds(row: Mapping[str, Any], column: str, place: str) -> float | None:
    text = str("" if row.get(column) is None else row[column]).strip()
    try:
        seconds = float(text) if text else None
    except ValueError:
        seconds = math.nan
    if seconds is not None and not math.isfinite(seconds):
        raise TableError(f"{place}: column {column!r} is no number of seconds: {text!r}.")
    return seconds


def _runs(clips: list[Row], max_gap: float | None) -> Iterator[list[Row]]:
    """The clips of a video, cut at gaps that are too long."""
    first = 0
    for number in range(1, len(clips) + 1):
        ends = number == len(clips)
        if ends or (max_gap is not None and clips[number]["start"] - clips[number - 1]["end"] > max_gap):
            yield clips[first:number]
            first = number


def _group_starts(length: int, size: int) -> list[int]:
    """Where the groups of a run start: at every `size`-th clip, the last one so that it ends with the run."""
    return [min(first, length - size) for first in range(0, length, size)] if length >= size else []


def _joined(clips: list[Row]) -> Row:
    first, last = clips[0], clips[-1]
    row = {
        "id": f"{first['source']}@{first['start']:g}",
        "video": [clip["video"] for clip in clips],
        "caption": [" ".join(str(clip["caption"]).split()) for clip in clips],
        "source": first["source"],
        "start": first["start"],
    }
    return row if last["end"] is None else {**row, "end": last["end"]}

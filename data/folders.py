"""A folder of clips, with captions or other columns beside them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..processing.decoding import IMAGE_SUFFIXES, frame_files
from .shards import VIDEO_SUFFIXES
from .tables import TableError, iterate_table

PROGRESS = ".progress"
"""What a folder holds besides while `violet prepare` fills it."""
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def clip_paths(folder: Path) -> list[Path]:
    """The clips of a folder, sorted: video files, pictures and sub-folders of frames; hidden ones do not count."""

    def is_clip(path: Path) -> bool:
        if path.is_dir():
            return bool(frame_files(path))
        return path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES and path.is_file()

    return [path for path in sorted(folder.iterdir()) if path.name[0] != "." and is_clip(path)]


def clips_in(folder: Path) -> dict[str, Path]:
    """
    The clips of a folder by name, without their suffix, see `clip_paths`.

    Raises:
        TableError: if there is no such folder, or two clips share a name.
    """
    if not folder.is_dir():
        raise TableError(f"{folder}: there is no such folder.")
    clips: dict[str, Path] = {}
    for path in clip_paths(folder):
        name = path.name if path.is_dir() else path.stem
        if name in clips:
            raise TableError(f"{folder}: {clips[name].name} and {path.name} are two clips of one name.")
        clips[name] = path
    return clips


def clips_below(folder: Path) -> dict[str, Path]:
    """
    The clips of a folder and of the folders in it, however deep: by name without their suffix, if no other has it, and
    by "parent/name". A folder of frames is a clip.

    Raises:
        TableError: if there is no such folder.
    """
    if not folder.is_dir():
        raise TableError(f"{folder}: there is no such folder.")
    clips: dict[str, Path | None] = {}
    waiting = [folder]
    while waiting:
        parent = waiting.pop()
        found = clip_paths(parent)
        for path in found:
            name = path.name if path.is_dir() else path.stem
            clips[name] = path if name not in clips else None
            clips[f"{parent.name}/{name}"] = path
        known = set(found)
        waiting += [path for path in parent.iterdir() if path.name[0] != "." and path.is_dir() and path not in known]
    return {name: path for name, path in clips.items() if path is not None}


def folder_rows(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """
    (number from 1, row) of a folder with `metadata.csv`, `.jsonl` or `.parquet`: its rows, whose `file_name` (or
    `video`) names a clip, as the folders of `datasets` have it. Without one: `id`, `video` and, for each line of the
    `name.txt` beside a clip, `caption`; a clip without such a text has one row.

    Raises:
        TableError: if there are no clips, or `metadata` or a text cannot be read.
    """
    if (folder / PROGRESS).exists():
        raise TableError(f"{folder}: not complete; go on with the same call of violet prepare.")
    for name in METADATA:
        if (folder / name).is_file():
            for number, row in iterate_table(folder / name):
                file_name = row.pop("file_name", None)
                yield number, {"video": file_name, **row} if file_name is not None else row
            return
    clips = clips_in(folder)
    if not clips:
        raise TableError(
            f"{folder}: no clips. Video files, pictures or folders of frames are looked for, and one of "
            f"{', '.join(METADATA)}; not inside of further folders."
        )
    number = 0
    for name, path in clips.items():
        text = folder / f"{name}.txt"
        row = {"id": name, "video": path.name}
        captions: list[dict[str, str]] = [{}]
        if text.is_file():
            try:
                lines = text.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise TableError(f"{text}: not UTF-8 text ({error.reason} at byte {error.start}).") from error
            captions = [{"caption": line.strip()} for line in lines if line.strip()] or [{}]
        for caption in captions:
            number += 1
            yield number, row | caption

"""VIOLETv2's sets of several TSVs, described by a YAML file, as Oscar's and SwinBERT's are.

    composite: true                       several files of each kind (or lists without saying so)
    img: [part0.img.tsv, part1.img.tsv]   pictures; or one file, or a .txt with one file per line
    caption: [part0.tsv, part1.tsv]       a line: id, tab, a JSON list of {"caption": text} or of texts, or a text
    caption_linelist: rows.linelist.tsv   which rows, and which of their captions; all if it is absent

Paths are relative to the YAML file. `frames` and `visual` stand for `img`, `label` for `caption` if there is none,
`linelist` for `caption_linelist`, `is_composite` for `composite`. Files of line starts (`lineidx`) are found beside
their TSVs.
"""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .sources import open_tsv
from .tables import TableError
from .tsv_videos import TsvVideos

logger = logging.getLogger(__name__)


def read_composite(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """
    One row per caption: `id`, `video` (a text for `open_video`), `caption`. Lines of a linelist are `row`, `row
    caption` or, of several files, `file row caption`; numbers count from 0. Pictures without a caption are left out;
    a warning counts them.

    Raises:
        TableError: if the YAML or one of its files is absent or of another form, or no picture has a caption.
    """
    path = Path(path).absolute()
    settings = _load(path)
    pictures = [open_tsv(str(file)) for file in _files(settings, ("img", "frames", "visual"), path)]
    captions = _captions(_files(settings, ("caption", "label"), path), len(pictures))
    silent = given = 0
    for file, row, chosen in _lines(settings, path, pictures):
        tsv = pictures[file]
        name = tsv.read_id(row)
        found = captions[min(file, len(captions) - 1)].get(name, [])
        if chosen is not None and chosen >= len(found):
            raise TableError(f"{path}: its linelist asks for caption {chosen} of {name!r}, which has {len(found)}.")
        silent += not found
        for caption in found if chosen is None else [found[chosen]]:
            given += 1
            yield {"id": name, "video": f"{tsv.path}#{name}", "caption": caption}
    if not given:
        raise TableError(f"{path}: none of its pictures has a caption; ids are like {pictures[0].read_id(0)!r}.")
    if silent:
        logger.warning("%s: %d pictures have no caption.", path, silent)


def _load(path: Path) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TableError(f"{path}: cannot be read ({error}).") from error
    if not isinstance(settings, dict):
        raise TableError(f"{path}: names of TSV files are needed (img, caption), not {type(settings).__name__}.")
    return settings


def _files(settings: dict[str, Any], names: tuple[str, ...], path: Path) -> list[Path]:
    name = next((name for name in names if settings.get(name)), None)
    if name is None:
        raise TableError(f"{path}: {names[0]!r} is missing; it has {', '.join(map(str, settings))}.")
    value = settings[name]
    files = [value] if isinstance(value, str) else value
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise TableError(f"{path}: {name!r} must name a file, or a list of such, not {value!r}.")
    if len(files) == 1 and files[0].endswith((".txt", ".lst")):
        listed = path.parent / files[0]
        files = [line.strip() for line in _text(listed, path).splitlines() if line.strip()]
    for file in files:
        if not (path.parent / file).is_file():
            raise TableError(f"{path}: {name!r} names {path.parent / file}, which is absent.")
    return [path.parent / file for file in files]


def _text(file: Path, path: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{file}, named by {path}: cannot be read ({error}).") from error


def _captions(files: list[Path], parts: int) -> list[dict[str, list[str]]]:
    """The captions by id: of each part's file, or of all files for all parts if there are not as many."""
    found: list[dict[str, list[str]]] = []
    for file in files:
        by_id: dict[str, list[str]] = {}
        for number, line in enumerate(_text(file, file).splitlines(), start=1):
            name, tab, content = line.partition("\t")
            if not tab:
                raise TableError(f"{file}, line {number}: an id, a tab and captions are needed: {line[:60]!r}.")
            by_id.setdefault(name, []).extend(_caption_texts(content, f"{file}, line {number}"))
        found.append(by_id)
    if len(found) == parts:
        return found
    together: dict[str, list[str]] = {}
    for by_id in found:
        for name, texts in by_id.items():
            together.setdefault(name, []).extend(texts)
    return [together]


def _caption_texts(content: str, place: str) -> list[str]:
    if content[:1] not in ("[", "{", '"'):
        return [content]
    try:
        value = json.loads(content)
    except json.JSONDecodeError:
        return [content]  # a sentence that starts with a bracket or quote
    items = value if isinstance(value, list) else [value]
    texts = [item.get("caption") if isinstance(item, dict) else item for item in items]
    captions = [text for text in texts if isinstance(text, str)]
    if not texts or len(captions) < len(texts):
        raise TableError(f'{place}: a list of {{"caption": text}} is needed, not {content[:60]!r}.')
    return captions


def _lines(settings: dict[str, Any], path: Path, pictures: list[TsvVideos]) -> Iterator[tuple[int, int, int | None]]:
    """(file, row, caption or None for all)"""
    name = settings.get("caption_linelist") or settings.get("linelist")
    if name is None:
        for file, tsv in enumerate(pictures):
            yield from ((file, row, None) for row in range(len(tsv)))
        return
    composite = settings.get("composite", settings.get("is_composite", len(pictures) > 1))
    linelist = path.parent / str(name)
    for number, line in enumerate(_text(linelist, path).splitlines(), start=1):
        place = f"{linelist}, line {number}"
        fields = line.split()
        if not all(field.isdigit() for field in fields) or not 1 + composite <= len(fields) <= 2 + composite:
            form = "file, row and caption" if composite else "row and caption"
            raise TableError(f"{place}: the numbers of {form} are needed, not {line[:60]!r}.")
        file, row, *chosen = [int(field) for field in fields] if composite else [0, *map(int, fields)]
        if file >= len(pictures) or row >= len(pictures[file]):
            raise TableError(f"{place}: there is no row {row} of file {file}.")
        yield file, row, chosen[0] if chosen else None

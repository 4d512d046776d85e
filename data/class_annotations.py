"""
The published annotations of data sets of classes -> names of clips and their labels:

    kinetics                train.csv: label,youtube_id,time_start,time_end,split (and is_cc, of Kinetics-400)
    moments                 trainingSet.csv: label/clip.mp4,label,votes for,votes against      without a header
    something_v1            …-v1-train.csv: id;label                                           without a header
    something_v2            …-v2-train.json: [{"id", "label", "template", "placeholders"}]
    activitynet             activity_net.v1-3.min.json: {"database": {id: {"subset", "annotations": [{"label"}]}}}

Each was compared with what its publishers say of it or, of Something-Something, whose site is gone, with code in wide
use; its reader names them.
"""

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .tables import TableError, iterate_table, load_json

ClassRow = tuple[tuple[str, ...], str]
"""
The names under which a clip may lie, without a suffix, and its label. The first that is there counts; of a name that
several files have, only "folder/name" is there.
"""
ClassReader = Callable[[Path, str], Iterator[ClassRow]]
"""(file, split, "train" or "test") -> the rows of that split."""
REPLACEMENTS = "replacement_for_corrupted_k400"
"""The folder of the clips that CVDF gives in place of some 1,400 damaged ones, which lie in train/ as well."""
SUBSETS = {"train": "training", "test": "validation"}
"""What ActivityNet and HACS call the splits. The labels of their test splits are not published."""


def kinetics(path: Path, split: str) -> Iterator[ClassRow]:
    """
    Clips are named by the video and the seconds, with six digits each, or only by the video. They lie in a folder for
    each label, or all in one, as of https://github.com/cvdfoundation/kinetics-dataset (its `arrange_by_classes.py`),
    https://github.com/activitynet/ActivityNet (`Crawler/Kinetics/download.py`) and torchvision's `Kinetics`.
    """
    for number, row in iterate_table(path):
        place = f"{path}, line {number}"
        label, video = _filled(row, "label", place), _filled(row, "youtube_id", place)
        try:
            start, end = (int(float(_filled(row, name, place))) for name in ("time_start", "time_end"))
        except ValueError as error:
            raise error if isinstance(error, TableError) else TableError(f"{place}: {error}") from error
        clip = f"{video}_{start:06d}_{end:06d}"
        yield (clip, *_in_folders(label, clip), f"{REPLACEMENTS}/{clip}", video), label


def moments(path: Path, split: str) -> Iterator[ClassRow]:
    """
    Clips lie in a folder for each label; the same clip may lie in several. The columns are those of the README.txt of
    the data set and of `parse_mit_splits` of https://github.com/open-mmlab/mmaction2.
    """
    for _, fields in _lines(path, ",", 2):
        yield (str(Path(fields[0]).with_suffix("")),), fields[1]


def something_v1(path: Path, split: str) -> Iterator[ClassRow]:
    """Clips are folders of frames, 1/00001.jpg; `parse_sthv1_splits` of https://github.com/open-mmlab/mmaction2."""
    for _, fields in _lines(path, ";", 2):
        yield (fields[0],), fields[1]


def something_v2(path: Path, split: str) -> Iterator[ClassRow]:
    """
    A class is a template: "Putting [something] on a surface", whose brackets the list of classes leaves out;
    `parse_sthv2_splits` of https://github.com/open-mmlab/mmaction2. Clips are 1.webm, ….
    """
    rows = load_json(path)
    if not isinstance(rows, list):
        raise TableError(f"{path}: a list of objects is needed, not {type(rows).__name__}.")
    for number, row in enumerate(rows):
        place = f"{path}, item {number}"
        template = _filled(row, "template", place)
        yield (_filled(row, "id", place),), template.replace("[", "").replace("]", "")


def activitynet(path: Path, split: str) -> Iterator[ClassRow]:
    """
    Whole videos. One of several classes, which is rare, counts as that of its first segment. ActivityNet's file is
    described in http://activity-net.org/download.html, HACS' in https://github.com/hangzhaomit/HACS-dataset, whose
    `download_videos.py` puts v_ID.mp4 into the folder of each of its classes.
    """
    content = load_json(path)
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict):
        raise TableError(f'{path}: an object with "database" is needed.')
    for video, row in database.items():
        place = f"{path}, {video!r}"
        if _filled(row, "subset", place) != SUBSETS[split] or not row.get("annotations"):
            continue
        label = _filled(row["annotations"][0], "label", place)
        yield (f"v_{video}", video, *_in_folders(label, f"v_{video}")), label


def _in_folders(label: str, name: str) -> tuple[str, ...]:
    """The name in its label's folder, which may have _ for each space."""
    return tuple(dict.fromkeys((f"{label}/{name}", f"{label.replace(' ', '_')}/{name}")))


def _filled(row: Any, name: str, place: str) -> str:
    value = row.get(name) if isinstance(row, Mapping) else None
    if value is None or not str(value).strip():
        raise TableError(f"{place}: {name!r} is missing or empty.")
    return str(value).strip()


def _lines(path: Path, delimiter: str, fields: int) -> Iterator[tuple[str, list[str]]]:
    """The fields of each line of a file without a header."""
    if not path.is_file():
        raise TableError(f"{path}: there is no such file.")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for number, found in enumerate(csv.reader(file, delimiter=delimiter), start=1):
                found = [field.strip() for field in found]
                if len(found) < fields or not all(found[:fields]):
                    raise TableError(f"{path}, line {number}: {fields} fields between {delimiter!r} are needed.")
                yield f"{path}, line {number}", found
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: not a table in UTF-8 ({error}).") from error

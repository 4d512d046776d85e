"""The original code's JSON files of captions, questions and options -> rows, joined with their pictures.

    {split: {id: [caption, ...]}}                                          captions by id
    {split: [{"video": id, "caption": text}]}                              retrieval, captioning
    {split: [{"video": id, "question": text, "answer": number or text}]}   open-ended questions, blanks
    {split: [{"video": id, "question": text, "option_0": text, ..., "answer": number}]}   multiple choice
    {"vocab": [text, ...]}                                                 beside the splits: the answers, by number

Nothing is written or converted, and nothing in a file is run.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .class_annotations import ClassReader
from .folders import clips_below, clips_in
from .long_annotations import NamedRow, RowReader
from .sources import open_pickle, open_tsv
from .tables import Row, TableError, as_dataset, load_json

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

VOCABULARY = "vocab"
VOCABULARY_FILE = "ans2label.json"
BLANK = re.compile(r"\[MASK\]|_{2,}|<blank>", re.IGNORECASE)


def read_original(
    annotations: str | os.PathLike,
    pictures: str | os.PathLike,
    split: str,
    columns: Sequence[str] = ("video", "caption"),
    answers: str | os.PathLike | None = None,
) -> "Dataset":
    """
    One row per caption or question that has pictures: `id`, `video` (a text for `open_video`) and the columns of a
    task. What has no pictures is left out, and so are pictures that no row asks for; warnings count them.

    Args:
        annotations: the JSON file.
        pictures: a `.tsv`, a `.pkl`, or a folder of clips or frame folders that are named by id.
        split: of the JSON file.
        columns: the task's, as `TASKS` names them: with `options` multiple choice, with `caption` captions, with
            `text` fill in the blank, else open-ended questions. `("video",)` takes the file for what it looks like.
        answers: for answers that are numbers, the JSON file of their texts: a list, {text: number}, {number: text}. By
            default the annotations' own `vocab`, or `ans2label.json` beside them; without any, the numbers themselves
            are the answers.

    Raises:
        TableError: if a file cannot be used, or no row of the split has pictures.
    """
    return as_dataset(original_rows(annotations, pictures, split, columns, answers), f"{annotations}@{split}")


def original_rows(
    annotations: str | os.PathLike,
    pictures: str | os.PathLike,
    split: str,
    columns: Sequence[str] = ("video", "caption"),
    answers: str | os.PathLike | None = None,
) -> Iterator[Row]:
    """The rows of `read_original`, one by one."""
    path = Path(annotations)
    found = _find_pictures(Path(pictures))
    splits = _load_splits(path)
    vocabulary = _read_vocabulary(path, splits, answers)

    def rows() -> Iterator[Row]:
        return _task_rows(path, splits, split, tuple(columns), vocabulary)

    located = _with_pictures(rows, found, path, split, pictures)
    _warn_of_numbers(path, splits, split, vocabulary, columns)
    return located


def _with_pictures(
    rows: Callable[[], Iterator[Row]], found: "_Pictures", path: Path, split: str, pictures: str | os.PathLike
) -> Iterator[Row]:
    """
    The rows whose pictures are there, with `video`; warnings count the others.

    Args:
        rows: gives them with their `id`, each time it is called.

    Raises:
        TableError: if there are none, or none of them has pictures.
    """
    # Twice, since a list of very many rows would fill more memory than all that stays of them.
    counts = Counter(row["id"] for row in rows())
    if not counts:
        raise TableError(f"{path}: the split {split!r} has no rows.")
    lost = [name for name in counts if found.reference(name) is None]
    if len(lost) == len(counts):
        raise TableError(
            f"{path}, split {split!r}: none of its {counts.total()} rows has pictures in {pictures}: ids are like "
            f"{lost[0]!r} here and {next(found.names(), None)!r} there."
        )
    if lost:
        logger.warning(
            "%s, split %r: %d of %d rows have no pictures in %s; the first id is %r.",
            path, split, sum(counts[name] for name in lost), counts.total(), pictures, lost[0],
        )  # fmt: skip
    silent, first = 0, None
    for name in found.names():
        if name not in counts:
            silent, first = silent + 1, first or name
    if silent:
        logger.warning(
            "%s: %d of %d have no row in %s, split %r; the first id is %r.",
            pictures, silent, found.count, path, split, first,
        )  # fmt: skip
    located = ({**row, "video": found.reference(row["id"])} for row in rows())
    return (row for row in located if row["video"] is not None)


def _warn_of_numbers(
    path: Path, splits: Mapping[str, Any], split: str, vocabulary: Mapping[int, str], columns: Sequence[str]
) -> None:
    if vocabulary or "options" in columns:
        return
    answers = (row.get("answer") for _, row in _rows_of(path, splits, split) if "option_0" not in row)
    numbers = sum(isinstance(answer, int) for answer in answers)
    if numbers:
        logger.warning(
            "%s, split %r: %d answers are numbers and are taken as they are, since it has no %r, nor is %s beside it.",
            path, split, numbers, VOCABULARY, VOCABULARY_FILE,
        )  # fmt: skip


class _Pictures:
    """Where the clips of a file or folder are, by id."""

    def __init__(self, names: Callable[[], Iterator[str]], reference: Callable[[str], str | None], count: int):
        self.names, self.reference, self.count = names, reference, count


def _find_pictures(path: Path) -> _Pictures:
    path = path.absolute()
    if path.is_dir():
        clips = clips_in(path)

        def find(name: str) -> str | None:
            clip = clips.get(name) or clips.get(Path(name).stem)  # the id may have the file's suffix
            return None if clip is None else str(clip)

        return _Pictures(lambda: iter(clips), find, len(clips))
    if path.suffix == ".pkl":
        pickled = open_pickle(str(path))
        return _Pictures(
            lambda: iter(pickled), lambda name: f"{path}#{name}" if name in pickled else None, len(pickled)
        )
    tsv = open_tsv(str(path))
    return _Pictures(tsv.iterate_ids, lambda name: f"{path}#{name}" if name in tsv else None, len(tsv))


def published_rows(path: Path, pictures: Path, split: str, read: RowReader) -> "Dataset":
    """
    The rows of annotations as their authors publish them whose pictures are there: `id`, `video` and what the reader
    gives. The rest as of `read_original`.

    Args:
        pictures: a `.tsv`, a `.pkl`, or a folder of clips or frame folders, also in further folders.
        read: of `long_annotations`.
    """
    found = _find_below(pictures) if pictures.is_dir() else _find_pictures(pictures)

    def rows() -> Iterator[Row]:
        for names, row in read(path, split):
            name = next((name for name in names if found.reference(name) is not None), names[0])
            yield {"id": name, **row}

    return as_dataset(_with_pictures(rows, found, path, split, pictures), f"{path}@{split}")


def class_rows(path: Path, pictures: Path, split: str, read: ClassReader) -> "Dataset":
    """
    One row for each clip of published annotations of classes whose pictures are there: `id`, `video`, `label`, a list.
    The rest as of `published_rows`.

    Args:
        read: of `class_annotations`.
    """

    def labelled(path: Path, split: str) -> Iterator[NamedRow]:
        return ((names, {"label": [label]}) for names, label in read(path, split))

    return published_rows(path, pictures, split, labelled)


def _find_below(folder: Path) -> _Pictures:
    clips = clips_below(folder.absolute())

    def find(name: str) -> str | None:
        return str(clips[name]) if name in clips else None

    # No names: what no row asks for are the clips of the other splits, which lie in the same folder.
    return _Pictures(lambda: iter(()), find, len(clips))


def read_annotations(path: str | os.PathLike, split: str) -> Iterator[tuple[str, Row]]:
    """
    (its place for messages, row) of a split, as it stands there; `video` is its id. Captions by id give a row each.

    Raises:
        TableError: if the file is absent, no JSON or of another layout, or lacks the split.
    """
    path = Path(path)
    return _rows_of(path, _load_splits(path), split)


def _load_splits(path: Path) -> dict[str, Any]:
    splits = load_json(path)
    if not isinstance(splits, dict):
        raise TableError(f"{path}: an object with splits is needed, not {type(splits).__name__}.")
    return splits


def _rows_of(path: Path, splits: Mapping[str, Any], split: str) -> Iterator[tuple[str, Row]]:
    if split not in splits:
        raise TableError(f"{path}: there is no split {split!r}; it has {', '.join(splits) or 'none'}.")
    content = splits[split]
    if isinstance(content, dict):
        for name, captions in content.items():
            captions = [captions] if isinstance(captions, str) else captions
            place = f"{path}, split {split!r}, id {name!r}"
            if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
                raise TableError(f"{place}: a list of captions is needed, not {repr(captions)[:60]}.")
            for caption in captions:
                yield place, {"video": name, "caption": caption}
        return
    if not isinstance(content, list):
        raise TableError(f"{path}, split {split!r}: a list or an object is needed, not {type(content).__name__}.")
    for number, row in enumerate(content):
        place = f"{path}, split {split!r}, item {number}"
        if not isinstance(row, dict):
            raise TableError(f"{place}: an object with 'video' is needed, not {type(row).__name__}.")
        if not isinstance(row.get("video"), str | int):
            raise TableError(f"{place}: 'video' is missing or no text (it has {', '.join(row)}).")
        yield place, {**row, "video": str(row["video"])}


def _task_rows(
    path: Path, splits: Mapping[str, Any], split: str, columns: tuple[str, ...], vocabulary: Mapping[int, str]
) -> Iterator[Row]:
    """The rows of a task: `id` and its columns, but for `video`, and what else they have."""
    for place, row in _rows_of(path, splits, split):
        row["id"] = row.pop("video")
        if columns == ("video",):
            columns = _columns_of(row)
        if "options" in columns:
            yield _with_options(row, place)
            continue
        if "caption" in columns:
            captions = row.get("caption")
            for caption in captions if isinstance(captions, list) else [captions]:
                yield {**row, "caption": _text_of({"caption": caption}, "caption", place, row)}
            continue
        if "text" in columns:
            name = "text" if "text" in row else "question"
            row["text"] = BLANK.sub("[MASK]", _text_of(row, name, place))
            if name != "text":
                del row["question"]
        else:
            _text_of(row, "question", place)
        answer = row.get("answer")
        if not isinstance(answer, str | int) or isinstance(answer, bool):
            raise TableError(f"{place}: 'answer' is missing or neither text nor number (it has {', '.join(row)}).")
        if isinstance(answer, int) and vocabulary and answer not in vocabulary:
            raise TableError(f"{place}: the answer {answer} is none of the {len(vocabulary)} of the vocabulary.")
        yield {**row, "answer": vocabulary.get(answer, str(answer)) if isinstance(answer, int) else answer}


def _columns_of(row: Row) -> tuple[str, ...]:
    """What a row is there for, if no task says so."""
    if "options" in row or "option_0" in row:
        return ("options",)
    return next(((name,) for name in ("caption", "text") if name in row), ("question",))


def _text_of(row: Mapping[str, Any], name: str, place: str, whole: Mapping[str, Any] | None = None) -> str:
    if not isinstance(row.get(name), str) or not row[name].strip():
        raise TableError(f"{place}: {name!r} is missing or no text (it has {', '.join(whole or row)}).")
    return row[name]


def _with_options(row: Row, place: str) -> Row:
    """`option_0`, `option_1`, … (or `options`, a list) as `options`; `answer` as a number among them."""
    numbered = [name for name in row if re.fullmatch(r"option_\d+", name)]
    options = row.get("options", [row.get(f"option_{number}") for number in range(len(numbered))])
    if not isinstance(options, list) or len(options) < 2 or not all(isinstance(one, str) for one in options):
        has = f"it has {', '.join(row)}"
        raise TableError(f"{place}: two options or more are needed, texts named option_0, option_1, …; {has}.")
    answer = row.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(options):
        raise TableError(f"{place}: 'answer' is {answer!r}, not the number of one of its {len(options)} options.")
    question = row.get("question", "")
    if not isinstance(question, str):
        raise TableError(f"{place}: 'question' is no text: {question!r}.")
    rest = {name: value for name, value in row.items() if name not in numbered}
    return {**rest, "question": question, "options": options}


def _read_vocabulary(path: Path, splits: Mapping[str, Any], answers: str | os.PathLike | None) -> dict[int, str]:
    """The texts of answers that are numbers."""
    beside = path.parent / VOCABULARY_FILE
    if answers is None and VOCABULARY in splits:
        content = splits[VOCABULARY]
    elif answers is not None or beside.is_file():
        path = beside if answers is None else Path(answers)
        content = load_json(path)
    else:
        return {}
    if isinstance(content, list):
        content = dict(enumerate(content))
    if isinstance(content, dict) and all(isinstance(number, int) for number in content.values()):
        content = {number: text for text, number in content.items()}
    if not isinstance(content, dict) or not all(str(number).isdigit() for number in content):
        raise TableError(f"{path}: no answers and their numbers: a list, {{text: number}} or {{number: text}}.")
    return {int(number): str(text) for number, text in content.items()}

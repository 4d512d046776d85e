"""
The published annotations of long videos -> names of videos and their rows:

    activitynet_captions    train.json: {"v_ID": {"duration", "timestamps": [[start, end]], "sentences": [text]}}
    didemo                  train_data.json: [{"video": "….m4v", "description", "times", …}]
    queryd                  train_list.txt: video-ID, a line each; beside it raw_captions_combined_filtered.pkl:
                            {"video-ID": [[word, …], …]}
    condensed_movies        train_val_challf0.csv: videoid,caption,split,…; or clips.csv: videoid,…,imdbid, with
                            descriptions.csv and split.csv beside it
    how2qa                  how2qa_train_release.jsonl: {"vid_name", "q", "a0" … "a3", "answer_idx", "ts": "20.1-25.2"}
                            with how2_subtitles.jsonl and how2_vid_mapping.json beside it or one folder up; or
                            how2QA_train_release.csv:
                            video,[start:end],wrong,wrong,wrong,question,answer    without a header
    activitynet_qa          train_q.json: [{"video_name", "question", "question_id"}], with train_a.json beside it

Rows for retrieval have `caption`, the sentences in the file's order, one per line: models that read paragraphs split
them there, to others a line break is a space. Rows of How2QA have `span`, [start, end] in seconds of their video, and
`subtitles`, a list, if those are there.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..processing.sentences import real_sentences, split_sentences
from .class_annotations import _filled, _lines
from .pickles import read_pickle
from .tables import Row, TableError, iterate_table, load_json

NamedRow = tuple[tuple[str, ...], Row]
"""The names under which a video may lie, without a suffix, the first that is there counting, and its other columns."""
RowReader = Callable[[Path, str], Iterator[NamedRow]]
"""(file, split, "train", "val" or "test") -> the rows of that split."""

CAPTIONS_OF_QUERYD = tuple(f"raw_captions_combined_filtered{version}.pkl" for version in ("", "-v2", "-v1"))
SUBTITLES, CLIP_NAMES = "how2_subtitles.jsonl", "how2_vid_mapping.json"
OPTIONS = 4


def activitynet_captions(path: Path, split: str) -> Iterator[NamedRow]:
    """Whole videos, as of https://cs.stanford.edu/people/ranjaykrishna/densevid/, captions.zip."""
    content = load_json(path)
    if not isinstance(content, dict):
        raise TableError(f'{path}: an object {{"v_ID": video}} is needed, not {type(content).__name__}.')
    for video, row in content.items():
        sentences = row.get("sentences") if isinstance(row, Mapping) else None
        if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
            raise TableError(f"{path}, {video!r}: 'sentences' is missing or no list of texts.")
        yield (video, video.removeprefix("v_")), _paragraph(sentences, f"{path}, {video!r}")


def didemo(path: Path, split: str) -> Iterator[NamedRow]:
    """
    The descriptions of each video's moments, as of https://github.com/LisaAnne/LocalizingMoments, data/. Its scripts
    save a video under its whole name, suffix included, and a further suffix.
    """
    sentences: dict[str, list[str]] = {}
    for number, row in _objects(path):
        place = f"{path}, item {number}"
        sentences.setdefault(_filled(row, "video", place), []).append(_filled(row, "description", place))
    for video, described in sentences.items():
        yield (video, str(Path(video).with_suffix(""))), _paragraph(described, f"{path}, {video!r}")


def queryd(path: Path, split: str) -> Iterator[NamedRow]:
    """
    Audio descriptions by people, as of https://github.com/oncescuandreea/QuerYD_downloader; the lists of splits are in
    its QuerYD-experts archive.
    """
    if not path.is_file():
        raise TableError(f"{path}: there is no such file.")
    file = _beside(path, *CAPTIONS_OF_QUERYD)
    captions = read_pickle(file)
    if not isinstance(captions, dict):
        raise TableError(f"{file}: a pickle of sentences by their videos is needed, {{id: [[word, …], …]}}.")
    for line in path.read_text(encoding="utf-8").splitlines():
        video = line.strip()
        if not video:
            continue
        if not isinstance(captions.get(video), list | tuple):
            raise TableError(f"{path}: {video!r} has no list of sentences in {file.name}.")
        sentences = [words if isinstance(words, str) else " ".join(map(str, words)) for words in captions[video]]
        yield (video, video.removeprefix("video-")), _paragraph(sentences, f"{file}, {video!r}")


def condensed_movies(path: Path, split: str) -> Iterator[NamedRow]:
    """
    The paragraph about each clip of a film. The table of the challenge of 2021, as of
    https://github.com/m-bain/CondensedMovies-chall, or the first edition's of https://github.com/m-bain/CondensedMovies:
    there the splits are of films, and a paragraph that several clips have is left out, as its own code does it.
    """
    if path.name == "clips.csv":
        yield from _condensed_movies_first(path, split)
        return
    for number, row in iterate_table(path):
        place = f"{path}, line {number}"
        if _filled(row, "split", place) == split:
            text = _filled(row, "caption", place)
            yield (_filled(row, "videoid", place),), _paragraph(split_sentences(text), place)


def _condensed_movies_first(path: Path, split: str) -> Iterator[NamedRow]:
    splits = {row["imdbid"]: row["split"] for row in _table(path.with_name("split.csv"), "imdbid", "split")}
    films = {row["videoid"]: row["imdbid"] for row in _table(path, "videoid", "imdbid")}
    texts = {
        row["videoid"]: row["description"].strip()
        for row in _table(path.with_name("descriptions.csv"), "videoid", "description")
        if splits.get(films.get(row["videoid"], "")) == split and row["description"].strip()
    }
    uses = Counter(texts.values())
    for video in films:
        if video in texts and uses[texts[video]] == 1:
            yield (video,), _paragraph(split_sentences(texts[video]), f"{path}, {video!r}")


def how2qa(path: Path, split: str) -> Iterator[NamedRow]:
    """
    Questions with four options about a span of a video. VALUE's files (https://github.com/VALUE-Leaderboard/DataRelease,
    DATA.md) are about clips of 60 seconds, named by numbers, or by video and seconds once they are mapped; the first
    files (https://github.com/ych133/How2R-and-How2QA) about whole videos: there the right option, which stands last,
    gets a place that depends on the row only.
    """
    yield from _how2qa_first(path) if path.suffix == ".csv" else _how2qa_of_value(path)


def _how2qa_of_value(path: Path) -> Iterator[NamedRow]:
    spoken, names = (_beside_or_above(path, name) for name in (SUBTITLES, CLIP_NAMES))
    subtitles = None if spoken is None else _subtitles(spoken)
    mapped = {} if names is None else load_json(names)
    for number, row in iterate_table(path):
        place = f"{path}, line {number}"
        clip = _filled(row, "vid_name", place)
        absent = next((f"a{option}" for option in range(OPTIONS) if row.get(f"a{option}") is None), None)
        if absent is not None:
            raise TableError(f"{place}: {absent!r} is missing (it has {', '.join(row)}).")
        options = [str(row[f"a{option}"]).strip() for option in range(OPTIONS)]
        answer = row.get("answer_idx")
        if not isinstance(answer, int) or not 0 <= answer < OPTIONS:
            raise TableError(f"{place}: 'answer_idx' is {answer!r}, not the number of one of its {OPTIONS} options.")
        found: Row = {"question": _filled(row, "q", place), "options": options, "answer": answer}
        found["span"] = _span(_filled(row, "ts", place), "-", place)
        if subtitles is not None:
            found["subtitles"] = subtitles.get(clip, [])
        yield tuple(dict.fromkeys((clip, str(mapped.get(clip, clip))))), found


def _how2qa_first(path: Path) -> Iterator[NamedRow]:
    for place, fields in _lines(path, ",", 1):
        if len(fields) != 7:
            raise TableError(f"{place}: 7 fields between ',' are needed, not {len(fields)}.")
        video, times, *wrong, question, right = fields
        if not (question and right):
            raise TableError(f"{place}: the question or its right answer, the last two fields, are empty.")
        options, answer = wrong, blake2b("\t".join(fields).encode()).digest()[0] % OPTIONS
        options.insert(answer, right)
        span = _span(times.removeprefix("[").removesuffix("]"), ":", place)
        yield (video,), {"question": question, "options": options, "answer": answer, "span": span}


def activitynet_qa(path: Path, split: str) -> Iterator[NamedRow]:
    """
    Open questions about whole videos, as of https://github.com/MILVLG/activitynet-qa, dataset/. `question_type` is the
    file's number: 0 motion, 1 space, 2 time, 3 yes or no, 4 colour, 5 object, 6 place, 7 number, 8 other.
    """
    answers_file = path.with_name(path.name.replace("_q.json", "_a.json"))
    answers = {}
    for number, row in _objects(answers_file):
        answers[_filled(row, "question_id", f"{answers_file}, item {number}")] = row
    for number, row in _objects(path):
        place = f"{path}, item {number}"
        name = _filled(row, "question_id", place)
        if name not in answers:
            raise TableError(f"{place}: {answers_file.name} has no answer to the question {name!r}.")
        answered = answers[name]
        found = {"question": _filled(row, "question", place), "answer": _filled(answered, "answer", place)}
        video = _filled(row, "video_name", place)
        yield (f"v_{video}", video), {**found, "question_type": str(answered.get("type", ""))}


def _paragraph(sentences: list[str], place: str) -> Row:
    """`caption` of a video: its sentences, one per line."""
    sentences = real_sentences(sentences)
    if not sentences:
        raise TableError(f"{place}: it has no sentence.")
    return {"caption": "\n".join(sentences)}


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    content = load_json(path)
    if not isinstance(content, list):
        raise TableError(f"{path}: a list of objects is needed, not {type(content).__name__}.")
    return enumerate(content)


def _table(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    """The rows of a CSV table that has these columns."""
    for number, row in iterate_table(path):
        absent = next((column for column in columns if row.get(column) is None), None)
        if absent is not None:
            raise TableError(f"{path}, line {number}: {absent!r} is missing.")
        yield row


def _beside(path: Path, *names: str) -> Path:
    """The first of these files that is in a file's folder."""
    files = [path.with_name(name) for name in names]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise TableError(
            f"{files[0]}: missing. It belongs to {path.name}; it may also be named {', '.join(names[1:])}."
        )
    return found


def _beside_or_above(path: Path, name: str) -> Path | None:
    """A file in another's folder, or in the folder that that one is in."""
    return next((file for file in (path.with_name(name), path.parent.parent / name) if file.is_file()), None)


def _subtitles(path: Path) -> dict[str, list[str]]:
    """By clip, in the order of their starts: lines {"vid_name", "sub": [{"text", "start", "end"}]}."""
    found: dict[str, list[str]] = {}
    for number, row in iterate_table(path):
        place = f"{path}, line {number}"
        lines = row.get("sub")
        if not isinstance(lines, list) or not all(isinstance(line, Mapping) for line in lines):
            raise TableError(f"{place}: 'sub' is missing or no list of subtitles: {json.dumps(lines)[:60]}.")
        in_order = sorted(lines, key=lambda line: line.get("start", 0))
        found[_filled(row, "vid_name", place)] = real_sentences(str(line.get("text", "")) for line in in_order)
    return found


def _span(text: str, mark: str, place: str) -> list[float] | None:
    """[start, end] of "start-end"; None if either is nan."""
    try:
        start, end = map(float, text.split(mark))
    except ValueError as error:
        raise TableError(f"{place}: {text!r} is no start{mark}end in seconds.") from error
    return [start, end] if math.isfinite(start) and math.isfinite(end) else None

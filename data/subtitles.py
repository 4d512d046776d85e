"""Subtitles in files, SRT and WebVTT: what is said, and from which second to which."""

import re
from pathlib import Path
from typing import NamedTuple

from .tables import TableError

SUFFIXES = (".srt", ".vtt")
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_CUE = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}")
_MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")


class Sentence(NamedTuple):
    """
    Attributes:
        start, end: in seconds.
        text: without line breaks and markup.
    """

    start: float
    end: float
    text: str


def read_subtitles(path: Path) -> list[Sentence]:
    """
    The subtitles of a `.srt` or `.vtt`, in the order of their starts; those that say nothing are left out. A subtitle
    that repeats the one before it, as scrolling ones do, is one with it.

    Raises:
        TableError: for a file that is absent, of another kind, not UTF-8, without subtitles, or has one that ends
            before it starts.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise TableError(f"{path}: subtitles are read from {' and '.join(SUFFIXES)}.")
    if not path.is_file():
        raise TableError(f"{path}: there is no such file.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from error
    found: list[Sentence] = []
    for number, line in enumerate(lines):
        cue = _CUE.match(line)
        if cue is None:
            continue
        times = cue.groups()
        start, end = _seconds(*times[:4]), _seconds(*times[4:])
        if end <= start:
            raise TableError(f"{path}, line {number + 1}: the subtitle ends at {end:g} s and starts at {start:g} s.")
        spoken = []
        for text in lines[number + 1 :]:
            if not text.strip() or _CUE.match(text):
                break
            spoken.append(text)
        words = " ".join(_MARKUP.sub("", " ".join(spoken)).split())
        if words:
            found.append(Sentence(start, end, words))
    if not found:
        raise TableError(f"{path}: it has no subtitle (lines such as 00:00:01.000 --> 00:00:04.000 and its text).")
    return _without_repeats(sorted(found))


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000


def _without_repeats(sentences: list[Sentence]) -> list[Sentence]:
    kept = sentences[:1]
    for one in sentences[1:]:
        if one.text == kept[-1].text:
            kept[-1] = kept[-1]._replace(end=max(one.end, kept[-1].end))
        else:
            kept.append(one)
    return kept

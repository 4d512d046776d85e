"""`violet prepare clips`: long videos with the times of their sentences -> a clip of frames for each sentence."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..core.files import new_folder, write_text
from ..processing.decoder_process import DecoderProcess
from .loading import TIME_LIMIT_SECONDS
from .subtitles import Sentence, read_subtitles
from .tables import TableError, iterate_table, load_json

DIDEMO_SECONDS = 5
"""Of a segment: DiDeMo's times are numbers of segments."""


@dataclass(frozen=True)
class CutClips:
    """What `cut_clips` did: videos, clips, and how many of these were cut now."""

    videos: int
    clips: int
    cut: int


def cut_clips(
    source: str | os.PathLike,
    output: str | os.PathLike,
    num_frames: int,
    video_folder: str | os.PathLike | None = None,
) -> CutClips:
    """
    Writes a folder of frames for each sentence of each video, and `clips.jsonl`, whose rows (`video`, `caption`,
    `source`, `start`, `end`) are what `group_clips` takes. The same call goes on after an interruption.

    Args:
        source: a table with `video` and `subtitles`, a `.srt` or `.vtt` each; or the `.json` of ActivityNet Captions
            ({"v_ID": {"timestamps", "sentences"}}) or of DiDeMo ([{"video", "description", "times"}]).
        output: the folder.
        num_frames: of each clip, evenly from its first second to its last.
        video_folder: where a table's relative videos start, by default its own folder; where the videos are that the
            `.json` names, with any suffix.

    Raises:
        TableError: for a source or subtitles that cannot be used, naming file and row; for a video that is absent, or
            ends before a sentence starts.
        VideoDecodeError: for one that cannot be read.
    """
    source, output = Path(source), Path(output)
    if num_frames < 1:
        raise TableError(f"--num_frames: must be 1 or more, got {num_frames}.")
    videos = list(_sentences_by_video(source, Path(video_folder) if video_folder is not None else None))
    output.mkdir(parents=True, exist_ok=True)
    decoder, rows, cut = DecoderProcess(TIME_LIMIT_SECONDS), [], 0
    for name, video, sentences in videos:
        for sentence in sentences:
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise TableError(f"{source}: the video's name {name!r} leads out of the folder that is written.")
            folder = output / f"{name}@{sentence.start:.3f}-{sentence.end:.3f}"
            if not folder.is_dir():
                _cut(decoder, video, sentence, folder, num_frames)
                cut += 1
            row = {"video": folder.name, "caption": sentence.text, "source": name}
            rows.append(json.dumps({**row, "start": sentence.start, "end": sentence.end}, ensure_ascii=False))
    write_text(output / "clips.jsonl", "\n".join(rows) + "\n")
    return CutClips(len(videos), len(rows), cut)


def _cut(decoder: DecoderProcess, video: Path, sentence: Sentence, folder: Path, num_frames: int) -> None:
    def choose(total: int, fps: float | None) -> np.ndarray:
        if not fps:
            raise TableError(f"{video}: it does not say how many frames a second it has.")
        first, last = sentence.start * fps, min(sentence.end * fps, total)
        if first >= total:
            raise TableError(
                f"{video}: a sentence starts at {sentence.start:g} s, and the video ends at {total / fps:g} s: "
                f"{sentence.text[:60]!r}."
            )
        places = first + (np.arange(num_frames) + 0.5) * (last - first) / num_frames
        return np.minimum(places.astype(np.int64), total - 1)

    frames = decoder.decode(str(video), choose, "auto", str(video)).frames
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as partial:
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(partial / f"{number:04}.jpg", quality=95)


def _sentences_by_video(source: Path, videos: Path | None) -> Iterator[tuple[str, Path, list[Sentence]]]:
    """(name, file, sentences in the order of their starts) of each video."""
    content = load_json(source) if source.suffix == ".json" else None
    if isinstance(content, Mapping):
        found = _activitynet(source, content)
    elif isinstance(content, list) and content and "description" in content[0]:
        found = _didemo(source, content)
    else:
        yield from _with_subtitles(source, videos)
        return
    if videos is None:
        raise TableError(f"{source}: it names videos without their folder: give --video_folder.")
    files = {file.stem: file for file in sorted(videos.rglob("*")) if file.is_file()}
    for name, sentences in found.items():
        names = (Path(name).stem, Path(Path(name).stem).stem, Path(name).stem.removeprefix("v_"))
        file = next((files[one] for one in names if one in files), None)
        if file is None:
            raise TableError(f"{source}, {name!r}: there is no such video in {videos}.")
        yield name, file, sorted(sentences)


def _with_subtitles(source: Path, videos: Path | None) -> Iterator[tuple[str, Path, list[Sentence]]]:
    known: dict[str, int] = {}
    for number, row in iterate_table(source):
        place = f"{source}, row {number}"
        for column in ("video", "subtitles"):
            if not str(row.get(column) or "").strip():
                raise TableError(f"{place}: column {column!r} is missing or empty (it has {', '.join(row)}).")
        video = (videos or source.parent) / str(row["video"])
        if not video.is_file():
            raise TableError(f"{place}: there is no video {video}.")
        if known.setdefault(video.stem, number) != number:
            raise TableError(f"{place}: row {known[video.stem]} has a video named {video.stem!r}, too.")
        try:
            yield video.stem, video, read_subtitles(source.parent / str(row["subtitles"]))
        except TableError as error:
            raise TableError(f"{place}: {error}") from error


def _activitynet(source: Path, content: Mapping[str, Any]) -> dict[str, list[Sentence]]:
    found = {}
    for video, row in content.items():
        times, texts = row.get("timestamps"), row.get("sentences")
        if not isinstance(times, list) or not isinstance(texts, list) or len(times) != len(texts) or not texts:
            raise TableError(f"{source}, {video!r}: as many 'timestamps' as 'sentences' are needed, one at least.")
        place = f"{source}, {video!r}"
        if not all(isinstance(span, list) and len(span) == 2 for span in times):
            raise TableError(f"{place}: each of 'timestamps' is [start, end].")
        found[video] = [_sentence(place, start, end, text) for (start, end), text in zip(times, texts, strict=True)]
    return found


def _didemo(source: Path, content: list[Any]) -> dict[str, list[Sentence]]:
    """Of the people's times for a description the most frequent, the first of several."""
    found: dict[str, list[Sentence]] = {}
    for number, row in enumerate(content):
        place, times = f"{source}, item {number}", row.get("times")
        if not row.get("video") or not row.get("description") or not times:
            raise TableError(f"{place}: 'video', 'description' and 'times' are needed.")
        first, last = Counter(map(tuple, times)).most_common(1)[0][0]
        span = (DIDEMO_SECONDS * first, DIDEMO_SECONDS * (last + 1))
        found.setdefault(row["video"], []).append(_sentence(place, *span, row["description"]))
    return found


def _sentence(place: str, start: Any, end: Any, text: str) -> Sentence:
    times = (float(start), float(end))
    if not all(map(math.isfinite, times)) or times[0] < 0 or times[1] <= times[0]:
        raise TableError(f"{place}: a sentence goes from {start} to {end} s.")
    return Sentence(*times, " ".join(str(text).split()))

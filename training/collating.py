"""Rows of a table -> a batch of tensors. It runs in the data loader's workers, where the videos are decoded."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..data.loading import SAMPLE_ERRORS, Clip, ClipReader, FailedSample, doubts_of
from ..data.sources import video_name
from ..modeling_violet.losses import IGNORE_INDEX
from ..processing import VideoDecodeError, VideoTextProcessor
from ..processing.decoding import describe_source
from ..processing.sound import no_sound
from ..processing.video_processing_violet import RAW_PIXELS
from .sampling import NumberedRows, number_of_name

MOST_SPARES = 100
"""Rows that are tried in the place of a batch that cannot be read."""


class VideoTextCollator:
    """
    Rows with a `video` and texts -> what a model takes. A video is decoded once for all its rows. It may be whatever
    `open_video` or `decode_video` takes: a path, the dictionary or the decoder of a `datasets.Video`, …

    Rows with a `draw` (see `DrawnRows`) are rows to train on: frames and crops are drawn if the processor says so.
    A row whose video cannot be read raises an error, or with `skip_bad`:

    - in training it is left out. A batch that loses all its rows takes the next row of `spare_rows` that can be read.
    - in evaluation it keeps its place, so that predictions stay in the rows' order, with black frames, the label −100
      and True in `unread`.

    `failed`, a list of `FailedSample`, then says which; `VioletTrainer` takes it out and counts. If the model hears,
    it also has a `LackingSound` for each row whose sound is missing or short: that part is masked; and an
    `OtherFrames` for each row whose file promises another number of frames than it has.

    Args:
        processor: makes tensors of videos and texts.
        reader: of the videos; by default one that keeps nothing.
        shuffle_frames: whether to put each video's frames into another order, drawn from its path, as a test of
            whether a model looks at time.
        name_videos: whether a batch has `videos`, their names, which `VioletTrainer` takes out for its messages.
        skip_bad: what happens to rows whose video cannot be read.
        test_clips: clips of each video, each with other frames: every row comes as many times, one behind the other,
            and `test_clips` stands in the batch. `VioletTrainer` averages their scores.

    Attributes:
        raw_pixels: whether the pictures stay uint8, so that a worker hands over a quarter of the bytes.
            `VioletTrainer` sets it, and normalises them on its device.
    """

    def __init__(
        self,
        processor: VideoTextProcessor,
        reader: ClipReader | None = None,
        shuffle_frames: bool = False,
        name_videos: bool = False,
        skip_bad: bool = False,
        test_clips: int = 1,
    ):
        self.processor = processor
        self.reader = ClipReader(processor.video_processor) if reader is None else reader
        self.shuffle_frames = shuffle_frames
        self.name_videos = name_videos
        self.skip_bad = skip_bad
        self.test_clips = test_clips
        self.spare_rows: NumberedRows | None = None
        self.raw_pixels = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        What the processor makes of videos, such as `pixel_values_videos` (videos, frames, 3, height, width), and of
        their sound, if it `hears`; `video_index` (rows,) and what `texts` gives.
        """
        rows = [{**row, "test_clip": number} for row in map(_named, rows) for number in range(self.test_clips)]
        clips, failed = self._read(rows)
        unread = [_clip_of(row) not in clips for row in rows]
        if failed and "draw" in rows[0]:
            rows = [row for row, lost in zip(rows, unread, strict=True) if not lost] or [self._spare(rows, clips)]
            unread = []
        first_rows: dict[tuple[str, int], Mapping[str, Any]] = {}
        for row in rows:
            first_rows.setdefault(_clip_of(row), row)
        numbers = {clip: number for number, clip in enumerate(first_rows)}
        batch: dict[str, Any] = {"video_index": torch.tensor([numbers[_clip_of(row)] for row in rows])}
        batch |= self.texts(rows, list(first_rows.values()))
        found = [clips[clip] if clip in clips else self._black() for clip in first_rows]
        frames = [clip.frames for clip in found]
        draws = [row["video_draw"] for row in first_rows.values()] if "video_draw" in rows[0] else None
        settings: dict[str, Any] = {
            "do_sample_frames": False,
            "draws": draws,
            **(RAW_PIXELS if self.raw_pixels else {}),
        }
        if self.shuffle_frames:
            frames = [shuffled(clip, video) for clip, (video, _) in zip(frames, first_rows, strict=True)]
        if self.processor.video_processor.hears:
            settings["sound"] = [clip.sound for clip in found]
        split = "train" if "draw" in rows[0] else "evaluation"
        failed = failed + [
            doubt
            for row in rows
            if _clip_of(row) in clips and row.get("test_clip", 0) == 0
            for doubt in doubts_of(split, row.get("row"), row["video_name"], clips[_clip_of(row)])
        ]
        batch |= self.processor(videos=frames, **settings)
        if self.name_videos:
            batch["videos"] = list(dict.fromkeys(video for video, _ in first_rows))
        if self.test_clips > 1:
            batch["test_clips"] = self.test_clips
        if failed:
            batch["failed"] = failed
        if any(unread):
            batch["unread"] = torch.tensor(unread)
            if "labels" in batch:
                batch["labels"][batch["unread"]] = IGNORE_INDEX
        return batch

    def _read(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[tuple[str, int], Clip], list[FailedSample]]:
        """Each video (and test clip) of the rows, and of the rows those whose video cannot be read."""
        clips: dict[tuple[str, int], Clip] = {}
        reasons: dict[tuple[str, int], str] = {}
        for row in rows:
            clip = _, number = _clip_of(row)
            if clip in clips or clip in reasons:
                continue
            try:
                test_clip, draw = (number, self.test_clips), row.get("video_draw")
                clips[clip] = self.reader.read(row["video"], None, draw, test_clip, row.get("row"))
            except SAMPLE_ERRORS as error:
                if not self.skip_bad:
                    raise
                reasons[clip] = str(error)
        split = "train" if "draw" in rows[0] else "evaluation"
        return clips, [
            FailedSample(split, row.get("row"), row["video_name"], reasons[_clip_of(row)])
            for row in rows
            if _clip_of(row) in reasons
        ]

    def _spare(self, lost: Sequence[Mapping[str, Any]], clips: dict[tuple[str, int], Clip]) -> dict[str, Any]:
        """A row in the place of a batch that could not be read; its clip is added to `clips`."""
        draws = {name: lost[0][name] for name in ("draw", "video_draw", "test_clip") if name in lost[0]}
        for row in rows_after(lost[-1]["row"], self.spare_rows):
            spare = {**_named(row), **draws}
            read, _ = self._read([spare])
            if read:
                clips |= read
                return spare
        raise unreadable(lost[-1])

    def _black(self) -> Clip:
        """In the place of a video that cannot be read."""
        frames = self.processor.video_processor
        black = np.zeros((frames.num_frames, frames.size["height"], frames.size["width"], 3), np.uint8)
        return Clip(black, [], no_sound(frames.num_samples) if frames.hears else None)

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        What a batch has beside its videos.

        Args:
            rows: those of the batch.
            first_rows: the first row of each video.
        """
        raise NotImplementedError


def _named(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with `video_name`; a video that has none of its own is told by where it is in memory."""
    video = row["video"]
    return {**row, "video_name": video_name(video) or f"{describe_source(video)} at {id(video):#x}"}


def _clip_of(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["video_name"], row.get("test_clip", 0)


def rows_after(number: int, rows: Any) -> Iterator[Mapping[str, Any]]:
    """The rows that may stand in for a batch of which none can be read: the next ones, up to `MOST_SPARES`."""
    for step in range(1, 1 + min(MOST_SPARES, 0 if rows is None else len(rows))):
        yield rows[(number + step) % len(rows)]


def unreadable(row: Mapping[str, Any]) -> VideoDecodeError:
    """The error if none of those can be read either: that many bad samples are no accident."""
    return VideoDecodeError(
        f"{describe_source(row['video'])} (row {row.get('row')})",
        f"none of the rows of its batch, nor of up to {MOST_SPARES} after them, can be read",
        "Are the videos where the table says?",
    )


def video_ids(first_rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """(videos,), numbers of their names, by which processes that train together know a video again."""
    numbers = np.array([number_of_name(row["video_name"]) for row in first_rows], np.uint64)
    return torch.from_numpy(numbers.astype(np.int64))


def shuffled(frames: np.ndarray, name: str) -> np.ndarray:
    """(frames, ...) in another order, which depends only on `name`; a single frame stays as it is."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    order = np.arange(len(frames))
    while len(frames) > 1 and (order == np.arange(len(frames))).all():
        order = generator.permutation(len(frames))
    return frames[order]

"""Clips for the data loader's workers: read within a time limit, kept while there is room, counted if damaged."""

import contextlib
import fcntl
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ..core.files import write_text
from ..processing import decoder_process
from ..processing.decoded_video import MOST_KEPT_PIXELS, DecodedVideo, Sound, VideoDecodeError
from ..processing.decoder_process import DecoderProcess
from ..processing.decoding import decode_video, describe_source, encoded_file
from ..processing.joined_clips import clips_of
from ..processing.sound import decode_with_sound, join_sounds, no_sound
from .sources import open_video, video_name
from .tables import TableError

if TYPE_CHECKING:
    from ..processing import VioletVideoProcessor

logger = logging.getLogger(__name__)

FAILED_FILE = "failed_samples.jsonl"
SOUND_FILE = "sound_report.jsonl"
FRAMES_FILE = "frames_report.jsonl"
TIME_LIMIT_SECONDS = 60.0
MAX_BAD_SHARE = 0.01
SAMPLE_ERRORS = (VideoDecodeError, TableError)
"""What a sample that cannot be read raises; anything else is no fault of the sample."""

MIDDLE = (1, 3)
"""The second of three test clips of one frame, whichever way frames are sampled: half of the video lies before it."""
_ENTRY_BYTES = 1024  # what a clip in the cache takes beside its frames
_SHOWN = 5
_BORNE = 10  # bad samples are borne at the beginning, where one of the first few would be a large share
_SECONDS_UNTIL_TOLD = 5


class Clip(NamedTuple):
    """
    Attributes:
        frames: (frames, height, width, 3) uint8.
        indices: their numbers in the video.
        sound: that of the clip; None if the processor's model does not hear.
        counts: (promised, found) frames of the video, if its file promises another number than it has.
    """

    frames: np.ndarray
    indices: list[int]
    sound: Sound | None = None
    counts: tuple[int, int] | None = None


class ClipReader:
    """
    The sampled frames of a video, wherever it lies, and its sound if the processor `hears`. Files, folders and URLs
    are decoded in a process that each of the data loader's workers starts for itself (see `DecoderProcess`) and that
    is killed when a video takes too long; pictures in memory, such as a TSV's, and torchcodec's decoders are decoded
    in the worker.

    Frames stay in memory until they fill `cache_bytes`: the videos of a small table are decoded in the first epoch
    only. Entries are never evicted: each video is read once per epoch, so no eviction order would do better. Frames
    that are drawn in each epoch are not kept.

    Args:
        video_processor: says which frames are taken.
        cache_bytes: how much memory decoded frames may take, in each worker.
        time_limit: seconds that the decoding of one video may take.

    Raises:
        ValueError: for a processor that samples by `fps`.
    """

    def __init__(
        self, video_processor: "VioletVideoProcessor", cache_bytes: int = 0, time_limit: float = TIME_LIMIT_SECONDS
    ):
        if video_processor.fps is not None:
            raise ValueError(
                f"This processor takes frames at a rate (`fps` {video_processor.fps:g}), and of each video as many as "
                "it is long; batches need `num_frames` of each: make one with `num_frames` instead."
            )
        self.video_processor = video_processor
        self.free = cache_bytes
        self.clips: dict[tuple, Clip] = {}
        self.decoder = DecoderProcess(time_limit)
        self.held = HeldSamples()

    @property
    def stall_limit(self) -> float:
        """
        Seconds after which a worker that has not taken up another sample is stopped or hangs: a sample may take as
        long as its decoder may need to start, and to decode.
        """
        return decoder_process.START_SECONDS + self.decoder.time_limit

    def read(
        self,
        video: Any,
        num_frames: int | None = None,
        draw: int | None = None,
        test_clip: tuple[int, int] = (0, 1),
        row: int | None = None,
        share: int = 1,
        name: str | None = None,
    ) -> Clip:
        """
        Args:
            video: what a row's `video` may be, see `open_video`.
            num_frames: how many; by default as many as the processor says.
            draw, test_clip: which, see `VioletVideoProcessor.sample_frames`.
            row: the number of the video's row, for messages.
            share: how many clips share the samples of sound that the processor asks for; 0 to read no sound.
            name: what messages call the video, such as the `video` of a row of a `ShardStream`, whose `clip` is read.

        Raises:
            VideoDecodeError, TableError: the video cannot be read; the message names it and its row.
        """
        processor = self.video_processor
        heard = processor.heard if share else None
        heard = None if heard is None else (heard[0], heard[1] // share)
        num_frames = num_frames or processor.num_frames
        draw = None if processor.frame_sampling == "even" else draw
        parts = clips_of(video)
        if parts is not None:
            return self._read_clips(parts, num_frames, draw, test_clip, row)
        known = video_name(video)
        key = known, num_frames, test_clip, heard
        if draw is None and key in self.clips:
            return self.clips[key]
        name = describe_source(video) if name is None else name
        name = name if row is None else f"{name} (row {row})"
        self.held.note(name)

        def sample(total_frames: int, fps: float | None) -> np.ndarray:
            return processor.sample_frames(_Length(total_frames, fps), num_frames, draw, test_clip)

        decoded = self._decode(video, sample, name, row, heard)
        promised = decoded.promised_frames
        counts = None if promised is None else (promised, decoded.total_frames)
        clip = Clip(decoded.frames, decoded.indices.tolist(), decoded.sound, counts)
        taken = clip.frames.nbytes + _ENTRY_BYTES + (0 if clip.sound is None else clip.sound.nbytes)
        if draw is None and known is not None and taken <= self.free:
            self.clips[key] = clip
            self.free -= taken
        return clip

    def read_middle(self, video: Any, row: int | None = None) -> Clip:
        """
        The frame in the middle of a video, that of the number frames // 2; the arguments are those of `read`.

        Raises:
            VideoDecodeError, TableError: the video cannot be read, or consists of several clips.
        """
        if clips_of(video) is not None:
            place = "" if row is None else f"Row {row}: "
            raise TableError(f"{place}the video consists of several clips, and has no middle frame.")
        return self.read(video, 1, test_clip=MIDDLE, row=row, share=0)

    def _read_clips(
        self, clips: list[str], num_frames: int, draw: int | None, test_clip: tuple[int, int], row: int | None
    ) -> Clip:
        """As `read`, of a video that consists of several clips: equally many frames of each, one after the other."""
        place = "" if row is None else f"Row {row}: "
        if not clips or num_frames % len(clips):
            raise TableError(
                f"{place}the video has {len(clips)} clips, and `num_frames` {num_frames} is no multiple of that."
            )
        share = len(clips)
        samples = 0 if self.video_processor.heard is None else self.video_processor.heard[1]
        if samples % share:
            raise TableError(
                f"{place}the video has {share} clips, and `num_samples` {samples} is no multiple of that."
            )
        read = [self.read(clip, num_frames // share, draw, test_clip, row, share) for clip in clips]
        sizes = {clip.frames.shape[1:] for clip in read}
        if len(sizes) > 1:
            shown = " and ".join(f"{size[1]} x {size[0]}" for size in sorted(sizes))
            raise TableError(f"{place}the clips {', '.join(clips)} have frames of unequal sizes ({shown}).")
        sounds = [clip.sound for clip in read if clip.sound is not None]
        frames, indices = np.concatenate([clip.frames for clip in read]), [i for clip in read for i in clip.indices]
        counts = [clip.counts for clip in read if clip.counts is not None]
        return Clip(frames, indices, join_sounds(sounds) if sounds else None, counts[0] if counts else None)

    def _decode(self, video: Any, sample, name: str, row: int | None, heard: tuple[int, int] | None) -> DecodedVideo:
        try:
            return decode_reference(self.decoder, video, sample, self.video_processor.decode_backend, name, heard)
        except TableError as error:
            raise error if row is None else TableError(f"Row {row}: {error}") from error


def decode_reference(
    decoder: DecoderProcess,
    video: Any,
    sample: Callable,
    backend: str = "auto",
    name: str | None = None,
    heard: tuple[int, int] | None = None,
) -> DecodedVideo:
    """
    The chosen frames of what a row's `video` names, or is, and its sound if it is asked for; the arguments are those
    of `decode_video`. Files are decoded by `decoder`, within its time limit.

    Args:
        heard: (sampling_rate, num_samples) of the sound, see `decode_with_sound`.

    Raises:
        VideoDecodeError, TableError: it cannot be read.
    """
    name = name or describe_source(video)
    source: Any = open_video(encoded_file(video, name))
    if isinstance(source, str | os.PathLike | bytes):
        return decoder.decode(source, sample, backend, name, heard, MOST_KEPT_PIXELS)
    if heard is None:
        return decode_video(source, sample, backend, name, most_pixels=MOST_KEPT_PIXELS)
    rate, count = heard
    length = {"sampling_rate": rate, "num_samples": count}
    decoded = decode_with_sound(source, sample, backend, name=name, **length, most_pixels=MOST_KEPT_PIXELS)
    return decoded if decoded.sound is not None else replace(decoded, sound=no_sound(count))


class _Length(NamedTuple):
    """The part of transformers' `VideoMetadata` that the choice of frames reads."""

    total_num_frames: int
    fps: float | None


class HeldSamples:
    """
    The sample that each worker is reading, in memory that the processes share: it outlives a worker that is killed,
    and nothing of it is left when all of them are.
    """

    PLACES, BYTES = 1024, 1024  # untouched ones take no memory

    def __init__(self) -> None:
        self._shared = torch.zeros(self.PLACES, self.BYTES, dtype=torch.uint8).share_memory_()
        self._times = torch.zeros(self.PLACES, dtype=torch.float64).share_memory_()

    def note(self, sample: str) -> None:
        """Says what this process begins to read."""
        text = f"{os.getpid()} {sample}".encode(errors="backslashreplace").replace(b"\0", b"")[: self.BYTES - 1]
        place = self._shared[os.getpid() % self.PLACES].numpy()
        place[: len(text) + 1] = np.frombuffer(text + b"\0", np.uint8)
        self._times[os.getpid() % self.PLACES] = time.time()

    def of(self, process: int) -> str | None:
        """The sample that the process of that number began last; None if it began none."""
        text = self._shared[process % self.PLACES].numpy().tobytes().split(b"\0", 1)[0].decode(errors="replace")
        number, _, sample = text.partition(" ")
        return sample if number == str(process) else None

    def last_taken(self) -> float:
        """When any process took up a sample last, in seconds since the epoch; 0 if none did."""
        return float(self._times.max())


class WorkerDiedError(RuntimeError):
    """A process of the data loader is gone; the message names the sample that it held."""


@contextlib.contextmanager
def explained_workers(reader: ClipReader | None) -> Iterator[None]:
    """
    Turns errors of a data loader's workers into clear ones: the message of a bad sample, not a worker's traceback; for
    a worker that dies, the sample that it was reading.

    Args:
        reader: the collator's. Without one, errors pass as they are.

    Raises:
        WorkerDiedError: if a worker was killed.
    """
    try:
        try:
            yield
        except (ConnectionError, EOFError):  # it died while it handed a batch over:
            time.sleep(_SECONDS_UNTIL_TOLD)  # torch's handler of SIGCHLD says so, and ends this
            raise
    except SAMPLE_ERRORS as error:
        traceback, _, message = str(error).rpartition(f"{type(error).__name__}: ")
        if not traceback.startswith("Caught "):
            raise
        raise type(error)(message.strip()) from error
    except RuntimeError as error:
        found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*?)\.?\s*$", str(error), re.DOTALL)
        if found is None or reader is None:
            raise
        processes = [int(number) for number in found[1].split(",")]
        held = " and ".join(reader.held.of(process) or "nothing yet" for process in processes)
        raise WorkerDiedError(
            f"A process that loads data is gone (process {found[1]} {found[2]}). It had taken up: {held}. Was the "
            "memory full? Fewer workers, or a smaller frame cache, take less."
        ) from error


@dataclass(frozen=True)
class FailedSample:
    """
    A sample that could not be read.

    Attributes:
        rows: which rows it is one of, such as `train`.
        row: its number among them, from 0; None if they have no numbers.
        video: as its row names it.
        reason: what is wrong, a whole sentence that names the file.
    """

    rows: str
    row: int | None
    video: str
    reason: str


@dataclass(frozen=True)
class LackingSound(FailedSample):
    """
    A sample that was read, and has no sound, or less of it than frames.

    Attributes:
        seconds: how much is missing of what a clip should have; None if the file has no sound.
    """

    seconds: float | None = None


@dataclass(frozen=True)
class OtherFrames(FailedSample):
    """
    A sample that was read, and whose file promises another number of frames than it has.

    Attributes:
        promised, found: the two numbers.
    """

    promised: int = 0
    found: int = 0


def doubts_of(rows: str, row: int | None, video: str, clip: Clip) -> list[Any]:
    """What is to be told of a sample that was read: an `OtherFrames`, a `LackingSound`, or nothing."""
    doubts: list[Any] = lacking_sound(rows, row, video, clip.sound)
    if clip.counts is not None:
        promised, found = clip.counts
        reason = f"{video} promises {promised} frames, and {found} are found: it is damaged, or its rate varies."
        doubts.append(OtherFrames(rows, row, video, reason, promised, found))
    return doubts


def lacking_sound(rows: str, row: int | None, video: str, sound: Sound | None) -> list[LackingSound]:
    """What is to be told of a sample's sound: nothing if it is all there, or was not asked for."""
    if sound is None or (sound.found and not sound.is_short):
        return []
    if not sound.found:
        return [LackingSound(rows, row, video, f"{video} has no sound: it is masked.")]
    reason = f"{video}: its sound lacks {sound.missing:.2f} s of the clip, which are masked."
    return [LackingSound(rows, row, video, reason, round(sound.missing, 3))]


class SampleFile:
    """
    Samples of a run, a line each in a file of its folder. Several processes may write it, and a run that goes on: a
    sample stands there once.

    Args:
        kind: what a line holds.
    """

    def __init__(self, path: Path, kind: type[FailedSample]):
        self.path = path
        self.kind = kind
        self._known: dict[tuple, FailedSample] = {}
        self._place = 0

    def __len__(self) -> int:
        return len(self._known)

    def add(self, samples: Sequence[FailedSample]) -> list[FailedSample]:
        """Writes those that are new, and returns them."""
        if all(_key(sample) in self._known for sample in samples):
            return []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when it is closed
            self._take_in(file)
            file.truncate(self._place)  # half a line of a killed process
            different = {_key(sample): sample for sample in samples}
            new = [sample for key, sample in different.items() if key not in self._known]
            file.write("".join(json.dumps(asdict(sample)) + "\n" for sample in new).encode())
            file.flush()
            self._take_in(file)
        return new

    def all(self) -> list[Any]:
        """Those of every process, of this run and of what it goes on from."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                self._take_in(file)
        return list(self._known.values())

    def known(self) -> Collection[Any]:
        """Those that this process added or has read, without asking the file."""
        return self._known.values()

    def forget(self) -> None:
        """For a run that starts from the beginning."""
        self.path.unlink(missing_ok=True)
        self._known, self._place = {}, 0

    def replace(self, samples: Sequence[FailedSample]) -> None:
        """Lets the file hold exactly these, in this order: whole, whenever the process is killed."""
        if samples:
            write_text(self.path, "".join(json.dumps(asdict(sample)) + "\n" for sample in samples))
        else:
            self.path.unlink(missing_ok=True)
        self._known, self._place = {}, 0
        self.all()

    def _take_in(self, file) -> None:
        file.seek(self._place)
        for line in file:
            if line.endswith(b"\n"):
                sample = self.kind(**json.loads(line))
                self._known[_key(sample)] = sample
                self._place += len(line)


class FailedSamples:
    """
    The samples of a run that could not be read, in its `failed_samples.jsonl`; those whose sound is missing or short,
    in its `sound_report.jsonl`; and those with other numbers of frames than their files promise, in its
    `frames_report.jsonl`. See `SampleFile`.
    """

    def __init__(self, folder: str | os.PathLike):
        self.unread = SampleFile(Path(folder) / FAILED_FILE, FailedSample)
        self.sounds = SampleFile(Path(folder) / SOUND_FILE, LackingSound)
        self.frames = SampleFile(Path(folder) / FRAMES_FILE, OtherFrames)
        self.path = self.unread.path

    def add(self, samples: Sequence[FailedSample]) -> None:
        """Writes and logs those that are new."""
        unread = [sample for sample in samples if not isinstance(sample, LackingSound | OtherFrames)]
        for sample in self.unread.add(unread):
            logger.warning(
                "Skipped, %d so far: %s row %s. %s", len(self.unread), sample.rows, sample.row, sample.reason
            )
        for file in (self.sounds, self.frames):
            told = len(file)
            for sample in file.add([sample for sample in samples if isinstance(sample, file.kind)]):
                told += 1
                if told <= _SHOWN:
                    more = f" Further ones are told in {file.path} only." if told == _SHOWN else ""
                    logger.warning("%s row %s: %s%s", sample.rows, sample.row, sample.reason, more)

    def excess(self, rows: Collection[str], tried: int, total: int, most: float) -> str | None:
        """
        What is to be said if too many samples could not be read; None if they are not too many. The share is that of
        the samples tried so far, each counted once, of which at least `10 / most` are waited for, or the whole table.

        Args:
            rows: the tables that count, as `FailedSample.rows` names them.
            tried: how many samples the run has tried in all processes; above `total` they come again.
            total: how many there are.
            most: the share that is borne, from 0 to 1.
        """
        bad = [sample for sample in self.unread.known() if sample.rows in rows]
        counted = total if most == 0 else min(total, max(tried, math.ceil(_BORNE / most)))
        if len(bad) <= most * counted:
            return None
        first = ", ".join(f"{sample.video} ({sample.rows} row {sample.row})" for sample in bad[:_SHOWN])
        return (
            f"{len(bad)} of the {min(tried, total)} samples that were tried could not be read, and {most:.4g} of them "
            f"are borne (`max_bad_share`). The first: {first}. {self.path} lists all of them, with reasons. Mend or "
            "leave out these rows, or set a larger `max_bad_share`, and start again: the run goes on."
        )

    def all(self) -> list[FailedSample]:
        """Those that could not be read, of every process, of this run and of what it goes on from."""
        return self.unread.all()

    def metrics(self) -> dict[str, float]:
        """
        `samples_failed`, how many could not be read; and `samples_without_sound`, `samples_with_short_sound` and
        `samples_with_other_frames`, if there are any. Said in the log too.
        """
        found = self.all()
        if found:
            first = ", ".join(f"{sample.video} ({sample.rows} row {sample.row})" for sample in found[:_SHOWN])
            logger.warning("%d samples could not be read, see %s. The first: %s.", len(found), self.path, first)
        counts: dict[str, float] = {"samples_failed": len(found)}
        sounds = self.sounds.all()
        if sounds:
            absent = sum(sample.seconds is None for sample in sounds)
            counts |= {"samples_without_sound": absent, "samples_with_short_sound": len(sounds) - absent}
            logger.warning(
                "%d samples have no sound, and that of %d is shorter than their frames: it is masked, see %s.",
                absent, len(sounds) - absent, self.sounds.path,
            )  # fmt: skip
        frames = self.frames.all()
        if frames:
            counts["samples_with_other_frames"] = len(frames)
            logger.warning(
                "%d samples have another number of frames than their files promise, see %s.",
                len(frames), self.frames.path,
            )  # fmt: skip
        return counts

    def keep(self, belongs: Callable[[FailedSample], bool]) -> None:
        """Leaves out those that do not belong, and puts the others in the order of their rows."""
        for file in (self.unread, self.sounds, self.frames):
            file.replace(sorted(filter(belongs, file.all()), key=lambda sample: sample.row or 0))

    def forget(self) -> None:
        """For a run that starts from the beginning."""
        self.unread.forget()
        self.sounds.forget()
        self.frames.forget()


def _key(sample: FailedSample) -> tuple:
    return sample.rows, sample.row, sample.video

"""What a decoded video is: its frames, its sound, its clock; which frames are wanted; and the error if there are none.

No torch at module level, as in all that the decoder's process loads.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_KEPT_PIXELS = 2**23
"""Larger frames of a file than 4K are shrunk by what makes a model's input of them, see `shrunk`."""
TIME_TOLERANCE = 1e-3
"""Seconds by which a frame may be early: Matroska and FLV round time stamps to milliseconds."""

SHORT_SECONDS = 0.1
"""How much sound may be missing at the ends of a clip before it is told: encoders cut to frames of their own."""

DAMAGE_ADVICE = "Check that the file is complete (`ffprobe` shows what it holds), and fetch or encode it again."

SampleIndices = Callable[[int, float | None], Sequence[int] | np.ndarray]
SampleTimes = Callable[[float], Sequence[float] | np.ndarray]


class VideoDecodeError(ValueError):
    """A video cannot be read.

    Attributes:
        source: printable name of the video: its path, its URL, or what kind of object it is.
        reason: what is wrong with it.
        promised_frames, held_frames: how many frames the file says that it has, and how many of them can be found, if
            its structure is damaged and tells.
    """

    def __init__(self, source: str, reason: str | None = None, advice: str = DAMAGE_ADVICE):
        # A lone first argument is a finished message: so a DataLoader worker's error is raised again in the parent.
        self.source, self.reason, self.advice = source, reason or source, advice
        self.promised_frames: int | None = None
        self.held_frames: int | None = None
        super().__init__(source if reason is None else f"Cannot decode {source}: {reason}. {advice}")

    def __reduce__(self):
        counts = {"promised_frames": self.promised_frames, "held_frames": self.held_frames}
        return type(self), (self.source, self.reason, self.advice), counts


@dataclass(frozen=True)
class Sound:
    """
    The sound of one clip.

    Attributes:
        values: (num_samples,) float32 in -1..1, 0 where the mask is off.
        mask: (num_samples,) bool, where a sample is sound of the file.
        found: whether the file has sound at all.
        missing: of the clip's seconds that fit into `num_samples`, those for which its file has no sound.
    """

    values: np.ndarray
    mask: np.ndarray
    found: bool
    missing: float

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.mask.nbytes

    @property
    def is_short(self) -> bool:
        """Whether there is sound, and clearly less of it than frames."""
        return self.found and self.missing > SHORT_SECONDS


@dataclass(frozen=True)
class DecodedVideo:
    """Decoded frames.

    Attributes:
        frames: (frames, height, width, 3) uint8 RGB.
        times: (frames,) float64, seconds from the start of the video; NaN if the source has no time stamps
            (arrays, lists of pictures, folders) and none were given.
        indices: (frames,) int64, the place of each frame in the video, in order of presentation.
        total_frames: how many frames the whole video has.
        fps: average frames a second, None if there are no time stamps.
        backend: what read it: "pyav", "decord", "torchcodec", "pillow" or "array".
        span: (start, end) of all frames of a video file in seconds of its container's clock, which its sound shares;
            None for other sources.
        sound: of the clip, if it was asked for (`sound.decode_with_sound`).
        promised_frames: how many frames the file says that it has, if that is another number than `total_frames`.
    """

    frames: np.ndarray
    times: np.ndarray
    indices: np.ndarray
    total_frames: int
    fps: float | None
    backend: str
    span: tuple[float, float] | None = None
    sound: Sound | None = None
    promised_frames: int | None = None

    @property
    def doubt(self) -> str | None:
        """What is doubtful about the number of frames."""
        if self.promised_frames is None:
            return None
        return f"its file promises {self.promised_frames} frames, and {self.total_frames} are found"


# ---------------------------------------------------------------------------------------------------------------------
# Which frames
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clock:
    """When the frames of a video are shown.

    Attributes:
        times: (frames,) float64 seconds, ascending; NaN if they are not known.
        end: seconds at which the last frame ends.
        fps: average frames a second, or None.
    """

    times: np.ndarray
    end: float
    fps: float | None

    @property
    def is_known(self) -> bool:
        return len(self.times) == 1 or bool(np.isfinite(self.times).all())  # one frame is on the screen all the time

    @property
    def duration(self) -> float:
        """Seconds from the first frame's appearance to the end of the last."""
        return max(0.0, self.end - float(self.times[0])) if np.isfinite(self.times).all() else 0.0

    def shown_at(self, seconds: np.ndarray) -> np.ndarray:
        """The frames that are on the screen at these numbers of seconds after the first one appeared."""
        if len(self.times) == 1:
            return np.zeros(len(seconds), np.int64)
        return np.searchsorted(self.times - self.times[0], seconds + TIME_TOLERANCE, side="right") - 1


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of a video are wanted; it is called once, when it is known how many there are."""

    name: str
    sample_indices: SampleIndices | None
    sample_times: SampleTimes | None
    video_metadata: Mapping[str, Any]

    def __call__(self, total_frames: int, fps: float | None, read_clock: Callable[[], Clock]) -> np.ndarray:
        """Frame indices; the clock is read only if they are chosen by it."""
        if self.sample_times is not None:
            clock = read_clock()
            if not clock.is_known:
                reason = "frames are to be sampled by time, and it has no time stamps"
                advice = "Give `video_metadata` with its `fps` or `duration`, or sample by `num_frames`."
                raise VideoDecodeError(self.name, reason, advice)
            return clock.shown_at(self.seconds(clock.duration))
        indices = range(total_frames) if self.sample_indices is None else self.sample_indices(total_frames, fps)
        indices = np.asarray(indices)
        if indices.ndim != 1 or not len(indices) or not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(
                f"Frame indices must be a non-empty list of whole numbers, got {indices!r} for {self.name}."
            )
        if indices.min() < 0 or indices.max() >= total_frames:
            raise ValueError(
                f"Frame indices {indices.tolist()} are out of range: {self.name} has {total_frames} frames."
            )
        return indices.astype(np.int64)

    def seconds(self, duration: float) -> np.ndarray:
        """The times at which frames are wanted, of a video that lasts so long."""
        assert self.sample_times is not None
        seconds = np.asarray(self.sample_times(duration), dtype=np.float64)
        if seconds.ndim != 1 or not len(seconds) or not ((seconds == 0) | (seconds > 0) & (seconds < duration)).all():
            raise ValueError(
                f"Times must be a non-empty list of seconds from 0 up to below {duration:g}, where {self.name} ends; "
                f"got {seconds!r}."
            )
        return seconds

    def given_clock(self, total_frames: int) -> "tuple[Clock, np.ndarray, int]":
        """What `video_metadata` says of frames without time stamps: as `clock_from_metadata`."""
        return clock_from_metadata(self.video_metadata, total_frames, self.name)


def clock_from_metadata(metadata: Mapping[str, Any], count: int, name: str) -> tuple[Clock, np.ndarray, int]:
    """
    Args:
        metadata: as transformers' `VideoMetadata`; what is missing or None is not known.
        count: how many frames there are.

    Returns:
        Their clock, their numbers in the video, (count,), and how many frames that has.

    Raises:
        ValueError: if it contradicts itself or the frames.
    """
    fps, duration, total = (metadata.get(key) for key in ("fps", "duration", "total_num_frames"))
    for key, value in (("fps", fps), ("duration", duration)):
        if value is not None and not 0 < value < np.inf:
            raise ValueError(f"`video_metadata` of {name}: `{key}` must be above 0, got {value}.")
    numbers = np.arange(count)
    if metadata.get("frames_indices") is not None:
        numbers = np.asarray(metadata["frames_indices"], dtype=np.int64)
        if len(numbers) != count or (np.diff(numbers) < 0).any() or numbers[0] < 0:
            raise ValueError(
                f"`video_metadata` of {name}: `frames_indices` must be {count} ascending numbers, one for each frame; "
                f"got {numbers.tolist()}."
            )
        if total is not None and numbers[-1] >= total:
            raise ValueError(f"`video_metadata` of {name}: frame {numbers[-1]} of {total} in `frames_indices`.")
    elif total is not None and total != count:
        raise ValueError(
            f"`video_metadata` of {name}: `total_num_frames` is {total}, but there are {count} frames. If they are "
            "some of the video's, say by `frames_indices` which."
        )
    if fps is None and duration is not None:
        if metadata.get("frames_indices") is not None and total is None:
            raise ValueError(
                f"`video_metadata` of {name}: `frames_indices` needs `fps`, or `total_num_frames` as well."
            )
        fps = (total or count) / duration
    total = int(numbers[-1]) + 1 if total is None else int(total)
    if fps is None:
        return Clock(np.full(count, np.nan), np.nan, None), numbers, total
    return Clock(numbers / fps, total / fps, float(fps)), numbers, total


def check_equal(sizes: Sequence[tuple[int, ...]], name: str) -> None:
    """Refuses frames of unequal (height, width)."""
    different = sorted(set(sizes))
    if len(different) > 1:
        reason = f"its frames differ in size: (height, width) {different}"
        raise VideoDecodeError(name, reason, "Scale them to one size.")


def stack_frames(frames: list[np.ndarray], name: str) -> np.ndarray:
    """List of (height, width, 3) -> (frames, height, width, 3); frames of unequal size are refused."""
    check_equal([frame.shape[:2] for frame in frames], name)
    return np.stack(frames)


def shrunk(frame: np.ndarray, most_pixels: int) -> np.ndarray:
    """
    (height, width, 3) uint8 of at most `most_pixels`: each pixel is the mean of a square of n x n of a larger frame,
    with the least n that suffices.
    """
    height, width = frame.shape[:2]
    factor = math.ceil(math.sqrt(height * width / most_pixels))
    if factor < 2:
        return frame
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Frames of this size are scaled down with Pillow: pip install pillow") from error
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).reduce(factor))

"""One function for every kind of video: `decode_video` turns each of `VIDEO_FORMS` into RGB frames and their times.

Three libraries can read a video file, and on one file they give the same frames to the bit:

- `"pyav"` bundles FFmpeg on every platform, checks every file, and is what `"auto"` takes: it was the fastest (five
  frames of an MSR-VTT clip: 59 ms, decord 69 ms) and is the only one to report damage inside packets.
- `"decord"` and `"torchcodec"` read the files they are known to be exact on (see `_seeks_are_exact`); torchcodec needs
  FFmpeg's shared libraries on the machine.

PyAV stands in if the chosen library is not installed or not exact; `DecodedVideo.backend` says what was used.
A file is checked before any frame is decoded: its packets are held against what the container promises. That finds
truncation without decoding, and keeps damaged files away from decord, which can loop for ever on them. GIF, animated
WebP and PNG, and still pictures are read with Pillow.

No torch at module level: data workers and published checkpoints import this file by itself.
"""

import http.client
import io
import os
import re
import sys
import urllib.request
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

BACKENDS = ("auto", "pyav", "decord", "torchcodec")
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
URL_TIMEOUT_SECONDS = 30.0
MOST_PIXELS = 2**26
"""A frame with more, 8192 x 8192, is refused: a few bytes that promise it would fill the memory."""
TIME_TOLERANCE = 1e-3
"""Seconds by which a frame may be early: Matroska and FLV round time stamps to milliseconds."""

SHORT_SECONDS = 0.1
"""How much sound may be missing at the ends of a clip before it is told: encoders cut to frames of their own."""

ARRAY_FORMS = (
    "an array or tensor (T, H, W, C) or (T, C, H, W) with 1, 3 or 4 channels, or grey (T, H, W), "
    "uint8 or float in 0..1"
)
VIDEO_FORMS = (
    "the path or URL (http, https, hf) of a video, GIF or picture, the path of a folder of frames, "
    "the bytes of a file, "
    'datasets\' dictionary {"path": …, "bytes": …}, torchcodec\'s VideoDecoder, '
    f"{ARRAY_FORMS}, a PIL image, or a list of frames (PIL images or arrays)"
)
"""What a video may be."""

_DAMAGE_ADVICE = "Check that the file is complete (`ffprobe` shows what it holds), and fetch or encode it again."
_FORMS_ADVICE = f"A video is {VIDEO_FORMS}."
_PICTURE_SIGNATURES = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*")
_TEXT_ART_DEMUXERS = frozenset({"tty", "bin", "xbin", "adf", "idf"})  # FFmpeg draws a text file as a video

SampleIndices = Callable[[int, float | None], Sequence[int] | np.ndarray]
SampleTimes = Callable[[float], Sequence[float] | np.ndarray]


class VideoDecodeError(ValueError):
    """A video cannot be read.

    Attributes:
        source: printable name of the video: its path, its URL, or what kind of object it is.
        reason: what is wrong with it.
    """

    def __init__(self, source: str, reason: str | None = None, advice: str = _DAMAGE_ADVICE):
        # A lone first argument is a finished message: so a DataLoader worker's error is raised again in the parent.
        self.source, self.reason, self.advice = source, reason or source, advice
        super().__init__(source if reason is None else f"Cannot decode {source}: {reason}. {advice}")

    def __reduce__(self):
        return type(self), (self.source, self.reason, self.advice)


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
    """

    frames: np.ndarray
    times: np.ndarray
    indices: np.ndarray
    total_frames: int
    fps: float | None
    backend: str
    span: tuple[float, float] | None = None
    sound: Sound | None = None


def decode_video(
    source: Any,
    sample_indices: SampleIndices | None = None,
    backend: str = "auto",
    name: str | None = None,
    *,
    sample_times: SampleTimes | None = None,
    video_metadata: Mapping[str, Any] | None = None,
) -> DecodedVideo:
    """Decode the chosen frames of one video.

    Args:
        source: one of
            - a path to a video, GIF or picture (a picture is a one-frame video), or to a folder of frames
              (jpg, png, webp, bmp; in natural order: frame 2 before frame 10);
            - an http(s) URL, or another address that fsspec reads (`hf://…`, as streamed data sets have it);
            - the `bytes` of a file;
            - a dictionary `{"path": ..., "bytes": ...}`, as `datasets.Video(decode=False)` gives it: the bytes, or
              the file at the path if they are None;
            - torchcodec's `VideoDecoder`, as `datasets.Video()` gives it;
            - an array or tensor (T, H, W, C) or (T, C, H, W) with 1, 3 or 4 channels, or grey (T, H, W), uint8 or
              float in 0..1;
            - a PIL image, or a list of PIL images or of (H, W), (H, W, C) or (C, H, W) arrays.
            Grey becomes RGB; an alpha channel is dropped.
        sample_indices: `(total_frames, fps) -> frame indices`, in any order, repeats allowed. None takes all frames.
        backend: "auto", "decord", "pyav" or "torchcodec"; matters for video files only.
        name: what messages call the source; `describe_source(source)` if it is not given.
        sample_times: in place of `sample_indices`: `(duration) -> seconds` from the first frame on, below the
            duration. At each of them the frame is taken that is on the screen then: the last one whose time stamp is
            not later.
        video_metadata: when the frames are shown, for sources without time stamps (arrays, lists of frames, folders):
            `fps`, or `duration` in seconds; `frames_indices` if they are frames of a longer video, with
            `total_num_frames`, the number of its frames. As transformers' `VideoMetadata`. Files have their own.

    Raises:
        VideoDecodeError: the source is missing, damaged, truncated, not a video, has values that are no colours, or
            no time stamps if frames are sampled by time.
        ValueError: an index or a time is out of range, or the backend is unknown.
        ImportError: the library that the source needs is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"Unknown backend {backend!r}: choose one of {BACKENDS}.")
    if sample_indices is not None and sample_times is not None:
        raise ValueError("Give `sample_indices` or `sample_times`, not both.")
    name = describe_source(source) if name is None else name
    choose = _Choice(name, sample_indices, sample_times, video_metadata or {})

    source = encoded_file(source, name)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode_file(bytes(source), name, choose, backend)
    if is_address(source):
        return _decode_file(fetch_address(source), name, choose, backend)
    if isinstance(source, str | os.PathLike):
        path = Path(os.path.abspath(source))
        if os.path.isdir(path):  # unlike Path's, it takes any text
            return _decode_folder(path, name, choose)
        return _decode_file(path, name, choose, backend)
    if _is_video_decoder(source):
        return _decode_with_decoder(source, name, choose)
    if _is_picture_object(source):
        source = [source]
    if isinstance(source, list | tuple):
        return _decode_frame_list(source, name, choose)
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        return _decode_array(source, name, choose)
    raise VideoDecodeError(name, "it is no kind of video", _FORMS_ADVICE)


def is_address(source: Any) -> bool:
    """Whether this is a text such as `https://…` or `hf://…`."""
    return isinstance(source, str) and re.match(r"[a-z][a-z0-9+.-]+://", source, re.IGNORECASE) is not None


def is_encoded_file(source: Any) -> bool:
    """Whether this has the keys of the dictionaries of `datasets.Video(decode=False)`, `{"path": …, "bytes": …}`."""
    return isinstance(source, Mapping) and len(source) > 0 and set(source) <= {"path", "bytes"}


def encoded_file(source: Any, name: str | None = None) -> Any:
    """
    The bytes in such a dictionary, or the path if they are None; what is no dictionary comes back as it is.

    Raises:
        VideoDecodeError: for another dictionary, or one with neither.
    """
    if not isinstance(source, Mapping):
        return source
    name = describe_source(source) if name is None else name
    if not is_encoded_file(source):
        raise VideoDecodeError(name, f"its keys are {', '.join(map(repr, source)) or 'none'}", _FORMS_ADVICE)
    content, path = source.get("bytes"), source.get("path")
    if content is None and path is None:
        raise VideoDecodeError(name, "both its path and its bytes are missing", _FORMS_ADVICE)
    return path if content is None else content


def describe_source(source: Any) -> str:
    """A short printable name for any source, for messages."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{len(source)} bytes"
    if is_encoded_file(source) and (source.get("path") or source.get("bytes")):
        return describe_source(source.get("path") or source.get("bytes"))
    if isinstance(source, list | tuple):
        kinds = sorted({type(item).__name__ for item in source})
        return f"{type(source).__name__} of {len(source)} {' and '.join(kinds)}"
    if hasattr(source, "shape"):
        return f"{type(source).__name__} of shape {tuple(source.shape)}"
    return f"object of type {type(source).__name__}"


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
class _Choice:
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


# ---------------------------------------------------------------------------------------------------------------------
# Objects in memory and folders
# ---------------------------------------------------------------------------------------------------------------------


def _decode_array(source: Any, name: str, choose: _Choice) -> DecodedVideo:
    """Frames of an array or tensor, see `decode_video`."""
    array = _frames_of_array(source, name)
    return _without_clock(lambda indices: _rgb_of_array(array[indices]), len(array), choose, "array")


def _frames_of_array(source: Any, name: str) -> np.ndarray:
    """An array or tensor, see `decode_video`, as (frames, height, width, channels), its values checked."""
    if hasattr(source, "detach"):  # a torch tensor; numpy has no bfloat16
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()
    array = np.asarray(source)
    if array.ndim == 3 and array.size:
        if array.shape[0] == 3 or array.shape[-1] in (1, 3, 4):
            reason = f"the shape {array.shape} may be that of grey frames, or of one picture"
            advice = (
                "Give grey frames as (T, H, W, 1), one picture as a list of one frame, [picture], or as `images=`."
            )
            raise VideoDecodeError(name, reason, advice)
        array = array[..., None]
    advice = f"Pass {ARRAY_FORMS}."
    if array.ndim != 4 or not array.size:
        raise VideoDecodeError(name, f"the shape {array.shape} is not that of a video", advice)
    channels_last, channels_first = array.shape[-1] in (1, 3, 4), array.shape[1] in (1, 3, 4)
    if channels_last == channels_first:
        reason = (
            "either axis 1 or the last could be the channels" if channels_last else "no axis has 1, 3 or 4 channels"
        )
        raise VideoDecodeError(name, f"in the shape {array.shape} {reason}", advice)
    if channels_first:
        array = array.transpose(0, 2, 3, 1)  # (frames, channels, height, width) -> (frames, height, width, channels)
    if np.issubdtype(array.dtype, np.floating):
        finite = np.isfinite(array).all(axis=(1, 2, 3))  # (frames,)
        if not finite.all():
            first = f"frame {finite.argmin()} (of 0 to {len(array) - 1})"
            raise VideoDecodeError(name, f"its {first} has NaN or infinite values, outside of 0..1", advice)
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):
            raise VideoDecodeError(name, f"its float values run from {low:g} to {high:g}, outside of 0..1", advice)
    elif array.dtype != np.uint8:
        raise VideoDecodeError(name, f"its values are {array.dtype}", advice)
    return array


def _rgb_of_array(frames: np.ndarray) -> np.ndarray:
    """(frames, height, width, channels), uint8 or float in 0..1 -> (frames, height, width, 3) uint8"""
    frames = frames[..., :3]
    if frames.dtype != np.uint8:
        frames = np.rint(frames.astype(np.float32) * 255).astype(np.uint8)
    if frames.shape[-1] == 1:
        frames = frames.repeat(3, axis=-1)
    return np.ascontiguousarray(frames)


def _decode_frame_list(source: Sequence, name: str, choose: _Choice) -> DecodedVideo:
    """Frames of a list of PIL images, or of arrays of one shape."""
    advice = "Pass frames of one kind (PIL images or arrays) and one size."
    if not source:
        raise VideoDecodeError(name, "the list of frames is empty", advice)
    if all(_is_picture_object(frame) for frame in source):
        sizes = sorted({frame.size for frame in source})
        if len(sizes) > 1:
            raise VideoDecodeError(name, f"its frames differ in size: {sizes}", advice)

        def read(indices: np.ndarray) -> np.ndarray:
            return np.stack([np.asarray(source[i].convert("RGB")) for i in indices])

        return _without_clock(read, len(source), choose, "pillow")
    if not all(hasattr(frame, "shape") and hasattr(frame, "dtype") for frame in source):
        raise VideoDecodeError(name, "its items are not all pictures or all arrays", _FORMS_ADVICE)
    shapes = sorted({tuple(frame.shape) for frame in source})
    if len(shapes) > 1:
        raise VideoDecodeError(name, f"its frames differ in shape: {shapes}", advice)
    frames = np.stack([np.asarray(frame.detach().cpu() if hasattr(frame, "detach") else frame) for frame in source])
    return _decode_array(frames[..., None] if frames.ndim == 3 else frames, name, choose)


def _decode_folder(folder: Path, name: str, choose: _Choice) -> DecodedVideo:
    """Frames of a folder of pictures in natural order; only the chosen files are opened."""
    try:
        files = frame_files(folder)
    except OSError as error:
        raise VideoDecodeError(name, f"it cannot be opened ({error.strerror or error})", "Check the path.") from error
    if not files:
        reason = f"the folder holds no frames ({', '.join(sorted(IMAGE_SUFFIXES))})"
        raise VideoDecodeError(name, reason, "Pass the folder that directly contains the frames.")
    first = _Choice(name, lambda total_frames, fps: [0], None, {})

    def read(indices: np.ndarray) -> np.ndarray:
        wanted, inverse = np.unique(indices, return_inverse=True)
        pictures = [_decode_picture(files[i], str(files[i]), first) for i in wanted]
        return _stack([picture.frames[0] for picture in pictures], name)[inverse]

    return _without_clock(read, len(files), choose, "pillow")


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order; hidden files do not count."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != ".")
    return sorted(files, key=lambda path: natural_order(path.name))


def natural_order(name: str) -> list:
    """What names are sorted by where 2 comes before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name.lower())]


def _without_clock(read: Callable[[np.ndarray], np.ndarray], count: int, choose: _Choice, backend: str):
    """The frames that `read` gives for the chosen of `count` indices; their times are known if they were given."""
    clock, numbers, total_frames = choose.given_clock(count)
    indices = choose(count, clock.fps, lambda: clock)
    return DecodedVideo(read(indices), clock.times[indices], numbers[indices], total_frames, clock.fps, backend)


def _stack(frames: list[np.ndarray], name: str) -> np.ndarray:
    """List of (height, width, 3) -> (frames, height, width, 3); frames of unequal size are refused."""
    sizes = sorted({frame.shape[:2] for frame in frames})
    if len(sizes) > 1:
        raise VideoDecodeError(name, f"its frames differ in size: (height, width) {sizes}", "Scale them to one size.")
    return np.stack(frames)


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def fetch_address(url: str) -> bytes:
    """
    The bytes behind an address, held in memory.

    Raises:
        VideoDecodeError: they cannot be fetched.
    """
    if not url.lower().startswith(("http://", "https://")):
        return _download_with_fsspec(url)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "violet-video"})
        with urllib.request.urlopen(request, timeout=URL_TIMEOUT_SECONDS) as response:
            return response.read()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise VideoDecodeError(url, f"it cannot be fetched ({error!r})", "Check the address and network.") from error


def _download_with_fsspec(address: str) -> bytes:
    try:
        import fsspec
        from huggingface_hub.errors import HTTPError
    except ImportError as error:
        raise ImportError(
            f"Reading {address} needs fsspec and huggingface_hub: pip install huggingface_hub"
        ) from error
    try:
        with fsspec.open(address, "rb") as file:
            return file.read()
    except (OSError, HTTPError, KeyError, ValueError, ImportError) as error:  # no file, network, member, protocol
        raise VideoDecodeError(
            address, f"it cannot be fetched ({error!r})", "Check the address and network."
        ) from error


def _decode_file(file: Path | bytes, name: str, choose: _Choice, backend: str) -> DecodedVideo:
    """Frames of a file given as an absolute path or as its bytes: pictures with Pillow, the rest with `backend`."""
    try:
        with _open_bytes(file) as stream:
            header = stream.read(16)
    except OSError as error:
        raise VideoDecodeError(name, f"it cannot be opened ({error.strerror or error})", "Check the path.") from error
    except ValueError as error:  # a name with a zero byte
        raise VideoDecodeError(name, f"it cannot be opened ({error})", "Check the path.") from error
    if not header:
        raise VideoDecodeError(name, "the file is empty")
    if header.startswith(_PICTURE_SIGNATURES) or (header[:4] == b"RIFF" and header[8:12] == b"WEBP"):
        return _decode_picture(file, name, choose)
    return _decode_container(file, name, choose, backend)


def _open_bytes(file: Path | bytes):
    return io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb")


def _refuse_huge(width: int, height: int, name: str) -> None:
    if width * height > MOST_PIXELS:
        reason = f"its frames have {width} x {height} pixels; more than {MOST_PIXELS} are refused"
        raise VideoDecodeError(name, reason, "Scale it down.")


def _decode_picture(file: Path | bytes, name: str, choose: _Choice) -> DecodedVideo:
    """Frames of a GIF, animated WebP or PNG, or still picture."""
    try:
        from PIL import Image, ImageSequence
    except ImportError as error:
        raise ImportError("Reading pictures needs Pillow: pip install pillow") from error

    with _open_bytes(file) as stream:
        try:
            with Image.open(stream) as image:
                if image.format == "GIF":
                    stream.seek(0)
                    if not stream.read().rstrip(b"\0").endswith(b";"):
                        raise VideoDecodeError(name, "the file is truncated: the GIF has no end mark")
                _refuse_huge(*image.size, name)
                total_frames = getattr(image, "n_frames", 1)
                milliseconds = image.info.get("duration", 0)
                fps = 1000.0 / milliseconds if milliseconds and total_frames > 1 else None
                indices = choose(total_frames, fps, partial(_clock_of_picture, image, fps))
                wanted, times, clock = set(indices.tolist()), [], 0.0
                frames = {}
                for index, frame in enumerate(ImageSequence.Iterator(image)):
                    frame.load()
                    times.append(clock)
                    clock += frame.info.get("duration", 0) / 1000.0
                    if index in wanted:
                        frames[index] = np.asarray(frame.convert("RGB"))
                    if len(frames) == len(wanted):
                        break
        except VideoDecodeError:
            raise
        except (OSError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
            raise VideoDecodeError(name, f"the picture is damaged or truncated ({error})") from error
    if len(frames) < len(wanted):
        raise VideoDecodeError(name, f"the file is truncated: it promises {total_frames} frames")
    stacked = _stack([frames[i] for i in indices.tolist()], name)
    return DecodedVideo(stacked, np.asarray(times)[indices], indices, total_frames, fps, "pillow")


def _clock_of_picture(image: Any, fps: float | None) -> Clock:
    """The clock of an open GIF, animated WebP or PNG, or still picture."""
    ends = [0.0]
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        ends.append(ends[-1] + image.info.get("duration", 0) / 1000.0)
    return Clock(np.asarray(ends[:-1]) if ends[-1] else np.full(len(ends) - 1, np.nan), ends[-1], fps)


@dataclass(frozen=True)
class _PacketTable:
    """What a container says about its video, read from its packets without decoding.

    Attributes:
        count: how many frames are shown.
        pts: sorted presentation time stamps of the shown frames; none if they are missing or not unique.
        keyframes: sorted time stamps at which decoding can start exactly; only the first packet's if unknown.
        times: (count,) float64 seconds from the start of the file.
        start: what the container's clock shows at that start, in seconds.
        end: seconds at which the last frame ends.
        fps: average frames a second, or None.
        closed_groups: every keyframe of an H.264 stream starts afresh (IDR), with no frame shown before it.
    """

    count: int
    pts: list[int]
    keyframes: list[int]
    times: np.ndarray
    start: float
    end: float
    fps: float | None
    closed_groups: bool

    @property
    def span(self) -> tuple[float, float] | None:
        """Where the frames lie on the container's clock, if that is known."""
        if not np.isfinite([self.times[0], self.end]).all():
            return None
        return self.start + float(self.times[0]), self.start + self.end


def _decode_container(file: Path | bytes, name: str, choose: _Choice, backend: str) -> DecodedVideo:
    """Check the container with PyAV, choose the frames, and decode them with `backend`."""
    av = _import_av()
    try:
        with _open_container(file) as container:
            stream = _video_stream(container, name)
            table = _scan_packets(container, stream, name)
            indices = choose(table.count, table.fps, lambda: Clock(table.times, table.end, table.fps))
            wanted, inverse = np.unique(indices, return_inverse=True)
            frames = None
            if backend == "decord":
                frames = _read_with_decord(file, container, stream, table, wanted.tolist(), name)
            elif backend == "torchcodec":
                frames = _read_with_torchcodec(file, container, stream, table, wanted.tolist(), name)
            if frames is None:
                backend = "pyav"
                frames = _read_with_pyav(file, container, stream, table, wanted.tolist(), name)
    except av.error.FFmpegError as error:
        raise VideoDecodeError(name, f"it is damaged or not a video ({error.strerror})") from error
    if len(wanted) < len(indices) or (wanted != indices).any():
        frames = frames[inverse]
    return DecodedVideo(frames, table.times[indices], indices, table.count, table.fps, backend, table.span)


def _import_av():
    try:
        import av
    except ImportError as error:
        raise ImportError("Decoding video files needs PyAV: pip install av") from error
    return av


def _open_container(file: Path | bytes):
    source = io.BytesIO(file) if isinstance(file, bytes) else str(file)
    return _import_av().open(source, metadata_errors="replace")


def _video_stream(container, name: str):
    """The video stream of an open container, ready to decode; cover pictures and text drawn as video do not count."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & stream.disposition.attached_pic:
        raise VideoDecodeError(name, "it has no video stream", "Pass a file that holds pictures, not only sound.")
    if container.format.name in _TEXT_ART_DEMUXERS:
        raise VideoDecodeError(name, "it is damaged or not a video (a text file)")
    if stream.codec_context is None:
        raise VideoDecodeError(name, "this FFmpeg has no decoder for its video stream", "Encode it again as H.264.")
    # Damage that the decoder notices becomes an error; by default FFmpeg paints over it in silence.
    _refuse_huge(stream.codec_context.width, stream.codec_context.height, name)
    stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MOST_PIXELS)}
    stream.codec_context.thread_count = 1
    return stream


def _scan_packets(container, stream, name: str) -> _PacketTable:
    """Read all packets, undecoded, and hold them against what the container promises."""
    family = container.format.name
    time_stamps: list[int | None] = []
    ends: list[tuple[int, int]] = []
    keyframes: list[int] = []
    closed_groups, end, last_duration, packets = stream.codec_context.name == "h264", 0, 0, 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.is_corrupt:
            raise VideoDecodeError(name, f"the file is truncated or damaged at packet {packets}")
        packets += 1
        if packet.is_discard:
            continue
        end = max(end, packet.pts or 0, packet.dts or 0)
        last_duration = packet.duration or 0
        time_stamps.append(None if family == "avi" else packet.pts)  # AVI holds no order of presentation
        if time_stamps[-1] is None:
            continue
        ends.append((packet.pts, packet.duration or 0))
        if packet.is_keyframe:
            keyframes.append(packet.pts)
            closed_groups = closed_groups and _is_idr(bytes(packet))
        elif keyframes and packet.pts < keyframes[-1]:
            closed_groups = False
    if not time_stamps:
        raise VideoDecodeError(name, "the file is truncated or empty: its video stream holds no frame")

    promised = len(stream.index_entries) if family.startswith("mov") else 0
    if packets < promised:
        raise VideoDecodeError(name, f"the file is truncated: it promises {promised} frames and holds {packets}")
    fps = float(stream.average_rate or stream.guessed_rate or 0) or None
    end_seconds, promised_end = float((end + last_duration) * stream.time_base), _promised_end(container, stream)
    if promised_end is not None and fps and promised_end - end_seconds > 1.5 / fps:
        reason = f"it promises {promised_end:.3f} s and ends at {end_seconds:.3f} s"
        raise VideoDecodeError(name, f"the file is truncated: {reason}")

    count = len(time_stamps)
    known = [pts for pts in time_stamps if pts is not None]
    if len(set(known)) < count:
        times = np.arange(count) / fps if fps else np.full(count, np.nan)
        begin = float((stream.start_time or 0) * stream.time_base)
        return _PacketTable(count, [], [], times, begin, count / fps if fps else np.nan, fps, closed_groups)
    pts = sorted(known)
    start = min(container.start_time / 1e6 if container.start_time is not None else 0.0, pts[0] * stream.time_base)
    times = np.asarray(pts, dtype=np.float64) * float(stream.time_base) - float(start)
    # Only these containers name the frames at which decoding starts exactly.
    exact = family.startswith(("mov", "matroska")) and keyframes and min(keyframes) == pts[0]
    last_seconds = max(ends)[1] * float(stream.time_base) or (1 / fps if fps else 0.0)
    shown_until = float(times[-1]) + last_seconds
    fps = _average_rate(fps, count, shown_until - float(times[0]))
    starts = sorted(keyframes) if exact else pts[:1]
    return _PacketTable(count, pts, starts, times, float(start), shown_until, fps, closed_groups)


def _average_rate(told: float | None, count: int, seconds: float) -> float | None:
    """Frames a second, as a file tells it; of a variable rate Matroska tells one that its frames do not have."""
    if seconds <= 0 or (told and abs(told * seconds - count) < 0.01 * count):
        return told
    return count / seconds


def _is_idr(packet: bytes) -> bool:
    """Whether an H.264 packet in mp4's form (each unit after its length in 4 bytes) holds an IDR picture."""
    place = 0
    while place + 4 < len(packet):
        if packet[place + 4] & 31 == 5:
            return True
        place += 4 + int.from_bytes(packet[place : place + 4], "big")
    return False


def _promised_end(container, stream) -> float | None:
    """Seconds at which the video should end, if the container says so."""
    if stream.duration is not None:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    # Matroska's tag of one stream, as 00:00:02.400000000
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    if tag:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    if container.format.name.startswith("matroska") and container.duration and len(container.streams) == 1:
        return (container.duration + (container.start_time or 0)) / 1e6
    return None


def _read_with_pyav(file, container, stream, table: _PacketTable, wanted: list[int], name: str) -> np.ndarray:
    """The frames at the sorted indices `wanted`, from the nearest keyframe if that is exact, else in order."""
    av = _import_av()
    frames = None
    if len(table.keyframes) > 1:
        try:
            frames = _seek_and_decode(container, stream, table, wanted)
        except av.error.FFmpegError:
            frames = None  # a seek that did not land well: decoding in order decides whether the file is damaged
    if frames is None:
        try:
            container.seek(min(0, table.pts[0]) if table.pts else 0, stream=stream)
        except av.error.PermissionError:  # a raw stream without time stamps cannot be wound back
            with _open_container(file) as again:
                frames = _decode_in_order(again, _video_stream(again, name), table, wanted, name)
        else:
            frames = _decode_in_order(container, stream, table, wanted, name)
    return _stack(frames, name)


def _to_rgb(frame) -> np.ndarray:
    """av.VideoFrame -> (height, width, 3) uint8, turned as the file's display matrix says."""
    picture = frame.to_ndarray(format="rgb24")
    return np.rot90(picture, frame.rotation // 90)


def _seek_and_decode(container, stream, table: _PacketTable, wanted: list[int]) -> list[np.ndarray] | None:
    """As `_read_with_pyav`, jumping to the keyframe before each wanted frame; None if a frame does not turn up."""
    frames: list[np.ndarray] = []
    decoder, position = None, -1
    for index in wanted:
        target = table.pts[index]
        keyframe = table.keyframes[bisect_right(table.keyframes, target) - 1]
        if decoder is None or keyframe > position:
            container.seek(keyframe, stream=stream)
            decoder = container.decode(stream)
        for frame in decoder:
            position = frame.pts
            if position >= target:
                break
        if position != target or frame.is_corrupt:
            return None
        frames.append(_to_rgb(frame))
    return frames


def _decode_in_order(container, stream, table: _PacketTable, wanted: list[int], name: str) -> list[np.ndarray]:
    """As `_read_with_pyav`, from the first frame to the last wanted one; the container stands at its start."""
    targets = wanted if not table.pts else [table.pts[index] for index in wanted]
    frames: list[np.ndarray] = []
    for count, frame in enumerate(container.decode(stream)):
        if frame.is_corrupt:
            raise VideoDecodeError(name, f"frame {count} is damaged")
        place = count if not table.pts else frame.pts
        if place is not None and place > targets[len(frames)]:
            break
        if place == targets[len(frames)]:
            frames.append(_to_rgb(frame))
            if len(frames) == len(targets):
                return frames
    missing = wanted[len(frames)]
    raise VideoDecodeError(name, f"it is truncated or damaged: frame {missing} of {table.count} cannot be decoded")


def _seeks_are_exact(container, stream, table: _PacketTable) -> bool:
    """Whether decord and torchcodec give PyAV's frames on this file.

    Measured against decord 0.6: after a seek its frames differ if a keyframe does not start afresh, and in 10-bit,
    interlaced and MPEG-program-stream video; turned video, transport streams and AV1 are not read at all. And against
    torchcodec: its frames differ in open groups, interlaced video, transport streams and AVI.
    """
    suits = (
        container.format.name.startswith(("mov", "matroska"))
        and (table.closed_groups or stream.codec_context.name in ("vp8", "vp9"))
        and stream.codec_context.pix_fmt in ("yuv420p", "yuvj420p")
        and bool(table.pts)
    )
    if not suits:
        return False
    container.seek(0, stream=stream)
    first = next(container.decode(stream), None)
    return first is not None and not first.rotation and not first.interlaced_frame


def _read_with_decord(file: Path | bytes, container, stream, table: _PacketTable, wanted: list[int], name: str):
    """The frames at the sorted indices `wanted`, or None if decord is not installed or not exact on this file."""
    try:
        import decord
    except (ImportError, OSError):
        return None
    if not _seeks_are_exact(container, stream, table):
        return None
    try:
        reader = decord.VideoReader(io.BytesIO(file) if isinstance(file, bytes) else str(file), num_threads=1)
        return reader.get_batch(wanted).asnumpy() if len(reader) == table.count else None
    except (decord.DECORDError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise VideoDecodeError(name, f"it is truncated or damaged (decord: {reason})") from error


def _read_with_torchcodec(file: Path | bytes, container, stream, table: _PacketTable, wanted: list[int], name: str):
    """The frames at the sorted indices `wanted`, or None if torchcodec does not work here or is not exact."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError):
        return None  # not installed, or without FFmpeg's shared libraries
    if not _seeks_are_exact(container, stream, table):
        return None
    try:
        decoder = VideoDecoder(file if isinstance(file, bytes) else str(file), dimension_order="NHWC")
        if decoder.metadata.num_frames != table.count:
            return None
        return decoder.get_frames_at(wanted).data.numpy()
    except (RuntimeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0]
        raise VideoDecodeError(name, f"it is truncated or damaged (torchcodec: {reason})") from error


def _is_video_decoder(source: Any) -> bool:
    """Whether this is torchcodec's `VideoDecoder`; who has one has imported it."""
    decoders = sys.modules.get("torchcodec.decoders")
    return decoders is not None and isinstance(source, decoders.VideoDecoder)


def _decode_with_decoder(decoder: Any, name: str, choose: _Choice) -> DecodedVideo:
    """Frames of torchcodec's `VideoDecoder`, in whatever layout, type and place it gives them."""
    count, said = len(decoder), decoder.metadata
    begin, end = said.begin_stream_seconds, said.end_stream_seconds
    # If packets have no durations, torchcodec lets the video end as its last frame appears.
    duration = (
        max(end, (said.begin_stream_seconds_from_header or 0) + (said.duration_seconds_from_header or 0)) - begin
    )
    fps = _average_rate(said.average_fps_from_header, count, duration)
    try:
        if choose.sample_times is None:
            indices = choose(count, fps, lambda: Clock(np.full(count, np.nan), np.nan, fps))
            wanted, inverse = np.unique(indices, return_inverse=True)
            batches = [decoder.get_frames_at(wanted.tolist())]
        else:
            seconds, inverse = np.unique(choose.seconds(duration), return_inverse=True)
            seconds = begin + seconds + TIME_TOLERANCE
            before_end = seconds[seconds < end].tolist()
            batches = [decoder.get_frames_played_at(before_end)] if before_end else []
            wanted = _places(decoder, [stamp for batch in batches for stamp in batch.pts_seconds.tolist()], fps)
            if len(before_end) < len(seconds):
                batches.append(decoder.get_frames_at([count - 1]))
                inverse = np.minimum(inverse, len(before_end))
                wanted = np.append(wanted, count - 1)
    except (RuntimeError, IndexError) as error:
        reason = f"torchcodec's decoder fails ({str(error).strip().splitlines()[0]})"
        advice = (
            "Check that the file is complete; a decoder needs `seek_mode='exact'`, or give the file's path or bytes."
        )
        raise VideoDecodeError(name, reason, advice) from error
    frames = np.concatenate([_rgb_of_array(_frames_of_array(batch.data, name)) for batch in batches])
    times = np.concatenate([batch.pts_seconds.numpy() for batch in batches]) - begin
    return DecodedVideo(frames[inverse], times[inverse], wanted[inverse], count, fps, "torchcodec")


def _places(decoder: Any, stamps: Sequence[float], fps: float | None) -> np.ndarray:
    """
    The numbers of a `VideoDecoder`'s frames with these time stamps, which ascend: as the average rate suggests, and
    else by bisection, since a decoder tells only the stamps of the frames that it decodes.
    """
    begin = decoder.metadata.begin_stream_seconds
    places, low = [], 0
    for stamp in stamps:
        high, guess = len(decoder) - 1, round((stamp - begin) * (fps or 1))
        while low < high:
            guess = min(max(guess, low), high)
            found = decoder.get_frame_at(guess).pts_seconds
            if found == stamp:
                low = high = guess
            elif found < stamp:
                low = guess + 1
            else:
                high = guess - 1
            guess = (low + high) // 2
        places.append(low)
    return np.asarray(places, np.int64)


def _is_picture_object(item: Any) -> bool:
    """Whether `item` is a PIL image, without needing Pillow to tell."""
    return hasattr(item, "convert") and hasattr(item, "getbands")

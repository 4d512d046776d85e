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

No torch at module level: the decoder's process imports this file and those beside it without the package.
"""

import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .addresses import fetch_address, is_address
from .containers import average_rate, decode_container
from .decoded_video import (
    TIME_TOLERANCE,
    Clock,
    DecodedVideo,
    FrameChoice,
    SampleIndices,
    SampleTimes,
    VideoDecodeError,
    shrunk,
    stack_frames,
)

BACKENDS = ("auto", "pyav", "decord", "torchcodec")
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
MOST_PIXELS = 2**26
"""A picture with more, 8192 x 8192, is refused: a few bytes that promise it would fill the memory."""
ARRAY_FORMS = (
    "an array or tensor (T, H, W, C) or (T, C, H, W) with 1, 3 or 4 channels, or grey (T, H, W), "
    "uint8 or float in 0..1"
)
VIDEO_FORMS = (
    "the path or URL (http, https, hf) of a video, GIF or picture, the path of a folder of frames, "
    "the bytes of a file, "
    'datasets\' dictionary {"path": …, "bytes": …}, torchcodec\'s VideoDecoder, '
    f"{ARRAY_FORMS}, a PIL image, or a list of frames (PIL images, arrays, or the bytes of pictures)"
)
"""What a video may be."""

_FORMS_ADVICE = f"A video is {VIDEO_FORMS}."
_PICTURE_SIGNATURES = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*")


def decode_video(
    source: Any,
    sample_indices: SampleIndices | None = None,
    backend: str = "auto",
    name: str | None = None,
    *,
    sample_times: SampleTimes | None = None,
    video_metadata: Mapping[str, Any] | None = None,
    most_pixels: int | None = None,
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
            - a PIL image, or a list of PIL images, of the bytes of pictures, or of (H, W), (H, W, C) or (C, H, W)
              arrays.
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
        most_pixels: larger frames of a file are shrunk, each as it is decoded, so that a clip of them does not fill
            the memory; see `shrunk`. None takes them as they are.

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
    choose = FrameChoice(name, sample_indices, sample_times, video_metadata or {})

    source = encoded_file(source, name)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode_file(bytes(source), name, choose, backend, most_pixels)
    if is_address(source):
        return _decode_file(fetch_address(source), name, choose, backend, most_pixels)
    if isinstance(source, str | os.PathLike):
        path = Path(os.path.abspath(source))
        if os.path.isdir(path):  # unlike Path's, it takes any text
            return _decode_folder(path, name, choose, most_pixels)
        return _decode_file(path, name, choose, backend, most_pixels)
    if _is_video_decoder(source):
        return _decode_with_decoder(source, name, choose)
    if _is_picture_object(source):
        source = [source]
    if isinstance(source, list | tuple):
        return _decode_frame_list(source, name, choose, most_pixels)
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        return _decode_array(source, name, choose)
    raise VideoDecodeError(name, "it is no kind of video", _FORMS_ADVICE)


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
# Objects in memory and folders
# ---------------------------------------------------------------------------------------------------------------------


def _decode_array(source: Any, name: str, choose: FrameChoice) -> DecodedVideo:
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


def _decode_frame_list(source: Sequence, name: str, choose: FrameChoice, most_pixels: int | None) -> DecodedVideo:
    """Frames of a list of PIL images, of pictures' files, or of arrays of one shape."""
    advice = "Pass frames of one kind (PIL images, bytes of pictures, or arrays) and one size."
    if not source:
        raise VideoDecodeError(name, "the list of frames is empty", advice)
    if all(isinstance(frame, bytes) for frame in source):
        names = [f"{name}, frame {number}" for number in range(1, len(source) + 1)]
        return _decode_pictures(source, names, name, choose, most_pixels)
    if all(_is_picture_object(frame) for frame in source):
        sizes = sorted({frame.size for frame in source})
        if len(sizes) > 1:
            raise VideoDecodeError(name, f"its frames differ in size: {sizes}", advice)

        def read(indices: np.ndarray) -> np.ndarray:
            pictures = (np.asarray(source[i].convert("RGB")) for i in indices)
            return np.stack([one if most_pixels is None else shrunk(one, most_pixels) for one in pictures])

        return _without_clock(read, len(source), choose, "pillow")
    if not all(hasattr(frame, "shape") and hasattr(frame, "dtype") for frame in source):
        raise VideoDecodeError(name, "its items are not all pictures or all arrays", _FORMS_ADVICE)
    shapes = sorted({tuple(frame.shape) for frame in source})
    if len(shapes) > 1:
        raise VideoDecodeError(name, f"its frames differ in shape: {shapes}", advice)
    frames = np.stack([np.asarray(frame.detach().cpu() if hasattr(frame, "detach") else frame) for frame in source])
    return _decode_array(frames[..., None] if frames.ndim == 3 else frames, name, choose)


def _decode_folder(folder: Path, name: str, choose: FrameChoice, most_pixels: int | None) -> DecodedVideo:
    """Frames of a folder of pictures in natural order; only the chosen files are opened."""
    try:
        files = frame_files(folder)
    except OSError as error:
        raise VideoDecodeError(name, f"it cannot be opened ({error.strerror or error})", "Check the path.") from error
    if not files:
        reason = f"the folder holds no frames ({', '.join(sorted(IMAGE_SUFFIXES))})"
        raise VideoDecodeError(name, reason, "Pass the folder that directly contains the frames.")
    return _decode_pictures(files, list(map(str, files)), name, choose, most_pixels)


def _decode_pictures(
    files: Sequence[Path | bytes], names: Sequence[str], name: str, choose: FrameChoice, most_pixels: int | None
) -> DecodedVideo:
    """The chosen frames, each a picture's file or its bytes; the others are not looked at."""
    first = FrameChoice(name, lambda total_frames, fps: [0], None, {})

    def read(indices: np.ndarray) -> np.ndarray:
        wanted, inverse = np.unique(indices, return_inverse=True)
        pictures = [_decode_picture(files[i], names[i], first, most_pixels) for i in wanted]
        return stack_frames([picture.frames[0] for picture in pictures], name)[inverse]

    return _without_clock(read, len(files), choose, "pillow")


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order; hidden files do not count."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != ".")
    return sorted(files, key=lambda path: natural_order(path.name))


def natural_order(name: str) -> list:
    """What names are sorted by where 2 comes before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name.lower())]


def _without_clock(read: Callable[[np.ndarray], np.ndarray], count: int, choose: FrameChoice, backend: str):
    """The frames that `read` gives for the chosen of `count` indices; their times are known if they were given."""
    clock, numbers, total_frames = choose.given_clock(count)
    indices = choose(count, clock.fps, lambda: clock)
    return DecodedVideo(read(indices), clock.times[indices], numbers[indices], total_frames, clock.fps, backend)


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def _decode_file(
    file: Path | bytes, name: str, choose: FrameChoice, backend: str, most_pixels: int | None
) -> DecodedVideo:
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
        return _decode_picture(file, name, choose, most_pixels)
    return decode_container(file, name, choose, backend, most_pixels)


def _open_bytes(file: Path | bytes):
    return io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb")


def refuse_huge(width: int, height: int, name: str) -> None:
    """
    Raises:
        VideoDecodeError: a picture of that size has more than `MOST_PIXELS`.
    """
    if width * height > MOST_PIXELS:
        raise _huge(f"{width} x {height}", name)


def _huge(pixels: str, name: str) -> VideoDecodeError:
    return VideoDecodeError(name, f"it has {pixels} pixels; more than {MOST_PIXELS} are refused", "Scale it down.")


def _decode_picture(file: Path | bytes, name: str, choose: FrameChoice, most_pixels: int | None) -> DecodedVideo:
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
                refuse_huge(*image.size, name)
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
                        picture = np.asarray(frame.convert("RGB"))
                        frames[index] = picture if most_pixels is None else shrunk(picture, most_pixels)
                    if len(frames) == len(wanted):
                        break
        except VideoDecodeError:
            raise
        except Image.DecompressionBombError as error:
            found = re.search(r"\((\d+) pixels", str(error))
            raise _huge(found[1] if found else "too many", name) from error
        except (OSError, EOFError, SyntaxError, ValueError) as error:
            raise VideoDecodeError(name, f"the picture is damaged or truncated ({error})") from error
    if len(frames) < len(wanted):
        raise VideoDecodeError(name, f"the file is truncated: it promises {total_frames} frames")
    stacked = stack_frames([frames[i] for i in indices.tolist()], name)
    return DecodedVideo(stacked, np.asarray(times)[indices], indices, total_frames, fps, "pillow")


def _clock_of_picture(image: Any, fps: float | None) -> Clock:
    """The clock of an open GIF, animated WebP or PNG, or still picture."""
    ends = [0.0]
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        ends.append(ends[-1] + image.info.get("duration", 0) / 1000.0)
    return Clock(np.asarray(ends[:-1]) if ends[-1] else np.full(len(ends) - 1, np.nan), ends[-1], fps)


def _is_picture_object(item: Any) -> bool:
    """Whether `item` is a PIL image, without needing Pillow to tell."""
    return hasattr(item, "convert") and hasattr(item, "getbands")


def _is_video_decoder(source: Any) -> bool:
    """Whether this is torchcodec's `VideoDecoder`; who has one has imported it."""
    decoders = sys.modules.get("torchcodec.decoders")
    return decoders is not None and isinstance(source, decoders.VideoDecoder)


def _decode_with_decoder(decoder: Any, name: str, choose: FrameChoice) -> DecodedVideo:
    """Frames of torchcodec's `VideoDecoder`, in whatever layout, type and place it gives them."""
    count, said = len(decoder), decoder.metadata
    begin, end = said.begin_stream_seconds, said.end_stream_seconds
    # If packets have no durations, torchcodec lets the video end as its last frame appears.
    duration = (
        max(end, (said.begin_stream_seconds_from_header or 0) + (said.duration_seconds_from_header or 0)) - begin
    )
    fps = average_rate(said.average_fps_from_header, count, duration)
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

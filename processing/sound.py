"""The sound of a clip, read from the same file as its frames: mono, at a model's rate, from the first frame on.

PyAV reads it, whatever library read the frames. Time is that of the container: sample k is what is heard k / rate
seconds after the first frame appears, if the sound starts later or earlier, or has a gap, as well. What is no sound of
the file is masked: the place of a sound that starts later, a gap, what lies behind the end of the sound or of the
frames, and all of a clip without sound.

No torch at module level, as in `decoding`.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .addresses import fetch_address, is_address
from .containers import import_av, open_container
from .decoded_video import SHORT_SECONDS, DecodedVideo, SampleIndices, Sound, VideoDecodeError
from .decoding import decode_video, describe_source, encoded_file, is_encoded_file

SOUND_FORMS = (
    'the path, URL or bytes of a file with sound, datasets\' {"path": …, "bytes": …}, '
    '{"array": (n,) or (channels, n), "sampling_rate": Hz}, torchcodec\'s AudioDecoder, or None if it has none'
)
"""What may be given as the sound of a clip."""
_GAP_SECONDS = 0.02
"""Time stamps that differ by less from where the samples before them end follow them: Matroska rounds to 1 ms."""
_ADVICE = "Encode its sound again as AAC, or take it out of the file."


def no_sound(num_samples: int) -> Sound:
    """That of a clip without any."""
    return Sound(np.zeros(num_samples, np.float32), np.zeros(num_samples, bool), False, 0.0)


def join_sounds(sounds: list[Sound]) -> Sound:
    """The sounds of clips that make one video, one behind the other."""
    values, masks = (np.concatenate([getattr(one, name) for one in sounds]) for name in ("values", "mask"))
    return Sound(values, masks, any(one.found for one in sounds), sum(one.missing for one in sounds))


def decode_with_sound(
    source: Any,
    sample_indices: SampleIndices | None = None,
    backend: str = "auto",
    name: str | None = None,
    *,
    sampling_rate: int,
    num_samples: int,
    **settings: Any,
) -> DecodedVideo:
    """
    The chosen frames of a video, and its sound from its first frame on.

    Args:
        source, sample_indices, backend, name, settings: as of `decode_video`.
        sampling_rate: samples a second that are wanted.
        num_samples: how many; a longer sound is cut.

    Returns:
        The same with `sound`; None for what is no file and cannot have one: frames in memory.

    Raises:
        VideoDecodeError: also if the file's sound is damaged, or has no decoder.
    """
    name = describe_source(source) if name is None else name
    has_sound = may_have_sound(source)
    file = encoded_file(getattr(source, "_hf_encoded", None) or source, name) if has_sound else None
    if isinstance(file, str) and is_address(file):
        source = file = fetch_address(file)
    decoded = decode_video(source, sample_indices, backend, name, **settings)
    if file is None:
        return decoded
    if decoded.span is None and decoded.backend == "torchcodec":  # its decoder does not say where its frames lie
        span = decode_video(file, lambda total, fps: [0], name=name).span
    else:
        span = decoded.span
    if span is None:  # a picture, a GIF, a folder of frames
        return replace(decoded, sound=no_sound(num_samples))
    return replace(decoded, sound=read_sound(_as_file(file), name, span, sampling_rate, num_samples))


def may_have_sound(source: Any) -> bool:
    """Whether a video is a file, or stands for one; frames in memory have no sound."""
    encoded = getattr(source, "_hf_encoded", None) or source  # datasets leaves on a decoder what it was made of
    return isinstance(encoded, str | os.PathLike | bytes | bytearray | memoryview) or is_encoded_file(encoded)


def has_sound(source: Any) -> bool:
    """
    Whether a file has a stream of sound; nothing is decoded.

    Args:
        source: a path, an address, the bytes of a file, or a dictionary of `datasets.Video(decode=False)`.

    Raises:
        VideoDecodeError: it cannot be fetched.
    """
    if not may_have_sound(source):
        return False
    file = encoded_file(getattr(source, "_hf_encoded", None) or source)
    if isinstance(file, str) and is_address(file):
        file = fetch_address(file)
    if isinstance(file, str | os.PathLike) and os.path.isdir(file):
        return False
    av = import_av()
    try:
        with open_container(_as_file(file)) as container:
            return bool(container.streams.audio)
    except (av.error.FFmpegError, OSError):
        return False


def read_sound(
    file: Path | bytes, name: str, span: tuple[float, float], sampling_rate: int, num_samples: int
) -> Sound:
    """
    The sound of a file within a span of time.

    Args:
        name: what messages call it.
        span: (start, end) in seconds of the container's clock; where the clip's frames lie. An infinite end is that
            of the sound, a start of NaN its start.
        sampling_rate, num_samples: as of `decode_with_sound`.

    Raises:
        VideoDecodeError: the sound is damaged, or this FFmpeg has no decoder for it.
    """
    av = import_av()
    try:
        with open_container(file) as container:
            stream = container.streams.best("audio")
            if stream is None:
                return no_sound(num_samples)
            if stream.codec_context is None:
                raise VideoDecodeError(name, "this FFmpeg has no decoder for its sound", _ADVICE)
            stream.codec_context.thread_count = 1
            reach = num_samples / sampling_rate
            runs = list(_runs(container, stream, name, None if math.isnan(span[0]) else span[0] + reach, reach))
    except (av.error.FFmpegError, OSError) as error:
        if isinstance(error, OSError):
            raise VideoDecodeError(
                name, f"its sound cannot be opened ({error.strerror})", "Check the path."
            ) from error
        raise VideoDecodeError(name, f"its sound is damaged ({error.strerror})", _ADVICE) from error
    start = runs[0].start if math.isnan(span[0]) and runs else span[0]
    return _placed(runs, (start, span[1]), sampling_rate, num_samples, name)


def given_sound(given: Any, name: str, sampling_rate: int, num_samples: int) -> Sound:
    """
    A sound that is given beside its frames; it starts with the first of them.

    Args:
        given: see `SOUND_FORMS`; or a `Sound` of this length, which comes back as it is.
        name: what messages call it.

    Raises:
        VideoDecodeError: it is none of these, or cannot be read.
    """
    if given is None:
        return no_sound(num_samples)
    if isinstance(given, Sound):
        if len(given.values) != num_samples:
            raise ValueError(f"{name}: its sound has {len(given.values)} samples, and {num_samples} are wanted.")
        return given
    if _is_audio_decoder(given):
        samples = given.get_all_samples()
        given = {"array": samples.data, "sampling_rate": samples.sample_rate}
    if isinstance(given, Mapping) and {"array", "sampling_rate"} <= set(given):
        run = _Run(0.0, int(given["sampling_rate"]), [_mono_of_array(given["array"], name)])
        return _placed([run], (0.0, math.inf), sampling_rate, num_samples, name)
    if not may_have_sound(given):
        kind = describe_source(given)
        reason = f"its `sound` is {kind}" + (", without its rate" if hasattr(given, "shape") else "")
        raise VideoDecodeError(name, reason, f"A sound is {SOUND_FORMS}.")
    file = encoded_file(given, name)
    file = fetch_address(file) if isinstance(file, str) and is_address(file) else file
    sound = read_sound(_as_file(file), name, (math.nan, math.inf), sampling_rate, num_samples)
    if not sound.found:
        reason = f"the file that is given as its sound, {describe_source(given)}, has none"
        raise VideoDecodeError(name, reason, f"A sound is {SOUND_FORMS}.")
    return sound


# ---------------------------------------------------------------------------------------------------------------------
# Samples and their times
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """Samples without a gap: `start` in seconds, their rate, and (n,) float32 parts of them."""

    start: float
    rate: int
    parts: list[np.ndarray]

    @property
    def length(self) -> int:
        return sum(map(len, self.parts))


def _runs(container, stream, name: str, until: float | None, reach: float) -> Iterator[_Run]:
    """The sound of a stream up to `until` seconds, or `reach` seconds of it, and a little more."""
    run = None
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise VideoDecodeError(name, f"its sound is damaged at {frame.time} s", _ADVICE)
        samples, end = _mono(frame, name), None if run is None else run.start + run.length / run.rate
        time = frame.time if frame.pts is not None else (0.0 if end is None else end)
        if run is None or frame.sample_rate != run.rate or abs(time - end) > _GAP_SECONDS:
            if run is not None:
                yield run
            until = time + reach if until is None else until
            run = _Run(time, frame.sample_rate, [])
        run.parts.append(samples)
        if run.start + run.length / run.rate > until + SHORT_SECONDS:  # what a resampler looks ahead
            break
    if run is not None:
        yield run


def _placed(runs: list[_Run], span: tuple[float, float], sampling_rate: int, num_samples: int, name: str) -> Sound:
    """The samples of these runs within the span, each at its time."""
    values, mask = np.zeros(num_samples, np.float32), np.zeros(num_samples, bool)
    wanted = num_samples if math.isinf(span[1]) else min(num_samples, round((span[1] - span[0]) * sampling_rate))
    for run in runs:
        samples = _resampled(np.concatenate(run.parts), run.rate, sampling_rate)
        place = round((run.start - span[0]) * sampling_rate)
        samples, place = samples[max(0, -place) :], max(0, place)
        samples = samples[: max(0, wanted - place)]
        if not np.isfinite(samples).all():
            raise VideoDecodeError(name, "its sound has values that are NaN or infinite", _ADVICE)
        values[place : place + len(samples)] = np.clip(samples, -1, 1)
        mask[place : place + len(samples)] = True
    missing = 0.0 if math.isinf(span[1]) else (wanted - int(mask.sum())) / sampling_rate
    return Sound(values, mask, True, missing)


def _resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """(n,) float32 at another rate: (round(n * wanted / rate),), the first sample at the same time."""
    if rate == wanted or not len(samples):
        return samples
    av = import_av()
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=wanted)
    parts = [part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))]
    length = round(len(samples) * wanted / rate)
    made = np.concatenate(parts)[:length] if parts else np.zeros(0, np.float32)
    return np.pad(made, (0, length - len(made)))


_SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uint8": lambda values: (values.astype(np.float32) - 128) / 128,
    "int16": lambda values: values.astype(np.float32) / 2**15,
    "int32": lambda values: (values / 2**31).astype(np.float32),
    "int64": lambda values: (values / 2**63).astype(np.float32),
    "float32": lambda values: values,
    "float64": lambda values: values.astype(np.float32),
}


def _mono(frame, name: str) -> np.ndarray:
    """av.AudioFrame -> (samples,) float32, the mean of its channels."""
    values = frame.to_ndarray()
    channels = frame.layout.nb_channels
    if not frame.format.is_planar:
        values = values.reshape(-1, channels).T  # (1, samples * channels) -> (channels, samples)
    if values.dtype.name not in _SCALES:
        raise VideoDecodeError(name, f"its sound is of the type {frame.format.name}", _ADVICE)
    return _SCALES[values.dtype.name](values).mean(0, dtype=np.float32)


def _mono_of_array(array: Any, name: str) -> np.ndarray:
    """(n,), (channels, n) or (n, channels), float in -1..1 or int16 -> (n,) float32."""
    values = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    if values.ndim == 2 and values.shape[0] > values.shape[1]:
        values = values.T
    if values.ndim not in (1, 2) or not values.size or values.dtype.name not in ("int16", "float32", "float64"):
        reason = f"its `sound` is an array of shape {values.shape} and type {values.dtype}"
        advice = "Give (n,) or (channels, n) numbers, float in -1..1 or int16."
        raise VideoDecodeError(name, reason, advice)
    values = _SCALES[values.dtype.name](values)
    if np.abs(values).max() > 1:
        reason = f"the values of its `sound` run from {values.min():g} to {values.max():g}, outside of -1..1"
        raise VideoDecodeError(name, reason, "Divide them by the largest that there may be.")
    return values if values.ndim == 1 else values.mean(0, dtype=np.float32)


def _is_audio_decoder(given: Any) -> bool:
    """Whether this is torchcodec's `AudioDecoder`; who has one has imported it."""
    decoders = sys.modules.get("torchcodec.decoders")
    return decoders is not None and isinstance(given, decoders.AudioDecoder)


def _as_file(file: Any) -> Path | bytes:
    return bytes(file) if isinstance(file, bytes | bytearray | memoryview) else Path(os.path.abspath(file))

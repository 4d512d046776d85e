"""Video files with sound, written by PyAV's encoders."""

from fractions import Fraction
from pathlib import Path

import numpy as np

FPS = 10
SIDE = 32


def tone(hertz: float, seconds: float, rate: int, amplitude: float = 0.5) -> np.ndarray:
    """(samples,) float32"""
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_video(
    path: Path,
    seconds: float,
    sound: np.ndarray | None = None,
    rate: int = 48000,
    codec: str = "aac",
    layout: str = "mono",
    sound_starts: float = 0.0,
    frames_start: float = 0.0,
    video_codec: str = "libx264",
) -> Path:
    """
    A video of grey frames that grow brighter, and its sound.

    Args:
        sound: (channels, samples) or (samples,) float32 in -1..1.
        sound_starts, frames_start: when the first sample and the first frame come, in seconds.
    """
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(video_codec, rate=FPS)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.options = {"bf": "0", "threads": "1"} if video_codec == "libx264" else {"threads": "1"}
        heard = None if sound is None else container.add_stream(codec, rate=rate, layout=layout)
        packets = []
        for number in range(round(seconds * FPS)):
            picture = np.full((SIDE, SIDE, 3), 10 + number * 2, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number + round(frames_start * FPS), Fraction(1, FPS)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if heard is not None and sound is not None:
            samples = np.atleast_2d(sound)
            form = heard.codec_context.format.name
            if form.startswith("s"):
                kind = np.dtype(f"int{form.strip('sp')}")
                samples = np.rint(samples.astype(np.float64) * np.iinfo(kind).max).astype(kind)
            if not form.endswith("p"):
                samples = samples.T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=form, layout=layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = round(sound_starts * rate)
            packets += heard.encode(frame)
            packets += heard.encode(None)
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            container.mux(packet)
    return path


def own_samples(path: Path) -> np.ndarray:
    """The mean of the channels as PyAV decodes them, one frame behind the other: (samples,) float32."""
    import av

    with av.open(str(path)) as container:
        parts = []
        for frame in container.decode(audio=0):
            values, channels = frame.to_ndarray(), frame.layout.nb_channels
            if not frame.format.is_planar:
                values = values.reshape(-1, channels).T
            if values.dtype == np.int16:
                values = values / np.float32(32768)
            parts.append(values.astype(np.float32).mean(0))
    return np.concatenate(parts)


def loudest(values: np.ndarray, rate: int) -> float:
    """The frequency of the strongest part, in Hz."""
    spectrum = np.abs(np.fft.rfft(values * np.hanning(len(values))))
    return float(np.fft.rfftfreq(len(values), 1 / rate)[spectrum.argmax()])

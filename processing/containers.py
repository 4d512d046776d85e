"""Frames of video files, read by PyAV, decord or torchcodec; see `decoding`."""

import io
import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .decoded_video import (
    Clock,
    DecodedVideo,
    FrameChoice,
    VideoDecodeError,
    check_equal,
    shrunk,
)
from .file_places import (
    MOST_VIDEO_PIXELS,
    REGULAR_SHARE,
    DamagedFile,
    FilePlaces,
    Promise,
    check_length,
    check_size,
)
from .promises_avi import avi_promises
from .promises_matroska import matroska_promises
from .promises_mp4 import mp4_promises
from .promises_ts import check_packets, packets_of

_MP4_BOXES = frozenset(
    (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"styp", b"moof", b"sidx", b"emsg")
)
_OTHER_FORMATS = (
    "flv,live_flv,mpeg,mpegvideo,m4v,h263,h264,hevc,vvc,vc1,obu,av1,ivf,asf,asf_o,ogg,rm,dv,mxf,nut,gxf,yuv4mpegpipe,"
    "mjpeg,nsv,roq,bink,smk,swf,wtv,gif,amv,cavsvideo,dirac,"
    "wav,w64,mp3,flac,aac,ac3,eac3,aiff,au,caf,amr,amrnb,amrwb,ape,tta,wv,dts,opus,loas"
)
"""Formats of video and sound that promise nothing that is read here."""
_ROUNDED = 2e-3
"""Seconds by which time stamps of a constant rate may be off: Matroska rounds each to milliseconds."""
_PULLED_DOWN = 1.75
"""Films on television have gaps of two and of three halves of a frame."""


@dataclass(frozen=True)
class _PacketTable:
    """What a container says about its video, read from its packets without decoding.

    Attributes:
        count: how many frames are shown.
        packets: how many there are with those that are not shown.
        pts: sorted presentation time stamps of the shown frames; none if they are missing or not unique.
        keyframes: sorted time stamps at which decoding can start exactly; only the first packet's if unknown.
        times: (count,) float64 seconds from the start of the file.
        start: what the container's clock shows at that start, in seconds.
        end: seconds at which the last frame ends.
        fps: average frames a second, or None.
        closed_groups: every keyframe of an H.264 stream starts afresh (IDR), with no frame shown before it.
    """

    count: int
    packets: int
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


def decode_container(
    file: Path | bytes, name: str, choose: FrameChoice, backend: str, most_pixels: int | None = None
) -> DecodedVideo:
    """
    Frames of a video file, or of its bytes: its structure is read, the packets are held against what it promises, the
    frames are chosen, and decoded with `backend`.

    Args:
        most_pixels: larger frames are shrunk as they are decoded, see `shrunk`.
    """
    av = import_av()
    try:
        with FilePlaces(file) as places:
            formats, read_promises = _formats_of(places)
            promises = [] if read_promises is None else read_promises(places)
        with open_container(file, formats) as container:
            stream = _video_stream(container, name)
            if formats == "mpegts":
                with FilePlaces(file) as places:
                    check_packets(places, stream.id)
            table = _scan_packets(container, stream, name)
            promised = _compare(table, _promise_of(stream, container, promises), formats)
            indices = choose(table.count, table.fps, lambda: Clock(table.times, table.end, table.fps))
            wanted, inverse = np.unique(indices, return_inverse=True)
            keep = Frames(name, most_pixels, stream.codec_context.width * stream.codec_context.height)
            frames = None
            if backend == "decord" and not keep.shrinks:
                frames = _read_with_decord(file, container, stream, table, wanted.tolist(), name)
            elif backend == "torchcodec" and not keep.shrinks:
                frames = _read_with_torchcodec(file, container, stream, table, wanted.tolist(), name)
            if frames is None:
                backend = "pyav"
                frames = _read_with_pyav(file, container, stream, table, wanted.tolist(), keep)
    except DamagedFile as error:
        raise _damage(name, error) from error
    except OSError as error:
        if not isinstance(error, av.error.FFmpegError):
            reason = f"it cannot be opened ({error.strerror or error})"
            raise VideoDecodeError(name, reason, "Check the path.") from error
        raise _undecodable(name, error) from error
    except av.error.FFmpegError as error:
        raise _undecodable(name, error) from error
    if len(wanted) < len(indices) or (wanted != indices).any():
        frames = frames[inverse]
    times = table.times[indices]
    return DecodedVideo(frames, times, indices, table.count, table.fps, backend, table.span, promised_frames=promised)


def _undecodable(name: str, error: Any) -> VideoDecodeError:
    return VideoDecodeError(name, f"it is damaged or not a video ({error.strerror})")


def _promise_of(stream, container, promises: list[Promise]) -> Promise | None:
    """That of one stream: the promises are in the order of the streams."""
    place = [one.index for one in container.streams.video].index(stream.index)
    return promises[place] if place < len(promises) else None


def _compare(table: "_PacketTable", promise: Promise | None, formats: str) -> int | None:
    """How many frames the file promises, if that is another number than it has."""
    gaps = np.diff(table.times) if len(table.pts) > 2 else np.zeros(0)
    if formats == "mpegts":  # what is missing is seen by the clock only
        usual = float(np.median(gaps)) if len(gaps) else 0.0
        steps = gaps / usual if usual > 0 else gaps[:0]
        missing = int((np.rint(steps[steps > _PULLED_DOWN]) - 1).sum())
        return table.count + missing if missing else None
    if promise is None:
        return None
    if promise.held is not None and promise.held != table.packets:
        return promise.held
    counts = [*promise.counts, *([] if promise.shown is None else [promise.shown])]
    if promise.frame_seconds and len(gaps):
        steps = gaps / promise.frame_seconds
        regular = np.abs(steps - np.rint(steps)) * promise.frame_seconds < _ROUNDED
        if regular.mean() < REGULAR_SHARE:  # the rate is no constant one, whatever the file says
            counts = []
    other = [count for count in counts if count != table.count]
    return max(other, key=lambda count: abs(count - table.count)) if other else None


def import_av():
    try:
        import av
    except ImportError as error:
        raise ImportError("Reading video and sound files needs PyAV: pip install av") from error
    return av


def open_container(file: Path | bytes, formats: str | None = None):
    """
    Opens a video or sound file with PyAV.

    Args:
        formats: those that it may have, by their names in FFmpeg; by default those that its first bytes show. No
            playlist is among them: a file cannot make FFmpeg open another one, or an address.
    """
    if formats is None:
        with FilePlaces(file) as places:
            formats = _formats_of(places)[0]
    source = io.BytesIO(file) if isinstance(file, bytes) else str(file)
    options = {"format_whitelist": formats, "protocol_whitelist": "file", "max_pixels": str(MOST_VIDEO_PIXELS)}
    return import_av().open(source, metadata_errors="replace", options=options)


def _formats_of(places: FilePlaces) -> tuple[str, Callable[[FilePlaces], list[Promise]] | None]:
    """FFmpeg's names of the formats that a file's first bytes show, and what reads such a file's promises."""
    head = places.read(0, 16)
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska,webm", matroska_promises
    if head[:4] in (b"RIFF", b"ON2 ") and head[8:11] in (b"AVI", b"ON2"):
        return "avi", avi_promises
    if head[4:8] in _MP4_BOXES:
        return "mov,mp4,m4a,3gp,3g2,mj2", mp4_promises
    if packets_of(places) is not None:
        return "mpegts", None
    return _OTHER_FORMATS, None


def _damage(name: str, error: DamagedFile) -> VideoDecodeError:
    """The error of a file whose structure is damaged, or beyond a limit."""
    if error.is_limit:
        return VideoDecodeError(name, error.reason, "Scale or cut it down.")
    told = VideoDecodeError(name, f"the file is {error}")
    told.promised_frames, told.held_frames = error.promised, error.held
    return told


def _video_stream(container, name: str):
    """The video stream of an open container, ready to decode; cover pictures and text drawn as video do not count."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & stream.disposition.attached_pic:
        raise VideoDecodeError(name, "it has no video stream", "Pass a file that holds pictures, not only sound.")
    if stream.codec_context is None:
        raise VideoDecodeError(name, "this FFmpeg has no decoder for its video stream", "Encode it again as H.264.")
    try:
        check_size(stream.codec_context.width, stream.codec_context.height)
    except DamagedFile as error:
        raise _damage(name, error) from None
    # Damage that the decoder notices becomes an error; by default FFmpeg paints over it in silence.
    stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MOST_VIDEO_PIXELS)}
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
        check_length(packets, 0.0)
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
        raise DamagedFile("truncated", promised, packets)
    fps = float(stream.average_rate or stream.guessed_rate or 0) or None
    end_seconds, promised_end = float((end + last_duration) * stream.time_base), _promised_end(container, stream)
    if promised_end is not None and fps and promised_end - end_seconds > 1.5 / fps:
        reason = f"truncated: it promises {promised_end:.3f} s and ends at {end_seconds:.3f} s"
        raise DamagedFile(reason, round(promised_end * fps), packets)

    check_length(0, end_seconds)
    count = len(time_stamps)
    known = [pts for pts in time_stamps if pts is not None]
    if len(set(known)) < count:
        times = np.arange(count) / fps if fps else np.full(count, np.nan)
        begin = float((stream.start_time or 0) * stream.time_base)
        return _PacketTable(count, packets, [], [], times, begin, count / fps if fps else np.nan, fps, closed_groups)
    pts = sorted(known)
    start = min(container.start_time / 1e6 if container.start_time is not None else 0.0, pts[0] * stream.time_base)
    times = np.asarray(pts, dtype=np.float64) * float(stream.time_base) - float(start)
    # Only these containers name the frames at which decoding starts exactly.
    exact = family.startswith(("mov", "matroska")) and keyframes and min(keyframes) == pts[0]
    last_seconds = max(ends)[1] * float(stream.time_base) or (1 / fps if fps else 0.0)
    shown_until = float(times[-1]) + last_seconds
    fps = average_rate(fps, count, shown_until - float(times[0]))
    starts = sorted(keyframes) if exact else pts[:1]
    return _PacketTable(count, packets, pts, starts, times, float(start), shown_until, fps, closed_groups)


def average_rate(told: float | None, count: int, seconds: float) -> float | None:
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


class Frames:
    """
    Decoded frames, each turned as the file says, shrunk if it is large, and put in its place at once: at most two
    are held at their full size.

    Args:
        most_pixels: see `shrunk`.
        pixels: of each frame, as the file says.
    """

    def __init__(self, name: str, most_pixels: int | None, pixels: int):
        self.name, self.most_pixels = name, most_pixels
        self.shrinks = most_pixels is not None and pixels > most_pixels
        self._wanted, self._count = 0, 0
        self._frames: np.ndarray | None = None

    def prepare(self, wanted: int) -> None:
        """For this number of frames, from the first on."""
        self._wanted, self._count = wanted, 0

    def __len__(self) -> int:
        return self._count

    def add(self, frame) -> None:
        """Takes an av.VideoFrame."""
        picture = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
        if self.most_pixels is not None:
            picture = shrunk(picture, self.most_pixels)
        if self._frames is None:
            self._frames = np.empty((self._wanted, *picture.shape), np.uint8)
        check_equal([self._frames.shape[1:3], picture.shape[:2]], self.name)
        self._frames[self._count] = picture
        self._count += 1

    def all(self) -> np.ndarray:
        """(frames, height, width, 3) uint8"""
        assert self._frames is not None
        return self._frames


def _read_with_pyav(file, container, stream, table: _PacketTable, wanted: list[int], keep: "Frames") -> np.ndarray:
    """The frames at the sorted indices `wanted`, from the nearest keyframe if that is exact, else in order."""
    av = import_av()
    found = False
    keep.prepare(len(wanted))
    if len(table.keyframes) > 1:
        try:
            found = _seek_and_decode(container, stream, table, wanted, keep)
        except av.error.FFmpegError:
            found = False  # a seek that did not land well: decoding in order decides whether the file is damaged
    if not found:
        keep.prepare(len(wanted))
        try:
            container.seek(min(0, table.pts[0]) if table.pts else 0, stream=stream)
        except av.error.PermissionError:  # a raw stream without time stamps cannot be wound back
            with open_container(file) as again:
                _decode_in_order(again, _video_stream(again, keep.name), table, wanted, keep)
        else:
            _decode_in_order(container, stream, table, wanted, keep)
    return keep.all()


def _seek_and_decode(container, stream, table: _PacketTable, wanted: list[int], keep: "Frames") -> bool:
    """As `_read_with_pyav`, jumping to the keyframe before each wanted frame; whether each frame turned up."""
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
            return False
        keep.add(frame)
    return True


def _decode_in_order(container, stream, table: _PacketTable, wanted: list[int], keep: "Frames") -> None:
    """As `_read_with_pyav`, from the first frame to the last wanted one; the container stands at its start."""
    targets = wanted if not table.pts else [table.pts[index] for index in wanted]
    for count, frame in enumerate(container.decode(stream)):
        if frame.is_corrupt:
            raise VideoDecodeError(keep.name, f"frame {count} is damaged")
        place = count if not table.pts else frame.pts
        if place is not None and place > targets[len(keep)]:
            break
        if place == targets[len(keep)]:
            keep.add(frame)
            if len(keep) == len(targets):
                return
    missing = wanted[len(keep)]
    reason = f"it is truncated or damaged: frame {missing} of {table.count} cannot be decoded"
    raise VideoDecodeError(keep.name, reason)


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
        if "Could not load libtorchcodec" in str(error):
            return None  # newer releases look for FFmpeg's libraries when the first decoder is made
        reason = str(error).strip().splitlines()[0]
        raise VideoDecodeError(name, f"it is truncated or damaged (torchcodec: {reason})") from error

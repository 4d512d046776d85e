"""What an MP4 or MOV file promises: the tables of its header, its durations and its edit list."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from .file_places import REGULAR_SHARE, DamagedFile, FilePlaces, Promise, check_length, check_size

_HOLDERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"mvex", b"moof", b"traf"})
_UNKNOWN = frozenset({0, 2**32 - 1, 2**64 - 1})
"""Durations that say nothing."""


@dataclass
class _Track:
    number: int = 0
    kind: bytes = b""
    shown_for: int = 0
    scale: int = 0
    duration: int = 0
    edits: list[tuple[int, int, float]] = field(default_factory=list)
    sizes: tuple[int, int, int] = (0, 0, 0)
    boxes: dict[bytes, bytes] = field(default_factory=dict)
    fragments: int = 0

    def table(self, name: bytes, columns: int, width: int = 4) -> np.ndarray:
        """(rows, columns) int64 of a box that counts its rows; none if there is no such box."""
        box = self.boxes.get(name)
        if box is None:
            return np.zeros((0, columns), np.int64)
        count = _number(box, 4, 4)
        if len(box) < 8 + count * columns * width:
            raise DamagedFile(f"damaged: its table {_name(name)} counts {count} rows and has no room for them")
        signed = "i" if name == b"ctts" else "u"
        values = np.frombuffer(box, f">{signed}{width}", count * columns, 8)
        return values.reshape(count, columns).astype(np.int64)  # (rows * columns,) -> (rows, columns)


def mp4_promises(file: FilePlaces) -> list[Promise]:
    """
    Of each video track, in order.

    Raises:
        DamagedFile: a box is cut off, tables contradict each other, or data that they name is not there.
    """
    scale, tracks, is_picture = 0, dict[int, _Track](), False
    for kind, place, size in _parts(file):
        is_picture = is_picture or kind == b"meta"
        if kind == b"moov":
            scale, tracks = _read_header(file.header(place, size, "header"))
        elif kind == b"moof":
            _count_fragments(file.header(place, size, "fragment"), tracks, file.size)
    if not tracks and is_picture:  # HEIF, AVIF
        return []
    if not tracks:
        raise DamagedFile("truncated or damaged: it has no header (moov)")
    return [promise for track in tracks.values() if (promise := _promise(track, scale, file.size)) is not None]


def _parts(file: FilePlaces) -> Iterator[tuple[bytes, int, int]]:
    """(kind, place and size of the content) of a file's boxes."""
    place, seen = 0, set()
    while place + 8 <= file.size:
        head = file.read(place, 16)
        size, kind, start = _number(head, 0, 4), head[4:8], 8
        if size == 1:
            size, start = _number(head, 8, 8), 16
        elif size == 0:
            size = file.size - place
        if size < start:
            if b"moov" in seen:
                return  # what somebody wrote behind it
            raise DamagedFile(f"damaged at byte {place}, where a box should start")
        if place + size > file.size and (kind in (b"mdat", b"moov", b"moof") or b"moov" not in seen):
            reason = f"truncated: its box {_name(kind)} should end at byte {place + size}, and the file at {file.size}"
            raise DamagedFile(reason)
        seen.add(kind)
        yield kind, place + start, min(size, file.size - place) - start
        place += size


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes within another one."""
    place = 0
    while place + 8 <= len(content):
        size, kind, start = _number(content, place, 4), content[place + 4 : place + 8], 8
        if size == 1:
            size, start = _number(content, place + 8, 8), 16
        elif size == 0:
            if not any(content[place:]):
                return  # QuickTime ends a list of boxes so
            size = len(content) - place
        if size < start or place + size > len(content):
            raise DamagedFile(f"damaged: the box {_name(kind)} of its header ends behind what holds it")
        yield kind, content[place + start : place + size]
        place += size


def _read_header(content: bytes) -> tuple[int, dict[int, _Track]]:
    """Ticks a second of the whole, and its tracks by their numbers."""
    scale, tracks = 0, {}
    for kind, box in _boxes(content):
        if kind == b"mvhd":
            scale, duration = _times(box, 4 if box[:1] != b"\1" else 8, 0)
            check_length(0, duration / scale if scale and duration not in _UNKNOWN else 0)
        elif kind == b"cmov":
            raise DamagedFile("its header is compressed, which is not read", is_limit=True)
        elif kind == b"trak":
            track = _Track()
            _read_track(track, box)
            tracks[track.number] = track
    return scale, tracks


def _read_track(track: _Track, content: bytes) -> None:
    for kind, box in _boxes(content):
        wide = 8 if box[:1] == b"\1" else 4
        if kind in _HOLDERS:
            _read_track(track, box)
        elif kind == b"tkhd":
            track.number = _number(box, 4 + 2 * wide, 4)
            track.shown_for = _number(box, 12 + 2 * wide, wide)
        elif kind == b"mdhd":
            track.scale, track.duration = _times(box, wide, 0)
        elif kind == b"hdlr" and not track.kind:
            track.kind = box[8:12]
        elif kind == b"elst":
            track.edits = list(_edits(box, wide))
        elif kind in (b"stts", b"ctts", b"stsz", b"stz2", b"stsc", b"stco", b"co64", b"stsd"):
            track.boxes[kind] = box


def _times(box: bytes, wide: int, place: int) -> tuple[int, int]:
    """Ticks a second, and a duration in them, of mvhd or mdhd."""
    return _number(box, 4 + 2 * wide, 4), _number(box, 8 + 2 * wide, wide)


def _edits(box: bytes, wide: int) -> Iterator[tuple[int, int, float]]:
    """(ticks of the whole, place in the track's ticks or -1, speed)"""
    count, row = _number(box, 4, 4), 2 * wide + 4
    if len(box) < 8 + count * row:
        raise DamagedFile(f"damaged: its edit list counts {count} rows and has no room for them")
    for place in range(8, 8 + count * row, row):
        length, start = struct.unpack_from(">Qq" if wide == 8 else ">Ii", box, place)
        yield length, start, struct.unpack_from(">i", box, place + 2 * wide)[0] / 65536


def _count_fragments(content: bytes, tracks: dict[int, _Track], file_size: int) -> None:
    """Adds the frames of a fragment to those of its tracks."""
    for kind, fragment in _boxes(content):
        if kind != b"traf":
            continue
        parts = list(_boxes(fragment))
        number = next((_number(box, 4, 4) for name, box in parts if name == b"tfhd"), 0)
        count = sum(_number(box, 4, 4) for name, box in parts if name == b"trun")
        if number in tracks:
            tracks[number].fragments += count
            if tracks[number].fragments > file_size:
                raise _too_many(tracks[number].fragments, file_size)


def _too_many(count: int, file_size: int) -> DamagedFile:
    return DamagedFile(f"damaged: a track has {count} samples, more than the file's {file_size} bytes could hold")


def _sample_sizes(track: _Track, file_size: int) -> tuple[int, np.ndarray | int]:
    """How many samples a track has, and the bytes of each, or of all alike."""
    box = track.boxes.get(b"stsz")
    if box is None:
        box = track.boxes.get(b"stz2", bytes(12))
        count, width = _number(box, 8, 4), _number(box, 4, 4) & 255
        if count * width // 8 > len(box) - 12:
            raise _too_many(count, file_size)
        return count, 0
    size, count = _number(box, 4, 4), _number(box, 8, 4)
    if size:
        if count * size > file_size:
            raise _too_many(count, file_size)
        return count, size
    if len(box) < 12 + 4 * count:
        raise DamagedFile(f"damaged: its table stsz counts {count} rows and has no room for them")
    return count, np.frombuffer(box, ">u4", count, 12).astype(np.int64)


def _promise(track: _Track, scale: int, file_size: int) -> Promise | None:
    """That of a video track; None for another one, whose counts are checked only."""
    count, sizes = _sample_sizes(track, file_size)
    spans, shifts = track.table(b"stts", 2), track.table(b"ctts", 2)
    is_video = track.kind == b"vide"
    if is_video:
        says = track.scale > 0 and track.duration not in _UNKNOWN
        check_length(count + track.fragments, track.duration / track.scale if says else 0)
        sample = track.boxes.get(b"stsd", b"")[16:]
        if len(sample) >= 28:
            check_size(_number(sample, 24, 2), _number(sample, 26, 2))
    by_times, by_shifts = int(spans[:, 0].sum()), int((shifts[:, 0] & (2**32 - 1)).sum())
    if max(by_times, by_shifts) > max(count, file_size):
        raise _too_many(max(by_times, by_shifts), file_size)
    if not is_video:
        return None
    if count and by_times != count:
        raise DamagedFile(f"damaged: its tables stsz and stts count {count} and {by_times} frames", count, by_times)
    if not count:
        return Promise(track.fragments or None)
    there = _samples_there(track, count, sizes, file_size)
    if there != count:
        raise DamagedFile("truncated or damaged: its tables name data that is not there", count, there)
    if track.fragments:
        return Promise(count + track.fragments)
    return _shown(track, count, spans, shifts, scale)


def _samples_there(track: _Track, count: int, sizes: np.ndarray | int, file_size: int) -> int:
    """How many samples the tables of chunks place, with all their bytes in the file."""
    wide = b"co64" in track.boxes
    chunks = track.table(b"co64", 1, 8)[:, 0] if wide else track.table(b"stco", 1)[:, 0]
    runs = track.table(b"stsc", 3)
    if not len(runs) or not len(chunks) or (np.diff(runs[:, 0]) <= 0).any() or runs[0, 0] != 1:
        return 0
    lengths = np.diff(np.append(runs[:, 0], len(chunks) + 1))  # chunks of each run
    if (lengths < 0).any() or int((lengths * runs[:, 1]).sum()) != count:
        return int((np.maximum(lengths, 0) * runs[:, 1]).sum())
    per_chunk = np.repeat(runs[:, 1], lengths)
    if isinstance(sizes, int):
        ends = chunks + per_chunk * sizes
    else:
        sums = np.append(0, np.cumsum(sizes))
        last = np.cumsum(per_chunk)
        ends = chunks + sums[last] - sums[last - per_chunk]
    return int(per_chunk[ends <= file_size].sum())


def _shown(track: _Track, count: int, spans: np.ndarray, shifts: np.ndarray, scale: int) -> Promise:
    """How many frames are within the edit list, and how many there should be by each duration."""
    deltas = np.repeat(spans[:, 1], spans[:, 0])
    length = int(deltas.sum())
    rate = count / length if length else 0.0
    starts = np.cumsum(deltas) - deltas
    if len(shifts):
        moved = np.repeat(shifts[:, 1], np.maximum(shifts[:, 0], 0))[:count]
        starts[: len(moved)] += moved
    end = int((starts + deltas).max())
    counts = [count]
    # Some writers count the time up to where the last frame is decoded, others up to where it is shown.
    if rate and track.duration not in _UNKNOWN and not length - 0.5 / rate <= track.duration <= end + 0.5 / rate:
        counts.append(round(track.duration * rate))
    edits = [edit for edit in track.edits if edit[1] >= 0 and edit[0] and edit[2] == 1]
    if not rate or not scale or not track.scale or len(edits) != len([edit for edit in track.edits if edit[1] >= 0]):
        return Promise(count, None, tuple(counts))
    if not edits:
        return Promise(count, None, tuple(counts))
    tick, shown, over, wanted = track.scale / scale, 0, 0.0, 0.0
    for ticks, start, _ in edits:
        stop = start + ticks * tick
        shown += int(((starts >= start - tick) & (starts < stop - min(tick, 0.5 / rate))).sum())
        over = max(over, stop - end - 2 * tick)
        wanted += ticks * tick * rate
    counts = [shown + other - count for other in counts]
    is_regular = int((deltas == np.median(deltas)).sum()) >= REGULAR_SHARE * count
    if is_regular and wanted - shown > 1 - min(0.5, tick * rate):  # a shift moved a frame out of the list
        counts.append(round(wanted))
    if over > 0:
        counts.append(shown + max(1, round(over * rate)))
    told = track.shown_for - sum(edit[0] for edit in track.edits)
    if track.shown_for not in _UNKNOWN and abs(told) > len(track.edits):
        counts.append(shown + round(told * tick * rate))
    # What lies outside of the list FFmpeg leaves out, as a rule from a frame on at which decoding can start.
    return Promise(count if shown == count else None, shown, tuple(counts))


def _number(data: bytes, place: int, width: int) -> int:
    if place + width > len(data):
        raise DamagedFile("damaged: a box of its header is too short")
    return int.from_bytes(data[place : place + width], "big")


def _name(kind: bytes) -> str:
    return kind.decode("ascii", errors="replace")

"""What a Matroska or WebM file promises: that its elements lie side by side, its checksums, durations and rates."""

import re
import struct
import zlib
from dataclasses import dataclass

from .file_places import DamagedFile, FilePlaces, Promise, check_length, check_size

_SEGMENT, _CLUSTER, _CRC, _VOID = 0x18538067, 0x1F43B675, 0xBF, 0xEC
_INFO, _TRACKS, _TAGS = 0x1549A966, 0x1654AE6B, 0x1254C367
_PARTS = frozenset({0x114D9B74, _INFO, _TRACKS, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, _TAGS, _VOID, _CRC})
"""What may stand in a segment."""
_GROUP, _BLOCKS = 0xA0, frozenset({0xA1, 0xA3})
_IN_CLUSTER = frozenset({0xE7, 0xA7, 0xAB, 0x5854, 0xAF, _GROUP, 0xA3, _VOID, _CRC})
_IN_GROUP = frozenset({0xA1, 0xA2, 0x75A1, 0x9B, 0xFA, 0xFB, 0xFD, 0xA4, 0x75A2, 0x8E, _VOID, _CRC})
_IN_TAGS = frozenset({0x7373, 0x63C0, 0x67C8})
_VIDEO = 1


@dataclass
class _Track:
    number: int = 0
    uid: int = 0
    kind: int = 0
    frame_nanoseconds: int = 0
    blocks: int = 0
    is_laced: bool = False
    seconds: float | None = None


def matroska_promises(file: FilePlaces) -> list[Promise]:
    """
    Of each video track, in order.

    Raises:
        DamagedFile: an element is cut off, is none, or differs from its checksum.
    """
    reader = _Reader(file)
    try:
        reader.read()
    except DamagedFile as error:
        video = next((track for track in reader.tracks.values() if track.kind == _VIDEO), None)
        raise error if video is None else error.counted(reader.frames(video), video.blocks) from None
    promises = []
    for track in reader.tracks.values():
        if track.kind == _VIDEO:
            frames = reader.frames(track)
            promise = Promise(None if track.is_laced else track.blocks)
            promise = promise if frames is None else promise.with_count(frames)
            seconds = track.frame_nanoseconds / 1e9 or None
            promises.append(Promise(promise.held, None, promise.counts, seconds))
    return promises


class _Reader:
    """Reads the headers of a file's elements; `tracks` are by their numbers."""

    def __init__(self, file: FilePlaces):
        self.file = file
        self.tracks: dict[int, _Track] = {}
        self.ticks = 0.0
        self.nanoseconds_per_tick = 1_000_000

    def frames(self, track: _Track) -> int | None:
        """How many a track should have, if its duration and its rate are said."""
        seconds = track.seconds
        if seconds is None and self.ticks and len(self.tracks) == 1:
            seconds = self.ticks * self.nanoseconds_per_tick / 1e9
        if seconds is None or not track.frame_nanoseconds:
            return None
        return round(seconds * 1e9 / track.frame_nanoseconds)

    def read(self) -> None:
        place = self._part_after_header()
        _, size, start = self._element(place, self.file.size, {_SEGMENT})
        end = self.file.size if size is None else start + size
        cut = end > self.file.size
        self._segment(start, min(end, self.file.size))
        if cut:
            raise DamagedFile(f"truncated: it should have {end} bytes and has {self.file.size}")
        for track in self.tracks.values():
            check_length(self.frames(track) or 0, track.seconds or 0.0)
        check_length(0, self.ticks * self.nanoseconds_per_tick / 1e9)

    def _part_after_header(self) -> int:
        place = 0
        while True:
            kind, size, start = self._element(place, self.file.size, {0x1A45DFA3, _VOID, _CRC, _SEGMENT})
            if kind == _SEGMENT:
                return place
            if size is None:
                raise DamagedFile("damaged: its header has no length")
            place = start + size

    def _segment(self, place: int, end: int) -> None:
        while place < end:
            kind, size, start = self._element(place, end, _PARTS)
            if kind == _CLUSTER:
                place = self._cluster(start, size, end)
                continue
            if size is None:
                raise DamagedFile(f"damaged at byte {place}: the element there has no length")
            if start + size > end:
                raise DamagedFile(f"truncated: the element at byte {place} ends behind the file")
            if kind in (_INFO, _TRACKS, _TAGS):
                self._header(kind, self.file.header(start, size, "header"), place)
            else:
                self._check(start, size, place)
            place = start + size

    def _check(self, start: int, size: int, place: int) -> None:
        """Holds an element against its checksum, if it has one and is no larger than what a header may be."""
        if self.file.read(start, 2) == b"\xbf\x84" and size >= 6:
            content = self.file.header(start, size, "part")
            if zlib.crc32(memoryview(content)[6:]) != int.from_bytes(content[2:6], "little"):
                raise DamagedFile(f"damaged: the part at byte {place} differs from its checksum")

    def _cluster(self, place: int, size: int | None, end: int) -> int:
        stop = end if size is None else place + size
        if stop > end:
            self._blocks(place, end, _IN_CLUSTER)
            raise DamagedFile(f"truncated: its last cluster should end at byte {stop}, and the file at {end}")
        if size is not None:
            self._check(place, size, place)
        return self._blocks(place, stop, _IN_CLUSTER | (_PARTS if size is None else frozenset()))

    def _blocks(self, place: int, end: int, known: frozenset[int]) -> int:
        """Counts the blocks of each track up to `end`, or up to the next part of the segment, and gives that place."""
        while place < end:
            kind, size, start = self._element(place, end, known)
            if kind in _PARTS and kind not in _IN_CLUSTER:
                return place
            if size is None or start + size > end:
                word = "truncated" if end == self.file.size else "damaged"
                raise DamagedFile(f"{word} at byte {place}: the element there ends behind what holds it")
            if kind == _GROUP:
                self._blocks(start, start + size, _IN_GROUP)
            elif kind in _BLOCKS:
                self._count(start, size, place)
            place = start + size
        return place

    def _count(self, start: int, size: int, place: int) -> None:
        head = self.file.read(start, 12)
        length = 9 - head[0].bit_length() if head else 9
        track = self.tracks.get(_number(head[:length])) if length <= 8 and size >= length + 3 else None
        if track is None:
            raise DamagedFile(f"damaged at byte {place}: the block there belongs to no track")
        track.blocks += 1
        track.is_laced = track.is_laced or bool(head[length + 2] & 6)

    def _element(self, place: int, end: int, known: "frozenset[int] | set[int]") -> tuple[int, int | None, int]:
        """(identifier, size of the content or None if it is open, where that starts) of the element there."""
        head = self.file.read(place, 12)
        length = 9 - head[0].bit_length() if head else 9
        kind = int.from_bytes(head[:length], "big")
        if length > 4 or kind not in known:
            raise DamagedFile(f"damaged at byte {place}, where an element should start")
        width = 9 - head[length].bit_length() if len(head) > length else 9
        if width > 8 or length + width > len(head):
            word = "truncated" if place + 12 > self.file.size else "damaged"
            raise DamagedFile(f"{word} at byte {place}: the element there has no length")
        size = _number(head[length : length + width])
        return kind, None if size == (1 << 7 * width) - 1 else size, place + length + width

    # -- headers, which are held in memory --

    def _header(self, kind: int, content: bytes, place: int) -> None:
        if content[:2] == b"\xbf\x84" and zlib.crc32(content[6:]) != int.from_bytes(content[2:6], "little"):
            raise DamagedFile(f"damaged: the header at byte {place} differs from its checksum")
        if kind == _INFO:
            for name, value in _children(content):
                if name == 0x2AD7B1:
                    self.nanoseconds_per_tick = int.from_bytes(value, "big")
                elif name == 0x4489:
                    self.ticks = _real(value)
        elif kind == _TRACKS:
            for name, value in _children(content):
                if name == 0xAE:
                    track = _track(value)
                    self.tracks[track.number] = track
        else:
            for name, value in _children(content):
                if name == 0x7373:
                    self._tag(value)

    def _tag(self, content: bytes) -> None:
        uid, seconds = 0, None
        for name, value in _children(content):
            if name == 0x63C0:
                uid = next((int.from_bytes(one, "big") for key, one in _children(value) if key == 0x63C5), 0)
            elif name == 0x67C8:
                simple = dict(_children(value))
                told = re.fullmatch(rb"(\d+):(\d+):(\d+\.?\d*)\0*", simple.get(0x4487, b""))
                if simple.get(0x45A3) == b"DURATION" and told:
                    seconds = int(told[1]) * 3600 + int(told[2]) * 60 + float(told[3])
        for track in self.tracks.values():
            if track.uid == uid and seconds is not None:
                track.seconds = seconds


def _track(content: bytes) -> _Track:
    track = _Track()
    names = {0xD7: "number", 0x73C5: "uid", 0x83: "kind", 0x23E383: "frame_nanoseconds"}
    for name, value in _children(content):
        if name in names:
            setattr(track, names[name], int.from_bytes(value, "big"))
        elif name == 0xE0:
            sizes = {key: int.from_bytes(one, "big") for key, one in _children(value)}
            check_size(sizes.get(0xB0, 0), sizes.get(0xBA, 0))
    return track


def _children(content: bytes):
    """(identifier, content) of the elements in a header's part."""
    place = 0
    while place < len(content):
        length = 9 - content[place].bit_length()
        width = 9 - content[place + length].bit_length() if place + length < len(content) else 9
        start = place + length + width
        if length > 4 or width > 8 or start > len(content):
            raise DamagedFile("damaged: its header holds no elements at one place")
        size = _number(content[place + length : start])
        if start + size > len(content):
            raise DamagedFile("damaged: an element of its header ends behind what holds it")
        yield int.from_bytes(content[place : place + length], "big"), content[start : start + size]
        place = start + size


def _number(data: bytes) -> int:
    """A number whose length is told by its first bits, without these."""
    return int.from_bytes(data, "big") & ((1 << 7 * len(data)) - 1)


def _real(data: bytes) -> float:
    value = struct.unpack(">d" if len(data) == 8 else ">f", data)[0] if len(data) in (4, 8) else 0.0
    return value if value == value and value >= 0 else 0.0  # NaN says nothing

"""What an AVI file promises: the counts of its header, its index, and the chunks that are there."""

import re
import struct

import numpy as np

from .file_places import DamagedFile, FilePlaces, Promise, check_length, check_size

_CHUNK = re.compile(rb"\d\d(dc|db|wb|pc|tx|sb|iv|__)|ix\d\d|JUNK|junk|idx1|LIST|RIFF", re.DOTALL)
_IN_LIST = 12


def avi_promises(file: FilePlaces) -> list[Promise]:
    """
    Of each video stream, in order.

    Raises:
        DamagedFile: a chunk is cut off or no chunk, or the index and the chunks differ.
    """
    streams = _Streams()
    places: list[tuple[int, bytes, int]] = []
    try:
        _read_parts(file, streams, places)
    except DamagedFile as error:
        first = streams.video[0] if streams.video else None
        held = None if first is None else sum(kind[:2] == first[0] for _, kind, size in places if size)
        raise error.counted(None if first is None else first[1], held) from None
    promises = []
    for number, length in streams.video:
        chunks = [size for _, kind, size in places if kind[:2] == number and kind[2:] in (b"dc", b"db", b"iv")]
        held = sum(size > 0 for size in chunks)
        promise = Promise(held)
        if length and length != len(chunks):  # a chunk without data repeats the picture before it, and counts there
            promise = promise.with_count(length)
        if len(streams.video) == 1 and streams.total and not streams.goes_on and streams.total != len(chunks):
            promise = promise.with_count(streams.total)
        promises.append(promise)
    return promises


def _read_parts(file: FilePlaces, streams: "_Streams", places: list[tuple[int, bytes, int]]) -> None:
    size = struct.unpack("<I", file.header(4, 4, "header"))[0]
    is_open = size in (0, 2**32 - 1)  # what was not finished, and says nothing of its end
    end = file.size if is_open else 8 + size
    movi, index, place = 0, b"", 12
    while place + 8 <= file.size:
        kind, size = _chunk(file, place)
        if not kind.isascii() or not kind.strip(b"\0") or (place >= end and kind != b"RIFF"):
            if place < end:
                raise DamagedFile(f"damaged at byte {place}, where a part should start")
            break  # what somebody wrote behind it
        inner = file.read(place + 8, 4)
        if kind == b"RIFF":  # the next part of a file of more than 1 GB
            streams.goes_on = True
            place += _IN_LIST
        elif kind == b"LIST" and inner == b"movi":
            movi = movi or place + 8
            last = _walk(file, place + _IN_LIST, place + 8 + size if size else file.size, places, size == 0)
            place = last if size == 0 else place + 8 + size + (size & 1)
        else:
            if place + 8 + size > file.size:
                raise DamagedFile(f"truncated: its part {kind.decode('latin-1')} ends behind the file")
            if inner == b"hdrl" and kind == b"LIST":
                streams.read(file.header(place + _IN_LIST, size - 4, "header"))
            elif kind == b"idx1":
                index = file.header(place + 8, size, "index")
            place += 8 + size + (size & 1)
    if end > file.size + 1:
        raise DamagedFile(f"truncated: it should have {end} bytes and has {file.size}")
    if index:
        _compare(index, [entry for entry in places if entry[0] < end], movi)


class _Streams:
    """
    Attributes:
        total: the frames by avih, of a file's first part.
        video: (two digits, frames by strh) of each video stream.
        goes_on: whether the file has a further part.
    """

    def __init__(self) -> None:
        self.total, self.goes_on = 0, False
        self.video: list[tuple[bytes, int]] = []
        self._count = 0

    def read(self, header: bytes) -> None:
        place, kind = 0, b""
        while place + 8 <= len(header):
            name, size = header[place : place + 4], struct.unpack_from("<I", header, place + 4)[0]
            if name == b"LIST":
                if header[place + 8 : place + 12] != b"strl" and place:
                    place += 8 + size + (size & 1)
                else:
                    place += _IN_LIST
                continue
            if place + 8 + size > len(header):
                raise DamagedFile(f"damaged: in its header the part {name.decode('latin-1')} is cut off")
            data = header[place + 8 : place + 8 + size]
            if name == b"avih" and size >= 20:
                self.total = struct.unpack_from("<I", data, 16)[0]
            elif name == b"strh" and size >= 36:
                kind = data[:4]
                if kind == b"vids":
                    scale, rate, _, length = struct.unpack_from("<IIII", data, 20)
                    check_length(length, length * scale / rate if rate else 0.0)
                    self.video.append((b"%02d" % self._count, length))
                self._count += 1
            elif name == b"strf" and kind == b"vids" and size >= 12:
                width, height = struct.unpack_from("<ii", data, 4)
                check_size(abs(width), abs(height))
            place += 8 + size + (size & 1)


def _chunk(file: FilePlaces, place: int) -> tuple[bytes, int]:
    head = file.read(place, 8)
    return head[:4], struct.unpack_from("<I", head, 4)[0]


def _walk(file: FilePlaces, place: int, end: int, places: list[tuple[int, bytes, int]], is_open: bool) -> int:
    """Adds (place, kind, size) of the chunks of a list, and gives the place behind the last one."""
    while place + 8 <= min(end, file.size):
        kind, size = _chunk(file, place)
        if _CHUNK.fullmatch(kind) is None:
            raise DamagedFile(f"damaged at byte {place}, where a chunk should start")
        if is_open and kind in (b"idx1", b"RIFF"):
            return place
        if kind == b"LIST":
            place += _IN_LIST  # its chunks follow as if they stood by themselves
            continue
        if place + 8 + size > min(end, file.size):
            word = "truncated" if place + 8 + size > file.size else "damaged"
            raise DamagedFile(f"{word} at byte {place}: the chunk there ends behind its list")
        places.append((place, kind, size))
        place += 8 + size + (size & 1)
    if not is_open and place < end - 1:
        raise DamagedFile(f"truncated: its chunks should end at byte {end}, and the file at {file.size}")
    return place


def _compare(index: bytes, places: list[tuple[int, bytes, int]], movi: int) -> None:
    """Refuses an index of other chunks than those that are there."""
    entries = np.frombuffer(index[: len(index) // 16 * 16], np.dtype([("kind", "S4"), ("n", "<u4", 3)]))
    told = [(kind, int(n[1]), int(n[2])) for kind, n in zip(entries["kind"].tolist(), entries["n"], strict=True)]
    by_place = {place: (kind, size) for place, kind, size in places}
    told = [entry for entry in told if entry[0] != b"rec "]
    base = movi if told and told[0][1] + movi in by_place else 0
    for number, (kind, offset, size) in enumerate(told):
        if by_place.get(base + offset) != (kind, size):
            raise DamagedFile(f"damaged: entry {number} of its index names a chunk that is not there")
    chunks = sum(kind[:2].isdigit() for _, kind, _ in places)
    if len(told) < chunks:
        raise DamagedFile(f"damaged: its index names {len(told)} chunks, and {chunks} are there")

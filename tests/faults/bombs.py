"""
Small files that promise much: sizes, counts, durations, archives and JSON headers. Each is refused, takes less than
50 MB and a second of computing, and the error says what is wrong.
"""

import gzip
import io
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest.mock import patch

import media
from campaign import BrokenPromise, Promise
from parquet_bombs import parquet

MOST_BYTES, MOST_SECONDS = 50 * 2**20, 1.0


def whole(kind: str) -> bytearray:
    return bytearray(media.clips()[kind].read_bytes())


def at(content: bytearray, name: bytes, place: int, value: bytes) -> bytes:
    """The file with other bytes `place` bytes behind a name in it."""
    found = content.index(name) + len(name) + place
    content[found : found + len(value)] = value
    return bytes(content)


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def element(name: int, content: bytes, size: int | None = None) -> bytes:
    """An element of Matroska, whose length is in 8 bytes."""
    length = (len(content) if size is None else size) | 1 << 56
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + length.to_bytes(8, "big") + content


def matroska(*parts: bytes, size: int | None = None) -> bytes:
    return element(0x1A45DFA3, b"\x42\x82\x84webm") + element(0x18538067, b"".join(parts), size)


def fragments(count: int) -> bytes:
    """An MP4 whose fragment has this number of samples without a word on each."""
    content = bytes(at(whole("mp4"), b"mdat", 0, b""))
    number = struct.pack(">II", 0, 1)
    run = box(b"traf", box(b"tfhd", number) + box(b"trun", struct.pack(">II", 0, count)))
    return content + box(b"moof", box(b"mfhd", number) + run)


def track(pixels: tuple[int, int], frame_nanoseconds: int = 40_000_000) -> bytes:
    number = b"\xd7\x81\x01\x83\x81\x01\x86\x85V_VP8" + element(0x23E383, frame_nanoseconds.to_bytes(4, "big"))
    size = element(0xB0, pixels[0].to_bytes(4, "big")) + element(0xBA, pixels[1].to_bytes(4, "big"))
    return element(0x1654AE6B, element(0xAE, number + element(0xE0, size)))


def duration(seconds: float) -> bytes:
    return element(0x1549A966, b"\x2a\xd7\xb1\x83\x0f\x42\x40" + element(0x4489, struct.pack(">d", seconds * 1000)))


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(width: int, height: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "jpeg")
    return at(bytearray(file.getvalue()), b"\xff\xc0", 3, struct.pack(">HH", height, width))


def in_mov(picture: bytes) -> bytes:
    """A clip whose first frame is another picture than its header says, as long as that one was."""
    content = whole("mov")
    start = content.index(b"\xff\xd8")
    content[start : start + len(picture)] = picture
    return bytes(content)


def tar(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A header that says such a size, a few bytes, and the end."""
    head = bytearray(name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.ljust(12, b"\0") + b"0" * 12)
    head += b" " * 8 + kind + bytes(100) + b"ustar\x0000" + bytes(247)
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + b"12 comment=x\n".ljust(512, b"\0") + bytes(1024)


def lying_zip(name: str, size: int) -> bytes:
    """A zip whose packed part says that it is so long."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(10_000_000))
    data = bytearray(file.getvalue())
    place = data.index(b"PK\x01\x02")
    data[place + 24 : place + 28] = struct.pack("<I", size)
    return bytes(data)


def safetensors(size: int, content: bytes = b"{}") -> bytes:
    return struct.pack("<Q", size) + content


HUGE = struct.pack(">I", 2**31 - 1)
MEDIA: dict[str, Callable[[], bytes]] = {
    "frames of 60000 x 60000.mp4": lambda: at(whole("mp4"), b"avc1" + bytes(6), 18, struct.pack(">HH", 60000, 60000)),
    "two thousand million samples.mp4": lambda: at(whole("mp4"), b"stsz", 4, struct.pack(">II", 1, 2**31)),
    "more sizes than there are.mp4": lambda: at(whole("mp4"), b"stsz", 8, HUGE),
    "times of many samples.mp4": lambda: at(whole("mp4"), b"stts", 8, HUGE),
    "shifts of many samples.mp4": lambda: at(whole("mp4"), b"ctts", 8, HUGE),
    "136 years of a track.mp4": lambda: at(whole("mp4"), b"mdhd", 12, struct.pack(">II", 1, 2**32 - 2)),
    "136 years.mp4": lambda: at(whole("mp4"), b"mvhd", 12, struct.pack(">II", 1, 2**32 - 2)),
    "many edits.mp4": lambda: at(whole("mp4"), b"elst", 4, HUGE),
    "many samples in a chunk.mp4": lambda: at(whole("mp4"), b"stsc", 12, HUGE),
    "many chunks.mp4": lambda: at(whole("mp4"), b"stco", 4, HUGE),
    "a fragment of many samples.mp4": lambda: fragments(2**31),
    "a header of a terabyte.mp4": lambda: box(b"ftyp", b"isom") + struct.pack(">I4sQ", 1, b"moov", 2**40),
    "a packed header.mov": lambda: box(b"moov", box(b"cmov", box(b"dcom", b"zlib") + box(b"cmvd", HUGE))),
    "a large picture in a small frame.mov": lambda: in_mov(jpeg(60000, 60000)),
    "frames of 100000 x 100000.webm": lambda: matroska(duration(1), track((100_000, 100_000))),
    "thirty million years.mkv": lambda: matroska(duration(1e15), track((64, 48))),
    "a frame each nanosecond.mkv": lambda: matroska(duration(36_000), track((64, 48), 1)),
    "tracks of many terabytes.mkv": lambda: matroska(element(0x1654AE6B, b"", 2**50)),
    "an attachment of a terabyte.mkv": lambda: matroska(duration(1), element(0x1941A469, b"", 2**40)),
    "a segment of many terabytes.webm": lambda: matroska(duration(1), track((64, 48)), size=2**50),
    "frames of 2**31 x 2**31.avi": lambda: at(
        whole("avi"), b"strf", 8, struct.pack("<II", 2**31 - 1, 2**31 - 1)
    ),
    "many frames.avi": lambda: at(whole("avi"), b"strh", 36, struct.pack("<I", 2**32 - 1)),
    "a frame of a year.avi": lambda: at(whole("avi"), b"strh", 24, struct.pack("<II", 31_536_000, 1)),
    "an index of 2 GB.avi": lambda: at(whole("avi"), b"idx1", 0, struct.pack("<I", 2**31 - 1)),
    "2**31 x 2**31.png": lambda: png(2**31 - 1, 2**31 - 1),
    "10000 x 10000.png": lambda: png(10_000, 10_000),
    "65535 x 65535.gif": lambda: (
        b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;"
    ),
    "10000 x 10000.bmp": lambda: (
        b"BM" + struct.pack("<IHHIIiiHH", 100, 0, 0, 54, 40, 10_000, 10_000, 1, 24) + bytes(24)
    ),
    "65000 x 65000.jpg": lambda: jpeg(65000, 65000),
}  # fmt: skip
OTHERS: dict[str, Callable[[], bytes]] = {
    "a member of an exabyte.tar": lambda: tar(b"a.mp4", b"\x80" + (2**60).to_bytes(11, "big")),
    "notes of 8 GB.tar": lambda: tar(b"a.mp4", b"77777777777", b"x"),
    "a name of 8 GB.tar": lambda: tar(b"././@LongLink", b"77777777777", b"L"),
    "a packed member of 4 GB.zip": lambda: lying_zip("a.mp4", 2**32 - 2),
    "packed weights.pt": lambda: lying_zip("archive/data.pkl", 2**32 - 2),
    "a header of many exabytes.safetensors": lambda: safetensors(2**62),
    "a header of 40 MB.safetensors": lambda: safetensors(40 * 2**20, b"{}".ljust(40 * 2**20)),
    "manifest.json": lambda: b'{"shards": {' + b" " * (2**26 + 10) + b"}}",
    "a deep list.jsonl": lambda: b"[" * 1_000_000,
    "a long number.jsonl": lambda: b'{"video": ' + b"1" * 1_000_000 + b"}",
    "a page of 2 GB.parquet": lambda: parquet(unpacked=2**31 - 1),
    "a page of 100 MB.parquet": lambda: parquet(unpacked=10**8, content=gzip.compress(bytes(10**8), 1)),
    "a column of an exabyte.parquet": lambda: parquet(packed=2**60),
    "a million million rows.parquet": lambda: parquet(rows=2**40, values=2**40),
    "a list of two thousand million.parquet": lambda: parquet(values=2**31, page_values=2**31 - 1, repeated=True),
    "packed rows.jsonl.gz": lambda: gzip.compress(bytes(10_000_000)),
    "a packed shard.tar": lambda: gzip.compress(tar(b"a.mp4", b"00046113200") + bytes(10_000_000)),
    "a memo of 16 GB.pkl": lambda: b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b".",
    "text of an exabyte.pkl": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b".",
    "a deep list.pkl": lambda: b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
}
KINDS = [*OTHERS.items(), *MEDIA.items()]
HARMLESS = frozenset({"a memo of 16 GB.pkl"})
"""What means nothing, and may be read."""


@cache
def errors() -> tuple[type[Exception], ...]:
    from violet.data import TableError, UnsafePickleError
    from violet.hub.weight_files import WeightsError
    from violet.processing import VideoDecodeError

    return VideoDecodeError, TableError, UnsafePickleError, WeightsError


def read(file: Path) -> object:
    """By what the package reads such files with."""
    from violet.data import TarShard, find_shards, read_pickle
    from violet.data.tables import iterate_table
    from violet.hub.weight_files import read_file
    from violet.processing import decode_video

    if file.suffix == ".tar":
        return [sample.files for sample in TarShard(file).samples()]
    if file.suffix == ".pkl":
        return read_pickle(file)
    if file.suffix in (".pt", ".safetensors"):
        return read_file(file)
    if file.suffix == ".json":
        return find_shards(file.parent)
    if file.suffix in (".jsonl", ".gz", ".parquet"):
        return list(iterate_table(file))
    source = f"zip://a.mp4::{file}" if file.suffix == ".zip" else str(file)
    return decode_video(source, lambda total, fps: [0])


def trial(seed: int, folder: Path) -> dict[str, int]:
    """One of the files; the seeds go through them."""
    name, make = KINDS[seed % len(KINDS)]
    file = folder / name
    file.write_bytes(make())
    return judge(file)


def judge(file: Path) -> dict[str, int]:
    """Refuses a file that is read, or costs too much."""
    import pyarrow.parquet  # noqa: F401  what is loaded takes memory, and is no part of it

    import violet.hub.weight_files  # noqa: F401
    from violet.processing import decode_video

    decode_video(str(media.clips()["mp4"]), lambda total, fps: [0])
    errors()
    before, begun = _forget_the_peak(), time.process_time()
    try:
        found = read(file)
    except errors() as error:
        said = str(error)
    else:
        if file.name not in HARMLESS:
            raise BrokenPromise(f"{file.name} was read: {str(found)[:200]}", file)
        said = f"{file} holds {found!r}, read without harm"
    seconds, more = time.process_time() - begun, _peak() - before
    if len(said) < 20 or file.name.split(".")[0] not in said:
        raise BrokenPromise(f"{file.name}: the error does not say what is wrong: {said}", file)
    if more > MOST_BYTES or seconds > MOST_SECONDS:
        raise BrokenPromise(f"{file.name} took {more / 2**20:.0f} MB and {seconds:.1f} s: {said[:200]}", file)
    return {"refused": 1}


def _forget_the_peak() -> int:
    """Lets the kernel measure the largest memory from now on; what is held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@contextmanager
def lengths_are_not_checked():
    with (
        patch("violet.processing.promises_mp4.check_length", lambda frames, seconds: None),
        patch("violet.processing.containers.check_length", lambda frames, seconds: None),
    ):
        yield


@contextmanager
def headers_are_not_measured():
    """safetensors' own limit is 100 MB."""
    with patch("violet.hub.weight_files._header_size", lambda file: 0):
        yield


@contextmanager
def pages_are_not_measured():
    with patch("violet.data.tables.rows_at_a_time", lambda path, metadata: 1000):
        yield


MUTANTS = {
    "lengths are not checked": lengths_are_not_checked,
    "headers are not measured": headers_are_not_measured,
    "Parquet's pages are not measured": pages_are_not_measured,
}
PROMISE = Promise(
    "bombs",
    "bombs (huge sizes, counts, durations, archives, JSON headers): refused, < 50 MB more, < 1 s of computing each",
    len(KINDS),
    trial,
    limit=60.0,
    short_seeds=len(KINDS),
    code=("core", "data", "processing", "hub"),
    replay=lambda file: None if judge(file) else None,
)

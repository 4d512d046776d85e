"""
Clips with damage, through the loader: none hangs, kills the run, or has in silence another number of frames than its
container still promises. What it promises is read here a second time, from the bytes and as plainly as can be.
"""

import contextlib
import functools
import random
import re
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import hanging_decoder
import media
import numpy as np
import psutil
from campaign import BrokenPromise, Promise

LIMIT = 20.0
SHORT_LIMIT, PATIENCE = 0.5, 15.0
"""Of a decoder that hangs: its deadline, and how much later the loader must have told it, on a busy machine too."""
HANGS_EVERY = 500
IN_PROCESS: list[bool] = []
"""Not empty while a mutant is tried: its decoder must be in this process."""


@functools.cache
def reader():
    """The loader of this process, with its decoder's process."""
    from violet.data.loading import ClipReader
    from violet.processing import VioletVideoProcessor

    return ClipReader(VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=5), time_limit=LIMIT)


def load(file: Path, sample) -> "object":
    from violet.data.loading import decode_reference
    from violet.processing import decode_video

    if IN_PROCESS:
        return decode_video(str(file), sample)
    return decode_reference(reader().decoder, str(file), sample)


def trial(seed: int, folder: Path) -> dict[str, int]:
    """
    One file with damage, decoded as a whole, or five frames of it. The first seeds are damage of known kinds; then one
    of five hundred is a file over which the decoder hangs.
    """
    chance = random.Random(seed)
    if seed % HANGS_EVERY == len(KNOWN):
        return hang(folder, (hanging_decoder.LOOPS, hanging_decoder.STOPS)[seed // HANGS_EVERY % 2])
    if seed < len(KNOWN):
        kind, spoil = KNOWN[seed]
        done, content = "known", spoil(media.clips()[kind].read_bytes())
    else:
        kind = list(media.CONTAINERS)[seed % len(media.CONTAINERS)]
        done, content = media.spoil(media.clips()[kind].read_bytes(), chance)
    file = folder / f"{done.split()[0]}.{kind}"
    file.write_bytes(content)
    return judge(file, whole=chance.random() < 0.5)


def hang(folder: Path, how: str) -> dict[str, int]:
    """A file over which the decoder hangs: told by the deadline, its process is gone, and the next one decodes."""
    from violet.data.loading import ClipReader
    from violet.processing import VideoDecodeError, VioletVideoProcessor, decoder_process

    bad, good = folder / f"{how}.mp4", folder / "good.mp4"
    for file in (bad, good):
        shutil.copy(media.clips()["mp4"], file)
    clips = ClipReader(VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=5), time_limit=LIMIT)
    told: list[str | None] = []

    def read() -> None:
        try:
            clips.read(str(bad))
        except VideoDecodeError as error:
            told.append(str(error))
        else:
            told.append(None)

    with patch.object(decoder_process, "__file__", hanging_decoder.__file__):
        frames = clips.read(str(good), draw=0).frames  # what takes long to start has started
        process = psutil.Process(clips.decoder.pid)
        clips.decoder.time_limit = SHORT_LIMIT
        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        reading.join(SHORT_LIMIT + PATIENCE)
        try:
            if not told:
                raise BrokenPromise(f"{bad.name}: the loader still waits {PATIENCE:g} s after the deadline")
            if told[0] is None or str(bad) not in told[0] or "longer than" not in told[0]:
                raise BrokenPromise(f"{bad.name}: the deadline is not told: {told[0]}")
            if psutil.wait_procs([process], timeout=PATIENCE)[1]:
                raise BrokenPromise(f"{bad.name}: the process that decoded it is still there")
            clips.decoder.time_limit = LIMIT
            if not np.array_equal(clips.read(str(good), draw=1).frames, frames):
                raise BrokenPromise("the clip after one that hung is another")
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            reading.join()
            clips.decoder.kill()
    return {"refused": 1, "killed": 1}


def with_bytes(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]


def without_a_block(content: bytes) -> bytes:
    """WebM whose second block, of track 1 at 40 ms, has lost its first bytes."""
    found = re.search(rb"\xa3.{1,3}?\x81\x00\x28", content, re.DOTALL)
    assert found is not None
    return with_bytes(content, found.start(), bytes(4))


KNOWN = (
    # an edit list that starts 4 ticks later: FFmpeg leaves the first frame out
    (
        "mp4",
        lambda content: with_bytes(
            content, content.index(b"elst") + 19, bytes([content[content.index(b"elst") + 19] + 4])
        ),
    ),
    ("avi", lambda content: with_bytes(content, content.index(b"idx1") + 8 + 20 * 16, b"\0\0\0\xff")),
    ("webm", without_a_block),
    ("ts", lambda content: content[:-100]),
)


def judge(file: Path, whole: bool = True) -> dict[str, int]:
    """What became of a file; refused, flagged and taken are counted."""
    from violet.processing import VideoDecodeError

    kind, content = file.suffix[1:], file.read_bytes()

    def sample(total: int, fps: float | None):
        return range(total) if whole else np.linspace(0, total - 1, 5).round().astype(int).tolist()

    try:
        decoded = load(file, sample)
    except VideoDecodeError as error:
        if not error.reason or str(file) not in str(error):
            raise BrokenPromise(f"the error does not say what is wrong with {file.name}: {error}", file) from error
        counted = error.promised_frames is not None and error.held_frames is not None
        late = "took longer than" in error.reason
        return {"refused": 1, "with both counts": int(counted), "killed": int(late), kind: 1}
    if decoded.total_frames < 1 or (whole and len(decoded.frames) != decoded.total_frames):
        raise BrokenPromise(f"{file.name}: {len(decoded.frames)} frames of {decoded.total_frames}", file)
    if decoded.promised_frames is not None:
        return {"flagged": 1, kind: 1}
    if kind == "ts":
        shown = damage_of_stream(content)
        if shown:
            raise BrokenPromise(f"{file.name}: {shown}, and nothing was said", file)
        return {"taken": 1, "not detectable": int(decoded.total_frames != media.FRAMES), kind: 1}
    promised = PROMISED[kind](content)
    if promised is not None and promised != decoded.total_frames:
        raise BrokenPromise(f"{file.name} promises {promised} frames, and {decoded.total_frames} were taken", file)
    return {"taken": 1, "promise gone": int(promised is None and decoded.total_frames != media.FRAMES), kind: 1}


# --- what a file promises, once more ---


def _after(content: bytes, name: bytes, place: int, width: int, order: str = "big") -> int | None:
    found = content.find(name)
    if found < 0 or found + place + width > len(content):
        return None
    return int.from_bytes(content[found + place : found + place + width], order)


def of_mp4(content: bytes) -> int | None:
    """The edit list's duration at the track's rate; without one, the number of samples."""
    numbers = {
        "whole": _after(content, b"mvhd", 16, 4), "edit": _after(content, b"elst", 12, 4),
        "track": _after(content, b"mdhd", 16, 4), "delta": _after(content, b"stts", 16, 4),
    }  # fmt: skip
    if _after(content, b"elst", 8, 4) == 1 and _after(content, b"stts", 8, 4) == 1 and all(numbers.values()):
        return round(numbers["edit"] / numbers["whole"] * numbers["track"] / numbers["delta"])
    return _after(content, b"stsz", 12, 4)


def of_avi(content: bytes) -> int | None:
    """The length by strh; 0 says nothing."""
    return _after(content, b"strh", 40, 4, "little") or None


def of_matroska(content: bytes) -> int | None:
    """The duration that a tag says, or the header, at the frames' duration."""
    rate = re.search(rb"\x23\xe3\x83\x84(....)", content, re.DOTALL)
    said = re.search(rb"\x45\xa3\x88DURATION\x44\x87\x93(\d\d):(\d\d):(\d\d\.\d{9})", content)
    if rate is None or said is None or not any(rate[1]):
        return None
    seconds = int(said[1]) * 3600 + int(said[2]) * 60 + float(said[3])
    return round(seconds * 1e9 / int.from_bytes(rate[1], "big"))


PROMISED = {"mp4": of_mp4, "mov": of_mp4, "avi": of_avi, "mkv": of_matroska, "webm": of_matroska}


def damage_of_stream(content: bytes) -> str | None:
    """A packet that is cut off or displaced, or a gap in the numbers of the video's packets."""
    if len(content) % 188:
        return "a packet is cut off"
    number = None
    for place in range(0, len(content), 188):
        packet = content[place : place + 188]
        if packet[0] != 0x47:
            return f"no packet at {place}"
        if (packet[1] & 31) << 8 | packet[2] != 256:
            continue
        step = packet[3] >> 4 & 1
        if packet[3] & 0x20 and packet[4] and packet[5] & 0x80:
            number = None
        if number is not None and packet[3] & 15 not in (number, (number + step) % 16):
            return f"a gap at {place}"
        number = packet[3] & 15
    return None


def _broken(target: str, replacement):
    @contextmanager
    def mutant():
        IN_PROCESS.append(True)
        try:
            with patch(target, replacement):
                yield
        finally:
            IN_PROCESS.clear()

    return mutant


@contextmanager
def deadline_is_not_kept():
    """The loader waits for the decoder for ever."""
    with patch("violet.processing.decoder_process._left", lambda deadline: None), patch(f"{__name__}.PATIENCE", 2.0):
        yield


@contextmanager
def process_is_left():
    """A decoder is given up, and not killed."""
    end = "violet.processing.decoder_process._end"
    with patch(end, lambda owner, process, connection: connection.close()), patch(f"{__name__}.PATIENCE", 2.0):
        yield


MUTANTS = {
    "the structure of Matroska is not read": _broken(
        "violet.processing.containers.matroska_promises", lambda places: []
    ),
    "the structure of AVI is not read": _broken("violet.processing.containers.avi_promises", lambda places: []),
    "the packets of a stream are not looked at": _broken(
        "violet.processing.containers.check_packets", lambda places, video: None
    ),
    "counts are not compared": _broken("violet.processing.containers._compare", lambda *given: None),
    "the deadline is not kept": deadline_is_not_kept,
    "the process that hangs is left": process_is_left,
}
PROMISE = Promise(
    "mutated_media",
    "mutated media (h264 mp4, mpeg4 avi, vp8 webm, h264 mkv, mpeg2 ts, mjpeg mov) through the loader: no hang, no "
    "dead run, no other frame count than promised in silence",
    20_000,
    trial,
    limit=120.0,
    short_seeds=24,
    code=("core", "data", "processing"),
    replay=lambda file: None if judge(file) else None,
)

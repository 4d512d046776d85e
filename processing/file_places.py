"""Files read in places, what they promise of their video, and the error of a file whose structure is damaged.

The structure is read before a library opens the file, so that a count of a few bytes cannot fill the memory, and what
a library skips in silence is seen. No torch at module level, as in all that the decoder's process loads.
"""

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path

MOST_FRAMES = 2**23
"""A video of more frames is refused: a day at 97 a second."""
MOST_SECONDS = 86400.0
"""A longer video, of more than a day, is refused: times at a rate are an array as long as it."""
MOST_VIDEO_PIXELS = 2**25
"""A video with larger frames than 8K (7680 x 4320) is refused: a decoder holds up to 17 of them."""
MOST_HEADER_BYTES = 2**28
"""A header that says that it is longer is refused: a day's has 100 MB."""
REGULAR_SHARE = 0.9
"""Which share of a video's frames follow each other at its rate, if that is constant."""
_WINDOW = 2**15


class DamagedFile(Exception):
    """
    What is wrong with a file's structure.

    Args:
        reason: goes on after "it is" or "the file is", as "damaged at byte 12".
        promised: how many frames the file says that its video has, if it says.
        held: how many of them it was seen to hold.
        is_limit: whether the file may be whole, but beyond what is read.
    """

    def __init__(self, reason: str, promised: int | None = None, held: int | None = None, is_limit: bool = False):
        super().__init__(reason)
        self.reason, self.promised, self.held, self.is_limit = reason, promised, held, is_limit

    def counted(self, promised: int | None, held: int | None) -> "DamagedFile":
        """The same with counts, where it has none."""
        counts = self.promised is not None or self.held is not None
        return self if counts else DamagedFile(self.reason, promised, held, self.is_limit)

    def __str__(self) -> str:
        promised = f"it promises {self.promised} frames" if self.promised is not None else ""
        held = f"{self.held} can be found" if self.held is not None else ""
        counts = " and ".join(part for part in (promised, held) if part)
        return f"{self.reason}: {counts}" if counts else self.reason


@dataclass(frozen=True)
class Promise:
    """
    What a file's structure says of one video stream.

    Attributes:
        held: frames whose data the file holds and a reader should find; None if the structure does not tell.
        shown: how many of them are shown, if an edit list says so.
        counts: how many frames there should be by each thing that says it: a count, or a duration at a rate.
        frame_seconds: of one frame, if the rate is said to be constant.
    """

    held: int | None
    shown: int | None = None
    counts: tuple[int, ...] = ()
    frame_seconds: float | None = None

    def with_count(self, count: float) -> "Promise":
        """The same with one more count."""
        return replace(self, counts=(*self.counts, round(count)))


class FilePlaces:
    """
    A file, or its bytes, of which a few are read here and there.

    Attributes:
        size: in bytes.
    """

    def __init__(self, file: Path | bytes):
        self._file = io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb", buffering=0)  # noqa: SIM115
        self.size = self._file.seek(0, os.SEEK_END)
        self._start, self._window = 0, b""

    def read(self, place: int, count: int) -> bytes:
        """The bytes there; fewer at the end of the file."""
        begin = place - self._start
        if begin < 0 or begin + count > len(self._window):
            self._file.seek(place)
            self._start, self._window = place, self._read(max(count, _WINDOW))
            begin = 0
        return self._window[begin : begin + count]

    def _read(self, count: int) -> bytes:
        data = self._file.read(count) or b""
        while len(data) < count and (more := self._file.read(count - len(data))):
            data += more
        return data

    def header(self, place: int, count: int, what: str) -> bytes:
        """
        The bytes of a part that is held in memory.

        Raises:
            DamagedFile: it is larger than `MOST_HEADER_BYTES`, or the file ends before.
        """
        if count > MOST_HEADER_BYTES:
            reason = f"its {what} says that it has {count} bytes; at most {MOST_HEADER_BYTES} are read"
            raise DamagedFile(reason, is_limit=True)
        data = self.read(place, count)
        if len(data) < count:
            raise DamagedFile(f"truncated: its {what} should have {count} bytes, and {len(data)} are there")
        return data

    def __enter__(self) -> "FilePlaces":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def check_size(width: int, height: int) -> None:
    """
    Raises:
        DamagedFile: for frames that are larger than `MOST_VIDEO_PIXELS`.
    """
    if width * height > MOST_VIDEO_PIXELS:
        reason = f"its frames have {width} x {height} pixels; more than {MOST_VIDEO_PIXELS} are refused"
        raise DamagedFile(reason, is_limit=True)


def check_length(frames: float, seconds: float) -> None:
    """
    Raises:
        DamagedFile: for more than `MOST_FRAMES` or `MOST_SECONDS`.
    """
    if frames > MOST_FRAMES:
        reason = f"it says that it has {frames:.0f} frames; more than {MOST_FRAMES} are refused"
        raise DamagedFile(reason, is_limit=True)
    if seconds > MOST_SECONDS:
        reason = f"it says that it lasts {seconds:.0f} s; more than {MOST_SECONDS:.0f} are refused"
        raise DamagedFile(reason, is_limit=True)

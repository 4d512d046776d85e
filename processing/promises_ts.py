"""What an MPEG transport stream shows of damage: it promises no length, but its packets are numbered."""

import numpy as np

from .file_places import DamagedFile, FilePlaces

PACKET_SIZES = (188, 192, 204)
_SYNC = 0x47
_PROBE = 2**12
_BLOCK = 2**15


def packets_of(file: FilePlaces) -> tuple[int, int] | None:
    """(size of a packet, byte at which the first one starts) of a transport stream; None for another file."""
    head = np.frombuffer(file.read(0, _PROBE), np.uint8)
    best, found = 2, None
    for size in PACKET_SIZES:
        for first in np.flatnonzero(head[:size] == _SYNC).tolist():
            marks = head[first::size] == _SYNC
            hits = int(marks.sum())
            if hits > best and hits >= 0.75 * len(marks):
                best, found = hits, (size, first)
    return found


def check_packets(file: FilePlaces, video: int) -> None:
    """
    Holds the packets of a stream against their numbers.

    Args:
        video: the stream's PID.

    Raises:
        DamagedFile: a packet is cut off, does not start where it should, is marked as wrong, or one is missing.
    """
    found = packets_of(file)
    if found is None:
        raise DamagedFile("damaged: its first packets do not start where they should")
    size, first = found
    lead = 4 if size == 192 else 0  # a time stamp before each packet
    if first != lead:
        raise DamagedFile(f"truncated: its first {first} bytes are no whole packet")
    rest = file.size % size
    counter, number = None, 0
    for start in range(0, file.size - rest, _BLOCK * size):
        data = file.read(start, min(_BLOCK * size, file.size - rest - start))
        packets = np.frombuffer(data, np.uint8).reshape(-1, size)[:, lead : lead + 12]  # (bytes,) -> (packets, bytes)
        wrong = np.flatnonzero(packets[:, 0] != _SYNC)
        if len(wrong):
            raise DamagedFile(f"damaged at byte {start + int(wrong[0]) * size}, where a packet should start")
        counter = _check_numbers(packets, video, counter, number)
        number += len(packets)
    if rest:
        raise DamagedFile(f"truncated: its last packet has {rest} of {size} bytes")


def _check_numbers(packets: np.ndarray, video: int, before: int | None, number: int) -> int | None:
    """Refuses a gap in the numbers of these packets; gives the last number."""
    pids = (packets[:, 1].astype(np.int64) & 31) << 8 | packets[:, 2]
    places = np.flatnonzero(pids == video)
    if not len(places):
        return before
    own = packets[places]
    if (own[:, 1] & 0x80).any():
        place = number + int(places[np.argmax(own[:, 1] & 0x80)])
        raise DamagedFile(f"damaged: packet {place} is marked as wrong")
    has_data = (own[:, 3] & 0x10) > 0
    restarts = ((own[:, 3] & 0x20) > 0) & (own[:, 4] > 0) & ((own[:, 5] & 0x80) > 0)
    counters = (own[:, 3] & 15).astype(np.int64)
    previous = np.append(counters[0] - has_data[0] if before is None else before, counters[:-1])
    step = (counters - previous) % 16
    # A packet without data repeats the number before it; one with data may be sent twice.
    wrong = np.flatnonzero(~restarts & ~((step == has_data) | (step == 0)))
    if len(wrong):
        place = number + int(places[wrong[0]])
        raise DamagedFile(f"damaged: before packet {place} of its stream some are missing")
    return int(counters[-1])

"""Writes a checkpoint as TensorFlow does: an index, which is a table of LevelDB, and one file of data."""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}
PER_BLOCK = 7  # few, so that several blocks are read


def varint(value: int) -> bytes:
    found = b""
    while value >= 128:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def nested(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def crc32c(content: bytes) -> int:
    """Masked, as LevelDB keeps it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def block(entries: list[tuple[bytes, bytes]], restart: int = 4) -> bytes:
    found, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart == 0:
            restarts.append(len(found))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        found += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return (
        found
        + b"".join(struct.pack("<I", place) for place in restarts or [0])
        + struct.pack("<I", len(restarts or [0]))
    )


def write_bundle(prefix: Path, tensors: Mapping[str, np.ndarray], texts: Mapping[str, bytes] | None = None) -> Path:
    """`prefix.index` and `prefix.data-00000-of-00001`; the index is given back."""
    data, entries = bytearray(), {b"": number(1, 1) + nested(3, number(1, 1))}
    for name, value in sorted(tensors.items()):
        raw = np.ascontiguousarray(value).tobytes()
        shape = b"".join(nested(2, number(1, size)) for size in value.shape)
        entry = number(1, TYPES[str(value.dtype)]) + nested(2, shape) + number(4, len(data)) + number(5, len(raw))
        entries[name.encode()] = entry + varint(6 << 3 | 5) + struct.pack("<I", crc32c(raw[:64]))
        data += raw
    for name, text in (texts or {}).items():
        entries[name.encode()] = number(1, 7) + nested(2, b"") + number(4, len(data)) + number(5, len(text))
        data += text
    found, handles = b"", []

    def add(content: bytes) -> bytes:
        nonlocal found
        handle = varint(len(found)) + varint(len(content))
        found += content + b"\0" + struct.pack("<I", crc32c(content + b"\0"))
        return handle

    rows = sorted(entries.items())
    for start in range(0, len(rows), PER_BLOCK):
        part = rows[start : start + PER_BLOCK]
        handles.append((part[-1][0], add(block(part))))
    footer = add(block([])) + add(block(handles, 1))
    found += footer + b"\0" * (40 - len(footer)) + struct.pack("<Q", 0xDB4775248B80FB57)
    index = prefix.with_name(prefix.name + ".index")
    index.write_bytes(found)
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)
    return index

"""
TensorFlow's checkpoints (an `.index` and its `.data` files) read without TensorFlow: nothing in them is run, and every
place that they name is compared with what is there.

The index is a table of LevelDB: blocks of sorted keys and a footer. A key is a variable's name, its value a
`BundleEntryProto` (tensor_bundle.proto): type, shape, file, place and length. The empty key's is a
`BundleHeaderProto`. Checksums are not computed, as of safetensors.
"""

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

MAGIC = 0xDB4775248B80FB57
FOOTER = 48
NO_COMPRESSION = 0
STRING = 7
TYPES: dict[int, tuple[type, torch.dtype | None]] = {
    1: (np.float32, None),
    2: (np.float64, None),
    3: (np.int32, None),
    4: (np.uint8, None),
    5: (np.int16, None),
    6: (np.int8, None),
    9: (np.int64, None),
    10: (np.bool_, None),
    14: (np.int16, torch.bfloat16),
    19: (np.float16, None),
}
"""By the number of a `DataType` of TensorFlow: how its bytes are read, and what they are then taken for, or None."""


class BundleError(ValueError):
    """A file that is damaged, or no checkpoint of TensorFlow; the message says why."""


@dataclass
class Entry:
    """
    Where a variable stands.

    Attributes:
        dtype: number of TensorFlow's `DataType`.
        shape: its shape.
        shard: number of the data file.
        offset, size: bytes there.
        sliced: whether it is stored in pieces.
    """

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    sliced: bool = False


@dataclass
class Bundle:
    """
    A checkpoint of TensorFlow.

    Attributes:
        tensors: by name; read from the file when they are used.
        texts: names of what holds text.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)


def find_bundle(source: str | os.PathLike) -> Path | None:
    """The index of a checkpoint that is named by its index, by its prefix (`ckpt-100`), or by a data file of it."""
    path = Path(source)
    prefix = path.name.partition(".data-")[0] if ".data-" in path.name else path.name.removesuffix(".index")
    index = path.with_name(f"{prefix}.index")
    return index if index.is_file() else None


def read_bundle(index: Path) -> Bundle:
    """
    The variables of a checkpoint.

    Raises:
        BundleError: for a damaged index, a data file that is absent or too short, or a kind of variable that is not
            read: text in pieces, complex numbers.
    """
    content = index.read_bytes()
    try:
        values = dict(_entries(content))
        header = values.pop("", None)
        fields = dict(_fields(header or b""))
        shards = int(fields.get(1, 0))
        entries = {name: _entry(value) for name, value in values.items()}
    except BundleError as error:
        raise BundleError(f"{index}: {error}") from None
    except (IndexError, struct.error, ValueError, OverflowError) as error:
        raise BundleError(f"{index}: damaged, or no index of a checkpoint of TensorFlow ({error}).") from error
    if header is None:
        raise BundleError(f"{index}: it has no header: no index of a checkpoint of TensorFlow.")
    if fields.get(2, 0):
        raise BundleError(f"{index}: its numbers are big-endian, which are not read.")
    found = Bundle()
    for name, entry in entries.items():
        if entry.dtype == STRING:
            found.texts.append(name)
            continue
        found.tensors[name] = _tensor(index, name, entry, shards)
    return found


def _tensor(index: Path, name: str, entry: Entry, shards: int) -> torch.Tensor:
    if entry.sliced:
        raise BundleError(f"{index}: {name!r} is stored in slices, which are not read: save it whole.")
    if entry.dtype not in TYPES:
        raise BundleError(f"{index}: {name!r} has TensorFlow's type {entry.dtype}, which is not read.")
    kind, taken_for = TYPES[entry.dtype]
    count = math.prod(entry.shape)
    if min((0, *entry.shape)) < 0 or entry.size != count * np.dtype(kind).itemsize:
        raise BundleError(f"{index}: {name!r} of shape {list(entry.shape)} cannot have {entry.size} bytes: damaged.")
    if not 0 <= entry.shard < shards:
        raise BundleError(f"{index}: {name!r} lies in file {entry.shard} of {shards}: damaged.")
    path = index.with_name(f"{index.name.removesuffix('.index')}.data-{entry.shard:05}-of-{shards:05}")
    if not path.is_file():
        raise BundleError(f"{path}: there is no such file, and {index.name} names it: both are needed.")
    if entry.offset < 0 or entry.offset + entry.size > path.stat().st_size:
        raise BundleError(f"{path}: too short for {name!r}: the copy is not whole.")
    if not count:
        return torch.from_numpy(np.empty(entry.shape, kind))
    values = torch.from_numpy(np.memmap(path, kind, "c", entry.offset, entry.shape or (1,))).reshape(entry.shape)
    return values if taken_for is None else values.view(taken_for)


def _entries(content: bytes) -> Iterator[tuple[str, bytes]]:
    if len(content) < FOOTER or struct.unpack("<Q", content[-8:])[0] != MAGIC:
        raise BundleError("no index of a checkpoint of TensorFlow, or cut off: its last bytes are not a table's.")
    footer = content[-FOOTER:]
    place = 0
    for _ in range(2):  # that of the index of other tables, which is empty
        _, place = _varint(footer, place)
    for _, handle in _block(content, *_handle(footer, place)):
        for key, value in _block(content, *_handle(handle, 0)):
            yield key.decode(), value


def _handle(content: bytes, place: int) -> tuple[int, int]:
    offset, place = _varint(content, place)
    return offset, _varint(content, place)[0]


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block: each key is what it shares with the one before, and its own end."""
    if offset + size + 5 > len(content):
        raise BundleError("damaged: a block lies beyond its end.")
    if content[offset + size] != NO_COMPRESSION:
        raise BundleError("its blocks are compressed, which checkpoints are not.")
    block = content[offset : offset + size]
    end = size - 4 * (1 + struct.unpack("<I", block[-4:])[0])
    place, key = 0, b""
    while place < end:
        shared, place = _varint(block, place)
        own, place = _varint(block, place)
        length, place = _varint(block, place)
        if shared > len(key) or place + own + length > end:
            raise BundleError("damaged: an entry lies beyond its block.")
        key = key[:shared] + block[place : place + own]
        yield key, block[place + own : place + own + length]
        place += own + length


def _entry(content: bytes) -> Entry:
    entry = Entry()
    for number, value in _fields(content):
        if number == 1:
            entry.dtype = int(value)
        elif number == 2 and isinstance(value, bytes):
            sizes = [dict(_fields(dim)).get(1, 0) for n, dim in _fields(value) if n == 2 and isinstance(dim, bytes)]
            entry.shape = tuple(int(size) for size in sizes)
        elif number == 3:
            entry.shard = int(value)
        elif number == 4:
            entry.offset = int(value)
        elif number == 5:
            entry.size = int(value)
        elif number == 7:
            entry.sliced = True
    return entry


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: their numbers, and numbers or bytes."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _varint(message, place)
            yield number, value - 2**64 if value >= 2**63 else value
        elif wire == 2:
            length, place = _varint(message, place)
            if place + length > len(message):
                raise BundleError("damaged: a field lies beyond its message.")
            yield number, message[place : place + length]
            place += length
        elif wire in (1, 5):
            width = 8 if wire == 1 else 4
            yield number, int.from_bytes(message[place : place + width], "little")
            place += width
        else:
            raise BundleError(f"damaged: a field of the unknown kind {wire}.")


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and the place behind it."""
    value = shift = 0
    while True:
        if shift > 63:
            raise BundleError("damaged: a number has no end.")
        byte = content[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place

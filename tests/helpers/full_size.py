"""Checkpoints of published sizes: numbers by the key, so that nobody holds two of them to compare."""

import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch

from violet.hub.conversion import ConversionReport, convert, export_original

ONE = 0x3F800000
"""The bits of 1.0: from there on neighbouring whole numbers are neighbouring float32 numbers."""


def numbered(key: str, shape: list[int] | tuple[int, ...]) -> torch.Tensor:
    """A tensor whose numbers all differ, and begin elsewhere for another key: made as fast as memory is written."""
    count = torch.Size(shape).numel()
    bits = torch.arange(count, dtype=torch.int32).add_(ONE + zlib.crc32(key.encode()) % 65536)
    return bits.view(torch.float32).view(shape)


def write_with_torch(weights: dict[str, torch.Tensor], folder: Path) -> Path:
    torch.save(weights, folder / "original.pt")
    return folder / "original.pt"


def comes_back(
    shapes: Mapping[str, list[int] | tuple[int, ...]],
    folder: Path,
    free_memory: Callable[[], None],
    special: Callable[[str], torch.Tensor | None] = lambda key: None,
    write: Callable[[dict[str, torch.Tensor], Path], Path] = write_with_torch,
    in_file: Callable[[str], str] = lambda key: key,
    beside: Collection[str] = (),
    new: Collection[str] = (),
) -> ConversionReport:
    """
    Converts a checkpoint of these keys and back again, and compares key by key.

    Args:
        folder: for its files, which are removed by whom it belongs to: twice the checkpoint's size.
        special: a key -> its tensor, if it is not any numbers.
        write: puts the weights into a new file of the folder, and says which.
        in_file: a key -> its name in that file.
        beside: what else `write` puts there; it is skipped, and does not come back.
        new: names of the model that the checkpoint does not hold.
    """

    def value(key: str) -> torch.Tensor:
        own = special(key)
        return numbered(key, shapes[key]) if own is None else own

    source = write({key: value(key) for key in shapes}, folder)
    free_memory()
    report = convert(source, folder / "model", with_tokenizer=False)
    assert set(report.used) | set(report.skipped) == {*map(in_file, shapes), *beside} and set(report.new) == set(new)
    assert not set(report.used) & set(report.skipped) and set(beside) <= set(report.skipped)
    source.unlink()
    free_memory()
    back = export_original(folder / "model")
    assert set(back) == set(shapes)
    for key in shapes:
        expected = value(key)
        assert back[key].dtype == expected.dtype and torch.equal(back[key], expected), key
    del back
    free_memory()
    return report

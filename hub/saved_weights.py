"""The safetensors files of a model's folder: which there are, what they hold, and other sizes of them."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..core.files import write_json, write_tensors

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class SavedWeightsError(ValueError):
    """Weights that are missing or damaged; the message names the file."""


def weight_files(folder: Path) -> list[Path]:
    """
    The files that hold a model's weights, by their names' order.

    Raises:
        SavedWeightsError: where there are none, or one that the index names is missing.
    """
    index = folder / INDEX
    if (folder / WEIGHTS).exists():
        names = [WEIGHTS]
    elif index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        raise SavedWeightsError(f"{folder} holds no weights: neither {WEIGHTS} nor {INDEX}.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise SavedWeightsError(f"{index} names {', '.join(missing)}, which the folder does not hold.")
    return [folder / name for name in names]


def num_parameters(folder: Path) -> int:
    """How many numbers the weights are, by the files' heads."""
    return sum(math.prod(shape) for _, _, shape, _ in _entries(folder))


def reshard(folder: Path, target: Path, most_bytes: int) -> list[Path]:
    """
    Writes the weights of `folder` into files of at most `most_bytes` in `target`, and their index; a tensor that is
    larger has a file of its own. One file's tensors are in memory at a time.
    """
    shards: list[list[tuple[Path, str, int]]] = [[]]
    size = 0
    for file, name, _, count in _entries(folder):
        if shards[-1] and size + count > most_bytes:
            shards.append([])
            size = 0
        shards[-1].append((file, name, count))
        size += count
    written: list[Path] = []
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        path = target / f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors: dict[str, Any] = {}
        for file in sorted({file for file, _, _ in shard}):
            with safe_open(file, "pt") as source:
                tensors |= {name: source.get_tensor(name) for place, name, _ in shard if place == file}
        written.append(write_tensors(path, tensors, {"format": "pt"}))
        places |= {name: path.name for _, name, _ in shard}
    total = sum(count for shard in shards for _, _, count in shard)
    write_json(target / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))})
    return [*written, target / INDEX]


def _entries(folder: Path) -> Iterator[tuple[Path, str, list[int], int]]:
    """Each tensor: its file, name, shape and bytes."""
    for file in weight_files(folder):
        try:
            with safe_open(file, "pt"):
                pass  # whole: its size is what its head says
        except (OSError, SafetensorError) as error:
            raise SavedWeightsError(f"{file} is damaged or no safetensors file: {error}") from error
        with open(file, "rb") as opened:
            head = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        for name, entry in head.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                yield file, name, entry["shape"], end - start

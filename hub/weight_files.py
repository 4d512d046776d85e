"""
Weights from files, folders and the Hub: tensors only, and a pickle that asks for anything else is refused unrun. And
the safetensors files of a model's folder: which there are, what they hold, and other sizes of them.
"""

import json
import math
import os
import pickle
import pickletools
import re
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open

from ..core.files import read_json, write_json, write_tensors
from .tensor_bundle import BundleError, find_bundle, read_bundle

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
WEIGHT_FILES = (WEIGHTS, INDEX, "pytorch_model.bin")
"""What a folder or a Hub repository may hold its weights in, the first that is there."""
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
JOINED = r".*encoder\.layers\.\d+\.blocks\.\d+\.attention\.self\."
"""transformers' Swin keeps query, key and value apart; they are read as one tensor, `{query,key,value}`."""
MOST_HEADER_BYTES = 2**24
"""A safetensors file whose header is larger is refused; one of 60,000 tensors has 7 MB."""
LEGACY_PICKLES = 4
"""torch files that are no zip archives begin so: a number, a version, the machine, the content."""
OF_TENSORS = r"collections\.OrderedDict|argparse\.Namespace|torch\._utils\._rebuild_\w+|torch\.\w*Storage"
"""The names with which tensors, and the arguments beside them, are written."""
WRAPPERS = ("state_dict", "model", "module", "model_state_dict", "model_state")
"""
Under which names training code keeps the weights beside other things (mmcv, Lightning, DeepSpeed, the Trainer,
SlowFast).
"""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel, DeepSpeed and torch.compile put before each name."""


class WeightsError(ValueError):
    """Weights that cannot be read, or are not what they should be; the message names the file and the key."""


@dataclass
class Weights:
    """
    Weights that were read.

    Attributes:
        tensors: by the names in the source.
        origin: the source, for people.
        skipped: what else the source holds -> why it is not needed.
        settings: the `config.json` beside the weights; empty if there is none.
    """

    tensors: dict[str, torch.Tensor]
    origin: str
    skipped: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def read_weights(source: Mapping[str, Any] | str | os.PathLike) -> Weights:
    """
    Weights from a state dict, a file, a folder that transformers wrote, or such a repository on the Hub; or from a
    checkpoint of TensorFlow, by its prefix or `.index`. State dicts may lie under one of `WRAPPERS`.

    Raises:
        WeightsError: for a file that is absent, empty, damaged or no checkpoint, whose pickle asks for more than
            tensors and plain values, or that holds something other than tensors where weights should be.
    """
    if isinstance(source, Mapping):
        weights = _unwrap(source, "the state dict")
    elif Path(source).is_dir():
        weights = _read_folder(Path(source), os.fspath(source))
    elif (index := find_bundle(source)) is not None:
        weights = _read_bundle(index)
    elif not Path(source).exists() and _may_be_on_the_hub(os.fspath(source)):
        weights = _read_hub(os.fspath(source))
    else:
        weights = _unwrap(read_file(Path(source)), os.fspath(source))
    join(weights.tensors, JOINED, ("query", "key", "value"))
    return weights


def _read_bundle(index: Path) -> Weights:
    try:
        found = read_bundle(index)
    except BundleError as error:
        raise WeightsError(str(error)) from error
    if not found.tensors:
        raise WeightsError(f"{index}: there are no weights in it.")
    return Weights(found.tensors, os.fspath(index), dict.fromkeys(found.texts, "text, and no weights"))


def join(tensors: dict[str, torch.Tensor], start: str, together: tuple[str, ...]) -> None:
    """
    Puts one tensor in the place of those that fit together, whose names begin with the pattern `start` and go on with
    one of `together`: `attention.{query,key,value}.weight` for `attention.query.weight` and the two others.
    """
    pattern = re.compile(rf"({start}){re.escape(together[0])}\.(weight|bias)")
    for found in filter(None, map(pattern.fullmatch, list(tensors))):
        names = [f"{found[1]}{part}.{found[2]}" for part in together]
        parts = [tensors[name] for name in names if name in tensors]
        if len(parts) == len(names) and len({(part.shape, part.dtype) for part in parts}) == 1:
            for name in names:
                del tensors[name]
            tensors[f"{found[1]}{{{','.join(together)}}}.{found[2]}"] = torch.cat(parts)


def read_file(path: Path) -> Any:
    """What one file holds."""
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file.")
    if not path.stat().st_size:
        raise WeightsError(f"{path}: the file is empty.")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        _header_size(path)

        try:
            return load_file(path)
        except (SafetensorError, ValueError, OverflowError) as error:
            raise WeightsError(f"{path} is damaged or no safetensors file ({error}).") from error
    _check_archive(path)
    try:
        with torch.serialization.safe_globals([Namespace]):  # what training code keeps its arguments in: plain values
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        asked = names_asked_for(path)
        if asked:
            raise WeightsError(
                f"{path}: refused, and nothing of it was run: its pickle asks for {', '.join(asked)}. Weights are "
                "read from files with nothing but tensors and plain values in them."
            ) from None
        # torch's own words on a pickle advise to read it with `weights_only=False`
        told = (
            "its pickle cannot be read"
            if isinstance(error, pickle.UnpicklingError | LookupError)
            else first_line(error)
        )
        raise WeightsError(f"{path}: damaged, or no checkpoint of torch ({told}).") from None


def _header_size(file: Path) -> int:
    """
    The bytes of a safetensors file's header.

    Raises:
        WeightsError: it says more than `MOST_HEADER_BYTES`, or than the file has.
    """
    with open(file, "rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
    if size > file.stat().st_size - 8:
        raise WeightsError(
            f"{file} is damaged or no safetensors file: its header says that it has {size} bytes; the file has "
            f"{file.stat().st_size}."
        )
    if size > MOST_HEADER_BYTES:
        raise WeightsError(f"{file}: its header has {size} bytes; at most {MOST_HEADER_BYTES} are read.")
    return size


def _check_archive(file: Path) -> None:
    """Refuses a zip file of more than it has bytes: torch packs nothing, and what is packed may fill the memory."""
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            inside = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # torch says what is wrong with it
    if inside > file.stat().st_size:
        raise WeightsError(
            f"{file}: refused: its parts are to have {inside} bytes, more than the {file.stat().st_size} of the file. "
            "Checkpoints of torch are not compressed."
        )


def first_line(error: BaseException) -> str:
    """What an error of a library says, short enough to be said within ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def names_asked_for(path: Path) -> list[str]:
    """The Python names beyond tensors' that a pickle asks for, found without running it."""
    names: set[str] = set()
    try:
        if zipfile.is_zipfile(path):
            with torch.serialization.safe_globals([Namespace]):
                names.update(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        else:
            with open(path, "rb") as file:
                for _ in range(LEGACY_PICKLES):
                    names.update(name for name in _names_in_pickle(file) if not re.fullmatch(OF_TENSORS, name))
    except (pickle.UnpicklingError, AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError):
        pass  # no pickle, or its end: what was found before counts
    return sorted(names)


def _names_in_pickle(file: BinaryIO) -> Iterator[str]:
    """The names in the pickle at this place of the file, which is left behind it."""
    texts: list[str] = []
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL":
            yield str(argument).replace(" ", ".")
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif isinstance(argument, str):
            texts.append(argument)


def _unwrap(content: Any, origin: str) -> Weights:
    skipped: dict[str, str] = {}
    while isinstance(content, Mapping):
        inner = [name for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        if not inner:
            break
        skipped |= {
            str(name): "no weights, but what training kept beside them" for name in content if name != inner[0]
        }
        content = content[inner[0]]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{origin}: names with tensors are needed, not {type(content).__name__}.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(f"{origin}: {name!r} is no tensor, but {type(value).__name__}.")
        if value.layout != torch.strided or value.is_quantized:
            raise WeightsError(f"{origin}: {name!r} is a sparse or quantized tensor; plain ones are needed.")
    if not content:
        raise WeightsError(f"{origin}: there are no weights in it.")
    return Weights(dict(content), origin, skipped)


def _read_folder(folder: Path, origin: str) -> Weights:
    name = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if name is None:
        raise WeightsError(f"{origin}: the folder holds none of {', '.join(WEIGHT_FILES)}.")
    if name in (WEIGHTS, INDEX):
        content = {key: value for file in weight_files(folder) for key, value in read_file(file).items()}
    else:
        content = read_file(folder / name)
    weights = _unwrap(content, origin)
    settings = folder / "config.json"
    weights.settings = _read_object(settings) if settings.is_file() else {}
    return weights


def _may_be_on_the_hub(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None and not name.endswith(SUFFIXES)


def _read_hub(name: str) -> Weights:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def fetch(patterns: list[str]) -> Path:
        return Path(snapshot_download(name, allow_patterns=["config.json", *patterns]))

    try:
        folder = fetch([*WEIGHT_FILES[:2], "model-*-of-*.safetensors"])
        if not any((folder / file).is_file() for file in WEIGHT_FILES[:2]):
            folder = fetch([WEIGHT_FILES[2]])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(
            f"{name}: no file or folder of this name is here, and it could not be fetched from the Hub "
            f"({first_line(error)})."
        ) from error
    return _read_folder(folder, name)


def strip_prefixes(names: list[str]) -> dict[str, str]:
    """Each name without the prefixes of wrappers that most names have -> the name itself."""
    stripped = {name: name for name in names}
    while prefix := next((p for p in PREFIXES if 2 * sum(name.startswith(p) for name in stripped) > len(names)), None):
        stripped = {name.removeprefix(prefix): source for name, source in stripped.items()}
    return stripped


def weight_files(folder: Path) -> list[Path]:
    """
    The files that hold a model's weights, by their names' order.

    Raises:
        WeightsError: if there are none, or one that the index names is missing.
    """
    index = folder / INDEX
    if (folder / WEIGHTS).exists():
        names = [WEIGHTS]
    elif index.exists():
        places = _read_object(index).get("weight_map")
        if not isinstance(places, dict) or not all(_is_plain(name) for name in places.values()):
            raise WeightsError(f"{index}: its `weight_map` must name files of this folder.")
        names = sorted(set(places.values()))
    else:
        raise WeightsError(f"{folder} holds no weights: neither {WEIGHTS} nor {INDEX}.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise WeightsError(f"{index} names {', '.join(missing)}, which the folder does not hold.")
    return [folder / name for name in names]


def _is_plain(name: Any) -> bool:
    """Whether this names a file and no other folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except ValueError as error:
        raise WeightsError(f"{file}: not JSON, or too much of it ({error}).") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file}: an object is needed, not {type(content).__name__}.")
    return content


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
        size = _header_size(file)
        try:
            with safe_open(file, "pt"):
                pass  # whole: its size is what its head says
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{file} is damaged or no safetensors file: {error}") from error
        with open(file, "rb") as opened:
            opened.seek(8)
            head = json.loads(opened.read(size))
        for name, entry in head.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                yield file, name, entry["shape"], end - start

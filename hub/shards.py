"""Conversion of folders that are too large for memory: file by file, in the numbers that they have, both ways."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig, PreTrainedModel

from ..configuration import VioletConfig
from ..core.files import new_folder, write_json, write_tensors
from .cards import CONVERSION_FILE
from .conversion import KEPT_FILE, ConversionReport, find_class, frames_of, load_tokenizer, own_tokenizer
from .kinds import Kind
from .language_models import language_processor
from .layouts import KINDS, find_kind
from .planning import ConversionError, ConversionPlan, below_the_model, numbering, plan_conversion
from .weight_files import INDEX, WeightsError, _entries, _read_object, strip_prefixes, weight_files


def convertible_by_shards(source: str | os.PathLike) -> bool:
    """Whether this is a folder of safetensors files of a kind that is converted file by file."""
    folder = Path(source)
    if not folder.is_dir() or not any(folder.glob("model*.safetensors")):
        return False
    shapes = {name: tuple(shape) for _, name, shape, _ in _entries(folder)}
    kind = find_kind({name: shapes[own] for name, own in strip_prefixes(list(shapes)).items()})
    return kind is not None and kind.by_shards


def convert_by_shards(
    source: str | os.PathLike,
    output: str | os.PathLike,
    config: PreTrainedConfig | None = None,
    tokenizer: str | None = None,
    with_tokenizer: bool = True,
) -> ConversionReport:
    """
    Writes the folder `output` from a folder of safetensors files, whole or not at all: a file for each of theirs, with
    one file's tensors in memory at a time. Numbers keep their precision.

    Args:
        source: the folder, with its config.json.
        config: of the model; by default what shapes and config.json tell.
        tokenizer: a folder or a name on the Hub; by default the source's, or the one of its kind.
        with_tokenizer: whether to write a processor for texts; else only that of videos.

    Raises:
        WeightsError: for weights that cannot be read or do not fit.
    """
    folder = Path(source)
    settings = folder / "config.json"
    told = _read_object(settings) if settings.is_file() else {}
    plan = plan_conversion({name: tuple(shape) for _, name, shape, _ in _entries(folder)}, None, config, told)
    report = ConversionReport(str(source), plan.kind.name, plan.model_class.__name__)
    report.skipped, report.new, report.assumed = dict(plan.skipped), dict(plan.layout.new), list(plan.assumed)
    processor: Any = frames_of(plan)
    words = (tokenizer or own_tokenizer(source, plan.kind)) if with_tokenizer else None
    if words is not None:
        processor = language_processor(plan.config, load_tokenizer(words), processor)
    with new_folder(output) as made:
        kept, dtypes = _write_shards(plan, folder, Path(made), report)
        plan.config.architectures = [plan.model_class.__name__]
        if len(dtypes) == 1:
            plan.config.dtype = dtypes.pop()
        plan.config.save_pretrained(made)
        processor.save_pretrained(made)
        if kept:
            write_tensors(Path(made) / KEPT_FILE, kept)
        write_json(Path(made) / CONVERSION_FILE, report.to_dict())
    return report


def _write_shards(
    plan: ConversionPlan, source: Path, target: Path, report: ConversionReport
) -> tuple[dict[str, torch.Tensor], set[torch.dtype]]:
    """Our files for theirs. What the model has no place for and a way back needs, and the numbers' types."""
    places = {plan.names[piece.theirs]: piece for piece in plan.layout.pieces if piece.target is not None}
    names = {own: name for name, own in plan.names.items()}
    kept: dict[str, torch.Tensor] = {}
    shards: dict[str, list[str]] = {}
    dtypes: set[torch.dtype] = set()
    size, files = 0, weight_files(source)
    for number, file in enumerate(files, start=1):
        tensors: dict[str, torch.Tensor] = {}
        with safe_open(file, "pt") as opened:
            for own in opened.keys():  # noqa: SIM118  # it is no dictionary
                piece = places.get(own)
                if piece is not None:
                    assert piece.target is not None
                    value = opened.get_tensor(own)
                    tensors[piece.target] = piece.form.ours(value, piece.shape).contiguous()
                    report.used[own], report.loaded[piece.target] = piece.target, own
                    dtypes.add(value.dtype)
                elif any(re.search(pattern, names[own]) for pattern in plan.kind.kept):
                    kept[names[own]] = opened.get_tensor(own)
                    report.kept[own] = names[own]
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        size += sum(value.nbytes for value in tensors.values())
        shards[name] = list(tensors)
        write_tensors(target / name, tensors, {"format": "pt"})
    _write_index(target, shards, size)
    return kept, dtypes


def _write_index(target: Path, shards: Mapping[str, list[str]], size: int) -> None:
    places = {name: file for file, names in shards.items() for name in names}
    write_json(target / INDEX, {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))})


def export_by_shards(model: str | os.PathLike, output: str | os.PathLike) -> None:
    """
    Writes a folder of a model of ours, which `convert_by_shards` or `save_pretrained` wrote, under the names of the
    original, a file for each of ours; what `convert_by_shards` read comes back to the bit.

    Raises:
        WeightsError: for a folder without weights, or a model that the original has no form for.
    """
    folder = Path(model)
    config: Any = VioletConfig.from_pretrained(folder)
    model_class = find_class((config.architectures or ["none"])[0])
    kind = _kind_of(config, model_class)
    files, shards, size = weight_files(folder), dict[str, list[str]](), 0
    with new_folder(output) as made:
        for number, file in enumerate(files, start=1):
            tensors: dict[str, torch.Tensor] = {}
            with safe_open(file, "pt") as opened:
                for target in opened.keys():  # noqa: SIM118
                    theirs = kind.their_name(below_the_model(model_class, target))
                    if theirs is None:
                        raise ConversionError(f"The original, {kind.name}, has no place for {target!r}.")
                    value = opened.get_tensor(target)
                    tensors[theirs] = kind.form(theirs).back(value, tuple(value.shape)).contiguous()
            if number == len(files) and (folder / KEPT_FILE).is_file():
                with safe_open(folder / KEPT_FILE, "pt") as opened:
                    tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            name = f"model-{number:05}-of-{len(files):05}.safetensors"
            size += sum(math.prod(value.shape) * value.element_size() for value in tensors.values())
            shards[name] = list(tensors)
            write_tensors(Path(made) / name, tensors, {"format": "pt"})
        _write_index(Path(made), shards, size)


def _kind_of(config: Any, model_class: type[PreTrainedModel]) -> Kind:
    """The kind as which a model of that configuration is written."""
    own = numbering(model_class, config.to_json_string(use_diff=False))
    system, separate = config.vision_config.model_type, getattr(config.fusion_model_config, "separate", True)
    found = [kind for kind in KINDS.values() if kind.by_shards and kind.system == system]
    if not found:
        raise WeightsError(f"A {system!r} is of no kind that is written file by file.")
    return found[0 if separate else -1].fitted(own, own)

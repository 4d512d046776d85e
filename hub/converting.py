"""Weights of other code into a folder for `from_pretrained`, and back: the commands convert and export-original."""

import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from ..configuration import NAMED_CONFIGURATIONS, VioletConfig, VioletVisionConfig, named_configuration
from ..core.files import new_file, new_folder, sha256, write_json, write_tensors
from ..processing import VideoTextProcessor, VioletVideoProcessor, special_tokens
from .cards import CONVERSION_FILE
from .conversion import (
    KEPT_FILE,
    ConversionReport,
    build,
    check_settings,
    convert_tensors,
    export_original,
    find_class,
    shapes_of,
)
from .planning import ConversionError, plan_conversion
from .weight_files import WeightsError, first_line, read_weights

TOKENIZER = "bert-base-uncased"
"""With which every published VIOLET reads texts."""


def convert(
    source: str | os.PathLike,
    output: str | os.PathLike,
    model_class: str | None = None,
    config: str | None = None,
    tokenizer: str | None = TOKENIZER,
) -> ConversionReport:
    """
    Writes the folder `output`, whole or not at all: configuration, `model.safetensors`, processor, and a report of
    every key.

    Args:
        source: see `from_original`.
        model_class: the name of the class to build; by default the one whose heads the weights hold.
        config: a folder, a name on the Hub, or a named configuration; by default what the shapes tell.
        tokenizer: a folder or a name on the Hub; None writes the video processor alone.

    Raises:
        FileExistsError: if there is an `output` already.
        WeightsError: for weights, a class, a configuration or a tokenizer that cannot be had or do not fit.
    """
    if Path(output).exists():
        raise FileExistsError(f"{output} exists already: name another folder.")
    weights = read_weights(source)
    plan = plan_conversion(
        shapes_of(weights),
        None if model_class is None else find_class(model_class),
        None if config is None else read_configuration(config),
    )
    check_settings(plan, weights)
    processor: Any = VioletVideoProcessor()
    if isinstance(plan.config, VioletConfig) and tokenizer is not None:
        processor = VideoTextProcessor(read_tokenizer(tokenizer, plan.config), processor)
    tensors, report = convert_tensors(plan, weights)
    model = build(plan.model_class, plan.config, tensors)
    with new_folder(output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        if report.unlike:
            kept = {name: weights.tensors[source].contiguous() for source, name in report.unlike.items()}
            write_tensors(folder / KEPT_FILE, kept)
        facts = {"sha256": sha256(source)} if Path(source).is_file() else {}
        write_json(folder / CONVERSION_FILE, facts | report.to_dict())
    return report


def read_configuration(name: str) -> VioletConfig | VioletVisionConfig:
    """
    A named configuration, or that of a folder or a Hub repository.

    Raises:
        WeightsError: where there is none, or it is not one of ours.
    """
    if name in NAMED_CONFIGURATIONS:
        return named_configuration(name)
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, StrictDataclassError) as error:
        known = ", ".join(NAMED_CONFIGURATIONS)
        raise WeightsError(
            f"{name}: no configuration ({first_line(error)}); a folder, a Hub name, or {known}."
        ) from error
    if not isinstance(config, VioletConfig | VioletVisionConfig):
        raise WeightsError(f"{name}: a configuration of {config.model_type!r}, not of VIOLET.")
    return config


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """
    The tokenizer in a folder or on the Hub.

    Raises:
        WeightsError: where it cannot be had.
    """
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{name}: the tokenizer cannot be had ({first_line(error)}). Give a folder that holds one."
        ) from error


def read_tokenizer(name: str, config: VioletConfig) -> PreTrainedTokenizerBase:
    """
    The tokenizer in a folder or on the Hub; `config` is told its special tokens.

    Raises:
        WeightsError: where it cannot be had, or has another number of words than the weights.
    """
    tokenizer = load_tokenizer(name)
    if len(tokenizer) != config.vocab_size:
        raise ConversionError(
            f"{name}: the tokenizer has {len(tokenizer)} words, and the weights have {config.vocab_size}."
        )
    for field, token in special_tokens(tokenizer).items():
        setattr(config, field, token)
    return tokenizer


def export(model: str | os.PathLike, output: str | os.PathLike) -> dict[str, torch.Tensor]:
    """
    Writes what `export_original` gives into a `.pt`, `.pth` or `.safetensors` file, whole or not at all.

    Raises:
        FileExistsError: if there is an `output` already.
        WeightsError: for another kind of file, or a model that the original has no form for.
    """
    path = Path(output)
    if path.exists():
        raise FileExistsError(f"{path} exists already: name another file.")
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise WeightsError(f"{path}: a name that ends in .pt, .pth or .safetensors is needed.")
    weights = export_original(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        write_tensors(path, {name: value.contiguous() for name, value in weights.items()}, {"format": "pt"})
    else:
        with new_file(path) as file:
            torch.save(weights, file)
    return weights

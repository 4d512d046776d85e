"""What every run leaves in its folder: its settings when it begins; model, metrics and card when it ends."""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from ..configuration import NAMED_CONFIGURATIONS
from ..core.files import save_into, write_json
from ..evaluation.provenance import METRICS_FILE, run_provenance
from ..hub import write_model_card
from ..modeling_violet import VioletPreTrainedModel
from ..processing import VideoTextProcessor
from .arguments import SettingsError

logger = logging.getLogger(__name__)
RUN_FILE = "run.json"


def is_hub_name(model: str) -> bool:
    """Whether `from_pretrained` would look on the Hub for it."""
    return model not in NAMED_CONFIGURATIONS and not os.path.isdir(model)


def freeze(model: VioletPreTrainedModel, names: Iterable[str], option: str) -> None:
    """
    Keeps the weights of modules of these names, and logs how many they are.

    Raises:
        SettingsError: for a name that no module has; it names the option that said it.
    """
    known, frozen = dict(model.named_modules()), False
    for name in names:
        if not name or name not in known:
            near = sorted(one for one in known if one and one.count(".") <= 1)
            raise SettingsError(
                f"{option}: no module is named {name!r}; there are {', '.join(near)} and those inside."
            )
        known[name].requires_grad_(False)
        frozen = True
        logger.info("%s is frozen: %d parameters.", name, sum(one.numel() for one in known[name].parameters()))
    if frozen:
        trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
        logger.info("%d of %d parameters are trained.", trained, model.num_parameters())


def begin_run(output_dir: Path, settings: dict[str, Any]) -> None:
    """
    Writes the run's settings into its folder, or compares them with those that are there.

    Raises:
        SettingsError: if the folder holds a run with other settings; it names them.
    """
    file = output_dir / RUN_FILE
    if not file.exists():
        write_json(file, settings)
        return
    before = json.loads(file.read_text())
    other = [
        f"{name} was {before.get(name)!r} and is {settings.get(name)!r}"
        for name in sorted({*before, *settings})
        if before.get(name) != settings.get(name)
    ]
    if other:
        raise SettingsError(
            f"{output_dir} holds a run with other settings: {'; '.join(other)}. "
            "Give another output folder, or the same settings to go on with that run."
        )


def save_model(
    output_dir: Path,
    model: VioletPreTrainedModel,
    processor: VideoTextProcessor,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """
    Saves model and processor into the run's folder, both at once.

    Args:
        weights: the model's, by name, if it does not hold the whole of them itself.
    """

    def write(folder: Path) -> None:
        model.save_pretrained(folder, state_dict=weights)
        processor.save_pretrained(folder)

    save_into(output_dir, write)


def write_metrics(
    output_dir: Path,
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    tables: Mapping[str, Dataset],
    **facts: Any,
) -> None:
    """`metrics.json`: the metrics, the settings, and what they rest on (`run_provenance` of `tables` and `facts`)."""
    provenance = run_provenance(tables, **facts)
    write_json(output_dir / METRICS_FILE, {**metrics, "settings": dict(settings), "provenance": provenance})


def end_run(
    output_dir: Path,
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    tables: Mapping[str, Dataset],
    license_name: str | None = None,
    **facts: Any,
) -> None:
    """
    `write_metrics`, and the model card, which is made of what the folder then holds.

    Args:
        license_name: of the weights, in the Hub's spelling; by default the one in the card that is there.
    """
    write_metrics(output_dir, metrics, settings, tables, **facts)
    write_model_card(output_dir, license_name=license_name)

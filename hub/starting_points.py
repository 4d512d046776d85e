"""`build_model`: a new model whose backbone, text embeddings and fusion start from public weights."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from ..configuration import VioletConfig, named_configuration
from ..modeling_violet import VioletForPreTraining, VioletPreTrainedModel
from .conversion import (
    ConversionReport,
    build,
    check_settings,
    convert_tensors,
    shapes_of,
)
from .layouts import BACKBONE, FUSION, MLM, TEXT
from .planning import ConversionError, plan_conversion
from .weight_files import read_weights

Source = Mapping[str, Any] | str | os.PathLike

PARTS = {"vision": (BACKBONE,), "text": (TEXT, FUSION, MLM)}
"""What is taken of each source; the masked-language head only where the model has one."""


def build_model(
    configuration: str | VioletConfig,
    vision: Source | None = None,
    text: Source | None = None,
    model_class: type[VioletPreTrainedModel] = VioletForPreTraining,
) -> Any:
    """
    A model to be trained, initialised from public weights. The rest is freshly initialised.

    Args:
        configuration: the name of one, or one.
        vision: weights of a Video Swin, or of a Swin for pictures, which is inflated in time; for the backbone.
        text: weights of a BERT, for the text embeddings, the fusion (its first layers, as many as there are) and the
            masked-language head. Both are a state dict, a file, a folder or a name on the Hub, of any kind that
            `from_original` reads.
        model_class: what to build.

    Returns:
        The model, in evaluation mode. Its `conversion_report` maps `"vision"` and `"text"` to their
        `ConversionReport`s.

    Raises:
        ValueError: for an unknown configuration.
        WeightsError: for weights that cannot be read or do not fit the configuration, naming file and key.
    """
    config = named_configuration(configuration) if isinstance(configuration, str) else configuration
    tensors: dict[str, torch.Tensor] = {}
    reports: dict[str, ConversionReport] = {}
    for role, source in (("vision", vision), ("text", text)):
        if source is None:
            continue
        weights = read_weights(source)
        try:
            plan = plan_conversion(shapes_of(weights), model_class, config)
        except ConversionError as error:
            raise ConversionError(f"`{role}` ({weights.origin}): {error}") from None
        check_settings(plan, weights)
        found, reports[role] = convert_tensors(plan, weights, PARTS[role])
        if not found:
            raise ConversionError(f"`{role}` ({weights.origin}): {plan.kind.name} holds nothing for it.")
        tensors |= found
    model = build(model_class, config, tensors)
    model.conversion_report = reports
    return model

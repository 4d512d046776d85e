"""The names and shapes of every weight stay as they are: checkpoints that were saved before must load for ever."""

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from violet import NAMED_CONFIGURATIONS, named_configuration
from violet.modeling_violet import (
    VioletForCaptioning,
    VioletForConditionalGeneration,
    VioletForMaskedLM,
    VioletForMultipleChoice,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletForRetrieval,
)
from violet.modeling_violet.fusions import find_fusion, fuses_pairs

FROZEN = Path(__file__).with_name("frozen_keys.json")
MODELS = (
    VioletForCaptioning,
    VioletForConditionalGeneration,
    VioletForMaskedLM,
    VioletForMultipleChoice,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletForRetrieval,
)
TARGETS = ("pixel", "hog", "depth", "optical_flow", "3d_feature", "2d_feature", "2d_clip_feature", "vq")


def keys_and_shapes(name: str) -> dict[str, str]:
    """
    All weights of a named configuration, its projection, task tokens and MVM heads included, over all classes: name ->
    shape. Names that differ in numbers only share an entry: `layers.{0 1 2}.bias`.
    """
    config = named_configuration(name, num_labels=10, num_task_tokens=10, projection_dim=64)
    in_time = getattr(config.vision_config, "num_clips", 2) > 1  # one step in time: no flow from one to the next
    if "video" not in find_fusion(config).outside and (fuses_pairs(config) or not config.has_fusion):
        config.mvm_targets = {target: {} for target in TARGETS if in_time or target != "optical_flow"}
    found: dict[str, list[int]] = {}
    for model_class in MODELS:
        if model_class.needs_fusion and not config.has_fusion:
            continue
        try:
            with torch.device("meta"):
                model = model_class(config)
        except ValueError as error:
            assert "needs the rule of attention" in str(error)  # such a model writes no captions, or nothing else
            continue
        found |= {key: list(value.shape) for key, value in model.state_dict().items()}
    folded: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for key, shape in found.items():
        folded[f"{re.sub(r'(?<=[.])[0-9]+(?=[.])', '#', key)} {shape}"].add(tuple(re.findall(r"[.](\d+)(?=[.])", key)))
    return {key: " ".join(sorted(".".join(numbers) for numbers in all_)) for key, all_ in sorted(folded.items())}


@pytest.mark.parametrize("name", sorted(NAMED_CONFIGURATIONS))
def test_no_weight_changes_its_name_or_shape(name):
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))
    assert keys_and_shapes(name) == frozen[name]

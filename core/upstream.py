"""
Parts of transformers that are not in its documented interface: what each is, since which release, and what breaks
without it. No other module imports such a part. tests/test_upstream.py has a test for each, and for the methods of
transformers that our classes override or call.
"""

import re
import warnings

from transformers import __version__
from transformers.generation import GenerateDecoderOnlyOutput

# Masks in the form of each kernel, from a rule "may query i see key j". Since 4.53; `create_bidirectional_mask` since
# 5.0. Without them each kernel's form of mask would have to be written here.
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, create_bidirectional_mask

# A layer that is computed again in the backward pass, see `checkpoint_activations`. Since 4.53.
from transformers.modeling_layers import GradientCheckpointingLayer

# Attention kernels by name ("sdpa", "flash_attention_2", …), with `get_interface`. Since 4.48. Without it no kernel
# but the eager one can be chosen.
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# The base of Auto classes, and their table from configurations to models. Private; since 4.0. Without them a pipeline
# takes the first class that loads, with a random head.
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping

# The names that the pipeline `video-classification` knows; others it loads all the same, with an error in the log.
# Since 4.26.
from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES

# `PushInProgress`: the Trainer waits for its jobs at the end. Since 4.20. `can_return_tuple`: `return_dict=False` for
# a `forward` that returns a ModelOutput. Since 4.50.
from transformers.utils import PushInProgress, can_return_tuple

# "5GB" -> bytes. Since 4.18.
from transformers.utils.hub import convert_file_size_to_int

# `output_hidden_states` and `output_attentions` for a `forward` that threads neither, by `_can_record_outputs`. Since
# 5.0 in this module. Without it there are no hidden states and attentions.
from transformers.utils.output_capturing import capture_outputs

# Clips of one shape as one tensor, and back in order. Since 4.52. The video processor resizes them together.
from transformers.video_utils import group_videos_by_shape, reorder_videos

__all__ = [
    "ALL_ATTENTION_FUNCTIONS",
    "ALL_MASK_ATTENTION_FUNCTIONS",
    "CACHE_NAME",
    "GradientCheckpointingLayer",
    "PushInProgress",
    "_BaseAutoModelClass",
    "_LazyAutoMapping",
    "can_return_tuple",
    "checkpoint_activations",
    "checkpoints_activations",
    "capture_outputs",
    "convert_file_size_to_int",
    "create_bidirectional_mask",
    "group_videos_by_shape",
    "name_video_classifier",
    "one_cache",
    "reorder_videos",
    "warn_if_untested",
]

TESTED = "5.24"
"""The newest minor release of transformers with which `make compat` passed, see docs/compatibility.md."""

CACHE_NAME = "cache" if "cache" in GenerateDecoderOnlyOutput.__dataclass_fields__ else "past_key_values"
"""What `generate` and the outputs of models call the cache of keys and values: "cache" since 5.24."""


def one_cache(cache, past_key_values):
    """
    The cache that was given under either name.

    Raises:
        ValueError: for both at once.
    """
    if cache is not None and past_key_values is not None:
        raise ValueError("Give `cache` or `past_key_values`, its name before transformers 5.24, not both.")
    return past_key_values if cache is None else cache


def name_video_classifier(model_type: str, name: str) -> None:
    """Lets transformers' pipeline `video-classification` know a model class by its name."""
    MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES[model_type] = name


def checkpoint_activations(model) -> None:
    """Turns on gradient checkpointing; the older of the two methods is deprecated since 5.24 and ends with 6.0."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # since 5.23
    (enable or model.gradient_checkpointing_enable)()


def checkpoints_activations(module) -> bool:
    """Whether a layer of it is checkpointed; the models' own property of that has another name since 5.24."""
    return any(getattr(one, "gradient_checkpointing", False) for one in module.modules())


def warn_if_untested(installed: str = __version__) -> None:
    """Warns if the installed transformers is newer than every release that this package was tested with."""
    release = tuple(int(number) for number in re.findall(r"\d+", installed)[:2])
    if release > tuple(int(number) for number in TESTED.split(".")):
        warnings.warn(
            f"violet was tested with transformers up to {TESTED}, and {installed} is installed. If "
            f"something fails: pip install 'transformers=={TESTED}.*'.",
            stacklevel=3,
        )

"""Models of transformers as parts of ours."""

from collections.abc import Collection
from typing import Any

from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel


def build_part(config: PreTrainedConfig, unused: Collection[str] = ()) -> PreTrainedModel:
    """
    The model of a configuration, freshly initialised.

    Args:
        unused: names of its modules that nothing of ours reads. They are left out: weights that never get a gradient
            stop some ways of training over several processes.
    """
    try:
        model = AutoModel.from_config(config)
    except ValueError:
        if config._attn_implementation != "sdpa":
            raise
        config._attn_implementation = "eager"  # asked for of the whole model, and TimeSformer has no other
        model = AutoModel.from_config(config)
    for name in [name for name, _ in model.named_modules() if name.rpartition(".")[2] in unused]:
        model.set_submodule(name, nn.Identity())
    return model


OF_CHILDREN = (
    *("_no_split_modules", "_skip_keys_device_placement", "_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"),
    *("_keys_to_ignore_on_load_unexpected", "_keys_to_ignore_on_load_missing"),
)
"""What a model of transformers collects from its direct children."""


def pass_on(holder: nn.Module, name: str) -> None:
    """
    Lets a module say of itself what the model says that it holds by that name, so that the model around both knows it:
    what no device may split, which weights are one, ….
    """
    model: Any = holder.get_submodule(name)
    for attribute in OF_CHILDREN:
        setattr(holder, attribute, getattr(model, attribute, None))
    tied = {f"{name}.{target}": f"{name}.{source}" for target, source in model.all_tied_weights_keys.items()}
    holder.all_tied_weights_keys = tied  # type: ignore[assignment]

"""Models of transformers as parts of ours."""

from collections.abc import Collection

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

"""Models of transformers as parts of ours."""

from collections.abc import Collection

from transformers import AutoModel, PreTrainedConfig, PreTrainedModel


def build_part(config: PreTrainedConfig, unused: Collection[str] = ()) -> PreTrainedModel:
    """
    The model of a configuration, freshly initialised.

    Args:
        unused: names of its parts that nothing of ours reads; they keep their values and get no gradient.
    """
    model = AutoModel.from_config(config)
    for name, parameter in model.named_parameters():
        if set(name.split(".")) & set(unused):
            parameter.requires_grad_(False)
    return model

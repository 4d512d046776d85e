"""A language model of transformers, of which the text side gives the words' embeddings and the fusion the rest."""

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ..parts import pass_on
from .text_side import TextSide


class VioletLanguageModelText(TextSide):
    """
    Holds the whole model, with its head: a checkpoint has its weights once, below `language_model.`, and
    `language_model.save_pretrained` gives them by the names of the published ones.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.language_model: PreTrainedModel = build_language_model(config)
        pass_on(self, "language_model")
        self.width = config.text_config.hidden_size

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self.get_input_embeddings()(input_ids)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, table: nn.Module) -> None:
        self.language_model.set_input_embeddings(table)


def build_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """
    The language model of a whole configuration, freshly initialised.

    Raises:
        ValueError: for a `text_config` that is none of a language model.
    """
    asked = f"`fusion_model_config.model_type` is {config.fusion_model_config.model_type!r}"
    if config.text_config is None:
        raise ValueError(f"{asked}, and `text_config` is missing: give the configuration of a language model.")
    try:
        check_language_model(config.text_config)
    except ValueError as error:
        raise ValueError(
            f"{asked}, and `text_config.model_type` {error}: give one of a language model, such as 'llama' or "
            "'qwen3', or leave `fusion_model_config` out."
        ) from error
    # Of the precision of the model around it: published configurations name one, which is that of their file.
    return AutoModelForCausalLM.from_config(config.text_config, dtype=torch.get_default_dtype())


def check_language_model(config: PreTrainedConfig) -> None:
    """
    Raises:
        ValueError: for a configuration of no language model that writes word by word.
    """
    if type(config) not in AutoModelForCausalLM._model_mapping or not hasattr(config, "hidden_size"):
        raise ValueError(f"{config.model_type!r} is none of which AutoModelForCausalLM makes a model of texts")
    if getattr(config, "is_decoder", None) is False or getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{config.model_type!r} lets each word see those behind it")

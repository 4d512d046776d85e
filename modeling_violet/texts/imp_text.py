"""IMP's text side (Akbari et al., 2023, arXiv:2305.06324): a table of words, and its layers."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig

from ...configuration.configuration_violet import _refuse, _require_positive
from ..imp_layers import ImpBackbone, ImpLayersConfig, ImpPreTrainedModel, ImpStream
from ..shared_layers import SharedLayersText


@strict
class ImpTextConfig(ImpLayersConfig):
    r"""
    Configuration of IMP's text side; the size of the vocabulary is the whole model's. Sizes of the layers, `qk_norm`
    and `experts` are as of [`ImpVisionConfig`], and equal to its if they are shared.

    Args:
        max_words (`int`): learned positions; the k-th word has the k-th. Longer texts are refused.
        hidden_size (`int`): width of the states, and of the text's vector, behind the layers.
        shared (`bool`): whether the layers are the vision encoder's (published) or its own.
    """

    model_type = "imp_text"
    base_config_key = "text_config"

    max_words: int = 256
    backbone_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_size: int = 768
    qk_norm: bool = False
    experts: dict[str, Any] | None = None
    shared: bool = True
    layer_norm_eps: float = 1e-6

    def check_length(self, words: int) -> None:
        """
        Raises:
            ValueError: for more than `max_words`.
        """
        if words > self.max_words:
            _refuse(
                "max_words",
                f"texts of {words} words are longer than {self.max_words}: cut them (`max_length` of the processor).",
            )

    def validate_architecture(self):
        super().validate_architecture()
        _require_positive(self, "max_words")


class ImpTextModel(ImpPreTrainedModel):
    """What IMP has for words, around its layers."""

    config_class = ImpTextConfig
    base_model_prefix = "imp_text"
    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, config: ImpTextConfig, vocab_size: int = 32100):
        super().__init__(config)
        self.words = nn.Embedding(vocab_size, config.backbone_size)
        self.stream = ImpStream(config, (config.max_words,))
        self.backbone = None if config.shared else ImpBackbone(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def set_input_embeddings(self, value: nn.Module) -> None:
        assert isinstance(value, nn.Embedding)
        self.words = value

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (batch, X) -> states (batch, X, hidden_size), and each text's vector (batch, hidden_size)"""
        self.config.check_length(input_ids.shape[1])
        # all positions, of which the first are the words': a clip's places are spread over theirs, a text's are not
        grid = (self.config.max_words,)
        return self.compute(self.words(input_ids), grid, attention_mask)


class ImpText(SharedLayersText):
    """IMP's words as VIOLET's text side."""

    model_class = ImpTextModel


AutoConfig.register(ImpTextConfig.model_type, ImpTextConfig, exist_ok=True)

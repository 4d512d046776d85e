"""IMP's text side (Akbari et al., 2023, arXiv:2305.06324): a table of words, and its layers."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from ...configuration.configuration_violet import _refuse, _require_positive
from ..imp_layers import ImpBackbone, ImpLayersConfig, ImpPreTrainedModel, ImpStream
from ..tokens import Tokens
from .text_side import TextSide


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
        return self.stream(self.find_backbone(), self.words(input_ids), grid, attention_mask)


class ImpText(TextSide):
    """IMP's words as VIOLET's text side; a linear layer to the fusion's width if that is another."""

    contextual = True

    def __init__(self, config):
        super().__init__()
        text = config.text_config
        self.model = ImpTextModel._from_config(text, vocab_size=config.vocab_size)
        self._no_split_modules = self.model._no_split_modules  # transformers collects them from direct children
        self.width = config.hidden_size if config.has_fusion else text.hidden_size
        self.pooled_size = text.hidden_size
        same = text.hidden_size == self.width
        self.projection = nn.Identity() if same else nn.Linear(text.hidden_size, self.width)

    def share(self, vision_model: PreTrainedModel) -> None:
        if self.model.config.shared:
            self.model.share(vision_model)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if position_ids is not None:
            raise ValueError("IMP's text side takes no `position_ids`: words stand in their order.")
        return self.encode(input_ids, attention_mask).tokens

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Tokens:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states, pooled = self.model(input_ids, mask)
        return Tokens(self.projection(states), mask, pooled=pooled)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, table: nn.Module) -> None:
        self.model.set_input_embeddings(table)


AutoConfig.register(ImpTextConfig.model_type, ImpTextConfig, exist_ok=True)

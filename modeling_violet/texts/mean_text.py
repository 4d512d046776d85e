"""
BERT's lower layers as a text side, with the mean of the words as the text's vector (Xue et al., 2022, "Advancing
High-Resolution Video-Language Representation with Large-Scale Video Transcriptions", arXiv:2111.10337).
"""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from ...configuration.configuration_violet import _refuse_unknown, _require_positive
from ...core.carried_code import without_code
from ...core.upstream import create_bidirectional_mask
from ..bert_layers import VioletBertLayer
from ..tokens import Tokens
from .bert_embeddings import VioletTextEmbeddings
from .text_side import TextSide


@strict
class HdVilaTextConfig(PreTrainedConfig):
    r"""
    Configuration of HD-VILA's text side. Width, heads, vocabulary and the rest of a BERT layer are those of the whole
    model, [`VioletConfig`].

    Args:
        num_hidden_layers (`int`): layers that read the text by itself: BERT's lower ones, those of the fusion
            (`num_hidden_layers` of the whole model) being the upper ones. The published model has 12 of each.
    """

    model_type = "hd_vila_text"
    base_config_key = "text_config"

    num_hidden_layers: int = 12

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))

    def validate_architecture(self):
        """Refuses contradictions, naming the field."""
        super().validate_architecture()
        _require_positive(self, "num_hidden_layers")


class HdVilaText(TextSide):
    """
    BERT's embedding layer and lower layers. The text's own vector is tanh of a linear layer on the mean of its words'
    states, [CLS] and [SEP] among them.
    """

    contextual = True

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        self.embeddings = VioletTextEmbeddings(config)
        self.layers = nn.ModuleList(
            VioletBertLayer(config, layer) for layer in range(config.text_config.num_hidden_layers)
        )
        # Only the projection reads a text's vector.
        self.pooled_size = None if config.projection_dim is None else config.hidden_size
        self.pooler = None if self.pooled_size is None else nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        states = self.embeddings(input_ids, attention_mask, position_ids)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=attention_mask)
        for layer in self.layers:
            states = layer(states, mask)
        return states

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Tokens:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self(input_ids, mask)
        if self.pooler is None:
            return Tokens(states, mask)
        real = mask.unsqueeze(-1).to(states.dtype)
        return Tokens(states, mask, pooled=self.pooler((states * real).sum(1) / real.sum(1)).tanh())

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, table: nn.Module) -> None:
        self.embeddings.set_input_embeddings(table)


AutoConfig.register(HdVilaTextConfig.model_type, HdVilaTextConfig, exist_ok=True)

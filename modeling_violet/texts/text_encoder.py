"""Text encoders of transformers (BERT with its layers, CLIP's text model, …) as the text side."""

import torch
from torch import nn
from transformers import PreTrainedConfig

from ..parts import build_part
from .text_side import TextSide


class VioletTextEncoder(TextSide):
    """A model of transformers that gives `last_hidden_state` (batch, X, width); a linear layer if widths differ."""

    contextual = True

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        text, width = config.text_config, config.hidden_size
        if text.vocab_size != config.vocab_size:
            raise ValueError(
                f"`vocab_size` is {config.vocab_size}, and `text_config.vocab_size` {text.vocab_size}: one tokenizer "
                "serves both, so they must be equal."
            )
        self.config = config
        self.model = build_part(text, unused=("pooler",))
        self._no_split_modules = self.model._no_split_modules  # transformers collects them from direct children
        self.projection = nn.Linear(text.hidden_size, width) if text.hidden_size != width else nn.Identity()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids)
        return self.projection(states.last_hidden_state)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, table: nn.Module) -> None:
        assert isinstance(table, nn.Embedding)
        self.model.set_input_embeddings(table)
        self.config.text_config.vocab_size = table.num_embeddings

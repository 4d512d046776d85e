"""Text encoders of transformers (BERT with its layers, CLIP's text model, …) as the text side."""

import torch
from torch import nn
from transformers import PreTrainedConfig

from ..parts import build_part
from ..tokens import Tokens
from .text_side import TextSide


class VioletTextEncoder(TextSide):
    """A model of transformers that gives `last_hidden_state` (batch, X, width); a linear layer if widths differ."""

    contextual = True
    WITH_VECTOR = ("clip_text_model",)
    """Whose `pooler_output` is a state of theirs: that of the end of the text. What others have has weights."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        text = config.text_config
        self.width = config.hidden_size if config.has_fusion else text.hidden_size
        if text.vocab_size != config.vocab_size:
            raise ValueError(
                f"`vocab_size` is {config.vocab_size}, and `text_config.vocab_size` {text.vocab_size}: one tokenizer "
                "serves both, so they must be equal."
            )
        self.config = config
        self.model = build_part(text, unused=("pooler",))
        self._no_split_modules = self.model._no_split_modules  # transformers collects them from direct children
        same = text.hidden_size == self.width
        self.projection = nn.Identity() if same else nn.Linear(text.hidden_size, self.width)
        self.pooled_size = text.hidden_size if text.model_type in self.WITH_VECTOR else None

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids)
        return self.projection(states.last_hidden_state)

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Tokens:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self.model(input_ids=input_ids, attention_mask=mask)
        pooled = None if self.pooled_size is None else states.pooler_output
        return Tokens(self.projection(states.last_hidden_state), mask, pooled=pooled)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, table: nn.Module) -> None:
        assert isinstance(table, nn.Embedding)
        self.model.set_input_embeddings(table)
        self.config.text_config.vocab_size = table.num_embeddings

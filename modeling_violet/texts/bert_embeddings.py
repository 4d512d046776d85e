"""BERT's embedding layer: VIOLET's own text side."""

import torch
from torch import nn

from ..dropout import VioletDropout
from ..offloading import table_rows
from .text_side import TextSide


class VioletTextEmbeddings(TextSide):
    """BERT's embedding layer: word + position + type, LayerNorm, dropout."""

    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = VioletDropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `TextSide.forward`; every token is of type 0."""
        length, most = input_ids.shape[1], self.position_embeddings.num_embeddings
        if position_ids is None:
            if length > most:
                raise ValueError(
                    f"A text of {length} tokens is longer than `max_position_embeddings` {most}: shorten it."
                )
            positions = table_rows(self.position_embeddings, 0, length)
        else:
            positions = self.position_embeddings(position_ids)
        embeddings = self.word_embeddings(input_ids) + positions
        return self.dropout(self.norm(embeddings + table_rows(self.token_type_embeddings, 0, 1)))

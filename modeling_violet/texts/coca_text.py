"""
CoCa's unimodal half (Yu et al., 2022, arXiv:2205.01917): a causal tower over the words with CLS behind them, whose
state is the text's vector.

Letters in this file: B batch, X words with their padding, C the longest text (`max_position_embeddings`), W width.
"""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, Cache, PreTrainedConfig
from transformers import initialization as init

from ...configuration.configuration_violet import _refuse, _refuse_unknown, _require_positive
from ...core.carried_code import without_code
from ..attention import kernel_mask
from ..coca_layers import CocaBlock
from ..offloading import read_weights, table_rows
from ..tokens import Tokens
from .text_side import TextSide

CLS_MASKS = ("corrected", "legacy")


@strict
class CocaTextConfig(PreTrainedConfig):
    r"""
    Configuration of CoCa's unimodal half. Width, heads, vocabulary and the length of a text are those of the whole
    model, [`VioletConfig`].

    Args:
        num_hidden_layers (`int`): its blocks.
        cls_mask (`str`): what CLS sees: `"corrected"`, the words and itself; `"legacy"`, as the published weights were
            trained: the words and the first place of padding behind them, and itself only if there is no padding
            because the text has as many words as there are places. Words never see CLS.
        padding_word (`int`): the word whose embedding stands in that place of padding.
    """

    model_type = "coca_text"
    base_config_key = "text_config"

    num_hidden_layers: int = 12
    cls_mask: str = "corrected"
    padding_word: int = 0

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))

    def validate_architecture(self):
        """Refuses what is unknown, naming the field."""
        super().validate_architecture()
        _require_positive(self, "num_hidden_layers")
        if self.cls_mask not in CLS_MASKS:
            _refuse("cls_mask", f"{self.cls_mask!r} is unknown; known are {', '.join(CLS_MASKS)}.")
        if self.padding_word < 0:
            _refuse("padding_word", f"must be 0 or more, got {self.padding_word}.")


class CocaText(TextSide):
    """
    Words with their places through causal blocks, and one CLS behind them, which always has the last place: so neither
    words nor the text's vector depend on how far a text is padded. Padding is what the mask says, never a word's id.
    """

    contextual = True
    causal = True

    def __init__(self, config):
        super().__init__()
        own, width = config.text_config, config.hidden_size
        self.config, self.cls_mask, self.padding_word = config, own.cls_mask, own.padding_word
        if self.padding_word >= config.vocab_size:
            _refuse("padding_word", f"{self.padding_word} is none of the words of `vocab_size` {config.vocab_size}.")
        self.pooled_size = width
        self._no_split_modules = ["CocaBlock"]  # transformers collects them from direct children
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings + 1, width)
        self.cls_embedding = nn.Parameter(torch.empty(width))
        dropouts = (config.hidden_dropout_prob, config.attention_probs_dropout_prob)
        self.layers = nn.ModuleList(
            CocaBlock(config, layer, own.num_hidden_layers, *dropouts) for layer in range(own.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def start_weights(self) -> None:
        """As published."""
        init.normal_(self.word_embeddings.weight, std=0.02)
        init.normal_(self.position_embeddings.weight, std=0.01)
        init.normal_(self.cls_embedding, std=0.01)

    def vector_parameters(self) -> list[nn.Parameter]:
        return [self.cls_embedding, *self.norm.parameters()]

    def embed(self, input_ids: torch.Tensor, position_ids: torch.Tensor | None) -> torch.Tensor:
        """(B, X) -> (B, X, W), without CLS"""
        most = self.position_embeddings.num_embeddings - 1
        if position_ids is not None:
            return self.word_embeddings(input_ids) + self.position_embeddings(position_ids)
        if input_ids.shape[1] > most:
            raise ValueError(
                f"A text of {input_ids.shape[1]} tokens is longer than `max_position_embeddings` {most}: shorten it."
            )
        return self.word_embeddings(input_ids) + table_rows(self.position_embeddings, 0, input_ids.shape[1])

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        first_layer: int = 0,
    ) -> torch.Tensor:
        """See `TextSide.forward`; words only."""
        past = 0 if cache is None else cache.get_seq_length(first_layer)
        states = self.embed(input_ids, position_ids)
        if attention_mask is None:
            attention_mask = input_ids.new_ones(len(input_ids), past + input_ids.shape[1])
        real = attention_mask.bool()

        def visible(batch, head, query, key):
            return (key <= query) & (real[batch, key] | ~real[batch, query])

        mask = kernel_mask(self.config, states, real.shape[1], visible)
        for layer in self.layers:
            states = layer(states, mask, cache=cache, first_layer=first_layer)
        return states

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Tokens:
        """Texts (B, X), padded on the right, with their mask: the words' states, and CLS's behind the last norm."""
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        words, most = input_ids.shape[1], self.position_embeddings.num_embeddings - 1
        own = torch.ones_like(real[:, :1])
        seen = torch.cat([real, own], dim=1)  # what CLS sees: (B, words, CLS)
        if self.cls_mask == "legacy":
            if words < most:  # so that every text that is shorter than it may be has padding behind it
                input_ids, real = nn.functional.pad(input_ids, (0, 1)), nn.functional.pad(real, (0, 1))
            input_ids = torch.where(real.bool(), input_ids, self.padding_word)
            full = real.sum(1, keepdim=True) == real.shape[1]
            seen = torch.cat([own, real[:, :-1], full.to(real.dtype)], dim=1)
        states = self.embed(input_ids, None)
        cls = read_weights(self, lambda: self.cls_embedding) + table_rows(self.position_embeddings, -1, None)
        cls = cls.expand(len(states), 1, -1)
        states = torch.cat([states, cls], dim=1)
        real, seen, last = torch.cat([real, own], dim=1).bool(), seen.bool(), states.shape[1] - 1

        def visible(batch, head, query, key):
            of_words = (key <= query) & (real[batch, key] | ~real[batch, query])
            of_cls = query == last  # not by `torch.where`, which ONNX Runtime lacks for truth values
            return (of_cls & seen[batch, key]) | (~of_cls & of_words)

        mask = kernel_mask(self.config, states, states.shape[1], visible)
        for layer in self.layers:
            states = layer(states, mask)
        given = torch.ones_like(states[:, :words, 0], dtype=torch.long) if attention_mask is None else attention_mask
        return Tokens(states[:, :words], given, pooled=self.norm(states[:, -1]))


AutoConfig.register(CocaTextConfig.model_type, CocaTextConfig, exist_ok=True)

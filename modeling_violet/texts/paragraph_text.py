"""
Paragraphs of sentences: BERT's lower layers read each sentence by itself, its middle ones all of them (Sun et al.,
2022, "Long-Form Video-Language Pre-Training with Multimodal Temporal Contrastive Learning", arXiv:2210.06031, section
3.3).

Letters in this file: B texts, M sentences of each, L places of a sentence, C width.
"""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from ...configuration.configuration_violet import _refuse, _refuse_unknown, _require_positive
from ...core.carried_code import without_code
from ..bert_layers import VioletBertLayer
from ..dropout import VioletDropout
from ..offloading import table_rows
from ..tokens import Tokens
from .bert_embeddings import VioletTextEmbeddings
from .text_side import TextSide

PARAGRAPH_TOKENS = ("real_sentences", "all_sentences")


@strict
class ParagraphTextConfig(PreTrainedConfig):
    r"""
    Configuration of the paragraph text side. Width, heads, vocabulary and the rest of a BERT layer are those of the
    whole model, [`VioletConfig`]. The defaults are LF-VILA's.

    Args:
        num_sentence_layers (`int`): layers that read each sentence by itself.
        num_paragraph_layers (`int`): layers behind them that read the whole paragraph.
        sentence_length (`int`): places that a sentence takes, padding included. It is a part of the model: a place in
            the paragraph is counted over padding too.
        max_sentences (`int`): rows of the table of sentences.
        max_places (`int`): rows of the table of places in a paragraph.
        paragraph_token (`str`): what the paragraph's token starts as, the mean over the first states of
            `"real_sentences"`, or of `"all_sentences"`, those that are all padding too (the published models).
        masked_key (`float`, *optional*): what is added to the logits of padding; the lowest number if it is not given.
            It matters for sentences that are all padding, and by them only with `"all_sentences"`. Old releases of
            transformers had −10000.
    """

    model_type = "paragraph"
    base_config_key = "text_config"

    num_sentence_layers: int = 8
    num_paragraph_layers: int = 4
    sentence_length: int = 50
    max_sentences: int = 8
    max_places: int = 512
    paragraph_token: str = "real_sentences"
    masked_key: float | int | None = None

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))

    def validate_architecture(self):
        """Refuses contradictions, naming the field."""
        super().validate_architecture()
        _require_positive(
            self, "num_sentence_layers", "num_paragraph_layers", "sentence_length", "max_sentences", "max_places"
        )
        if self.paragraph_token not in PARAGRAPH_TOKENS:
            _refuse(
                "paragraph_token", f"{self.paragraph_token!r} is unknown; known are {', '.join(PARAGRAPH_TOKENS)}."
            )
        if self.sentence_length + 1 > self.max_places:
            _refuse(
                "sentence_length",
                f"a sentence of {self.sentence_length} places and the paragraph's token do not fit into `max_places` "
                f"{self.max_places}.",
            )


class LfVilaPlaces(nn.Module):
    """Adds each state's place in the paragraph and its sentence's number; LayerNorm, dropout."""

    def __init__(self, config):
        super().__init__()
        text, width = config.text_config, config.hidden_size
        self.position_embeddings = nn.Embedding(text.max_places, width)
        self.segment_embeddings = nn.Embedding(text.max_sentences, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = VioletDropout(config.hidden_dropout_prob)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(B, M, L, C) -> the same shape"""
        sentences, length = states.shape[1:3]
        places = table_rows(self.position_embeddings, 0, sentences * length).unflatten(0, (sentences, length))
        segments = table_rows(self.segment_embeddings, 0, sentences).unsqueeze(1)  # (M, 1, C)
        return self.dropout(self.norm(states + places + segments))


class LfVilaParagraphText(TextSide):
    """
    A paragraph as [a token of all of it; the states of its sentences]. `Tokens.pooled` holds the paragraph's state and
    the first state of each sentence before they met, one behind the other.
    """

    contextual = True

    def __init__(self, config):
        super().__init__()
        text = config.text_config
        if config.fusion_norm != "post":
            raise ValueError(
                f"`text_config.model_type` {text.model_type!r} is built of BERT's layers, whose norms stand behind: "
                f"`fusion_norm` must be 'post', got {config.fusion_norm!r}."
            )
        if text.sentence_length > config.max_position_embeddings:
            raise ValueError(
                f"`text_config.sentence_length` {text.sentence_length} is above `max_position_embeddings` "
                f"{config.max_position_embeddings}, the places in a sentence."
            )
        self.config = text
        self.width = config.hidden_size
        self.embeddings = VioletTextEmbeddings(config)
        self.sentence_layers = nn.ModuleList(VioletBertLayer(config, i) for i in range(text.num_sentence_layers))
        self.places = LfVilaPlaces(config)
        self.paragraph_layers = nn.ModuleList(VioletBertLayer(config, i) for i in range(text.num_paragraph_layers))
        self._no_split_modules = ["VioletBertLayer", "VioletTextEmbeddings"]

    def split(self, tokens: torch.Tensor) -> torch.Tensor:
        """
        (B, M, L) as it is; (B, M * L) -> (B, M, L); a text no longer than a sentence is one: (B, X) -> (B, 1, X).

        Raises:
            ValueError: for another length, or more sentences than there are places or numbers for.
        """
        length = self.config.sentence_length
        if tokens.dim() == 2:
            places = tokens.shape[1]
            if places > length and places % length:
                raise ValueError(
                    f"A paragraph has sentences of `sentence_length` {length} places each, padding included; got "
                    f"{places} places, which is no multiple of it."
                )
            tokens = tokens.unsqueeze(1) if places <= length else tokens.unflatten(1, (-1, length))
        sentences = tokens.shape[1]
        if sentences > 1 and tokens.shape[2] != length:
            raise ValueError(
                f"Each sentence takes `sentence_length` {length} places, padding included; got {tokens.shape[2]}: the "
                "model counts places over padding."
            )
        if sentences > self.config.max_sentences:
            raise ValueError(
                f"{sentences} sentences are more than `max_sentences` {self.config.max_sentences}: join the shortest "
                "neighbours."
            )
        if sentences * tokens.shape[2] + 1 > self.config.max_places:
            raise ValueError(
                f"{sentences} sentences of {tokens.shape[2]} places (`sentence_length`) and the paragraph's token are "
                f"more than `max_places` {self.config.max_places}."
            )
        return tokens

    def key_mask(self, mask: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """(B, keys), 1 for a token -> (B, 1, 1, keys), added to the logits."""
        lowest = torch.finfo(states.dtype).min if self.config.masked_key is None else self.config.masked_key
        return ((mask == 0).to(states.dtype) * lowest)[:, None, None]

    def sentence_states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Ids and mask (B, M, L) -> (B, M, L, C), each sentence read by itself."""
        shape = ids.shape[:2]
        states = self.embeddings(ids.flatten(0, 1))  # (B * M, L, C)
        keys = self.key_mask(mask.flatten(0, 1), states)
        for layer in self.sentence_layers:
            states = layer(states, keys)
        return states.unflatten(0, shape)

    def paragraph_states(self, sentences: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Sentence states (B, M, L, C) and mask (B, M, L) -> (B, 1 + M * L, C), the paragraph's token first."""
        placed = self.places(sentences)
        first = placed[:, :, 0]  # (B, M, C)
        real = mask.any(-1) if self.config.paragraph_token == "real_sentences" else torch.ones_like(mask[..., 0])
        share = real.to(first.dtype) / real.sum(1, keepdim=True).clamp(min=1)
        token = (first * share.unsqueeze(-1)).sum(1, keepdim=True)  # (B, 1, C)
        states = torch.cat([token, placed.flatten(1, 2)], dim=1)
        keys = self.key_mask(with_token(mask), states)
        for layer in self.paragraph_layers:
            states = layer(states, keys)
        return states

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Tokens:
        """
        Paragraphs, sentence by sentence, (B, M, L) or (B, M * L), with their mask. A sentence that is
        all padding is none.

        Raises:
            ValueError: see `split`.
        """
        ids = self.split(input_ids)
        mask = torch.ones_like(ids) if attention_mask is None else attention_mask.reshape(ids.shape)
        sentences = self.sentence_states(ids, mask)
        states = self.paragraph_states(sentences, mask)
        vectors = torch.cat([states[:, :1], sentences[:, :, 0]], dim=1)  # (B, 1 + M, C)
        return Tokens(states, with_token(mask), pooled=vectors.flatten(1))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `TextSide.forward`; the paragraph's token is in front: (B, 1 + M * L, C)."""
        if position_ids is not None:
            raise ValueError("A paragraph's places are counted sentence by sentence: leave `position_ids` out.")
        return self.encode(input_ids, attention_mask).tokens

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.get_input_embeddings()

    def set_input_embeddings(self, table: nn.Module) -> None:
        self.embeddings.set_input_embeddings(table)


def with_token(mask: torch.Tensor) -> torch.Tensor:
    """(B, M, L) -> (B, 1 + M * L), with a 1 for the paragraph's token in front"""
    return nn.functional.pad(mask.flatten(1), (1, 0), value=1)


AutoConfig.register(ParagraphTextConfig.model_type, ParagraphTextConfig, exist_ok=True)

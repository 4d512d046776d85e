"""The table of text sides: what turns words into the states that enter the fusion."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...core.registry import Registry
from ..tokens import Tokens


class TextSide(nn.Module):
    """
    What VIOLET asks of a text side. It is built from the whole model's configuration, whose `text_config` holds its
    own fields.

    Attributes:
        contextual: whether a word's state depends on the other words. Then a text cannot be written word by word.
        causal: whether it depends on the words before it only, so that a text can. `forward` then also takes `cache`,
            to which the new words' keys and values are added, and `first_layer`, the place of its first layer there.
        pooled_size: width of the text's own vector, `Tokens.pooled` of `encode`; None if there is none.
        width: of its states; None if it is the model's `hidden_size`.
        word_embeddings: the table of words, for those sides that have it as a part of their own.
    """

    contextual = False
    causal = False
    pooled_size: int | None = None
    width: int | None = None
    word_embeddings: nn.Embedding

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            input_ids: (batch, X).
            attention_mask: (batch, X), 1 for a token and 0 for padding; all 1 if it is not given.
            position_ids: (batch, X), each token's place in its text; 0, 1, 2, … if it is not given.

        Returns:
            (batch, X, width)
        """
        raise NotImplementedError

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Tokens:
        """Texts (batch, X) with their mask, as the tokens that enter the fusion."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return Tokens(self(input_ids, mask), mask)

    def share(self, vision_model: PreTrainedModel) -> None:
        """Takes what it has in common with the vision encoder's model, if its configuration says so: nothing here."""

    def vector_parameters(self) -> list[nn.Parameter]:
        """Its parameters that only the text's own vector reads."""
        return []

    def get_input_embeddings(self) -> nn.Module:
        """The table of words."""
        return self.word_embeddings

    def set_input_embeddings(self, table: nn.Module) -> None:
        """Takes another table of words."""
        self.word_embeddings = table  # type: ignore[assignment]


TEXTS: Registry[type[TextSide]] = Registry(
    "text side",
    __package__,
    {
        "none": "no_text:VioletNoText",
        "coca_text": "coca_text:CocaText",
        "hd_vila_text": "mean_text:HdVilaText",
        "language_model": "language_model_text:VioletLanguageModelText",
        "paragraph": "paragraph_text:LfVilaParagraphText",
        "text_encoder": "text_encoder:VioletTextEncoder",
        "vatt_text": "vatt_text:VattText",
        "imp_text": "imp_text:ImpText",
    },
    config_keys=("text_config.model_type", "fusion_model_config.text_side"),
    default="text_encoder",
)
"""
By the text configuration's `model_type`; without a configuration it is BERT's embedding layer, from VIOLET's own
fields. A text encoder of transformers needs no line: it is a `VioletTextEncoder`. A fusion that works with one text
side only names it in its configuration, `text_side`; the text configuration's `model_type` is then that side's matter.
"""


def build_text_side(config: PreTrainedConfig) -> TextSide:
    """The text side of a configuration."""
    from .bert_embeddings import VioletTextEmbeddings

    own: Any = config.text_config
    of_fusion = getattr(config.fusion_model_config, "text_side", None)
    if of_fusion is not None:
        return TEXTS.find(of_fusion)(config)
    return VioletTextEmbeddings(config) if own is None else TEXTS.find(own.model_type)(config)

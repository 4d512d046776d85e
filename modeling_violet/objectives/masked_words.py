"""Masked words: beside the video under the bidirectional rule (`mlm`), and written left to right (`smtm`)."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..losses import masked_accuracy, masked_cross_entropy
from .objective import FusedObjective, Outcome
from .passes import Passes


class MaskedWords(FusedObjective):
    """Predicts the masked words of a video's own text from the words on both sides."""

    needs = ("labels",)

    def trained(self, model: Any) -> Iterator[nn.Parameter]:
        return model.mlm_head.parameters()

    def loss(self, passes: Passes) -> Outcome:
        logits = passes.model.mlm_head(passes.text_states)
        return Outcome(*word_loss(logits, passes), {"mlm_logits": logits})


class WrittenWords(MaskedWords):
    """Predicts the same words from those before them: a pass of its own, under the sequence-to-sequence rule."""

    rule = "sequence_to_sequence"

    def is_asked_for(self, inputs: Mapping[str, Any]) -> bool:
        return False  # a second pass is computed only if the objective is named

    def loss(self, passes: Passes) -> Outcome:
        return Outcome(*word_loss(passes.model.mlm_head(passes.words_of(passes.written)), passes))


def word_loss(logits: torch.Tensor, passes: Passes) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, X, vocabulary) -> the cross-entropy of the masked words, and the share that is right."""
    labels = passes.inputs["labels"]
    return masked_cross_entropy(logits, labels), masked_accuracy(logits, labels)

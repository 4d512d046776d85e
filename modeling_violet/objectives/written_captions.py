"""Captions written word by word (`caption`): each word of a video's own text from those before it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ...configuration.configuration_violet import VioletConfig
from ..losses import IGNORE_INDEX, masked_accuracy, masked_cross_entropy
from .objective import Objective, Outcome
from .passes import Passes


class Captions(Objective):
    """
    Cross-entropy of each word behind the first, from the state of the word before it, averaged over all words of the
    batch that are no padding (Yu et al., 2022, arXiv:2205.01917, eq. 2); 0 if there are none. The texts are those that
    contrast compares: each half of the decoder is passed once for both.
    """

    rule = "sequence_to_sequence"

    def check(self, config: VioletConfig) -> None:
        if not config.has_fusion:
            raise ValueError(
                f"`objectives`: {self.name!r} needs a fusion, and `fusion_model_config.model_type` is 'none'."
            )
        if not config.next_word_prediction:
            raise ValueError(
                f"`objectives`: {self.name!r} learns each word from the one before it, and `next_word_prediction` is "
                "false: set it to true."
            )

    def trained(self, model: Any) -> Iterator[nn.Parameter]:
        yield from model.mlm_head.parameters()
        if not model.violet.has_fusion:  # nothing else passes a fusion that only writes
            yield from model.violet.fusion.parameters()

    def loss(self, passes: Passes) -> Outcome:
        text = passes.text
        states = passes.violet(
            video_tokens=passes.video,
            inputs_embeds=text.tokens,
            attention_mask=text.mask,
            attention_rule=self.rule,
        ).text_hidden_state
        words = torch.where(passes.attention_mask.bool(), passes.words, IGNORE_INDEX)
        logits = passes.model.mlm_head(states)
        predicted, wanted = logits[:, :-1], words[:, 1:]
        accuracy = masked_accuracy(predicted, wanted)
        return Outcome(
            masked_cross_entropy(predicted, wanted, passes.model.config.label_smoothing),
            accuracy,
            {"predictions": {self.name: logits}},
        )

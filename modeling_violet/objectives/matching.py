"""Video-text matching (`vtm`): a video's own text against other texts, each fused with the video."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..losses import IGNORE_INDEX, masked_accuracy, masked_cross_entropy
from .objective import FusedObjective, Outcome
from .passes import Passes


class Matching(FusedObjective):
    """A choice among texts by the match head's score, divided by the configuration's `match_temperature`."""

    needs = ("negative_index",)
    takes = ("num_hard_negatives",)

    def trained(self, model: Any) -> Iterator[nn.Parameter]:
        return model.match_head.parameters()

    def loss(self, passes: Passes) -> Outcome:
        scores, negatives = passes.match_scores(), passes.negatives
        assert negatives is not None  # it needs them
        own, other = scores[: len(negatives)], scores[len(negatives) :].view(negatives.shape)
        logits = torch.cat([own[:, None], other], dim=1)  # (batch, 1 + K)
        absent = torch.cat([torch.zeros_like(negatives[:, :1]), negatives], dim=1) < 0
        scaled = (logits.float() / passes.model.config.match_temperature).masked_fill(absent, float("-inf"))
        alone = absent[:, 1:].all(dim=1)  # nothing to tell the text from: no loss, no accuracy
        target = torch.zeros(len(logits), dtype=torch.long, device=logits.device).masked_fill(alone, IGNORE_INDEX)
        loss, accuracy = masked_cross_entropy(scaled, target), masked_accuracy(scaled, target)
        return Outcome(loss, accuracy, {"match_logits": logits})

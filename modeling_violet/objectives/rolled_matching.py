"""
Matching of rolled videos (`rolled_vtm`) and the masked words of the pairs that are left (`rolled_mlm`): the second
stage of LF-VILA (Sun et al., 2022, arXiv:2210.06031). Both read one pass, in which half of the texts stand beside
another video.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..losses import IGNORE_INDEX, masked_accuracy, masked_cross_entropy
from .objective import FusedObjective, Outcome
from .passes import Passes

ROLLED = "rolled_video_index", "rolled_match"


def roll_pairs(rows: int, corrected: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Which video each of `rows` texts is shown with, and whether it is a match, (rows,) each: the first half of the
    videos are rolled by one among themselves, the others stay.

    Args:
        corrected: leave all as they are if half of the rows are fewer than two. As published such a row keeps its own
            video and is called no match.
    """
    half = rows // 2
    index = torch.arange(rows)
    index[:half] = index[:half].roll(1)
    match = torch.arange(rows) >= half
    return index, match | (index == torch.arange(rows)) if corrected else match


def matching_loss(scores: torch.Tensor, match: torch.Tensor) -> torch.Tensor:
    """
    The mean binary cross-entropy of match scores (rows,); of a head of two classes the score is the difference of
    their logits, and this is the cross-entropy over the two.
    """
    return nn.functional.binary_cross_entropy_with_logits(scores.float(), match.float())


class RolledMatching(FusedObjective):
    """
    Whether a text's video is its own, by the match head's score, without a temperature.

    The published weight is 10, beside 1 of `rolled_mlm`. Videos are rolled within each group of `group_size` rows, so
    that processes that share a step see what one would: LF-VILA's group is the whole batch of a GPU.
    """

    needs: tuple[str, ...] = ROLLED

    def trained(self, model: Any) -> Iterator[nn.Parameter]:
        return model.match_head.parameters()

    def is_asked_for(self, inputs: Mapping[str, Any]) -> bool:
        return False  # a second pass through the fusion is computed only if the objective is named

    def loss(self, passes: Passes) -> Outcome:
        scores = passes.rolled.read_by(passes.model.match_head)[:, 0]
        match = passes.inputs["rolled_match"].bool()
        right = ((scores > 0) == match).float().mean()
        return Outcome(matching_loss(scores, match), right, {"predictions": {self.name: scores}})


class RolledWords(RolledMatching):
    """The masked words of the texts beside their own video; 0 if there is none."""

    needs = (*ROLLED, "labels")

    def trained(self, model: Any) -> Iterator[nn.Parameter]:
        return model.mlm_head.parameters()

    def loss(self, passes: Passes) -> Outcome:
        logits = passes.model.mlm_head(passes.words_of(passes.rolled))
        wrong = ~passes.inputs["rolled_match"].bool()
        labels = passes.inputs["labels"].masked_fill(wrong[:, None], IGNORE_INDEX)
        return Outcome(masked_cross_entropy(logits, labels), masked_accuracy(logits, labels))

"""Recall@k and rank metrics of a text-by-video score matrix."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from .measures import Measure, mean, median
from .metrics import Metric, Score, measures_of

RECALL_AT = (1, 5, 10)


def dual_softmax(scores: torch.Tensor) -> torch.Tensor:
    """
    Scores (texts, videos) in which a pair is scored by both sides' preference: the logarithm of the product of the
    softmax over the videos and the softmax over the texts, after Cheng et al., 2021 (CAMoE, arXiv:2109.04290). A
    text's order then depends on all other texts that are searched for, so it is a measure of its own.
    """
    scores = scores.double()
    return scores.log_softmax(0) + scores.log_softmax(1)


def retrieval_metrics(
    scores: torch.Tensor, video_of_text: torch.Tensor | Sequence[int], use_dual_softmax: bool = False
) -> dict[str, float]:
    """The values of `retrieval_measures`."""
    found = retrieval_measures(scores, video_of_text, use_dual_softmax)
    return {name: measure.value() for name, measure in found.items()}


def retrieval_measures(
    scores: torch.Tensor, video_of_text: torch.Tensor | Sequence[int], use_dual_softmax: bool = False
) -> dict[str, Measure]:
    """
    How well each text finds its video (`text_to_video_…`) and each video its text (`video_to_text_…`):
    `…r1`, `…r5`, `…r10`, the share of queries whose target is among the first 1, 5, 10; `…median_rank`, `…mean_rank`,
    from 1. A video with several texts has found one when it has found the best placed of them; videos without a text
    are candidates only.

    Equal scores have no order: counted is what a random order of them gives on average, so that a model that scores
    everything alike is at chance.

    Args:
        scores: (texts, videos), higher for a better fit.
        video_of_text: (texts,), the number of each text's video.
        use_dual_softmax: order by `dual_softmax` instead; each name then starts with `dual_softmax_`.

    Raises:
        ValueError: for numbers that do not fit, or scores that are NaN.
    """
    scores = scores.detach().cpu()
    video_of_text = torch.as_tensor(video_of_text).cpu().long()
    if scores.dim() != 2 or not scores.numel() or video_of_text.shape != scores.shape[:1]:
        raise ValueError(
            f"Scores of shape {tuple(scores.shape)} and {tuple(video_of_text.shape)} numbers of videos: "
            "(texts, videos) and (texts,) are needed, with one of either at least."
        )
    if scores.isnan().any():
        raise ValueError(f"{int(scores.isnan().sum())} of {scores.numel()} scores are NaN: they have no order.")
    if video_of_text.min() < 0 or video_of_text.max() >= scores.shape[1]:
        raise ValueError(f"`video_of_text` has numbers outside of 0 to {scores.shape[1] - 1}.")
    if use_dual_softmax:
        scores = dual_softmax(scores)
    targets = torch.zeros(scores.shape, dtype=torch.bool)
    targets[torch.arange(len(scores)), video_of_text] = True
    asked = targets.any(0)
    ways = {
        "text_to_video": (scores, targets, video_of_text.numpy()),
        "video_to_text": (scores.t()[asked], targets.t()[asked], None),
    }
    measures: dict[str, Measure] = {}
    for way, (of_queries, theirs, units) in ways.items():
        found = query_ranks(of_queries, theirs)
        prefix = f"dual_softmax_{way}" if use_dual_softmax else way
        measures |= {f"{prefix}_{name}": one for name, one in measures_of("ranks", found, units).items()}
    return measures


def query_ranks(scores: torch.Tensor, targets: torch.Tensor, at_a_time: int = 2048) -> dict[str, np.ndarray]:
    """
    For each query the `rank` of its best placed target, from 1, and the probability that it is among the first 1, 5
    and 10 (`r1` …), in a random order of equal scores.

    Args:
        scores: (queries, candidates).
        targets: (queries, candidates), True for what is looked for, at least one a query.
    """
    parts = [
        _query_ranks(some.double(), theirs)
        for some, theirs in zip(scores.split(at_a_time), targets.split(at_a_time), strict=True)
    ]
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def _query_ranks(scores: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    best = scores.masked_fill(~targets, float("-inf")).amax(1, keepdim=True)
    ahead = (scores > best).sum(1).double()
    level = (scores == best) & ~targets
    rivals = level.sum(1).double()
    found = ((scores == best) & targets).sum(1).double()  # the best placed targets, which stand among the rivals
    # In a random order of r rivals and f targets the first target stands at (r + f + 1) / (f + 1) on average.
    ranks = {"rank": ahead + (rivals + found + 1) / (found + 1)}
    for count in RECALL_AT:
        missed = torch.ones_like(ahead)  # the probability that none of the first `count` places holds a target
        for place in range(count):
            rivals_left = (rivals - (place - ahead)).clamp(min=0)
            missed = torch.where(place >= ahead, missed * rivals_left / (rivals_left + found), missed)
        ranks[f"r{count}"] = 1 - missed
    return ranks


def _of_queries(column: str, statistic: Callable[..., np.ndarray], found: dict[str, np.ndarray]) -> Score:
    return Score(Measure(found[column], statistic))


R1, R5, R10 = (Metric("ranks", partial(_of_queries, f"r{count}", mean), is_share=True) for count in RECALL_AT)
MEDIAN_RANK = Metric("ranks", partial(_of_queries, "rank", median))
MEAN_RANK = Metric("ranks", partial(_of_queries, "rank", mean))

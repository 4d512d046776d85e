"""Losses: pure functions, computed in float32. What is averaged over stands in each docstring."""

import torch
import torch.distributed as dist
from torch import nn

IGNORE_INDEX = -100


def average(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """
    `total / count`, 0 where the count is 0. Where several processes train together, the count is the mean of theirs:
    the average over processes (which data-parallel training takes of the gradients) is then that of the whole batch,
    however unevenly its valid places are spread.

    Args:
        total: (), a sum over valid places.
        count: (), their number.
    """
    count = count.to(torch.float32)
    if dist.is_available() and dist.is_initialized():
        count = count.clone()
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return total / torch.where(count > 0, count, 1.0)


def masked_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Cross-entropy, averaged over the labels that are not `IGNORE_INDEX` (see `average`); 0 where all are.

    Args:
        logits: (..., classes).
        labels: (...), the same leading shape.
    """
    total = nn.functional.cross_entropy(
        logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    return average(total, (labels != IGNORE_INDEX).sum())


def contrastive_loss(
    video_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    positives: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Symmetric InfoNCE (Radford et al., 2021, arXiv:2103.00020), averaged over rows and over both directions. A row with
    several positives takes the logarithm of their summed probability (Miech et al., 2020, arXiv:1912.06430, eq. 1), so
    that they do not repel one another.

    Args:
        video_embeds, text_embeds: (batch, width), of length 1; row i of one belongs to row i of the other.
        logit_scale: logarithm of the inverse temperature; the scale is held at 100 or less.
        positives: (batch, batch), True where a video (row) and a text (column) belong together, the diagonal included;
            the diagonal alone where it is not given.
    """
    scores = video_embeds.float() @ text_embeds.float().t() * logit_scale.float().exp().clamp(max=100)
    if positives is None:
        positives = torch.eye(len(scores), dtype=torch.bool, device=scores.device)

    def one_way(scores: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        log_probability = scores.log_softmax(dim=-1)
        return -log_probability.masked_fill(~positives, float("-inf")).logsumexp(dim=-1).mean()

    return (one_way(scores, positives) + one_way(scores.t(), positives.t())) / 2

"""Losses: pure functions, computed in float32. What is averaged over stands in each docstring."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
import torch.distributed.nn.functional
from torch import nn

IGNORE_INDEX = -100


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """The same numbers in float32; float64 stays, so that what is proved in it is computed in it."""
    return values if values.dtype == torch.float64 else values.float()


def average(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """
    `total / count`, 0 if the count is 0. If several processes train together, the count is the mean of theirs:
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


def check_labels(labels: torch.Tensor, classes: int, ignored: bool = True) -> None:
    """
    Refuses labels outside 0 … `classes` − 1, except `IGNORE_INDEX` if places may be `ignored`. Only CPU tensors are
    checked (checking a GPU tensor would force a synchronisation); nothing is checked under torch.compile.

    Raises:
        ValueError: naming the first such label and the limit.
    """
    if torch.compiler.is_compiling() or not labels.is_cpu:
        return
    outside = (labels < 0) | (labels >= classes)
    if ignored:
        outside &= labels != IGNORE_INDEX
    if outside.any():
        known = f"from 0 to {classes - 1}" + (f", or {IGNORE_INDEX} for none" if ignored else "")
        raise ValueError(f"The label {labels[outside][0].item()} is outside the {classes} classes: labels go {known}.")


def masked_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """
    Cross-entropy, averaged over the labels that are not `IGNORE_INDEX` (see `average`); 0 if all are.

    Args:
        logits: (..., classes); a class that cannot be chosen has -inf.
        labels: (...), the same leading shape.
        label_smoothing: the part of each target that is spread over all classes that can be chosen.

    Raises:
        ValueError: for a label outside the classes, see `check_labels`.
    """
    check_labels(labels, logits.shape[-1])
    flat = logits.float().flatten(0, -2)
    valid = labels.flatten() != IGNORE_INDEX
    total = nn.functional.cross_entropy(flat, labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    if label_smoothing:
        possible = flat > float("-inf")
        surprise = torch.where(possible, -flat.log_softmax(-1), 0.0).sum(-1) / possible.sum(-1).clamp(min=1)
        total = (1 - label_smoothing) * total + label_smoothing * torch.where(valid, surprise, 0.0).sum()
    return average(total, valid.sum())


def masked_binary_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """
    Binary cross-entropy of each class by itself, averaged over the labels that are not `IGNORE_INDEX` (see `average`);
    0 if all are.

    Args:
        logits, labels: of one shape; a label is 1, 0 or `IGNORE_INDEX`.
        label_smoothing: how far each target is moved from 0 and 1 towards a half: by this part of the way.
    """
    valid = labels != IGNORE_INDEX
    targets = torch.where(valid, labels, 0).float() * (1 - label_smoothing) + label_smoothing / 2
    losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return average(torch.where(valid, losses, 0.0).sum(), valid.sum())


def masked_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The share of right first choices among the labels that are not `IGNORE_INDEX`; shapes as above."""
    valid = labels != IGNORE_INDEX
    right = (logits.detach().argmax(-1) == labels) & valid
    return average(right.sum().float(), valid.sum())


def combine(losses: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> torch.Tensor:
    """
    The weighted sum of named losses.

    Raises:
        ValueError: if a weight has no loss, or a loss no weight.
    """
    if set(losses) != set(weights):
        odd = ", ".join(sorted(set(losses) ^ set(weights)))
        raise ValueError(f"Each loss needs a weight and each weight a loss; one of them is missing for {odd}.")
    if not losses:
        raise ValueError("No objective was given.")
    return torch.stack([weights[name] * losses[name] for name in losses]).sum()


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """
    (batch, ...) of every process, one behind the other in the order of their ranks; gradients flow to each. Every
    process must call it, each with as many rows as it has.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    length = torch.tensor([len(rows)], device=rows.device)
    lengths = [torch.empty_like(length) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, length)
    counts = torch.cat(lengths).tolist()
    padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])])
    if rows.requires_grad:
        gathered = dist.nn.functional.all_gather(padded)
    else:
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


def first_of_each(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The different ones of these integers (n,), ascending, and the first place of each, (different,) both."""
    different, number_at = numbers.unique(return_inverse=True)
    places = torch.arange(len(numbers), device=numbers.device)
    first = places.new_full((len(different),), len(numbers)).scatter_reduce(0, number_at, places, "amin")
    return different, first


def contrastive_loss(
    video_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    positives: torch.Tensor | None = None,
    other_text_embeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Symmetric InfoNCE (Radford et al., 2021, arXiv:2103.00020), averaged over rows and over both directions. A row with
    several positives takes the logarithm of their summed probability (Miech et al., 2020, arXiv:1912.06430, eq. 1), so
    that they do not repel one another.

    Args:
        video_embeds, text_embeds: (batch, width), of length 1; row i of one belongs to row i of the other.
        logit_scale: logarithm of the inverse temperature; the scale is held at 100 or less.
        positives: (batch, batch), True where a video (row) and a text (column) belong together, the diagonal included;
            only the diagonal if it is not given.
        other_text_embeds: (others, width), texts that belong to no video: each video is told apart from them too.
    """
    scale = at_least_float32(logit_scale).exp().clamp(max=100)
    scores = at_least_float32(video_embeds) @ at_least_float32(text_embeds).t() * scale
    if positives is None:
        positives = torch.eye(len(scores), dtype=torch.bool, device=scores.device)

    def one_way(scores: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        log_probability = scores.log_softmax(dim=-1)
        return -log_probability.masked_fill(~positives, float("-inf")).logsumexp(dim=-1).mean()

    to_texts, of_texts = scores, positives
    if other_text_embeds is not None:
        others = at_least_float32(video_embeds) @ at_least_float32(other_text_embeds).t() * scale
        to_texts = torch.cat([scores, others], dim=1)
        of_texts = torch.cat([positives, torch.zeros_like(others, dtype=torch.bool)], dim=1)
    return (one_way(to_texts, of_texts) + one_way(scores.t(), positives.t())) / 2


def retrieval_loss(
    scores: torch.Tensor, video_of_text: torch.Tensor, directions: int = 2, label_smoothing: float = 0.0
) -> torch.Tensor:
    """
    Cross-entropy over the texts of each video, averaged over videos; with two directions, plus that over the videos of
    each text, averaged over texts (VIOLET has one, VIOLETv2 both, summed). Several texts of a video share its
    probability: the target is uniform over them.

    Args:
        scores: (texts, videos), divided by their temperature.
        video_of_text: (texts,), the number of each text's video.
        label_smoothing: the part of each target that is spread over all texts (or videos).

    Raises:
        ValueError: for a number that no video has, see `check_labels`.
    """
    check_labels(video_of_text, scores.shape[1], ignored=False)
    belongs = nn.functional.one_hot(video_of_text, scores.shape[1]).to(torch.float32)  # (texts, videos)
    scores = at_least_float32(scores)
    belongs = belongs.to(scores.dtype)
    texts_of_video = belongs.sum(0)
    targets = belongs.t() / texts_of_video.clamp(min=1)[:, None]
    # No boolean index picks the videos that have a text: its shape would depend on the labels (`torch.compile`).
    by_video = nn.functional.cross_entropy(scores.t(), targets, label_smoothing=label_smoothing, reduction="none")
    has_text = texts_of_video > 0
    loss = torch.where(has_text, by_video, 0.0).sum() / has_text.sum()
    if directions == 2:
        loss = loss + nn.functional.cross_entropy(scores, video_of_text, label_smoothing=label_smoothing)
    return loss


def masked_l1(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    |prediction - target|, averaged over the places and channels where `mask` is True (see `average`); 0 if none is.
    What stands elsewhere, NaN included, changes neither the loss nor its gradient.

    Args:
        prediction, target: of one shape.
        mask: boolean, of a shape that broadcasts to theirs.
    """
    mask = mask.expand_as(target)
    total = _absolute_difference(prediction, target, mask)
    return average(total, mask.sum())


def masked_squares(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    (prediction - target)², averaged over channels and over the places where `mask` is True (see `average`); 0 if none
    is. What stands elsewhere, NaN included, changes neither the loss nor its gradient.

    Args:
        prediction, target: (..., channels).
        mask: (...), boolean.
    """
    mask = mask.unsqueeze(-1)
    apart = torch.where(mask, prediction.float(), 0.0) - torch.where(mask, target.float(), 0.0)
    return average(apart.square().mean(-1).sum(), mask.sum())


def masked_l1_as_published(
    prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, divisor: int
) -> torch.Tensor:
    """
    The reduction of VIOLETv2's published code: the sum over places *and* channels, divided by the number of masked
    places + 1e-5, and by `divisor`. A loss over 1024 channels is about 1024 / `divisor` times `masked_l1`.

    Args:
        prediction, target: of one shape.
        mask: boolean, of the same number of dimensions, 1 along the channels.
        divisor: one number per target, see `objectives.vision_targets`.
    """
    total = _absolute_difference(prediction, target, mask.expand_as(target))
    return average(total, mask.sum() + 1e-5) / divisor


def _absolute_difference(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum of |prediction - target| where `mask` (of their shape) is True."""
    return (torch.where(mask, prediction.float(), 0.0) - torch.where(mask, target.float(), 0.0)).abs().sum()

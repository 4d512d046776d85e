"""
The contrastive losses of published video-language models, as pure functions of named sets of embeddings.

Letters: B videos, L texts a video, M clips (and sentences) a video, D width. Sets are of vectors of length 1; row i
of one belongs to row i of the other. `scale` is the inverse temperature: inner products are multiplied by it. All is
computed in float32, or in float64 if the embeddings are. Every mean is over all rows given: give those of all
processes (`gather_sets`), and the loss is that of the whole batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..core.registry import Registry
from .losses import IGNORE_INDEX, at_least_float32, gather_rows

LOWEST = -1e9
"""The score of what is masked: its probability is 0, and a row of nothing else is still finite."""


@dataclass(frozen=True)
class ContrastForm:
    """
    One contrastive loss.

    Attributes:
        loss: a function with the sets as keywords, further keywords of its own (`scale` and options), and the loss ().
        sets: the names of the embedding sets that it compares.
    """

    loss: Callable[..., torch.Tensor]
    sets: tuple[str, ...]


CONTRASTS: Registry[ContrastForm] = Registry(
    "form of contrast",
    __package__,
    {
        "symmetric": "contrastive_losses:SYMMETRIC",
        "symmetric_mean": "contrastive_losses:SYMMETRIC_MEAN",
        "dual_softmax": "contrastive_losses:DUAL_SOFTMAX",
        "hard_negatives": "contrastive_losses:HARD_NEGATIVES",
        "triplet": "contrastive_losses:TRIPLET",
        "mil_nce": "contrastive_losses:MIL_NCE",
        "asymmetric": "contrastive_losses:ASYMMETRIC",
        "symmetric_with_masks": "contrastive_losses:SYMMETRIC_WITH_MASKS",
        "rows_and_columns": "contrastive_losses:ROWS_AND_COLUMNS",
        "pooled": "contrastive_losses:POOLED",
        "vs_fc": "contrastive_losses:VS_FC",
        "vs_vc": "contrastive_losses:VS_VC",
        "vs_vc_fc": "contrastive_losses:VS_VC_FC",
        "vsc": "contrastive_losses:VSC",
        "vsc_fc": "contrastive_losses:VSC_FC",
        "temporal": "contrastive_losses:TEMPORAL",
    },
    config_keys=("objectives.contrast.form", "objectives.mil_nce.form", "objectives.omnisource.form"),
)
"""By the option `form` of the objectives `contrast`, `mil_nce` and `omnisource`; see docs/systems/contrast.md."""


def gather_sets(sets: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Each set's rows of all processes, in the order of their ranks; gradients flow to each. Every process must give the
    same sets, with as many rows as it has.
    """
    return {name: gather_rows(rows) for name, rows in sets.items()}


def inner_products(first: torch.Tensor, second: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """(rows, D), (columns, D) -> (rows, columns), times the scale."""
    return at_least_float32(first) @ at_least_float32(second).t() * scale


def of_diagonal(scores: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row (B, B) against its place on the diagonal, a mean over rows."""
    return nn.functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def mean_of_valid(losses: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The mean of (rows,) over those where `valid` is True; 0, with no gradient, if none is."""
    total = torch.where(valid, losses, 0.0).sum()
    return total / valid.sum().clamp(min=1)


# --- one text for each video ---


def symmetric_contrast(*, videos: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """
    Cross-entropy of each video over the texts plus that of each text over the videos (Radford et al., 2021,
    arXiv:2103.00020, but the sum): CLIP-ViP's and HD-VILA's fine-tuning, LF-VILA's global loss.
    """
    scores = inner_products(videos, texts, scale)
    return of_diagonal(scores) + of_diagonal(scores.t())


def mean_symmetric_contrast(*, videos: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """Half of `symmetric_contrast`: CLIP's, and HD-VILA's in pre-training."""
    return symmetric_contrast(videos=videos, texts=texts, scale=scale) / 2


def dual_softmax_contrast(*, videos: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """
    `symmetric_contrast` of scores that are first multiplied by their softmax over the other axis (Cheng et al., 2021,
    arXiv:2109.04290).
    """
    scores = inner_products(videos, texts, scale)
    return sum(of_diagonal(way * way.softmax(0)) for way in (scores, scores.t()))  # type: ignore[return-value]


def hard_negative_contrast(*, videos: torch.Tensor, texts: torch.Tensor, negatives: int) -> torch.Tensor:
    """
    Cross-entropy of each row's inner product with its own against those with the nearest others, both ways; no scale
    (CLIP-ViP's and HD-VILA's `HardNegLoss`). One row has no others: 0.

    Args:
        negatives: how many others.

    Raises:
        ValueError: if a batch of several rows has not that many others.
    """
    if negatives < 1:
        raise ValueError(f"`negatives` must be 1 or more, got {negatives}.")
    if 1 < len(videos) <= negatives:
        raise ValueError(
            f"`negatives` {negatives} must be below the batch of {len(videos)} rows: the rest are others."
        )
    scores = inner_products(videos, texts, 1.0)
    own = scores.diagonal()[:, None]
    others = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool, device=scores.device), float("-inf"))
    count = min(negatives, len(scores) - 1)
    first = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    ways = (torch.cat([own, way.topk(count, dim=1).values], dim=1) for way in (others, others.t()))
    return sum(nn.functional.cross_entropy(way, first) for way in ways)  # type: ignore[return-value]


def triplet_contrast(
    *, videos: torch.Tensor, texts: torch.Tensor, margin: float = 0.2, hardest: bool = False, order: bool = False
) -> torch.Tensor:
    """
    By how much each other row, plus a margin, is nearer than a row's own, both ways: a sum over the batch, of all
    others or of the nearest one only (Faghri et al., 2018, arXiv:1707.05612). No scale.

    Args:
        order: compare by −‖max(0, text − video)‖ (Vendrov et al., 2016, arXiv:1511.06361) instead of inner products.
    """
    if order:
        above = (at_least_float32(texts)[None] - at_least_float32(videos)[:, None]).clamp(min=0)  # (B, B, D)
        scores = -torch.linalg.vector_norm(above, dim=-1)
    else:
        scores = inner_products(videos, texts, 1.0)
    own, same = scores.diagonal(), torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    of_videos = (margin + scores - own[:, None]).clamp(min=0).masked_fill(same, 0.0)
    of_texts = (margin + scores - own[None]).clamp(min=0).masked_fill(same, 0.0)
    if hardest:
        return of_videos.amax(1).sum() + of_texts.amax(0).sum()
    return of_videos.sum() + of_texts.sum()


# --- several texts for each video ---


def mil_nce(
    *, videos: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor | float, text_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """
    MIL-NCE (Miech et al., 2020, arXiv:1912.06430) as CLIP-ViP and HD-VILA compute it: a video's texts share its
    probability, against the other videos' texts and against its texts beside the other videos, in one sum. 0 for a
    perfect batch.

    Args:
        videos: (B, D).
        texts: (B, L, D), those of each video.
        text_mask: (B, L), 1 for a text and 0 for none. A video without any text has no loss of its own and is still
            what the others' texts are told apart from; no video with a text: 0.
    """
    count, texts_each = texts.shape[:2]
    scores = inner_products(videos, texts.flatten(0, 1), scale).unflatten(1, (count, texts_each))  # (B, B, L)
    if text_mask is not None:
        scores = scores.masked_fill(~text_mask.bool()[None], LOWEST)
    diagonal = torch.eye(count, dtype=torch.bool, device=scores.device)
    own = scores.diagonal().t()  # (L, B) -> (B, L)
    beside_others = scores.transpose(0, 1).masked_fill(diagonal[..., None], LOWEST)  # text's video, other video, text
    everything = torch.cat([scores.flatten(1), beside_others.flatten(1)], dim=1)
    losses = everything.logsumexp(1) - own.logsumexp(1)
    valid = losses.new_ones(count, dtype=torch.bool) if text_mask is None else text_mask.bool().any(1)
    return mean_of_valid(losses, valid)


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows divided by their length; one shorter than 1e-6 by that (VATT's): a row of zeros stays as it is."""
    rows = at_least_float32(rows)
    return rows * rows.square().sum(-1, keepdim=True).clamp(min=1e-12).rsqrt()


def asymmetric_contrast(
    videos: torch.Tensor, others: torch.Tensor, mask: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    """
    VATT's loss (Akbari et al., 2021, arXiv:2104.11178, eqs. 1 and 2): MIL-NCE in which a video's own pairs stand twice
    in the sum. Its lowest value is ln 2.

    Args:
        videos: (B, D), of any length: cosines are compared.
        others: (B, L, D), the texts of each video, or its sound with L = 1.
        mask: (B,), 1 where a video's texts (or its sound) are real; all if it is None. Those of the other rows are no
            negatives and get no gradient; their videos are negatives still. No real row: 0.
        temperature: what cosines are divided by.
    """
    count, each = others.shape[:2]
    scores = unit_rows(videos) @ unit_rows(others).flatten(0, 1).t() / temperature
    scores = scores.unflatten(1, (count, each))  # (B, B * L) -> (B, B, L)
    real = torch.ones(count, dtype=torch.bool, device=scores.device) if mask is None else mask.bool()
    own = scores.diagonal().t().logsumexp(1)  # (L, B) -> (B, L) -> (B,)
    to_texts = scores.masked_fill(~real[None, :, None], LOWEST).flatten(1)
    to_videos = scores.transpose(0, 1).masked_fill(~real[:, None, None], LOWEST).flatten(1)
    losses = torch.cat([to_texts, to_videos], dim=1).logsumexp(1) - own
    return mean_of_valid(losses, real)


def symmetric_contrast_with_masks(
    first: torch.Tensor,
    second: torch.Tensor,
    first_mask: torch.Tensor | None,
    second_mask: torch.Tensor | None,
    temperature: float,
) -> torch.Tensor:
    """
    VATT's other loss: both ways, each with a sum of its own, added; its lowest value is 0.

    Args:
        first: (B, L, D), such as the texts of each video, of any length.
        second: (B, D), such as videos.
        first_mask, second_mask: (B,), 1 where a row is real; all if it is None. What is not real is no negative; a row
            counts if both are real. No such row: 0. (VATT divides by the share of real rows twice if both are given.)
        temperature: what cosines are divided by.
    """
    count, each = first.shape[:2]
    scores = unit_rows(second) @ unit_rows(first).flatten(0, 1).t() / temperature
    scores = scores.unflatten(1, (count, each))  # (B, B * L) -> (second, first, L)
    all_real = torch.ones(count, dtype=torch.bool, device=scores.device)
    of_first = all_real if first_mask is None else first_mask.bool()
    of_second = all_real if second_mask is None else second_mask.bool()
    own = scores.diagonal().t().logsumexp(1)  # (L, B) -> (B, L) -> (B,)
    to_first = scores.masked_fill(~of_first[None, :, None], LOWEST).flatten(1).logsumexp(1)
    to_second = scores.masked_fill(~of_second[:, None, None], LOWEST).transpose(0, 1).flatten(1).logsumexp(1)
    return mean_of_valid(to_first + to_second - 2 * own, of_first & of_second)


def _masked_asymmetric(
    *, videos: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor | float, text_mask: torch.Tensor | None = None
) -> torch.Tensor:
    return asymmetric_contrast(videos, *_with_row_mask(texts, text_mask), 1 / scale)  # type: ignore[arg-type]


def _masked_symmetric(
    *, videos: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor | float, text_mask: torch.Tensor | None = None
) -> torch.Tensor:
    texts, mask = _with_row_mask(texts, text_mask)
    return symmetric_contrast_with_masks(texts, videos, mask, None, 1 / scale)  # type: ignore[arg-type]


def _with_row_mask(texts: torch.Tensor, text_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    (B, L, D), (B, L) -> a row's missing texts replaced by its first (VATT's rows have all their texts or none), and
    which rows have any (B,).
    """
    if text_mask is None:
        return texts, None
    text_mask = text_mask.bool()
    return torch.where(text_mask[..., None], texts, texts[:, :1]), text_mask.any(1)


def one_way_contrasts(
    first: torch.Tensor, second: torch.Tensor, temperature: torch.Tensor | float, margin: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    (from first to second, and back): the logsumexp of a row's scores with all of the other set, less that with its own
    (Akbari et al., 2023, arXiv:2305.06324). Cosines are divided by the temperature + 1e-6; all rows count.

    Args:
        first, second: (B, L, D) and (B, M, D), of any length.
        margin: what a row's own must be nearer by.
    """
    scores = torch.einsum("ild,jmd->ijlm", _short_unit(first), _short_unit(second)) / (temperature + 1e-6)
    own = scores.diagonal(dim1=0, dim2=1).flatten(0, 1).logsumexp(0) - margin  # (L, M, B) -> (B,)
    return (scores.logsumexp((1, 2, 3)) - own).mean(), (scores.logsumexp((0, 2, 3)) - own).mean()


def _short_unit(vectors: torch.Tensor) -> torch.Tensor:
    """x / (‖x‖ + 1e-6)"""
    vectors = at_least_float32(vectors)
    return vectors / (torch.linalg.vector_norm(vectors, dim=-1, keepdim=True) + 1e-6)


def rows_and_columns_contrast(
    *, videos: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor | float, margin: float = 0.0
) -> torch.Tensor:
    """The mean of `one_way_contrasts`, IMP's loss of a pair of modalities; (B, D) each, or several of each row."""
    first, second = (one if one.dim() == 3 else one.unsqueeze(1) for one in (videos, texts))
    there, back = one_way_contrasts(first, second, 1 / scale, margin)
    return (there + back) / 2


# --- a clip, its subtitle, its middle frame and the caption of that (CLIP-ViP: Xue et al., 2023, arXiv:2209.06430) ---


def _both_ways(first: torch.Tensor, second: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    return symmetric_contrast(videos=first, texts=second, scale=scale)


def pooled_contrast(*, videos, texts, frames, frame_captions, scale) -> torch.Tensor:
    """`symmetric_contrast` of clips and frames in one pool against subtitles and captions in one."""
    return _both_ways(torch.cat([videos, frames]), torch.cat([texts, frame_captions]), scale)


def vs_fc_contrast(*, videos, texts, frames, frame_captions, scale) -> torch.Tensor:
    """Clips with subtitles, frames with captions."""
    return _both_ways(videos, texts, scale) + _both_ways(frames, frame_captions, scale)


def vs_vc_contrast(*, videos, texts, frame_captions, scale) -> torch.Tensor:
    """Clips with subtitles, clips with captions."""
    return _both_ways(videos, texts, scale) + _both_ways(videos, frame_captions, scale)


def vs_vc_fc_contrast(*, videos, texts, frames, frame_captions, scale) -> torch.Tensor:
    """That, and frames with captions."""
    both = vs_vc_contrast(videos=videos, texts=texts, frame_captions=frame_captions, scale=scale)
    return both + _both_ways(frames, frame_captions, scale)


def vsc_contrast(*, videos, texts, frame_captions, scale) -> torch.Tensor:
    """
    Each clip's subtitle against the other subtitles and captions, its caption against the same, and both back: a
    clip's other positive is in neither denominator.
    """
    of_texts, of_captions = inner_products(videos, texts, scale), inner_products(videos, frame_captions, scale)
    same = torch.eye(len(of_texts), dtype=torch.bool, device=of_texts.device)

    def against_both(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return of_diagonal(torch.cat([own, other.masked_fill(same, float("-inf"))], dim=1))

    to_videos = of_diagonal(of_texts.t()) + of_diagonal(of_captions.t())
    return to_videos + against_both(of_texts, of_captions) + against_both(of_captions, of_texts)


def vsc_fc_contrast(*, videos, texts, frames, frame_captions, scale) -> torch.Tensor:
    """That, and frames with captions: what CLIP-ViP is pre-trained with."""
    both = vsc_contrast(videos=videos, texts=texts, frame_captions=frame_captions, scale=scale)
    return both + _both_ways(frames, frame_captions, scale)


# --- the clips of a video and the sentences of its paragraph (LF-VILA: Sun et al., 2022, arXiv:2210.06031) ---


def nearest_in_time(keys: torch.Tensor, candidates: torch.Tensor, corrected: bool = True) -> torch.Tensor:
    """
    The number of the candidate place that is nearest to each key place, `IGNORE_INDEX` where none is: a tie for the
    nearest; as published, the first and the last candidate equally far.

    Args:
        keys: (B, K).
        candidates: (B, V).

    Returns:
        (B, K)
    """
    distances = (keys[:, :, None] - candidates[:, None]).abs()  # (B, K, V)
    nearest, labels = distances.min(-1)
    tied = (distances == nearest[..., None]).sum(-1) > 1 if corrected else distances[..., 0] == distances[..., -1]
    return labels.masked_fill(tied, IGNORE_INDEX)


def temporal_contrast(
    *,
    clips: torch.Tensor,
    sentences: torch.Tensor,
    scale: torch.Tensor | float,
    keys: torch.Tensor,
    candidates: torch.Tensor,
    negatives: torch.Tensor,
    num_negatives: int = 3,
    corrected: bool = True,
    sentence_mask: torch.Tensor | None = None,
    video_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Multimodal temporal contrast (MTC, section 3.2): a sentence against drawn clips of its video, of which the nearest
    in time is right, and against a drawn clip of other videos; the same with clip and sentence exchanged, added. Each
    is a mean over the keys that have a nearest candidate; 0 if none has.

    Args:
        clips, sentences: (B, M, D).
        keys, candidates: (B, K), (B, V), places of 0 … M − 1.
        negatives: (B,), the place of each video that is shown to others.
        num_negatives: videos in front of each in the batch, the first behind the last, whose drawn places are wrong.
            At most B − 1 of them; as published (not `corrected`) the video itself is the first of them.
        corrected: see above, and `nearest_in_time`.
        sentence_mask: (B, M), 1 for a sentence and 0 for none: it is neither key nor candidate nor negative.
        video_ids: (B,), a number for each video: the same video is no negative.
    """
    labels = nearest_in_time(keys, candidates, corrected)
    rows, device = len(clips), clips.device
    steps = (
        torch.arange(num_negatives, device=device)
        if not corrected
        else (torch.arange(1, 1 + min(num_negatives, rows - 1), device=device))
    )
    others = (torch.arange(rows, device=device)[:, None] - steps) % rows  # (B, N)
    shown = torch.ones_like(others, dtype=torch.bool)
    if video_ids is not None and corrected:
        shown = video_ids[others] != video_ids[:, None]
    everywhere = torch.ones(clips.shape[:2], dtype=torch.bool, device=device)
    real = everywhere if sentence_mask is None else sentence_mask.bool()

    def one_way(asked: torch.Tensor, answers: torch.Tensor, asked_real: torch.Tensor, answers_real: torch.Tensor):
        own, ones = _at(answers, candidates), _at(answers_real, candidates)  # (B, V, D), (B, V)
        drawn, drawn_real = _at(answers, negatives[:, None])[:, 0], _at(answers_real, negatives[:, None])[:, 0]
        compared = torch.cat([own, drawn[others]], dim=1)  # (B, V + N, D)
        allowed = torch.cat([ones, drawn_real[others] & shown], dim=1)[:, None]  # (B, 1, V + N)
        scores = torch.einsum("bkd,bnd->bkn", at_least_float32(_at(asked, keys)), at_least_float32(compared)) * scale
        kept = _at(asked_real, keys) & (labels != IGNORE_INDEX)
        kept = kept & ones.gather(1, labels.clamp(min=0))
        losses = scores.masked_fill(~allowed, LOWEST).log_softmax(-1)
        return mean_of_valid(-losses.gather(-1, labels.clamp(min=0)[..., None])[..., 0].flatten(), kept.flatten())

    return one_way(sentences, clips, real, everywhere) + one_way(clips, sentences, everywhere, real)


def _at(rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B, M, …), (B, n) -> (B, n, …): of each row what stands at its places."""
    return rows[torch.arange(len(rows), device=rows.device)[:, None], places]


_PAIRS: tuple[str, ...] = ("videos", "texts")
_FOUR: tuple[str, ...] = ("videos", "texts", "frames", "frame_captions")
_THREE: tuple[str, ...] = ("videos", "texts", "frame_captions")
SYMMETRIC = ContrastForm(symmetric_contrast, _PAIRS)
SYMMETRIC_MEAN = ContrastForm(mean_symmetric_contrast, _PAIRS)
DUAL_SOFTMAX = ContrastForm(dual_softmax_contrast, _PAIRS)
HARD_NEGATIVES = ContrastForm(hard_negative_contrast, _PAIRS)
TRIPLET = ContrastForm(triplet_contrast, _PAIRS)
MIL_NCE = ContrastForm(mil_nce, _PAIRS)
ASYMMETRIC = ContrastForm(_masked_asymmetric, _PAIRS)
SYMMETRIC_WITH_MASKS = ContrastForm(_masked_symmetric, _PAIRS)
ROWS_AND_COLUMNS = ContrastForm(rows_and_columns_contrast, _PAIRS)
POOLED = ContrastForm(pooled_contrast, _FOUR)
VS_FC = ContrastForm(vs_fc_contrast, _FOUR)
VS_VC = ContrastForm(vs_vc_contrast, _THREE)
VS_VC_FC = ContrastForm(vs_vc_fc_contrast, _FOUR)
VSC = ContrastForm(vsc_contrast, _THREE)
VSC_FC = ContrastForm(vsc_fc_contrast, _FOUR)
TEMPORAL = ContrastForm(temporal_contrast, ("clips", "sentences"))


def form_arguments(form: ContrastForm) -> tuple[str, ...]:
    """The keywords that a form's function takes beside its sets."""
    code: Any = form.loss.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return tuple(name for name in names if name not in form.sets)

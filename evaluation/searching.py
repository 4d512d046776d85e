"""
Searching encoded videos by texts, wherever they are kept: all of them through the fusion, or in two stages, a
shortlist by what the model computes before the fusion, and the fusion for the shortlist only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from ..modeling_violet import Tokens
from .sharing import gather, own_share

SCORES_AT_ONCE = 2**26
"""Of texts and videos, in the first stage of a search: 256 MB."""


class GalleryError(ValueError):
    """A folder that holds no gallery, or another one; the message says what differs."""


class Gallery(Protocol):
    """
    Encoded videos. For a model without a fusion it needs to hold their embeddings only.

    Attributes:
        names: one a video.
        embeds: (videos, projection_dim) before the fusion, of length 1; `None` for a model without a projection.
        failed: the videos that were left out, by name, with what was wrong with them.
    """

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def failed(self) -> Mapping[str, str]: ...

    @property
    def embeds(self) -> torch.Tensor | None: ...

    def parts(self) -> Sequence[Callable[[], Tokens]]:
        """What gives the videos part by part, in order, so that not all of them must be in memory."""
        ...

    def select(self, numbers: torch.Tensor) -> Tokens:
        """The videos of these numbers, in their order."""
        ...


@dataclass(frozen=True)
class MemoryGallery:
    """
    A `Gallery` in memory: `video_tokens` on the model's device, one row per video; `None` while there is none, and for
    a model without a fusion.
    """

    names: tuple[str, ...] = ()
    video_tokens: Tokens | None = None
    embeds: torch.Tensor | None = None
    failed: Mapping[str, str] = field(default_factory=dict)

    def _tokens(self) -> Tokens:
        assert self.video_tokens is not None  # nothing is searched in an empty gallery
        return self.video_tokens

    def parts(self) -> Sequence[Callable[[], Tokens]]:
        return [self._tokens]

    def select(self, numbers: torch.Tensor) -> Tokens:
        tokens = self._tokens()
        return tokens.select(numbers.to(tokens.tokens.device))


@torch.no_grad()
def score_gallery(
    model: Any,
    video_tokens: Tokens,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    pairs_per_pass: int = 256,
) -> torch.Tensor:
    """
    Every text against every video of a gallery. The videos come encoded, the texts are embedded once, and then each
    pair passes the fusion; beside the scores, memory is taken for one pass only.

    Args:
        model: a `VioletForRetrieval`, in evaluation mode.
        video_tokens: of the gallery, on the model's device; `model.violet.encode_videos` gives them.
        input_ids, attention_mask: (texts, X).
        pairs_per_pass: how many pairs meet in the fusion at a time.

    Returns:
        (texts, videos) float32: the match head's score divided by the configuration's `match_temperature`, as
        `model.forward` gives it.
    """
    if pairs_per_pass < 1:
        raise ValueError(f"`pairs_per_pass` must be 1 or more, got {pairs_per_pass}.")
    output = model(
        video_tokens=video_tokens, input_ids=input_ids, attention_mask=attention_mask, pairs_per_pass=pairs_per_pass
    )
    return output.logits.float()


def nearest(video_embeds: torch.Tensor, text_embeds: torch.Tensor, count: int) -> torch.Tensor:
    """
    The numbers of the `count` videos with the greatest inner product for each text, best first, exact. By products of
    matrices: FAISS's exact index copies all vectors first, and is six times as slow for many texts.

    Args:
        video_embeds: (videos, width).
        text_embeds: (texts, width).

    Returns:
        (texts, count) int64, on the CPU.
    """
    count = min(count, len(video_embeds))
    videos, texts = video_embeds.float().cpu(), text_embeds.float().cpu()
    at_once = max(SCORES_AT_ONCE // max(len(videos), 1), 1)
    return torch.cat([(some @ videos.t()).topk(count).indices for some in texts.split(at_once)])


@torch.no_grad()
def shortlist_by_embeds(
    model: Any, gallery: Gallery, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, count: int
) -> torch.Tensor:
    """
    The videos that come nearest to each text before the fusion, by the model's projection: (texts, count).

    Raises:
        GalleryError: for a model, or a gallery, without a projection.
    """
    if gallery.embeds is None or not model.violet.has_embeddings:
        raise GalleryError(
            "This model has no embeddings before the fusion (its configuration has no projection_dim) to make a "
            "shortlist by: search all videos, or score a shortlist of your own by `score_pairs`."
        )
    return nearest(gallery.embeds, model.violet.embed_texts(input_ids, attention_mask), count)


@torch.no_grad()
def score_pairs(
    model: Any,
    gallery: Gallery,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    candidates: torch.Tensor,
    pairs_per_pass: int = 256,
) -> torch.Tensor:
    """
    Each text against the videos of a shortlist of its own, through the fusion: the second stage of a search, whatever
    made the shortlist. Pairs of one video come one after another, so that it is read from disk once; processes that
    run together share the pairs out.

    Args:
        model: a `VioletForRetrieval`, in evaluation mode.
        input_ids, attention_mask: (texts, X), on the model's device.
        candidates: (texts, n), numbers of videos in the gallery.
        pairs_per_pass: how many pairs meet in the fusion at a time.

    Returns:
        (texts, n) float32 on the CPU, as `score_gallery` gives them.
    """
    if not model.violet.matches_in_fusion:
        return _compare(model, gallery, input_ids, attention_mask).gather(1, candidates.cpu())
    encoded = model.violet.encode_texts(input_ids, attention_mask)
    videos = candidates.cpu().flatten()
    texts = torch.arange(len(candidates)).repeat_interleave(candidates.shape[1])
    order = videos.argsort(stable=True)
    share = own_share(len(order))
    mine = order[share.start : share.stop]
    scores: list[np.ndarray] = []
    for pairs in mine.split(pairs_per_pass):
        different, video_index = videos[pairs].unique(return_inverse=True)
        of_pairs = encoded.select(texts[pairs].to(input_ids.device))
        tokens = gallery.select(different).to(input_ids.device)
        logits = model.score_pairs(tokens, of_pairs, video_index.to(input_ids.device)).logits
        scores.append(logits.float().cpu().numpy())
    of_all = np.concatenate([np.zeros(0, np.float32), *gather(scores)])
    found = torch.empty(len(order))
    found[order] = torch.from_numpy(of_all)
    return found.view(candidates.shape)


def score_all(
    model: Any,
    gallery: Gallery,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    pairs_per_pass: int = 256,
) -> torch.Tensor:
    """
    Every text against every video, a part of the gallery in memory at a time; processes that run together share the
    parts out.

    Returns:
        (texts, videos) float32 on the CPU, as `score_gallery` gives them.
    """
    if not model.violet.matches_in_fusion:
        return _compare(model, gallery, input_ids, attention_mask)
    parts = gallery.parts()
    scores = [
        score_gallery(model, parts[number]().to(input_ids.device), input_ids, attention_mask, pairs_per_pass)
        for number in own_share(len(parts))
    ]
    return torch.cat(gather([one.cpu() for one in scores]), 1)


@torch.no_grad()
def _compare(
    model: Any, gallery: Gallery, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """(texts, videos) float32 on the CPU, for a model without a fusion: it needs the gallery's embeddings only."""
    assert gallery.embeds is not None  # no model has neither a fusion nor embeddings
    embeds = gallery.embeds.to(input_ids.device)
    return model.violet.compare(embeds, model.violet.embed_texts(input_ids, attention_mask)).float().cpu()


def rank_in_two_stages(videos: int, candidates: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """
    Scores of the whole gallery after a search in two stages, for `retrieval_measures`: (texts, videos), those of each
    text's shortlist, and one lower score for all other videos, which were not compared.

    Args:
        candidates, scores: (texts, n), see `score_pairs`.
    """
    behind = scores.new_full((len(scores), videos), float(scores.min()) - 1)
    return behind.scatter(1, candidates, scores)

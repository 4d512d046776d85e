"""How near written captions come to those of people."""

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)


def caption_metrics(written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """
    `exact`, the share of captions that are, but for case and spaces, one of their video's; `cider`, CIDEr-D's mean
    (Vedantam et al., 2015, arXiv:1411.5726; 10 is a perfect score) as `pycocoevalcap` computes it on words in lower
    case, where that package is installed.

    Args:
        written: a caption for each video.
        references: the captions that people gave each video.
    """
    if len(written) != len(references) or not written:
        raise ValueError(
            f"{len(written)} captions for {len(references)} videos: one each is needed, and at least one."
        )
    said = [_normal(caption) for caption in written]
    right = [[_normal(caption) for caption in captions] for captions in references]
    metrics = {"exact": sum(one in many for one, many in zip(said, right, strict=True)) / len(said)}
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError:
        logger.warning("CIDEr is left out: pip install pycocoevalcap.")
        return metrics
    numbered = range(len(said))
    score, _ = Cider().compute_score(dict(zip(numbered, right, strict=True)), {i: [said[i]] for i in numbered})
    return {**metrics, "cider": float(score)}


def _normal(caption: str) -> str:
    return " ".join(caption.lower().replace(",", " ,").split())

"""What pipelines of videos and texts share: their inputs, one or many of each, and `top_k`."""

from collections.abc import Iterator
from typing import Any

from transformers import Pipeline

from ..processing.video_processing_violet import split_into_clips


class VideoTextPipeline(Pipeline):
    """A pipeline whose processor takes videos and texts, and which gives the `top_k` best answers."""

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(self, top_k: int | None = None):
        if top_k is not None and top_k < 1:
            raise ValueError(f"`top_k` must be 1 or more, got {top_k}.")
        return {}, {}, {} if top_k is None else {"top_k": top_k}


def pair_up(videos: Any, texts: str | list[str], name: str) -> dict[str, Any] | list[dict[str, Any]]:
    """
    One input where one video and one text are given, else a list: of lists of one length pair by pair, or of one of
    them with all of the other.

    Args:
        name: the texts' key.

    Raises:
        ValueError: for lists of unequal length.
    """
    if isinstance(texts, str) and not is_many(videos):
        return {"video": videos, name: texts}
    texts = [texts] if isinstance(texts, str) else list(texts)
    clips = list(videos) if is_many(videos) else [videos]
    count = max(len(texts), len(clips))
    if {len(texts), len(clips)} - {1, count}:
        raise ValueError(f"{len(clips)} videos and {len(texts)} {name}s: give as many, or one of either.")
    clips, texts = clips * (count // len(clips)), texts * (count // len(texts))
    return [{"video": clip, name: text} for clip, text in zip(clips, texts, strict=True)]


def is_many(videos: Any) -> bool:
    """Whether this holds several videos: a list or an iterator, but not one clip's list of frames."""
    if isinstance(videos, Iterator):
        return True
    return isinstance(videos, list | tuple) and len(split_into_clips(videos)) == len(videos) and len(videos) > 0

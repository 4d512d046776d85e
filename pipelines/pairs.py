"""Videos and texts, one or many of each, as a pipeline's inputs."""

from collections.abc import Iterator
from typing import Any

from ..processing.video_processing_violet import split_into_clips


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

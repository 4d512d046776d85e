"""A video that consists of several clips: one text that names them, in order."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .decoded_video import DecodedVideo, VideoDecodeError
from .sound import join_sounds

CLIPS = "clips:"


def join_clips(clips: Sequence[str]) -> str:
    """The text of a video that consists of these clips, one after the other: rows know a video by one text."""
    return CLIPS + json.dumps(list(clips))


def clips_of(reference: Any) -> list[str] | None:
    """
    The clips of a text that `join_clips` made; None for any other video.

    Raises:
        VideoDecodeError: what stands behind `clips:` is no JSON list of texts.
    """
    if not isinstance(reference, str) or not reference.startswith(CLIPS):
        return None
    try:
        clips = json.loads(reference.removeprefix(CLIPS))
    except (ValueError, RecursionError):
        clips = None
    if not isinstance(clips, list) or not all(isinstance(clip, str) for clip in clips):
        shown = reference if len(reference) < 100 else f"{reference[:100]}…"
        raise VideoDecodeError(shown, "behind `clips:` a JSON list of texts is needed", "Make it by `join_clips`.")
    return clips


def decode_clips(
    clips: Sequence[str], decode: Callable[[str, int | None], DecodedVideo], num_frames: int | None, name: str
) -> DecodedVideo:
    """
    The frames of several clips as those of one video, equally many of each, one clip after the other. `indices` and
    `times` are those within each clip.

    Args:
        decode: (a clip, how many of its frames) -> those.
        num_frames: of the whole video; None for as many as `decode` takes by itself.
        name: what messages call it.

    Raises:
        VideoDecodeError: for a number of frames that the clips do not divide, or clips of unequal sizes.
    """
    if not clips or (num_frames is not None and num_frames % len(clips)):
        raise VideoDecodeError(
            name,
            f"it has {len(clips)} clips, and `num_frames` {num_frames} is no multiple of that",
            "Give another `num_frames`.",
        )
    read = [decode(clip, None if num_frames is None else num_frames // len(clips)) for clip in clips]
    sizes = {one.frames.shape[1:3] for one in read}
    if len(sizes) > 1:
        shown = " and ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise VideoDecodeError(name, f"its clips have frames of unequal sizes ({shown})", "Resize the clips first.")
    doubtful = any(one.promised_frames is not None for one in read)
    sounds = [one.sound for one in read if one.sound is not None]
    return replace(
        read[0],
        sound=join_sounds(sounds) if sounds else None,
        frames=np.concatenate([one.frames for one in read]),
        times=np.concatenate([one.times for one in read]),
        indices=np.concatenate([one.indices for one in read]),
        total_frames=sum(one.total_frames for one in read),
        promised_frames=sum(one.promised_frames or one.total_frames for one in read) if doubtful else None,
    )

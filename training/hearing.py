"""Runs of models that hear: their processor reads sound, and the rows must have some."""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from datasets import Dataset

from ..data import open_video
from ..data.loading import SAMPLE_ERRORS
from ..processing import VideoTextProcessor
from ..processing.decoding import describe_source
from ..processing.joined_clips import clips_of
from ..processing.sound import has_sound
from ..processing.video_processing_violet import match_sound
from .arguments import SettingsError

logger = logging.getLogger(__name__)

VIDEOS_LOOKED_AT = 100
"""How many videos of a table are looked at for sound, evenly from the first to the last, until one has some."""


def prepare_hearing(processor: VideoTextProcessor, model: Any, tables: Iterable[Dataset]) -> None:
    """
    Lets the processor read what the model hears, by the model's `audio_config`.

    Args:
        tables: the rows to train on; at least one video must have sound if the model hears.

    Raises:
        SettingsError: if none of those looked at has sound.
    """
    match_sound(processor.video_processor, model.config)
    if not processor.video_processor.hears:
        return
    looked_at: list[tuple[int, Any]] = []
    for rows in tables:
        for number in np.unique(np.linspace(0, len(rows) - 1, VIDEOS_LOOKED_AT).astype(int)).tolist():
            video = rows[number]["video"]
            if _is_heard(video):
                return
            looked_at.append((number, video))
    number, video = looked_at[0]
    raise SettingsError(
        f"The model hears (`audio_config`), and none of {len(looked_at)} videos that were looked at has sound; the "
        f"first is {describe_source(video)} (row {number}). Give files with sound (the drawn shapes have some with "
        "--shapes_sound true, in a recipe `sound: true`), or train a model without `audio_config`."
    )


def _is_heard(video: Any) -> bool:
    try:
        return any(has_sound(open_video(clip)) for clip in clips_of(video) or [video])
    except SAMPLE_ERRORS as error:  # the run raises or counts it when it reads the sample
        logger.debug("Not looked at for sound: %s", error)
        return False

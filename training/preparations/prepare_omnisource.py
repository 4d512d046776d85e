"""The middle frame of each video and a caption of it (`omnisource`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ...data.loading import ClipReader
from ...processing.video_processing_violet import RAW_PIXELS
from .preparation import Samples


def check_frame_caption(row: Mapping[str, Any], options: Any) -> None:
    """
    Raises:
        ValueError: for a row without a caption of its middle frame, naming the column.
    """
    caption = row.get(options.column)
    if not isinstance(caption, str) or not caption.strip():
        raise ValueError(
            f"column {options.column!r} is missing or empty, and the objective 'omnisource' needs a caption of the "
            "video's middle frame: `violet prepare captions` writes one (its option `column` names another)."
        )


def read_middle_frame(reader: ClipReader, row: Mapping[str, Any]) -> np.ndarray:
    """
    A clip of one frame, (1, height, width, 3).

    Raises:
        VideoDecodeError, TableError: if the video's middle frame cannot be read.
    """
    return reader.read_middle(row["video"], row.get("row")).frames


def prepare_middle_frames(samples: Samples, options: Any) -> dict[str, Any]:
    """
    `pixel_values_middle_frames` (batch, 1, 3, height, width), uint8; `frame_caption_ids` and
    `frame_caption_attention_mask` (batch, X).
    """
    for row in samples.rows:
        check_frame_caption(row, options)
    settings, clip = samples.settings, samples.plan.clip
    frames = [one["omnisource"] for one in samples.beside]
    draws = [int(torch.randint(2**31, (), generator=one)) for one in samples.generators("omnisource")]
    size = {"height": clip.height, "width": clip.width}
    own = {"do_sample_frames": False, "size": size, "draws": draws, "sound": False, **RAW_PIXELS}
    pixels = settings.processor(videos=frames, **own)
    words = settings.processor(text=[row[options.column] for row in samples.rows])
    return {
        "pixel_values_middle_frames": pixels["pixel_values_videos"],
        "frame_caption_ids": words["input_ids"],
        "frame_caption_attention_mask": words["attention_mask"],
    }

"""What `temporal_contrast` draws of each video, and by which number it knows it again."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ...data.sources import video_name
from ...processing.sentences import real_sentences
from ..sampling import number_of_name
from .preparation import Samples

PERMUTATIONS = 3
"""Of the places in a video: keys, candidates, negatives."""


def check_sentences(row: Mapping[str, Any], options: Any) -> None:
    """
    Raises:
        ValueError: for a row whose caption is one sentence.
    """
    sentences = real_sentences(str(row["caption"]).split("\n"))
    if len(sentences) < 2:
        raise ValueError(
            f"column 'caption' has {len(sentences)} sentence, and the objective 'temporal_contrast' needs several: a "
            "list, or one a line, each of a clip of the video (`violet prepare paragraphs`)."
        )


def prepare_temporal_draws(samples: Samples, options: Any) -> dict[str, Any]:
    """
    `temporal_noise` (batch, 3, steps), whose order over the first places is a permutation of them;
    `temporal_video_ids` (batch,), a number of each video's name.
    """
    steps = samples.grid[0]  # there are no more clips than that
    noise = [torch.rand(PERMUTATIONS, steps, generator=one) for one in samples.generators("temporal_contrast")]
    named = zip(samples.rows, samples.names, strict=True)
    numbers = np.array([number_of_name(video_name(row["video"]) or name) for row, name in named], np.uint64)
    return {"temporal_noise": torch.stack(noise), "temporal_video_ids": torch.from_numpy(numbers.astype(np.int64))}

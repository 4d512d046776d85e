"""Pairs of which half are wrong: the first videos of each group are rolled by one among themselves."""

from typing import Any

import torch

from ...modeling_violet.objectives.rolled_matching import roll_pairs
from .preparation import Samples


def prepare_rolled_videos(samples: Samples, options: None = None) -> dict[str, Any]:
    """
    `rolled_video_index` (batch,), the video that each text is shown with, and `rolled_match` (batch,), whether it is
    its own or that of a row with the same words. Groups do not depend on how many processes share the step.
    """
    group_size = samples.settings.group_size
    index, match = torch.arange(len(samples.kept)), torch.ones(len(samples.kept), dtype=torch.bool)
    groups: dict[int, list[int]] = {}
    for number, row in enumerate(samples.kept):
        groups.setdefault(row // group_size, []).append(number)
    for group in groups.values():
        places, own = roll_pairs(len(group))
        for number, place, is_own in zip(group, places.tolist(), own.tolist(), strict=True):
            other = group[place]
            index[number] = other
            texts = [samples.planned[samples.kept[one]][1] for one in (number, other)]
            match[number] = is_own or texts[0] == texts[1]
    return {"rolled_video_index": index, "rolled_match": match}

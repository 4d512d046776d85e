"""Texts that a video is told apart from, drawn without repetition among those of other words in its group."""

from typing import Any

import torch

from ..masking import sample_generator
from .preparation import Samples


def prepare_negatives(samples: Samples, options: None = None) -> dict[str, Any]:
    """
    `negative_index` (batch, candidates): places in the batch of rows of the same group with other words, −1 if there
    are no more. The draws depend neither on which videos could be read nor on how many processes share the step.
    """
    settings, planned = samples.settings, samples.planned
    place = {row: number for number, row in enumerate(samples.kept)}
    negatives = torch.full((len(samples.kept), settings.num_candidates), -1)
    for start in range(0, len(planned), settings.group_size):
        group = range(start, min(start + settings.group_size, len(planned)))
        name, _ = planned[start]
        generator = sample_generator(settings.seed, samples.plan.position, f"{samples.dataset}/negatives/{name}")
        for row in group:
            order = [group[i] for i in torch.randperm(len(group), generator=generator).tolist()]
            others = [place[i] for i in order if i in place and planned[i][1] != planned[row][1]]
            if row in place:
                others = others[: settings.num_candidates]
                negatives[place[row], : len(others)] = torch.tensor(others, dtype=torch.long)
    return {"negative_index": negatives}

"""The noise that decides which patches of each frame `align` keeps, once the teacher's attention is known."""

from typing import Any

import torch

from ...modeling_violet.objectives.align import AlignOptions
from .preparation import Samples


def prepare_noise(samples: Samples, options: AlignOptions | None) -> dict[str, Any]:
    """
    `align_noise` (batch, frames, patches of a frame), or (batch, 1, patches) where a clip has one draw: from Exp(1) to
    draw by attention, uniform to draw at random; from each sample's own generator.
    """
    options = options or AlignOptions()
    frames, rows, columns = samples.grid
    shape = 1 if options.draw == "tube" else frames, rows * columns
    noise = [torch.empty(shape) for _ in samples.rows]
    for one, generator in zip(noise, samples.generators("align"), strict=True):
        if options.mask == "attention":
            one.exponential_(generator=generator)
        else:
            one.uniform_(generator=generator)
    return {"align_noise": torch.stack(noise)}

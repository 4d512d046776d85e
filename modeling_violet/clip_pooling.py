"""How what a model found beside each clip of a video becomes one."""

import math
from collections.abc import Callable

import torch

CLIP_POOLING: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "lse": lambda states: states.logsumexp(1),
    "lse_corrected": lambda states: states.logsumexp(1) - math.log(states.shape[1]),
    "mean": lambda states: states.mean(1),
    "max": lambda states: states.amax(1),
}
"""
(texts, clips, ...) -> (texts, ...), element by element. "lse" adds log(clips) to every number, also if all clips are
equal; "lse_corrected", the log of the mean of exponentials, does not.
"""

"""Learning-rate schedules: what share of the peak learning rate each step takes."""

import math
from collections.abc import Callable

from ..core.registry import Registry

LEARNING_RATES: Registry[Callable[[float], float]] = Registry(
    "learning-rate schedule",
    __package__,
    {
        "constant": "learning_rates:constant",
        "linear": "learning_rates:linear",
        "cosine": "learning_rates:cosine",
        "half_cosine": "learning_rates:half_cosine",
    },
)
"""Each is a function of the progress since the warm-up, from 0 to 1, and gives the share of the peak."""


def learning_rate_factor(schedule: str, step: int, max_steps: int, warmup: float) -> float:
    """
    The share of the peak learning rate that step `step`, from 0, takes: it rises linearly over the first `warmup` of
    the steps, and then follows the schedule.

    Args:
        schedule: a name in `LEARNING_RATES`.
        warmup: a share of `max_steps`.
    """
    warmup_steps = round(warmup * max_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return LEARNING_RATES.find(schedule)((step - warmup_steps) / max(1, max_steps - warmup_steps))


def constant(progress: float) -> float:
    """Stays at the peak."""
    return 1.0


def linear(progress: float) -> float:
    """Falls to 0 on a line."""
    return 1 - progress


def cosine(progress: float) -> float:
    """Falls to 0 on half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def half_cosine(progress: float) -> float:
    """Falls to half the peak on half a cosine, and stays there (VATT's, arXiv:2104.11178)."""
    return 0.5 * (1 + cosine(min(progress, 1.0)))

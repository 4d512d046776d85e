"""Learning-rate schedules: what share of the peak learning rate each step takes."""

import math
from collections.abc import Callable, Sequence

from ..core.registry import Registry

LEARNING_RATES: Registry[Callable[[float], float]] = Registry(
    "learning-rate schedule",
    __package__,
    {
        "constant": "learning_rates:constant",
        "linear": "learning_rates:linear",
        "cosine": "learning_rates:cosine",
        "half_cosine": "learning_rates:half_cosine",
        "imp_small": "learning_rates:imp_small",
        "imp_base": "learning_rates:imp_base",
        "imp_large": "learning_rates:imp_large",
    },
)
"""
Each is a function of the progress since the warm-up, from 0 to 1, and gives the share of the peak. One that begins
below the peak rises by itself: a recipe with it has the `warmup` 0.
"""


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


def _lines_and_cosine(progress: float, points: Sequence[tuple[float, float]], end: float) -> float:
    """
    Straight lines through points (progress, share of the peak), the first at 0, and from the last of them, the peak,
    on half a cosine to `end`.
    """
    (first, start), *others = points
    for place, share in others:
        if progress < place:
            return start + (share - start) * (progress - first) / (place - first)
        first, start = place, share
    return end + (start - end) * cosine(min((progress - first) / (1 - first), 1.0))


def imp_small(progress: float) -> float:
    """IMP-S's (arXiv:2305.06324), of 200,000 steps and a peak of 8e-4: up over 10,000 steps. Its `warmup` is 0."""
    return _lines_and_cosine(progress, ((0.0, 1 / 800), (10 / 200, 1.0)), 0.0)


def imp_base(progress: float) -> float:
    """
    IMP-B's, of 502,000 steps and a peak of 1e-3: down over 2,000 steps, up over 25,000, and a cosine to 1e-6. Its
    `warmup` is 0.
    """
    return _lines_and_cosine(progress, ((0.0, 0.02), (2 / 502, 0.005), (27 / 502, 1.0)), 0.001)


def imp_large(progress: float) -> float:
    """
    IMP-L's, of 505,000 steps and a peak of 5e-4: down over 5,000 steps, up over 50,000, and a cosine to 1e-6. Its
    `warmup` is 0.
    """
    return _lines_and_cosine(progress, ((0.0, 0.02), (5 / 505, 0.002), (55 / 505, 1.0)), 0.002)

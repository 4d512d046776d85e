"""Stops a run before a broken loss or gradient reaches its weights."""

import math
from collections.abc import Iterable

import torch


def check_finite(what: str, value: float | torch.Tensor, samples: Iterable[str]) -> None:
    """
    Refuses a value that is NaN or infinite.

    Args:
        what: its name in the message, such as "gradient of step 3".
        value: one number; on a GPU it is waited for.
        samples: names of the samples that it was computed from.

    Raises:
        FloatingPointError: if it is not finite; the message names the samples.
    """
    number = value.item() if isinstance(value, torch.Tensor) else value
    if not math.isfinite(number):
        raise FloatingPointError(
            f"The {what} is {number}; it was not applied. Its samples: {', '.join(samples)}. Look at them, or lower "
            "the learning rate."
        )

"""What the optimiser is told: which parameters decay, and the learning rate of each step."""

import math

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weights of linear and convolutional layers decay; biases, norms, tables of words and positions do not."""
    decayed = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d)
    }
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]


def learning_rate_factor(schedule: str, step: int, max_steps: int, warmup: float) -> float:
    """
    The share of the peak learning rate that step `step`, from 0, takes: it rises linearly over the first `warmup` of
    the steps, then stays (`constant`), or falls to 0 at the end on a line (`linear`) or half a cosine (`cosine`).
    """
    warmup_steps = round(warmup * max_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))

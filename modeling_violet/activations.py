"""Activations of states that nothing else reads."""

from collections.abc import Callable

import torch
from torch import nn


def activate(activation: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    """
    The activation of fresh states. GELU is written over them if no gradient asks for them: on a CPU new memory for its
    result takes twice as long as the function itself.
    """
    exact = getattr(activation, "act", activation) is nn.functional.gelu
    if not exact or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return activation(states)
    return torch.ops.aten.gelu_(states)

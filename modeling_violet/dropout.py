"""Dropout whose draws are cheap on a CPU."""

from typing import Any

import torch
from torch import nn

LEVELS = 2**16


class _Dropped(torch.autograd.Function):
    """Keeps a byte for each number for the backward pass, where torch's dropout on a CPU keeps four."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, zeroed: int) -> torch.Tensor:
        # 64 random bits are four numbers of 16 bits, each of -LEVELS / 2 … LEVELS / 2 - 1
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
        kept = (bits.view(torch.int16)[: x.numel()] >= zeroed - LEVELS // 2).view(x.shape)
        ctx.save_for_backward(kept)
        ctx.scale = LEVELS / (LEVELS - zeroed)
        return (x * ctx.scale).mul_(kept)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # type: ignore[override]  # torch gives one
        (kept,) = ctx.saved_tensors
        return (gradients[0] * ctx.scale).mul_(kept), None


def dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """
    `torch.nn.functional.dropout`. On a CPU torch draws a number in double precision for each entry, one thread for all
    of them on processors that are not Intel's; here 16 bits are drawn for each, and `p` is rounded to a 65,536th.
    """
    zeroed = round(p * LEVELS)
    if not training or x.device.type != "cpu" or not 0 < zeroed < LEVELS or torch.compiler.is_compiling():
        return nn.functional.dropout(x, p, training)
    return _Dropped.apply(x, zeroed)


class VioletDropout(nn.Dropout):
    """`nn.Dropout` by `dropout`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return dropout(input, self.p, self.training)

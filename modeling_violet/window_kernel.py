"""Attention inside windows with a learned bias, trained without keeping its weights."""

from typing import Any

import torch

LOGIT_BYTES = 1_000_000
"""How large the logits are that the backward pass makes at a time."""


class BiasedAttention(torch.autograd.Function):
    """
    Softmax attention with a bias that is learned, on a CPU. torch's fused kernel takes no bias that asks for a
    gradient, and falls back to plain steps that keep the weights of every window. Here the fused kernel computes the
    output, and the backward pass computes the weights of some windows at a time again.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """query, key, value (n, heads, N, d), bias (1, heads, N, N) -> (n, heads, N, d)"""
        output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, attn_mask=bias, scale=scaling
        )
        ctx.save_for_backward(query, key, value, bias, logsumexp)
        ctx.scaling = scaling
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, bias, logsumexp = ctx.saved_tensors
        count, heads, tokens, width = query.shape
        made = [query.new_empty(count, heads, tokens, width) for _ in range(3)]
        of_bias = torch.zeros_like(bias[0])
        some = max(LOGIT_BYTES // (heads * tokens * tokens * query.element_size()), 1)
        for first in range(0, count, some):
            part = slice(first, first + some)
            q, k, v, go = (one[part].flatten(0, 1).contiguous() for one in (query, key, value, of_output))
            log = logsumexp[part].flatten(0, 1)
            size = (len(q), tokens, tokens)
            # weights = exp(scaling * q k^T + bias - logsumexp), (n * heads, N, N)
            shift = (bias - log.view(-1, heads, tokens, 1)).view(size)
            weights = shift.baddbmm_(q, k.transpose(1, 2), alpha=ctx.scaling).exp_()
            made[2][part] = torch.bmm(weights.transpose(1, 2), go).unflatten(0, (-1, heads))
            # gradient of the logits = weights * (go v^T - sum(weights * go v^T)): it adds up to 0 over the keys, but
            # for rounding, which Adam makes steps of in a key's bias
            logits = torch.bmm(go, v.transpose(1, 2)).mul_(weights)
            logits.addcmul_(weights, logits.sum(-1, keepdim=True), value=-1.0)
            of_bias += logits.unflatten(0, (-1, heads)).sum(0)
            made[0][part] = torch.bmm(logits, k).mul_(ctx.scaling).unflatten(0, (-1, heads))
            made[1][part] = torch.bmm(logits.transpose(1, 2), q).mul_(ctx.scaling).unflatten(0, (-1, heads))
        return (*made, of_bias.unsqueeze(0), None)


def serves(query: torch.Tensor, bias: torch.Tensor) -> bool:
    """Whether `BiasedAttention` is to be taken: on a CPU, for float32, if a gradient of the bias is asked for."""
    wanted = torch.is_grad_enabled() and bias.requires_grad and query.is_cpu and query.dtype == torch.float32
    return wanted and not torch.compiler.is_compiling()


def biased_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, scaling: float
) -> torch.Tensor:
    """query, key, value (n, heads, N, d), bias (1, heads, N, N) -> (n, N, heads, d)"""
    return BiasedAttention.apply(query, key, value, bias, scaling).transpose(1, 2)

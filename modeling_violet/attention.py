"""Attention: the eager kernel, and the one place that builds masks from a boolean rule ("may query i see key j")."""

from collections.abc import Callable

import torch
from torch import nn
from transformers import Cache

from ..core.upstream import ALL_MASK_ATTENTION_FUNCTIONS, create_bidirectional_mask

ATTENTION_RULES = ("bidirectional", "sequence_to_sequence")


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Softmax attention in plain steps. query, key, value: (batch, heads, tokens, head width); `attention_mask` is added
    to the logits. Returns ((batch, tokens, heads, head width), weights (batch, heads, query tokens, key tokens)).
    """
    weights = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def sequence_to_sequence(context_length: int, key_mask: torch.Tensor) -> Callable:
    """
    Every token sees the first `context_length` tokens (video, prompt); behind them a text token sees text up to
    itself, and a context token sees none. Padding is visible only to padding; those outputs are meaningless but match
    the original implementation.
    """
    real = key_mask.bool()

    def allowed(batch_idx, head_idx, q_idx, kv_idx):
        in_order = (kv_idx < context_length) | ((q_idx >= context_length) & (kv_idx <= q_idx))
        return in_order & (real[batch_idx, kv_idx] | ~real[batch_idx, q_idx])

    return allowed


def build_attention_mask(
    config,
    states: torch.Tensor,
    key_mask: torch.Tensor,
    rule: str,
    context_length: int,
    cache: Cache | None = None,
):
    """
    The mask in the form that the configured attention kernel takes.

    Args:
        states: (batch, tokens, width), for its size, type and device.
        key_mask: (batch, past tokens + tokens), 1 if a token may be seen at all.
        rule: `"bidirectional"` (every token sees every other) or `"sequence_to_sequence"`.
        context_length: tokens before the text, past ones included, for the second rule.
        cache: what came before these tokens, under the second rule only.

    Raises:
        ValueError: for an unknown rule, or keys and values kept under the first.
    """
    if rule == "bidirectional":
        if cache is not None:
            raise ValueError("Keys and values can be kept only under `attention_rule` 'sequence_to_sequence'.")
        return create_bidirectional_mask(config=config, inputs_embeds=states, attention_mask=key_mask)
    if rule == "sequence_to_sequence":
        # Not by `create_bidirectional_mask`, which maps a rule over single places: as slow as a layer when one word is
        # written at a time. This rule takes all places at once.
        return ALL_MASK_ATTENTION_FUNCTIONS[config._attn_implementation](
            batch_size=states.shape[0],
            q_length=states.shape[1],
            kv_length=key_mask.shape[1],
            q_offset=key_mask.shape[1] - states.shape[1],
            mask_function=sequence_to_sequence(context_length, key_mask),
            allow_is_causal_skip=False,
            dtype=states.dtype,
            device=states.device,
        )
    raise ValueError(f"`attention_rule` {rule!r} is unknown; use {' or '.join(map(repr, ATTENTION_RULES))}.")

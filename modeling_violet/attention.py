"""Attention: the eager kernel, the table of rules ("may query i see key j"), and the masks made from them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import Cache

from ..core.registry import Registry
from ..core.upstream import ALL_MASK_ATTENTION_FUNCTIONS, create_bidirectional_mask
from .dropout import dropout as drop_out


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
    to the logits, or is True where a key is seen. Returns ((batch, tokens, heads, head width), weights (batch, heads,
    query tokens, key tokens)).
    """
    weights = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        weights = weights.masked_fill(~attention_mask, torch.finfo(weights.dtype).min)
    elif attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = drop_out(weights, dropout, module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


@contextmanager
def record_attention(attentions: Sequence[nn.Module], take: Callable[[Any], None]) -> Iterator[None]:
    """
    Within it, `take` is given the weights that each of these modules gives as its second output, in every pass and one
    after another: nothing keeps those of several layers. Their kernel is the eager one for that time, since the others
    give no weights.

    Args:
        attentions: of one model.
    """
    config: Any = attentions[0].config
    hooks = [module.register_forward_hook(lambda module, inputs, outputs: take(outputs[1])) for module in attentions]
    kernel, config._attn_implementation = config._attn_implementation, "eager"
    try:
        yield
    finally:
        config._attn_implementation = kernel
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class AttentionLayout:
    """
    Where the groups of tokens stand in a sequence.

    Attributes:
        lengths: the number of tokens of each group ("video", "prompt", "text"), by name and in order. Those whose keys
            and values are in a cache stand in front, as one group "past".
        outside: groups that have no place in this fusion's sequence.
    """

    lengths: Mapping[str, int]
    outside: tuple[str, ...] = ()

    def start(self, group: str) -> int:
        """
        The place of a group's first token; where the group would begin if it is absent: behind all others.

        Raises:
            ValueError: for a group that has no place in this sequence.
        """
        if group in self.outside:
            raise ValueError(
                f"This rule of attention asks for the places of the group {group!r}, and this fusion has none: "
                f"{group!r} is not in its sequence. Use a rule over the other groups, or another fusion."
            )
        place = 0
        for name, length in self.lengths.items():
            if name == group:
                break
            place += length
        return place


@dataclass(frozen=True)
class AttentionRule:
    """
    A rule of attention: which token may see which.

    Attributes:
        allowed: (query, key, layout) -> whether the token in the place `query` may see that in the place `key`. Both
            are whole numbers in tensors that broadcast, counted from the first token of the sequence, and so is the
            result, of truth values. None: every token sees every other. Padding is no matter of the rule: no token
            sees it.
        causal: whether no token's state depends on words behind it. Then a text can be written word by word, and keys
            and values of earlier tokens be kept.
    """

    allowed: Callable[[torch.Tensor, torch.Tensor, AttentionLayout], torch.Tensor] | None = None
    causal: bool = False


def sees_context_and_earlier_words(query: torch.Tensor, key: torch.Tensor, layout: AttentionLayout) -> torch.Tensor:
    """Every token sees video and prompt; behind them a word sees words up to itself, and the context sees none."""
    text = layout.start("text")
    return (key < text) | ((query >= text) & (key <= query))


def sees_itself_and_what_came_before(query: torch.Tensor, key: torch.Tensor, layout: AttentionLayout) -> torch.Tensor:
    """Every token sees itself and those in front of it, of whatever group."""
    return key <= query


BIDIRECTIONAL = AttentionRule()
SEQUENCE_TO_SEQUENCE = AttentionRule(sees_context_and_earlier_words, causal=True)
CAUSAL = AttentionRule(sees_itself_and_what_came_before, causal=True)

RULES: Registry[AttentionRule] = Registry(
    "rule of attention",
    __package__,
    {
        "bidirectional": "attention:BIDIRECTIONAL",
        "sequence_to_sequence": "attention:SEQUENCE_TO_SEQUENCE",
        "causal": "attention:CAUSAL",
    },
)
"""
By the name that a pass gives as `attention_rule`. A fusion says in its `rules` which of them it serves. No checkpoint
names a rule, so that one of your own stands in the file of a part that needs it, or is imported there.
"""


def build_attention_mask(
    config,
    states: torch.Tensor,
    key_mask: torch.Tensor,
    rule: str,
    layout: AttentionLayout,
    cache: Cache | None = None,
):
    """
    The mask in the form that the configured attention kernel takes.

    Args:
        states: (batch, tokens, width), for its size, type and device.
        key_mask: (batch, past tokens + tokens), 1 if a token may be seen at all. No token sees padding but padding
            itself, whose states mean nothing and are kept as the original's.
        rule: a name of `RULES`.
        layout: where the groups stand among past tokens + tokens.
        cache: what came before these tokens, under a causal rule only.

    Raises:
        ValueError: for an unknown rule, or keys and values kept under one that is not causal.
    """
    named = RULES.find(rule)
    if cache is not None and not named.causal:
        causal = ", ".join(repr(name) for name in RULES if RULES[name].causal)
        raise ValueError(f"Keys and values cannot be kept under `attention_rule` {rule!r}; they can under {causal}.")
    if named.allowed is None:
        return create_bidirectional_mask(config=config, inputs_embeds=states, attention_mask=key_mask)
    allowed, real = named.allowed, key_mask.bool()

    def visible(batch_idx, head_idx, q_idx, kv_idx):
        return allowed(q_idx, kv_idx, layout) & (real[batch_idx, kv_idx] | ~real[batch_idx, q_idx])

    return kernel_mask(config, states, key_mask.shape[1], visible)


def kernel_mask(
    config, states: torch.Tensor, num_keys: int, visible: Callable[..., torch.Tensor], first_query: int | None = None
):
    """
    A mask in the form that the configured attention kernel takes.

    Args:
        states: (batch, queries, width), for its size, type and device.
        num_keys: how many there are.
        visible: (row, head, query, key) -> whether that query sees that key, all of them whole numbers in tensors that
            broadcast.
        first_query: the number of the first query; by default such that the last query has that of the last key.
    """
    # Not by `create_bidirectional_mask`, which maps a rule over single places: as slow as a layer when one word is
    # written at a time. A rule here takes all places at once.
    return ALL_MASK_ATTENTION_FUNCTIONS[config._attn_implementation](
        batch_size=states.shape[0],
        q_length=states.shape[1],
        kv_length=num_keys,
        q_offset=num_keys - states.shape[1] if first_query is None else first_query,
        mask_function=visible,
        allow_is_causal_skip=False,
        dtype=states.dtype,
        device=states.device,
    )

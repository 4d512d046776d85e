"""What CoCa's image trunk, text side, pooler and decoder are built of (Yu et al., 2022, arXiv:2205.01917)."""

from typing import Any

import torch
from torch import nn
from transformers import Cache
from transformers import initialization as init
from transformers.activations import ACT2FN

from ..core.upstream import ALL_ATTENTION_FUNCTIONS, GradientCheckpointingLayer
from .attention import eager_attention_forward
from .dropout import VioletDropout
from .offloading import read_weights
from .scaled_linear import VioletScaledLinear


class CocaAttention(nn.Module):
    """
    Self-attention with one projection to queries, keys and values, by the kernel that the configuration names;
    `layer` is its place in a cache.
    """

    def __init__(self, config: Any, layer: int, layers: int, dropout: float):
        super().__init__()
        self.config = config
        self.layer = layer
        self.heads = config.num_attention_heads
        self.scaling = (config.hidden_size // self.heads) ** -0.5
        self.dropout = dropout
        self.is_causal = False
        width = config.hidden_size
        self.qkv = VioletScaledLinear(width, 3 * width)
        self.out = VioletScaledLinear(width, width, std=(2 * width * layers) ** -0.5)

    def forward(
        self, states: torch.Tensor, mask: torch.Tensor | None = None, cache: Cache | None = None, first_layer: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """states (batch, tokens, width) -> the same shape, and the weights if the kernel gives them"""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        # (batch, tokens, 3 * width) -> (batch, tokens, 3, heads, head width) -> (3, batch, heads, tokens, head width)
        query, key, value = self.qkv(states).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if cache is not None:
            key, value = cache.update(key, value, first_layer + self.layer)
        dropout = self.dropout if self.training else 0.0
        output, weights = attend(self, query, key, value, mask, scaling=self.scaling, dropout=dropout)
        return self.out(output.flatten(2)), weights  # (batch, tokens, heads, head width) -> (batch, tokens, width)


class CocaCrossAttention(nn.Module):
    """
    Attention of queries to a context of any width, as torch's own module keeps its weights: the three projections in
    one matrix if both widths are equal.

    Args:
        std: of the last layer's weights at the start.
    """

    def __init__(
        self, config: Any, width: int, context_width: int, heads: int, dropout: float = 0.0, std: float | None = None
    ):
        super().__init__()
        self.config = config
        self.width, self.heads = width, heads
        self.scaling = (width // heads) ** -0.5
        self.dropout = dropout
        self.is_causal = False
        if width == context_width:
            self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        else:
            self.q_proj_weight = nn.Parameter(torch.empty(width, width))
            self.k_proj_weight = nn.Parameter(torch.empty(width, context_width))
            self.v_proj_weight = nn.Parameter(torch.empty(width, context_width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out = VioletScaledLinear(width, width, std=std)

    def start_weights(self) -> None:
        """Normal with a deviation of the width's inverse root, biases 0."""
        for name, weight in self.named_parameters(recurse=False):
            if name.endswith("weight"):
                init.normal_(weight, std=weight.shape[1] ** -0.5)
        init.zeros_(self.in_proj_bias)

    def weights(self) -> tuple[torch.Tensor, ...]:
        """The matrices of queries, keys and values."""
        if hasattr(self, "in_proj_weight"):
            return self.in_proj_weight.chunk(3)
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def by_heads(self, states: torch.Tensor, which: int) -> torch.Tensor:
        """(batch, tokens, any width) -> (batch, heads, tokens, head width), the projection of that number"""
        weight, bias = read_weights(self, lambda: (self.weights()[which], self.in_proj_bias.chunk(3)[which]))
        projected = nn.functional.linear(states, weight, bias)
        return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_and_values(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, keys, context width) -> (batch, heads, keys, head width) twice"""
        return self.by_heads(context, 1), self.by_heads(context, 2)

    def forward(
        self, states: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """states (batch, tokens, width), keys and values as `keys_and_values` gives them -> (batch, tokens, width)"""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.dropout if self.training else 0.0
        query = self.by_heads(states, 0)
        output, _ = attend(self, query, key, value, mask, scaling=self.scaling, dropout=dropout)
        return self.out(output.flatten(2))  # (batch, tokens, heads, head width) -> (batch, tokens, width)


class CocaMLP(nn.Module):
    """Linear, GELU, Linear; `layers` are those of its tower."""

    def __init__(self, config: Any, layers: int):
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.fc1 = VioletScaledLinear(width, inner, std=(2 * width) ** -0.5)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = VioletScaledLinear(inner, width, std=(2 * width * layers) ** -0.5)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(states)))


class CocaBlock(GradientCheckpointingLayer):
    """x + attention(norm(x)), and then x + MLP(norm(x))."""

    def __init__(self, config: Any, layer: int, layers: int, dropout: float = 0.0, attention_dropout: float = 0.0):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = CocaAttention(config, layer, layers, attention_dropout)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = CocaMLP(config, layers)
        self.dropout = VioletDropout(dropout)

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """(batch, tokens, width) -> the same shape"""
        states = states + self.dropout(self.attention(self.attention_norm(states), mask, **kwargs)[0])
        return states + self.dropout(self.mlp(self.mlp_norm(states)))


class CocaCrossBlock(GradientCheckpointingLayer):
    """
    x + attention(norm(x); norm(context)), and then x + MLP(norm(x)). `layer` is the place of the context's keys and
    values in a cache: they are computed with the first words, and read from there with later ones.
    """

    def __init__(self, config: Any, layer: int, layers: int, dropout: float = 0.0, attention_dropout: float = 0.0):
        super().__init__()
        width = config.hidden_size
        self.layer = layer
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.context_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        heads, std = config.num_attention_heads, (2 * width * layers) ** -0.5
        self.attention = CocaCrossAttention(config, width, width, heads, attention_dropout, std)
        self.mlp_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = CocaMLP(config, layers)
        self.dropout = VioletDropout(dropout)

    def forward(
        self, states: torch.Tensor, context: torch.Tensor | None, mask: torch.Tensor, cache: Cache | None = None
    ) -> torch.Tensor:
        """
        Args:
            states: (batch, words, width).
            context: (batch, keys, width); None if its keys and values are in the cache.
            mask: which keys are seen, in the kernel's form.
        """
        if context is not None:
            key, value = self.attention.keys_and_values(self.context_norm(context))
            if cache is not None:
                cache.update(key, value, self.layer)
        else:
            kept: Any = cache
            key, value = kept.layers[self.layer].keys, kept.layers[self.layer].values
        states = states + self.dropout(self.attention(self.attention_norm(states), key, value, mask))
        return states + self.dropout(self.mlp(self.mlp_norm(states)))

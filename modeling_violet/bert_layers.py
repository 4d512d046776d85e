"""BERT's layer: of the fusion, and of text sides that are built of it."""

import torch
from torch import nn
from transformers import Cache
from transformers.activations import ACT2FN

from ..core.upstream import ALL_ATTENTION_FUNCTIONS, GradientCheckpointingLayer
from .activations import activate
from .attention import eager_attention_forward
from .dropout import VioletDropout

ALL = slice(None)


class VioletBertAttention(nn.Module):
    """Self-attention of BERT, by the kernel that the configuration names; `layer` is its place in a cache."""

    def __init__(self, config, layer: int):
        super().__init__()
        self.config = config
        self.layer = layer
        self.head_width = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_width**-0.5
        self.dropout = config.attention_probs_dropout_prob
        self.is_causal = False
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, states: torch.Tensor, mask, cache: Cache | None = None, asking: slice = ALL, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        states (batch, tokens, width), and which of them ask (the mask has rows for those) -> the same shape for those
        that ask, and the weights if the kernel gives them
        """
        asked = states[:, asking]
        # (batch, tokens, width) -> (batch, heads, tokens, head width)
        query, key, value = (
            layer(given).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for layer, given in ((self.query, asked), (self.key, states), (self.value, states))
        )
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        dropout, kernel = self.dropout if self.training else 0.0, self.config._attn_implementation
        if dropout and kernel == "sdpa" and states.device.type == "cpu":
            kernel = "eager"  # torch takes plain steps here, too, with draws of its own
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(kernel, eager_attention_forward)
        output, weights = attention(self, query, key, value, mask, scaling=self.scaling, dropout=dropout, **kwargs)
        return self.output(output.reshape(asked.shape).contiguous()), weights


class VioletBertLayer(GradientCheckpointingLayer):
    """
    A BERT layer; with `fusion_norm="pre"` its norms stand before the sub-layers instead of behind them. What is
    recorded of a model is told by classes, so that layers of the fusion are a class of their own.
    """

    attention_class = VioletBertAttention

    def __init__(self, config, layer: int):
        super().__init__()
        self.norm_first = config.fusion_norm == "pre"
        self.attention = self.attention_class(config, layer)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = VioletDropout(config.hidden_dropout_prob)

    def feed_forward(self, states: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, tokens, width), and which tokens are no padding (batch, tokens), if that is known -> like states"""
        return self.dropout(self.output(activate(self.activation, self.intermediate(states))))

    def forward(
        self, states: torch.Tensor, mask, real: torch.Tensor | None = None, asking: slice = ALL, **kwargs
    ) -> torch.Tensor:
        """(batch, tokens, width) -> the states of those tokens that ask, all of them by default"""
        read = self.attention_norm(states) if self.norm_first else states
        attended = self.dropout(self.attention(read, mask, asking=asking, **kwargs)[0])
        states, real = states[:, asking] + attended, real if real is None else real[:, asking]
        if self.norm_first:
            return states + self.feed_forward(self.output_norm(states), real)
        states = self.attention_norm(states)
        return self.output_norm(states + self.feed_forward(states, real))

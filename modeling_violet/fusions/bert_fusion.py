"""The fusion encoder: named groups of tokens (video, prompt, text, ...) that attend to one another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import Cache

from ..attention import AttentionLayout, build_attention_mask, record_attention
from ..bert_layers import ALL, VioletBertAttention, VioletBertLayer
from ..tokens import Tokens
from .fusion import Fusion


class VioletFusionAttention(VioletBertAttention):
    """That of a layer of the fusion."""


class VioletFusionLayer(VioletBertLayer):
    """A layer of the fusion."""

    attention_class = VioletFusionAttention


class VioletBertFusion(Fusion):
    """BERT's encoder over named token groups. It adds no positions: each group brings its own."""

    rules: tuple[str, ...] = ("bidirectional", "sequence_to_sequence")
    hears = True
    narrows = True

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(self.build_layer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.fusion_norm == "pre" else None
        )

    def build_layer(self, config, layer: int) -> VioletFusionLayer:
        """The layer in that place, from 0."""
        return VioletFusionLayer(config, layer)

    def forward(
        self,
        groups: dict[str, Tokens],
        rule: str = "bidirectional",
        cache: Cache | None = None,
        past_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> dict[str, torch.Tensor]:
        first_of: str | None = kwargs.pop("first_of", None)
        lengths = {name: group.tokens.shape[1] for name, group in groups.items()}
        states = torch.cat([group.tokens for group in groups.values()], dim=1)
        real = torch.cat([group.mask for group in groups.values()], dim=1)
        key_mask, past = real, {}
        if past_mask is not None:
            key_mask = torch.cat([past_mask, real], dim=1)
            past = {"past": past_mask.shape[1]}
        layout = AttentionLayout({**past, **lengths}, self.outside)
        mask = build_attention_mask(self.config, states, key_mask, rule, layout, cache)
        for layer in self.layers[:-1]:
            states = layer(states, mask, real=real, cache=cache, **kwargs)
        asking = ALL
        if first_of is not None and self.config._attn_implementation in ("eager", "sdpa"):  # masks with a row a query
            lengths, asking = {first_of: 1}, slice(layout.start(first_of), layout.start(first_of) + 1)
            mask = mask if mask is None or mask.shape[2] == 1 else mask[:, :, asking]
        states = self.layers[-1](states, mask, real=real, cache=cache, asking=asking, **kwargs)
        if self.norm is not None:
            states = self.norm(states)
        return dict(zip(lengths, states.split(list(lengths.values()), dim=1), strict=True))


class ReceivedAttention:
    """The attention that each token received in one pass; `total` (batch, tokens) once there was one."""

    total: torch.Tensor | None = None

    def add(self, weights: torch.Tensor) -> None:
        # (batch, heads, query tokens, key tokens) -> (batch, key tokens)
        received = weights.float().mean(1).sum(1)
        self.total = received if self.total is None else self.total + received


@contextmanager
def record_received_attention(fusion: Fusion) -> Iterator[ReceivedAttention]:
    """
    Within it, a pass through the fusion sums up the attention that each token receives: mean over heads, sum over
    layers and queries. No gradient, plain attention steps, and only one layer's weights in memory at a time.

    Raises:
        ValueError: for a fusion of other layers than BERT's.
    """
    received = ReceivedAttention()
    with record_fusion_attention(fusion, received.add), torch.no_grad():
        yield received


@contextmanager
def record_fusion_attention(fusion: Fusion, take: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """
    Within it, `take` is given the weights (batch, heads, tokens, tokens) of each layer of a pass, the first one first;
    see `record_attention`. The fusion does not narrow for that time: the last layer's weights are of all tokens.

    Raises:
        ValueError: for a fusion of other layers than BERT's.
    """
    attentions = [module for module in fusion.modules() if isinstance(module, VioletFusionAttention)]
    if not attentions:
        raise ValueError(f"The fusion {type(fusion).__name__} has no layers of BERT, whose attention is read.")
    narrows, fusion.narrows = fusion.narrows, False
    try:
        with record_attention(attentions, take):
            yield
    finally:
        fusion.narrows = narrows

"""
VATT's backbone and what each of its modalities has of its own (Akbari et al., 2021, "VATT: Transformers for
Multimodal Self-Supervised Learning from Raw Video, Audio and Text", arXiv:2104.11178).

Letters in this file: B batch, N tokens, D width, d width of a head.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from ..configuration.configuration_violet import _refuse, _refuse_unknown, _require_positive
from ..core.carried_code import without_code
from ..core.upstream import ALL_ATTENTION_FUNCTIONS, GradientCheckpointingLayer, create_bidirectional_mask
from ..core.whole_folders import SavedWhole
from .attention import eager_attention_forward
from .dropout import VioletDropout
from .natural_spline import natural_spline
from .shared_layers import SharedLayersModel

BACKBONE = ("backbone_size", "num_hidden_layers", "num_attention_heads", "head_dim", "intermediate_size")
"""Fields of a configuration that say which shape the backbone has."""

AXES = ("temporal", "vertical", "horizontal")


class VattLayersConfig(PreTrainedConfig):
    """What the configurations of VATT's modalities have in common; each declares these fields itself."""

    backbone_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    intermediate_size: int
    hidden_size: int
    dropout: float | int
    layer_norm_eps: float

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))

    @property
    def pooled_size(self) -> int:
        """Width of the vector of a clip, a sound or a text."""
        return self.hidden_size

    def validate_architecture(self):
        """Refuses contradictions, naming the field."""
        super().validate_architecture()
        _require_positive(self, *BACKBONE, "hidden_size")
        if not 0 <= self.dropout < 1:
            _refuse("dropout", f"must lie in [0, 1), got {self.dropout}.")


class VattPositions(nn.Module):
    """Learned rows for each axis of a grid, added to one another, and a norm of that sum."""

    def __init__(self, width: int, buckets: tuple[int, ...], eps: float):
        super().__init__()
        for axis, places in zip(AXES, buckets, strict=False):
            self.register_parameter(axis, nn.Parameter(torch.empty(places, width)))
        self.norm = nn.LayerNorm(width, eps=eps)

    def tables(self) -> list[nn.Parameter]:
        """The rows of each axis."""
        return [getattr(self, axis) for axis in AXES if hasattr(self, axis)]

    def forward(self, grid: tuple[int, ...]) -> torch.Tensor:
        """A grid of as many axes -> (its places, D), the last axis fastest."""
        total: Any = 0
        for axis, (table, places) in enumerate(zip(self.tables(), grid, strict=True)):
            rows = natural_spline(table, places)
            total = total + rows.reshape(*(places if i == axis else 1 for i in range(len(grid))), -1)
        return self.norm(total).flatten(0, -2)


class VattAttention(nn.Module):
    """Attention of heads whose widths need not add up to the states'."""

    def __init__(self, config: VattLayersConfig):
        super().__init__()
        self.config = config
        self.heads = (config.num_attention_heads, config.head_dim)
        inner = config.num_attention_heads * config.head_dim
        self.scaling = config.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.backbone_size, inner)
        self.k_proj = nn.Linear(config.backbone_size, inner)
        self.v_proj = nn.Linear(config.backbone_size, inner)
        self.out_proj = nn.Linear(inner, config.backbone_size)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(B, N, D) -> the same shape"""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        # (B, N, D) -> (B, N, heads, d) -> (B, heads, N, d)
        query, key, value = (
            project(x).unflatten(-1, self.heads).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.config.dropout if self.training else 0.0
        states, _ = attend(self, query, key, value, mask, scaling=self.scaling, dropout=dropout)
        return self.out_proj(states.flatten(2))  # (B, N, heads, d) -> (B, N, D)


class VattLayer(GradientCheckpointingLayer):
    """x + attention(norm(x)), and then x + MLP(norm(x))."""

    def __init__(self, config: VattLayersConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.backbone_size, eps=config.layer_norm_eps)
        self.attention = VattAttention(config)
        self.mlp_norm = nn.LayerNorm(config.backbone_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.backbone_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.backbone_size)
        self.dropout = VioletDropout(config.dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(B, N, D) -> the same shape"""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        inner = self.dropout(nn.functional.gelu(self.fc1(self.mlp_norm(x))))
        return x + self.dropout(self.fc2(inner))


class VattBackbone(nn.Module):
    """The Transformer: one for each modality, or one for all of them."""

    def __init__(self, config: VattLayersConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(VattLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.backbone_size, eps=config.layer_norm_eps)
        self.dropout = VioletDropout(config.dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, N, D), and a mask (B, N), 1 for a token and 0 for padding -> (B, N, D)"""
        if mask is not None:
            mask = create_bidirectional_mask(config=self.config, inputs_embeds=x, attention_mask=mask)
        for layer in self.layers:
            x = layer(x, mask)
        return self.dropout(self.norm(x))


class VattStream(nn.Module):
    """
    What a modality has of its own around the backbone: a layer in front, positions, a token that gathers all others
    (AGG), and a layer behind.

    Args:
        config: the modality's.
        raw: width of what its patches or words are embedded as.
        buckets: learned positions of each axis of its grid.
    """

    def __init__(self, config: VattLayersConfig, raw: int, buckets: tuple[int, ...]):
        super().__init__()
        self.pre_projection = nn.Linear(raw, config.backbone_size)
        self.positions = VattPositions(config.backbone_size, buckets, config.layer_norm_eps)
        self.aggregate = nn.Parameter(torch.empty(config.backbone_size))
        self.post_projection = nn.Linear(config.backbone_size, config.hidden_size)
        self.dropout = VioletDropout(config.dropout)

    def forward(
        self, embedded: torch.Tensor, grid: tuple[int, ...], mask: torch.Tensor | None, kept: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the backbone gets, AGG first: see `SharedLayersModel.compute`."""
        x = nn.functional.gelu(self.pre_projection(embedded))
        x = self.dropout(x + self.positions(grid)[: x.shape[1]].to(x.dtype))
        if kept is not None:
            x = x.gather(1, kept.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
            mask = None if mask is None else mask.gather(1, kept)
        x = torch.cat([self.aggregate.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        return x, None if mask is None else nn.functional.pad(mask, (1, 0), value=1)

    def finish(self, states: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the backbone's states those of the tokens, and AGG's."""
        features = nn.functional.gelu(self.post_projection(states))
        return features[:, 1:], features[:, 0]


class VattPreTrainedModel(SavedWhole, SharedLayersModel):
    """A modality's model; its layers are its own, or the vision encoder's."""

    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["VattLayer"]
    _can_record_outputs = {"hidden_states": VattLayer}
    backbone_class = VattBackbone
    backbone_fields = (*BACKBONE, "layer_norm_eps", "dropout")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Glorot's for layers and the AGG token, 1 / √D for positions."""
        if isinstance(module, VattPositions):
            for table in module.tables():
                init.trunc_normal_(table, std=table.shape[1] ** -0.5)
        elif isinstance(module, VattStream):
            bound = math.sqrt(3 / len(module.aggregate))
            init.uniform_(module.aggregate, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv3d):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.uniform_(module.weight, -0.05, 0.05)

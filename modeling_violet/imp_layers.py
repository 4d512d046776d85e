"""
IMP's encoder, one for all modalities, and what each of them has of its own (Akbari et al., 2023, "Alternating Gradient
Descent and Mixture-of-Experts for Integrated Multimodal Perception", arXiv:2305.06324).

Letters in this file: B batch, N tokens, D width, d width of a head.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from ..configuration.configuration_violet import _refuse, _refuse_unknown, _require_positive
from ..core.carried_code import without_code
from ..core.upstream import ALL_ATTENTION_FUNCTIONS, GradientCheckpointingLayer
from ..core.whole_folders import SavedWhole
from .attention import eager_attention_forward
from .experts import ExpertOptions, VioletExperts
from .shared_layers import SharedLayersModel

IMP_SIZES = ("backbone_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "qk_norm", "experts")
"""Fields of a configuration that say which shape the encoder has."""
GELU_TANH = "gelu_pytorch_tanh"


class ImpLayersConfig(PreTrainedConfig):
    """What the configurations of IMP's modalities have in common; each declares these fields itself."""

    backbone_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_size: int
    qk_norm: bool
    experts: dict[str, Any] | None
    layer_norm_eps: float

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))

    @property
    def pooled_size(self) -> int:
        """Width of the vector of a clip, a sound or a text."""
        return self.hidden_size

    @property
    def expert_options(self) -> ExpertOptions | None:
        """How the last layers' experts work; None for none."""
        return None if self.experts is None else ExpertOptions.of(self.experts, f"{self.base_config_key}.experts")

    def validate_architecture(self):
        """Refuses contradictions, naming the field."""
        super().validate_architecture()
        _require_positive(self, *IMP_SIZES[:4], "hidden_size")
        if self.backbone_size % self.num_attention_heads:
            _refuse(
                "num_attention_heads",
                f"{self.num_attention_heads} does not divide `backbone_size` {self.backbone_size}.",
            )
        options = self.expert_options
        if options is not None and options.layers > self.num_hidden_layers:
            _refuse(
                "experts",
                f"`layers` {options.layers} are more than `num_hidden_layers` {self.num_hidden_layers}.",
            )


def read_rows(table: torch.Tensor, places: int) -> torch.Tensor:
    """Of the rows (m, D) those that n places read: place k reads row ⌊k · m / n⌋, in whole numbers. (n, D)"""
    return table[torch.arange(places, device=table.device) * len(table) // places]


class ImpPositions(nn.Module):
    """Learned rows for each axis of a grid, added to one another, and a norm of that sum."""

    def __init__(self, width: int, rows: tuple[int, ...], eps: float):
        super().__init__()
        self.names = tuple(f"axis_{number}" for number in range(len(rows)))
        for name, count in zip(
            self.names, rows, strict=True
        ):  # no ParameterList: transformers would not start its weights
            self.register_parameter(name, nn.Parameter(torch.empty(count, width)))
        self.norm = nn.LayerNorm(width, eps=eps)

    def tables(self) -> list[nn.Parameter]:
        """The rows of each axis."""
        return [getattr(self, name) for name in self.names]

    def forward(self, grid: tuple[int, ...]) -> torch.Tensor:
        """A grid of as many axes -> (its places, D), the last axis fastest."""
        total: Any = 0
        for axis, (table, places) in enumerate(zip(self.tables(), grid, strict=True)):
            shape = (places if i == axis else 1 for i in range(len(grid)))
            total = total + read_rows(table, places).reshape(*shape, -1)
        return self.norm(total).flatten(0, -2)


class ImpAttention(nn.Module):
    """Attention without biases; with `qk_norm` queries and keys are normalised head by head."""

    def __init__(self, config: ImpLayersConfig):
        super().__init__()
        self.config = config
        width, self.head_dim = config.backbone_size, config.backbone_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm = (
            nn.LayerNorm(self.head_dim, eps=config.layer_norm_eps, bias=False) if config.qk_norm else nn.Identity()
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(B, N, D) -> the same shape"""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        # (B, N, D) -> (B, N, heads, d)
        query, key, value = (
            project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        # (B, N, heads, d) -> (B, heads, N, d)
        query, key, value = (one.transpose(1, 2) for one in (self.q_norm(query), self.k_norm(key), value))
        states, _ = attend(self, query, key, value, mask, scaling=self.scaling, dropout=0.0)
        return self.out_proj(states.flatten(2))  # (B, N, heads, d) -> (B, N, D)


class ImpLayer(GradientCheckpointingLayer):
    """x + attention(norm(x)), and then x + MLP(norm(x)), or experts in the MLP's place."""

    def __init__(self, config: ImpLayersConfig, number: int):
        super().__init__()
        width, eps, options = config.backbone_size, config.layer_norm_eps, config.expert_options
        self.attention_norm = nn.LayerNorm(width, eps=eps, bias=False)
        self.attention = ImpAttention(config)
        self.mlp_norm = nn.LayerNorm(width, eps=eps, bias=False)
        self.experts: VioletExperts | None = None
        if options is not None and options.holds(number, config.num_hidden_layers):
            self.experts = VioletExperts(options, width, config.intermediate_size, GELU_TANH)
        else:
            self.fc1 = nn.Linear(width, config.intermediate_size, bias=False)
            self.fc2 = nn.Linear(config.intermediate_size, width, bias=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, real: torch.Tensor | None) -> torch.Tensor:
        """(B, N, D), what is added to attention's scores, and which tokens are real (B, N) -> (B, N, D)"""
        x = x + self.attention(self.attention_norm(x), mask)
        inner = self.mlp_norm(x)
        if self.experts is not None:
            return x + self.experts(inner, real)
        return x + self.fc2(nn.functional.gelu(self.fc1(inner), approximate="tanh"))


class ImpBackbone(nn.Module):
    """The Transformer that all modalities pass, one by one."""

    def __init__(self, config: ImpLayersConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(ImpLayer(config, number) for number in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.backbone_size, eps=config.layer_norm_eps)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, N, D), and a mask (B, N), 1 for a token and 0 for padding -> (B, N, D)"""
        added = None if mask is None else pair_mask(mask, x.dtype)
        for layer in self.layers:
            x = layer(x, added, mask)
        return self.norm(x)


def pair_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """
    (B, N) -> (B, 1, N, N), 0 where both tokens are real, and the lowest number elsewhere: no token sees padding, and
    padding, whose states mean nothing, sees all alike (as IMP's code).
    """
    real = mask.bool()
    both = (real.unsqueeze(1) & real.unsqueeze(2)).unsqueeze(1)
    return torch.zeros(both.shape, dtype=dtype, device=mask.device).masked_fill(~both, torch.finfo(dtype).min)


class ImpStream(nn.Module):
    """
    What a modality has of its own around the encoder: positions, a layer in front and one behind.

    Args:
        config: the modality's.
        rows: learned positions of each axis of its grid.
    """

    def __init__(self, config: ImpLayersConfig, rows: tuple[int, ...]):
        super().__init__()
        self.positions = ImpPositions(config.backbone_size, rows, config.layer_norm_eps)
        self.pre_projection = nn.Linear(config.backbone_size, config.backbone_size)
        self.post_projection = nn.Linear(config.backbone_size, config.hidden_size)

    def forward(
        self, embedded: torch.Tensor, grid: tuple[int, ...], mask: torch.Tensor | None, kept: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the backbone gets: see `SharedLayersModel.compute`."""
        x = embedded + self.positions(grid)[: embedded.shape[1]].to(embedded.dtype)
        if kept is not None:
            x = x.gather(1, kept.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
            mask = None if mask is None else mask.gather(1, kept)
        return self.pre_projection(x), mask

    def finish(self, states: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the backbone's states those of the tokens, 0 at padding, and their mean."""
        features = self.post_projection(states)
        real = torch.ones_like(features[..., :1]) if mask is None else mask.unsqueeze(-1).to(features.dtype)
        features = features * real
        return features, features.sum(1) / (real.sum(1) + 1e-6)


class ImpPreTrainedModel(SavedWhole, SharedLayersModel):
    """A modality's model; its layers are its own, or the vision encoder's."""

    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["ImpLayer"]
    _can_record_outputs = {"hidden_states": ImpLayer}
    backbone_class = ImpBackbone
    backbone_fields = (*IMP_SIZES, "layer_norm_eps")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """1 / √(the width of what they multiply) for layers, 0.02 for positions and words: the paper says nothing."""
        if isinstance(module, ImpPositions):
            for table in module.tables():
                init.trunc_normal_(table, std=0.02)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.trunc_normal_(module.weight, std=0.02)
        elif hasattr(module, "start_weights"):
            module.start_weights()  # type: ignore[operator]

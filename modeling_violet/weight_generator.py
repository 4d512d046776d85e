"""
The generator of VLoRA (Ma et al., 2024): visual tokens -> low-rank weights of a text model's layers, by queries that
attend to them. P visual tokens, d_g the generator's width; the other letters are `low_rank.py`'s.
"""

from functools import partial
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from ..configuration.configuration_violet import _refuse, _refuse_unknown, _require_positive
from ..core.carried_code import without_code
from .low_rank import KINDS, LowRankWeights, weighted_layers
from .offloading import read_weights


@strict
class VloraConfig(PreTrainedConfig):
    r"""
    Configuration of what makes weights of a clip. The defaults are for VIOLET's own fusion; the published 7B model has
    `generator_size` 1024, 8 blocks, rank 64 and `num_positions` 576.

    Args:
        generator_size (`int`): width of the generator; a multiple of its 16 heads.
        generator_blocks (`int`): its blocks.
        rank (`int`): rank of the weights.
        alpha (`float`, *optional*): the weights are multiplied by alpha / rank; `None` for `rank`.
        types (`str`): which matrices of a layer get weights: the letters q, k, v, o, and m for a branch around the
            whole MLP.
        skip_layers (`int`): every `skip_layers`-th layer gets weights; it divides the number of layers.
        separate (`bool`): whether each kind has a generator of its own.
        num_positions (`int`, *optional*): learned places of the visual tokens, as many as there are of them; `None`
            for tokens that know their places.
    """

    model_type = "low_rank"
    base_config_key = "fusion_model_config"

    generator_size: int = 256
    generator_blocks: int = 4
    rank: int = 16
    alpha: float | int | None = None
    types: str = KINDS
    skip_layers: int = 4
    separate: bool = True
    num_positions: int | None = None

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))

    @property
    def scale(self) -> float:
        """The factor of B."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def validate_architecture(self):
        """Refuses contradictions, naming the field."""
        super().validate_architecture()
        _require_positive(self, "generator_size", "generator_blocks", "rank", "skip_layers")
        if self.num_positions is not None:
            _require_positive(self, "num_positions")
        if self.generator_size % HEADS:
            _refuse(
                "generator_size", f"must be a multiple of the generator's {HEADS} heads, got {self.generator_size}."
            )
        if not self.types:
            _refuse("types", f"names no matrix that gets weights: give letters of {KINDS!r}.")
        unknown = sorted(set(self.types) - set(KINDS))
        if unknown:
            _refuse("types", f"{self.types!r} has the unknown letters {', '.join(unknown)}; known are {KINDS!r}.")
        if len(set(self.types)) < len(self.types):
            _refuse("types", f"{self.types!r} has a letter twice.")
        if self.alpha is not None and self.alpha <= 0:
            _refuse("alpha", f"must be above 0, got {self.alpha}.")

    def require_fit(self, num_layers: int, width: int, layers: str, size: str) -> None:
        """
        Compares with the text model that is to get the weights; `layers`, `size`: how its fields are called.

        Raises:
            ValueError: naming both fields.
        """
        if num_layers % self.skip_layers:
            raise ValueError(
                f"`fusion_model_config.skip_layers` {self.skip_layers} does not divide `{layers}` {num_layers}: every "
                f"{self.skip_layers}th layer gets weights, and the last one must be among them."
            )
        if self.rank > width:
            raise ValueError(
                f"`fusion_model_config.rank` {self.rank} is more than `{size}` {width}: no such matrix has that rank."
            )


HEADS = 16


class VloraAttention(nn.MultiheadAttention):
    """torch's multi-head attention with one matrix for queries, keys and values."""

    def start_weights(self) -> None:
        init.xavier_uniform_(self.in_proj_weight)
        init.zeros_(self.in_proj_bias)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's, which reads the weights of its `out_proj` itself."""
        return read_weights(self.out_proj, partial(super().forward, *args, **kwargs))


class VloraBlock(nn.Module):
    """Queries attend to one another, then to the visual tokens, which no norm touches; norms stand before."""

    def __init__(self, width: int):
        super().__init__()
        self.self_norm, self.cross_norm, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = VloraAttention(width, HEADS, batch_first=True)
        self.cross_attention = VloraAttention(width, HEADS, batch_first=True)
        self.intermediate = nn.Linear(width, 4 * width)
        self.output = nn.Linear(4 * width, width)

    def forward(self, queries: torch.Tensor, visual: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        normed = self.self_norm(queries)
        queries = queries + self.self_attention(normed, normed, normed, need_weights=False)[0]
        normed = self.cross_norm(queries)
        seen = self.cross_attention(normed, visual, visual, key_padding_mask=padding, need_weights=False)[0]
        queries = queries + seen
        return queries + self.output(nn.functional.gelu(self.intermediate(self.norm(queries))))


class VloraQueries(nn.Module):
    """Learned queries -> a matrix (d, r) each, through blocks and a head that they share."""

    def __init__(self, config: VloraConfig, num_queries: int, width: int):
        super().__init__()
        own = config.generator_size
        self.rank = config.rank
        self.queries = nn.Parameter(torch.empty(1, num_queries, own))
        self.blocks = nn.ModuleList(VloraBlock(own) for _ in range(config.generator_blocks))
        self.norm = nn.LayerNorm(own)
        self.head = nn.Linear(own, width * config.rank)

    def start_weights(self) -> None:
        init.normal_(self.queries)

    def forward(self, visual: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        """visual (clips, P, d_g) -> (clips, queries, d, r)"""
        queries = self.queries.expand(len(visual), -1, -1)
        for block in self.blocks:
            queries = block(queries, visual, padding)
        # (clips, queries, d * r) -> (clips, queries, d, r): the row is the slower index
        return self.head(self.norm(queries)).unflatten(-1, (-1, self.rank))


class VloraGenerator(nn.Module):
    """
    Visual tokens -> A of every kind and layer; and B, which is learned and no clip's.

    Args:
        config: its own.
        input_width: of the visual tokens.
        width: d.
        num_layers: of the text model.
    """

    def __init__(self, config: VloraConfig, input_width: int, width: int, num_layers: int):
        super().__init__()
        self.types, self.scale, self.rank = config.types, config.scale, config.rank
        kinds, layers = len(config.types), len(weighted_layers(num_layers, config.skip_layers))
        self.num_layers = layers
        self.projection = nn.Linear(input_width, config.generator_size)
        self.positions = (
            None
            if config.num_positions is None
            else nn.Parameter(torch.empty(1, config.num_positions, config.generator_size))
        )
        groups = [layers] * kinds if config.separate else [layers * kinds]
        self.generators = nn.ModuleList(VloraQueries(config, group, width) for group in groups)
        self.b = nn.Parameter(torch.empty(1, kinds * layers, width * config.rank))

    def start_weights(self) -> None:
        """As published; B is 0: at the start the text model is what it is without a clip."""
        if self.positions is not None:
            init.normal_(self.positions)
        init.zeros_(self.b)

    def visual(self, tokens: torch.Tensor) -> torch.Tensor:
        """(clips, P, input width) -> (clips, P, d_g), what the queries attend to."""
        visual = self.projection(tokens)
        if self.positions is None:
            return visual
        if tokens.shape[1] != self.positions.shape[1]:
            raise ValueError(
                f"A clip has {tokens.shape[1]} visual tokens, and `fusion_model_config.num_positions` is "
                f"{self.positions.shape[1]}: the learned places are for that number only."
            )
        return visual + self.positions

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            tokens: (clips, P, input width).
            mask: (clips, P), 1 for a token and 0 for padding; all 1 if it is not given.

        Returns:
            (clips, kinds, k, d, r), A.
        """
        visual = self.visual(tokens)
        padding = None if mask is None else ~mask.bool()
        parts = [generator(visual, padding) for generator in self.generators]
        # kinds x (clips, k, d, r), or (clips, kinds * k, d, r) -> (clips, kinds, k, d, r)
        return torch.cat(parts, dim=1).unflatten(1, (len(self.types), self.num_layers))

    def weights(self, a: torch.Tensor) -> LowRankWeights:
        """What rows with these A (rows, kinds, k, d, r) add to the text model's layers."""
        # (1, kinds * k, d * r) -> (kinds, k, d, r): the kind is the slowest index, the column the fastest
        b: Any = read_weights(self, lambda: self.b[0])
        b = b.unflatten(0, (len(self.types), self.num_layers)).unflatten(-1, (-1, self.rank))
        return LowRankWeights(self.types, a, self.scale * b)

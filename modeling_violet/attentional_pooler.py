"""
Attentional pooling (Yu et al., 2022, "CoCa: Contrastive Captioners are Image-Text Foundation Models",
arXiv:2205.01917): a clip's states, all frames in one row, become as many tokens as there are queries.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .coca_layers import CocaCrossAttention
from .embeddings import VioletVideoStates, interpolate_rows
from .tokens import Tokens, VisionStates

POOLERS = ("single", "parallel", "cascade")


@dataclass
class PoolerOptions:
    """
    Options of the `vision_positions` "attentional_pooler", as the configuration's `pooler` has them.

    Attributes:
        kind: "single", one pooler whose first query gives the clip's vector and whose others the tokens (the published
            models); "parallel", a pooler of one query for the vector beside that of the tokens; "cascade", that pooler
            reads the tokens (the paper's).
        num_queries: of the pooler that gives the tokens.
        num_heads: of each pooler.
        frame_rows: whether each frame has a learned row, 0 at the start. Without it, and with an encoder that reads
            frame by frame, the order of the frames is lost.
    """

    kind: str = "single"
    num_queries: int = 256
    num_heads: int = 8
    frame_rows: bool = True

    def check(self, width: int) -> None:
        """
        Refuses what a model of that width cannot have.

        Raises:
            ValueError: naming the option.
        """
        if self.kind not in POOLERS:
            raise ValueError(f"`pooler.kind`: {self.kind!r} is unknown; known are {', '.join(POOLERS)}.")
        least = 2 if self.kind == "single" else 1
        if self.num_queries < least:
            raise ValueError(
                f"`pooler.num_queries`: the kind {self.kind!r} needs {least} or more"
                f"{', the first for the vector of the clip' if least == 2 else ''}, got {self.num_queries}."
            )
        if self.num_heads < 1 or width % self.num_heads:
            raise ValueError(f"`pooler.num_heads`: {self.num_heads} does not divide `hidden_size` {width}.")


def pooler_options(config: Any) -> PoolerOptions:
    """
    The pooler's options in a configuration.

    Raises:
        ValueError: for one that is unknown or cannot be.
    """
    given, known = config.pooler or {}, [option.name for option in fields(PoolerOptions)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"`pooler` has no option {', '.join(unknown)}; it has: {', '.join(known)}.")
    options = PoolerOptions(**given)
    options.check(config.hidden_size)
    return options


class CocaPooler(nn.Module):
    """
    attention(norm(queries); norm(states)): no residual and no MLP.

    Args:
        width: of the queries and of what it gives.
        context_width: of the states.
    """

    def __init__(self, config: Any, queries: int, heads: int, width: int, context_width: int):
        super().__init__()
        self.query = nn.Parameter(torch.empty(queries, width))
        self.query_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.context_norm = nn.LayerNorm(context_width, eps=config.layer_norm_eps)
        self.attention = CocaCrossAttention(config, width, context_width, heads)

    def start_weights(self) -> None:
        """Queries begin as normal numbers."""
        init.normal_(self.query)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, context width) -> (batch, queries, width)"""
        key, value = self.attention.keys_and_values(self.context_norm(states))
        queries = self.query_norm(self.query).expand(len(states), -1, -1)
        return self.attention(queries, key, value)


class VioletFrameRows(nn.Module):
    """A learned row for each frame, 0 at the start; for more frames they are interpolated."""

    def __init__(self, frames: int, width: int):
        super().__init__()
        self.rows = nn.Parameter(torch.empty(frames, width))

    def start_weights(self) -> None:
        """A clip of a still picture begins as that picture."""
        init.zeros_(self.rows)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, frames, tokens, width) -> the same shape, with each frame's row added"""
        return states + interpolate_rows(self.rows, states.shape[1]).unsqueeze(1)


class VioletAttentionalPooler(VioletVideoStates):
    """Any encoder's states, those of all frames in one row, through one or two attentional poolers."""

    on_grid = False

    def __init__(self, config):
        super().__init__(config)
        options = pooler_options(config)
        vision, self.width = config.vision_config.hidden_size, config.hidden_size
        self.projection = nn.Identity()  # the pooler itself reads the encoder's width
        self.kind = options.kind
        self.frame_rows = VioletFrameRows(config.num_video_frames, vision) if options.frame_rows else None
        self.pooler = CocaPooler(config, options.num_queries, options.num_heads, self.width, vision)
        self.vector_pooler = None
        if self.kind != "single":
            read = vision if self.kind == "parallel" else self.width
            self.vector_pooler = CocaPooler(config, 1, options.num_heads, self.width, read)
        self.norm = nn.LayerNorm(self.width if self.kind == "single" else vision, eps=config.layer_norm_eps)

    @property
    def pooled_size(self) -> int:
        return self.width

    def vector_parameters(self) -> list[nn.Parameter]:
        return [] if self.vector_pooler is None else list(self.vector_pooler.parameters())

    def arrange(self, states: VisionStates, hidden_frame_order: torch.Tensor | None = None) -> Tokens:
        """See `VioletVideoStates.arrange`; the tokens stand on no grid, and the clip has a vector, `pooled`."""
        features = states.last_hidden_state
        assert features is not None  # every encoder has a grid
        by_frame = self.place(features, states.frame_states, hidden_frame_order)
        if self.frame_rows is not None:
            by_frame = self.frame_rows(by_frame)
        flat = by_frame.flatten(1, 2)  # (batch, frames, tokens, width) -> (batch, frames * tokens, width)
        if states.clip_states is not None:
            flat = torch.cat([states.clip_states, flat], dim=1)
        if self.vector_pooler is None:
            pooled = self.norm(self.pooler(flat))
            vector, tokens = pooled[:, 0], pooled[:, 1:]
        else:
            flat = self.norm(flat)
            tokens = self.pooler(flat)
            vector = self.vector_pooler(flat if self.kind == "parallel" else tokens)[:, 0]
        mask = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        return Tokens(tokens, mask, pooled=vector)

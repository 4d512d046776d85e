"""Embeddings of videos and texts before the fusion, in one space: the table of projections."""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from ..core.registry import Registry
from .losses import at_least_float32
from .offloading import read_weights
from .tokens import Tokens

NUM_BASES = 4
"""What is kept of a sequence's order when it is pooled, see `pool_in_order`."""

PROJECTIONS: Registry[type["VioletProjection"]] = Registry(
    "projection",
    __package__,
    {
        "in_order": "projection:VioletProjection",
        "pooled": "pooled_projection:VioletPooledProjection",
        "pooled_with_bias": "pooled_projection:VioletPooledProjectionWithBias",
        "coca": "coca_projection:CocaProjection",
        "paragraph": "paragraph_projection:LfVilaProjection",
        "paragraph_and_clips": "paragraph_projection:LfVilaClipProjection",
        "fine_and_coarse": "vatt_projection:VattHierarchicalProjection",
        "joint": "vatt_projection:VattJointProjection",
        "disjoint": "imp_projection:ImpDisjointProjection",
        "language_model": "mm_gem_projection:MmGemProjection",
    },
    config_keys=("projection_type",),
)
"""By the configuration's `projection_type`."""


def build_projection(config: PreTrainedConfig, video: Any, text: Any) -> "VioletProjection | None":
    """The projection of a configuration, for those two sides; None if its `projection_dim` is None."""
    return None if config.projection_dim is None else PROJECTIONS.find(config.projection_type)(config, video, text)


def pool_in_order(states: torch.Tensor, mask: torch.Tensor, num_bases: int) -> torch.Tensor:
    """
    Pools a sequence so that its order is not lost: means weighted by the first `num_bases` cosines of the discrete
    cosine transform over each sequence's own length. The first is the plain mean; n bases keep n steps exactly.

    Args:
        states: (batch, steps, width).
        mask: (batch, steps), 1 for a step and 0 for padding behind it.

    Returns:
        (batch, num_bases * width)
    """
    mask = mask.to(torch.float32)
    length = mask.sum(1, keepdim=True).clamp(min=1)
    place = (mask.cumsum(1) - 0.5) / length  # (batch, steps), from 0 to 1
    frequency = math.pi * torch.arange(num_bases, device=states.device)
    weights = torch.cos(place.unsqueeze(1) * frequency[:, None]) * (mask / length).unsqueeze(1)
    return torch.bmm(weights.to(states.dtype), states).flatten(1)  # (batch, bases, width) -> (batch, bases * width)


class VioletProjection(nn.Module):
    """
    Video tokens and text tokens, before the fusion, into one space of unit vectors. Both keep order (of frames, of
    words), see `pool_in_order`: after a plain mean, "left" and "right", "first" and "then" would look alike.

    Args:
        config: the whole model's configuration.
        video: the model's video side (`embeddings.VideoEncoder`).
        text: its text side (`texts.TextSide`).

    Attributes:
        largest_scale: bound of `scale`.
        reads_boxes: whether a video's vector is that of the part that `Tokens.boxes` says, and not of the whole.
    """

    largest_scale = 100.0
    reads_boxes = False

    def __init__(self, config, video, text):
        super().__init__()
        if not video.on_grid:
            raise ValueError(
                "`projection_type` 'in_order' pools a video's frames, and its tokens stand on no grid with the "
                f"`vision_positions` {config.vision_positions!r}: use the `projection_type` 'coca' or 'pooled'."
            )
        self.video_projection = nn.Linear(NUM_BASES * video.width, config.projection_dim)
        self.text_projection = nn.Linear(NUM_BASES * (text.width or config.hidden_size), config.projection_dim)
        self.logit_scale = nn.Parameter(torch.empty(1))  # FSDP shards no scalars

    def start_weights(self) -> None:
        """The temperature; layers start as others do."""
        init.constant_(self.logit_scale, self.initial_logit_scale())

    def logarithm(self) -> torch.Tensor:
        """(1,), that of `scale`, before it is clamped."""
        return read_weights(self, lambda: self.logit_scale)

    def scale(self) -> torch.Tensor:
        """(1,), the inverse temperature: what inner products are multiplied by."""
        return at_least_float32(self.logarithm()).exp().clamp(max=self.largest_scale)

    def trained_scale(self) -> list[nn.Parameter]:
        """`logit_scale`, if it is learned."""
        scale = self.logit_scale
        return [scale] if isinstance(scale, nn.Parameter) and scale.requires_grad else []

    @staticmethod
    def initial_logit_scale() -> float:
        """Logarithm of the inverse of CLIP's initial temperature, 0.07."""
        return math.log(1 / 0.07)

    def video(self, video: Tokens) -> torch.Tensor:
        """-> (batch, projection_dim), of length 1"""
        frames = video.patches().mean((2, 3))  # (batch, frames, rows, columns, width) -> (batch, frames, width)
        pooled = pool_in_order(frames, frames.new_ones(frames.shape[:2]), NUM_BASES)
        return nn.functional.normalize(at_least_float32(self.video_projection(pooled)), dim=-1)

    def text(self, text: Tokens) -> torch.Tensor:
        """-> (batch, projection_dim), of length 1"""
        pooled = pool_in_order(text.tokens, text.mask, NUM_BASES)
        return nn.functional.normalize(at_least_float32(self.text_projection(pooled)), dim=-1)

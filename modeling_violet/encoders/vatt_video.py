"""VATT's video encoder (Akbari et al., 2021, arXiv:2104.11178): patches of several frames, and its backbone."""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ...configuration.configuration_violet import _refuse
from ...core.upstream import capture_outputs
from ..shared_layers import CubePatches
from ..tokens import Grid, VisionStates
from ..vatt_layers import VattBackbone, VattLayersConfig, VattPreTrainedModel, VattStream


@strict
class VattVisionConfig(CubePatches, VattLayersConfig):
    r"""
    Configuration of VATT's video encoder. The defaults are those of the published modality-agnostic Medium.

    Args:
        backbone_size (`int`): width of the backbone.
        num_hidden_layers (`int`): its blocks.
        num_attention_heads (`int`): heads of each; their widths need not add up to `backbone_size`.
        head_dim (`int`): width of a head.
        intermediate_size (`int`): width inside a block's MLP.
        hidden_size (`int`): width of the states, and of the clip's vector, behind the backbone.
        patch_size (`list[int]`): (frames, rows, columns) of pixels of a patch. What is left over at the end of an
            axis is not seen.
        position_grid (`list[int]`): learned positions in time, of rows and of columns. For other grids a natural cubic
            spline goes through each table.
        dropout (`float`): of attention weights, of both branches of a block, inside its MLP, and in front of and
            behind the blocks.
    """

    model_type = "vatt"
    base_config_key = "vision_config"

    backbone_size: int = 1024
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    head_dim: int = 64
    intermediate_size: int = 4096
    hidden_size: int = 1024
    num_channels: int = 3
    patch_size: list[int] | tuple[int, ...] = (4, 16, 16)
    position_grid: list[int] | tuple[int, ...] = (8, 14, 14)
    dropout: float | int = 0.1
    layer_norm_eps: float = 1e-6

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """
        The (steps, rows, columns) of states of clips of that size.

        Raises:
            ValueError: for clips smaller than a patch.
        """
        sizes, (steps, rows, columns) = (frames, height, width), self.cell
        if any(size < side for size, side in zip(sizes, self.cell, strict=True)):
            _refuse(
                "patch_size",
                f"VATT needs clips of {steps} frames of {rows} x {columns} pixels or more, got {frames} frames of "
                f"{height} x {width}.",
            )
        return frames // steps, height // rows, width // columns

    def validate_architecture(self):
        super().validate_architecture()
        self.check_patches()


@dataclass
class VattVisionOutput(VisionStates):
    """
    `VisionStates`, with the states of every layer if they are asked for.

    Attributes:
        last_hidden_state: (batch, steps, rows, columns, hidden_size); None if tokens were dropped.
        pooler_output: (batch, hidden_size), the AGG token's.
        kept_states: (batch, K, hidden_size), those of the kept places, if tokens were dropped.
        hidden_states: of what enters the first layer and of what leaves each, AGG first.
    """

    kept_states: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class VattVisionModel(VattPreTrainedModel):
    """VATT's video encoder: a backbone of VIOLET, and a model of its own."""

    config_class = VattVisionConfig
    base_model_prefix = "vatt"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    backbone: VattBackbone

    def __init__(self, config: VattVisionConfig):
        super().__init__(config)
        self.patches = nn.Conv3d(config.num_channels, config.backbone_size, config.cell, stride=config.cell)
        self.stream = VattStream(config, config.backbone_size, tuple(config.position_grid))
        self.backbone = VattBackbone(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.patches

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values_videos: torch.Tensor, kept: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> VattVisionOutput:
        """
        Args:
            pixel_values_videos: (batch, frames, channels, height, width), from -1 to 1.
            kept: (batch, K), places on the grid, time first, that are computed (DropToken); all if it is None.
        """
        frames, _, height, width = pixel_values_videos.shape[1:]
        grid = self.config.grid(frames, height, width)
        # (batch, frames, channels, height, width) -> (batch, channels, frames, height, width) -> (batch, D, *grid)
        embedded = self.patches(pixel_values_videos.transpose(1, 2).to(self.patches.weight.dtype))
        # (batch, D, *grid) -> (batch, N, D)
        states, pooled = self.compute(embedded.flatten(2).transpose(1, 2), grid, kept=kept)
        if kept is not None:
            return VattVisionOutput(pooler_output=pooled, kept_states=states)
        return VattVisionOutput(states.unflatten(1, grid), pooler_output=pooled)  # (batch, N, D) -> (batch, *grid, D)


AutoConfig.register(VattVisionConfig.model_type, VattVisionConfig, exist_ok=True)
AutoModel.register(VattVisionConfig, VattVisionModel, exist_ok=True)

"""IMP's video encoder (Akbari et al., 2023, arXiv:2305.06324): patches of several frames, and its layers."""

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ...configuration.configuration_violet import _refuse
from ...core.upstream import capture_outputs
from ..imp_layers import ImpBackbone, ImpLayersConfig, ImpPreTrainedModel, ImpStream
from ..shared_layers import CubePatches
from ..tokens import Grid, VisionStates


@strict
class ImpVisionConfig(CubePatches, ImpLayersConfig):
    r"""
    Configuration of IMP's video encoder. The defaults are those of IMP-B without experts.

    Args:
        backbone_size (`int`): width of the layers.
        num_hidden_layers (`int`), num_attention_heads (`int`): the layers, and the heads of each.
        intermediate_size (`int`): width inside a layer's MLP, and inside an expert.
        hidden_size (`int`): width of the states, and of the clip's vector, behind the layers.
        qk_norm (`bool`): whether queries and keys are normalised head by head, as IMP does with experts.
        experts (`dict`, *optional*): experts in the place of the last layers' MLP, see `experts.ExpertOptions`.
        patch_size (`list[int]`): (frames, rows, columns) of pixels of a patch.
        position_grid (`list[int]`): learned positions in time, of rows and of columns, m; of n places the k-th has row
            ⌊k · m / n⌋, so that clips of other lengths and sizes need no other table.
    """

    model_type = "imp"
    base_config_key = "vision_config"

    backbone_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_size: int = 768
    qk_norm: bool = False
    experts: dict[str, Any] | None = None
    num_channels: int = 3
    patch_size: list[int] | tuple[int, ...] = (4, 16, 16)
    position_grid: list[int] | tuple[int, ...] = (16, 32, 32)
    layer_norm_eps: float = 1e-6

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """
        The (steps, rows, columns) of states of clips of that size.

        Raises:
            ValueError: for clips that are no whole number of patches.
        """
        sizes, (steps, rows, columns) = (frames, height, width), self.cell
        if any(size < side or size % side for size, side in zip(sizes, self.cell, strict=True)):
            _refuse(
                "patch_size",
                f"IMP needs clips whose frames are a multiple of {steps}, and their height and width of {rows} and "
                f"{columns} pixels; got {frames} frames of {height} x {width}.",
            )
        return frames // steps, height // rows, width // columns

    def validate_architecture(self):
        super().validate_architecture()
        self.check_patches()


@dataclass
class ImpVisionOutput(VisionStates):
    """
    `VisionStates`, with the states of every layer if they are asked for.

    Attributes:
        last_hidden_state: (batch, steps, rows, columns, hidden_size); None if tokens were dropped.
        pooler_output: (batch, hidden_size), their mean.
        kept_states: (batch, K, hidden_size), those of the kept places, if tokens were dropped.
        hidden_states: of what enters the first layer and of what leaves each.
    """

    kept_states: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class ImpVisionModel(ImpPreTrainedModel):
    """IMP's video encoder: an encoder of VIOLET, and a model of its own."""

    config_class = ImpVisionConfig
    base_model_prefix = "imp"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    backbone: ImpBackbone

    def __init__(self, config: ImpVisionConfig):
        super().__init__(config)
        self.patches = nn.Conv3d(config.num_channels, config.backbone_size, config.cell, stride=config.cell)
        self.stream = ImpStream(config, tuple(config.position_grid))
        self.backbone = ImpBackbone(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.patches

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values_videos: torch.Tensor, kept: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> ImpVisionOutput:
        """
        Args:
            pixel_values_videos: (batch, frames, channels, height, width), from -1 to 1.
            kept: (batch, K), places on the grid, time first, that are computed (token drop); all if it is None.
        """
        frames, _, height, width = pixel_values_videos.shape[1:]
        grid = self.config.grid(frames, height, width)
        # (batch, frames, channels, height, width) -> (batch, channels, frames, height, width) -> (batch, D, *grid)
        embedded = self.patches(pixel_values_videos.transpose(1, 2).to(self.patches.weight.dtype))
        # (batch, D, *grid) -> (batch, N, D)
        states, pooled = self.compute(embedded.flatten(2).transpose(1, 2), grid, kept=kept)
        if kept is not None:
            return ImpVisionOutput(pooler_output=pooled, kept_states=states)
        return ImpVisionOutput(states.unflatten(1, grid), pooler_output=pooled)  # (batch, N, D) -> (batch, *grid, D)


AutoConfig.register(ImpVisionConfig.model_type, ImpVisionConfig, exist_ok=True)
AutoModel.register(ImpVisionConfig, ImpVisionModel, exist_ok=True)

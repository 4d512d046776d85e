"""CoCa's image trunk (Yu et al., 2022, arXiv:2205.01917): a ViT that reads a clip frame by frame."""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ...configuration.configuration_violet import (
    _refuse,
    _refuse_unknown,
    _require_activation,
    _require_positive,
    _require_whole_heads,
    _whole_patches,
)
from ...core.carried_code import without_code
from ...core.upstream import capture_outputs
from ...core.whole_folders import SavedWhole
from ..coca_layers import CocaAttention, CocaBlock
from ..scaled_linear import VioletScaledLinear
from ..tokens import Grid, VisionStates


@strict
class CocaVisionConfig(PreTrainedConfig):
    r"""
    Configuration of CoCa's image trunk. The defaults are those of the published ViT-B-32.

    Args:
        patch_size (`int`): side of a patch, in pixels; a frame's sides must be multiples of it.
        image_size (`int`): side of the square frames that have a learned position for each patch; for others the grid
            of positions is interpolated bicubically.
    """

    model_type = "coca_vit"
    base_config_key = "vision_config"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    num_channels: int = 3
    patch_size: int = 32
    image_size: int = 224
    layer_norm_eps: float = 1e-5

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))

    @property
    def normalization(self) -> dict[str, list[float]]:
        """Settings of the video processor: CLIP's colours."""
        return {"image_mean": list(OPENAI_CLIP_MEAN), "image_std": list(OPENAI_CLIP_STD)}

    @property
    def attends_in_frames(self) -> bool:
        """Whether a patch of the last block sees all others of its frame."""
        return True

    @property
    def cell(self) -> Grid:
        """(frames, rows, columns) of pixels that one state stands for."""
        return 1, self.patch_size, self.patch_size

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """
        The (frames, rows, columns) of states of clips of that size.

        Raises:
            ValueError: for sides that are no multiples of `patch_size`.
        """
        return frames, *_whole_patches(self, height, width)

    def validate_architecture(self):
        """Refuses contradictions, naming the field."""
        super().validate_architecture()
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_channels")
        _require_positive(self, *sizes, "patch_size")
        _require_whole_heads(self)
        _require_activation(self)
        if self.image_size < 1 or self.image_size % self.patch_size:
            _refuse("image_size", f"{self.image_size} is not a multiple of `patch_size` {self.patch_size}.")


@dataclass
class CocaVisionOutput(VisionStates):
    """
    `VisionStates`, with the states of every block if they are asked for. No norm is behind the last block.

    Attributes:
        last_hidden_state: (B, T, h, w, D).
        frame_states: (B, T, 1, D), the class token of each frame.
        hidden_states: of what enters the first block and of what leaves each, (B * T, 1 + h * w, D).
        attentions: of each block, (B * T, heads, 1 + h * w, 1 + h * w).
    """

    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class CocaEmbeddings(nn.Module):
    """Pixels -> [class token; patches] of each frame, with their positions and a norm."""

    def __init__(self, config: CocaVisionConfig):
        super().__init__()
        width, side = config.hidden_size, config.patch_size
        self.side = config.image_size // side
        self.patch_embedding = nn.Conv2d(config.num_channels, width, kernel_size=side, stride=side, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.position_embedding = nn.Parameter(torch.empty(1 + self.side**2, width))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def places(self, rows: int, columns: int) -> torch.Tensor:
        """(1 + rows * columns, D)"""
        if (rows, columns) == (self.side, self.side):
            return self.position_embedding
        # (side², D) -> (1, D, side, side) -> (1, D, rows, columns) -> (rows * columns, D)
        grid = self.position_embedding[1:].unflatten(0, (self.side, self.side)).permute(2, 0, 1)[None]
        grid = nn.functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([self.position_embedding[:1], grid[0].flatten(1).t()])

    def forward(self, frames: torch.Tensor, grid: Grid) -> torch.Tensor:
        """(B * T, channels, H, W) -> (B * T, 1 + h * w, D)"""
        patches = self.patch_embedding(frames.to(self.patch_embedding.weight.dtype))
        patches = patches.flatten(2).transpose(1, 2)  # (B * T, D, h, w) -> (B * T, h * w, D)
        first = self.class_embedding.expand(len(patches), 1, -1)
        return self.norm(torch.cat([first, patches], dim=1) + self.places(*grid[1:]))


class CocaVisionModel(SavedWhole, PreTrainedModel):
    """CoCa's image trunk: an encoder of VIOLET, and a model of its own."""

    config_class = CocaVisionConfig
    base_model_prefix = "coca_vit"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["CocaBlock"]
    _can_record_outputs = {"hidden_states": CocaBlock, "attentions": CocaAttention}

    def __init__(self, config: CocaVisionConfig):
        super().__init__(config)
        self.embeddings = CocaEmbeddings(config)
        self.layers = nn.ModuleList(
            CocaBlock(config, layer, config.num_hidden_layers) for layer in range(config.num_hidden_layers)
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, VioletScaledLinear):
            module.start_weights()
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, CocaEmbeddings):
            std = self.config.hidden_size**-0.5
            init.normal_(module.class_embedding, std=std)
            init.normal_(module.position_embedding, std=std)
            init.normal_(module.patch_embedding.weight, std=module.patch_embedding.weight[0].numel() ** -0.5)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values_videos: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> CocaVisionOutput:
        """
        Args:
            pixel_values_videos: (B, T, channels, H, W), normalised with CLIP's mean and std.
        """
        grid = self.config.grid(pixel_values_videos.shape[1], *pixel_values_videos.shape[3:])
        states = self.embeddings(pixel_values_videos.flatten(0, 1), grid)
        for layer in self.layers:
            states = layer(states)
        states = states.unflatten(0, (-1, grid[0]))  # (B * T, tokens, D) -> (B, T, tokens, D)
        return CocaVisionOutput(states[:, :, 1:].unflatten(2, grid[1:]), frame_states=states[:, :, :1])


AutoConfig.register(CocaVisionConfig.model_type, CocaVisionConfig, exist_ok=True)
AutoModel.register(CocaVisionConfig, CocaVisionModel, exist_ok=True)

"""
MaskAlign's student (Xue et al., 2023, "Stare at What You See: Masked Image Modeling without Reconstruction",
arXiv:2211.08887): a ViT with fixed sines as positions that computes only the patches that are kept, frame by frame.

Letters in this file: B batch, T frames, H rows and W columns of pixels, h rows and w columns of patches, L = h * w,
K kept patches of a frame, D width, d width of a head.
"""

import math
from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ...configuration.configuration_violet import (
    _refuse,
    _refuse_unknown,
    _require_positive,
    _require_whole_heads,
    _whole_patches,
)
from ...core.carried_code import without_code
from ...core.upstream import ALL_ATTENTION_FUNCTIONS, GradientCheckpointingLayer, capture_outputs
from ...core.whole_folders import SavedWhole
from ..attention import eager_attention_forward
from ..tokens import Grid, VisibleStates, VisionStates, gather_tokens
from .encoder import Encoder
from .video_swin import VioletDropPath


@strict
class MaskAlignVisionConfig(PreTrainedConfig):
    r"""
    Configuration of MaskAlign's ViT. The defaults are those of the published B/16.

    Args:
        patch_size (`int`): side of a patch, in pixels; a frame's sides must be multiples of it.
        image_size (`int`, *optional*): side of the square pictures for which the sines are computed. For squares of
            another size their grid is interpolated bicubically, as published; frames that are no squares are refused.
            `None`: the sines are computed for the grid of each frame, which may have any sides.
        drop_path_rate (`float`): stochastic depth of the last block; it grows linearly from 0 at the first.
    """

    model_type = "maskalign_vit"
    base_config_key = "vision_config"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float | int = 4
    num_channels: int = 3
    patch_size: int = 16
    image_size: int | None = 224
    drop_path_rate: float | int = 0.0
    layer_norm_eps: float = 1e-6

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))

    @property
    def pooled_size(self) -> int:
        """Width of the clip's own vector."""
        return self.hidden_size

    @property
    def cell(self) -> Grid:
        """(frames, rows, columns) of pixels that one state stands for."""
        return 1, self.patch_size, self.patch_size

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """
        The (frames, rows, columns) of states of clips of that size.

        Raises:
            ValueError: for sides that are no multiples of `patch_size`; for frames that are no squares, if the sines
                are those of a square.
        """
        rows, columns = _whole_patches(self, height, width)
        if self.image_size is not None and height != width:
            _refuse(
                "image_size",
                f"the positions are those of squares of {self.image_size} pixels, got frames of {height} x {width}: "
                "set it to null, and they are computed for each grid.",
            )
        return frames, rows, columns

    def validate_architecture(self):
        """Refuses contradictions, naming the field."""
        super().validate_architecture()
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_channels", "patch_size")
        _require_positive(self, *sizes)
        _require_whole_heads(self)
        if self.hidden_size % 4:
            _refuse("hidden_size", f"{self.hidden_size} is no multiple of 4, as the sines of two places need.")
        if self.mlp_ratio <= 0:
            _refuse("mlp_ratio", f"must be above 0, got {self.mlp_ratio}.")
        if self.image_size is not None and (self.image_size < 1 or self.image_size % self.patch_size):
            _refuse("image_size", f"{self.image_size} is not a multiple of `patch_size` {self.patch_size}.")
        if not 0 <= self.drop_path_rate < 1:
            _refuse("drop_path_rate", f"must lie in [0, 1), got {self.drop_path_rate}.")


def sine_positions(rows: int, columns: int, width: int) -> torch.Tensor:
    """
    (1 + rows * columns, width), zeros for [CLS] and then the grid row by row: sines and cosines of width / 4
    frequencies 10000^(-i / (width / 4)) of the column, then the same of the row (MoCo v3's and MAE's table).
    """
    quarter = width // 4
    frequencies = 1 / 10000.0 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (column, row)]
    table = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return torch.cat([table.new_zeros(1, width), table]).float()


@dataclass
class MaskAlignVisionOutput(VisionStates):
    """
    `VisionStates`, with the states of every block if they are asked for. No norm is behind the last block.

    Attributes:
        last_hidden_state: (B, T, h, w, D), the patches behind the last block; of kept ones (B, T, K, D), in their
            order.
        frame_states: (B, T, 1, D), [CLS] of each frame behind the last block.
        pooler_output: (B, D), the mean of all patches behind the last block, as the original's classifiers read it.
        hidden_states: of what enters the first block and of what leaves each, (B * T, 1 + K or L, D), [CLS] first.
        attentions: of each block, (B * T, heads, 1 + K or L, 1 + K or L).
    """

    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class MaskAlignEmbeddings(nn.Module):
    """Pixels -> [CLS; patches] of each frame with their places, without the patches that are not kept."""

    def __init__(self, config: MaskAlignVisionConfig):
        super().__init__()
        self.config = config
        side, width = config.patch_size, config.hidden_size
        self.cls_token = nn.Parameter(torch.empty(width))
        self.patch_embedding = nn.Conv2d(config.num_channels, width, kernel_size=side, stride=side)
        self.positions = nn.Buffer(self.first_positions(), persistent=False)

    def first_positions(self) -> torch.Tensor:
        """The sines of pictures of the configuration's size; of one patch, if it has none."""
        side = (self.config.image_size or self.config.patch_size) // self.config.patch_size
        return sine_positions(side, side, self.config.hidden_size)

    def places(self, rows: int, columns: int) -> torch.Tensor:
        """(1 + h * w, D), see the configuration's `image_size`."""
        if 1 + rows * columns == len(self.positions) and rows == columns:
            return self.positions
        if self.config.image_size is None:
            return sine_positions(rows, columns, self.config.hidden_size).to(self.positions)
        side = math.isqrt(len(self.positions) - 1)
        # (side², D) -> (1, D, side, side) -> (1, D, h, w) -> (h * w, D)
        grid = self.positions[1:].unflatten(0, (side, side)).permute(2, 0, 1)[None]
        grid = nn.functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([self.positions[:1], grid[0].flatten(1).t()])

    def forward(self, pixels: torch.Tensor, kept: torch.Tensor | None) -> tuple[torch.Tensor, Grid]:
        """(B, T, channels, H, W), (B, T, K) -> (B * T, 1 + K, D), and the grid (T, h, w)"""
        grid = self.config.grid(pixels.shape[1], *pixels.shape[3:])
        patches = self.patch_embedding(pixels.flatten(0, 1).to(self.patch_embedding.weight.dtype))
        places = self.places(*grid[1:]).to(patches.dtype)
        patches = patches.flatten(2).transpose(1, 2) + places[1:]  # (B * T, D, h, w) -> (B * T, L, D)
        if kept is not None:
            patches = gather_tokens(patches, kept.flatten(0, 1))
        first = (self.cls_token + places[0]).expand(len(patches), 1, -1)
        return torch.cat([first, patches], dim=1), grid


class MaskAlignAttention(nn.Module):
    """Self-attention of all tokens of a frame, with one projection to queries, keys and values."""

    def __init__(self, config: MaskAlignVisionConfig):
        super().__init__()
        self.config = config
        self.heads = config.num_attention_heads
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.is_causal = False
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(n, tokens, D) -> the same shape, and the weights (n, heads, tokens, tokens) if the kernel gives them"""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        # (n, tokens, 3 * D) -> (n, tokens, 3, heads, d) -> (3, n, heads, tokens, d)
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        states, weights = attend(self, query, key, value, None, scaling=self.scaling, dropout=0.0)
        return self.proj(states.flatten(2)), weights  # (n, tokens, heads, d) -> (n, tokens, D)


class MaskAlignMLP(nn.Module):
    def __init__(self, config: MaskAlignVisionConfig):
        super().__init__()
        inner = int(config.hidden_size * config.mlp_ratio)
        self.fc1 = nn.Linear(config.hidden_size, inner)
        self.fc2 = nn.Linear(inner, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class MaskAlignBlock(GradientCheckpointingLayer):
    """x + attention(norm(x)), and then x + MLP(norm(x)); stochastic depth drops a whole branch of a frame."""

    def __init__(self, config: MaskAlignVisionConfig, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = MaskAlignAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MaskAlignMLP(config)
        self.drop_path = VioletDropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, tokens, D) -> the same shape"""
        x = x + self.drop_path(self.attn(self.norm1(x))[0])
        return x + self.drop_path(self.mlp(self.norm2(x)))


class MaskAlignVisionModel(SavedWhole, PreTrainedModel):
    """MaskAlign's ViT: an encoder of VIOLET, and a model of its own."""

    config_class = MaskAlignVisionConfig
    base_model_prefix = "maskalign_vit"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["MaskAlignBlock"]
    _can_record_outputs = {"hidden_states": MaskAlignBlock, "attentions": MaskAlignAttention}

    def __init__(self, config: MaskAlignVisionConfig):
        super().__init__(config)
        last = max(config.num_hidden_layers - 1, 1)
        rates = [config.drop_path_rate * block / last for block in range(config.num_hidden_layers)]
        self.embeddings = MaskAlignEmbeddings(config)
        self.blocks = nn.ModuleList(MaskAlignBlock(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Xavier uniform, that of the patches as a matrix (D, channels * side²); biases 0."""
        if isinstance(module, nn.Linear | nn.Conv2d):
            bound = math.sqrt(6 / (module.weight.shape[0] + module.weight[0].numel()))
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, MaskAlignEmbeddings):
            init.normal_(module.cls_token, std=0.02)
            init.copy_(module.positions, module.first_positions())

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values_videos: torch.Tensor, kept: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> MaskAlignVisionOutput:
        """
        Args:
            pixel_values_videos: (B, T, channels, H, W), normalised with ImageNet's mean and std.
            kept: (B, T, K), the places in the frame, row by row, of the patches that are computed; all by default.

        The `norm` behind the blocks is no part of it: the original computes it and throws it away.
        """
        x, grid = self.embeddings(pixel_values_videos, kept)
        for block in self.blocks:
            x = block(x)
        x = x.unflatten(0, (-1, grid[0]))  # (B * T, tokens, D) -> (B, T, tokens, D)
        patches = x[:, :, 1:]
        return MaskAlignVisionOutput(
            last_hidden_state=patches.unflatten(2, grid[1:]) if kept is None else patches,
            frame_states=x[:, :, :1],
            pooler_output=patches.mean((1, 2)),
        )


class MaskAlign(Encoder):
    """The ViT as VIOLET's encoder: what enters a fusion passes its last norm, untrained in published files."""

    key = "maskalign_vit"
    hides = ("pixels", "tokens")

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.model_class = MaskAlignVisionModel

    def states(self, model: PreTrainedModel, pixels: torch.Tensor, **others: torch.Tensor) -> VisionStates:
        output, norm = model(pixels), model.norm
        return VisionStates(
            norm(output.last_hidden_state),
            frame_states=norm(output.frame_states),
            pooler_output=output.pooler_output,
        )

    def visible_states(self, model: PreTrainedModel, pixels: torch.Tensor, kept: torch.Tensor) -> VisibleStates:
        states = model(pixels, kept=kept, output_hidden_states=True).hidden_states[1:]
        return VisibleStates(tuple(one.unflatten(0, kept.shape[:2]) for one in states), 1)


AutoConfig.register(MaskAlignVisionConfig.model_type, MaskAlignVisionConfig, exist_ok=True)
AutoModel.register(MaskAlignVisionConfig, MaskAlignVisionModel, exist_ok=True)

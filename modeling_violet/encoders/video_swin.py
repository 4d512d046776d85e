"""
Video Swin Transformer (Liu et al., 2022, "Video Swin Transformer", arXiv:2106.13230), channels last.

Letters in this file: B batch, T frames, H rows, W columns, C channels, N tokens in a window, M windows.
"""

from functools import lru_cache

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ...configuration.configuration_violet import VioletVisionConfig
from ...core.upstream import ALL_ATTENTION_FUNCTIONS, GradientCheckpointingLayer, capture_outputs
from ...core.whole_folders import SavedWhole
from ..attention import eager_attention_forward

Size = tuple[int, int, int]

SHIFT_PENALTY = -100.0
"""
Added to a logit between two tokens that a cyclic shift brought into one window; the published weights were trained
with it.
"""


def effective_window(grid: Size, window: Size, shifted: bool, in_time: bool = True) -> tuple[Size, Size]:
    """
    The window and the shift used on a grid (T, H, W): a side no longer than the window becomes the window there, and
    nothing is shifted along it, nor along time unless `in_time`.
    """
    sides = [min(side, most) for side, most in zip(grid, window, strict=True)]
    shifts = [most // 2 if shifted and side > most else 0 for side, most in zip(grid, window, strict=True)]
    return (sides[0], sides[1], sides[2]), (shifts[0] if in_time else 0, shifts[1], shifts[2])


def window_partition(x: torch.Tensor, window: Size) -> torch.Tensor:
    """(B, T, H, W, C), sides divisible by the window's -> (B * M, N, C), windows in order of frames, rows, columns."""
    B, T, H, W, C = x.shape
    t, h, w = window
    x = x.view(B, T // t, t, H // h, h, W // w, w, C)
    # (B, T/t, t, H/h, h, W/w, w, C) -> (B, T/t, H/h, W/w, t, h, w, C) -> (B * M, N, C)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, t * h * w, C)


def window_reverse(windows: torch.Tensor, window: Size, grid: Size) -> torch.Tensor:
    """(B * M, N, C) -> (B, T, H, W, C): the inverse of `window_partition` on that grid."""
    T, H, W = grid
    t, h, w = window
    C = windows.shape[-1]
    x = windows.view(-1, T // t, H // h, W // w, t, h, w, C)
    # (B, T/t, H/h, W/w, t, h, w, C) -> (B, T/t, t, H/h, h, W/w, w, C) -> (B, T, H, W, C)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, T, H, W, C)


def relative_position_index(window: Size) -> torch.Tensor:
    """(N, N): the row of the bias table for the offset from key to query, for a full window of N tokens."""
    t, h, w = window
    axes = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
    place = torch.stack(axes).flatten(1)  # (3, N)
    offset = place[:, :, None] - place[:, None, :]  # (3, N, N)
    return ((offset[0] + t - 1) * (2 * h - 1) + offset[1] + h - 1) * (2 * w - 1) + offset[2] + w - 1


@lru_cache(maxsize=64)
def shift_mask(grid: Size, window: Size, shift: Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor | None:
    """
    (M, 1, N, N): `SHIFT_PENALTY` between tokens that were not neighbours before the cyclic shift, else 0; None without
    a shift. `grid` is padded to whole windows. Kept for each shape, because every block of every step asks for it.
    """
    if not any(shift):
        return None
    with torch.inference_mode(False):  # what is kept must be usable in training, too
        regions = torch.zeros(1, *grid, 1)
        for axis, (side, most, moved) in enumerate(zip(grid, window, shift, strict=True)):
            if moved:
                at = torch.arange(side)
                part = (at >= side - most).long() + (at >= side - moved).long()
                regions = regions * 3 + part.view([-1 if i == axis + 1 else 1 for i in range(5)])
        labels = window_partition(regions, window).squeeze(-1)  # (M, N)
        apart = labels[:, :, None] != labels[:, None, :]
        return (apart.unsqueeze(1) * SHIFT_PENALTY).to(device=device, dtype=dtype)


class VioletDropPath(nn.Module):
    """Stochastic depth: training drops a sample's residual branch with probability `rate` and rescales the rest."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        kept = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(keep)
        return x * kept / keep


class VioletVideoSwinAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for each relative position."""

    def __init__(self, config, dim: int, num_heads: int, window: Size):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = (dim // num_heads) ** -0.5
        self.is_causal = False
        self.window = window
        t, h, w = self.window
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * t - 1) * (2 * h - 1) * (2 * w - 1), num_heads)
        )
        self.relative_position_index = nn.Buffer(relative_position_index(self.window), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim, bias=config.qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def relative_position_bias(self, num_tokens: int) -> torch.Tensor:
        """
        (1, heads, N, N). A smaller window takes the first N rows and columns of the full window's index, as the
        published weights were trained, not the index of its own offsets.
        """
        index = self.relative_position_index[:num_tokens, :num_tokens]
        bias = self.relative_position_bias_table[index.reshape(-1)]
        return bias.view(num_tokens, num_tokens, -1).permute(2, 0, 1).unsqueeze(0)  # (N, N, heads) -> (1, heads, N, N)

    def forward(self, windows: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        windows (B * M, N, C), mask (M, 1, N, N) or None -> (B * M, N, C), and the weights (B * M, heads, N, N) if
        the kernel gives them
        """
        count, N, C = windows.shape
        # (B * M, N, 3C) -> (3, B * M, heads, N, C / heads)
        query, key, value = self.qkv(windows).view(count, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias(N).to(query.dtype)
        if mask is not None:
            bias = (bias + mask).repeat(count // mask.shape[0], 1, 1, 1)  # (M, heads, N, N) -> (B * M, heads, N, N)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attention(self, query, key, value, bias, scaling=self.scaling, dropout=0.0)
        return self.proj(output.reshape(count, N, C)), weights


class VioletVideoSwinBlock(GradientCheckpointingLayer):
    def __init__(self, config, dim: int, num_heads: int, window: Size, shifted: bool, drop_path: float):
        super().__init__()
        self.window = window
        self.shifted = shifted
        self.shifts_in_time = config.temporal_shift
        self.norm1 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.attn = VioletVideoSwinAttention(config, dim, num_heads, window)
        self.norm2 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        hidden = int(dim * config.mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), ACT2FN[config.hidden_act], nn.Linear(hidden, dim))
        self.drop_path = VioletDropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, H, W, C) -> the same shape"""
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        B, T, H, W, C = x.shape
        window, shift = effective_window((T, H, W), self.window, self.shifted, self.shifts_in_time)
        t, h, w = window
        x = nn.functional.pad(x, (0, 0, 0, -W % w, 0, -H % h, 0, -T % t))
        grid = (x.shape[1], x.shape[2], x.shape[3])
        if any(shift):
            x = torch.roll(x, [-s for s in shift], dims=(1, 2, 3))
        mask = shift_mask(grid, window, shift, x.device, x.dtype)
        x = window_reverse(self.attn(window_partition(x, window), mask)[0], window, grid)
        if any(shift):
            x = torch.roll(x, shift, dims=(1, 2, 3))
        return x[:, :T, :H, :W]


class VioletPatchMerging(nn.Module):
    """Halves rows and columns and doubles the channels; an odd side is padded with zeros."""

    def __init__(self, config, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=config.layer_norm_eps)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, H, W, C) -> (B, T, ceil(H / 2), ceil(W / 2), 2C)"""
        x = nn.functional.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
        corners = [x[:, :, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class VioletVideoSwinPatchEmbedding(nn.Module):
    """Frames -> patches. Zero frames at the end and zero rows and columns make whole patches of every size."""

    def __init__(self, config):
        super().__init__()
        self.kernel = config.temporal_patch_size
        self.stride = config.temporal_stride
        self.patch = config.patch_size
        self.proj = nn.Conv3d(
            config.num_channels,
            config.embed_dim,
            kernel_size=(self.kernel, self.patch, self.patch),
            stride=(self.stride, self.patch, self.patch),
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, T, channels, H, W) -> (B, ceil(T / stride), ceil(H / patch), ceil(W / patch), embed_dim)"""
        T, _, H, W = pixels.shape[1:]
        frames = (-(-T // self.stride) - 1) * self.stride + self.kernel
        x = pixels.permute(0, 2, 1, 3, 4)  # (B, T, channels, H, W) -> (B, channels, T, H, W)
        x = nn.functional.pad(x, (0, -W % self.patch, 0, -H % self.patch, 0, max(frames - T, 0)))
        x = self.proj(x.to(self.proj.weight.dtype))
        return self.norm(x.permute(0, 2, 3, 4, 1))  # (B, C, T, H, W) -> (B, T, H, W, C)


class VioletVideoSwinStage(nn.Module):
    """Blocks of one width, every second one shifted, and the merging that leads to the next stage, if there is one."""

    def __init__(self, config, index: int):
        super().__init__()
        stages = config.stages
        stage, first = stages[index], sum(stage.depth for stage in stages[:index])
        last = max(sum(stage.depth for stage in stages) - 1, 1)
        rate = config.drop_path_rate / last  # stochastic depth grows linearly over all blocks
        self.blocks = nn.ModuleList(
            VioletVideoSwinBlock(
                config, stage.width, stage.num_heads, stage.window, shifted=i % 2 == 1, drop_path=rate * (first + i)
            )
            for i in range(stage.depth)
        )
        self.downsample = VioletPatchMerging(config, stage.width) if stage.merges else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


class VioletVisionModel(SavedWhole, PreTrainedModel):
    """The Video Swin Transformer without a head: VIOLET's backbone, and a model of its own."""

    config_class = VioletVisionConfig
    base_model_prefix = "swin"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["VioletVideoSwinBlock", "VioletPatchMerging"]
    _can_record_outputs = {"hidden_states": VioletVideoSwinBlock, "attentions": VioletVideoSwinAttention}

    def __init__(self, config: VioletVisionConfig):
        super().__init__(config)
        self.patch_embed = VioletVideoSwinPatchEmbedding(config)
        self.stages = nn.ModuleList(VioletVideoSwinStage(config, index) for index in range(len(config.stages)))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Conv3d):
            init.trunc_normal_(module.weight, std=std)
            if isinstance(module, nn.Conv3d):
                # As large as what a patch of ones gives. The norm behind it removes a flat patch's brightness if the
                # bias is small, and of a masked patch of zeros there is nothing but the bias: at 0, each norm
                # multiplies its gradient by 1 / sqrt(eps); 1e15 in all were measured.
                init.trunc_normal_(module.bias, std=std * module.weight[0].numel() ** 0.5)
            elif module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, VioletVideoSwinAttention):
            init.trunc_normal_(module.relative_position_bias_table, std=std)
            init.copy_(module.relative_position_index, relative_position_index(module.window))

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embed

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values_videos: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutput:
        """
        Pixels (B, T, channels, H, W), normalised -> `last_hidden_state`
        (B, ceil(T / temporal_stride), ceil(H / reduction), ceil(W / reduction), hidden_size). `hidden_states` and
        `attentions`, if asked for: what enters the first block and what leaves each, (B, T, H, W, C) of its stage;
        and the weights of each block's windows, (B * M, heads, N, N).
        """
        x = self.patch_embed(pixel_values_videos)
        for stage in self.stages:
            x = stage(x)
        return BaseModelOutput(last_hidden_state=self.norm(x))

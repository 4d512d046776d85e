"""
Video Swin Transformer (Liu et al., 2022, "Video Swin Transformer", arXiv:2106.13230), channels last.

Letters in this file: B batch, T frames, H rows, W columns, C channels, N tokens in a window, M windows.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
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
from ..activations import activate
from ..attention import eager_attention_forward
from ..offloading import read_weights
from ..window_kernel import biased_attention, serves

Size = tuple[int, int, int]
Biases = Sequence[tuple[int, torch.Tensor]]
"""What is added to the logits of how many windows, in their order: (1, heads, N, N), or of each (n, heads, N, N)."""
PART_BYTES = 13_000_000
"""How large the widest tensor is that a block makes at a time if no gradient is wanted."""

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


@lru_cache(maxsize=64)
def _relative_positions(window: Size) -> np.ndarray:
    """`relative_position_index`, which every block asks for twice while a model is loaded."""
    t, h, w = window
    place = np.stack(np.meshgrid(np.arange(t), np.arange(h), np.arange(w), indexing="ij")).reshape(3, -1)  # (3, N)
    offset = place[:, :, None] - place[:, None, :]  # (3, N, N)
    return ((offset[0] + t - 1) * (2 * h - 1) + offset[1] + h - 1) * (2 * w - 1) + offset[2] + w - 1


def relative_position_index(window: Size) -> torch.Tensor:
    """(N, N): the row of the bias table for the offset from key to query, for a full window of N tokens."""
    return torch.tensor(_relative_positions(window))


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


@dataclass(frozen=True)
class Run:
    """
    Windows beside one another that one mask serves.

    Attributes:
        windows: how many there are for each clip.
        example: the number of one of them, counted as `window_partition` does.
        places: (windows * N,), for each of their tokens its number on the grid; T * H * W for a padding token.
    """

    windows: int
    example: int
    places: torch.Tensor


@dataclass(frozen=True)
class WindowLayout:
    """
    Where the tokens of a grid stand if its windows are sorted by the mask that they need. A cyclic shift mixes tokens
    of opposite sides only in the last windows along each side: all others share one mask, and there are few.

    Attributes:
        runs: the windows.
        tokens: of a window, N.
        padded: whether some tokens are padding.
        size: T * H * W.
    """

    runs: tuple[Run, ...]
    tokens: int
    padded: bool
    size: int

    def rows(self, batch: int) -> list[torch.Tensor]:
        """For each run (batch * windows * N,): the rows of its tokens among those of a batch, (batch * T * H * W)."""
        starts = torch.arange(batch, device=self.runs[0].places.device).unsqueeze(1) * self.size
        if not self.padded:
            return [(starts + run.places).flatten() for run in self.runs]
        last = batch * self.size  # the row behind all others, of zeros
        return [torch.where(run.places < self.size, starts + run.places, last).flatten() for run in self.runs]


def build_layout(grid: Size, window: Size, shift: Size, by_mask: bool, device: torch.device) -> WindowLayout:
    """
    The layout of a grid's tokens behind a cyclic shift by `shift` to the front; unless `by_mask`, in one run, in the
    order of `window_partition`.
    """
    size = grid[0] * grid[1] * grid[2]
    numbers = torch.arange(size).view(1, *grid, 1)
    missing = [-side % of for side, of in zip(grid, window, strict=True)]
    if any(missing):
        numbers = nn.functional.pad(numbers, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0]), value=size)
    windows = window_partition(torch.roll(numbers, [-moved for moved in shift], dims=(1, 2, 3)), window).squeeze(-1)
    counts = [-(-side // of) for side, of in zip(grid, window, strict=True)]
    kinds: dict[tuple[bool, ...], list[int]] = {}
    for number, place in enumerate(itertools.product(*map(range, counts))):
        wraps = tuple(moved > 0 and at == of - 1 for at, of, moved in zip(place, counts, shift, strict=True))
        kinds.setdefault(wraps if by_mask else (), []).append(number)
    runs = (Run(len(members), members[0], windows[members].flatten().to(device)) for members in kinds.values())
    return WindowLayout(tuple(runs), windows.shape[1], any(missing), size)


@lru_cache(maxsize=64)
def _kept_layout(grid: Size, window: Size, shift: Size, by_mask: bool, device: torch.device) -> WindowLayout:
    """`build_layout`'s, kept for each shape, because every block of every step asks for it."""
    with torch.inference_mode(False):  # what is kept must be usable in training, too
        return build_layout(grid, window, shift, by_mask, device)


def window_layout(grid: Size, window: Size, shift: Size, by_mask: bool, device: torch.device) -> WindowLayout:
    """See `build_layout`; one that was built before, unless a graph is made: it would hold what is not its own."""
    build = build_layout if torch.compiler.is_compiling() else _kept_layout
    return build(grid, window, shift, by_mask, device)


def gather_rows(x: torch.Tensor, rows: torch.Tensor, padded: bool) -> torch.Tensor:
    """The rows (n,) of x (L, C), in their order: (n, C). If `padded`, row L stands for zeros."""
    if not padded:
        return x.index_select(0, rows)
    return torch.where((rows < len(x)).unsqueeze(1), x.index_select(0, rows.clamp(max=len(x) - 1)), 0.0)


def places_of_rows(rows: torch.Tensor, count: int) -> torch.Tensor:
    """(count,): where in `rows` each number below `count` stands, which is once; larger ones may stand there too."""
    places = rows.new_empty(count + 1)
    return places.scatter_(0, rows, torch.arange(len(rows), device=rows.device))[:count]


def parts_of(rows: torch.Tensor, biases: Biases, tokens: int, most: int) -> Iterator[tuple[torch.Tensor, Biases]]:
    """At most `most` windows of `tokens` tokens at a time: their rows, and the part of `biases` that is theirs."""
    counts = [number for number, _ in biases]
    ends = list(itertools.accumulate(counts))
    for first in range(0, ends[-1], most):
        last = min(first + most, ends[-1])
        theirs = (min(end, last) - max(end - count, first) for end, count in zip(ends, counts, strict=True))
        held = [(number, bias) for number, (_, bias) in zip(theirs, biases, strict=True) if number > 0]
        yield rows[first * tokens : last * tokens], held


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
        # (heads, rows) -> (heads, N * N) -> (1, heads, N, N)
        bias = self.relative_position_bias_table.t().index_select(1, index.reshape(-1))
        return bias.view(1, -1, num_tokens, num_tokens)

    def forward(self, windows: torch.Tensor, biases: Biases) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            windows: (n, N, C).
            biases: what is added to their logits.

        Returns:
            (n, N, C), and the weights (n, heads, N, N) if the kernel gives them.
        """
        count, N, C = windows.shape
        # (n, N, 3C) -> (3, n, heads, N, C / heads)
        query, key, value = self.qkv(windows).view(count, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        outputs: list[torch.Tensor] = []
        weights: list[torch.Tensor | None] = []  # of the eager kernel, which has one entry of `biases`
        first = 0
        for number, bias in biases:
            some = slice(first, first + number)
            if self.config._attn_implementation == "sdpa" and serves(query, bias):
                one = biased_attention(query[some], key[some], value[some], bias, self.scaling), None
            else:
                one = attention(self, query[some], key[some], value[some], bias, scaling=self.scaling, dropout=0.0)
            outputs.append(one[0])
            weights.append(one[1])
            first += number
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return self.proj(output.reshape(count, N, C)), weights[0]


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
        self.widest = max(hidden, 3 * dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, H, W, C) -> the same shape"""
        if self.in_parts():
            return self.forward_in_parts(x)
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def in_parts(self) -> bool:
        """Whether nothing but the states is wanted of a pass: no gradient, no weights of attention, no graph."""
        wanted = torch.is_grad_enabled() or self.training or self.attn.config._attn_implementation == "eager"
        return not (wanted or torch.compiler.is_compiling())

    def in_windows(self, x: torch.Tensor) -> tuple[WindowLayout, torch.Tensor, Biases]:
        """Of x (B, T, H, W, C): the layout, its rows among (B * T * H * W, C), and what is added to the logits."""
        grid: Size = (x.shape[1], x.shape[2], x.shape[3])
        window, shift = effective_window(grid, self.window, self.shifted, self.shifts_in_time)
        recorded = self.attn.config._attn_implementation == "eager"  # its weights are in the order of the windows
        layout = window_layout(grid, window, shift, not recorded, x.device)
        whole = [-(-side // of) * of for side, of in zip(grid, window, strict=True)]
        mask = shift_mask((whole[0], whole[1], whole[2]), window, shift, x.device, x.dtype)
        bias = read_weights(self.attn, partial(self.attn.relative_position_bias, layout.tokens)).to(x.dtype)
        if mask is not None and recorded:
            biases = [(bias + mask).repeat(len(x), 1, 1, 1)]  # (M, heads, N, N) -> (B * M, heads, N, N)
        else:
            biases = [bias if mask is None else bias + mask[run.example] for run in layout.runs]
        counts = (len(x) * run.windows for run in layout.runs)
        return layout, torch.cat(layout.rows(len(x))), list(zip(counts, biases, strict=True))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, H, W, C) -> the same shape"""
        layout, rows, biases = self.in_windows(x)
        tokens = x.flatten(0, 3)  # (B, T, H, W, C) -> (B * T * H * W, C)
        windows = gather_rows(tokens, rows, layout.padded).view(-1, layout.tokens, x.shape[-1])
        output = self.attn(windows, biases)[0].flatten(0, 1)  # (B * M, N, C) -> (B * M * N, C)
        return output.index_select(0, places_of_rows(rows, len(tokens))).view(x.shape)

    def forward_in_parts(self, x: torch.Tensor) -> torch.Tensor:
        """
        `forward` without a gradient, some windows after others: what is computed on the way stays so small that it is
        kept near the processor, and costs no new memory.
        """
        layout, rows, biases = self.in_windows(x)
        tokens = x.flatten(0, 3)  # (B, T, H, W, C) -> (B * T * H * W, C)
        made = x.new_empty(len(tokens) + 1, x.shape[-1])  # with a row for what becomes of padding
        most = max(PART_BYTES // (self.widest * layout.tokens * x.element_size()), 1)
        for some, of_some in parts_of(rows, biases, layout.tokens, most):
            states = gather_rows(tokens, some, layout.padded)
            normed = self.norm1(states)
            if layout.padded:
                normed = torch.where((some < len(tokens)).unsqueeze(1), normed, 0.0)
            states += self.attn(normed.view(-1, layout.tokens, x.shape[-1]), of_some)[0].flatten(0, 1)
            enter, activation, leave = self.mlp
            states += leave(activate(activation, enter(self.norm2(states))))
            made.index_copy_(0, some, states)
        return made[:-1].view(x.shape)


class VioletPatchMerging(nn.Module):
    """Halves rows and columns and doubles the channels; an odd side is padded with zeros."""

    def __init__(self, config, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=config.layer_norm_eps)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, H, W, C) -> (B, T, ceil(H / 2), ceil(W / 2), 2C)"""
        if x.shape[2] % 2 or x.shape[3] % 2:
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

"""
The yardstick of `violet speed`: encoder, fusion and a pre-training step in a plain formulation.

Encoder and fusion are the package's own as they were at commit b952e70, before they were made faster: copied, and not
edited since, so that a later run is compared with the same thing. The pre-training step is the original's
formulation: attention in plain steps, and the pair of a video with its own text passed through the fusion twice, once
for masked words and patches and once more among the pairs of matching. Nothing here uses the package; weights of its
models are read by name (`plain_of`).

Letters in this file: B batch, T frames, H rows, W columns, C channels, N tokens in a window, M windows.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import Cache
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def find_kernel(config: Any) -> Any:
    """The attention kernel that the configuration names."""
    return ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention_forward)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Softmax attention in plain steps. query, key, value: (batch, heads, tokens, head width); `attention_mask` is added
    to the logits. Returns ((batch, tokens, heads, head width), weights (batch, heads, query tokens, key tokens)).
    """
    weights = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


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


class PlainDropPath(nn.Module):
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


class PlainWindowAttention(nn.Module):
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
        attention = find_kernel(self.config)
        output, weights = attention(self, query, key, value, bias, scaling=self.scaling, dropout=0.0)
        return self.proj(output.reshape(count, N, C)), weights


class PlainSwinBlock(nn.Module):
    def __init__(self, config, dim: int, num_heads: int, window: Size, shifted: bool, drop_path: float):
        super().__init__()
        self.window = window
        self.shifted = shifted
        self.shifts_in_time = config.temporal_shift
        self.norm1 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.attn = PlainWindowAttention(config, dim, num_heads, window)
        self.norm2 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        hidden = int(dim * config.mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), ACT2FN[config.hidden_act], nn.Linear(hidden, dim))
        self.drop_path = PlainDropPath(drop_path)

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


class PlainPatchMerging(nn.Module):
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


class PlainPatchEmbedding(nn.Module):
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


class PlainSwinStage(nn.Module):
    """Blocks of one width, every second one shifted, and the merging that leads to the next stage, if there is one."""

    def __init__(self, config, index: int):
        super().__init__()
        stages = config.stages
        stage, first = stages[index], sum(stage.depth for stage in stages[:index])
        last = max(sum(stage.depth for stage in stages) - 1, 1)
        rate = config.drop_path_rate / last  # stochastic depth grows linearly over all blocks
        self.blocks = nn.ModuleList(
            PlainSwinBlock(
                config, stage.width, stage.num_heads, stage.window, shifted=i % 2 == 1, drop_path=rate * (first + i)
            )
            for i in range(stage.depth)
        )
        self.downsample = PlainPatchMerging(config, stage.width) if stage.merges else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


class PlainBertAttention(nn.Module):
    """Self-attention of BERT, by the kernel that the configuration names; `layer` is its place in a cache."""

    def __init__(self, config, layer: int):
        super().__init__()
        self.config = config
        self.layer = layer
        self.head_width = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_width**-0.5
        self.dropout = config.attention_probs_dropout_prob
        self.is_causal = False
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, states: torch.Tensor, mask, cache: Cache | None = None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """states (batch, tokens, width) -> the same shape, and the weights if the kernel gives them"""
        heads = (*states.shape[:-1], -1, self.head_width)
        # (batch, tokens, width) -> (batch, heads, tokens, head width)
        query, key, value = (layer(states).view(heads).transpose(1, 2) for layer in (self.query, self.key, self.value))
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        attention = find_kernel(self.config)
        dropout = self.dropout if self.training else 0.0
        output, weights = attention(self, query, key, value, mask, scaling=self.scaling, dropout=dropout, **kwargs)
        return self.output(output.reshape(states.shape).contiguous()), weights


class PlainBertLayer(nn.Module):
    """
    A BERT layer; with `fusion_norm="pre"` its norms stand before the sub-layers instead of behind them.
    """

    def __init__(self, config, layer: int):
        super().__init__()
        self.norm_first = config.fusion_norm == "pre"
        self.attention = PlainBertAttention(config, layer)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def feed_forward(self, states: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, tokens, width), and which tokens are no padding (batch, tokens), if that is known -> like states"""
        return self.dropout(self.output(self.activation(self.intermediate(states))))

    def forward(self, states: torch.Tensor, mask, real: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
        if self.norm_first:
            states = states + self.dropout(self.attention(self.attention_norm(states), mask, **kwargs)[0])
            return states + self.feed_forward(self.output_norm(states), real)
        states = self.attention_norm(states + self.dropout(self.attention(states, mask, **kwargs)[0]))
        return self.output_norm(states + self.feed_forward(states, real))


class PlainEncoder(nn.Module):
    """Video Swin of a `VioletVisionConfig`: pixels (B, T, channels, H, W) -> (B, T, H / 32, W / 32, width)."""

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        self.patch_embed = PlainPatchEmbedding(config)
        self.stages = nn.ModuleList(PlainSwinStage(config, index) for index in range(len(config.stages)))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(pixels)
        for stage in self.stages:
            x = stage(x)
        return self.norm(x)


class PlainFusion(nn.Module):
    """BERT's layers of a `VioletConfig`: states (batch, tokens, width), real tokens (batch, tokens) -> like states."""

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(PlainBertLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.fusion_norm == "pre" else None
        )

    def forward(self, states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=real)
        for layer in self.layers:
            states = layer(states, mask)
        return states if self.norm is None else self.norm(states)


class PlainVideoTokens(nn.Module):
    """The encoder's states with a token and a place for each frame, and a norm: (B, T * (1 + H * W), width)."""

    def __init__(self, config: Any):
        super().__init__()
        vision, width = config.vision_config, config.hidden_size
        self.swin = PlainEncoder(vision)
        same = vision.hidden_size == width
        self.projection = nn.Identity() if same else nn.Linear(vision.hidden_size, width)
        self.frame_token = nn.Parameter(torch.empty(width))
        self.position_embeddings = nn.Parameter(torch.empty(1 + config.video_grid_size**2, width))
        self.frame_embeddings = nn.Parameter(torch.empty(config.num_video_frames, width))
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.projection(self.swin(pixels)).flatten(2, 3)  # (B, T, H * W, width)
        special = self.frame_token.expand(*features.shape[:2], 1, -1)
        tokens = torch.cat([special, features], dim=2)
        places = self.position_embeddings[: tokens.shape[2]] + self.frame_embeddings[: tokens.shape[1], None]
        return self.norm(tokens + places).flatten(1, 2)


class PlainTextTokens(nn.Module):
    """BERT's embedding layer: ids (B, X) -> (B, X, width)."""

    def __init__(self, config: Any):
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        words = self.word_embeddings(ids) + self.position_embeddings.weight[: ids.shape[1]]
        return self.dropout(self.norm(words + self.token_type_embeddings.weight[0]))


class PlainWordHead(nn.Module):
    """BERT's head of masked words: (..., width) -> (..., vocabulary)."""

    def __init__(self, config: Any):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.norm(self.activation(self.dense(states))))


def plain_head(config: Any, outputs: int) -> nn.Sequential:
    """The head of matches and of features."""
    width = config.hidden_size
    return nn.Sequential(
        nn.Dropout(config.classifier_dropout), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, outputs)
    )


class PlainPreTraining(nn.Module):
    """
    Matching, masked words and masked features in the original's formulation.

    Args:
        config: a `VioletConfig` whose attention kernel is that to be used, "eager" for the original's.
        channels: of the masked features.
    """

    def __init__(self, config: Any, channels: int):
        super().__init__()
        self.config = config
        self.video_encoder = PlainVideoTokens(config)
        self.text_embeddings = PlainTextTokens(config)
        self.fusion = PlainFusion(config)
        self.match_head = plain_head(config, 1)
        self.mlm_head = PlainWordHead(config)
        self.mvm_head = plain_head(config, channels)

    def forward(
        self,
        pixels: torch.Tensor,
        ids: torch.Tensor,
        real: torch.Tensor,
        labels: torch.Tensor,
        masked: torch.Tensor,
        negatives: torch.Tensor,
        features: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            pixels: (B, T, channels, H, W), normalised.
            ids, real, labels: (B, X), words of which some are [MASK]; which are real; the masked words, else -100.
            masked: (B, T, h, w), True where a patch's pixels are hidden.
            negatives: (B, K), the rows of the other texts that a video is told apart from.
            features: (B, T, h, w, channels), what masked patches are to show.

        Returns:
            (), the sum of three losses.
        """
        side = pixels.shape[-1] // masked.shape[-1]
        hidden = masked.repeat_interleave(side, 2).repeat_interleave(side, 3)
        video = self.video_encoder(torch.where(hidden.unsqueeze(2), 0.0, pixels))
        text = self.text_embeddings(ids)
        own = self.fuse(video, text, real)
        words = nn.functional.cross_entropy(self.mlm_head(own[:, video.shape[1] :]).flatten(0, 1), labels.flatten())
        steps, cells = masked.shape[1], masked.shape[2] * masked.shape[3]
        patches = own[:, : video.shape[1]].unflatten(1, (steps, 1 + cells))[:, :, 1:]  # (B, T, h * w, width)
        apart = (self.mvm_head(patches) - features.flatten(2, 3)).abs().mean(-1)
        shown = masked.flatten(2)
        of_patches = (apart * shown).sum() / shown.sum().clamp(min=1)
        batch, others = negatives.shape
        texts = torch.cat([torch.arange(batch, device=ids.device)[:, None], negatives], dim=1).flatten()
        pairs = self.fuse(video.repeat_interleave(1 + others, dim=0), text[texts], real[texts])
        scores = self.match_head(pairs[:, video.shape[1]]).view(batch, 1 + others) / self.config.match_temperature
        return words + of_patches + nn.functional.cross_entropy(scores, texts.new_zeros(batch))

    def fuse(self, video: torch.Tensor, text: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """[video; text] through the fusion."""
        keys = torch.cat([real.new_ones(video.shape[:2]), real], dim=1)
        return self.fusion(torch.cat([video, text], dim=1), keys)


def plain_of(plain: nn.Module, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """
    A plain module with the weights of the package's, which has the same names.

    Raises:
        KeyError: if one is missing.
    """
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    return plain


def pretraining_weights(weights: Mapping[str, torch.Tensor], target: str) -> dict[str, torch.Tensor]:
    """The names of `PlainPreTraining` for those of a `VioletForPreTraining` that has this target of masked vision."""
    named = {name.removeprefix("violet."): value for name, value in weights.items()}
    start = f"mvm_heads.{target}."
    return {
        "mvm_head." + name.removeprefix(start) if name.startswith(start) else name: value
        for name, value in named.items()
    }

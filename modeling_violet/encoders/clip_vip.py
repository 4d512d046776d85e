"""
CLIP-ViP's vision tower (Xue et al., 2023, "CLIP-ViP: Adapting Pre-trained Image-Text Model to Video-Language
Representation Alignment", arXiv:2209.06430): CLIP's ViT over whole clips, whose frames meet in proxy tokens.

Letters in this file: B batch, T frames, H rows and W columns of pixels, h rows and w columns of patches, L = h * w,
M proxies, N = M + T * L tokens, D width, d width of a head.
"""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
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
from ...core.upstream import ALL_ATTENTION_FUNCTIONS, GradientCheckpointingLayer, capture_outputs
from ...core.whole_folders import SavedWhole
from ..attention import eager_attention_forward
from ..offloading import table_rows
from ..scaled_linear import VioletScaledLinear
from ..tokens import Grid, VisionStates
from .encoder import Encoder

PROXY_INITS = ("normal", "class_copies")


@strict
class ClipVipVisionConfig(PreTrainedConfig):
    r"""
    Configuration of CLIP-ViP's vision tower. The defaults are those of the published B/16.

    Args:
        patch_size (`int`): side of a patch, in pixels; a frame's sides must be multiples of it.
        image_size (`int`): side of the frames whose patches have a learned position each. For frames of another size
            the grid of positions is interpolated bicubically.
        num_proxies (`int`): tokens through which the frames meet: CLIP's class embedding, and those beside it.
        temporal_size (`int`, *optional*): frames that have a learned place in time. For another number of frames, also
            a smaller one, the places are interpolated linearly. `None` for no places in time: then the order of the
            frames changes nothing.
        proxy_init (`str`): how the proxies begin that CLIP does not have: `"normal"` (N(0, 1), as published) or
            `"class_copies"` (the class embedding + N(0, 0.02), which has the scale of a trained one).
    """

    model_type = "clip_vip"
    base_config_key = "vision_config"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    num_channels: int = 3
    patch_size: int = 16
    image_size: int = 224
    num_proxies: int = 4
    temporal_size: int | None = 12
    proxy_init: str = "normal"
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

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
            ValueError: for sides that are no multiples of `patch_size`.
        """
        rows, columns = _whole_patches(self, height, width)
        return frames, rows, columns

    def attention_pairs(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """
        What attention costs: pairs of query and key in each head of each layer, (in two parts, as it is computed; if
        every token saw every other).
        """
        _, rows, columns = self.grid(frames, height, width)
        patches, tokens = rows * columns, self.num_proxies + frames * rows * columns
        two_part = self.num_proxies * tokens + frames * patches * (self.num_proxies + patches)
        return two_part, tokens**2

    def validate_architecture(self):
        """Refuses contradictions, naming the field."""
        super().validate_architecture()
        _require_positive(
            self,
            *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_channels"),
            *("patch_size", "image_size", "num_proxies"),
        )
        _require_activation(self)
        _require_whole_heads(self)
        if self.image_size % self.patch_size:
            _refuse("image_size", f"{self.image_size} is not a multiple of `patch_size` {self.patch_size}.")
        if self.temporal_size is not None:
            _require_positive(self, "temporal_size")
        if self.proxy_init not in PROXY_INITS:
            _refuse("proxy_init", f"{self.proxy_init!r} is unknown; known are {', '.join(PROXY_INITS)}.")


@dataclass
class ClipVipVisionOutput(VisionStates):
    """
    `VisionStates`, with the states of every layer if they are asked for.

    Attributes:
        last_hidden_state: (B, T, h, w, D), the patches behind the last layer.
        clip_states: (B, M, D), the proxies behind the last layer.
        pooler_output: (B, D), the first proxy behind the last norm.
        hidden_states: of what enters the first layer and of what leaves each, (B, N, D): proxies, then the patches
            frame by frame.
        attentions: of each layer, the proxies' weights (B, heads, M, N) and those of the patches of each frame
            (B * T, heads, L, M + L).
    """

    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[tuple[torch.Tensor, torch.Tensor], ...] | None = None


class ClipVipEmbeddings(nn.Module):
    """Pixels -> [proxies; patches of frame 0; of frame 1; …], with their places in the frame and in time."""

    def __init__(self, config: ClipVipVisionConfig):
        super().__init__()
        self.config = config
        width, self.side = config.hidden_size, config.image_size // config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.added_cls = nn.Parameter(torch.empty(config.num_proxies - 1, width)) if config.num_proxies > 1 else None
        self.temporal_embedding = (
            nn.Parameter(torch.empty(1, config.temporal_size, width)) if config.temporal_size else None
        )
        self.patch_embedding = nn.Conv2d(
            config.num_channels, width, kernel_size=config.patch_size, stride=config.patch_size, bias=False
        )
        self.position_embedding = nn.Embedding(1 + self.side**2, width)

    def places_in_time(self, frames: int) -> torch.Tensor | None:
        """(1, frames, D), or None: the table's rows if it has as many, else interpolated with half-pixel centres."""
        rows: torch.Tensor | None = self.temporal_embedding
        if rows is None or rows.shape[1] == frames:
            return rows
        # (1, rows, D) -> (1, D, rows) -> (1, D, frames) -> (1, frames, D)
        rows = nn.functional.interpolate(rows.transpose(1, 2), size=frames, mode="linear", align_corners=False)
        return rows.transpose(1, 2)

    def places_in_frame(self, rows: int, columns: int) -> torch.Tensor:
        """(rows * columns, D): the table's rows if it has that grid, else its grid interpolated bicubically."""
        table = table_rows(self.position_embedding, 1, None)
        if (rows, columns) == (self.side, self.side):
            return table
        # (side * side, D) -> (1, D, side, side) -> (1, D, rows, columns) -> (rows * columns, D)
        grid = table.unflatten(0, (self.side, self.side)).permute(2, 0, 1)[None]
        grid = nn.functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return grid[0].flatten(1).t()

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, Grid]:
        """(B, T, channels, H, W) -> (B, N, D), and the grid (T, h, w)"""
        frames, _, height, width = pixels.shape[1:]
        grid = self.config.grid(frames, height, width)
        patches = self.patch_embedding(pixels.flatten(0, 1).to(self.patch_embedding.weight.dtype))
        # (B * T, D, h, w) -> (B * T, L, D) -> (B, T, L, D)
        patches = patches.flatten(2).transpose(1, 2).unflatten(0, (-1, frames))
        in_time = self.places_in_time(frames)
        if in_time is not None:
            patches = patches + in_time.unsqueeze(2)
        patches = patches + self.places_in_frame(*grid[1:])
        proxies = self.class_embedding[None]
        if self.added_cls is not None:
            proxies = torch.cat([proxies, self.added_cls])
        proxies = proxies + table_rows(self.position_embedding, 0, 1)  # (M, D), and no place in time
        return torch.cat([proxies.expand(len(patches), -1, -1), patches.flatten(1, 2)], dim=1), grid


class ClipVipAttention(nn.Module):
    """
    Self-attention in two parts with the same weights: a proxy sees every token, a patch sees the proxies and the
    patches of its own frame. It equals attention under the mask "either is a proxy, or both are of one frame", and no
    pair that the mask would hide is computed.
    """

    def __init__(self, config: ClipVipVisionConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.num_proxies = config.num_proxies
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.is_causal = False
        width, inner_std = config.hidden_size, (2 * config.hidden_size * config.num_hidden_layers) ** -0.5
        self.q_proj = VioletScaledLinear(width, width, std=inner_std)
        self.k_proj = VioletScaledLinear(width, width, std=inner_std)
        self.v_proj = VioletScaledLinear(width, width, std=inner_std)
        self.out_proj = VioletScaledLinear(width, width)

    def forward(self, x: torch.Tensor, frames: int) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
        """(B, N, D) -> the same shape, and the weights of both parts if the kernel gives them"""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        heads = (self.num_heads, -1)
        # (B, N, D) -> (B, N, heads, d) -> (B, heads, N, d)
        query, key, value = (
            project(x).unflatten(-1, heads).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        of_all, all_weights = attend(
            self, query[:, :, : self.num_proxies], key, value, None, scaling=self.scaling, dropout=0.0
        )
        query, key, value = query[:, :, self.num_proxies :], self.by_frame(key, frames), self.by_frame(value, frames)
        # (B, heads, T * L, d) -> (B, heads, T, L, d) -> (B, T, heads, L, d) -> (B * T, heads, L, d)
        query = query.unflatten(2, (frames, -1)).transpose(1, 2).flatten(0, 1)
        of_frames, frame_weights = attend(self, query, key, value, None, scaling=self.scaling, dropout=0.0)
        # (B * T, L, heads, d) -> (B, T, L, heads, d) -> (B, T * L, heads, d)
        of_frames = of_frames.unflatten(0, (-1, frames)).flatten(1, 2)
        states = torch.cat([of_all, of_frames], dim=1).flatten(2)  # (B, N, heads, d) -> (B, N, D)
        weights = None if all_weights is None or frame_weights is None else (all_weights, frame_weights)
        return self.out_proj(states), weights

    def by_frame(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """Keys or values (B, heads, N, d) -> what the patches of each frame see of them, (B * T, heads, M + L, d)"""
        proxies, patches = x[:, :, : self.num_proxies], x[:, :, self.num_proxies :].unflatten(2, (frames, -1))
        proxies = proxies.unsqueeze(2).expand(-1, -1, frames, -1, -1)
        # (B, heads, T, M + L, d) -> (B, T, heads, M + L, d) -> (B * T, heads, M + L, d)
        return torch.cat([proxies, patches], dim=3).transpose(1, 2).flatten(0, 1)


class ClipVipMLP(nn.Module):
    def __init__(self, config: ClipVipVisionConfig):
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.fc1 = VioletScaledLinear(width, inner, std=(2 * width) ** -0.5)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = VioletScaledLinear(inner, width, std=(2 * width * config.num_hidden_layers) ** -0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class ClipVipLayer(GradientCheckpointingLayer):
    """x + attention(norm(x)), and then x + MLP(norm(x))."""

    def __init__(self, config: ClipVipVisionConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ClipVipAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ClipVipMLP(config)

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """(B, N, D) -> the same shape"""
        x = x + self.self_attn(self.layer_norm1(x), frames)[0]
        return x + self.mlp(self.layer_norm2(x))


class ClipVipEncoder(nn.Module):
    def __init__(self, config: ClipVipVisionConfig):
        super().__init__()
        self.layers = nn.ModuleList(ClipVipLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, frames)
        return x


class ClipVipVisionModel(SavedWhole, PreTrainedModel):
    """CLIP-ViP's vision tower: a backbone of VIOLET, and a model of its own. Its weights have CLIP's names."""

    config_class = ClipVipVisionConfig
    base_model_prefix = "clip_vip"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["ClipVipEmbeddings", "ClipVipLayer"]
    _can_record_outputs = {"hidden_states": ClipVipLayer, "attentions": ClipVipAttention}

    def __init__(self, config: ClipVipVisionConfig):
        super().__init__(config)
        self.embeddings = ClipVipEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)  # CLIP's own spelling
        self.encoder = ClipVipEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """As CLIP's; the places in time begin at 0."""
        config, std = self.config, self.config.hidden_size**-0.5
        if isinstance(module, ClipVipEmbeddings):
            init.normal_(module.class_embedding, std=std)
            init.normal_(module.patch_embedding.weight, std=config.initializer_range)
            init.normal_(module.position_embedding.weight, std=config.initializer_range)
            if module.temporal_embedding is not None:
                init.zeros_(module.temporal_embedding)
            if module.added_cls is not None and config.proxy_init == "normal":
                init.normal_(module.added_cls)
            elif module.added_cls is not None:
                near = 0.02 * torch.randn_like(module.added_cls)
                init.copy_(module.added_cls, module.class_embedding + near)
        elif isinstance(module, VioletScaledLinear):
            module.start_weights()
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values_videos: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> ClipVipVisionOutput:
        """Pixels (B, T, channels, H, W), normalised with CLIP's mean and std -> see `ClipVipVisionOutput`."""
        x, grid = self.embeddings(pixel_values_videos)
        x = self.encoder(self.pre_layrnorm(x), grid[0])
        proxies, patches = x[:, : self.config.num_proxies], x[:, self.config.num_proxies :]
        return ClipVipVisionOutput(
            last_hidden_state=patches.unflatten(1, grid),  # (B, T * L, D) -> (B, T, h, w, D)
            clip_states=proxies,
            pooler_output=self.post_layernorm(proxies[:, 0]),
        )


class ClipVip(Encoder):
    """The tower as VIOLET's encoder: what enters a fusion passes the tower's last norm."""

    key = "clip_vip"
    attends_in_frames = True

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.model_class = ClipVipVisionModel

    def states(self, model: PreTrainedModel, pixels: torch.Tensor, **others: torch.Tensor) -> VisionStates:
        output, norm = super().states(model, pixels, **others), model.post_layernorm
        assert output.last_hidden_state is not None and output.clip_states is not None
        return VisionStates(
            norm(output.last_hidden_state),
            clip_states=norm(output.clip_states),
            pooler_output=output.pooler_output,
        )


AutoConfig.register(ClipVipVisionConfig.model_type, ClipVipVisionConfig, exist_ok=True)
AutoModel.register(ClipVipVisionConfig, ClipVipVisionModel, exist_ok=True)

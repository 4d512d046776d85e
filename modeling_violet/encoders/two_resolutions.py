"""
HD-VILA's video encoder (Xue et al., 2022, "Advancing High-Resolution Video-Language Representation with Large-Scale
Video Transcriptions", arXiv:2111.10337): one frame of a clip in high resolution, its neighbours at a quarter of it.

Letters in this file: B videos, N clips a video, T frames a clip, H rows and W columns of the sharp frame's pixels, D
the width; h = H / 64 and w = W / 64, the grid.
"""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ...configuration.configuration_violet import _refuse_unknown
from ...core.carried_code import without_code
from ...core.upstream import ALL_ATTENTION_FUNCTIONS, GradientCheckpointingLayer, capture_outputs
from ...core.whole_folders import SavedWhole
from ..attention import eager_attention_forward
from ..tokens import VisionStates
from .video_swin import VioletDropPath

SHARP_SIDE = 64
"""Rows and columns of the sharp frame that become one cell: its ResNet's last stage (32), pooled two by two."""
SMALL_SIDE = 16
"""Rows and columns of a small frame that become one cell: its ResNet's third stage."""
SCALE = SHARP_SIDE // SMALL_SIDE
"""How much smaller the other frames are."""
RESOLUTIONS: dict[str, tuple[str, ...]] = {
    "both": ("pixel_values_videos", "pixel_values_detail"),
    "small": ("pixel_values_videos",),
    "sharp": ("pixel_values_detail",),
}
"""By `resolutions`: the pixels that the encoder takes."""


@strict
class HdVilaVisionConfig(PreTrainedConfig):
    r"""
    Configuration of HD-VILA's video encoder. The defaults are those of the published model.

    Args:
        resolutions (`str`): `"both"` (a sharp middle frame and its small neighbours), `"small"` (small frames only)
            or `"sharp"` (the middle frame only).
        num_frames (`int`): frames of a clip that have a learned place in time.
        num_clips (`int`): clips of one video that stand behind one another in its row; each is encoded by itself, and
            is one step of the grid.
        position_grid (`list[int]`): (rows, columns) of the grid of learned positions, of 64 x 64 sharp pixels.
        interpolate (`bool`): whether clips of another number of frames or another size than those are taken, with
            interpolated positions.
        hidden_size (`int`): width of the grid's states.
        num_hidden_layers (`int`): blocks of attention in time and in space.
        mlp_ratio (`float`): width of a block's feed-forward layer, as a multiple of `hidden_size`.
        drop_path_rate (`float`): stochastic depth of the last block; it grows linearly from 0 at the first.
        resnet_width (`int`): channels of a ResNet's first stage; 64 is ResNet-50.
        resnet_depths (`list[int]`): bottlenecks of its four stages.
    """

    model_type = "hd_vila"
    base_config_key = "vision_config"

    resolutions: str = "both"
    num_frames: int = 7
    num_clips: int = 1
    position_grid: list[int] | tuple[int, ...] = (10, 16)
    interpolate: bool = False
    hidden_size: int = 1024
    num_hidden_layers: int = 4
    num_attention_heads: int = 16
    mlp_ratio: float | int = 4.0
    hidden_act: str = "gelu"
    drop_path_rate: float | int = 0.1
    layer_norm_eps: float = 1e-6
    resnet_width: int = 64
    resnet_depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)
    num_channels: int = 3
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the pixels that the encoder takes, the first of them those whose size `grid` is asked for."""
        return RESOLUTIONS[self.resolutions]

    @property
    def pooled_size(self) -> int:
        """Width of a video's own vector."""
        return self.hidden_size

    @property
    def steps(self) -> int:
        """Steps in time of every grid: a clip is one."""
        return self.num_clips

    @property
    def cell(self) -> tuple[int, int, int]:
        """(frames, rows, columns) of pixels of the first of `inputs` that become one cell of the grid."""
        if self.resolutions == "sharp":
            return 1, SHARP_SIDE, SHARP_SIDE
        return self.num_frames, SMALL_SIDE, SMALL_SIDE

    def frames_of_a_clip(self, frames: int) -> int:
        """
        The number of frames of each clip in a row of that many.

        Raises:
            ValueError: for a number that `num_clips` clips cannot have.
        """
        if frames < 1 or frames % self.num_clips:
            raise ValueError(
                f"`pixel_values_videos` has {frames} frames, which `num_clips` {self.num_clips} does not divide."
            )
        each = frames // self.num_clips
        if self.resolutions == "both" and each < 2:
            raise ValueError(
                "`pixel_values_videos` has 1 frame a clip, and `resolutions` 'both' needs 2 or more: the sharp frame "
                "has no neighbour. Take 'sharp'."
            )
        if each != self.num_frames and not self.interpolate:
            raise ValueError(
                f"`pixel_values_videos` has {each} frames a clip, and `num_frames` {self.num_frames} places in time "
                "are learned: set `interpolate` to interpolate them."
            )
        return each

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """
        The grid (clips, rows, columns) for pixels of that size of the first of `inputs`.

        Raises:
            ValueError: for a size that cannot be taken, with the settings that stand against it.
        """
        name, side = self.inputs[0], self.cell[1]
        if min(height, width) < side or height % side or width % side:
            sharp = f" (sharp ones of {SHARP_SIDE})" if side == SMALL_SIDE else ""
            raise ValueError(
                f"`{name}` has frames of {height} x {width} pixels, and `resolutions` {self.resolutions!r} needs "
                f"multiples of {side}{sharp}: nothing is padded or cut. Change the processor's size."
            )
        if self.resolutions != "sharp":
            self.frames_of_a_clip(frames)
        elif frames != self.num_clips:
            raise ValueError(f"`pixel_values_detail` has {frames} frames for `num_clips` {self.num_clips}: one each.")
        rows, columns = height // side, width // side
        if (rows, columns) != tuple(self.position_grid) and self.resolutions != "sharp" and not self.interpolate:
            raise ValueError(
                f"`{name}` has a grid of {rows} x {columns} cells, and `position_grid` is {self.position_grid}: set "
                "`interpolate` to interpolate the positions."
            )
        return self.num_clips, rows, columns

    def validate_architecture(self):
        """Refuses contradictions, naming the field."""
        super().validate_architecture()
        if self.resolutions not in RESOLUTIONS:
            raise ValueError(f"`resolutions`: {self.resolutions!r} is unknown; use {', '.join(RESOLUTIONS)}.")
        for field in ("num_frames", "num_clips", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, field) < 1:
                raise ValueError(f"`{field}`: must be 1 or more, got {getattr(self, field)}.")
        for field in ("resnet_width", "num_channels", "mlp_ratio"):
            if getattr(self, field) <= 0:
                raise ValueError(f"`{field}`: must be above 0, got {getattr(self, field)}.")
        if self.resolutions == "both" and self.num_frames < 2:
            raise ValueError(
                f"`num_frames` {self.num_frames} leaves `resolutions` 'both' no small frames beside the sharp one."
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`num_attention_heads`: {self.num_attention_heads} does not divide `hidden_size` {self.hidden_size}."
            )
        if len(self.position_grid) != 2 or min(self.position_grid) < 1:
            raise ValueError(f"`position_grid`: must be (rows, columns), got {self.position_grid}.")
        if len(self.resnet_depths) != 4 or min(self.resnet_depths) < 1:
            raise ValueError(f"`resnet_depths`: must be four positive numbers, got {self.resnet_depths}.")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"`hidden_act`: {self.hidden_act!r} is unknown.")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"`drop_path_rate`: must lie in [0, 1), got {self.drop_path_rate}.")


class HdVilaBatchNorm(nn.Module):
    """Batch normalisation by its running numbers, in training too: they never move, weight and bias are learned."""

    eps = 1e-5

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.running_mean = nn.Buffer(torch.empty(channels))
        self.running_var = nn.Buffer(torch.empty(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        numbers = self.running_mean, self.running_var, self.weight, self.bias
        return nn.functional.batch_norm(x, *numbers, training=False, eps=self.eps)


class HdVilaBottleneck(GradientCheckpointingLayer):
    """A bottleneck of ResNet-50 (He et al., 2016, arXiv:1512.03385), its stride in the 3x3 convolution."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = HdVilaBatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = HdVilaBatchNorm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = HdVilaBatchNorm(4 * width)
        self.downsample = None
        if stride != 1 or channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), HdVilaBatchNorm(4 * width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(pictures, channels, rows, columns) -> (pictures, 4 * width, rows / stride, columns / stride)"""
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class HdVilaResNet(nn.Module):
    """ResNet-50 without its head: the first `num_stages` of its four stages."""

    def __init__(self, config, num_stages: int):
        super().__init__()
        width = config.resnet_width
        self.conv1 = nn.Conv2d(config.num_channels, width, 7, 2, 3, bias=False)
        self.bn1 = HdVilaBatchNorm(width)
        channels = width
        for stage in range(num_stages):
            inner = width * 2**stage
            blocks = []
            for number in range(config.resnet_depths[stage]):
                blocks.append(HdVilaBottleneck(channels, inner, stride=2 if stage and not number else 1))
                channels = 4 * inner
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, pictures: torch.Tensor, num_stages: int) -> list[torch.Tensor]:
        """Pictures (n, channels, H, W) -> each stage's (n, 4 * width * 2**i, H / 2**(i + 2), W / 2**(i + 2))"""
        x = self.bn1(self.conv1(pictures)).relu()
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        stages = []
        for stage in range(num_stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            stages.append(x)
        return stages


class HdVilaAttention(nn.Module):
    """Self-attention of each row's tokens."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // self.num_heads) ** -0.5
        self.is_causal = False
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(rows, tokens, D) -> the same, and the weights (rows, heads, tokens, tokens) if the kernel gives them"""
        rows, tokens, width = x.shape
        # (rows, tokens, 3 * D) -> (3, rows, heads, tokens, D / heads)
        query, key, value = self.qkv(x).view(rows, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attention(self, query, key, value, None, scaling=self.scaling, dropout=0.0)
        return self.proj(output.reshape(rows, tokens, width)), weights


class HdVilaTemporalLinear(nn.Linear):
    """Behind the attention over time, in all blocks; it starts as zero, so that a clip starts as its single frames."""


class HdVilaBlock(GradientCheckpointingLayer):
    """
    A block of TimeSformer (Bertasius et al., 2021, "Is Space-Time Attention All You Need for Video Understanding?",
    arXiv:2102.05095) with divided attention: each place over time, then each frame over its places.
    """

    def __init__(self, config, drop_path: float):
        super().__init__()
        width = config.hidden_size
        self.temporal_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.temporal_attention = HdVilaAttention(config)
        self.temporal_fc = HdVilaTemporalLinear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = HdVilaAttention(config)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        hidden = int(width * config.mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), ACT2FN[config.hidden_act], nn.Linear(hidden, width))
        self.drop_path = VioletDropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(clips, T, h * w, D) -> the same shape. Stochastic depth is drawn per row of each step: see the comments."""
        clips, frames, places, width = x.shape
        # (clips, T, h * w, D) -> (clips * h * w, T, D): a row is a place
        in_time = self.temporal_norm(x).transpose(1, 2).reshape(clips * places, frames, width)
        in_time = self.temporal_fc(self.drop_path(self.temporal_attention(in_time)[0]))
        # (clips * h * w, T, D) -> (clips, T, h * w, D)
        x = x + in_time.view(clips, places, frames, width).transpose(1, 2)
        # (clips, T, h * w, D) -> (clips * T, h * w, D): a row is a frame
        in_space = self.drop_path(self.attention(self.norm1(x).flatten(0, 1))[0])
        x = x + in_space.view(clips, frames, places, width)
        return x + self.drop_path(self.mlp(self.norm2(x)))  # a row is a clip


class HdVilaTimeSformer(nn.Module):
    """Positions in the frame and in time, and the blocks; no norm behind them."""

    def __init__(self, config):
        super().__init__()
        self.position_grid = tuple(config.position_grid)
        width, layers = config.hidden_size, config.num_hidden_layers
        self.position_embeddings = nn.Parameter(torch.empty(1, self.position_grid[0] * self.position_grid[1], width))
        self.time_embeddings = nn.Parameter(torch.empty(1, config.num_frames, width))
        rates = [config.drop_path_rate * layer / max(layers - 1, 1) for layer in range(layers)]
        self.blocks = nn.ModuleList(HdVilaBlock(config, rate) for rate in rates)

    def positions(self, rows: int, columns: int) -> torch.Tensor:
        """(1, 1, h * w, D), those of the learned grid or interpolated bilinearly"""
        if (rows, columns) == self.position_grid:
            return self.position_embeddings.unsqueeze(1)
        # (1, h * w, D) -> (1, D, h, w), and back
        grid = self.position_embeddings.unflatten(1, self.position_grid).permute(0, 3, 1, 2)
        grid = nn.functional.interpolate(grid, (rows, columns), mode="bilinear", align_corners=False)
        return grid.flatten(2).transpose(1, 2).unsqueeze(1)

    def times(self, frames: int) -> torch.Tensor:
        """(1, T, 1, D), the learned places in time or interpolated linearly"""
        table = self.time_embeddings
        if frames != table.shape[1]:
            # (1, T, D) -> (1, D, T), and back
            table = nn.functional.interpolate(table.transpose(1, 2), frames, mode="linear", align_corners=False)
            table = table.transpose(1, 2)
        return table.unsqueeze(2)

    def forward(self, stack: torch.Tensor) -> torch.Tensor:
        """(clips, T, D, h, w) -> the same shape"""
        rows, columns = stack.shape[3:]
        x = stack.flatten(3).transpose(2, 3)  # (clips, T, D, h, w) -> (clips, T, h * w, D)
        x = x + self.positions(rows, columns).to(x.dtype) + self.times(x.shape[1]).to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return x.transpose(2, 3).unflatten(3, (rows, columns))


class HdVilaVisionModel(SavedWhole, PreTrainedModel):
    """Two ResNets, a TimeSformer over the clip, and a join: one map of 64 x 64 sharp pixels a cell for each clip."""

    config_class = HdVilaVisionConfig
    base_model_prefix = "two_resolutions"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["HdVilaBottleneck", "HdVilaBlock"]
    _can_record_outputs = {"hidden_states": HdVilaBlock, "attentions": HdVilaAttention}

    def __init__(self, config: HdVilaVisionConfig):
        super().__init__(config)
        width, channels = config.hidden_size, 16 * config.resnet_width
        self.activation = ACT2FN[config.hidden_act]
        self.sharp = self.sharp_projection = None
        self.small = self.small_projection = self.timesformer = self.join = None
        if config.resolutions != "small":
            self.sharp = HdVilaResNet(config, 4)
            self.sharp_projection = nn.Conv2d(2 * channels, width, 1, bias=False)
        if config.resolutions != "sharp":
            self.small = HdVilaResNet(config, 3)
            self.small_projection = nn.Conv2d(channels, width, 1, bias=False)
            self.timesformer = HdVilaTimeSformer(config)
        if config.resolutions == "both":
            self.join = nn.Conv2d(2 * width, width, 1, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        std = self.config.initializer_range
        if isinstance(module, HdVilaTemporalLinear):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=5**0.5)  # torch's default start
        elif isinstance(module, nn.LayerNorm | HdVilaBatchNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            if isinstance(module, HdVilaBatchNorm):
                init.zeros_(module.running_mean)
                init.ones_(module.running_var)
        elif isinstance(module, HdVilaTimeSformer):
            init.trunc_normal_(module.position_embeddings, std=std)
            init.zeros_(module.time_embeddings)

    def get_input_embeddings(self) -> nn.Module:
        return (self.small if self.sharp is None else self.sharp).conv1  # type: ignore[union-attr,return-value]

    def stack(self, small: torch.Tensor | None, middle: torch.Tensor | None) -> torch.Tensor:
        """
        What enters the TimeSformer, (clips, T, D, h, w).

        Args:
            small: (clips, n, channels, H / 4, W / 4), the small frames in their order.
            middle: (clips, 16 * resnet_width, H / 16, W / 16), the third stage of the sharp frame, whose every fourth
                row and column takes the place T // 2 among them; None if all T frames are small.
        """
        assert small is not None and self.small is not None and self.small_projection is not None
        clips, frames = small.shape[:2]
        states = self.small(small.flatten(0, 1), 3)[-1]
        states = self.activation(self.small_projection(states)).unflatten(0, (clips, frames))
        if middle is None:
            return states
        slot = self.activation(self.small_projection(middle[..., ::SCALE, ::SCALE])).unsqueeze(1)
        before = (frames + 1) // 2
        return torch.cat([states[:, :before], slot, states[:, before:]], dim=1)

    def maps(self, small: torch.Tensor | None, sharp: torch.Tensor | None) -> torch.Tensor:
        """
        The map (clips, D, h, w) of each clip.

        Args:
            small: (clips, T, channels, H / 4, W / 4), without the middle frame if there is a sharp one.
            sharp: (clips, channels, H, W), the middle frame.
        """
        detail = middle = None
        if sharp is not None:
            assert self.sharp is not None and self.sharp_projection is not None
            stages = self.sharp(sharp, 4)
            middle = stages[2]
            detail = self.activation(nn.functional.max_pool2d(self.sharp_projection(stages[3]), 2))
            if small is None:
                return detail
        assert self.timesformer is not None
        stack = self.timesformer(self.stack(small, middle))
        slot = stack[:, stack.shape[1] // 2]
        if detail is None:
            return slot
        assert self.join is not None
        return self.activation(self.join(torch.cat([detail, slot], dim=1)))

    def check(self, videos: torch.Tensor | None, detail: torch.Tensor | None) -> None:
        """Refuses pixels that are not what `config.inputs` names, or of sizes that do not belong together."""
        given = {"pixel_values_videos": videos, "pixel_values_detail": detail}
        for name, pixels in given.items():
            if (pixels is not None) != (name in self.config.inputs):
                raise ValueError(
                    f"`{name}` is {'given' if pixels is not None else 'missing'}, and `resolutions` is "
                    f"{self.config.resolutions!r}, which takes {' and '.join(self.config.inputs)}."
                )
            if pixels is not None and pixels.dim() != 5:
                raise ValueError(f"`{name}` has shape {tuple(pixels.shape)}; five dimensions are needed.")
            if pixels is not None and not pixels.is_floating_point():
                raise ValueError(f"`{name}` is {pixels.dtype}: pixels must be normalised, see the processor.")
        first = given[self.config.inputs[0]]
        assert first is not None
        self.config.grid(first.shape[1], *first.shape[3:])
        if videos is not None and detail is not None:
            expected = (
                len(videos),
                self.config.num_clips,
                videos.shape[2],
                *(SCALE * side for side in videos.shape[3:]),
            )
            if detail.shape != expected:
                raise ValueError(
                    f"`pixel_values_detail` has shape {tuple(detail.shape)}; beside `pixel_values_videos` "
                    f"{tuple(videos.shape)} with `num_clips` {self.config.num_clips} it must have {expected}: one "
                    f"frame of each clip, {SCALE} times as high and wide."
                )

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        pixel_values_detail: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VisionStates:
        """
        Args:
            pixel_values_videos: (B, N * T, channels, H / 4, W / 4), all frames of each clip, small and normalised.
                The small middle one is not read if there is a sharp one.
            pixel_values_detail: (B, N, channels, H, W), each clip's frame T // 2.

        Returns:
            `last_hidden_state` (B, N, h, w, D), and `pooler_output` (B, D), its mean.
        """
        self.check(pixel_values_videos, pixel_values_detail)
        small = sharp = None
        dtype = self.dtype
        if pixel_values_videos is not None:
            frames = self.config.frames_of_a_clip(pixel_values_videos.shape[1])
            # (B, N * T, channels, rows, columns) -> (B * N, T, channels, rows, columns)
            small = pixel_values_videos.to(dtype).unflatten(1, (-1, frames)).flatten(0, 1)
        if pixel_values_detail is not None:
            sharp = pixel_values_detail.to(dtype).flatten(0, 1)  # (B, N, channels, H, W) -> (B * N, channels, H, W)
        if small is not None and sharp is not None:
            middle = small.shape[1] // 2
            small = torch.cat([small[:, :middle], small[:, middle + 1 :]], dim=1)
        maps = self.maps(small, sharp)
        # (B * N, D, h, w) -> (B, N, h, w, D)
        states = maps.unflatten(0, (-1, self.config.num_clips)).permute(0, 1, 3, 4, 2)
        return VisionStates(last_hidden_state=states, pooler_output=states.mean((1, 2, 3)))


AutoConfig.register(HdVilaVisionConfig.model_type, HdVilaVisionConfig, exist_ok=True)
AutoModel.register(HdVilaVisionConfig, HdVilaVisionModel, exist_ok=True)

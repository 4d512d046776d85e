"""
Video Swin whose windows grow in time with depth, for long clips (Sun et al., 2022, "Long-Form Video-Language
Pre-Training with Multimodal Temporal Contrastive Learning", arXiv:2210.06031, section 3.2).

Letters in this file: B batch, T frames, H rows, W columns, C channels, K clips of a video.
"""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.modeling_outputs import ModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ...configuration.configuration_violet import (
    SwinStage,
    _refuse,
    _refuse_unknown,
    _require_activation,
    _require_positive,
)
from ...core.carried_code import without_code
from ...core.upstream import capture_outputs
from .video_swin import VioletPatchMerging, VioletVisionModel, effective_window

CLIP_FEATURES = ("final", "intermediate")
WINDOWS = ((2, 3, 5), (4, 3, 5), (8, 3, 5), (16, 3, 5), (16, 3, 5), (32, 3, 5))


@strict
class LfVilaVisionConfig(PreTrainedConfig):
    r"""
    Configuration of the hierarchical temporal window encoder. The defaults are LF-VILA's (32 frames of 192 x 320).

    Args:
        embed_dim (`int`): channels after the patch embedding; each merging doubles them.
        depths, num_heads (`list[int]`): blocks and attention heads of each layer.
        window_sizes (`list[list[int]]`): each layer's largest window as (frames, rows, columns) of patches. Every
            second block's windows are shifted in rows and columns, never in time.
        merge_after (`list[int]`): the layers, from 0, behind which 2 x 2 cells become one of twice the width.
        patch_size (`int`): side of a patch in pixels; each frame is a step in time.
        pool_size (`list[int]`): (rows, columns) of the last map whose maximum is a token, one cell apart.
        num_clips (`int`): equal parts in time of a video that have a feature of their own; it divides the frames.
        clip_features (`str`): what the clips' features are pooled of: the last map (`"final"`, the published models),
            or the map in front of the first layer whose window is longer than `clip_window` (`"intermediate"`, what
            the paper describes).
        clip_window (`int`): frames.
        mlp_ratio, qkv_bias, hidden_act, drop_path_rate, layer_norm_eps, initializer_range: see
            [`VioletVisionConfig`].
    """

    model_type = "lf_vila"
    base_config_key = "vision_config"

    embed_dim: int = 128
    depths: list[int] | tuple[int, ...] = (2, 2, 14, 2, 2, 2)
    num_heads: list[int] | tuple[int, ...] = (4, 8, 16, 16, 16, 32)
    window_sizes: list[list[int]] | tuple[tuple[int, ...], ...] = WINDOWS
    merge_after: list[int] | tuple[int, ...] = (0, 1, 4)
    num_channels: int = 3
    patch_size: int = 8
    pool_size: list[int] | tuple[int, ...] = (2, 3)
    num_clips: int = 4
    clip_features: str = "final"
    clip_window: int = 8
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    drop_path_rate: float | int = 0.2
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))

    @property
    def stages(self) -> list[SwinStage]:
        """What the network is built of, from the first layer to the last."""
        stages: list[SwinStage] = []
        width = self.embed_dim
        for i, (depth, heads, window) in enumerate(zip(self.depths, self.num_heads, self.window_sizes, strict=True)):
            merges = i in self.merge_after
            stages.append(SwinStage(width, depth, heads, (window[0], window[1], window[2]), merges))
            width *= 2 if merges else 1
        return stages

    @property
    def temporal_shift(self) -> bool:
        """Never: a window's frames are the same in each block of a layer."""
        return False

    @property
    def temporal_patch_size(self) -> int:
        """Frames that a patch reads."""
        return 1

    @property
    def temporal_stride(self) -> int:
        """Frames between two patches."""
        return 1

    @property
    def hidden_size(self) -> int:
        """Channels of the last layer."""
        return self.embed_dim * 2 ** len(self.merge_after)

    @property
    def pooled_size(self) -> int:
        """Width of the pooled vector: the features of the clips, one behind the other."""
        return self.num_clips * self.hidden_size

    @property
    def cell(self) -> tuple[int, int, int]:
        """(frames, rows, columns) of pixels between two tokens; each token sees `pool_size` times that."""
        side = self.patch_size * 2 ** len(self.merge_after)
        return 1, side, side

    @property
    def clip_layer(self) -> int | None:
        """The layer in front of which the intermediate features of clips are taken; None if no window is so long."""
        return next((i for i, window in enumerate(self.window_sizes) if window[0] > self.clip_window), None)

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """
        (rows, columns) of the last map of frames of that size; odd sides are completed where cells are merged.

        Raises:
            ValueError: for frames that are no whole number of patches: nothing is cut or completed in silence.
        """
        patch = self.patch_size
        if min(height, width) < patch or height % patch or width % patch:
            raise ValueError(
                f"`patch_size` is {patch}: the height and width of frames must be multiples of it, got {height} x "
                f"{width}."
            )
        merged = 2 ** len(self.merge_after)
        return -(-height // (patch * merged)), -(-width // (patch * merged))

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """
        (steps, rows, columns) of the pooled tokens of clips of that size.

        Raises:
            ValueError: for frames that `num_clips` does not divide, or a map smaller than `pool_size`.
        """
        if frames < 1 or frames % self.num_clips:
            raise ValueError(
                f"The number of frames must be a multiple of `num_clips` {self.num_clips}, got {frames} frames."
            )
        size = self.map_size(height, width)
        rows, columns = (side - pooled + 1 for side, pooled in zip(size, self.pool_size, strict=True))
        if min(rows, columns) < 1:
            raise ValueError(
                f"`pool_size` {tuple(self.pool_size)} is larger than the map {size} of frames of {height} x {width} "
                f"pixels with `patch_size` {self.patch_size}: give larger frames."
            )
        return frames, rows, columns

    def frame_size(self, rows: int, columns: int) -> tuple[int, int]:
        """(height, width) in pixels of the frames whose last map is pooled to these rows and columns."""
        most = (rows + self.pool_size[0] - 1, columns + self.pool_size[1] - 1)
        return most[0] * self.cell[1], most[1] * self.cell[2]

    def attention_pairs(self, frames: int, height: int, width: int) -> int:
        """Pairs of a query and a key in all blocks, for one clip of that size: what the attention's matrices hold."""
        rows, columns = height // self.patch_size, width // self.patch_size
        pairs = 0
        for stage in self.stages:
            (t, h, w), _ = effective_window((frames, rows, columns), stage.window, shifted=False)
            padded = [-(-side // most) * most for side, most in ((frames, t), (rows, h), (columns, w))]
            pairs += stage.depth * padded[0] * padded[1] * padded[2] * t * h * w
            if stage.merges:
                rows, columns = -(-rows // 2), -(-columns // 2)
        return pairs

    def validate_architecture(self):
        """Refuses contradictions, naming both fields."""
        super().validate_architecture()
        _require_positive(self, "embed_dim", "num_channels", "patch_size", "num_clips", "clip_window", "mlp_ratio")
        _require_activation(self)
        layers = len(self.depths)
        if layers == 0 or min(self.depths) < 1:
            _refuse("depths", f"needs at least one layer and one block in each, got {self.depths}.")
        for name in ("num_heads", "window_sizes"):
            if len(getattr(self, name)) != layers:
                _refuse(name, f"{getattr(self, name)} must have an entry a layer, and `depths` has {layers}.")
        for window in self.window_sizes:
            if len(window) != 3 or min(window) < 1:
                _refuse("window_sizes", f"each must be three positive numbers (frames, rows, columns), got {window}.")
        frames = [window[0] for window in self.window_sizes]
        if frames != sorted(frames):
            _refuse(
                "window_sizes", f"windows must not get shorter in time with depth (`depths`), got {frames} frames."
            )
        merging = list(self.merge_after)
        if merging != sorted(set(merging)) or not set(merging) <= set(range(layers - 1)):
            _refuse(
                "merge_after",
                f"must be layers in ascending order, none the last, of the {layers} of `depths`; got {merging}.",
            )
        for i, stage in enumerate(self.stages):
            if stage.num_heads < 1 or stage.width % stage.num_heads:
                _refuse(
                    "num_heads",
                    f"{stage.num_heads} heads do not divide the width {stage.width} of layer {i} (`embed_dim`).",
                )
        if len(self.pool_size) != 2 or min(self.pool_size) < 1:
            _refuse("pool_size", f"must be two positive numbers (rows, columns), got {self.pool_size}.")
        if not 0 <= self.drop_path_rate < 1:
            _refuse("drop_path_rate", f"must lie in [0, 1), got {self.drop_path_rate}.")
        self._validate_clip_features()

    def _validate_clip_features(self):
        if self.clip_features not in CLIP_FEATURES:
            _refuse("clip_features", f"{self.clip_features!r} is unknown; known are {', '.join(CLIP_FEATURES)}.")
        if self.clip_features == "final":
            return
        if self.clip_layer is None:
            _refuse("clip_window", f"no window of `window_sizes` is longer than {self.clip_window} frames.")
        width = self.stages[self.clip_layer].width
        if 2 * width != self.hidden_size:
            _refuse(
                "clip_features",
                f'"intermediate" needs a layer of half the last width {self.hidden_size} where windows grow beyond '
                f"`clip_window` {self.clip_window}: layer {self.clip_layer} has {width}.",
            )


@dataclass
class LfVilaVisionOutput(ModelOutput):
    """
    Attributes:
        last_hidden_state: (B, T, rows, columns, C), the maxima of the last map; see `LfVilaVisionConfig.grid`.
        pooler_output: (B, K * C), the mean of each clip's states, clip by clip.
        feature_map: (B, T, H', W', C), the last map before the maxima are taken.
        clip_map: (B, T, H', W', C), what the clips' features are pooled of: the last map, or the intermediate one.
        hidden_states, attentions: as those of `VioletVisionModel`.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    feature_map: torch.Tensor | None = None
    clip_map: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def pool_cells(states: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, T, H, W, C) -> (B, T, H - rows + 1, W - columns + 1, C): the maximum of each window of cells"""
    x = states.flatten(0, 1).permute(0, 3, 1, 2)  # (B, T, H, W, C) -> (B * T, C, H, W)
    x = nn.functional.max_pool2d(x, size, stride=1)
    return x.permute(0, 2, 3, 1).unflatten(
        0, states.shape[:2]
    )  # (B * T, C, rows, columns) -> (B, T, rows, columns, C)


class LfVilaVisionModel(VioletVisionModel):
    """Video Swin with a window of its own in each layer, max-pooled to few tokens a frame; a model of its own too."""

    config_class = LfVilaVisionConfig

    def __init__(self, config: LfVilaVisionConfig):
        super().__init__(config)  # type: ignore[arg-type]  # it describes its stages as VioletVisionConfig does
        intermediate = config.clip_features == "intermediate"
        self.clip_layer = config.clip_layer if intermediate else None
        width = config.stages[self.clip_layer].width if self.clip_layer is not None else 0
        self.clip_merging = VioletPatchMerging(config, width) if intermediate else None
        self.clip_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if intermediate else None
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(  # type: ignore[override]
        self, pixel_values_videos: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> LfVilaVisionOutput:
        """
        Pixels (B, T, channels, height, width), normalised -> `LfVilaVisionOutput`.

        Raises:
            ValueError: for a clip that `LfVilaVisionConfig.grid` refuses.
        """
        frames, _, height, width = pixel_values_videos.shape[1:]
        self.config.grid(frames, height, width)
        x = self.patch_embed(pixel_values_videos)
        early = None
        for i, stage in enumerate(self.stages):
            early = x if i == self.clip_layer else early
            x = stage(x)
        last = self.norm(x)
        tokens = pool_cells(last, tuple(self.config.pool_size))
        clip_map, clip_tokens = last, tokens
        if early is not None:
            assert self.clip_merging is not None and self.clip_norm is not None
            clip_map = self.clip_norm(self.clip_merging(early))
            clip_tokens = pool_cells(clip_map, tuple(self.config.pool_size))
        # (B, T, rows, columns, C) -> (B, K, T / K, rows, columns, C) -> (B, K * C)
        clips = clip_tokens.unflatten(1, (self.config.num_clips, -1)).mean((2, 3, 4)).flatten(1)
        return LfVilaVisionOutput(last_hidden_state=tokens, pooler_output=clips, feature_map=last, clip_map=clip_map)


AutoConfig.register(LfVilaVisionConfig.model_type, LfVilaVisionConfig, exist_ok=True)
AutoModel.register(LfVilaVisionConfig, LfVilaVisionModel, exist_ok=True)

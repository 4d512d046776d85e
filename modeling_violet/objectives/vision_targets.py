"""
The targets of masked visual modelling that the package has: each one's head, loss and teacher.

Shapes: (B, T) videos and frames, (h, w) the grid of patches, (H, W) pixels, `side` a patch's side in pixels, D the
model's width.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from ...configuration.configuration_violet import VioletConfig
from ..encoders import find_encoder
from ..heads import VioletClassificationHead
from ..losses import IGNORE_INDEX, masked_cross_entropy, masked_l1, masked_l1_as_published
from .masked_vision import MEASURE, MVMTarget
from .teachers import (
    ClipTeacher,
    DepthTeacher,
    HogTeacher,
    ImageTeacher,
    OpticalFlowTeacher,
    PixelTeacher,
    TokenTeacher,
    VideoTeacher,
)

LARGEST_FLOW = 50.0
"""Pixels; a pair of frames with a displacement of so much or more is left out of the flow loss (VIOLETv2)."""


def channel_medians(targets: Sequence[torch.Tensor], outputs: int, channel: int) -> torch.Tensor:
    """The least L1: each channel's median, (channels,). `channel` is the dimension of the targets that holds them."""
    values = torch.cat([target.float().movedim(channel, -1).flatten(0, -2) for target in targets])
    return values.median(dim=0).values


def log_frequencies(targets: Sequence[torch.Tensor], outputs: int) -> torch.Tensor:
    """The least cross-entropy: how often each class is met, (outputs,); each is taken to be met once more."""
    counts = torch.cat([target.flatten() for target in targets]).bincount(minlength=outputs) + 1
    return (counts / counts.sum()).log()


def pixel_shuffle(patches: torch.Tensor, side: int) -> torch.Tensor:
    """(B, T, h, w, C * side²) -> (B, T, C, h * side, w * side), the channels of a patch in PixelShuffle's order."""
    # (B, T, h, w, C * side²) -> (B, T, h, w, C, side, side) -> (B, T, C, h, side, w, side)
    x = patches.unflatten(-1, (patches.shape[-1] // side**2, side, side)).permute(0, 1, 4, 2, 5, 3, 6)
    return x.flatten(5, 6).flatten(3, 4)  # -> (B, T, C, h * side, w * side)


class VioletPixelDecoder(nn.Module):
    """Each patch to its pixels, linearly (a 1x1 convolution): (B, T, h, w, D) -> (B, T, C, h * side, w * side)."""

    def __init__(self, width: int, channels: int, side: int):
        super().__init__()
        self.side = side
        self.projection = nn.Linear(width, channels * side**2)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return pixel_shuffle(self.projection(patches), self.side)


class VioletFlowDecoder(VioletPixelDecoder):
    """A pixel decoder of two neighbouring frames' patches: (B, T, h, w, D) -> (B, T - 1, 2, h * side, w * side)"""

    def __init__(self, width: int, side: int):
        super().__init__(2 * width, 2, side)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.cat([patches[:, :-1], patches[:, 1:]], dim=-1))


class VioletTokenHead(nn.Module):
    """Visual words, k x k of them a patch: (B, T, h, w, D) -> (B, T, h * k, w * k, words)"""

    def __init__(self, config: VioletConfig, words: int, per_cell: int):
        super().__init__()
        self.per_cell = per_cell
        width = 2 * config.hidden_size
        if width % per_cell**2:
            raise ValueError(f"The head of 'vq': `per_cell` {per_cell}, squared, does not divide the width {width}.")
        self.projection = nn.Linear(config.hidden_size, width)
        self.classifier = VioletClassificationHead(config, words, width // per_cell**2)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        x = pixel_shuffle(self.projection(patches), self.per_cell)
        return self.classifier(x.movedim(2, -1))  # (B, T, channels, h * k, w * k) -> (B, T, h * k, w * k, channels)


def _side(config) -> int:
    """Pixels of a cell's side."""
    _, rows, columns = find_encoder(config.vision_config).cell
    if rows != columns:
        raise ValueError(
            f"`mvm_targets`: cells of {rows} x {columns} pixels are not square, as these heads need them."
        )
    return rows


def _pixel_head(config, options):
    return VioletPixelDecoder(config.hidden_size, len(config.masked_patch_value), _side(config))


def _grey_head(config, options):
    return VioletPixelDecoder(config.hidden_size, 1, _side(config))


def _flow_head(config, options):
    return VioletFlowDecoder(config.hidden_size, _side(config))


def _feature_head(config, options):
    return VioletClassificationHead(config, options["channels"])


def _token_head(config, options):
    if options["per_cell"] == 1:
        return VioletClassificationHead(config, options["channels"])
    return VioletTokenHead(config, options["channels"], options["per_cell"])


def _require_shape(what: str, tensor: torch.Tensor, shape: tuple[int, ...]):
    if tensor.shape != shape:
        raise ValueError(f"{what} has shape {tuple(tensor.shape)}; with the others it needs {shape}.")


def _l1(prediction, target, mask, reduction: str, divisor: int) -> torch.Tensor:
    if reduction == "mean":
        return masked_l1(prediction, target, mask)
    return masked_l1_as_published(prediction, target, mask, divisor)


def _enlarged(mask: torch.Tensor, times: int) -> torch.Tensor:
    """(B, T, h, w) -> (B, T, h * times, w * times)"""
    return mask.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)


def _on_pixels(
    prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The prediction, the target and the mask, cut to the pixels that all have; the mask as (B, T, 1, H, W). A grid
    covers the frame rounded up or, for some encoders, down.
    """
    (h, w), (H, W) = mask.shape[2:], target.shape[3:]
    side = prediction.shape[3] // h
    _require_shape("The prediction", prediction, (*mask.shape[:2], prediction.shape[2], h * side, w * side))
    if (h, w) not in ((-(-H // side), -(-W // side)), (H // side, W // side)):
        raise ValueError(f"A target of {H} x {W} pixels does not fit {h} x {w} patches of {side} pixels.")
    _require_shape("The target", target, (*prediction.shape[:3], H, W))
    H, W = min(H, h * side), min(W, w * side)
    return prediction[..., :H, :W], target[..., :H, :W], _enlarged(mask, side)[:, :, None, :H, :W]


def dense_loss(prediction, target, bool_masked_pos, reduction: str = "mean", divisor: int = 1) -> torch.Tensor:
    """
    L1 on pixels.

    Args:
        prediction: (B, T, C, h * side, w * side).
        target: (B, T, C, H, W), where h and w are H / side and W / side, both rounded up or both down.
        bool_masked_pos: (B, T, h, w).
        divisor: of the reduction `"original"`, see `losses.masked_l1_as_published`.
    """
    prediction, target, mask = _on_pixels(prediction, target, bool_masked_pos)
    return _l1(prediction, target, mask, reduction, divisor)


def flow_loss(prediction, target, bool_masked_pos, reduction: str = "mean", divisor: int = 1) -> torch.Tensor:
    """
    L1 on optical flow, in pixels. A pair of frames counts if either frame is masked, and not at all if its largest
    displacement along an axis is `LARGEST_FLOW` or more.

    Args:
        prediction: (B, T - 1, 2, h * side, w * side).
        target: (B, T - 1, 2, H, W).
        bool_masked_pos: (B, T, h, w).
    """
    either = bool_masked_pos[:, :-1] | bool_masked_pos[:, 1:]
    prediction, target, mask = _on_pixels(prediction, target, either)
    too_fast = (target.abs() >= LARGEST_FLOW).flatten(2).any(-1)  # (B, T - 1)
    return _l1(prediction, target, mask & ~too_fast[:, :, None, None, None], reduction, divisor)


def feature_loss(prediction, target, bool_masked_pos, reduction: str = "mean", divisor: int = 1) -> torch.Tensor:
    """L1 on features, both (B, T, h, w, C)."""
    _require_shape("The target", target, (*bool_masked_pos.shape, prediction.shape[-1]))
    return _l1(prediction, target, bool_masked_pos.unsqueeze(-1), reduction, divisor)


def token_loss(prediction, target, bool_masked_pos, reduction: str = "mean") -> torch.Tensor:
    """
    Cross-entropy over the masked patches' visual words; both reductions are its mean.

    Args:
        prediction: (B, T, h * k, w * k, words).
        target: (B, T, h * k, w * k), whole numbers.
        bool_masked_pos: (B, T, h, w).
    """
    _require_shape("The target", target, tuple(prediction.shape[:-1]))
    mask = _enlarged(bool_masked_pos, target.shape[2] // bool_masked_pos.shape[2])
    _require_shape("The target", target, tuple(mask.shape))
    return masked_cross_entropy(prediction, target.masked_fill(~mask, IGNORE_INDEX))


# The divisors: the published code counts its mask once a channel (3 for pixels, 2 for flow) and divides by the channel
# number (3 unless said otherwise) once more; depth is repeated over the three channels of the mask.
_pixel_medians = partial(channel_medians, channel=2)
PIXEL = MVMTarget(_pixel_head, partial(dense_loss, divisor=9), PixelTeacher, MEASURE, _pixel_medians)
HOG = MVMTarget(_grey_head, partial(dense_loss, divisor=1), HogTeacher, MEASURE, _pixel_medians)
DEPTH = MVMTarget(_grey_head, partial(dense_loss, divisor=3), DepthTeacher, MEASURE, _pixel_medians)
OPTICAL_FLOW = MVMTarget(
    _flow_head, partial(flow_loss, divisor=4), OpticalFlowTeacher, MEASURE, _pixel_medians, steps=2
)

VISUAL_WORDS = MVMTarget(_token_head, token_loss, TokenTeacher, {"channels": 8192, "per_cell": 1}, log_frequencies)

_channels = {"channels": 1024, **MEASURE}
_feature_medians = partial(channel_medians, channel=-1)
_feature_loss = partial(feature_loss, divisor=3)
VIDEO_FEATURE = MVMTarget(_feature_head, _feature_loss, VideoTeacher, _channels, _feature_medians)
IMAGE_FEATURE = MVMTarget(_feature_head, _feature_loss, ImageTeacher, _channels, _feature_medians)
CLIP_FEATURE = MVMTarget(_feature_head, _feature_loss, ClipTeacher, _channels, _feature_medians)

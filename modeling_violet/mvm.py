"""
Masked visual modelling: a registry of what masked patches can predict, with each target's head, loss and teacher.

A further target is one `register_mvm_target` call in a file of its own. Shapes below: (B, T) videos and frames, (h, w)
the grid of patches, (H, W) pixels, `side` a patch's side in pixels, D the model's width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from ..configuration.configuration_violet import VioletConfig
from .heads import VioletClassificationHead
from .losses import IGNORE_INDEX, masked_cross_entropy, masked_l1, masked_l1_as_published
from .teachers import (
    ClipTeacher,
    DepthTeacher,
    HogTeacher,
    ImageTeacher,
    OpticalFlowTeacher,
    PixelTeacher,
    Teacher,
    TokenTeacher,
    VideoTeacher,
)

REDUCTIONS = ("mean", "original")
LARGEST_FLOW = 50.0
"""Pixels; a pair of frames with a displacement of so much or more is left out of the flow loss (VIOLETv2)."""


@dataclass(frozen=True)
class MVMTarget:
    """
    What masked patches predict.

    Attributes:
        name: its key in `VioletConfig.mvm_targets`.
        build_head: (config, options) -> a module from the fusion's patches (B, T, h, w, D) to the prediction.
        loss: (prediction, target, bool_masked_pos, reduction) -> (). `bool_masked_pos` is (B, T, h, w), True where a
            patch was hidden; `reduction` one of `REDUCTIONS`.
        teacher: the class whose `load` gives the frozen network that makes the target.
        options: the head's options and their defaults: sizes, whole numbers of 1 or more; and for targets that are
            numbers `MEASURE`: the prediction is `shift` + `scale` times what the head gives.
        constant: (some targets, the head's outputs) -> (channels,), the best prediction that is the same everywhere:
            where an untrained head starts. `None`: it starts as it is made.
    """

    name: str
    build_head: Callable[[VioletConfig, Mapping[str, Any]], nn.Module]
    loss: Callable[..., torch.Tensor]
    teacher: type[Teacher]
    options: Mapping[str, int | float] = field(default_factory=dict)
    constant: Callable[[Sequence[torch.Tensor], int], torch.Tensor] | None = None


MEASURE: dict[str, int | float] = {"shift": 0.0, "scale": 1.0}
"""
Where a target's values lie and how far they spread. Pre-training from scratch measures both: a head that starts far
from its target drags the whole fusion towards a constant, which forgets the video, and does not come back.
"""
MVM_TARGETS: dict[str, MVMTarget] = {}


def register_mvm_target(target: MVMTarget) -> MVMTarget:
    """
    Makes a target known to `build_mvm_heads` and `mvm_loss`.

    Raises:
        ValueError: for a name that is taken.
    """
    if target.name in MVM_TARGETS:
        raise ValueError(f"A target of masked visual modelling is named {target.name!r} already.")
    MVM_TARGETS[target.name] = target
    return target


def find_mvm_target(name: str) -> MVMTarget:
    """
    The target of that name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in MVM_TARGETS:
        raise ValueError(
            f"No target of masked visual modelling is named {name!r}; there are {', '.join(MVM_TARGETS)}."
        )
    return MVM_TARGETS[name]


def build_mvm_heads(config: VioletConfig) -> nn.ModuleDict:
    """
    The heads of `config.mvm_targets`, by name.

    Raises:
        ValueError: for an unknown target, an option that its head has not, or a value that makes no sense.
    """
    heads = nn.ModuleDict()
    for name, options in sorted((config.mvm_targets or {}).items()):  # as a saved configuration has them
        target = find_mvm_target(name)
        unknown = sorted(set(options) - set(target.options))
        if unknown:
            known = ", ".join(target.options) or "none"
            raise ValueError(f"The head of {name!r} has no option {', '.join(unknown)}; it has: {known}.")
        options = {**target.options, **options}
        for option, value in options.items():
            if option not in MEASURE and value < 1:
                raise ValueError(f"The head of {name!r}: `{option}` must be 1 or more, got {value}.")
            if option == "scale" and value <= 0:
                raise ValueError(f"The head of {name!r}: `scale` must be above 0, got {value}.")
        heads[name] = target.build_head(config, options)
    return heads


def predict_mvm(config: VioletConfig, name: str, head: nn.Module, patches: torch.Tensor) -> torch.Tensor:
    """The fusion's patches (B, T, h, w, D) -> what the target's head predicts, in the target's layout and units."""
    prediction = head(patches)
    if "scale" not in find_mvm_target(name).options:
        return prediction
    options = {**MEASURE, **(config.mvm_targets or {}).get(name, {})}
    return options["shift"] + options["scale"] * prediction.float()


def measure(target: torch.Tensor) -> dict[str, float]:
    """A target's `MEASURE`: the median of its values, and their mean distance from it (a constant's least L1)."""
    values = target.float().flatten()
    shift = values.median()
    return {"shift": shift.item(), "scale": max((values - shift).abs().mean().item(), 1e-6)}


def channel_medians(targets: Sequence[torch.Tensor], outputs: int, channel: int) -> torch.Tensor:
    """The least L1: each channel's median, (channels,). `channel` is the dimension of the targets that holds them."""
    values = torch.cat([target.float().movedim(channel, -1).flatten(0, -2) for target in targets])
    return values.median(dim=0).values


def log_frequencies(targets: Sequence[torch.Tensor], outputs: int) -> torch.Tensor:
    """The least cross-entropy: how often each class is met, (outputs,); each is taken to be met once more."""
    counts = torch.cat([target.flatten() for target in targets]).bincount(minlength=outputs) + 1
    return (counts / counts.sum()).log()


@torch.no_grad()
def start_at(config: VioletConfig, name: str, head: nn.Module, targets: Sequence[torch.Tensor]) -> None:
    """
    Measures a target, and lets its untrained head predict the best constant, whatever the fusion gives it. Features'
    channels differ far more in where they lie than the one `shift` can say.

    Args:
        config: the target's `MEASURE` is noted there, unless it has one already.
        head: the target's. Its last linear layer is set, whose outputs are the channels, or places within each.
        targets: some of what the teacher gives, in the target's layout; videos may differ in frames and sides.
    """
    assert config.mvm_targets is not None  # the head was built from it
    target, options = find_mvm_target(name), config.mvm_targets[name]
    if "scale" in target.options and not set(MEASURE) & set(options):
        options.update(measure(torch.cat([values.flatten() for values in targets])))
    if target.constant is None:
        return
    last = [module for module in head.modules() if isinstance(module, nn.Linear)][-1]
    start = target.constant(targets, len(last.bias))
    if "scale" in target.options:
        measured = {**MEASURE, **options}
        start = (start - measured["shift"]) / measured["scale"]
    nn.init.zeros_(last.weight)
    last.bias.copy_(start.repeat_interleave(len(last.bias) // len(start)))


def mvm_loss(
    name: str,
    prediction: torch.Tensor,
    target: torch.Tensor,
    bool_masked_pos: torch.Tensor,
    reduction: str = "mean",
) -> torch.Tensor:
    """
    The loss of that target over the masked patches alone; 0 where there is none.

    Args:
        prediction: what the target's head gave.
        target: what its teacher gave.
        bool_masked_pos: (B, T, h, w), True where a patch was hidden.
        reduction: `"mean"`, over masked places and channels, or `"original"`, as VIOLETv2's code has it.

    Raises:
        ValueError: for an unknown name or reduction, or shapes that do not fit one another.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"`reduction` {reduction!r} is unknown; known are {', '.join(REDUCTIONS)}.")
    return find_mvm_target(name).loss(prediction, target, bool_masked_pos.bool(), reduction=reduction)


def pixel_shuffle(patches: torch.Tensor, side: int) -> torch.Tensor:
    """(B, T, h, w, C * side²) -> (B, T, C, h * side, w * side), the channels of a patch in PixelShuffle's order."""
    # (B, T, h, w, C * side²) -> (B, T, h, w, C, side, side) -> (B, T, C, h, side, w, side)
    x = patches.unflatten(-1, (patches.shape[-1] // side**2, side, side)).permute(0, 1, 4, 2, 5, 3, 6)
    return x.flatten(5, 6).flatten(3, 4)  # -> (B, T, C, h * side, w * side)


class PixelDecoder(nn.Module):
    """Each patch to its pixels, linearly (a 1x1 convolution): (B, T, h, w, D) -> (B, T, C, h * side, w * side)."""

    def __init__(self, width: int, channels: int, side: int):
        super().__init__()
        self.side = side
        self.projection = nn.Linear(width, channels * side**2)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return pixel_shuffle(self.projection(patches), self.side)


class FlowDecoder(PixelDecoder):
    """A `PixelDecoder` of two neighbouring frames' patches: (B, T, h, w, D) -> (B, T - 1, 2, h * side, w * side)"""

    def __init__(self, width: int, side: int):
        super().__init__(2 * width, 2, side)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.cat([patches[:, :-1], patches[:, 1:]], dim=-1))


class TokenHead(nn.Module):
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


def _pixel_head(config, options):
    return PixelDecoder(config.hidden_size, config.vision_config.num_channels, config.vision_config.reduction)


def _grey_head(config, options):
    return PixelDecoder(config.hidden_size, 1, config.vision_config.reduction)


def _flow_head(config, options):
    return FlowDecoder(config.hidden_size, config.vision_config.reduction)


def _feature_head(config, options):
    return VioletClassificationHead(config, options["channels"])


def _token_head(config, options):
    if options["per_cell"] == 1:
        return VioletClassificationHead(config, options["channels"])
    return TokenHead(config, options["channels"], options["per_cell"])


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
) -> tuple[torch.Tensor, torch.Tensor]:
    """The prediction and the mask of whole patches, cut to the target's H x W; the mask as (B, T, 1, H, W)."""
    (h, w), (H, W) = mask.shape[2:], target.shape[3:]
    side = prediction.shape[3] // h
    _require_shape("The prediction", prediction, (*mask.shape[:2], prediction.shape[2], h * side, w * side))
    if (-(-H // side), -(-W // side)) != (h, w):
        raise ValueError(f"A target of {H} x {W} pixels does not fit {h} x {w} patches of {side} pixels.")
    _require_shape("The target", target, (*prediction.shape[:3], H, W))
    return prediction[..., :H, :W], _enlarged(mask, side)[:, :, None, :H, :W]


def dense_loss(prediction, target, bool_masked_pos, reduction: str = "mean", divisor: int = 1) -> torch.Tensor:
    """
    L1 on pixels.

    Args:
        prediction: (B, T, C, h * side, w * side).
        target: (B, T, C, H, W), where h and w are H / side and W / side rounded up.
        bool_masked_pos: (B, T, h, w).
        divisor: of the reduction `"original"`, see `losses.masked_l1_as_published`.
    """
    prediction, mask = _on_pixels(prediction, target, bool_masked_pos)
    return _l1(prediction, target, mask, reduction, divisor)


def flow_loss(prediction, target, bool_masked_pos, reduction: str = "mean", divisor: int = 1) -> torch.Tensor:
    """
    L1 on optical flow, in pixels. A pair of frames counts where either frame is masked, and not at all if its largest
    displacement along an axis is `LARGEST_FLOW` or more.

    Args:
        prediction: (B, T - 1, 2, h * side, w * side).
        target: (B, T - 1, 2, H, W).
        bool_masked_pos: (B, T, h, w).
    """
    either = bool_masked_pos[:, :-1] | bool_masked_pos[:, 1:]
    prediction, mask = _on_pixels(prediction, target, either)
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
for _name, _head, _loss, _teacher in (
    ("pixel", _pixel_head, partial(dense_loss, divisor=9), PixelTeacher),
    ("hog", _grey_head, partial(dense_loss, divisor=1), HogTeacher),
    ("depth", _grey_head, partial(dense_loss, divisor=3), DepthTeacher),
    ("optical_flow", _flow_head, partial(flow_loss, divisor=4), OpticalFlowTeacher),
):
    register_mvm_target(MVMTarget(_name, _head, _loss, _teacher, MEASURE, partial(channel_medians, channel=2)))
register_mvm_target(
    MVMTarget("vq", _token_head, token_loss, TokenTeacher, {"channels": 8192, "per_cell": 1}, log_frequencies)
)
_medians = partial(channel_medians, channel=-1)
for _name, _encoder in {
    "3d_feature": VideoTeacher,
    "2d_feature": ImageTeacher,
    "2d_clip_feature": ClipTeacher,
}.items():
    register_mvm_target(
        MVMTarget(
            _name, _feature_head, partial(feature_loss, divisor=3), _encoder, {"channels": 1024, **MEASURE}, _medians
        )
    )

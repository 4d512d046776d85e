"""
Alignment of what is visible (`align`; Xue et al., 2023, "Stare at What You See: Masked Image Modeling without
Reconstruction", arXiv:2211.08887): from the kept patches only the student predicts the states that a frozen teacher
has of them after seeing the whole frame. It is distillation: the result is bounded by what the teacher was taught.

Shapes: (B, T) videos and frames, L the cells of a frame's grid, K kept ones, D the student's width and S its blocks,
C the teacher's width and N its blocks.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from ...configuration.configuration_violet import VioletConfig
from ..encoders import find_encoder
from ..losses import at_least_float32, average
from ..tokens import VisibleStates, gather_tokens
from .align_teacher import MaskAlignTeacher, layer_weights, weighed
from .objective import Objective, Outcome
from .passes import Passes
from .teachers import Teacher

logger = logging.getLogger(__name__)

CHOICES = {
    "mask": ("attention", "random"),
    "draw": ("frame", "tube"),
    "alignment": ("linear", "sum", "simple"),
    "head": ("linear", "norm_linear", "mlp", "mlp2"),
    "target_norm": ("whiten", "l2", "none"),
    "loss": ("smoothl1", "l1", "l2"),
}
EPS = 1e-6
"""Of the norms in heads."""


@dataclass
class AlignOptions:
    """
    Options of `align`; the defaults are MaskAlign's recipe.

    Attributes:
        mask: how the kept patches are drawn: `attention` (in proportion to the teacher's attention from [CLS], the
            looked-at ones are kept) or `random`.
        ratio: share of the patches that is hidden.
        draw: `frame` (each frame draws for itself) or `tube` (one draw a clip, from the mean over its frames).
        alignment: how the student's blocks make a state for each of the teacher's: `linear` (a matrix (S, S) that
            starts near the identity), `sum` (a matrix (N, S) that starts as the mean) or `simple` (block by block).
        head: from that state to the teacher's: `linear`, `norm_linear`, `mlp` or `mlp2`.
        target_norm: what is done with the teacher's states: `whiten` (a LayerNorm without weights), `l2` or `none`.
        loss: `smoothl1` (twice smooth L1), `l1` or `l2`.
        layers: weights of the teacher's blocks, see `layer_weights`.
        teacher_size, pool: see `MaskAlignTeacher`.
        teacher_width, teacher_layers: C and N.
    """

    mask: str = "attention"
    ratio: float = 0.7
    draw: str = "frame"
    alignment: str = "linear"
    head: str = "linear"
    target_norm: str = "whiten"
    loss: str = "smoothl1"
    layers: str = "top5"
    teacher_size: int | list[int] | None = None
    pool: bool = False
    teacher_width: int = 768
    teacher_layers: int = 12

    def __post_init__(self):
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"align: `{name}` {getattr(self, name)!r} is unknown; use {', '.join(known)}.")
        if not 0 <= self.ratio < 1:
            raise ValueError(f"align: `ratio` must lie in [0, 1), got {self.ratio}: the rest of the patches is kept.")
        for name in ("teacher_width", "teacher_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"align: `{name}` must be 1 or more, got {getattr(self, name)}.")
        try:
            layer_weights(self.layers, self.teacher_layers)
        except ValueError as error:
            raise ValueError(f"align: {error}") from error


def num_kept(cells: int, ratio: float) -> int:
    """
    How many of a frame's cells are kept: floor(cells * (1 - ratio)), of the ratio as it is written.

    Raises:
        ValueError: if that is none.
    """
    kept = math.floor(cells * (1 - Fraction(str(ratio))))
    if kept < 1:
        raise ValueError(f"align: a `ratio` of {ratio} keeps none of the {cells} patches of a frame.")
    return kept


def draw_kept(noise: torch.Tensor, count: int, importance: torch.Tensor | None = None) -> torch.Tensor:
    """
    The places that are kept, in the order of the draw.

    Args:
        noise: (..., L); with `importance` from Exp(1), without it uniform.
        importance: (..., L), 0 or more: places are drawn in proportion to it without replacement, as
            `torch.multinomial` does. Places of importance 0 come last.

    Returns:
        (..., count)
    """
    if importance is None:
        return noise.argsort(dim=-1)[..., :count]
    keys = torch.where(importance > 0, importance / noise, -noise)
    return keys.argsort(dim=-1, descending=True)[..., :count]


def normalised(states: torch.Tensor, kind: str) -> torch.Tensor:
    """A teacher's states (..., C), each by itself: `whiten`, `l2` or `none`."""
    if kind == "whiten":
        return nn.functional.layer_norm(states, states.shape[-1:], eps=1e-5)
    return nn.functional.normalize(states, dim=-1, eps=1e-12) if kind == "l2" else states


def distance(prediction: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
    """The mean over everything of d² (`l2`), |d| (`l1`), or twice smooth L1 of beta 1 (`smoothl1`)."""
    prediction, target = at_least_float32(prediction), at_least_float32(target)
    if kind == "smoothl1":
        return 2 * nn.functional.smooth_l1_loss(prediction, target)
    return (nn.functional.mse_loss if kind == "l2" else nn.functional.l1_loss)(prediction, target)


def build_prediction(kind: str, width: int, channels: int) -> nn.Module:
    """D -> C, see `AlignOptions.head`."""
    last = nn.Linear(width, channels)
    if kind == "norm_linear":
        return nn.Sequential(nn.LayerNorm(width, eps=EPS), last)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width, width), nn.GELU(), last)
    if kind == "mlp2":
        return nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width, eps=EPS), last)
    return last


class MaskAlignHead(nn.Module):
    """
    The student's blocks -> a prediction for each block of the teacher that the loss weighs (dynamic alignment). Heads
    of other blocks are not built.

    Args:
        depth: S.
        width: D.
    """

    def __init__(self, options: AlignOptions, depth: int, width: int):
        super().__init__()
        self.layers = weighed(layer_weights(options.layers, options.teacher_layers))
        self.alignment = options.alignment
        rows = depth if options.alignment == "linear" else options.teacher_layers
        self.weights = None if options.alignment == "simple" else nn.Parameter(torch.empty(rows, depth))
        self.heads = nn.ModuleDict(
            {str(layer): build_prediction(options.head, width, options.teacher_width) for layer in self.layers}
        )
        self.start_weights()

    @torch.no_grad()
    def start_weights(self) -> None:
        """The matrix: the identity and 0.01 everywhere, or the mean of the blocks."""
        if self.weights is not None:
            rows, depth = self.weights.shape
            start = torch.eye(rows) + 0.01 if self.alignment == "linear" else torch.full((rows, depth), 1 / depth)
            init.copy_(self.weights, start)

    def align(self, blocks: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        """S states (..., D) -> for each of `layers` what the blocks say together, (..., D)."""
        if self.weights is None:
            return [blocks[layer] for layer in self.layers]
        return list(torch.einsum("ab,b...->a...", self.weights[self.layers], torch.stack(blocks)))

    def forward(self, blocks: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        """S states (..., D) -> for each of `layers` the prediction (..., C)."""
        return [self.heads[str(layer)](one) for layer, one in zip(self.layers, self.align(blocks), strict=True)]


class Align(Objective):
    """
    The student's states of the kept patches against the teacher's. An encoder that can drop tokens computes nothing
    else; one that can only hide pixels sees the whole grid without the others' pixels, and gives its last states.
    """

    Options = AlignOptions
    teacher = MaskAlignTeacher
    takes = ("align_noise", "align_kept")

    def __init__(self, name: str, config: VioletConfig):
        super().__init__(name, config)
        self.targets = (name,)
        options = self.options
        self.layer_weights = [w for w in layer_weights(options.layers, options.teacher_layers) if w]

    def check(self, config: VioletConfig) -> None:
        encoder, options = find_encoder(config.vision_config), self.options
        depth, name = encoder.num_blocks, encoder.config.model_type
        if encoder.cell[0] != 1 or len(encoder.inputs) > 1:
            raise ValueError(
                f"`objectives`: 'align' compares frame by frame, and `vision_config.model_type` {name!r} has cells of "
                f"{encoder.cell[0]} frames and takes {', '.join(encoder.inputs)}."
            )
        if options.alignment != "sum" and depth != options.teacher_layers:
            why = "" if "tokens" in encoder.hides else ", which hides pixels and so gives its last states only"
            raise ValueError(
                f"`objectives`: the `alignment` {options.alignment!r} of 'align' needs as many blocks of the student "
                f"as of the teacher: `vision_config.model_type` {name!r} gives {depth}{why}, and `teacher_layers` is "
                f"{options.teacher_layers}. Use `alignment: sum`."
            )

    def build_head(self, config: VioletConfig) -> nn.Module:
        encoder = find_encoder(config.vision_config)
        return MaskAlignHead(self.options, encoder.num_blocks, encoder.config.hidden_size)

    def check_teacher(self, teacher: Teacher, model: Any) -> None:
        for name, value in teacher.head_options.items():
            if getattr(self.options, name) != value:
                raise ValueError(
                    f"align: the teacher's `{name}` is {value}, and the model was made for "
                    f"{getattr(self.options, name)}."
                )
        if any(parameter.requires_grad for parameter in teacher.parameters()):
            raise ValueError("align: the teacher takes gradients: `teacher.requires_grad_(False)` freezes it.")
        own = {parameter.data_ptr() for parameter in model.parameters() if parameter.numel()}
        if own & {parameter.data_ptr() for parameter in teacher.parameters() if parameter.numel()}:
            raise ValueError("align: the teacher shares weights with the student: load it as a model of its own.")
        if "tokens" not in model.violet.vision_encoder.hides:
            logger.warning(
                "align: the vision encoder %r cannot drop tokens: the pixels of hidden patches are masked, its whole "
                "grid is computed, and the loss is over the visible cells of its last states.",
                model.violet.vision_encoder.config.model_type,
            )

    def missing(self, inputs: Mapping[str, Any]) -> str | None:
        if inputs["mvm_targets"].get(self.name) is None:
            return f"mvm_targets[{self.name!r}]"
        drawn = any(inputs.get(name) is not None for name in self.takes)
        return None if drawn else "align_noise"

    def loss(self, passes: Passes) -> Outcome:
        inputs, video, pixels = passes.inputs, passes.violet.video_encoder, passes.pixels
        frames = pixels["pixel_values_videos"]
        grid = video.encoder.grid(frames.shape[1], *frames.shape[3:])
        cells = grid[1] * grid[2]
        targets = self.by_token(inputs["mvm_targets"][self.name], (len(frames), grid[0], cells))
        kept = inputs.get("align_kept")
        if kept is None:
            kept = self.draw(inputs["align_noise"], targets[:, :, -cells:, -1])
        student = video.visible_states(pixels, kept)
        with_class = student.num_special > 0 and targets.shape[2] > cells
        predictions = passes.model.objective_heads[self.name](visible_tokens(student, with_class))
        wanted = self.wanted(targets, kept, cells, with_class)
        losses = [
            weight * distance(prediction, target, self.options.loss)
            for weight, prediction, target in zip(self.layer_weights, predictions, wanted, strict=True)
        ]
        found = {"kept": kept, "predictions": predictions}
        # A mean over this process's rows, which all have as many values -> over the rows of all processes.
        rows = losses[0].new_tensor(len(frames))
        loss = average(torch.stack(losses).sum() * rows, rows)
        return Outcome(loss, outputs={"predictions": {self.name: found}})

    def by_token(self, targets: torch.Tensor, expected: tuple[int, int, int]) -> torch.Tensor:
        """What the teacher gave, in float32 or more, if it is of these (videos, frames, cells) and of its blocks."""
        channels = len(self.layer_weights) * self.options.teacher_width + 1
        videos, frames, cells = expected
        if targets.shape not in ((videos, frames, cells, channels), (videos, frames, 1 + cells, channels)):
            raise ValueError(
                f"`mvm_targets[{self.name!r}]` has the shape {tuple(targets.shape)}; these videos and the options of "
                f"'align' need {(videos, frames, 1 + cells, channels)}, or {cells} tokens of a teacher without [CLS]."
            )
        return at_least_float32(targets)

    def draw(self, noise: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """(B, T or 1, L) and the teacher's attention (B, T, L) -> the kept places (B, T, K)."""
        options, steps = self.options, importance.shape[1]
        rows = 1 if options.draw == "tube" else steps
        if noise.shape != (len(importance), rows, importance.shape[2]):
            raise ValueError(
                f"`align_noise` has the shape {tuple(noise.shape)}; these videos need "
                f"{(len(importance), rows, importance.shape[2])}."
            )
        if options.draw == "tube":
            importance = importance.mean(1, keepdim=True)
        attended = importance if options.mask == "attention" else None
        kept = draw_kept(noise, num_kept(importance.shape[2], options.ratio), attended)
        return kept.expand(-1, steps, -1)

    def wanted(self, targets: torch.Tensor, kept: torch.Tensor, cells: int, with_class: bool) -> list[torch.Tensor]:
        """For each weighed block the normalised states (B, T, [1 +] K, C) of [CLS] and the kept patches."""
        states = targets[..., :-1]
        visible = gather_tokens(states[:, :, -cells:].flatten(0, 1), kept.flatten(0, 1)).unflatten(0, kept.shape[:2])
        if with_class:
            visible = torch.cat([states[:, :, :1], visible], dim=2)
        # (B, T, tokens, blocks * C) -> blocks of (B, T, tokens, C)
        blocks = visible.unflatten(-1, (-1, self.options.teacher_width)).unbind(-2)
        return [normalised(block, self.options.target_norm) for block in blocks]


def visible_tokens(student: VisibleStates, with_class: bool) -> tuple[torch.Tensor, ...]:
    """The student's states (B, T, [1 +] K, D): of its special tokens only the class token, if it is asked for."""
    first, special = int(with_class), student.num_special
    if first == special:
        return student.blocks
    return tuple(torch.cat([one[:, :, :first], one[:, :, special:]], dim=2) for one in student.blocks)

"""The table of vision encoders, and what VIOLET asks of each."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...core.registry import Registry
from ..attention import record_attention
from ..parts import build_part
from ..tokens import Grid, VisibleStates, VisionStates

ENCODERS: Registry[Any] = Registry(
    "vision encoder",
    __package__,
    {
        "violet_vision": "video_swin:VioletVisionModel",
        "coca_vit": "coca_vit:CocaVisionModel",
        "clip_vip": "clip_vip:ClipVip",
        "hd_vila": "two_resolutions:HdVilaVisionModel",
        "lf_vila": "temporal_windows:LfVilaVisionModel",
        "frame_by_frame": "frame_by_frame:FrameByFrame",
        "maskalign_vit": "maskalign_vit:MaskAlign",
        "timesformer": "whole_clip:WholeClip",
        "videomae": "whole_clip:WholeClip",
        "vivit": "whole_clip:WholeClip",
        "vjepa2": "whole_clip:WholeClip",
        "uniformerv2": "uniformerv2:UniFormerV2Model",
        "vatt": "vatt_video:VattVisionModel",
        "imp": "imp_video:ImpVisionModel",
    },
    config_keys=("vision_config.model_type",),
    default="frame_by_frame",
)
"""
By the vision configuration's `model_type`: an `Encoder`, or a model that needs none, because its output and its
configuration say what `Encoder` says. A picture model of transformers needs no line: it is a `FrameByFrame`.
"""


class Encoder:
    """
    How VIOLET builds and asks a vision model. This one serves models whose `forward` takes `pixel_values_videos`
    (batch, frames, channels, height, width) and gives `last_hidden_state` (batch, steps, rows, columns, width), if it
    has them with the other fields of `VisionStates`, and whose configuration has `hidden_size`, `cell` and
    `grid(frames, height, width)`, as `VioletVisionConfig`. A `forward` that takes other pixels, or several kinds of
    them, has a configuration with `inputs`; one that makes as many steps in time of every clip has `steps`; and one
    whose rows and columns are not as many as the cells of a frame has `frame_size(rows, columns)`.

    Attributes:
        config: the vision configuration.
        key: the name of the model's weights within those of the video encoder.
        attends_in_frames: whether the attention of its last block lets a patch see all others of its frame, and no
            window only, so that `patch_attention` works.
        unused: modules of transformers' model that its states on the grid do not pass through; they are left out.
        hides: what it can hide of a clip: `"pixels"`, as every model; `"tokens"`, if it can compute the kept cells of
            each step and no others, see `visible_states`.
    """

    key = "backbone"
    attends_in_frames = False
    unused: tuple[str, ...] = ()
    hides: tuple[str, ...] = ("pixels",)

    def __init__(self, config: PreTrainedConfig):
        self.config: Any = config
        part = ENCODERS.find(config.model_type)
        self.model_class = part if issubclass(part, PreTrainedModel) else None
        if self.model_class is not None:
            self.key = self.model_class.base_model_prefix or self.key
            self.attends_in_frames = getattr(config, "attends_in_frames", False)

    def build(self) -> PreTrainedModel:
        """The model, freshly initialised."""
        if self.model_class is not None:  # no Auto class knows it if a checkpoint carries the code
            return self.model_class._from_config(self.config)
        return build_part(self.config, self.unused)

    @property
    def inputs(self) -> tuple[str, ...]:
        """
        The names of the pixels that the model takes, each beginning with `pixel_values`. What `cell` and `grid` say is
        said of the first of them.
        """
        return tuple(getattr(self.config, "inputs", ("pixel_values_videos",)))

    @property
    def pooled_size(self) -> int | None:
        """Width of the clip's own vector, `VisionStates.pooler_output`; None if the model gives none."""
        return getattr(self.config, "pooled_size", None)

    @property
    def steps(self) -> int | None:
        """Steps in time of every grid; None if they follow from the clip's frames."""
        return getattr(self.config, "steps", None)

    @property
    def cell(self) -> Grid:
        """(frames, rows, columns) of pixels that one cell of the grid stands for."""
        return self.config.cell

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """
        The grid (steps in time, rows, columns) of clips of that size.

        Raises:
            ValueError: for a clip that the model cannot take, with what it can.
        """
        try:
            return self.config.grid(frames, height, width)
        except ValueError as error:
            raise self.refuse(f"does not take such clips: {error}") from error

    def frame_size(self, rows: int, columns: int) -> tuple[int, int]:
        """(height, width) in pixels of the frames whose grid has these rows and columns."""
        own = getattr(self.config, "frame_size", None)
        return (rows * self.cell[1], columns * self.cell[2]) if own is None else own(rows, columns)

    def states(self, model: PreTrainedModel, pixels: torch.Tensor, **others: torch.Tensor) -> VisionStates:
        """
        The states of clips (batch, frames, channels, height, width), normalised: the first of `inputs`, and the others
        by name.
        """
        self.grid(pixels.shape[1], *pixels.shape[3:])
        output = model(**{self.inputs[0]: pixels}, **others)
        return VisionStates(**{name: output[name] for name in VisionStates.__annotations__ if name in output})

    def visible_states(self, model: PreTrainedModel, pixels: torch.Tensor, kept: torch.Tensor) -> VisibleStates:
        """
        The states of every block where only these cells are computed; the others do not enter the first block.

        Args:
            pixels: as for `states`.
            kept: (batch, steps, K), the kept cells' places on the grid of their step, row by row, each once.

        Raises:
            ValueError: for a model that can hide pixels only, see `hides`.
        """
        raise self.refuse("cannot drop tokens: it can only be shown pixels that hide cells.")

    @property
    def num_blocks(self) -> int:
        """How many states `visible_states` gives; 1 for a model that can hide pixels only: its last one."""
        return self.config.num_hidden_layers if "tokens" in self.hides else 1

    @torch.no_grad()
    def patch_attention(self, model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
        """
        How much each patch of clips sees of each other in the model's last block: mean over heads, (batch, steps *
        rows * columns, the same), 0 between frames. A pass of its own, without gradient.

        Raises:
            ValueError: for a model whose attention is none of whole frames, or is not given.
        """
        recorded: Any = getattr(model, "_can_record_outputs", None) or {}
        kind = recorded.get("attentions")
        kind = getattr(kind, "target_class", kind)
        found = [] if kind is None else [module for module in model.modules() if isinstance(module, kind)]
        if not self.attends_in_frames or not found:
            raise self.refuse("gives no attention between all patches of a frame.")
        given: list[Any] = []
        with record_attention(found[-1:], given.append):
            self.states(model, pixels)
        weights = given[-1][-1] if isinstance(given[-1], tuple) else given[-1]
        steps, rows, columns = self.grid(pixels.shape[1], *pixels.shape[3:])
        patches = rows * columns
        # (batch * steps, heads, special + patches, special + patches) -> (batch, steps, patches, patches)
        seen = weights.float().mean(1)[:, -patches:, -patches:].unflatten(0, (-1, steps))
        apart = torch.eye(steps, device=seen.device)
        # (batch, steps, patches, steps, patches) -> (batch, steps * patches, steps * patches)
        return torch.einsum("btpq,ts->btpsq", seen, apart).flatten(3, 4).flatten(1, 2)

    def layers(self, model: PreTrainedModel) -> list[nn.Module]:
        """The model's blocks from the first to the last, for learning rates by layer."""
        blocks = set(model._no_split_modules or ())
        return [module for module in model.modules() if type(module).__name__ in blocks]

    def in_order(self, pixels: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """
        The pixels in the order of `inputs`.

        Raises:
            ValueError: for others than those.
        """
        if set(pixels) != set(self.inputs):
            raise self.refuse(
                f"takes {' and '.join(self.inputs)}, got {' and '.join(pixels) or 'none'}: the processor's `inputs` "
                "says what is made of a clip."
            )
        return {name: pixels[name] for name in self.inputs}

    def refuse(self, problem: str) -> ValueError:
        """An error that names the encoder."""
        return ValueError(f"The vision encoder {self.config.model_type!r} {problem}")


def find_encoder(config: PreTrainedConfig) -> Encoder:
    """
    How to use the model of a vision configuration.

    Raises:
        ValueError: for a configuration of a model that is no vision encoder.
    """
    part = ENCODERS.find(config.model_type)
    return part(config) if issubclass(part, Encoder) else Encoder(config)


def accepts(model: nn.Module, argument: str) -> bool:
    """Whether a model's `forward` has that argument by name."""
    return argument in inspect.signature(model.forward).parameters

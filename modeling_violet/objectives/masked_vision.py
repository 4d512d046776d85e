"""
Masked visual modelling (`mvm_TARGET`): what masked patches show, predicted by one head for each target.

A further target is one file with an `MVMTarget`, and `MVM_TARGETS.add("name", target)`. Shapes below: (B, T) videos
and frames, (h, w) the grid of patches, D the model's width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...configuration.configuration_violet import VioletConfig
from ...core.registry import Registry
from ..encoders import find_encoder
from ..fusions import fuses_pairs
from ..fusions.fusion import require_states_of
from .objective import Objective, Outcome
from .passes import Passes
from .teachers import Teacher

REDUCTIONS = ("mean", "original")
MEASURE: dict[str, int | float] = {"shift": 0.0, "scale": 1.0}
"""
Where a target's values lie and how far they spread. Pre-training from scratch measures both: a head that starts far
from its target drags the whole fusion towards a constant, which forgets the video, and does not come back.
"""


@dataclass(frozen=True)
class MVMTarget:
    """
    A target of masked visual modelling.

    Attributes:
        build_head: (config, options) -> a module from the fusion's patches (B, T, h, w, D) to the prediction.
        loss: (prediction, target, bool_masked_pos, reduction) -> (). `bool_masked_pos` is (B, T, h, w), True where a
            patch of that frame was hidden; `reduction` one of `REDUCTIONS`.
        teacher: the class whose `load` gives the frozen network that makes the target; `None`: the model makes it
            itself, see `objective`.
        options: the head's options and their defaults: sizes, whole numbers of 1 or more; words, one of `choices`; and
            for targets that are numbers `MEASURE`: the prediction is `shift` + `scale` times what the head gives.
        constant: (some targets, the head's outputs) -> (channels,), the best prediction that is the same everywhere:
            where an untrained head starts. `None`: it starts as it is made.
        steps: how many steps in time of the encoder's grid it needs.
        choices: the words that an option may be, by option.
        objective: of a target without a teacher: the subclass of `MaskedVision` that makes it in its `loss`. Its head
            predicts by the encoder's steps in time, not by frames.
    """

    build_head: Callable[[VioletConfig, Mapping[str, Any]], nn.Module]
    loss: Callable[..., torch.Tensor]
    teacher: type[Teacher] | None
    options: Mapping[str, int | float | str] = field(default_factory=dict)
    constant: Callable[[Sequence[torch.Tensor], int], torch.Tensor] | None = None
    steps: int = 1
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    objective: "type[MaskedVision] | None" = None


MVM_TARGETS: Registry[MVMTarget] = Registry(
    "target of masked visual modelling",
    __package__,
    {
        "pixel": "vision_targets:PIXEL",
        "hog": "vision_targets:HOG",
        "depth": "vision_targets:DEPTH",
        "optical_flow": "vision_targets:OPTICAL_FLOW",
        "vq": "vision_targets:VISUAL_WORDS",
        "3d_feature": "vision_targets:VIDEO_FEATURE",
        "2d_feature": "vision_targets:IMAGE_FEATURE",
        "2d_clip_feature": "vision_targets:CLIP_FEATURE",
        "mfr": "masked_features:MFR",
    },
    config_keys=("mvm_targets",),
)


class MaskedVision(Objective):
    """Predicts what the masked patches of a video show, for one of the configuration's `mvm_targets`."""

    family = True
    requirement = "its target among the configuration's `mvm_targets`, and a fusion"
    needs = ("bool_masked_pos",)

    def __init__(self, name: str, config: VioletConfig, target: str):
        super().__init__(name, config)
        self.target = target
        self.targets = () if MVM_TARGETS.find(target).teacher is None else (target,)

    @classmethod
    def of(cls, name: str, config: VioletConfig) -> Iterator[Any]:
        targets = sorted(config.mvm_targets or {})  # as a saved configuration has them
        for target in targets if fuses_pairs(config) else ():
            yield (MVM_TARGETS.find(target).objective or cls)(f"{name}_{target}", config, target)

    def check(self, config: VioletConfig) -> None:
        require_states_of("video", config, f"{self.target!r} among `mvm_targets`")

    def trained(self, model: Any) -> Iterator[nn.Parameter]:
        return model.mvm_heads[self.target].parameters()

    def is_asked_for(self, inputs: Mapping[str, Any]) -> bool:
        return self.target in inputs["mvm_targets"] if self.targets else super().is_asked_for(inputs)

    def missing(self, inputs: Mapping[str, Any]) -> str | None:
        without = [name for name in self.targets if name not in inputs["mvm_targets"]]
        return super().missing(inputs) or next((f"mvm_targets[{name!r}]" for name in without), None)

    def loss(self, passes: Passes) -> Outcome:
        target, model, inputs = self.target, passes.model, passes.inputs
        prediction = predict_mvm(model.config, target, model.mvm_heads[target], passes.patches)
        mask = passes.masked.repeat_interleave(frames_of_cell(model.config), dim=1)  # by frame
        loss = mvm_loss(target, prediction, inputs["mvm_targets"][target], mask)
        return Outcome(loss, outputs={"mvm_predictions": {target: prediction}})


def build_mvm_heads(config: VioletConfig) -> nn.ModuleDict:
    """
    The heads of `config.mvm_targets`, by name.

    Raises:
        ValueError: for an unknown target, an option that its head has not, a value that makes no sense, or an encoder
            whose clips have fewer steps in time than the target needs.
    """
    heads, encoder = nn.ModuleDict(), find_encoder(config.vision_config)
    for name, options in sorted((config.mvm_targets or {}).items()):  # as a saved configuration has them
        target = MVM_TARGETS.find(name)
        if encoder.steps is not None and encoder.steps < target.steps:
            raise encoder.refuse(
                f"gives a clip {encoder.steps} step in time (`vision_config`), and {name!r} among `mvm_targets` needs "
                f"{target.steps}: it lies between them."
            )
        unknown = sorted(set(options) - set(target.options))
        if unknown:
            known = ", ".join(target.options) or "none"
            raise ValueError(f"The head of {name!r} has no option {', '.join(unknown)}; it has: {known}.")
        options = {**target.options, **options}
        for option, value in options.items():
            allowed = target.choices.get(option)
            if allowed is not None and value not in allowed:
                raise ValueError(f"The head of {name!r}: `{option}` {value!r} is unknown; use {', '.join(allowed)}.")
            if allowed is not None:
                continue
            if isinstance(value, str):
                raise ValueError(f"The head of {name!r}: `{option}` must be a number, got {value!r}.")
            if option not in MEASURE and value < 1:
                raise ValueError(f"The head of {name!r}: `{option}` must be 1 or more, got {value}.")
            if option == "scale" and value <= 0:
                raise ValueError(f"The head of {name!r}: `scale` must be above 0, got {value}.")
        head = target.build_head(config, options)
        frames = 1 if target.teacher is None else frames_of_cell(config)
        heads[name] = head if frames == 1 else nn.Sequential(VioletFramesOfCell(config.hidden_size, frames), head)
    return heads


def frames_of_cell(config: VioletConfig) -> int:
    """How many frames one step of the vision encoder's grid stands for."""
    return find_encoder(config.vision_config).cell[0]


class VioletFramesOfCell(nn.Module):
    """The state of a cell of several frames -> a state for each of them: (B, steps, h, w, D) -> (B, T, h, w, D)."""

    def __init__(self, width: int, frames: int):
        super().__init__()
        self.frames = frames
        self.spread = nn.Linear(width, frames * width)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        # (B, steps, h, w, frames * D) -> (B, steps, h, w, frames, D) -> (B, steps, frames, h, w, D)
        by_frame = self.spread(patches).unflatten(-1, (self.frames, -1)).movedim(4, 2)
        return by_frame.flatten(1, 2)


def predict_mvm(config: VioletConfig, name: str, head: nn.Module, patches: torch.Tensor) -> torch.Tensor:
    """The fusion's patches (B, T, h, w, D) -> what the target's head predicts, in the target's layout and units."""
    prediction = head(patches)
    if "scale" not in MVM_TARGETS.find(name).options:
        return prediction
    options: dict[str, Any] = {**MEASURE, **(config.mvm_targets or {}).get(name, {})}
    return options["shift"] + options["scale"] * prediction.float()


def measure(target: torch.Tensor) -> dict[str, float]:
    """A target's `MEASURE`: the median of its values, and their mean distance from it (a constant's least L1)."""
    values = target.float().flatten()
    shift = values.median()
    return {"shift": shift.item(), "scale": max((values - shift).abs().mean().item(), 1e-6)}


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
    target, options = MVM_TARGETS.find(name), config.mvm_targets[name]
    if "scale" in target.options and not set(MEASURE) & set(options):
        options.update(measure(torch.cat([values.flatten() for values in targets])))
    if target.constant is None:
        return
    last = [module for module in head.modules() if isinstance(module, nn.Linear)][-1]
    start = target.constant(targets, len(last.bias))
    if "scale" in target.options:
        measured: dict[str, Any] = {**MEASURE, **options}
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
    The loss of that target over the masked patches only; 0 if there is none.

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
    return MVM_TARGETS.find(name).loss(prediction, target, bool_masked_pos.bool(), reduction=reduction)

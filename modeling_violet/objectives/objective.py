"""
The table of pre-training objectives, and what each of them says of itself.

A further objective is one file with an `Objective`, and `OBJECTIVES.add("name", ItsClass)`. A model has it if its
configuration's `objectives` names it. What it needs of a batch beyond a masked clip with its caption is prepared by a
function of the same name in `training/preparations`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import torch
from torch import nn

from ...configuration.configuration_violet import VioletConfig
from ...core.registry import Registry
from ..fusions import fuses_pairs
from ..tokens import Tokens
from .passes import Passes


@dataclass
class Outcome:
    """
    The result of an objective on a batch.

    Attributes:
        loss: (), before its weight.
        accuracy: (), the share of right answers, if the objective has such a thing.
        outputs: what is predicted, as fields of `VioletPreTrainingOutput`; dictionaries of several objectives are
            merged. An objective that is not built in gives `{"predictions": {its name: …}}`.
        measures: other numbers () for the log, by the names that they have there.
    """

    loss: torch.Tensor
    accuracy: torch.Tensor | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    measures: dict[str, torch.Tensor] = field(default_factory=dict)


class Objective:
    """
    One pre-training objective of one model. It holds no weights: its head is the model's.

    Attributes:
        name: as in the weights given to `VioletForPreTraining`, and in logs.
        needs: the names of the batch's arguments without which it has no loss.
        takes: those that it reads if they are given.
        targets: the MVM targets that it reads from `mvm_targets`.
        options: its own options, an `Options`, as the configuration's `objectives` has them.

    Class attributes:
        Options: a dataclass of its options and their defaults; `None` if it has none.
        rule: of attention, under which its pass through the fusion is; None if it takes none.
        family: whether the name in `OBJECTIVES` stands for several objectives, named `NAME_…`.
        requirement: what a model must have for it, for messages.
        teacher: the class of the frozen network whose target it reads from `mvm_targets` under its own name, see
            `teachers`; `None` if it needs none, or its MVM target names one.
    """

    Options: ClassVar[type | None] = None
    rule: ClassVar[str | None] = "bidirectional"
    family: ClassVar[bool] = False
    requirement: ClassVar[str] = "its name among the configuration's `objectives`"
    teacher: ClassVar[Any] = None
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    def __init__(self, name: str, config: VioletConfig):
        self.name = name
        given = (config.objectives or {}).get(name, {})
        known = [] if self.Options is None else [option.name for option in fields(self.Options)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(
                f"`objectives`: {name!r} has no option {', '.join(unknown)}; it has: {', '.join(known) or 'none'}."
            )
        self.options: Any = None if self.Options is None else self.Options(**given)

    @classmethod
    def of(cls, name: str, config: VioletConfig) -> Iterator[Self]:
        """The objectives of this entry of `OBJECTIVES` that a model of that configuration has."""
        if name in (config.objectives or {}):
            yield cls(name, config)

    def check(self, config: VioletConfig) -> None:
        """
        Compares the options with the rest of the configuration.

        Raises:
            ValueError: if they contradict one another, naming both keys.
        """

    def check_teacher(self, teacher: Any, model: Any) -> None:
        """
        Compares a loaded `teacher` with the model that it is to teach.

        Raises:
            ValueError: if they do not fit.
        """

    def build_head(self, config: VioletConfig) -> nn.Module | None:
        """A head of its own, which becomes the model's `objective_heads[name]`; `None` for no such head."""
        return None

    def trained(self, model: Any) -> Iterable[nn.Parameter]:
        """The parameters that it trains beside those of the video encoder, the text embeddings and the fusion."""
        heads = model.objective_heads
        return heads[self.name].parameters() if self.name in heads else ()

    def is_asked_for(self, inputs: Mapping[str, Any]) -> bool:
        """Whether these inputs are meant for it, if no objectives are named."""
        return self.missing(inputs) is None

    def missing(self, inputs: Mapping[str, Any]) -> str | None:
        """The first input that it needs and that is not given."""
        return next((name for name in self.needs if inputs.get(name) is None), None)

    def require(self, inputs: Mapping[str, Any]) -> None:
        """
        Raises:
            ValueError: if an input that it needs is missing, with its name.
        """
        missing = self.missing(inputs)
        if missing is not None:
            raise ValueError(f"The objective {self.name!r} needs `{missing}`.")

    def masked_video(self, passes: Passes) -> tuple[Tokens, torch.Tensor] | None:
        """
        The videos of a batch, encoded and masked in a way of its own, and which patches are hidden, (batch, steps,
        rows, columns). All objectives of the batch read them. `None`: it reads what the others do.
        """
        return None

    def warning(self, measures: Mapping[str, float]) -> str | None:
        """What a run should say of the means of the log's numbers since its last line; `None` if all is well."""
        return None

    def loss(self, passes: Passes) -> Outcome:
        """Its loss on a batch, and what was predicted."""
        raise NotImplementedError


class EmbeddingObjective(Objective):
    """
    An objective whose loss compares embeddings, each of which depends on one row of the batch only. So it can be
    computed in parts, whatever the size of the batch: see `training.gradient_caching`.
    """

    rule = None

    def embed(self, passes: Passes) -> dict[str, torch.Tensor]:
        """Its sets of embeddings by name, (batch, …) each."""
        raise NotImplementedError

    def compare(self, sets: Mapping[str, torch.Tensor], passes: Passes) -> Outcome:
        """
        Its loss on those sets, over the rows of all processes.

        Args:
            sets: as `embed` gives them, perhaps in parts.
            passes: of the whole batch; only its inputs and what is made of them without the model are read.
        """
        raise NotImplementedError

    def shared(self, model: Any) -> Iterable[nn.Parameter]:
        """The parameters that `compare` itself reads: the temperature."""
        return model.violet.projection.trained_scale()

    def loss(self, passes: Passes) -> Outcome:
        return self.compare(self.embed(passes), passes)


class FusedObjective(Objective):
    """An objective that reads the fusion's states of a video and a whole text: only models with such have it."""

    requirement = "a fusion (`fusion_model_config`) that joins a video with a whole text"

    @classmethod
    def of(cls, name: str, config: VioletConfig) -> Iterator[Self]:
        if fuses_pairs(config):
            yield cls(name, config)


BUILT_IN = ("vtc", "vtm", "mlm", "mvm", "smtm")
"""Those that need no entry in the configuration's `objectives`, in the order in which their losses are computed."""
OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective",
    __package__,
    {
        "vtc": "contrast:Contrast",
        "vtm": "matching:Matching",
        "mlm": "masked_words:MaskedWords",
        "mvm": "masked_vision:MaskedVision",
        "smtm": "masked_words:WrittenWords",
        "rolled_vtm": "rolled_matching:RolledMatching",
        "rolled_mlm": "rolled_matching:RolledWords",
        "caption": "written_captions:Captions",
        "contrast": "pair_contrast:PairContrast",
        "mil_nce": "several_texts:SeveralTexts",
        "omnisource": "omnisource:Omnisource",
        "temporal_contrast": "temporal_contrast:TemporalContrast",
        "vatt": "vatt:VattContrast",
        "imp": "imp:ImpContrast",
        "align": "align:Align",
        "generation": "generation:Generation",
    },
    config_keys=("objectives",),
    always=BUILT_IN,
)


def objectives_of(config: VioletConfig) -> dict[str, Objective]:
    """
    All objectives that a model of this configuration has, by name, in the order in which their losses are computed.

    Raises:
        ValueError: if the configuration's `objectives` names an unknown one, an option that it has not, or one that
            contradicts another field.
    """
    asked = config.objectives or {}
    kinds = [*BUILT_IN, *sorted(set(asked) - set(BUILT_IN))]
    found = {one.name: one for kind in kinds for one in OBJECTIVES.find(kind).of(kind, config)}
    for name in asked:
        if name not in found:
            raise ValueError(f"`objectives`: {name!r} needs {OBJECTIVES[name].requirement}.")
    for objective in found.values():
        objective.check(config)
    return found


def kind_of(name: str) -> str | None:
    """The entry of `OBJECTIVES` behind an objective's name: itself, or its family (`mvm` of `mvm_pixel`)."""
    if name in OBJECTIVES:
        return name
    family = name.partition("_")[0]
    return family if family in OBJECTIVES and OBJECTIVES[family].family else None


def why_absent(name: str) -> str:
    """Why a model has not the objective of that name."""
    kind = kind_of(name)
    if kind is None or (kind == name and OBJECTIVES[kind].family):
        known = (f"{kind}_…" if OBJECTIVES[kind].family else kind for kind in OBJECTIVES)
        return f"{name!r} is unknown, there are {', '.join(known)}"
    return f"{name!r} needs {OBJECTIVES[kind].requirement}"

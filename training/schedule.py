"""Schedules of pre-training: what each step does, a pure function of seed and step, so that all processes agree."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..core.registry import Registry


class ClipSize(NamedTuple):
    """Of the clips of one data set: the number of frames, and their sides in pixels."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class StepPlan:
    """
    One step.

    Attributes:
        dataset: number of the data set that its batch is drawn from.
        position: how many batches were drawn from that data set before.
        objectives: weights by objective, see `VioletForPreTraining`.
        clip: the size of its clips.
    """

    dataset: int
    position: int
    objectives: Mapping[str, float]
    clip: ClipSize


class Schedule(Protocol):
    """What each step of a run does; pure functions, so that a run can resume at any step."""

    def plan(self, step: int) -> StepPlan:
        """What step `step`, from 0, does."""
        ...

    def positions(self, step: int) -> list[int]:
        """How many batches are drawn from each data set before step `step`."""
        ...


SCHEDULES: Registry[Callable[..., Schedule]] = Registry(
    "schedule",
    __package__,
    {"mixture": "mixture:MixtureSchedule", "alternating": "alternating:AlternatingSchedule"},
)
"""
Each is called with (weights, clip_sizes, objectives, seed): of each data set its weight and its `ClipSize`; the
sets of objectives, each with its share, the step from which it takes part, and weights by objective. One that also
takes `intervals` (of each data set) and `own` (each data set's own weights by objective, or None) is given those of
the recipe; for others the recipe must have none.
"""

"""
The schedule `alternating`: data sets in turn, each with its own objectives, never mixed within a step (alternating
gradient descent: Akbari et al., 2023, arXiv:2305.06324).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .schedule import ClipSize, StepPlan

Objectives = tuple[float, int, Mapping[str, float]]


@dataclass
class AlternatingSchedule:
    """
    Sweeps over the data sets in their order. In sweep t, from 1, those take a step whose interval divides t: after S
    sweeps a data set with the interval I has taken ⌊S / I⌋ of them. Nothing is drawn, and which of them takes a step
    follows from the step's number, so that a run that goes on from a checkpoint keeps its order.

    Args:
        weights: of each data set; not read.
        clip_sizes: (frames, height, width) of each data set, its bucket.
        objectives: one set, for data sets without their own.
        seed: not read.
        intervals: of each data set; by default 1.
        own: each data set's own weights by objective, or None.

    Raises:
        ValueError: for an interval below 1; if every interval is above 1, so that sweeps are empty and the intervals
            mean something else than they say; for several sets of objectives.
    """

    weights: Sequence[float]
    clip_sizes: Sequence[tuple[int, int, int]]
    objectives: Sequence[Objectives]
    seed: int
    intervals: Sequence[int] = ()
    own: Sequence[Mapping[str, float] | None] = field(default_factory=tuple)

    def __post_init__(self):
        count = len(self.weights)
        self.intervals = list(self.intervals) or [1] * count
        self.own = list(self.own) or [None] * count
        if min(self.intervals) < 1:
            raise ValueError(f"`interval`: must be 1 or more, got {min(self.intervals)}.")
        if min(self.intervals) > 1:
            raise ValueError(
                f"`interval`: all are above 1 ({', '.join(map(str, self.intervals))}), so that some sweeps over the "
                "data sets are empty: give the one that is to come most often the interval 1."
            )
        if len(self.objectives) != 1:
            raise ValueError(
                f"`objectives`: {len(self.objectives)} sets are drawn from by the schedule 'mixture'; under "
                "'alternating' give one, and a data set that needs others its own `objectives`."
            )

    def plan(self, step: int) -> StepPlan:
        """What step `step`, from 0, does."""
        sweep, place = self._place(step)
        dataset = self._due(sweep)[place]
        objectives = self.own[dataset] or self.objectives[0][2]
        return StepPlan(dataset, sweep // self.intervals[dataset] - 1, objectives, ClipSize(*self.clip_sizes[dataset]))

    def positions(self, step: int) -> list[int]:
        """How many batches are drawn from each data set before step `step`."""
        sweep, place = self._place(step)
        already = self._due(sweep)[:place]
        return [(sweep - 1) // interval + (number in already) for number, interval in enumerate(self.intervals)]

    def _steps(self, sweeps: int) -> int:
        """Steps of that many sweeps."""
        return sum(sweeps // interval for interval in self.intervals)

    def _due(self, sweep: int) -> list[int]:
        return [number for number, interval in enumerate(self.intervals) if not sweep % interval]

    def _place(self, step: int) -> tuple[int, int]:
        """The sweep, from 1, that a step is in, and its place within it."""
        low, high = 0, step + 1  # an interval is 1: as many sweeps have at least as many steps
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._steps(middle) > step else (middle, high)
        return high, step - self._steps(high - 1)

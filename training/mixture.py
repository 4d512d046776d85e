"""The schedule `mixture`: data sets and objectives drawn at random, in proportion to their shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .schedule import ClipSize, StepPlan

BLOCK = 4096
"""Steps whose draws are made together."""


@dataclass
class MixtureSchedule:
    """
    Data sets drawn at random in proportion to their weights, and objectives from a few sets of them.

    Args:
        weights: of each data set.
        clip_sizes: (frames, height, width) of each data set.
        objectives: the sets, each with its share and the step from which it takes part.
        seed: decides the draws.
    """

    weights: Sequence[float]
    clip_sizes: Sequence[tuple[int, int, int]]
    objectives: Sequence[tuple[float, int, Mapping[str, float]]]
    seed: int
    _counts: list[np.ndarray] = field(default_factory=list, repr=False)

    def plan(self, step: int) -> StepPlan:
        """What step `step`, from 0, does."""
        block, place = divmod(step, BLOCK)
        datasets, shares = self._draw(block)
        dataset = int(datasets[place])
        position = int(self._count_before(block)[dataset] + (datasets[:place] == dataset).sum())
        clip = ClipSize(*self.clip_sizes[dataset])
        return StepPlan(dataset, position, self._objectives(step, shares[place]), clip)

    def positions(self, step: int) -> list[int]:
        """How many batches are drawn from each data set before step `step`."""
        block, place = divmod(step, BLOCK)
        datasets, _ = self._draw(block)
        return [int(before + (datasets[:place] == i).sum()) for i, before in enumerate(self._count_before(block))]

    def _objectives(self, step: int, place: float) -> Mapping[str, float]:
        """The set at that place, from 0 to 1, of those that take part, laid end to end by their shares."""
        sets = [(share, weights) for share, start, weights in self.objectives if step >= start]
        ends = np.cumsum([share for share, _ in sets])
        return sets[int(np.searchsorted(ends, place * ends[-1], side="right"))][1]

    def _draw(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """For each step of a block its data set, and a number of [0, 1) that decides its objectives."""
        generator = np.random.default_rng([self.seed, block])
        shares = np.asarray(self.weights, dtype=np.float64)
        return generator.choice(len(shares), size=BLOCK, p=shares / shares.sum()), generator.random(BLOCK)

    def _count_before(self, block: int) -> np.ndarray:
        while len(self._counts) <= block:
            if not self._counts:
                self._counts.append(np.zeros(len(self.weights), dtype=np.int64))
                continue
            datasets, _ = self._draw(len(self._counts) - 1)
            self._counts.append(self._counts[-1] + np.bincount(datasets, minlength=len(self.weights)))
        return self._counts[block]

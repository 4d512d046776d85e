"""What a pre-training step does: a pure function of the seed and the step, so that every process decides alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

BLOCK = 4096


@dataclass(frozen=True)
class StepPlan:
    """
    One step.

    Attributes:
        dataset: number of the data set that its batch is drawn from.
        position: how many batches were drawn from that data set before.
        objectives: weights by objective, see `VioletForPreTraining`.
        num_frames: frames of a clip.
        image_size: side of a frame in pixels.
    """

    dataset: int
    position: int
    objectives: Mapping[str, float]
    num_frames: int
    image_size: int


@dataclass
class MixtureSchedule:
    """
    Data sets drawn at random in proportion to their weights, and objectives from a few sets of them.

    Args:
        weights: of each data set.
        clip_sizes: (frames, pixels) of each data set.
        objectives: the sets, each with its share.
        seed: decides the draws.
    """

    weights: Sequence[float]
    clip_sizes: Sequence[tuple[int, int]]
    objectives: Sequence[tuple[float, Mapping[str, float]]]
    seed: int
    _counts: list[np.ndarray] = field(default_factory=list, repr=False)

    def plan(self, step: int) -> StepPlan:
        """What step `step`, from 0, does."""
        block, place = divmod(step, BLOCK)
        datasets, objectives = self._draw(block)
        dataset = int(datasets[place])
        position = int(self._count_before(block)[dataset] + (datasets[:place] == dataset).sum())
        frames, pixels = self.clip_sizes[dataset]
        return StepPlan(dataset, position, self.objectives[objectives[place]][1], frames, pixels)

    def positions(self, step: int) -> list[int]:
        """How many batches are drawn from each data set before step `step`."""
        block, place = divmod(step, BLOCK)
        datasets, _ = self._draw(block)
        return [int(before + (datasets[:place] == i).sum()) for i, before in enumerate(self._count_before(block))]

    def _draw(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng([self.seed, block])

        def choose(weights: Sequence[float]) -> np.ndarray:
            shares = np.asarray(weights, dtype=np.float64)
            return generator.choice(len(shares), size=BLOCK, p=shares / shares.sum())

        return choose(self.weights), choose([share for share, _ in self.objectives])

    def _count_before(self, block: int) -> np.ndarray:
        while len(self._counts) <= block:
            if not self._counts:
                self._counts.append(np.zeros(len(self.weights), dtype=np.int64))
                continue
            datasets, _ = self._draw(len(self._counts) - 1)
            self._counts.append(self._counts[-1] + np.bincount(datasets, minlength=len(self.weights)))
        return self._counts[block]

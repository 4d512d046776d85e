"""Numbers about samples, with the intervals that drawing the samples again gives (the bootstrap)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LEVEL = 0.95
RESAMPLES = 1000


def mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(draws, samples), (samples,) -> (draws,)"""
    return weights @ values / weights.sum(1)


def median(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """
    (draws, samples), (samples,) -> (draws,), the weighted median of each draw; if half of the weight lies on each
    side, the midpoint of the two neighbouring values.
    """
    order = np.argsort(values, kind="stable")
    values, below = values[order], weights[:, order].cumsum(1)
    half = below[:, -1:] / 2
    return (values[(below >= half).argmax(1)] + values[(below > half).argmax(1)]) / 2


@dataclass(frozen=True)
class Measure:
    """
    A number about samples, which can be computed for samples that are drawn again.

    Attributes:
        values: (samples,) or (samples, k).
        statistic: (draws, samples) how often each sample counts, and the values -> (draws,) numbers.
        units: (samples,) what is drawn together, such as a sample's video, whose questions are not independent of one
            another; each sample by itself if it is not given.
    """

    values: np.ndarray
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray] = mean
    units: Sequence[Any] | np.ndarray | None = None

    def value(self) -> float:
        return float(self.statistic(np.ones((1, len(self.values))), self.values)[0])

    def interval(self, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
        """
        The percentile interval of the bootstrap (Efron, 1979): between the quantiles (1 − level) / 2 and
        (1 + level) / 2 of the number on samples whose units were drawn with replacement, as many as there are. The
        same seed gives the same draws.
        """
        if self.units is None:
            unit_of = np.arange(len(self.values))
        else:
            unit_of = np.unique(np.asarray(self.units), return_inverse=True)[1]
        count = int(unit_of.max()) + 1
        generator = np.random.default_rng(seed)
        drawn = []
        at_a_time = max(1, 2**22 // len(self.values))
        for start in range(0, resamples, at_a_time):
            draws = min(at_a_time, resamples - start)
            units = generator.integers(count, size=(draws, count)) + np.arange(draws)[:, None] * count
            weights = np.bincount(units.ravel(), minlength=draws * count).reshape(draws, count)
            drawn.append(self.statistic(weights[:, unit_of].astype(float), self.values))
        low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


@dataclass
class Evaluation:
    """
    The results of a model on some rows.

    Attributes:
        measures: numbers that have an interval, by name.
        numbers: the others.
        samples: for each row (or video, if a text is written about it) that could be read, in order: `row`, its
            number; `video`; `question`, what was asked or searched for; `prediction` and `truth`, in words; `right`,
            if it is one of the two; `score`, the higher the better the model did.
        notes: how the numbers were made, in words.
        failed: the rows that could not be read, and have no part in any number.
    """

    measures: Mapping[str, Measure]
    numbers: Mapping[str, float] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    failed: int = 0

    @property
    def metrics(self) -> dict[str, float]:
        """Every number by its name."""
        return {**self.numbers, **{name: measure.value() for name, measure in self.measures.items()}}

    def intervals(self, level: float = LEVEL, seed: int = 0) -> dict[str, tuple[float, float]]:
        """From and to, for those of `metrics` that have an interval, see `Measure.interval`."""
        return {name: measure.interval(level, seed=seed) for name, measure in self.measures.items()}

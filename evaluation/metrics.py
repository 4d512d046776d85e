"""The metrics that evaluations report: what computes each, and whether it is a share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.registry import Registry
from .measures import Measure


@dataclass(frozen=True)
class Score:
    """
    Attributes:
        value: the number; without an interval if it is a plain one.
        of_samples: (samples,) the number of each by itself, if a report shows it.
    """

    value: Measure | float
    of_samples: Sequence[float] | None = None


@dataclass(frozen=True)
class Metric:
    """
    Attributes:
        reads: what it is computed from: "answers" (`answers.ChosenAnswers`), "classes" (`classes.ClassPlaces`),
            "label_sets" (`classes.LabelSets`), "ranks" (what `retrieval.query_ranks` gives) or "captions"
            (`captions.WrittenCaptions`).
        compute: that -> its score; None if it means nothing for these samples.
        is_share: whether it lies from 0 to 1 and is shown in percent.
        title: its name in sentences.
        needs: what must be installed to compute it.
    """

    reads: str
    compute: Callable[[Any], Score | None]
    is_share: bool = False
    title: str = ""
    needs: tuple[str, ...] = ()


METRICS: Registry[Metric] = Registry(
    "metric",
    __package__,
    {
        "accuracy": "answers:ACCURACY",
        "accuracy_top5": "answers:ACCURACY_TOP5",
        "mean_class_accuracy": "classes:MEAN_CLASS_ACCURACY",
        "mean_average_precision": "classes:MEAN_AVERAGE_PRECISION",
        "r1": "retrieval:R1",
        "r5": "retrieval:R5",
        "r10": "retrieval:R10",
        "median_rank": "retrieval:MEDIAN_RANK",
        "mean_rank": "retrieval:MEAN_RANK",
        "exact": "captions:EXACT",
        "bleu_1": "captions:BLEU_1",
        "bleu_2": "captions:BLEU_2",
        "bleu_3": "captions:BLEU_3",
        "bleu_4": "captions:BLEU_4",
        "rouge_l": "captions:ROUGE_L",
        "cider_d": "captions:CIDER_D",
        "cider": "captions:CIDER",
        "meteor": "captions:METEOR",
    },
)


def metrics_reading(reads: str) -> dict[str, Metric]:
    """Those that are computed from such samples, by name."""
    return {name: metric for name, metric in METRICS.items() if metric.reads == reads}


def measures_of(reads: str, samples: Any, units: Sequence[Any] | np.ndarray | None = None) -> dict[str, Measure]:
    """
    Every metric of such samples that has an interval, by name.

    Args:
        units: (samples,) what is drawn together for intervals, see `Measure`.
    """
    measures = {}
    for name, metric in metrics_reading(reads).items():
        score = metric.compute(samples)
        if score is not None and isinstance(score.value, Measure):
            measures[name] = replace(score.value, units=units)
    return measures


def is_share(name: str) -> bool:
    """
    Whether a number is shown in percent. Numbers of a part of the samples are named after their metric: of a type of
    question ("accuracy_colour"), or of one way of a search ("text_to_video_r1").
    """
    return any(
        metric.is_share and (name == known or name.startswith(f"{known}_") or name.endswith(f"_{known}"))
        for known, metric in METRICS.items()
    )

"""Metrics of video classification, with one label per video or several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .answers import UNREAD, ChosenAnswers, answer_places
from .measures import Measure
from .metrics import Metric, Score, measures_of


@dataclass(frozen=True)
class ClassPlaces:
    """
    What a metric over classes is computed from, if each video has one label.

    Attributes:
        places: (rows,), where the right class stands, from 1; infinite if the model does not know it.
        classes: (rows,), the number of the right class; each unknown one has a number of its own too.
    """

    places: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class LabelSets:
    """
    What a metric of several labels is computed from.

    Attributes:
        scores: (rows, classes), the higher the likelier.
        labels: (rows, classes), True for each label that the row has.
    """

    scores: np.ndarray
    labels: np.ndarray


def class_measures(
    places: Sequence[float], labels: Sequence[str], num_classes: int, videos: Sequence[str] | None = None
) -> dict[str, Measure]:
    """
    `accuracy`, `accuracy_top5` if there are more than five classes, and `mean_class_accuracy`, the mean over the
    classes that occur of each one's accuracy, so that a rare class counts as much as a frequent one.

    Args:
        places: (rows,), where the right class stands, from 1; infinite if the model does not know it.
        labels: (rows,), the right class's name.
        num_classes: how many the model knows.
        videos: (rows,), if several rows are of one video: these are drawn together for intervals.
    """
    place = np.asarray(places, float)
    numbers = np.unique(np.asarray(labels), return_inverse=True)[1]
    units = None if videos is None else np.asarray(videos)
    answers = measures_of("answers", ChosenAnswers(place, num_classes), units)
    return answers | measures_of("classes", ClassPlaces(place, numbers), units)


def label_set_measures(
    scores: np.ndarray, labels: np.ndarray, videos: Sequence[str] | None = None
) -> dict[str, Measure]:
    """
    `mean_average_precision` (the mean over the classes that some row has; between equal scores, all count as found at
    once, as in scikit-learn).

    Args:
        scores, labels: (rows, classes), see `LabelSets`.
        videos: as above.
    """
    units = None if videos is None else np.asarray(videos)
    return measures_of("label_sets", LabelSets(np.asarray(scores, float), np.asarray(labels, bool)), units)


def mean_over_classes(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A `Measure`'s statistic: values (rows, 2), whether a row is right and its class's number -> (draws,)."""
    order = np.argsort(values[:, 1], kind="stable")
    right, classes = values[order].T
    starts = np.flatnonzero(np.append(True, classes[1:] != classes[:-1]))
    weights = weights[:, order]
    of_class = np.add.reduceat(weights, starts, axis=1)  # (draws, classes)
    found = np.add.reduceat(weights * right, starts, axis=1)
    accuracies = np.divide(found, of_class, out=np.zeros_like(found), where=of_class > 0)
    return accuracies.sum(1) / (of_class > 0).sum(1)


def mean_average_precision(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A `Measure`'s statistic: values (rows, 2 * classes), the scores and then the labels -> (draws,)."""
    scores, labels = np.split(values, 2, axis=1)
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for score, label in zip(scores.T, labels.T, strict=True):
        if not label.any():
            continue
        order = np.argsort(-score, kind="stable")
        # Rows of equal scores are found at once: each counts what stands at the last of them.
        last = np.searchsorted(-score[order], -score[order], side="right") - 1
        drawn = weights[:, order]
        hits = drawn * label[order]
        seen, found = drawn.cumsum(1)[:, last], hits.cumsum(1)[:, last]
        precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
        in_all = hits.sum(1)
        total += np.divide((precision * hits).sum(1), in_all, out=np.zeros_like(in_all), where=in_all > 0)
        count += in_all > 0
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)


class ClassAccuracy:
    """`compute_metrics` of a Trainer: the numbers of `class_measures`, or of `label_set_measures`."""

    def __call__(self, prediction: Any) -> dict[str, float]:
        """
        `prediction.predictions`, (rows, classes), and `label_ids`, (rows,), −100 for a class that is not known; or
        with several labels (rows, classes). Rows with `answers.UNREAD` have no part.
        """
        logits, labels = np.asarray(prediction.predictions, float), np.asarray(prediction.label_ids)
        read = (labels.reshape(len(labels), -1) != UNREAD).all(1)
        logits, labels = logits[read], labels[read]
        if not len(labels):
            return {}
        if labels.ndim == 2:
            measures = label_set_measures(logits, labels > 0)
        else:
            measures = class_measures(
                class_places(logits, labels).tolist(), [str(label) for label in labels], logits.shape[1]
            )
        return {name: measure.value() for name, measure in measures.items()}


def class_places(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Where the right class stands, see `answers.answer_places`: (rows, classes), (rows,) -> (rows,)."""
    return answer_places(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()


def _mean_class_accuracy(rows: ClassPlaces) -> Score:
    return Score(Measure(np.stack([rows.places <= 1, rows.classes], 1).astype(float), mean_over_classes))


def _mean_average_precision(rows: LabelSets) -> Score | None:
    if not rows.labels.any():
        return None
    return Score(Measure(np.concatenate([rows.scores, rows.labels], 1).astype(float), mean_average_precision))


MEAN_CLASS_ACCURACY = Metric("classes", _mean_class_accuracy, is_share=True)
MEAN_AVERAGE_PRECISION = Metric("label_sets", _mean_average_precision, is_share=True)

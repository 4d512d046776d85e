"""Measures of classes against their definitions, on rows drawn again too."""

from types import SimpleNamespace

import numpy as np
import pytest

from violet.evaluation.answers import UNREAD
from violet.evaluation.classes import (
    ClassAccuracy,
    class_measures,
    label_set_measures,
    mean_average_precision,
    mean_over_classes,
)


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    places = [1, 1, 1, 2, 7, float("inf")]
    measures = class_measures(places, ["run", "run", "run", "run", "jump", "fly"], 8, list("aabbcd"))
    assert {name: measure.value() for name, measure in measures.items()} == pytest.approx(
        {"accuracy": 3 / 6, "accuracy_top5": 4 / 6, "mean_class_accuracy": (3 / 4 + 0 + 0) / 3}
    )
    assert all(list(measure.units) == list("aabbcd") for measure in measures.values())
    assert "accuracy_top5" not in class_measures([1.0], ["a"], 5)


def average_precision(scores, labels) -> float:
    """Over every threshold: precision, weighted by how much recall grows (scikit-learn's definition)."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = scores >= threshold
        recall = labels[found].sum() / labels.sum()
        total += (recall - before) * labels[found].mean()
        before = recall
    return total


def test_average_precision_is_that_of_the_definition_with_ties_and_rows_drawn_again():
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 6, (40, 7)).astype(float)  # many are equal
    labels = generator.random((40, 7)) < 0.3
    labels[:, 3] = False  # a class that no row has counts for nothing
    classes = [number for number in range(7) if number != 3]
    expected = np.mean([average_precision(scores[:, number], labels[:, number]) for number in classes])
    measure = label_set_measures(scores, labels)["mean_average_precision"]
    assert measure.value() == pytest.approx(expected) and 0.1 < expected < 0.9
    weights = np.array([np.bincount(generator.integers(0, 40, 40), minlength=40) for _ in range(3)], float)
    for drawn, found in zip(weights, mean_average_precision(weights, measure.values), strict=True):
        rows = np.repeat(np.arange(40), drawn.astype(int))
        again = [average_precision(scores[rows, n], labels[rows, n]) for n in classes if labels[rows, n].any()]
        assert found == pytest.approx(np.mean(again))
    low, high = measure.interval(resamples=100)
    assert low < measure.value() < high


def test_the_mean_over_classes_of_rows_drawn_again_leaves_out_classes_that_were_not_drawn():
    values = np.array([[1, 0], [0, 2], [1, 2], [0, 1]], float)
    weights = np.array([[1, 1, 1, 1], [2, 0, 3, 0], [0, 3, 1, 0]], float)
    assert mean_over_classes(weights, values).tolist() == pytest.approx([(1 + 0 + 0.5) / 3, 1.0, 0.25])


def test_equal_scores_of_all_rows_are_at_the_share_of_rows_with_the_label():
    labels = np.array([[1], [0], [0], [1], [0]])
    assert label_set_measures(np.zeros((5, 1)), labels)["mean_average_precision"].value() == pytest.approx(0.4)


def test_a_trainer_measures_the_rows_that_could_be_read():
    logits = np.eye(7)[[0, 1, 1, 5]]
    found = ClassAccuracy()(SimpleNamespace(predictions=logits, label_ids=np.array([0, 1, 2, UNREAD])))
    assert found == pytest.approx({"accuracy": 2 / 3, "accuracy_top5": 1.0, "mean_class_accuracy": 2 / 3})
    several = np.array([[1, 0], [0, 1], [UNREAD, UNREAD]])
    found = ClassAccuracy()(SimpleNamespace(predictions=np.array([[3.0, 0], [0, 2], [9, 9]]), label_ids=several))
    assert found == {"mean_average_precision": 1.0}
    assert ClassAccuracy()(SimpleNamespace(predictions=logits[:1], label_ids=np.array([UNREAD]))) == {}

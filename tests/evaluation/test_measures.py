import itertools
import statistics

import numpy as np
import pytest

from violet.evaluation.measures import Evaluation, Measure, median


def test_a_median_of_weighted_values_is_that_of_the_values_repeated():
    generator = np.random.default_rng(0)
    values = generator.integers(1, 6, 9).astype(float)
    weights = generator.integers(0, 3, (200, 9)).astype(float)
    weights[:, 0] += weights.sum(1) == 0
    expected = [statistics.median(np.repeat(values, row.astype(int))) for row in weights]
    assert len({sum(row) % 2 for row in weights}) == 2, "odd and even numbers of values"
    assert median(weights, values).tolist() == expected
    assert Measure(values, median).value() == statistics.median(values)


def test_an_interval_is_that_of_every_possible_draw():
    """Four samples can be drawn in 4**4 ways, which are as likely: the quantiles of all of them are the truth."""
    values = np.array([0.0, 1.0, 3.0, 10.0])
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=4)]
    low, high = Measure(values).interval(level=0.8, resamples=40000)
    assert (low, high) == pytest.approx(np.quantile(means, [0.1, 0.9]), abs=0.26)
    wide = Measure(values).interval(level=0.99, resamples=40000)
    assert wide[0] < low < values.mean() < high < wide[1]


def test_an_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    right = generator.random((300, 100)) < 0.7
    intervals = [Measure(row.astype(float)).interval(level=0.9, resamples=400) for row in right]
    covered = np.mean([low <= 0.7 <= high for low, high in intervals])
    assert 0.84 < covered < 0.95


def test_samples_of_one_video_are_drawn_together():
    """Ten equal answers about each video tell no more than one: the interval is that of the videos."""
    by_video = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    repeated, videos = np.repeat(by_video, 10), np.repeat(list("abcdefgh"), 10)
    assert Measure(repeated, units=videos).interval() == Measure(by_video).interval()
    low, high = Measure(repeated).interval()
    wide = Measure(repeated, units=videos).interval()
    assert wide[0] < low and high < wide[1]


def test_draws_follow_the_seed_and_not_how_many_are_made_at_a_time():
    values = np.random.default_rng(2).random(50)
    assert Measure(values).interval(seed=3) == Measure(values).interval(seed=3)
    assert Measure(values).interval(seed=3) != Measure(values).interval(seed=4)
    large = Measure(np.random.default_rng(2).random(100_000)).interval(resamples=100)  # more than fits at a time
    assert 0.49 < large[0] < large[1] < 0.51


def test_an_evaluation_has_all_numbers_by_name():
    found = Evaluation({"a": Measure(np.array([0.0, 1.0]))}, {"b": 3.0})
    assert found.metrics == {"a": 0.5, "b": 3.0} and list(found.intervals()) == ["a"]

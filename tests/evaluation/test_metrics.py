"""The table of metrics: what is shown as a share, and one that is added from outside."""

import sys

import numpy as np
import pytest

from violet.evaluation.answers import answer_measures
from violet.evaluation.captions import caption_scores
from violet.evaluation.measures import Measure
from violet.evaluation.metrics import METRICS, Metric, Score, is_share


def test_numbers_of_a_part_or_a_way_are_shown_as_their_metric():
    shares = ("accuracy", "accuracy_colour", "accuracy_top5", "text_to_video_r1", "dual_softmax_video_to_text_r10")
    assert all(map(is_share, (*shares, "exact")))
    others = (
        "loss",
        "bleu_4",
        "cider_d",
        "gallery",
        "text_to_video_median_rank",
        "video_to_text_mean_rank",
        "inaccuracy",
    )
    assert not any(map(is_share, others))


def test_an_added_metric_is_measured_with_the_others(monkeypatch):
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))
    METRICS.add("mean_place", Metric("answers", lambda answers: Score(Measure(answers.places))))
    METRICS.add(
        "length", Metric("captions", lambda captions: Score(float(np.mean([len(one) for one in captions.said]))))
    )
    measures = answer_measures([1, 2, 6], videos=["a", "a", "b"])
    assert measures["mean_place"].value() == 3 and list(measures["mean_place"].units) == ["a", "a", "b"]
    pytest.importorskip("pycocoevalcap")
    assert caption_scores(["a dog runs", "a cat"], [["a dog"], ["a cat"]], java=False).numbers == {"length": 2.5}


def test_metrics_that_lack_their_package_are_named(monkeypatch, caplog):
    for name in [name for name in sys.modules if name.startswith("pycocoevalcap")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    scores = caption_scores(["a dog"], [["A dog"]], java=False)
    assert scores.metrics == {"exact": 1.0} and scores.samples == [{"exact": 1.0}]
    assert scores.notes == {"left out": "BLEU, ROUGE-L, CIDEr and METEOR: pip install pycocoevalcap"}
    assert "pip install pycocoevalcap" in caplog.text

"""Captions against those of people."""

import pytest

from violet.evaluation.captions import caption_metrics

REFERENCES = [
    ["a red disc moves left", "a disc moves"],
    ["a blue cross turns"],
    ["a small green square grows, then a disc stays"],
]


def test_the_same_captions_are_exact_whatever_their_case_and_spaces():
    written = ["A red  disc moves left", "a blue cross turns", "a small green square grows , then a disc stays"]
    metrics = caption_metrics(written, REFERENCES)
    assert metrics["exact"] == 1.0


def test_one_word_that_is_wrong_costs_exactness_and_some_cider():
    pytest.importorskip("pycocoevalcap")
    right = [captions[0] for captions in REFERENCES]
    wrong = ["a red disc moves right", *right[1:]]
    other = [*right[1:], right[0]]
    one, two, three = (caption_metrics(written, REFERENCES) for written in (right, wrong, other))
    assert (one["exact"], two["exact"], three["exact"]) == pytest.approx((1.0, 2 / 3, 0.0))
    assert one["cider"] > two["cider"] > three["cider"]


def test_a_single_reference_each_that_is_met_scores_ten():
    pytest.importorskip("pycocoevalcap")
    references = [["a red disc moves left"], ["one blue cross turns now"], ["two green squares grow there"]]
    assert caption_metrics([one for (one,) in references], references)["cider"] == pytest.approx(10)


def test_captions_and_videos_must_be_as_many():
    with pytest.raises(ValueError, match="2 captions for 3 videos"):
        caption_metrics(["a", "b"], REFERENCES)

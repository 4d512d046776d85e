"""Captions against those of people."""

import math
from collections import Counter

import numpy as np
import pytest

from violet.evaluation.caption_tokens import has_java
from violet.evaluation.captions import caption_metrics, caption_scores

REFERENCES = [
    ["a red disc moves left", "a disc moves"],
    ["a blue cross turns"],
    ["a small green square grows, then a disc stays"],
]


def test_the_same_captions_are_exact_whatever_their_case_and_spaces():
    written = ["A red  disc moves left", "a blue cross turns", "a small green square grows , then a disc stays"]
    metrics = caption_metrics(written, REFERENCES, java=False)
    assert metrics["exact"] == 1.0


def test_one_word_that_is_wrong_costs_exactness_and_some_cider():
    pytest.importorskip("pycocoevalcap")
    right = [captions[0] for captions in REFERENCES]
    wrong = ["a red disc moves right", *right[1:]]
    other = [*right[1:], right[0]]
    one, two, three = (caption_metrics(written, REFERENCES, java=False) for written in (right, wrong, other))
    assert (one["exact"], two["exact"], three["exact"]) == pytest.approx((1.0, 2 / 3, 0.0))
    assert one["cider"] > two["cider"] > three["cider"]


def test_a_single_reference_each_that_is_met_scores_ten():
    pytest.importorskip("pycocoevalcap")
    references = [["a red disc moves left"], ["one blue cross turns now"], ["two green squares grow there"]]
    assert caption_metrics([one for (one,) in references], references, java=False)["cider"] == pytest.approx(10)


def test_captions_and_videos_must_be_as_many():
    with pytest.raises(ValueError, match="2 captions for 3 videos"):
        caption_metrics(["a", "b"], REFERENCES)


# --- through pycocoevalcap ---

PEOPLE = [
    ["A man is playing a guitar.", "someone plays the guitar", "a man plays guitar on the stage"],
    ["a woman cuts onions", "Someone is cutting vegetables, onions I think!"],
    ["two kids don't stop running in the park", "kids run", "children are running (fast) in a park"],
    ["the cat sleeps on the sofa", "a cat is sleeping"],
    ["a red car drives down the road"],
]
WRITTEN = [
    "a man is playing the guitar",
    "a woman is cutting an onion",
    "two kids are running in the park",
    "a dog",
    "",
]


WITH_JAVA = (pytest.mark.slow, pytest.mark.skipif(not has_java(), reason="PTB's tokenizer and METEOR need Java"))


@pytest.mark.parametrize("java", [pytest.param(True, marks=WITH_JAVA), False])
def test_scores_are_those_of_pycocoevalcap(java):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    def plain(caption):
        return "".join(one for one in caption.lower().replace("n't", " n't") if one not in ".,!").replace(
            "(fast)", "-lrb- fast -rrb-"
        )

    given = {number: list(map(plain, captions)) for number, captions in enumerate(PEOPLE)}
    written = {number: [plain(caption)] for number, caption in enumerate(WRITTEN)}
    scores = caption_scores(WRITTEN, PEOPLE, java)
    bleu, _ = Bleu(4).compute_score(given, written, verbose=0)
    expected = {f"bleu_{order}": value for order, value in enumerate(bleu, start=1)}
    expected |= {
        "rouge_l": Rouge().compute_score(given, written)[0],
        "cider_d": Cider().compute_score(given, written)[0],
    }
    assert {name: scores.metrics[name] for name in expected} == pytest.approx(expected)
    assert min(expected.values()) > 0.01
    for name in ("rouge_l", "cider_d", "cider"):
        assert np.mean([row[name] for row in scores.samples]) == pytest.approx(scores.metrics[name])
    assert ("meteor" in scores.metrics) == java and ("METEOR" in scores.notes.get("left out", "")) == (not java)
    assert ("Stanford" in scores.notes["words"]) == java
    if java:
        assert 0.1 < scores.numbers["meteor"] < 1 and scores.samples[0]["meteor"] > scores.samples[3]["meteor"]


def test_bleu_of_samples_drawn_again_is_bleu_of_these_samples():
    scores = caption_scores(WRITTEN, PEOPLE, java=False)
    for name in ("bleu_1", "bleu_4"):
        measure = scores.measures[name]
        drawn = np.array([[2.0, 0, 1, 0, 1]])
        again = [0, 0, 2, 4]
        expected = caption_scores([WRITTEN[i] for i in again], [PEOPLE[i] for i in again], java=False).metrics[name]
        assert measure.statistic(drawn, measure.values)[0] == pytest.approx(expected)
        low, high = measure.interval(resamples=200)
        assert low < measure.value() < high


def expected_cider(written, references):
    """By dense vectors over all n-grams."""
    scores = np.zeros(len(written))
    for n in (1, 2, 3, 4):

        def grams(text, n=n):
            words = text.split()
            return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

        known = sorted({g for text in [*written, *(r for rs in references for r in rs)] for g in grams(text)})
        videos = np.array([sum(any(g in grams(r) for r in rs) for rs in references) for g in known])
        rarity = np.array([math.log(len(references)) - math.log(max(1, count)) for count in videos])

        def vector(text, grams=grams, known=known, rarity=rarity):
            counts = Counter(grams(text))
            return np.array([counts[g] for g in known]) * rarity

        for place, (one, many) in enumerate(zip(written, references, strict=True)):
            for reference in many:
                x, y = vector(one), vector(reference)
                if x.any() and y.any():
                    scores[place] += x @ y / np.linalg.norm(x) / np.linalg.norm(y) / len(many) / 4 * 10
    return scores


def test_cider_is_the_mean_cosine_of_weighted_ngrams_and_neither_clips_nor_looks_at_lengths():
    references = [
        ["a red disc moves left", "the disc moves"],
        ["one cross turns"],
        ["green squares grow and grow there"],
    ]
    written = ["a red disc moves left", "one one one cross turns", "green squares grow"]
    scores = caption_scores(written, references, java=False)
    found = [row["cider"] for row in scores.samples]
    assert found == pytest.approx(expected_cider(written, references).tolist())
    assert found[2] > 1.1 * scores.samples[2]["cider_d"], "CIDEr-D punishes what is shorter"
    assert found[1] != pytest.approx(scores.samples[1]["cider_d"])


def test_a_video_without_a_reference_is_named():
    with pytest.raises(ValueError, match="1 videos have no caption to compare with, the first is number 1"):
        caption_scores(["a", "b"], [["a"], []])


def test_bleu_is_nought_where_nothing_is_right_and_says_from_which_length_on():
    scores = caption_scores(["a dog runs", "tree"], [["the cat is asleep"], ["a dog barks"]], java=False)
    assert all(scores.metrics[f"bleu_{order}"] == 0 for order in (1, 2, 3, 4))
    assert "no caption has a word in common" in scores.notes["bleu"]
    scores = caption_scores(["a dog sleeps", "the big tree"], [["a dog is asleep"], ["the tree"]], java=False)
    metrics = scores.metrics
    assert 0 < metrics["bleu_2"] < metrics["bleu_1"] and metrics["bleu_3"] == metrics["bleu_4"] == 0
    assert scores.notes["bleu"].startswith("0 from bleu_3 on: no caption has 3 words in a row")
    assert "bleu" not in caption_scores(WRITTEN, PEOPLE, java=False).notes

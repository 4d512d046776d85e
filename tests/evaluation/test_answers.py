import numpy as np
import pytest
import torch

from violet.evaluation.answers import (
    AnswerAccuracy,
    answer_measures,
    answer_places,
    choose_answers,
    thirds_by_frequency,
)
from violet.modeling_violet.losses import IGNORE_INDEX


def test_places_are_those_of_a_stable_sort_with_ties():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 4, (200, 9), generator=generator).float()
    labels = torch.randint(0, 9, (200,), generator=generator)
    order = np.argsort(-logits.numpy(), axis=1, kind="stable")
    expected = [row.tolist().index(label) + 1 for row, label in zip(order, labels.tolist(), strict=True)]
    assert answer_places(logits, labels).tolist() == expected
    assert (answer_places(logits, labels) == 1).tolist() == (logits.argmax(-1) == labels).tolist()


def test_a_row_of_several_words_stands_where_its_worst_does_and_one_without_any_nowhere():
    logits = torch.tensor([[[5.0, 1, 0], [0, 5, 1]], [[5, 1, 0], [0, 5, 1]], [[5, 1, 0], [0, 5, 1]]])
    labels = torch.tensor([[0, 1], [0, 2], [IGNORE_INDEX, IGNORE_INDEX]])
    assert answer_places(logits, labels).tolist() == [1, 2, float("inf")]
    labels[1, 0] = IGNORE_INDEX
    assert answer_places(logits, labels).tolist() == [1, 2, float("inf")]


def test_accuracy_is_that_of_the_trainers_measure():
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(60, 12, generator=generator), torch.randint(0, 12, (60,), generator=generator)
    labels[:7] = IGNORE_INDEX
    logits[torch.arange(30, 60), labels[30:]] += 3
    types = ["a", "b", "c"] * 20

    class Prediction:
        predictions, label_ids = choose_answers(logits, labels).numpy(), labels.numpy()

    found = answer_measures(answer_places(logits, labels), types)
    values = {name: measure.value() for name, measure in found.items()}
    top5 = (logits.topk(5).indices == labels[:, None]).any(1).float().mean().item()
    assert values.pop("accuracy_top5") == pytest.approx(top5) and 0.3 < values["accuracy"] < top5 < 1
    assert values == pytest.approx(AnswerAccuracy(types)(Prediction))


def test_frequent_and_rare_answers_are_thirds_of_the_rows():
    answers = ["red"] * 4 + ["blue"] * 2 + ["ring"] * 2 + ["a", "b", "c", "d"]
    assert thirds_by_frequency(answers).tolist() == [0] * 4 + [1, 1, 1, 1] + [2] * 4
    assert thirds_by_frequency(["yes", "yes", "no"]).tolist() == [0, 0, 2]
    places = [1, 1, 1, 2, 1, 9, 9, 9, 9, 9, 9, float("inf")]
    found = {name: one.value() for name, one in answer_measures(places, answers=answers, num_answers=9).items()}
    assert found == {
        "accuracy": 4 / 12,
        "accuracy_top5": 5 / 12,
        "accuracy_frequent_answers": 0.75,
        "accuracy_less_frequent_answers": 0.25,
        "accuracy_rare_answers": 0.0,
    }
    assert "accuracy_top5" not in answer_measures(places, num_answers=5)


def test_questions_about_one_video_are_drawn_together():
    videos = [f"{number}.mp4" for number in range(5) for _ in range(6)]
    measures = answer_measures([1] * 12 + [2] * 18, ["a", "b"] * 15, videos=videos)
    assert measures["accuracy"].interval() == measures["accuracy_a"].interval() == (0.0, 0.8)

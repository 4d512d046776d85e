"""The metrics through Hugging Face's `evaluate`."""

import evaluate
import pytest
import torch

from violet.evaluation import module_path
from violet.evaluation.captions import caption_metrics
from violet.evaluation.retrieval import retrieval_metrics


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        # One for all: the modules' package is imported once.
        patch.setattr("evaluate.config.HF_MODULES_CACHE", tmp_path_factory.mktemp("modules"))
        patch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
        patch.setattr("violet.evaluation.captions.has_java", lambda: False)
        yield


def load(name, tmp_path):
    return evaluate.load(module_path(name), cache_dir=str(tmp_path / "cache"))


def test_captions_come_in_batches(tmp_path):
    written = ["a red disc moves left", "a cross", "green squares grow"]
    people = [["a red disc moves left", "a disc"], ["one cross turns"], ["green squares grow fast"]]
    metric = load("captioning", tmp_path)
    metric.add_batch(predictions=written[:2], references=people[:2])
    metric.add(prediction=written[2], reference=people[2])
    found = metric.compute()
    assert found == pytest.approx(caption_metrics(written, people)) and found["bleu_4"] > 0.1


def test_a_search_has_a_row_of_scores_a_text(tmp_path):
    scores, own = torch.randn(12, 9, generator=torch.Generator().manual_seed(0)), [n % 9 for n in range(12)]
    metric = load("retrieval", tmp_path)
    for start in (0, 5, 10):
        metric.add_batch(predictions=scores[start : start + 5].tolist(), references=own[start : start + 5])
    assert metric.compute() == pytest.approx(retrieval_metrics(scores, own))
    dual = metric.compute(predictions=scores.tolist(), references=own, use_dual_softmax=True)
    assert dual == pytest.approx(retrieval_metrics(scores, own, use_dual_softmax=True))


def test_answers_come_best_first(tmp_path):
    metric = load("accuracy", tmp_path)
    metric.add_batch(predictions=[["Red ", "blue"], ["blue", "red"]], references=["red", "red"])
    metric.add_batch(predictions=[["ring"] * 5 + ["disc"], []], references=["disc", "disc"])
    found = metric.compute()
    assert found["accuracy"] == 0.25 and found["accuracy_top5"] == 0.5


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match="'bleu'; there are accuracy, captioning, retrieval"):
        module_path("bleu")

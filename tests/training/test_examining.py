"""What a model is worth on rows: every task's numbers and what was said to each row, in one process and in two."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoProcessor

from violet.core.weights import pretrained
from violet.data import captioned, moving_shapes
from violet.training import TASKS, DataArguments, FinetuningArguments

CLIPS = {"train": 24, "validation": 4, "test": 8, "test_unseen": 0, "test_together": 0}
EXAMINE = """
import json, sys
from pathlib import Path

import torch
import torch.distributed as dist
from datasets import Dataset
from transformers import AutoProcessor

from violet.evaluation import captions
from violet.training import TASKS, DataArguments, FinetuningArguments

captions.has_java = lambda: False  # METEOR takes its time, and has a test of its own
plan = json.loads(Path(sys.argv[1]).read_text())
found = {}
for name, part in plan["parts"].items():
    task, folder = TASKS[part["task"]], plan["models"][part["task"]]
    training = FinetuningArguments(
        output_dir=plan["output"], per_device_eval_batch_size=3, dataloader_num_workers=0, use_cpu=True, report_to=[]
    )
    data = DataArguments(task=part["task"], dual_softmax=True)
    model, processor = task.model_class.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    result = task.examine(model, processor, Dataset.from_list(part["rows"]), data, training)
    found[name] = {
        "metrics": result.metrics, "intervals": result.intervals(), "samples": list(result.samples),
        "failed": result.failed, "processes": dist.get_world_size() if dist.is_initialized() else 1,
    }
if not dist.is_initialized() or dist.get_rank() == 1:  # what the last one has
    Path(sys.argv[2]).write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def clips(shapes_folder):
    return moving_shapes(shapes_folder, **CLIPS)["train"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The shipped weights with the heads that they lack, drawn once."""
    folders, source = {}, pretrained("violet-tiny")
    for name, task in TASKS.items():
        torch.manual_seed(0)
        changes = {}
        if name == "open-ended":
            answers = ["left", "right", "up", "down", "disc", "square", "ring", "red", "blue", "yes", "no"]
            changes = {"id2label": dict(enumerate(answers)), "label2id": {a: i for i, a in enumerate(answers)}}
        model = task.model_class.from_pretrained(source, ignore_mismatched_sizes=True, **changes)
        folders[name] = str(tmp_path_factory.mktemp(name))
        model.save_pretrained(folders[name])
        AutoProcessor.from_pretrained(source).save_pretrained(folders[name])
    return folders


def training_of(folder) -> FinetuningArguments:
    return FinetuningArguments(
        output_dir=folder, per_device_eval_batch_size=4, dataloader_num_workers=0, use_cpu=True, report_to=[]
    )


def examine(task, folder, rows, **settings):
    training = training_of(folder)
    model, processor = TASKS[task].model_class.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    return TASKS[task].examine(model, processor, rows, DataArguments(task=task, **settings), training)


@pytest.mark.parametrize("task", ["open-ended", "masked-answer", "multiple-choice", "fill-in-the-blank"])
def test_chosen_answers_are_the_models_own_and_rows_keep_their_order(task, clips, models):
    rows = TASKS[task].rows(clips).select(range(11))
    found = examine(task, models[task], rows)
    assert [sample["row"] for sample in found.samples] == list(range(11)) and found.failed == 0
    assert [sample["video"] for sample in found.samples] == list(rows["video"])
    model = TASKS[task].model_class.from_pretrained(models[task]).eval()
    processor = AutoProcessor.from_pretrained(models[task])
    batch = TASKS[task].collate(processor, model, DataArguments(task=task), training=False)(rows.to_list())
    with torch.no_grad():
        output = model(**batch)
    log_probabilities, labels = output.logits.log_softmax(-1), batch["labels"]
    for number, sample in enumerate(found.samples):
        asked = labels[number] != -100
        scores, right = log_probabilities[number], labels[number]
        if task in ("masked-answer", "fill-in-the-blank"):
            scores, right = scores[asked], right[asked]
            said = processor.tokenizer.decode(scores.argmax(-1))
        else:
            scores, right = scores[None], right[None]
            known = model.config.id2label if task == "open-ended" else rows[number]["options"]
            said = known[int(scores.argmax())]
        assert sample["prediction"] == said
        if asked.any():
            assert sample["right"] == bool((scores.argmax(-1) == right).all())
            mean = scores.gather(-1, right[:, None]).mean()
            assert sample["score"] == pytest.approx(mean.exp().item(), rel=1e-3)
        else:
            assert not sample["right"] and sample["score"] == 0
    assert found.metrics["loss"] == pytest.approx(output.loss.item(), rel=1e-4)
    assert found.metrics["accuracy"] == sum(sample["right"] for sample in found.samples) / 11
    assert len(found.measures["accuracy"].interval()) == 2


def test_classes_are_measured_by_the_models_scores_and_an_unknown_one_is_never_right(clips, models):
    rows = TASKS["classification"].rows(clips).to_list()[:6]
    known = sorted({label for row in rows[1:] for label in row["label"]} - set(rows[0]["label"]))
    changes = {"id2label": dict(enumerate(known)), "label2id": {label: number for number, label in enumerate(known)}}
    source = TASKS["classification"].model_class.from_pretrained
    torch.manual_seed(0)
    model = source(models["classification"], ignore_mismatched_sizes=True, **changes).eval()
    processor, training = (
        AutoProcessor.from_pretrained(models["classification"]),
        training_of(models["classification"]),
    )
    data = DataArguments(task="classification")
    found = TASKS["classification"].examine(model, processor, clips.from_list(rows), data, training)
    with torch.no_grad():
        videos = processor(videos=[row["video"] for row in rows], return_tensors="pt")
        probabilities = model(**videos).logits.softmax(-1)
    for row, sample, scores in zip(rows, found.samples, probabilities, strict=True):
        (label,) = row["label"]
        assert sample["truth"] == label and sample["prediction"] == known[int(scores.argmax())]
        assert sample["right"] == (sample["prediction"] == label)
        expected = scores[known.index(label)].item() if label in known else 0.0
        assert sample["score"] == pytest.approx(expected, abs=1e-5)
    assert found.samples[0]["score"] == 0 and not found.samples[0]["right"]
    assert found.metrics["accuracy"] == sum(sample["right"] for sample in found.samples) / 6
    assert {"loss", "mean_class_accuracy"} <= found.metrics.keys()


def with_some_wrong(rows, clips):
    """Every third row has the caption of the next clip, so that the search errs."""
    captions = [clips[(number + (number % 3 == 2)) % len(rows)]["caption"] for number in range(len(rows))]
    return clips.from_list([row | {"caption": caption} for row, caption in zip(rows, captions, strict=True)])


def test_a_search_says_which_video_it_found_for_each_text(clips, models):
    rows = with_some_wrong(TASKS["retrieval"].rows(clips).to_list()[:9], clips)
    found = examine("retrieval", models["retrieval"], rows, dual_softmax=True)
    right = [sample["right"] for sample in found.samples]
    assert right == [sample["prediction"] == sample["video"] for sample in found.samples]
    assert found.metrics["text_to_video_r1"] == sum(right) / 9
    ranks = [-sample["score"] for sample in found.samples]
    assert found.metrics["text_to_video_mean_rank"] == pytest.approx(sum(ranks) / 9) and 1 == min(ranks) < max(ranks)
    assert found.metrics["gallery"] == 9 and "dual_softmax_text_to_video_r1" in found.metrics
    assert "dual_softmax_text_to_video_r1" not in examine("retrieval", models["retrieval"], rows).metrics


def test_a_video_of_several_captions_gets_one_that_is_compared_with_all(clips, models):
    rows = captioned(clips).to_list()[:5]
    rows += [rows[0] | {"caption": "something else"}]
    found = examine("captioning", models["captioning"], clips.from_list(rows))
    assert [sample["row"] for sample in found.samples] == [0, 1, 2, 3, 4]
    assert found.samples[0]["truth"] == f"{rows[0]['caption']} | something else"
    assert found.metrics["exact"] == sum(sample["right"] for sample in found.samples) / 5
    assert found.notes["left out"] == "METEOR: it needs Java"
    assert all(len(sample["prediction"].split()) > 3 for sample in found.samples)


@pytest.mark.proof
def test_two_processes_find_what_one_does_whatever_the_remainder(clips, models, tmp_path):
    """Rows by twos, threes and single ones: no row is counted twice, none is lost, and one process may have none."""
    parts, counts_of = {}, {"open-ended": (13, 1), "retrieval": (9, 1), "captioning": (7, 2)}
    counts_of |= {"multiple-choice": (8,), "fill-in-the-blank": (7,), "classification": (7,)}
    for task, counts in counts_of.items():
        for count in counts:
            rows = (captioned if task == "captioning" else TASKS[task].rows)(clips).to_list()[:count]
            if task in ("retrieval", "captioning") and count > 2:
                rows += [row | {"caption": f"two shapes, {row['caption']}"} for row in rows[::2]]
            if task == "retrieval":
                rows = with_some_wrong(rows, clips).to_list()
            parts[f"{task} of {count}"] = {"task": task, "rows": rows}
    plan = {"parts": parts, "models": models, "output": str(tmp_path / "output")}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "examine.py").write_text(EXAMINE)
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ran = subprocess.run(
        [sys.executable, *two, tmp_path / "examine.py", tmp_path / "plan.json", tmp_path / "found.json"],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert ran.returncode == 0, ran.stderr[-5000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.keys() == parts.keys()
    for name, part in parts.items():
        expected = examine(part["task"], models[part["task"]], clips.from_list(part["rows"]), dual_softmax=True)
        other = found[name]
        assert other["processes"] == 2 and other["failed"] == 0
        assert other["metrics"] == pytest.approx(expected.metrics, abs=1e-4), name
        intervals = {key: list(interval) for key, interval in expected.intervals().items()}
        assert other["intervals"].keys() == intervals.keys()
        for key, interval in intervals.items():
            assert other["intervals"][key] == pytest.approx(interval, abs=1e-4), (name, key)
        assert len(other["samples"]) == len(expected.samples) > 0
        for one, sample in zip(other["samples"], expected.samples, strict=True):
            assert one.keys() == sample.keys()
            assert {k: v for k, v in one.items() if isinstance(v, str)} == {
                k: v for k, v in sample.items() if isinstance(v, str)
            }
            assert one["row"] == sample["row"] and one["score"] == pytest.approx(sample["score"], abs=1e-4)

"""Samples that cannot be read, in real runs: raised by row, or left out, counted and the same after a resume."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from transformers import AutoProcessor

from violet import QuestionCollator, VioletForQuestionAnswering, VioletTrainer, named_configuration
from violet.core.weights import pretrained
from violet.data.loading import ClipReader
from violet.evaluation.answers import AnswerAccuracy, choose_answers
from violet.modeling_violet.encoders import find_encoder
from violet.modeling_violet.losses import IGNORE_INDEX
from violet.processing import VideoDecodeError
from violet.training import TASKS, DataArguments, FinetuningArguments, ModelArguments, finetune, last_whole_checkpoint
from violet.training.masking import Masking
from violet.training.mixture import MixtureSchedule
from violet.training.pretraining_data import CaptionedVideos, PretrainingBatches, PretrainingCollator
from violet.training.sampling import DrawnRows, NumberedRows


@pytest.fixture(scope="module")
def processor(model_folder):
    return AutoProcessor.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def broken(tmp_path_factory, questions):
    """Rows of which every third video cannot be read: truncated, text, empty, in turn."""
    folder = tmp_path_factory.mktemp("broken")
    rows, videos = [], list(dict.fromkeys(questions["train"]["video"]))
    for number, video in enumerate(videos):
        copy = folder / Path(video).name
        content = Path(video).read_bytes()
        if number % 3 == 1:
            content = (content[: len(content) // 2], b"no video\n" * 40, b"")[number // 3 % 3]
        copy.write_bytes(content)
    bad = {str(folder / Path(video).name) for number, video in enumerate(videos) if number % 3 == 1}
    for row in questions["train"].to_list():
        rows.append({**row, "video": str(folder / Path(row["video"]).name)})
    assert 0 < len(bad) < len(videos) / 2
    return rows, bad


def drawn(rows, numbers, epoch=0):
    table = DrawnRows(rows, seed=1)
    return [table[epoch, number] for number in numbers]


def test_a_bad_sample_is_raised_with_its_row_and_its_reason(processor, broken):
    rows, bad = broken
    number = next(number for number, row in enumerate(rows) if row["video"] in bad)
    with pytest.raises(VideoDecodeError, match=rf"{rows[number]['video']} \(row {number}\): the file is truncated"):
        QuestionCollator(processor)(drawn(rows, [0, number]))


def test_in_training_the_rows_of_a_bad_video_are_left_out_and_the_others_stay_as_they_are(processor, broken):
    rows, bad = broken
    collator = QuestionCollator(
        processor, {row["answer"]: i for i, row in enumerate(rows)}, captions=True, skip_bad=True
    )
    numbers = list(range(20))
    batch = collator(drawn(rows, numbers))
    kept = [number for number in numbers if rows[number]["video"] not in bad]
    assert 0 < len(kept) < 20
    expected = QuestionCollator(processor, collator.label2id, captions=True)(drawn(rows, kept))
    failed = batch.pop("failed")
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], value) for name, value in expected.items())
    assert [sample.row for sample in failed] == [number for number in numbers if number not in kept]
    assert {sample.video for sample in failed} <= bad and all(sample.video in sample.reason for sample in failed)


def test_a_batch_that_loses_all_its_rows_takes_the_next_row_that_can_be_read(processor, broken):
    rows, bad = broken
    lost = [number for number, row in enumerate(rows) if row["video"] in bad]
    video = rows[lost[0]]["video"]
    lost = [number for number in lost if rows[number]["video"] == video]
    collator = QuestionCollator(processor, skip_bad=True, name_videos=True)
    collator.spare_rows = NumberedRows(rows)
    batch = collator(drawn(rows, lost))
    following = next(row for row in rows[lost[-1] :] if row["video"] not in bad)
    assert batch["videos"] == [following["video"]] and batch["input_ids"].shape[0] == 1
    assert torch.equal(batch["input_ids"], processor(text=[following["question"]])["input_ids"])
    assert [sample.row for sample in batch["failed"]] == lost
    collator.spare_rows = NumberedRows([rows[number] for number in lost])
    with pytest.raises(VideoDecodeError, match="none of the rows of its batch"):
        collator(drawn(rows, lost))


def test_in_evaluation_every_row_keeps_its_place_and_bad_ones_have_no_part(processor, broken, model_folder, tmp_path):
    rows, bad = broken
    model = VioletForQuestionAnswering.from_pretrained(model_folder)
    read = [row for row in rows if row["video"] not in bad]
    types = [row["question_type"] for row in rows]
    found = {}
    for name, table in (("all", rows), ("read", read)):
        trainer = VioletTrainer(
            model=model,
            args=FinetuningArguments(output_dir=str(tmp_path / name), per_device_eval_batch_size=7, report_to="none"),
            eval_dataset=Dataset.from_list(table),
            data_collator=QuestionCollator(processor, model.config.label2id, skip_bad=True),
            compute_metrics=AnswerAccuracy([row["question_type"] for row in table]),
            preprocess_logits_for_metrics=choose_answers,
        )
        output = trainer.predict(trainer.eval_dataset)
        found[name] = output
    assert len(found["all"].predictions) == len(types) == len(rows)
    place = [number for number, row in enumerate(rows) if row["video"] not in bad]
    assert (found["all"].predictions[place] == found["read"].predictions).all()
    assert (found["all"].label_ids[place] == found["read"].label_ids).all()
    names = [name for name in found["read"].metrics if "accuracy" in name]
    assert len(names) > 1
    assert [found["all"].metrics[name] for name in names] == [found["read"].metrics[name] for name in names]
    lines = [json.loads(line) for line in (tmp_path / "all/failed_samples.jsonl").read_text().splitlines()]
    assert {line["row"] for line in lines} == set(range(len(rows))) - set(place)
    assert {line["rows"] for line in lines} == {"evaluation"} and not (tmp_path / "read/failed_samples.jsonl").exists()


def test_the_scores_of_several_test_clips_are_averaged(processor, questions, model_folder, tmp_path):
    model = VioletForQuestionAnswering.from_pretrained(model_folder).eval()
    rows = questions["test"].select(range(6))

    def logits(test_clips):
        trainer = VioletTrainer(
            model=model,
            args=FinetuningArguments(output_dir=str(tmp_path), per_device_eval_batch_size=4, report_to="none"),
            data_collator=QuestionCollator(processor, model.config.label2id, test_clips=test_clips),
        )
        output = trainer.predict(rows)
        assert len(output.label_ids) == 6
        return torch.from_numpy(output.predictions)

    reader = ClipReader(processor.video_processor)
    expected = []
    for row in rows:
        clips = [reader.read(row["video"], test_clip=(number, 3)).frames for number in range(3)]
        inputs = processor(videos=clips, do_sample_frames=False, text=[row["question"]] * 3)
        with torch.no_grad():
            expected.append(model(**inputs).logits.mean(0))
    torch.testing.assert_close(logits(3), torch.stack(expected), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(logits(3), logits(1), atol=1e-4)


def test_a_run_counts_what_it_skips_and_goes_on_to_the_same_weights(broken, model_folder, tmp_path, caplog):
    rows, bad = broken
    table = tmp_path / "train.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    model = ModelArguments(model=str(model_folder), frame_sampling="jitter", fit="random_crop")

    def run(output: Path, bad_samples: str = "skip"):
        training = FinetuningArguments(
            output_dir=str(output), max_steps=4, save_steps=2, per_device_train_batch_size=6, seed=3,
            dataloader_num_workers=1, report_to="none", disable_tqdm=True, learning_rate=1e-3, save_total_limit=3,
        )  # fmt: skip
        data = DataArguments(train_file=str(table), test_file=str(table), bad_samples=bad_samples, max_bad_share=1.0)
        return finetune(model, data, training)

    with pytest.raises(VideoDecodeError, match=r"Cannot decode .*\.mp4 \(row \d+\): "):
        run(tmp_path / "raised", "raise")
    whole = run(tmp_path / "whole")
    metrics = json.loads((tmp_path / "whole/metrics.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "whole/failed_samples.jsonl").read_text().splitlines()]
    of_bad = {number for number, row in enumerate(rows) if row["video"] in bad}
    assert {line["row"] for line in lines if line["rows"] == "evaluation"} == of_bad
    assert 0 < len([line for line in lines if line["rows"] == "train"]) <= len(of_bad)
    assert metrics["samples_failed"] == len(lines) and 0 <= metrics["accuracy"] <= 1
    assert f"{len(lines)} samples could not be read" in caplog.text and lines[0]["video"] in caplog.text

    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(tmp_path / "whole/run.json", again)
    shutil.copytree(tmp_path / "whole/checkpoint-2", again / "checkpoint-2")
    assert last_whole_checkpoint(again).endswith("checkpoint-2")
    resumed = run(again)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("task", ["retrieval", "captioning"])
def test_videos_that_cannot_be_read_are_left_out_of_search_and_of_captions(task, broken, tmp_path):
    rows, bad = broken
    table = Dataset.from_list(rows)
    torch.manual_seed(0)  # of the head that is not in the weights
    model = TASKS[task].model_class.from_pretrained(pretrained("violet-tiny"))
    settings = FinetuningArguments(output_dir=str(tmp_path), report_to="none", per_device_eval_batch_size=5)
    data = DataArguments(task=task, bad_samples="skip")
    own = AutoProcessor.from_pretrained(pretrained("violet-tiny"))
    readable = table.filter(lambda row: row["video"] not in bad)
    found = TASKS[task].evaluate(model, own, table, data, settings)
    expected = TASKS[task].evaluate(model, own, readable, data, settings)
    assert found == pytest.approx(expected) and len(found) > 1
    assert {json.loads(line)["video"] for line in (tmp_path / "failed_samples.jsonl").read_text().splitlines()} == bad


# --- pre-training ---


@pytest.fixture
def batches(processor, broken):
    rows, _ = broken
    captioned = list({row["video"]: row for row in rows}.values())
    table = Dataset.from_list(
        [{"id": Path(r["video"]).stem, "video": r["video"], "caption": r["caption"]} for r in captioned]
    )

    def build(table=table, skip_bad=True, batch_size=8, **collating):
        source = CaptionedVideos("shapes", table, 4, 1.0)
        schedule = MixtureSchedule([1.0], [(4, 64, 64)], [(1.0, 0, {"vtm": 1.0, "mlm": 1.0})], 0)
        encoder = find_encoder(named_configuration("violet-tiny").vision_config)
        collator = PretrainingCollator(
            processor, Masking({"random": 1.0}, 0.4, 0.3), encoder, group_size=4, skip_bad=skip_bad, **collating
        )
        return PretrainingBatches([source], schedule, collator, batch_size, seed=2)

    return build


def test_pretraining_leaves_out_bad_rows_and_changes_no_other(batches, broken, monkeypatch):
    """The same batches are made with every video readable: what is left of them must be what it was."""
    _, bad = broken
    names = {Path(video).stem for video in bad}
    skipping = batches()
    whole = batches()
    read = whole.collator.reader.read
    good = next(row["video"] for row in whole.sources[0].rows if row["video"] not in bad)
    monkeypatch.setattr(
        whole.collator.reader,
        "read",
        lambda video, *rest, **more: read(good if video in bad else video, *rest, **more),
    )
    for step in range(3):
        batch, expected = skipping[step], whole[step]
        kept = [place for place, name in enumerate(expected["ids"]) if name not in names]
        assert 0 < len(kept) < 8 and batch["ids"] == [expected["ids"][place] for place in kept]
        for name in ("pixel_values_videos", "bool_masked_pos"):
            assert torch.equal(batch[name], expected[name][kept]), name
        for name in ("input_ids", "labels", "attention_mask"):
            fill = IGNORE_INDEX if name == "labels" else 0
            width = expected[name].shape[1] - batch[name].shape[1]
            assert torch.equal(torch.nn.functional.pad(batch[name], (0, width), value=fill), expected[name][kept]), (
                name
            )
        for row, negatives in enumerate(batch["negative_index"].tolist()):
            partners = [kept[other] for other in negatives if other >= 0]
            before = [other for other in expected["negative_index"][kept[row]].tolist() if other in kept]
            assert partners == before
        assert {Path(sample.video).stem for sample in batch["failed"]} == set(expected["ids"]) & names


def test_a_pretraining_batch_without_a_readable_row_takes_the_next_one(batches, broken):
    _, bad = broken
    rows = batches().sources[0].rows
    lost = rows.filter(lambda row: row["video"] in bad)
    good = rows.filter(lambda row: row["video"] not in bad).select([0])
    table = concatenate_datasets([lost, good])
    data = batches(table, batch_size=4)
    found = [data[step] for step in range(4)]
    assert all(batch["ids"] == good["id"] for batch in found if len(batch.get("failed", [])) == 4)
    assert sum(len(batch.get("failed", [])) == 4 for batch in found) >= 1
    with pytest.raises(VideoDecodeError, match="none of the rows of its batch"):
        batches(lost, batch_size=4)[0]

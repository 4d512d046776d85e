"""Fine-tuning for each task: rows of tables, batches, learning rates, whole runs."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict
from transformers import AutoProcessor

from violet.cli import main
from violet.core.catalogue import tasks_of
from violet.core.weights import pretrained
from violet.data import TableError, captioned, fill_in_the_blank, gallery, moving_shapes, multiple_choice, read_rows
from violet.modeling_violet import VioletForCaptioning, VioletForMaskedLM, VioletForVideoClassification
from violet.processing import VideoTextProcessor, VioletVideoProcessor, train_wordpiece_tokenizer
from violet.training import TASKS, DataArguments, FinetuningArguments, ModelArguments, SettingsError, finetune
from violet.training.finetuning import build_model_and_processor
from violet.training.optimization import parameter_groups
from violet.training.sampling import DrawnRows
from violet.training.tasks.task_captioning import CaptionCollator
from violet.training.tasks.task_classification import ClassificationCollator
from violet.training.tasks.task_fill_in_the_blank import BlankCollator
from violet.training.tasks.task_masked_answer import MaskedAnswerCollator
from violet.training.tasks.task_multiple_choice import MultipleChoiceCollator
from violet.training.tasks.task_retrieval import RetrievalCollator

CLIPS = {"train": 24, "validation": 4, "test": 8, "test_unseen": 0, "test_together": 0}


@pytest.fixture(scope="module")
def clips(shapes_folder):
    return moving_shapes(shapes_folder, **CLIPS)


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(pretrained("violet-tiny"))


@pytest.fixture
def video(clips, tmp_path) -> str:
    """A clip beside the tables that name it."""
    (tmp_path / "clip.mp4").write_bytes(Path(clips["train"][0]["video"]).read_bytes())
    return "clip.mp4"


def rows_of(table: Path, task: str):
    return read_rows(table, TASKS[task].columns, check=TASKS[task].check)


# --- tables ---


def test_options_may_be_a_list_or_divided_by_bars_and_the_answer_one_of_them_or_its_number(video, tmp_path):
    table = tmp_path / "a.csv"
    table.write_text(f"video,question,options,answer\n{video},where?,left|right|up,right\n{video},where?,left|up,0\n")
    rows = rows_of(table, "multiple-choice").to_list()
    assert [(row["options"], row["answer"]) for row in rows] == [(["left", "right", "up"], 1), (["left", "up"], 0)]
    table = tmp_path / "a.jsonl"
    table.write_text(json.dumps({"video": video, "question": "?", "options": ["a", "b"], "answer": "b"}))
    assert rows_of(table, "multiple-choice")[0]["answer"] == 1


@pytest.mark.parametrize(
    ("task", "row", "complaint"),
    [
        ("multiple-choice", {"question": "?", "options": ["a"], "answer": 0}, r"row 1: column 'options' needs two"),
        ("multiple-choice", {"question": "?", "options": ["a", "b"], "answer": "c"}, r"row 1: column 'answer' is 'c'"),
        ("multiple-choice", {"question": "?", "options": ["a", "b"], "answer": 2}, r"row 1: column 'answer' is '2'"),
        ("multiple-choice", {"question": "?", "answer": 2}, r"row 1: column 'options' is missing"),
        ("fill-in-the-blank", {"text": "it moves", "answer": "left"}, r"row 1: column 'text' has 0 \[MASK\] for 1 "),
        ("fill-in-the-blank", {"text": "[MASK] [MASK]", "answer": ["a"]}, r"row 1: column 'text' has 2 \[MASK\] for"),
        ("masked-answer", {"question": "[MASK] [MASK]", "answer": "a"}, r"row 1: column 'question' has 2 \[MASK\]s"),
        ("masked-answer", {"question": "?", "options": ["a", "b"], "answer": 2}, r"row 1: column 'answer' is '2'"),
        ("captioning", {"text": "a disc"}, r"row 1: column 'caption' is missing"),
        ("classification", {"label": "run||jump"}, r"row 1: column 'label' is 'run\|\|jump': a label is empty"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(video, tmp_path, task, row, complaint):
    table = tmp_path / "a.jsonl"
    table.write_text(json.dumps({"video": video, **row}))
    with pytest.raises(TableError, match=complaint):
        rows_of(table, task)


# --- the built-in rows ---


def test_the_built_in_rows_have_the_columns_of_their_task(clips):
    for name, task in TASKS.items():
        rows = task.rows(clips["test"])
        assert set(task.columns) <= set(rows.column_names), name
        shown = [clip for clip in clips["test"] if name != "classification" or len(clip["shapes"]) == 1]
        assert set(rows["video"]) == {clip["video"] for clip in shown}, name


def test_a_gallery_has_no_caption_twice_and_pairs_that_differ_in_motion_alone(shapes_folder):
    clips = moving_shapes(shapes_folder.parent / "many", **{**CLIPS, "train": 0, "validation": 0, "test": 300})["test"]
    chosen = gallery(clips, 60)
    assert len(chosen) == len(set(chosen["caption"])) == len(set(chosen["video"])) == 60
    looks = {}
    for clip in clips.filter(lambda clip: clip["id"] in set(chosen["id"])):
        if len(clip["shapes"]) == 1:
            (shape,) = clip["shapes"]
            look = shape["colour"], shape["shape"], shape["size"]
            looks.setdefault(look, set()).add((shape["action"], shape["direction"]))
    assert sum(len(motions) > 1 for motions in looks.values()) >= 10


# --- batches ---


def test_options_stand_behind_their_question_and_missing_ones_are_padding(processor, clips):
    rows = multiple_choice(clips["train"]).to_list()[:3]
    rows[1] = {**rows[1], "options": rows[1]["options"][:2], "answer": 1}
    batch = MultipleChoiceCollator(processor)(rows)
    assert batch["input_ids"].shape[:2] == (3, 4) and batch["labels"].tolist() == [row["answer"] for row in rows]
    said = processor.tokenizer.batch_decode(batch["input_ids"][0], skip_special_tokens=True)
    assert [text.replace(" ?", "?") for text in said] == [f"{rows[0]['question']} {one}" for one in rows[0]["options"]]
    assert batch["attention_mask"][1, :2].any(-1).all() and not batch["attention_mask"][1, 2:].any()


def test_every_blank_has_a_mask_for_each_token_of_its_answer(processor, clips):
    video = clips["train"][0]["video"]
    rows = [
        {"video": video, "text": "a [MASK] moves [MASK]", "answer": ["red disc", "left"]},
        {"video": video, "text": "it is [MASK]", "answer": "blue"},
        {"video": video, "text": "it is [MASK]", "answer": "\N{SNOWMAN}"},
    ]
    batch = BlankCollator(processor)(rows)
    tokenizer = processor.tokenizer
    masks = batch["input_ids"] == tokenizer.mask_token_id
    assert masks.sum(1).tolist() == [3, 1, 1]
    assert tokenizer.decode(batch["labels"][0][masks[0]]) == "red disc left"
    assert tokenizer.decode(batch["labels"][1][masks[1]]) == "blue"
    assert (batch["labels"][2] == -100).all(), "a word that the vocabulary lacks"
    assert (batch["labels"][:2][~masks[:2]] == -100).all()
    with pytest.raises(ValueError, match="cut after 32 tokens"):
        BlankCollator(processor)([{"video": video, "text": "a disc " * 20 + "[MASK]", "answer": "left"}])


def test_a_masked_answer_is_one_token_and_a_long_question_keeps_its_mask(processor, clips):
    video = clips["train"][0]["video"]
    long = "what does " + "the disc " * 40 + "do?"
    rows = [
        {"video": video, "question": "what colour is it?", "answer": "blue"},
        {"video": video, "question": "what is it?", "answer": "red disc"},
        {"video": video, "question": "what is it?", "answer": "\N{SNOWMAN}"},
        {"video": video, "question": long, "answer": "moves"},
        {"video": video, "question": "it [MASK] up" + " and up" * 40, "answer": "moves"},
    ]
    batch, tokenizer = MaskedAnswerCollator(processor)(rows), processor.tokenizer
    masks = batch["input_ids"] == tokenizer.mask_token_id
    assert masks.sum(1).tolist() == [1] * 5 and batch["input_ids"].shape[1] == processor.max_length == 32
    assert (batch["labels"][~masks] == -100).all()
    labels = batch["labels"][masks].tolist()
    assert tokenizer.convert_ids_to_tokens([labels[0], *labels[3:]]) == ["blue", "moves", "moves"]
    assert labels[1:3] == [-100, -100], "several tokens, or none, are never right"
    assert batch["attention_mask"].sum(1).tolist()[3:] == [32, 32]
    for ids in batch["input_ids"][3:]:
        assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    assert masks[3].nonzero().item() == 30 and masks[4].nonzero().item() == 2


def test_a_masked_answer_among_options_is_their_number(clips):
    rows = multiple_choice(clips["train"]).to_list()[:3]
    words = [f"{row['question']} {' '.join(row['options'])} option : 0 1 2 3" for row in rows]
    processor = VideoTextProcessor(train_wordpiece_tokenizer(words), VioletVideoProcessor(), max_length=64)
    batch, tokenizer = MaskedAnswerCollator(processor)(rows), processor.tokenizer
    labels = batch["labels"][batch["input_ids"] == tokenizer.mask_token_id]
    assert tokenizer.convert_ids_to_tokens(labels) == [str(row["answer"]) for row in rows]
    said = tokenizer.decode(batch["input_ids"][0], skip_special_tokens=False)
    assert f"option 1 : {rows[0]['options'][1]} [SEP]" in said


def test_each_text_is_labelled_with_its_video(processor, clips):
    rows = captioned(clips["train"]).to_list()[:3]
    batch = RetrievalCollator(processor)([rows[0], rows[1], rows[0], rows[2]])
    assert batch["labels"].tolist() == [0, 1, 0, 2]
    assert len(batch["pixel_values_videos"]) == 3 and len(batch["input_ids"]) == 4


def test_masked_words_follow_the_draw_and_the_end_may_be_among_them(processor, clips):
    row = captioned(clips["train"])[0]
    collator = CaptionCollator(processor, word_ratio=0.5)
    plain = processor(text=row["caption"])["input_ids"][0]
    masked = []
    for draw in range(30):
        (ids,), (labels,) = (collator([{**row, "draw": draw}])[name] for name in ("input_ids", "labels"))
        places = labels != -100
        assert torch.equal(torch.where(places, labels, ids), plain)
        assert (ids[places] == processor.tokenizer.mask_token_id).all()
        assert places.sum() == round(0.5 * (len(plain) - 1)) and not places[0]
        masked.append(tuple(places.tolist()))
    assert len(set(masked)) > 5 and any(places[-1] for places in masked)
    (again,) = collator([{**row, "draw": 29}])["labels"] != -100
    assert tuple(again.tolist()) == masked[-1]


def test_next_words_are_all_words_and_no_padding(processor, clips):
    rows = captioned(clips["train"]).to_list()[:6]
    batch = CaptionCollator(processor, next_word=True)(rows)
    assert not batch["attention_mask"].all(), "some are padded"
    assert torch.equal(batch["labels"], batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100))


def test_rows_draw_by_seed_epoch_and_number():
    rows = [{"video": str(number)} for number in range(50)]
    draws = {(s, e, n): DrawnRows(rows, s)[e, n]["draw"] for s in range(2) for e in range(3) for n in range(50)}
    assert len(set(draws.values())) == len(draws)
    assert DrawnRows(rows, 1)[2, 7] == DrawnRows(rows, 1)[2, 7]
    assert DrawnRows(rows, 1)[2, 7].items() > {"video": "7", "row": 7, "draw": draws[1, 2, 7]}.items()


def test_the_rows_of_a_video_draw_its_frames_alike_and_anew_in_each_epoch():
    rows = [{"video": str(number // 2)} for number in range(20)]
    draws = [[DrawnRows(rows, 1)[epoch, number]["video_draw"] for number in range(20)] for epoch in range(3)]
    assert all(of_epoch[::2] == of_epoch[1::2] for of_epoch in draws)
    assert len({draw for of_epoch in draws for draw in of_epoch}) == 30
    moved = [{"video": "9"}, *rows]
    assert DrawnRows(moved, 1)[0, 0]["video_draw"] == draws[0][19], "wherever the row stands"


def test_labels_are_written_as_one_several_or_a_list(video, tmp_path):
    table = tmp_path / "a.csv"
    table.write_text(f"video,label\n{video},moves left\n{video},run | jump|run\n{video},7\n")
    assert rows_of(table, "classification")["label"] == [["moves left"], ["run", "jump"], ["7"]]
    table = tmp_path / "a.jsonl"
    table.write_text(json.dumps({"video": video, "label": ["a", "b"]}))
    assert rows_of(table, "classification")[0]["label"] == ["a", "b"]


def test_labels_are_numbers_of_known_ones(processor, clips):
    videos = [clip["video"] for clip in clips["train"]][:2]
    rows = [
        {"video": video, "label": label}
        for video, label in zip(videos * 2, (["a"], ["b", "c"], ["d"], ["a", "d"]), strict=True)
    ]
    known = {"c": 0, "a": 1, "b": 2}
    batch = ClassificationCollator(processor, known, several=True)(rows)
    assert batch["labels"].tolist() == [[0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert batch["video_index"].tolist() == [0, 1, 0, 1] and len(batch["pixel_values_videos"]) == 2
    assert ClassificationCollator(processor, known)(rows)["labels"].tolist() == [1, 2, -100, 1]


# --- learning rates ---


def test_the_backbone_and_lower_layers_have_rates_of_their_own():
    model = VioletForMaskedLM.from_pretrained(pretrained("violet-tiny"))
    groups = parameter_groups(model, 0.1, learning_rate=1.0, backbone_learning_rate=0.5, layer_decay=0.9)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert set(rates) == {id(parameter) for parameter in model.parameters()}

    def rate(name):
        return rates[id(model.get_parameter(name))]

    assert rate("mlm_head.dense.weight") == rate("violet.fusion.norm.weight") == 1.0
    assert rate("violet.fusion.layers.2.output.bias") == pytest.approx(0.9)
    assert rate("violet.fusion.layers.0.attention.query.weight") == pytest.approx(0.9**3)
    assert rate("violet.text_embeddings.word_embeddings.weight") == pytest.approx(0.9**4)
    assert rate("violet.video_encoder.frame_token") == pytest.approx(0.9**4)
    swin = model.violet.video_encoder.swin
    depths = [rates[id(stage.blocks[0].attn.qkv.weight)] for stage in swin.stages]
    assert depths == sorted(depths) and depths[-1] == pytest.approx(0.5 * 0.9**4)
    assert rates[id(swin.patch_embed.proj.weight)] == min(rates.values())
    table = next(p for name, p in model.named_parameters() if name.endswith("relative_position_bias_table"))
    assert decays[id(table)] == 0.0 and decays[id(swin.patch_embed.proj.weight)] == 0.1


def test_the_temperature_has_a_rate_of_its_own():
    model = VioletForMaskedLM.from_pretrained(pretrained("violet-tiny"))
    groups = parameter_groups(model, 0.1, learning_rate=1.0, layer_decay=0.9, logit_scale_learning_rate=10.0)
    (own,) = [group for group in groups if group["lr"] == 10.0]
    assert [id(one) for one in own["params"]] == [id(model.violet.projection.logit_scale)]
    assert own["weight_decay"] == 0.0


# --- whole runs ---


def table_of(task: str, clips, file: Path) -> Path:
    file.write_text("\n".join(json.dumps(row) for row in TASKS[task].rows(clips)))
    return file


@pytest.mark.slow
@pytest.mark.parametrize("task", list(TASKS))
def test_every_task_runs_from_the_shipped_weights_to_a_model_with_its_card(task, clips, tmp_path, capsys):
    table, output = table_of(task, clips["train"], tmp_path / "train.jsonl"), tmp_path / "run"
    status = main(
        [
            *("finetune", f"--task={task}", f"--train_file={table}", f"--test_file={table}"),
            *(f"--output_dir={output}", "--max_steps=2", "--per_device_train_batch_size=8", "--seed=1"),
            *("--label_smoothing_factor=0.1", "--layer_decay=0.8", "--dataloader_num_workers=0"),
        ]
    )
    said = capsys.readouterr()
    assert status == 0, said
    metrics = json.loads((output / "metrics.json").read_text())
    wanted = {"retrieval": "text_to_video_r1", "captioning": "exact"}.get(task, "accuracy")
    assert 0 <= metrics[wanted] <= 1 and metrics["settings"]["task"] == task
    model, report = TASKS[task].model_class.from_pretrained(output, output_loading_info=True)
    assert not any(report.values()) and model.config.label_smoothing == 0.1
    assert model.config.mask_token_id == AutoProcessor.from_pretrained(output).tokenizer.mask_token_id
    card = (output / "README.md").read_text()
    assert next(iter(tasks_of(TASKS[task].model_class.__name__))) in card and wanted in card
    command = shlex.split(said.out.splitlines()[-1])
    assert command[:2] == ["violet", "predict"]
    assert main(command[1:]) == 0
    assert capsys.readouterr().out.strip(), "what a run names at its end works when pasted"


@pytest.mark.slow
def test_videos_of_several_labels_are_learned_measured_and_asked(clips, tmp_path, capsys):
    rows = TASKS["classification"].rows(clips["train"]).to_list()
    table, output = tmp_path / "train.jsonl", tmp_path / "run"
    table.write_text("\n".join(json.dumps({**row, "label": row["label"][0].split()}) for row in rows))
    options = ["--max_steps=2", "--per_device_train_batch_size=4", "--dataloader_num_workers=0", "--test_clips=2"]
    options += [f"--train_file={table}", f"--validation_file={table}", "--eval_strategy=steps", "--eval_steps=2"]
    assert main(["finetune", "--task=classification", f"--output_dir={output}", *options]) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    shipped = VioletForMaskedLM.from_pretrained(pretrained("violet-tiny")).violet
    words_before = shipped.text_embeddings.word_embeddings.weight
    assert 0 < metrics["validation_mean_average_precision"] <= 1 and "validation_accuracy" not in metrics
    model = VioletForVideoClassification.from_pretrained(output)
    assert model.config.problem_type == "multi_label_classification"
    assert torch.equal(model.violet.text_embeddings.word_embeddings.weight, words_before), "no text is read"
    assert not torch.equal(model.violet.video_encoder.frame_token, shipped.video_encoder.frame_token)
    words = sorted({word for row in rows for word in row["label"][0].split()})
    assert list(model.config.id2label.values()) == words and len(words) > 3
    capsys.readouterr()
    assert main(["predict", "--model", str(output), "--video", rows[0]["video"], "--json", "--top_k=3"]) == 0
    said = json.loads(capsys.readouterr().out)["classes"]
    assert len(said) == 3 and {one["label"] for one in said} <= set(words)


@pytest.mark.slow
def test_the_same_labels_keep_their_head_and_others_start_a_new_one(clips, tmp_path):
    rows = TASKS["classification"].rows(clips["train"])
    first, processor = build_model_and_processor(ModelArguments(), rows, DataArguments(task="classification"), None)
    head = first.classifier[3].weight.detach().clone()
    first.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = ModelArguments(model=str(tmp_path))
    same, _ = build_model_and_processor(again, rows, DataArguments(task="classification"), None)
    assert torch.equal(same.classifier[3].weight, head)
    other = rows.map(lambda row: {"label": [f"{row['label'][0]} now"]})
    new, _ = build_model_and_processor(again, other, DataArguments(task="classification"), None)
    assert new.classifier[3].weight.shape == head.shape and not torch.equal(new.classifier[3].weight, head)


@pytest.mark.slow
def test_a_task_from_outside_is_trained_and_measured(clips, tmp_path, monkeypatch):
    """How many shapes there are: rows of its own, on the model and the measure of open-ended questions."""

    def counted(dataset):
        rows = [
            {"video": clip["video"], "question": "what is it?", "answer": str(len(clip["shapes"]))} for clip in dataset
        ]
        return dataset.from_list(rows)

    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    TASKS.add("counting", dataclasses.replace(TASKS["open-ended"], rows=counted, test_rows=counted))
    training = FinetuningArguments(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, dataloader_num_workers=0
    )
    tables = DatasetDict({"train": counted(clips["train"]), "test": counted(clips["test"])})
    result = finetune(ModelArguments(), DataArguments(task="counting"), training, tables)
    assert set(result.model.config.id2label.values()) == set(tables["train"]["answer"]) and len(result.metrics) > 2
    assert 0 <= result.metrics["accuracy"] <= 1
    with pytest.raises(SettingsError, match="--task: 'counted' is unknown; known are open-ended, .*counting"):
        DataArguments(task="counted")


@pytest.mark.slow
def test_next_word_prediction_is_kept_with_the_model(clips, tmp_path):
    table, output = table_of("captioning", clips["train"], tmp_path / "train.jsonl"), tmp_path / "run"
    options = ["--next_word_prediction=true", "--max_steps=1", "--per_device_train_batch_size=4"]
    assert main(["finetune", "--task=captioning", f"--train_file={table}", f"--output_dir={output}", *options]) == 0
    assert VioletForCaptioning.from_pretrained(output).config.next_word_prediction


@pytest.mark.slow
def test_a_run_that_gets_no_better_stops_early_and_keeps_its_best_checkpoint(clips, tmp_path):
    """At this learning rate each step makes it worse: the first checkpoint is the best, and the run stops after it."""
    table, output = table_of("captioning", clips["train"], tmp_path / "train.jsonl"), tmp_path / "run"
    options = ["--learning_rate=0.5", "--warmup_steps=0", "--lr_scheduler_type=constant", "--max_steps=50"]
    options += ["--save_steps=1", "--early_stopping_patience=2", "--save_total_limit=1", "--seed=2"]
    options += ["--per_device_train_batch_size=8", "--dataloader_num_workers=0", f"--validation_file={table}"]
    assert main(["finetune", "--task=captioning", f"--train_file={table}", f"--output_dir={output}", *options]) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["steps"] < 20
    states = [json.loads(file.read_text()) for file in output.glob("checkpoint-*/trainer_state.json")]
    last = max(states, key=lambda state: state["global_step"])
    losses = {line["step"]: line["eval_loss"] for line in last["log_history"] if "eval_loss" in line}
    best = min(losses, key=losses.__getitem__)
    assert last["best_model_checkpoint"].endswith(f"checkpoint-{best}")
    assert (output / f"checkpoint-{best}").exists(), "the best one is kept beside the last"


def test_early_stopping_needs_a_validation_table(clips, tmp_path, capsys):
    table = table_of("captioning", clips["train"], tmp_path / "train.jsonl")
    options = [f"--train_file={table}", f"--output_dir={tmp_path / 'run'}", "--early_stopping_patience=2"]
    assert main(["finetune", "--task=captioning", *options]) == 2
    assert "--validation_file: missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_sentences_of_blanks_come_from_the_clips(clips):
    rows = fill_in_the_blank(clips["train"])
    assert all(row["text"].count("[MASK]") == 1 for row in rows) and len(set(rows["question_type"])) > 3

"""Fine-tuning a language model that sees videos among its words, from scratch and from public parts."""

import json

import pytest
import torch
from datasets import DatasetDict
from language_models import WORDS, save_language_model
from public_models import save_vision_model
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

from violet.cli import main
from violet.data import moving_shapes
from violet.modeling_violet import VioletForConditionalGeneration
from violet.training import DataArguments, FinetuningArguments, ModelArguments
from violet.training.arguments import SettingsError
from violet.training.finetuning import build_model_and_processor, finetune
from violet.training.runs import freeze
from violet.training.tasks import TASKS
from violet.training.tasks.chat_answers import ChatCollator

TINY = ModelArguments(model="language-model-tiny", from_scratch=True)


@pytest.fixture(scope="module")
def rows(shapes_folder):
    return moving_shapes(shapes_folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)


def settings(folder, steps=2, **changes):
    batches = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "dataloader_num_workers": 0}
    return FinetuningArguments(
        output_dir=str(folder), max_steps=steps, save_strategy="no", disable_tqdm=True, **{**batches, **changes}
    )


def tables(task, rows, count=4):
    return DatasetDict({split: TASKS[task].rows(rows[split]).select(range(count)) for split in ("train", "test")})


def batch_of(rows, task="open-ended"):
    torch.manual_seed(0)
    table = TASKS[task].rows(rows["train"])
    model, processor = build_model_and_processor(TINY, table, DataArguments(task=task), None)
    collator = TASKS[task].of(model.config).collate(processor, model, DataArguments(task=task), training=True)
    return model, processor, collator, [table[number] for number in (0, 1, 3)]


@pytest.mark.parametrize("task", ["open-ended", "captioning"])
def test_the_loss_is_on_the_answer_and_its_end_alone(rows, task):
    model, processor, collator, three = batch_of(rows, task)
    assert isinstance(collator, ChatCollator)
    batch = collator(three)
    tokenizer, places = processor.tokenizer, processor.places(4)
    for row, ids, mask, labels in zip(
        three, batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
    ):
        learned = ids[labels != -100]
        assert torch.equal(learned, labels[labels != -100])
        assert learned[-1] == tokenizer.eos_token_id and learned[-1] == ids[mask.bool()][-1]
        answer = row["answer"] if task == "open-ended" else row["caption"]
        assert tokenizer.decode(learned[:-1]) == answer
        asked = tokenizer.decode(ids[(labels == -100) & mask.bool()], skip_special_tokens=True)
        question = row["question"] if task == "open-ended" else "describe the video."
        assert " ".join(asked.split()).replace(" ?", "?").replace(" .", ".") == (
            f"user : {question} assistant :".replace(" ?", "?")
        )
        assert (ids == model.violet.fusion.video_token_id).sum() == places
    assert model(**batch).loss > 0


@pytest.mark.parametrize("task", ["open-ended", pytest.param("captioning", marks=pytest.mark.proof)])
def test_a_run_from_scratch_trains_measures_and_answers(rows, task, tmp_path, capsys):
    result = finetune(TINY, DataArguments(task=task), settings(tmp_path), tables(task, rows))
    assert type(result.model) is VioletForConditionalGeneration and result.task is TASKS[task].written
    assert "accuracy" in result.metrics if task == "open-ended" else "exact" in str(result.metrics)
    clip = str(rows["test"]["video"][0])
    answers = pipeline("video-text-to-text", model=str(tmp_path))(clip, "what moves?", max_new_tokens=4)
    assert isinstance(answers[0]["generated_text"], str)
    assert "video-text-to-text" in (tmp_path / "README.md").read_text()
    main(["predict", "--model", str(tmp_path), "--video", clip, "--question", "what moves?", "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.proof
def test_a_run_starts_from_a_picture_model_and_a_language_model_and_keeps_frozen_parts(rows, tmp_path):
    vision = save_vision_model("clip_vision_model", tmp_path / "clip")
    text = save_language_model("qwen2", tmp_path / "qwen2")
    arguments = ModelArguments(
        model=str(vision), text=str(text), num_frames=2, freeze_backbone=True, freeze="violet.text_embeddings"
    )
    result = finetune(
        arguments,
        DataArguments(task="captioning", allow_unknown_words=True),
        settings(tmp_path / "out", learning_rate=1e-2),
        tables("captioning", rows, 4),
    )
    own = AutoModelForCausalLM.from_pretrained(text).state_dict()
    model = VioletForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert all(torch.equal(own[name], one) for name, one in model.language_model.state_dict().items())
    assert AutoProcessor.from_pretrained(tmp_path / "out").tokenizer.convert_tokens_to_ids("<video>") == WORDS
    again = finetune(  # from a VIOLET's own weights
        ModelArguments(model=str(tmp_path / "out")),
        DataArguments(task="open-ended", allow_unknown_words=True),
        settings(tmp_path / "more", steps=1),
        tables("open-ended", rows, 4),
    )
    assert again.task is TASKS["open-ended"].written
    assert result.metrics["steps"] == 2


def test_modules_are_frozen_by_name(rows):
    model, *_ = batch_of(rows)
    freeze(model, ["violet.text_embeddings", "violet.video_encoder"], "--freeze")
    left = {name for name, one in model.named_parameters() if one.requires_grad}
    assert left == {
        f"violet.fusion.connector.{layer}.{kind}" for layer in ("first", "second") for kind in ("weight", "bias")
    }
    with pytest.raises(SettingsError, match="--freeze: no module is named 'violet.words'; there are .*violet.fusion"):
        freeze(model, ["violet.words"], "--freeze")


def test_tasks_that_do_not_write_are_refused(rows, tmp_path):
    said = {"multiple-choice": "'language_model' serves 'causal'", "retrieval": "`projection_dim` is None: set it"}
    for task, message in said.items():
        with pytest.raises(ValueError, match=message):
            finetune(TINY, DataArguments(task=task), settings(tmp_path / task), tables(task, rows, 4))

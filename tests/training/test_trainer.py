"""Training with the real Trainer, in processes that are killed with real signals."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from equal_logs import without_times
from own_process import OwnProcess
from safetensors.torch import load_file
from slow_clock import BETWEEN, COMPUTING, LOADING, SlowClock
from transformers import AutoProcessor, EarlyStoppingCallback, TrainerCallback

from violet import QuestionCollator, VioletForQuestionAnswering, VioletTrainer
from violet.cli import main
from violet.core.files import is_whole
from violet.training import CheckpointError, FinetuningArguments, RunStopped, SettingsError, last_whole_checkpoint

RECIPE = [
    "--max_steps=8", "--save_steps=2", "--per_device_train_batch_size=12", "--questions_per_video=2",
    "--learning_rate=1e-3", "--seed=5", "--dataloader_num_workers=1", "--save_total_limit=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory, questions) -> Path:
    """A user's own CSV, with paths relative to it."""
    folder = Path(questions["train"][0]["video"]).parent
    path = folder / "questions.csv"
    rows = questions["train"].to_list()
    lines = [f'{Path(row["video"]).name},"{row["question"]}",{row["answer"]},"{row["caption"]}"' for row in rows]
    path.write_text("\n".join(["video,question,answer,caption", *lines]))
    return path


def finetune(table: Path, output: Path, *more: str) -> list[str]:
    return ["finetune", f"--train_file={table}", f"--output_dir={output}", *RECIPE, *more]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, table) -> Path:
    output = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert main(finetune(table, output)) == 0
    return output


@pytest.mark.proof
def test_a_killed_run_goes_on_from_its_last_whole_checkpoint_to_the_same_weights(
    table, uninterrupted, tmp_path, caplog
):
    output = tmp_path / "killed"
    process = OwnProcess("-m", "violet.cli", *finetune(table, output))
    try:
        deadline = time.monotonic() + 120
        while not (output / "checkpoint-4" / "manifest.json").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
    assert not (output / "model.safetensors").exists(), "it was killed before it ended"
    # what a process killed while it wrote a checkpoint leaves
    newest = Path(last_whole_checkpoint(output))
    torn = output / f"checkpoint-{int(newest.name.split('-')[1]) + 2}"
    torn.mkdir(exist_ok=True)
    (torn / "model.safetensors").write_bytes(b"half")
    (torn / "manifest.json").unlink(missing_ok=True)

    assert main(finetune(table, output)) == 0
    assert f"{torn} is not whole" in caplog.text
    state = json.loads((output / "checkpoint-8" / "trainer_state.json").read_text())
    assert state["global_step"] == 8
    expected, got = weights(uninterrupted), weights(output)
    assert expected.keys() == got.keys() and all(torch.equal(expected[key], got[key]) for key in expected)


@pytest.mark.slow
def test_a_run_leaves_one_whole_checkpoint_and_a_model_that_answers(uninterrupted, questions, capsys):
    assert [folder.name for folder in uninterrupted.glob("checkpoint-*")] == ["checkpoint-8"]
    assert is_whole(uninterrupted / "checkpoint-8")
    assert not list(uninterrupted.rglob("*.partial"))
    metrics = json.loads((uninterrupted / "metrics.json").read_text())
    assert metrics["steps"] == 8 and metrics["settings"]["learning_rate"] == 1e-3
    row = questions["test"][0]
    asked = ["--question", row["question"], "what comes last?", "--top_k=3", "--json"]
    assert main(["predict", "--model", str(uninterrupted), "--video", row["video"], *asked]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["question"] for entry in answers] == [row["question"], "what comes last?"]
    assert all(len(entry["answers"]) == 3 for entry in answers)


@pytest.mark.slow
def test_a_folder_with_another_run_is_refused_by_the_setting(table, uninterrupted, capfd):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}
    assert main(finetune(table, uninterrupted, "--learning_rate=5e-4")) == 2
    assert "learning_rate was 0.001 and is 0.0005" in capfd.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}


@pytest.mark.slow
def test_settings_may_stand_in_a_file(table, uninterrupted, tmp_path, capfd):
    settings = tmp_path / "settings.yaml"
    options = (option.removeprefix("--").split("=") for option in RECIPE)
    lines = [f"{name}: {value}" for name, value in options]
    # evaluating on the way must not change what is learned
    lines += [f"train_file: {table}", f"validation_file: {table}", "eval_strategy: steps", "eval_steps: 3"]
    settings.write_text("\n".join(lines))
    output = tmp_path / "run"
    assert main(["finetune", str(settings), f"--output_dir={output}"]) == 0
    expected, got = weights(uninterrupted), weights(output)
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert "validation_accuracy" in json.loads((output / "metrics.json").read_text())

    settings.write_text("lerning_rate: 1\n")
    assert main(["finetune", str(settings)]) == 2
    assert "lerning_rate" in capfd.readouterr().err


def test_an_order_that_is_not_ours_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="--train_sampling_strategy: must stay random, got group_by_length"):
        FinetuningArguments(output_dir=str(tmp_path), train_sampling_strategy="group_by_length")


def build_trainer(model_folder, questions, tmp_path, evaluates=False, **arguments) -> VioletTrainer:
    model = VioletForQuestionAnswering.from_pretrained(model_folder)
    processor = AutoProcessor.from_pretrained(model_folder)
    settings = {"per_device_train_batch_size": 8, "max_steps": 1, "save_strategy": "no", "disable_tqdm": True}
    return VioletTrainer(
        model=model,
        args=FinetuningArguments(output_dir=str(tmp_path), **(settings | arguments)),
        train_dataset=questions["train"],
        eval_dataset=questions["validation"] if evaluates else None,
        data_collator=QuestionCollator(processor, model.config.label2id, name_videos=True),
    )


class AsksToEnd(TrainerCallback):
    def __init__(self, step=1):
        self.step = step

    def on_step_end(self, args, state, control, **more):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves_between_two_checkpoints_and_between_two_lines_of_the_log(model_folder, questions, tmp_path):
    settings = {"max_steps": 3, "logging_steps": 2, "save_strategy": "steps", "save_steps": 10, "report_to": "none"}
    states = []
    for stops in (False, True):
        output = tmp_path / str(stops)
        trainer = build_trainer(model_folder, questions, output, **settings)
        if stops:
            trainer.add_callback(AsksToEnd())
            with pytest.raises(RunStopped, match=r"after step 1 of 3\. .*checkpoint-1 is whole"):
                trainer.train()
            trainer = build_trainer(model_folder, questions, output, **settings)
        trainer.train(resume_from_checkpoint=stops)
        state = json.loads((output / "checkpoint-3" / "trainer_state.json").read_text())
        states.append([without_times(line) for line in state["log_history"] if "loss" in line])
        assert trainer.train(resume_from_checkpoint=True).global_step == 3, (
            "a run that has ended takes no further step"
        )
    assert states[0] == states[1] and len(states[0]) == 1
    assert all(
        torch.equal(one, weights(tmp_path / "True" / "checkpoint-3")[name])
        for name, one in weights(tmp_path / "False" / "checkpoint-3").items()
    )


class LongEvaluation(TrainerCallback):
    def __init__(self, clock):
        self.clock = clock

    def on_evaluate(self, *given, **more):
        self.clock.now += BETWEEN


def test_the_log_says_which_share_of_its_steps_waited_for_data(model_folder, questions, tmp_path, monkeypatch):
    """Two batches a step; the loader asks for one ahead, so that the first step waits for three."""
    clock = SlowClock(monkeypatch)
    trainer = build_trainer(
        model_folder, questions, tmp_path, evaluates=True, max_steps=4, gradient_accumulation_steps=2, logging_steps=2,
        per_device_train_batch_size=4, eval_strategy="steps", eval_steps=1, dataloader_num_workers=0, report_to="none",
    )  # fmt: skip
    trainer.data_collator = clock.before(LOADING, trainer.data_collator)
    trainer.training_step = clock.before(COMPUTING, trainer.training_step)
    trainer.add_callback(LongEvaluation(clock))
    trainer.train()
    found = [line["waiting_share"] for line in trainer.state.log_history if "loss" in line]
    assert found == pytest.approx([5 * LOADING / (5 * LOADING + 4 * COMPUTING), LOADING / (LOADING + COMPUTING)])


def test_early_stopping_goes_on_counting(model_folder, questions, tmp_path):
    """Every evaluation finds the same: the second that is no better stops the run, before or after a break."""
    ends = []
    for stops in (False, True):
        for part in range(1 + 2 * stops):
            trainer = build_trainer(
                model_folder, questions, tmp_path / str(stops), evaluates=True, max_steps=6, save_steps=1,
                early_stopping_patience=2, report_to="none", save_total_limit=2,
            )  # fmt: skip

            def evaluate(*given, trainer=trainer, **more):
                found = {"eval_loss": 1.0}
                trainer.control = trainer.callback_handler.on_evaluate(
                    trainer.args, trainer.state, trainer.control, found
                )
                return found

            trainer.evaluate = evaluate
            trainer.add_callback(EarlyStoppingCallback(2))
            if stops and part == 0:
                trainer.add_callback(AsksToEnd(2))
                with pytest.raises(RunStopped):
                    trainer.train()
            else:
                trainer.train(resume_from_checkpoint=stops)
            ends.append(trainer.state.global_step)
        assert sorted(path.name for path in (tmp_path / str(stops)).glob("*-*")) == ["checkpoint-1", "checkpoint-3"]
        assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-1"
    assert ends == [3, 2, 3, 3]


def test_a_checkpoint_that_is_asked_for_by_name_must_be_whole(model_folder, questions, tmp_path):
    trainer = build_trainer(model_folder, questions, tmp_path, save_strategy="steps")
    trainer.train()
    with open(tmp_path / "checkpoint-1" / "optimizer.pt", "ab") as file:
        file.write(b"more")
    with pytest.raises(CheckpointError, match=r"optimizer\.pt has \d+ bytes, and \d+ in manifest"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    with pytest.raises(ValueError, match="no whole checkpoint"):
        trainer.train(resume_from_checkpoint=True)


def test_what_a_run_in_fp16_saved_of_its_scaler_is_left_out_in_another_precision(model_folder, questions, tmp_path):
    trainer = build_trainer(model_folder, questions, tmp_path)
    torch.save({"scale": 2.0}, tmp_path / "scaler.pt")
    assert trainer.accelerator.scaler is None
    trainer._load_scaler(str(tmp_path))
    assert trainer.accelerator.scaler is None


def test_workers_hand_over_bytes_and_the_model_sees_what_the_collator_makes_by_itself(
    model_folder, questions, tmp_path
):
    trainer = build_trainer(model_folder, questions, tmp_path)
    rows = questions["train"].to_list()[:4]
    expected = QuestionCollator(trainer.data_collator.processor, trainer.model.config.label2id)(rows)
    batch = trainer.data_collator(rows)
    assert batch["pixel_values_videos"].dtype == torch.uint8
    seen = trainer._prepare_inputs(batch)["pixel_values_videos"]
    assert torch.equal(seen, expected["pixel_values_videos"])


def test_a_broken_loss_stops_the_run_before_the_weights(model_folder, questions, tmp_path):
    trainer = build_trainer(model_folder, questions, tmp_path, max_bad_steps=1)
    collator = trainer.data_collator

    def poisoned(rows):
        batch = collator(rows)
        batch["pixel_values_videos"] = torch.full(batch["pixel_values_videos"].shape, float("nan"))
        return batch

    trainer.data_collator = poisoned
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(FloatingPointError, match=r"Step 1: the loss is nan.*train-0000\d\d\.mp4"):
        trainer.train()
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())


def test_a_broken_gradient_behind_a_sound_loss_stops_the_run_too(model_folder, questions, tmp_path):
    trainer = build_trainer(model_folder, questions, tmp_path, max_bad_steps=1)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.model.answer_head[3].bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FloatingPointError, match=r"Step 1: the gradient is (nan|inf).*train-0000\d\d\.mp4"):
        trainer.train()
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())


def test_accumulated_gradients_are_those_of_one_large_batch(model_folder, questions, tmp_path):
    def step(batch_size, accumulated):
        trainer = build_trainer(
            model_folder, questions, tmp_path, per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulated, learning_rate=1e-2, optim="sgd", max_grad_norm=0,
            warmup_steps=0, lr_scheduler_type="constant", weight_decay=0.0,
        )  # fmt: skip
        trainer.model.config.classifier_dropout = 0.0
        trainer.model.answer_head[0].p = 0.0
        before = trainer.model.answer_head[3].weight.detach().clone()
        trainer.train()
        return trainer.model.answer_head[3].weight.detach() - before

    whole, parts = step(16, 1), step(4, 4)
    assert whole.abs().max() > 1e-5
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-7)

"""Runs of IMP and of experts: turns that are kept over a resume, what is logged, and the picture of the load."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from equal_logs import lines
from PIL import Image
from safetensors.torch import load_file

from violet.cli import main
from violet.data import moving_shapes
from violet.training import SettingsError
from violet.training.inspecting_experts import inspect_experts
from violet.training.pretraining import Pretraining, pretrain
from violet.training.recipe import read_recipe

pytestmark = [pytest.mark.usefixtures("separate_runs"), pytest.mark.proof]
STEPS = 6


@pytest.fixture(scope="module")
def sounding(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "sounding"
    none = dict.fromkeys(("train", "test", "test_unseen", "test_together", "test_heard"), 0)
    moving_shapes(folder, pretrain=16, validation=8, sound=True, **none)
    return folder


def settings(sounding: Path, output: Path, **changes) -> dict:
    shapes = {"source": "moving_shapes", "path": str(sounding), "clips": 16, "validation_clips": 8, "sound": True}
    return {
        "datasets": [
            {"name": "large", **shapes, "num_frames": 8, "image_size": 64},
            {"name": "small", **shapes, "num_frames": 4, "image_size": 32, "interval": 2, "objectives": {"vtc": 1.0}},
        ],
        "model": "imp-tiny",
        "output_dir": str(output),
        "schedule": "alternating",
        "unused": "zero",
        "objectives": {"imp": 1.0},
        "objective_options": {"imp": {"drop": 0.25}},
        "max_steps": STEPS,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "mixed_precision": "no",
        "logging_steps": 1,
        "eval_steps": STEPS,
        "eval_batches": 1,
        "save_steps": 2,
        "checkpoints_kept": 3,
        "num_workers": 0,
        "trackers": [],
        **changes,
    }


def test_a_run_that_goes_on_keeps_its_turns_and_weights_to_the_bit(sounding, tmp_path):
    output = tmp_path / "run"
    pretrain(read_recipe(settings(sounding, output)))
    whole, log = load_file(output / "model.safetensors"), lines(output)
    steps = [line for line in log if "loss" in line]
    turns = ["vtc" if "loss_vtc" in line else "imp" for line in steps]
    assert turns == ["imp", "imp", "vtc", "imp", "imp", "vtc"]
    assert all(line["experts_z_loss"] > 0 and "experts_left_behind" in line for line in steps)
    assert "large/loss_imp" in log[-1] and "small/loss_vtc" in log[-1] and "small/loss_imp" not in log[-1]
    shutil.rmtree(output / "checkpoint-4")
    (output / "model.safetensors").unlink()
    pretrain(read_recipe(settings(sounding, output)), resume=True)
    again = load_file(output / "model.safetensors")
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    assert lines(output) == log


def test_what_a_step_does_not_use_moves_on_or_stays(sounding, tmp_path):
    moved = {}
    for unused in ("zero", "skip"):
        run = Pretraining(read_recipe(settings(sounding, tmp_path / unused, unused=unused, max_steps=3)))
        name = "violet.projection.heads.video_to_audio.outer.weight"  # of sounds, which `vtc` does not use
        log, batches = run_log(run, tmp_path / unused), run.batches(range(3), run.training)
        for step in (1, 2):
            run.train_step(step, 1e-3, batches, log)
        before = run.model.get_parameter(name).detach().clone()
        run.train_step(3, 1e-3, batches, log)
        moved[unused] = float((run.model.get_parameter(name) - before).abs().max())
    assert moved["skip"] == 0 and moved["zero"] > 1e-5


def run_log(run: Pretraining, folder: Path):
    from violet.training.training_log import TrainingLog

    return TrainingLog(folder, run.accelerator)


def test_fine_tuning_logs_the_experts_and_their_load_is_drawn(tmp_path, questions):
    rows = questions["train"].to_list()[:24]
    table = tmp_path / "questions.csv"
    table.write_text(
        "\n".join(["video,question,answer", *(f'{row["video"]},"{row["question"]}",{row["answer"]}' for row in rows)])
    )
    output = tmp_path / "tuned"
    told = ["finetune", f"--train_file={table}", f"--output_dir={output}", "--model=violet-tiny-experts"]
    told += ["--from_scratch=true", "--max_steps=2", "--save_steps=2", "--logging_steps=1"]
    told += ["--per_device_train_batch_size=4", "--dataloader_num_workers=0"]
    assert main(told) == 0
    history = json.loads((output / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert all(line["experts_z_loss"] > 0 for line in history if "loss" in line) and len(history) >= 2
    report = inspect_experts(output, [rows[0]["video"]], [rows[0]["question"]], None, tmp_path / "load.png")
    assert len(report.layers) == 2 and set(report.layers[0].taken) == {"video", "text"}
    assert Image.open(tmp_path / "load.png").size[0] > 800
    with pytest.raises(SettingsError, match="there are no `experts`"):
        inspect_experts("violet-tiny", [rows[0]["video"]], ["a disc"], None, tmp_path / "none.png")

"""Pre-training with `align` on real clips: a live teacher, stored states, resumed runs, two processes."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from equal_logs import lines
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from violet import VioletForPreTraining
from violet.cli import main
from violet.training import SettingsError
from violet.training.masking import sample_generator
from violet.training.preparing import prepare_targets
from violet.training.pretraining import Pretraining, pretrain
from violet.training.recipe import PretrainingRecipe, load_recipe, read_recipe

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
ALIGN = {"alignment": "sum", "layers": "top2"}


@pytest.fixture(autouse=True)
def fresh():
    AcceleratorState._reset_state(True)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("teacher")
    CLIPVisionModel(CLIPVisionConfig(**SIZES, image_size=64, patch_size=8)).save_pretrained(folder)
    return str(folder)


def settings(drawn: Path, output: Path, align: dict[str, Any], **changes: Any) -> dict[str, Any]:
    shapes = {"name": "shapes", "source": "moving_shapes", "path": str(drawn), "clips": 24, "validation_clips": 8}
    shapes["num_frames"] = 2
    return {
        "datasets": [{**shapes, **changes.pop("dataset", {})}],
        "model": "maskalign-tiny",
        "output_dir": str(output),
        "objectives": {"align": 1.0, "mlm": 0.5},
        "objective_options": {"align": {**ALIGN, **align}},
        "max_steps": 4,
        **{"batch_size": 4, "group_size": 2, "num_negatives": 1},
        "learning_rate": 1e-3,
        "mixed_precision": "no",
        "num_workers": 0,
        "logging_steps": 1,
        "save_steps": 1,
        "checkpoints_kept": 9,
        "eval_batches": 1,
        "trackers": [],
        **changes,
    }


def recipe(*arguments: Any, **changes: Any) -> PretrainingRecipe:
    return read_recipe(settings(*arguments, **changes))


@pytest.fixture(scope="module")
def whole(drawn, teacher, tmp_path_factory) -> Path:
    AcceleratorState._reset_state(True)
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("whole") / "run"
    pretrain(recipe(drawn, output, {"teacher": teacher}))
    return output


def test_the_command_trains_on_real_clips_and_the_teacher_is_in_no_checkpoint(whole):
    steps = [line for line in lines(whole) if "loss_align" in line]
    assert len(steps) == 4 and steps[-1]["loss_align"] < steps[0]["loss_align"]
    assert lines(whole)[-1]["shapes/loss_align"] > 0
    model = VioletForPreTraining.from_pretrained(whole)
    options = model.config.objectives["align"]
    assert options == {**ALIGN, "teacher_width": 32, "teacher_layers": 3}
    head = model.objective_heads["align"]
    assert head.weights.shape == (3, 4) and list(head.heads) == ["1", "2"]
    assert torch.equal(head.weights[0], torch.full((4,), 0.25)) and not torch.equal(head.weights[1], head.weights[0])
    held = [name for name in load_file(whole / "model.safetensors") if "network" in name or "vision_model" in name]
    assert not held


@pytest.mark.proof
def test_a_resumed_run_equals_the_uninterrupted(whole):
    expected, log = load_file(whole / "model.safetensors"), lines(whole)
    for name in ("model.safetensors", "metrics.json", "README.md"):
        (whole / name).unlink()
    shutil.rmtree(whole / "checkpoint-3")
    saved = json.loads((whole / "run.json").read_text())
    saved = saved.get("settings", saved)
    known = {name: value for name, value in saved.items() if name in PretrainingRecipe.__dataclass_fields__}
    pretrain(read_recipe(known), resume=True)
    found = load_file(whole / "model.safetensors")
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert lines(whole) == log


@pytest.mark.proof
def test_stored_states_train_as_a_live_teacher_does(drawn, teacher, tmp_path):
    live = recipe(drawn, tmp_path / "live", {"teacher": teacher}, max_steps=2)
    assert prepare_targets(live, "align", tmp_path / "states").computed == 32
    stored = replace(
        live,
        output_dir=str(tmp_path / "read"),
        datasets=[replace(live.datasets[0], targets={"align": str(tmp_path / "states")})],
        objective_options={"align": {**ALIGN, "teacher": teacher, "teacher_width": 32, "teacher_layers": 3}},
    )
    pretrain(live)
    AcceleratorState._reset_state(True)
    assert not Pretraining(stored).teachers
    AcceleratorState._reset_state(True)
    pretrain(stored)
    for one, other in zip(lines(tmp_path / "live"), lines(tmp_path / "read"), strict=True):
        assert {name: pytest.approx(value, rel=1e-4) for name, value in one.items()} == other
    other = replace(stored, objective_options={"align": {**stored.objective_options["align"], "layers": "top3"}})
    AcceleratorState._reset_state(True)
    with pytest.raises(SettingsError, match="made with layers 'top2' instead of 'top3'"):
        pretrain(replace(other, output_dir=str(tmp_path / "other")))


def test_the_draws_are_each_samples_own(drawn, teacher, tmp_path):
    run = Pretraining(recipe(drawn, tmp_path / "run", {"teacher": teacher, "draw": "tube"}))
    batch = run.training[0]
    assert batch["align_noise"].shape == (4, 1, 64)
    row = next(row for row in run.tables[0][0] if row["video"] == batch["ids"][3] or row.get("id") == batch["ids"][3])
    own = sample_generator(0, 0, f"shapes/{batch['ids'][3]}/{row['caption']}/align")
    assert torch.equal(batch["align_noise"][3, 0], torch.empty(1, 64).exponential_(generator=own)[0])
    assert (batch["align_noise"][3] != batch["align_noise"][2]).all()


@pytest.mark.proof
def test_a_model_that_was_aligned_learns_on_with_its_own_options(whole, teacher, drawn, tmp_path):
    """The recipe then names the teacher only. The encoder is trained further by a CLIP of the same sizes."""
    changes = {"model": str(whole), "objective_options": {"align": {"teacher": teacher}}, "max_steps": 1}
    run = Pretraining(recipe(drawn, tmp_path / "run", {}, **changes))
    assert run.teachers["align"].blocks == [1, 2]
    assert run.run(resume=False).metrics["shapes/loss_align"] > 0


@pytest.mark.parametrize(
    "align, told",
    [
        ({}, "teacher of 'align' cannot be loaded: there is none. Give its folder or name on the Hub"),
        ({"teacher": "/"}, "The teacher of 'align' cannot be loaded"),
        ({"layers": "top9"}, "`layers` 'top9' cannot be of a teacher of 3 blocks"),
        ({"alignment": "linear"}, "gives 4, and `teacher_layers` is 3. Use `alignment: sum`"),
        ({"teacher_size": 60}, "patches of 8 pixels do not fill pictures of 60 x 60"),
        ({"teacher_size": 128}, "grid is 16 x 16 and the student's 8 x 8"),
        ({"keep": 0.3}, "keep"),
    ],
)
def test_what_cannot_be_is_refused(drawn, teacher, tmp_path, align, told):
    given = {} if align == {} else {"teacher": teacher, **align}
    with pytest.raises(ValueError, match=told):
        pretrain(recipe(drawn, tmp_path / "run", given, max_steps=1))


def test_a_siglip_cannot_say_where_it_looks(drawn, tmp_path):
    SiglipVisionModel(SiglipVisionConfig(**SIZES, image_size=64, patch_size=8)).save_pretrained(tmp_path / "siglip")
    given = {"teacher": str(tmp_path / "siglip")}
    with pytest.raises(SettingsError, match="no class token whose attention says which patches to keep"):
        pretrain(recipe(drawn, tmp_path / "run", given))
    AcceleratorState._reset_state(True)
    run = Pretraining(recipe(drawn, tmp_path / "run", {**given, "mask": "random"}))
    _, values = run.forward(run.training[0])
    assert values["loss_align"] > 0


def test_the_example_runs(drawn, teacher, tmp_path, capsys):
    file = ROOT / "examples" / "maskalign.yaml"
    example = load_recipe(file)
    align = {**example.objective_options["align"], "teacher": teacher, "teacher_size": 64, "layers": "top2"}
    changed = yaml.safe_load(file.read_text()) | {"objective_options": {"align": align}, "trackers": []}
    changed["datasets"][0] |= {"path": str(drawn), "clips": 24, "validation_clips": 8}
    changed |= {"max_steps": 2, "logging_steps": 1, "save_steps": 2, "batch_size": 4, "num_workers": 0}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(changed | {"output_dir": str(tmp_path / "run")}))
    assert main(["pretrain", str(tmp_path / "recipe.yaml")]) == 0, capsys.readouterr().err
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.proof
def test_two_processes_train_as_one_does(whole, drawn, teacher, tmp_path):
    """The draws and the loss are those of the rows, whichever process has them."""
    output = tmp_path / "run"
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(settings(drawn, output, {"teacher": teacher})))
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(ROOT / "examples" / "accelerate_ddp.yaml"), "--num_processes", "2"),
        *("--main_process_port", "0", "--num_cpu_threads_per_process", "1", "-m", "violet.cli", "pretrain", str(file)),
    ]
    done = subprocess.run(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    for one, other in zip(lines(whole), lines(output), strict=True):
        for name in ("loss_align", "shapes/loss_align"):
            assert one.get(name, 0.0) == pytest.approx(other.get(name, 0.0), rel=1e-5 if one["step"] == 1 else 1e-3)
    assert lines(output)[0]["gradient_norm"] == pytest.approx(lines(whole)[0]["gradient_norm"], rel=1e-4)

"""Whole runs of pre-training, some of them in processes that are killed with real signals."""

import dataclasses
import json
import math
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from equal_logs import lines
from own_process import OwnProcess
from PIL import Image
from safetensors.torch import load_file
from slow_clock import BETWEEN, COMPUTING, LOADING, SlowClock
from torch import nn
from transformers import AutoModelForPreTraining, AutoProcessor

from violet.cli import main
from violet.configuration import named_configuration
from violet.core.files import is_whole
from violet.data import moving_shapes
from violet.modeling_violet import VioletForPreTraining
from violet.processing import VideoTextProcessor, VioletVideoProcessor, train_wordpiece_tokenizer
from violet.training.arguments import SettingsError
from violet.training.ema import MovingAverage
from violet.training.learning_rates import learning_rate_factor
from violet.training.optimization import parameter_groups
from violet.training.pretraining import Pretraining, pretrain
from violet.training.recipe import PretrainingRecipe, read_recipe

pytestmark = pytest.mark.usefixtures("separate_runs")

STEPS = 6
SMALL = {
    "vision_config": {
        "embed_dim": 8, "depths": (1, 1, 1), "num_heads": (1, 2, 2), "window_size": (2, 2, 2), "patch_size": 4,
        "drop_path_rate": 0.1, "initializer_range": 0.1,
    },
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.1, "projection_dim": 16, "mvm_targets": {"pixel": {}},
}  # fmt: skip
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "classifier_dropout": 0.1}


@pytest.fixture(scope="module")
def start(tmp_path_factory, drawn) -> Path:
    """A small model with dropout, to start from, and its processor."""
    counts = {"train": 0, "test": 0, "test_unseen": 0, "test_together": 0}
    captions = moving_shapes(drawn, pretrain=24, validation=8, **counts)["pretrain"]["caption"]
    tokenizer = train_wordpiece_tokenizer(captions, 150)
    frames = VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=2)
    config = named_configuration("violet-tiny", **SMALL, **DROPOUT, vocab_size=len(tokenizer))
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("start")
    VioletForPreTraining(config).save_pretrained(folder)
    VideoTextProcessor(tokenizer, frames).save_pretrained(folder)
    return folder


def settings(drawn, start, output, **changes):
    """A recipe with everything that could make a resumed run another one."""
    shapes = {"source": "moving_shapes", "path": str(drawn), "clips": 24, "validation_clips": 8}
    return {
        "datasets": [{"name": "videos", **shapes, "weight": 2.0}, {"name": "stills", **shapes, "num_frames": 1}],
        "output_dir": str(output),
        "model": str(start),
        "objectives": [
            {"vtm": 1.0, "mlm": 1.0, "vtc": 0.5, "mvm_pixel": 1.0, "share": 2.0},
            {"mlm": 1.0, "smtm": 0.5},
        ],
        "mvm_targets": {"pixel": {}},
        "masks": {"random": 1.0, "block": 1.0, "attended": 1.0},
        "num_negatives": 2,
        "max_steps": STEPS,
        "batch_size": 8,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "learning_rate_schedule": "cosine",
        "mixed_precision": "no",
        "ema_decay": 0.9,
        "logging_steps": 1,
        "eval_steps": 3,
        "eval_batches": 1,
        "save_steps": 1,
        "trackers": [],
        **changes,
    }


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def assert_equal_weights(one, other):
    assert one.keys() == other.keys() and len(one) > 50
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, drawn, start):
    AcceleratorState._reset_state(True)
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("runs") / "uninterrupted"
    return pretrain(read_recipe(settings(drawn, start, output)))


def folder_of(result) -> Path:
    return Path(result.settings["output_dir"])


def test_a_run_leaves_its_log_its_figures_its_curves_and_a_model(uninterrupted, start):
    folder = folder_of(uninterrupted)
    log = lines(folder)
    steps = [line for line in log if "learning_rate" in line]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert [line["step"] for line in log if "videos/loss_mlm" in line] == [3, STEPS]
    seen = {name for line in steps for name in line if name.startswith("loss_")}
    assert seen == {"loss_vtm", "loss_mlm", "loss_vtc", "loss_mvm_pixel", "loss_smtm"}
    assert all(math.isfinite(value) for line in log for value in line.values())
    assert all(line["gradient_norm"] > 0 and line["masked_words"] > 0 for line in steps)
    assert any(0 < line["masked_patches"] < line["patches"] for line in steps if "patches" in line)

    metrics = json.loads((folder / "metrics.json").read_text())
    recorded, provenance = metrics.pop("settings"), metrics.pop("provenance")
    assert provenance["splits"].keys() >= {"videos", "stills"}
    assert metrics == uninterrupted.metrics and metrics["steps"] == STEPS
    assert recorded["learning_rate"] == 1e-2 and recorded["datasets"][1]["num_frames"] == 1
    assert metrics["videos/loss_mvm_pixel"] != metrics["stills/loss_mvm_pixel"]
    last = log[-1]
    assert {name: value for name, value in metrics.items() if name != "steps"} == {
        name: value for name, value in last.items() if name != "step"
    }
    assert len(Image.open(folder / "curves.png").convert("RGB").getcolors(10**6)) > 10, "something is drawn"

    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]
    assert all(is_whole(path) for path in folder.glob("checkpoint-*"))
    assert not list(folder.rglob("*.partial"))
    model, processor = AutoModelForPreTraining.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert_equal_weights(model.state_dict(), uninterrupted.model.state_dict())
    changed = [name for name, value in weights(start).items() if not torch.equal(value, weights(folder)[name])]
    assert len(changed) > 50
    assert processor.video_processor.num_frames == 2
    assert processor(text=["a small disc"])["input_ids"].max() < model.config.vocab_size


def test_the_log_says_which_share_of_its_steps_waited_for_data(drawn, start, tmp_path, monkeypatch):
    """Two batches a step; an evaluation behind each is no part of one."""
    clock = SlowClock(monkeypatch)
    run = Pretraining(read_recipe(settings(drawn, start, tmp_path, num_workers=0, max_steps=2, eval_steps=1)))
    run.training.collator = clock.before(LOADING, run.training.collator)
    run.forward, run.evaluate = clock.before(COMPUTING, run.forward), clock.before(BETWEEN, run.evaluate)
    monkeypatch.setattr("violet.training.pretraining.draw_curves", lambda *given: None)
    run.run(resume=False)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = [line["waiting_share"] for line in log if "waiting_share" in line]
    assert found == pytest.approx([LOADING / (LOADING + COMPUTING)] * 2) and len(log) == 4


def test_the_saved_model_is_the_moving_average(uninterrupted):
    """After the last step nothing but the average's own update follows: both stand in the checkpoint before."""
    checkpoint = folder_of(uninterrupted) / f"checkpoint-{STEPS - 1}"
    average, raw = load_file(checkpoint / "moving_average.safetensors"), load_file(checkpoint / "model.safetensors")
    assert average.pop("steps") == STEPS - 1
    name = "mlm_head.dense.weight"
    assert (average[name] - raw[name]).abs().max() > 1e-4
    saved = weights(folder_of(uninterrupted))[name]
    assert (saved - average[name]).abs().max() < (average[name] - raw[name]).abs().max()


def test_what_does_not_decide_the_result_does_not_change_it(uninterrupted, drawn, start, tmp_path):
    """Workers, evaluations, checkpoints and the cache of frames."""
    speed = {"num_workers": 0, "eval_steps": 1, "save_steps": 1000, "frame_cache_mb": 0, "eval_batches": 2}
    pretrain(read_recipe(settings(drawn, start, tmp_path, **speed)))
    assert_equal_weights(weights(tmp_path), weights(folder_of(uninterrupted)))
    assert [line for line in lines(tmp_path) if "learning_rate" in line] == [
        line for line in lines(folder_of(uninterrupted)) if "learning_rate" in line
    ]


def test_another_seed_gives_other_weights(uninterrupted, drawn, start, tmp_path):
    pretrain(read_recipe(settings(drawn, start, tmp_path, seed=1, max_steps=1, num_workers=0)))
    assert lines(tmp_path)[0]["loss"] != lines(folder_of(uninterrupted))[0]["loss"]


# --- kill and resume ---


def start_process(recipe: Path, *more: str) -> OwnProcess:
    return OwnProcess("-m", "violet.cli", "pretrain", recipe, *more, stderr=recipe.with_name("said"))


def kill_after(process: OwnProcess, checkpoint: Path, delay: float) -> None:
    """Kills it some time after that checkpoint is whole."""
    try:
        deadline = time.monotonic() + 120
        while not (checkpoint / "manifest.json").exists():
            assert process.poll() is None, (checkpoint.parents[1] / "said").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(delay)
    finally:
        process.kill()


@pytest.mark.proof
@pytest.mark.parametrize("again", [False, True])
def test_a_killed_run_goes_on_to_the_same_weights_and_the_same_log(
    again, uninterrupted, drawn, start, tmp_path, caplog
):
    """Killed once, and on with it in this process; or on by the command, killed again, and on."""
    seed = int(os.environ.get("VIOLET_KILL_SEED", time.time_ns() % 10**6))
    chance = random.Random(seed)
    first, second = sorted(chance.sample(range(2, STEPS - 1), 2))
    delays = [chance.random() * 0.1 for _ in range(2)]
    print(f"VIOLET_KILL_SEED={seed}: killed after steps {first} and {second}, delays {delays}")  # noqa: T201
    output = tmp_path / "killed"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings(drawn, start, output)))

    kill_after(start_process(recipe), output / f"checkpoint-{first}", delays[0])
    assert not (output / "model.safetensors").exists(), "it was killed before it ended"
    # the newest checkpoint is torn: one byte is another
    newest = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "model.safetensors").write_bytes(content)

    if again:
        kill_after(start_process(recipe, "--resume"), output / f"checkpoint-{second}", delays[1])
        if int(newest.name.split("-")[1]) < second:  # else it was whole again, or not, by the time of the kill
            assert f"{newest} is not whole" in (tmp_path / "said").read_text()
        status, said = start_process(recipe, "--resume").wait(120), (tmp_path / "said").read_text()
        assert status == 0, said
        assert "Going on from" in said
    else:
        with caplog.at_level("INFO"):
            pretrain(read_recipe(settings(drawn, start, output)), resume=True)
        assert f"{newest} is not whole" in caplog.text and "Going on from" in caplog.text
    assert_equal_weights(weights(output), weights(folder_of(uninterrupted)))
    assert lines(output) == lines(folder_of(uninterrupted))
    assert not list(output.rglob("*.partial"))


def test_a_run_that_is_asked_to_end_saves_and_goes_on_to_the_same_weights_and_the_same_log(
    uninterrupted, drawn, start, tmp_path, monkeypatch, capsys
):
    """By the command; between two checkpoints, which are to come every third step."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings(drawn, start, tmp_path / "run", save_steps=3, num_workers=0)))
    take = Pretraining.train_step

    def asked(self, step, *given):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        take(self, step, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "train_step", asked)
        assert main(["pretrain", str(recipe)]) == 128 + signal.SIGTERM
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "ended by SIGTERM after step 2 of 6" in said and str(tmp_path / "run" / "checkpoint-2") in said
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint-2", "log.jsonl", "run.json"]
    files = sorted(path.name for path in (tmp_path / "run" / "checkpoint-2").iterdir())
    assert all(name.endswith((".json", ".safetensors")) for name in files), files
    assert main(["pretrain", str(recipe), "--resume"]) == 0
    assert_equal_weights(weights(tmp_path / "run"), weights(folder_of(uninterrupted)))
    assert lines(tmp_path / "run") == lines(folder_of(uninterrupted))


def test_a_torn_checkpoint_is_passed_over_and_written_anew(uninterrupted, drawn, start, tmp_path, caplog):
    output = copy_run(uninterrupted, tmp_path)
    (output / "model.safetensors").unlink()
    manifest = output / f"checkpoint-{STEPS - 1}" / "manifest.json"
    manifest.write_text(manifest.read_text()[:-20])
    pretrain(read_recipe(settings(drawn, start, output)), resume=True)
    assert f"checkpoint-{STEPS - 1} is not whole" in caplog.text
    assert is_whole(output / f"checkpoint-{STEPS - 1}")
    assert_equal_weights(weights(output), weights(folder_of(uninterrupted)))
    assert lines(output) == lines(folder_of(uninterrupted))


def copy_run(result, folder) -> Path:
    """The run's folder elsewhere, as if it had been made there."""
    output = folder / "copy"
    shutil.copytree(folder_of(result), output)
    written = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps(written | {"output_dir": str(output)}))
    return output


def test_a_folder_with_checkpoints_is_not_trained_over(uninterrupted, drawn, start):
    folder = folder_of(uninterrupted)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(SettingsError, match=f"--resume to go on from .*checkpoint-{STEPS - 1}"):
        pretrain(read_recipe(settings(drawn, start, folder)))
    for name, value in {"learning_rate": 2e-2, "ema_decay": None, "masks": {"random": 1.0}, "batch_size": 4}.items():
        with pytest.raises(SettingsError, match=f"{name} was .* and is "):
            pretrain(read_recipe(settings(drawn, start, folder, **{name: value})), resume=True)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lerning_rate": 1}, "lerning_rate"),
        ({"objectives": {"mlm": 1, "mvm_hog": 1}}, "no mvm_hog; it has .*mvm_pixel"),
        ({"batch_size": 6}, "`batch_size` 6 must be a multiple of 1 processes times the `group_size` 4"),
        ({"num_negatives": 4}, "`num_negatives` 4 must be below `group_size` 4"),
        ({"learning_rate_schedule": "square"}, "'square' is unknown"),
        ({"mixed_precision": "fp64"}, "'fp64' is unknown"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(drawn, start, tmp_path, changes, message):
    with pytest.raises(SettingsError, match=message):
        pretrain(read_recipe(settings(drawn, start, tmp_path / "run", **changes)))
    assert not (tmp_path / "run" / "run.json").exists()


# --- steps ---


def one_run(drawn, start, output, **changes) -> Pretraining:
    changes = {"num_workers": 0, "save_steps": 1000, "eval_steps": 1000, "max_steps": 2, **changes}
    return Pretraining(read_recipe(settings(drawn, start, output, **changes)))


@pytest.mark.parametrize("poisoned_batch, done", [(1, 0), (3, 1)])
def test_a_broken_loss_stops_the_run_before_the_weights(drawn, start, tmp_path, poisoned_batch, done):
    """The second batch of a step: the first one's gradient is there and must not be applied either."""
    run = one_run(drawn, start, tmp_path, max_bad_steps=1)
    read, names = run.training.__class__.__getitem__, []
    snapshots = []

    class Poisoned(run.training.__class__):
        def __getitem__(self, step):
            batch = read(self, step)
            if step == poisoned_batch:
                names.extend(batch["ids"])
                batch["pixel_values_videos"] = torch.full(batch["pixel_values_videos"].shape, float("nan"))
                snapshots.append({name: value.clone() for name, value in run.model.state_dict().items()})
            return batch

    run.training.__class__ = Poisoned
    with pytest.raises(FloatingPointError, match="loss is nan.*It was not applied") as error:
        run.run(resume=False)
    assert len(names) == 8 and all(name in str(error.value) for name in names)
    assert_equal_weights(run.model.state_dict(), snapshots[0])
    assert run.average.steps == done
    initial = weights(start)
    assert all(torch.equal(initial[name], value) for name, value in snapshots[0].items()) is (done == 0)
    assert not (tmp_path / "model.safetensors").exists()


def test_accumulated_batches_give_the_gradient_of_one_large_batch(drawn, start, tmp_path):
    """Two negatives of three in a group depend on the batch's number: with one of one they do not."""

    def first_step(name, **changes):
        one = {
            "datasets": settings(drawn, start, tmp_path)["datasets"][:1],
            "objectives": {"vtm": 1.0}, "group_size": 2, "num_negatives": 1, "max_steps": 1, "ema_decay": None,
        }  # fmt: skip
        run = one_run(drawn, start, tmp_path / name, **one, **changes)
        for module in run.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
            if hasattr(module, "drop_path_rate"):
                module.drop_path_rate = 0.0
        run.model.eval()
        run.model.train = lambda mode=True: run.model  # dropout, wherever it stands, is off
        run.run(resume=False)
        return lines(tmp_path / name)[0]

    parts = first_step("parts", batch_size=4, gradient_accumulation_steps=4)
    whole = first_step("whole", batch_size=16, gradient_accumulation_steps=1)
    assert whole["loss"] > 0.1 and whole["gradient_norm"] > 1e-2
    for name in ("loss", "gradient_norm", "accuracy_vtm"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-4)


@pytest.mark.slow
def test_a_named_configuration_starts_from_scratch(drawn, tmp_path):
    recipe = settings(drawn, "violet-tiny", tmp_path, image_size=32, max_steps=1, batch_size=4, num_workers=0)
    result = pretrain(read_recipe(recipe))
    model = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert model.config.hidden_size == 128 and set(model.mvm_heads) == {"pixel"}
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert processor.video_processor.size.height == 32 and processor.max_length == 32
    assert processor.tokenizer.tokenize("a small disc moves left") == ["a", "small", "disc", "moves", "left"]
    assert result.metrics["videos/loss_mlm"] == pytest.approx(math.log(model.config.vocab_size), rel=0.5)


def test_the_command_says_what_is_wrong_without_a_traceback(drawn, start, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings(drawn, start, tmp_path / "run")))
    assert main(["pretrain", str(recipe), "--batch_size", "6"]) == 2
    said = capsys.readouterr().err
    assert "`batch_size` 6 must be a multiple" in said and "Traceback" not in said


# --- the optimiser ---


@pytest.mark.parametrize(
    "schedule, warmup, expected",
    [
        ("constant", 0.0, [1.0] * 8),
        ("constant", 0.5, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", 0.0, [1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("linear", 0.25, [0.5, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", 0.5, [0.25, 0.5, 0.75, 1.0, 1.0, 0.5 + 0.5 * 0.5**0.5, 0.5, 0.5 - 0.5 * 0.5**0.5]),
        ("linear", 1.0, [1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1.0]),
    ],
)
def test_the_learning_rate_rises_and_falls(schedule, warmup, expected):
    found = [learning_rate_factor(schedule, step, 8, warmup) for step in range(8)]
    assert found == pytest.approx(expected)


def test_a_run_takes_the_learning_rates_of_its_schedule(uninterrupted):
    rates = [line["learning_rate"] for line in lines(folder_of(uninterrupted)) if "learning_rate" in line]
    warm = round(0.1 * STEPS)  # 1 step
    expected = [1.0] + [0.5 * (1 + math.cos(math.pi * i / (STEPS - warm))) for i in range(STEPS - warm)]
    assert rates == pytest.approx([1e-2 * share for share in expected])


@pytest.mark.parametrize("published", [False, True])
def test_weights_of_layers_decay_and_tables_norms_and_biases_do_not(published):
    more = {"num_task_tokens": 4, "hidden_frame_order": True, "fusion_norm": "post"} if published else {}
    targets = {"mvm_targets": {"pixel": {}, "vq": {"channels": 8}, "2d_feature": {"channels": 8}}}
    model = VioletForPreTraining(named_configuration("violet-tiny", **{**SMALL, **more, **targets}))
    decayed, free = parameter_groups(model, 0.3)
    assert decayed["weight_decay"] == 0.3 and free["weight_decay"] == 0.0
    numbers = [id(parameter) for group in (decayed, free) for parameter in group["params"]]
    assert len(numbers) == len(set(numbers)) and set(numbers) == {id(one) for one in model.parameters()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = {names[id(parameter)] for parameter in decayed["params"]}
    stays = {names[id(parameter)] for parameter in free["params"]}
    assert {
        "violet.video_encoder.swin.patch_embed.proj.weight",
        "violet.fusion.layers.0.attention.query.weight",
        "mlm_head.decoder.weight",
        "match_head.1.weight",
        "mvm_heads.pixel.projection.weight",
    } <= decays
    assert {
        "violet.text_embeddings.word_embeddings.weight",
        "violet.video_encoder.position_embeddings",
        "violet.video_encoder.frame_embeddings",
        "violet.video_encoder.frame_token",
        "violet.projection.logit_scale",
        "mlm_head.decoder.bias",
        "mlm_head.norm.weight",
    } <= stays
    if published:
        assert {"violet.task_tokens", "violet.video_encoder.hidden_order_embedding"} <= stays
    assert not [name for name in decays if not name.endswith("weight") or "norm" in name or "embeddings" in name]
    assert not [name for name in decays if model.get_parameter(name).dim() < 2]
    tables = [name for name in stays if "relative_position_bias" in name]
    assert tables, "Swin's tables of relative positions among them"


def test_the_moving_average_is_worked_out_by_hand(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    values = [1.0, 3.0, -2.0, 5.0]
    model.weight.data.fill_(values[0])
    average, expected = MovingAverage(model, decay=0.3), values[0]
    for step, value in enumerate(values[1:], start=1):
        model.weight.data.fill_(value)
        average.update(model)
        decay = min(0.3, (1 + step) / (10 + step))  # 2/11, 3/12, 0.3
        expected = decay * expected + (1 - decay) * value
    assert average.values["weight"].item() == pytest.approx(expected) and expected != pytest.approx(5.0, abs=0.1)
    average.save(tmp_path)
    restored = MovingAverage(model, decay=0.3)
    restored.load(tmp_path)
    assert restored.steps == 3 and torch.equal(restored.values["weight"], average.values["weight"])
    average.swap(model)
    assert model.weight.item() == pytest.approx(expected)
    average.swap(model)
    assert model.weight.item() == 5.0 and average.values["weight"].item() == pytest.approx(expected)


def test_recipes_are_read_as_they_are_written(drawn, start, tmp_path):
    recipe = read_recipe(settings(drawn, start, tmp_path))
    assert isinstance(recipe, PretrainingRecipe) and [one.name for one in recipe.datasets] == ["videos", "stills"]
    assert recipe.objective_sets() == [
        (2.0, 0, {"vtm": 1.0, "mlm": 1.0, "vtc": 0.5, "mvm_pixel": 1.0}),
        (1.0, 0, {"mlm": 1.0, "smtm": 0.5}),
    ]
    zero = dataclasses.replace(recipe, objectives={"mlm": 1, "vtm": 0})
    assert zero.objective_sets() == [(1.0, 0, {"mlm": 1.0})]
    later = dataclasses.replace(recipe, objectives=[{"mlm": 1}, {"vtm": 1, "start": 0.25}], max_steps=80)
    assert [first for _, first, _ in later.objective_sets()] == [0, 20 * later.gradient_accumulation_steps]
    with pytest.raises(SettingsError, match="start at 0"):
        dataclasses.replace(recipe, objectives={"mlm": 1, "start": 0.25})

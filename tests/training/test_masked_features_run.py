"""Runs with masked feature regression on drawn videos, what is logged and told of the flow, and what is refused."""

import json
import math
import shutil

import pytest
import torch
from accelerate.state import AcceleratorState
from equal_logs import lines
from PIL import Image
from safetensors.torch import load_file

from violet.cli import main
from violet.configuration import named_configuration
from violet.data import moving_shapes
from violet.modeling_violet import VioletForPreTraining, VioletForRetrieval
from violet.processing import VideoTextProcessor, VioletVideoProcessor, train_wordpiece_tokenizer
from violet.training import SettingsError
from violet.training.building import build_teachers
from violet.training.inspecting import masked_batch, masked_clip
from violet.training.masking import Masking
from violet.training.preparing import prepare_targets
from violet.training.pretraining import pretrain
from violet.training.recipe import read_recipe

pytestmark = pytest.mark.usefixtures("separate_runs")

SMALL = {
    "vision_config": {
        "embed_dim": 8, "depths": (1, 1, 1), "num_heads": (1, 2, 2), "window_size": (2, 2, 2), "patch_size": 4,
    },
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "projection_dim": 16, "mvm_targets": {"mfr": {"group": 2}, "pixel": {}}, "hidden_dropout_prob": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(drawn):
    counts = {"train": 0, "test": 0, "test_unseen": 0, "test_together": 0}
    return moving_shapes(drawn, pretrain=24, validation=8, **counts)


@pytest.fixture(scope="module")
def start(tmp_path_factory, rows):
    """A small model to start from, and its processor."""
    tokenizer = train_wordpiece_tokenizer(rows["pretrain"]["caption"], 150)
    frames = VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=2)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("start")
    VioletForPreTraining(named_configuration("violet-tiny", **SMALL, vocab_size=len(tokenizer))).save_pretrained(
        folder
    )
    VideoTextProcessor(tokenizer, frames).save_pretrained(folder)
    return folder


def settings(drawn, start, output, **changes):
    shapes = {"source": "moving_shapes", "path": str(drawn), "clips": 24, "validation_clips": 8}
    return {
        "datasets": [{"name": "videos", **shapes}],
        "output_dir": str(output),
        "model": str(start),
        "objectives": {"mlm": 1.0, "vtm": 1.0, "mvm_mfr": 1.0, "mvm_pixel": 0.5},
        "mvm_targets": {"pixel": {}},
        "masks": {"correlated": 2.0, "random": 1.0, "attended": 1.0},
        "patch_ratio": 0.3,
        "max_steps": 4,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "mixed_precision": "no",
        "num_workers": 0,
        "logging_steps": 1,
        "eval_batches": 1,
        "save_steps": 2,
        "trackers": [],
        **changes,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory, drawn, start):
    AcceleratorState._reset_state(True)
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(read_recipe(settings(drawn, start, folder, log_flow=True)))
    return folder


def test_a_run_logs_loss_spread_and_flow(run, start):
    steps = [line for line in lines(run) if "learning_rate" in line]
    assert len(steps) == 4
    for line in steps:
        assert {"loss_mvm_mfr", "loss_mlm", "loss_mvm_pixel", "spread_mfr"} <= line.keys()
        assert 0.1 < line["spread_mfr"] < 1.5 and 0 < line["masked_patches"] < line["patches"] == 64
        for name in (
            "flow_text_from_video",
            "flow_video_from_text",
            "flow_words_from_video",
            "flow_patches_from_text",
        ):
            assert 0.2 < line[name] < 2, (name, line[name])
        for name in ("mlm", "mvm_mfr"):
            own, shuffled = line[f"flow_{name}_own"], line[f"flow_{name}_shuffled"]
            assert math.isfinite(own) and own > 0 and own != shuffled
    assert {"videos/loss_mvm_mfr"} <= lines(run)[-1].keys()
    before, after = (load_file(folder / "model.safetensors") for folder in (start, run))
    for name in ("mvm_heads.mfr.hidden.weight", "mvm_heads.mfr.weight"):
        assert (before[name] - after[name]).abs().max() > 1e-4, name


@pytest.mark.proof
def test_a_resumed_run_ends_in_the_same_weights_and_the_log_changes_none(run, drawn, start, tmp_path):
    again = tmp_path / "run"
    pretrain(read_recipe(settings(drawn, start, again)))
    whole = load_file(run / "model.safetensors")
    plain = load_file(again / "model.safetensors")
    assert all(torch.equal(plain[name], value) for name, value in whole.items()), "the flow was only looked at"
    assert (again / "checkpoint-2").exists()
    for name in ("model.safetensors", "metrics.json", "config.json"):
        (again / name).unlink()
    AcceleratorState._reset_state(True)
    pretrain(read_recipe(settings(drawn, start, again)), resume=True)
    resumed = load_file(again / "model.safetensors")
    assert [name for name, value in whole.items() if not torch.equal(resumed[name], value)] == []


def test_the_flow_of_pairs_is_told_and_drawn(run, rows, tmp_path, capsys):
    videos, captions = rows["pretrain"]["video"][:3], rows["pretrain"]["caption"][:3]
    table = tmp_path / "pairs.csv"
    rows["pretrain"].select(range(3)).select_columns(["video", "caption"]).to_csv(table)
    asked = ["inspect", "flow", f"--model={run}", "--rows", "words", "cls", "patches"]
    numbers = []
    for name, pairs in (("a", ["--video", *videos, "--caption", *captions]), ("b", ["--table", str(table)])):
        output = [f"--output={tmp_path / f'{name}.png'}", f"--json={tmp_path / f'{name}.json'}"]
        assert main([*asked, *pairs, *output]) == 0, capsys.readouterr().err
        numbers.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert numbers[0] == numbers[1] and numbers[0]["pairs"] == 3 and numbers[0]["layers"] == 2
    found = numbers[0]["numbers"]
    assert set(found) == {
        *("text_from_video", "video_from_text", "imf"),
        *("text_from_video_corrected", "video_from_text_corrected", "imf_corrected"),
        *(f"layer_{layer}_{way}" for layer in (1, 2) for way in ("text_from_video", "video_from_text")),
        *("into_words", "into_cls", "into_patches"),
        *(f"loss_{name}_{who}" for name in ("mlm", "smtm", "mvm_mfr") for who in ("own", "shuffled")),
    }
    for name, one in found.items():
        low, high = one["interval"]
        assert low <= one["value"] <= high and one["value"] > 0, name
    said = capsys.readouterr().out
    assert "3 pairs, 2 layers of the fusion" in said and "another clip’s partner" in said
    assert "the losses are" in said
    picture = Image.open(tmp_path / "a.png").convert("RGB")
    assert picture.width > 800 and len(picture.getcolors(10**7)) > 100


def test_one_pair_has_no_partner_and_special_tokens_can_be_left_out(run, rows, tmp_path, capsys):
    video, caption = rows["pretrain"]["video"][0], rows["pretrain"]["caption"][0]
    asked = ["inspect", "flow", f"--model={run}", "--video", video, "--caption", caption]
    asked += [f"--output={tmp_path / 'flow.png'}", f"--json={tmp_path / 'flow.json'}"]
    assert main(asked) == 0
    assert "(needs two pairs)" in capsys.readouterr().out
    with_special = json.loads((tmp_path / "flow.json").read_text())["numbers"]
    assert "loss_mlm_shuffled" not in with_special
    assert main([*asked, "--no_special_tokens"]) == 0
    without = json.loads((tmp_path / "flow.json").read_text())["numbers"]
    assert without["text_from_video"] != with_special["text_from_video"]


def test_pairs_and_models_without_a_flow_are_refused(run, rows, tmp_path, capsys):
    video = rows["pretrain"]["video"][0]
    asked = ["inspect", "flow", f"--output={tmp_path / 'flow.png'}", "--video", video]
    retrieval = tmp_path / "retrieval"
    VioletForRetrieval(named_configuration("violet-tiny", **SMALL, vocab_size=150)).save_pretrained(retrieval)
    for more, told in (
        ([f"--model={run}", "--caption", " "], "has none; the flow is that between a clip and its words"),
        ([f"--model={run}", "--caption", "a", "b"], "2 captions for 1 videos"),
        ([f"--model={run}", "--caption", "a disc", "--rows", "verbs"], "--rows: verbs is unknown; use words, cls"),
        ([f"--model={run}", "--caption", "a disc", "--rows", "cls", "--no_special_tokens"], "[CLS] is left out"),
        ([f"--model={run}", "--caption", "a disc", "--table", "x.csv"], "--table: give it in place of --video"),
        ([f"--model={retrieval}", "--caption", "a disc"], "is a VioletForRetrieval; the flow is told of a pre-train"),
    ):
        assert main([*asked, *more]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "flow.png").exists()


def test_correlated_masks_are_shown_too(run, rows):
    model = VioletForPreTraining.from_pretrained(run).eval()
    processor = VideoTextProcessor.from_pretrained(run)
    video, caption = rows["pretrain"]["video"][0], rows["pretrain"]["caption"][0]
    clip = masked_clip(model, processor, {}, video, caption, "correlated", Masking(patch_ratio=0.3))
    assert "2 of 8 patches are hidden" in clip.rows[0].notes[1] and "correlated mask" in clip.title
    batch = masked_batch(model, processor, video, caption, "correlated", Masking(patch_ratio=0.3))
    assert batch["correlated_count"] == 2 and batch["correlated_noise"].shape == (1, 8)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"objectives": {"mlm": 1.0, "mvm_pixel": 1.0}}, "made of features.*mvm_mfr.*mlm, mvm_pixel are without it"),
        ({"objectives": {"vtc": 1.0}}, "`masks`: 'correlated' needs the objective mvm_mfr"),
        (
            {"objectives": [{"mvm_mfr": 1.0}, {"mvm_pixel": 1.0}]},
            "made of features.*the objectives mvm_pixel are without it",
        ),
        ({"patch_ratio": 0.1}, "data set 'videos': `group` 2 must lie from 1 to the 1 places"),
        ({"patch_ratio": 0.99}, "data set 'videos': .*hides all 8 places"),
        ({"patch_ratio": 1.0}, "`patch_ratio`.: must lie between 0 and 1"),
        ({"patch_ratio": 0.0}, "`patch_ratio`.: must lie between 0 and 1"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(drawn, start, tmp_path, changes, told):
    with pytest.raises(ValueError, match=told):
        pretrain(read_recipe(settings(drawn, start, tmp_path / "run", **changes)))


def test_a_target_without_a_teacher_takes_and_stores_none(drawn, start, tmp_path):
    recipe = read_recipe(settings(drawn, start, tmp_path / "run", mvm_targets={"mfr": {"teacher": "x"}}))
    with pytest.raises(SettingsError, match="'mfr' has no teacher"):
        build_teachers(recipe, VioletVideoProcessor(), torch.device("cpu"))
    assert (
        build_teachers(
            read_recipe(settings(drawn, start, tmp_path / "run", mvm_targets={"mfr": {}})),
            VioletVideoProcessor(),
            torch.device("cpu"),
        )
        == {}
    )
    with pytest.raises(SettingsError, match="'mfr' has no teacher"):
        prepare_targets(recipe, "mfr", tmp_path / "stored")


@pytest.mark.proof
def test_fine_tuning_logs_the_flow(rows, drawn, tmp_path, capsys):
    table = tmp_path / "pairs.csv"
    rows["pretrain"].select_columns(["video", "caption"]).to_csv(table)
    asked = ["finetune", "--task=captioning", "--model=violet-tiny", "--from_scratch=true", f"--train_file={table}"]
    asked += [f"--validation_file={table}", f"--output_dir={tmp_path / 'run'}", "--max_steps=2", "--logging_steps=1"]
    asked += ["--per_device_train_batch_size=4", "--per_device_eval_batch_size=4", "--dataloader_num_workers=0"]
    asked += ["--report_to=none", "--save_strategy=no", "--num_frames=2", "--image_size=64"]
    assert main([*asked, "--log_flow=true"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert said.count("flow_text_from_video") == 2 and said.count("'grad_norm'") == 2, said
    assert "flow_loss_own" in said and "flow_loss_shuffled" in said
    shutil.rmtree(tmp_path / "run")
    without = [one for one in asked if not one.startswith("--validation_file")]
    assert main([*without, "--log_flow=true"]) == 2
    assert "--log_flow: there are no validation rows" in capsys.readouterr().err

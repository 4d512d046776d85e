"""Targets prepared in advance: by the real command's code, in processes that are killed with real signals."""

import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from equal_logs import lines
from own_process import OwnProcess

from violet.data import moving_shapes
from violet.modeling_violet.objectives.masked_vision import MVM_TARGETS
from violet.training import SettingsError
from violet.training.preparing import PreparedTargets, prepare_targets
from violet.training.pretraining import pretrain
from violet.training.recipe import DatasetRecipe, PretrainingRecipe, read_recipe
from violet.training.targets import SETTINGS_FILE, ShardedTargets, open_targets

pytestmark = pytest.mark.usefixtures("separate_runs")

CLIPS, HELD_OUT = 20, 4


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "shapes"
    splits = {"train": 0, "test": 0, "test_unseen": 0, "test_together": 0}
    moving_shapes(folder, **splits, pretrain=CLIPS, validation=HELD_OUT, seed=7)
    return folder


def make_recipe(drawn: Path, **settings) -> PretrainingRecipe:
    dataset = {"name": "shapes", "source": "moving_shapes", "path": str(drawn), "seed": 7}
    dataset |= {"clips": CLIPS, "validation_clips": HELD_OUT} | settings.pop("dataset", {})
    defaults = {
        "objectives": {"mlm": 1, "mvm_hog": 1, "mvm_pixel": 1},
        "mvm_targets": {"hog": {}, "pixel": {}},
        "max_steps": 3,
        "batch_size": 8,
        "eval_batches": 1,
        "logging_steps": 1,
        "mixed_precision": "no",
        "num_workers": 0,
        "trackers": [],
    }
    return read_recipe({"datasets": [dataset], **defaults, **settings})


@pytest.fixture(scope="module")
def prepared(drawn, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("targets") / "hog"
    assert prepare_targets(make_recipe(drawn), "hog", folder) == PreparedTargets(24, 24, computed=24)
    return folder


def stored(folder: Path) -> dict[str, torch.Tensor]:
    targets = ShardedTargets(folder, {})
    return {name: targets.read(name, range(4)) for name in targets.shards}


def test_training_on_stored_targets_is_training_on_computed_ones(drawn, prepared, tmp_path):
    """Pixels and HOG differ from no batch to another; equal to the bit, for every step and the evaluation."""
    pixels = tmp_path / "pixels"
    prepare_targets(make_recipe(drawn), "pixel", pixels)
    names = {"hog": str(prepared), "pixel": str(pixels)}
    pretrain(make_recipe(drawn, output_dir=str(tmp_path / "computed")))
    pretrain(make_recipe(drawn, output_dir=str(tmp_path / "read"), dataset={"targets": names}))
    computed, read = (lines(tmp_path / run) for run in ("computed", "read"))
    assert computed == read
    losses = [line["loss_mvm_hog"] for line in computed if "loss_mvm_hog" in line]
    assert len(losses) == 3 and min(losses) > 0


def test_a_network_gives_the_same_target_beforehand_as_in_its_batch(drawn, tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=32, patch_size=16)).save_pretrained(tmp_path / "clip")
    objectives = {"mvm_2d_clip_feature": 1}
    head = {"teacher": str(tmp_path / "clip"), "channels": 16}
    recipe = make_recipe(drawn, objectives=objectives, mvm_targets={"2d_clip_feature": head}, max_steps=1)
    prepare_targets(recipe, "2d_clip_feature", tmp_path / "features")
    dataset = replace(recipe.datasets[0], targets={"2d_clip_feature": str(tmp_path / "features")})
    computed = pretrain(replace(recipe, output_dir=str(tmp_path / "computed"))).metrics
    read = pretrain(replace(recipe, output_dir=str(tmp_path / "read"), datasets=[dataset])).metrics
    name = "shapes/loss_mvm_2d_clip_feature"
    assert read[name] == pytest.approx(computed[name], rel=1e-5) and read[name] > 0


def test_a_killed_preparation_goes_on_to_the_same_targets(drawn, prepared, tmp_path):
    folder = tmp_path / "killed"
    recipe = make_recipe(drawn, batch_size=4)
    code = f"""
import time
from violet.training import preparing, targets
from violet.training.recipe import DatasetRecipe, PretrainingRecipe

targets.ROWS_PER_SHARD = 4
read = preparing.ClipReader.read
preparing.ClipReader.read = lambda *arguments: time.sleep(0.05) or read(*arguments)  # as long videos take
preparing.prepare_targets({recipe!r}, "hog", {str(folder)!r})
"""
    process = OwnProcess("-c", code)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "targets-000001.safetensors").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
    kept = {shard: shard.stat().st_mtime_ns for shard in folder.glob("*.safetensors")}
    before = stored(folder)
    assert 8 <= len(before) < 24, "it was killed in the middle"
    (folder / ".targets-000005.safetensors.partial").write_bytes(b"half")

    assert prepare_targets(recipe, "hog", folder) == PreparedTargets(24, 24, computed=24 - len(before))
    assert all(shard.stat().st_mtime_ns == time_written for shard, time_written in kept.items())
    expected, got = stored(prepared), stored(folder)
    assert expected.keys() == got.keys() and all(torch.equal(expected[name], got[name]) for name in expected)
    assert max(target.max() for target in got.values()) > 0
    assert prepare_targets(recipe, "hog", folder).computed == 0


def test_captions_of_one_video_share_its_target(drawn, tmp_path):
    clips = sorted((drawn / "pretrain").glob("*.mp4"))[:3]
    lines = [f"{clips[i]},a disc" for i in (0, 1, 1, 2, 2, 2)]
    (tmp_path / "table.csv").write_text("\n".join(["video,caption", *lines]))
    table = {"name": "mine", "source": "table", "path": str(tmp_path / "table.csv")}
    recipe = replace(make_recipe(drawn), datasets=[DatasetRecipe(**table)])
    assert prepare_targets(recipe, "hog", tmp_path / "hog") == PreparedTargets(6, 3, computed=3)
    assert set(stored(tmp_path / "hog")) == {str(clip) for clip in clips}

    with open(tmp_path / "table.csv", "a") as file:
        file.write(f"\n{sorted((drawn / 'pretrain').glob('*.mp4'))[3]},a disc")
    dataset = replace(recipe.datasets[0], targets={"hog": str(tmp_path / "hog")})
    with pytest.raises(SettingsError, match=r"lacks the targets of 1 of 4 rows, .*pretrain-000003"):
        pretrain(replace(recipe, datasets=[dataset], output_dir=str(tmp_path / "run")))
    assert not list(tmp_path.glob("run/log*")), "it is refused before a step is taken"
    assert prepare_targets(recipe, "hog", tmp_path / "hog") == PreparedTargets(7, 4, computed=1)


def test_one_id_of_two_videos_is_refused(drawn, tmp_path):
    first, second = sorted((drawn / "pretrain").glob("*.mp4"))[:2]
    (tmp_path / "table.csv").write_text(f"id,video,caption\nx,{first},a disc\nx,{second},a cross\n")
    table = DatasetRecipe(name="mine", source="table", path=str(tmp_path / "table.csv"))
    with pytest.raises(SettingsError, match="'x' stands for two videos"):
        prepare_targets(replace(make_recipe(drawn), datasets=[table]), "hog", tmp_path / "hog")


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"image_size": 96}, "image_size 64 instead of 96"),
        ({"dataset": {"num_frames": 2}}, "num_frames 4 instead of 2"),
        ({"mvm_targets": {"hog": {"teacher": "other"}, "pixel": {}}}, "teacher None instead of 'other'"),
    ],
)
def test_targets_made_with_other_settings_are_refused_by_name(drawn, prepared, tmp_path, settings, named):
    dataset = {"targets": {"hog": str(prepared)}} | settings.pop("dataset", {})
    recipe = make_recipe(drawn, output_dir=str(tmp_path / "run"), dataset=dataset, **settings)
    with pytest.raises(SettingsError, match=named):
        pretrain(recipe)


def test_another_target_or_other_drawings_do_not_go_into_the_same_folder(drawn, prepared, tmp_path):
    with pytest.raises(SettingsError, match="target 'hog' instead of 'pixel'"):
        prepare_targets(make_recipe(drawn), "pixel", prepared)
    others = make_recipe(drawn, dataset={"path": str(tmp_path / "shapes"), "seed": 8})
    with pytest.raises(SettingsError, match="drawn_with_seed 7 instead of 8"):
        prepare_targets(others, "hog", prepared)
    with pytest.raises(SettingsError, match="holds no stored targets"):
        prepare_targets(make_recipe(drawn), "hog", drawn)


def test_what_the_recipe_lacks_is_refused(drawn, tmp_path):
    with pytest.raises(SettingsError, match="no data set 'films'; there are shapes"):
        prepare_targets(make_recipe(drawn), "hog", tmp_path, "films")
    with pytest.raises(SettingsError, match="there are pixel"):
        prepare_targets(make_recipe(drawn), "smell", tmp_path)
    with pytest.raises(SettingsError, match="3d_feature.*give `source`"):
        prepare_targets(make_recipe(drawn), "3d_feature", tmp_path)
    assert not (tmp_path / SETTINGS_FILE).exists()


def test_a_damaged_shard_is_named(drawn, prepared, tmp_path):
    (tmp_path / SETTINGS_FILE).write_bytes((prepared / SETTINGS_FILE).read_bytes())
    (tmp_path / "targets-000000.safetensors").write_bytes(b"half")
    with pytest.raises(SettingsError, match="targets-000000.safetensors is damaged"):
        open_targets(tmp_path, {}, [])


def test_the_originals_pickle_of_tokens_is_read_frame_by_frame(tmp_path):
    tokens = {"video1": [np.full((7, 7), frame, np.int16) for frame in range(5)]}
    (tmp_path / "tokens.pkl").write_bytes(pickle.dumps(tokens))
    targets = open_targets(tmp_path / "tokens.pkl", {"target": "vq"}, ["video1"])
    read = targets.read("video1", [1, 3])
    assert read.shape == (2, 7, 7) and read.dtype == torch.int64 and read[:, 0, 0].tolist() == [1, 3]
    with pytest.raises(SettingsError, match="5 frames; frame 5"):
        targets.read("video1", [5])
    with pytest.raises(SettingsError, match="1 of 2 rows, the first of them 'video2'"):
        open_targets(tmp_path / "tokens.pkl", {}, ["video1", "video2"])
    assert MVM_TARGETS["vq"].loss(torch.zeros(1, 2, 7, 7, 8), read[None], torch.ones(1, 2, 7, 7).bool()) > 0

"""MM-GEM by recipes: whole clips and regions in one run, frozen parts, and rows that are refused before it starts."""

import json

import pytest
import torch

from violet import VioletForPreTraining
from violet.data import moving_shapes
from violet.data.moving_shapes import SPLITS
from violet.training.arguments import SettingsError
from violet.training.pretraining import Pretraining, pretrain
from violet.training.recipe import read_recipe

pytestmark = pytest.mark.usefixtures("separate_runs")

WORDS = "violet.text_embeddings.language_model"


def recipe_of(folder, datasets: list[dict], **changes):
    settings = {
        **{"model": "mm-gem-tiny", "output_dir": str(folder / "run"), "datasets": datasets},
        **{"objectives": {"contrast": 1.0, "generation": 1.0}, "max_steps": 3, "batch_size": 4, "num_workers": 0},
        **{"logging_steps": 1, "save_steps": 3, "eval_steps": 100, "eval_batches": 1, "trackers": []},
    }
    return read_recipe({**settings, **changes})


def drawn(folder, name: str = "wholes", **changes) -> dict:
    rows = {"source": "moving_shapes", "path": str(folder / "shapes"), "clips": 8, "validation_clips": 4}
    return {"name": name, "weight": 1.0, **rows, **changes}


@pytest.mark.proof
def test_wholes_and_regions_share_the_steps_and_a_frozen_part_keeps_its_weights(tmp_path):
    datasets = [drawn(tmp_path), drawn(tmp_path, "regions", regions=True)]
    recipe = recipe_of(tmp_path, datasets, frozen=[WORDS], learning_rate=1e-2)
    run = Pretraining(recipe)
    plans = [run.training.schedule.plan(step).dataset for step in range(3)]
    assert set(plans) == {0, 1}
    for step, number in enumerate(plans):
        batch = run.training[step]
        assert ("boxes" in batch) == (number == 1)
        if number == 1:
            boxes, shown = batch["boxes"], batch["box_mask"].bool()
            assert boxes.shape == (4, 4, 4) and shown.any(1).all()
            assert (boxes[shown][:, :2] < boxes[shown][:, 2:]).all()
    before = {name: values.clone() for name, values in run.model.state_dict().items()}
    result = run.run(resume=False)
    after = result.model.state_dict()
    changed = {name for name, values in before.items() if not torch.equal(values, after[name])}
    assert changed and not any(name.startswith(WORDS) for name in changed)
    assert {"violet.projection.end_vector", "violet.fusion.connector.first.weight"} <= changed
    assert {"wholes/loss_contrast", "regions/loss_generation"} <= set(result.metrics)
    assert 'pipeline("video-captioning"' in (tmp_path / "run" / "README.md").read_text()
    again = VioletForPreTraining.from_pretrained(tmp_path / "run")
    assert torch.equal(again.violet.projection.end_vector, after["violet.projection.end_vector"])


BOXES = {
    "in pixels": ([3, 4, 30, 40], r"row 1 \(b\): `boxes`: the box \(3, 4, 30, 40\) is in pixels"),
    "upside down": ([0.1, 0.9, 0.3, 0.4], r"row 1 \(b\).*y1 0.9 and y2 0.4"),
    "no numbers": ("left", r"column 'boxes' is 'left', and no JSON"),
    "missing": (None, "column 'boxes' is missing or empty"),
}


@pytest.mark.parametrize("kind", BOXES)
def test_rows_without_right_boxes_are_refused_before_a_run_starts(tmp_path, kind):
    wrong, message = BOXES[kind]
    clip = moving_shapes(tmp_path / "shapes", **dict.fromkeys(SPLITS, 0) | {"test": 1})["test"][0]["video"]
    rows = [
        {"id": name, "video": clip, "caption": "a disc", "boxes": json.dumps(box) if isinstance(box, list) else box}
        for name, box in (("a", [0.1, 0.2, 0.3, 0.4]), ("b", wrong))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = {"name": "mine", "source": "table", "path": str(tmp_path / "rows.jsonl"), "regions": True}
    with pytest.raises(ValueError, match=message):
        pretrain(recipe_of(tmp_path, [table]))


def test_settings_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="'regions': regions are of drawn videos or a table"):
        recipe_of(tmp_path, [drawn(tmp_path, "regions", regions=True, clips_per_video=2)])
    with pytest.raises(
        SettingsError, match="`frozen`: no module is named 'violet.nothing'; there are .*violet.fusion"
    ):
        pretrain(recipe_of(tmp_path, [drawn(tmp_path)], frozen=["violet.nothing"]))
    with pytest.raises(SettingsError, match="the model has no mlm"):
        pretrain(recipe_of(tmp_path, [drawn(tmp_path)], objectives={"mlm": 1.0}))

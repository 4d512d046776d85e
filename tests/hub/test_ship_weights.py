"""A pre-trained model becomes weights of the package."""

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from violet import VioletForPreTraining, named_configuration
from violet.hub import cards

SCRIPT = Path(__file__).parents[2] / "tools" / "ship_weights.py"


@pytest.fixture(scope="module")
def script():
    """The maintainer's script, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("ship_weights", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(tmp_path, model_folder, monkeypatch, script):
    """What the script reads of a finished pre-training's folder."""
    from transformers import AutoProcessor

    for module in (script, cards):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "package")
    folder = tmp_path / "violet-mini"
    torch.manual_seed(0)
    VioletForPreTraining(named_configuration("violet-tiny", num_hidden_layers=1)).save_pretrained(folder)
    AutoProcessor.from_pretrained(model_folder).save_pretrained(folder)
    (folder / "curves.png").write_bytes(b"picture")
    shapes = {"name": "shapes", "source": "moving_shapes", "split": None, "clips": 9, "seed": 1, "path": "out/shapes"}
    settings = {"datasets": [shapes], "max_steps": 7, "output_dir": "out", "trackers": []}
    (folder / "metrics.json").write_text(json.dumps({"shapes/loss": 1.25, "settings": settings}))
    return folder


def test_half_precision_with_a_card_that_names_recipe_and_results(model, script, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("max_steps: 7\n")
    folder = script.ship(model, recipe)
    assert folder == tmp_path / "package" / "violet-mini"
    before, after = load_file(model / "model.safetensors"), load_file(folder / "model.safetensors")
    assert set(before) == set(after)
    assert all(torch.equal(after[key], value.half()) for key, value in before.items())
    assert VioletForPreTraining.from_pretrained(folder).dtype == torch.float32
    card = (folder / "README.md").read_text()
    assert "| shapes, validation | loss | 1.25 |" in card and "| max_steps | 7 |" in card
    assert 'violet.pretrained("violet-mini")' in card and "license: apache-2.0" in card
    assert "| recipe | recipe.yaml |" in card and hashlib.sha256(recipe.read_bytes()).hexdigest() in card
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in card
    script.ship(model, recipe)  # over what is there
    assert sorted(path.name for path in folder.parent.iterdir()) == ["violet-mini"]


def test_weights_too_heavy_for_a_package_are_refused(model, script, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("max_steps: 7\n")
    monkeypatch.setattr(script, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="violet-mini would add .* at most 1,000"):
        script.ship(model, recipe)
    assert not (tmp_path / "package" / "violet-mini").exists()

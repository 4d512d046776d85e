"""A pre-trained model becomes weights of the package."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from violet import VioletForPreTraining, named_configuration
from violet.hub import cards, shipping


@pytest.fixture
def model(tmp_path, model_folder, monkeypatch):
    """A finished pre-training's folder, as far as shipping reads it."""
    from transformers import AutoProcessor

    for module in (shipping, cards):
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


def test_half_precision_with_a_card_that_names_recipe_and_results(model, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("max_steps: 7\n")
    folder = shipping.ship(model, recipe)
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
    shipping.ship(model, recipe)  # over what is there
    assert sorted(path.name for path in folder.parent.iterdir()) == ["violet-mini"]


def test_weights_too_heavy_for_a_package_are_refused(model, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("max_steps: 7\n")
    monkeypatch.setattr(shipping, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="violet-mini would add .* at most 1,000"):
        shipping.ship(model, recipe)
    assert not (tmp_path / "package" / "violet-mini").exists()

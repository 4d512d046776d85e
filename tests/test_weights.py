"""The weights that come with the package."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining, AutoProcessor

import violet
from violet.core.weights import FOLDER, pretrained_names

RECIPE = Path(__file__).parents[1] / "examples" / "violet-tiny.yaml"


@pytest.mark.parametrize("name", pretrained_names())
def test_they_load_completely_and_as_float32(name):
    model, loading = AutoModelForPreTraining.from_pretrained(violet.pretrained(name), output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    stored = load_file(FOLDER / name / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16} and model.dtype == torch.float32
    for key, value in model.state_dict().items():
        assert torch.equal(value, stored[key].float()), key
    AutoProcessor.from_pretrained(violet.pretrained(name))


def test_they_are_small_and_say_where_they_come_from():
    folder = FOLDER / "violet-tiny"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8_000_000
    card = (folder / "README.md").read_text()
    assert hashlib.sha256(RECIPE.read_bytes()).hexdigest() in card
    assert (folder / "curves.png").exists() and "curves.png" in card
    assert json.loads((folder / "config.json").read_text())["model_type"] == "violet"


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="violet-huge.*violet-tiny"):
        violet.pretrained("violet-huge")

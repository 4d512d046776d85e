"""MaskAlign's published files there and back: the student's ViT, what is kept beside it, and what is refused."""

import argparse
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from full_size import comes_back
from maskalign_reference import MaskAlignReference, drawn

from violet import VioletForPreTraining, VioletModel
from violet.cli import main
from violet.configuration import named_configuration
from violet.core.files import write_tensors
from violet.hub import ConversionError, WeightsError, export_original, from_original
from violet.hub.conversion import KEPT_FILE, convert
from violet.hub.planning import plan_conversion
from violet.hub.weight_files import read_weights
from violet.modeling_violet.encoders.maskalign_vit import MaskAlignVisionModel, sine_positions


@pytest.fixture(scope="module")
def reference(shared_folder) -> MaskAlignReference:
    return MaskAlignReference(shared_folder)


@pytest.fixture(scope="module")
def weights(reference) -> dict[str, torch.Tensor]:
    """The small instance under the published names; `pos_embed` has its sines."""
    keys = reference.read_keys("maskalign_keys.json")
    found = {name: drawn(name, tuple(shape)) for name, shape in keys.items()}
    return found | {"pos_embed": sine_positions(5, 5, 256)[None]}


@pytest.mark.shared
def test_a_published_file_becomes_the_encoder_and_comes_back_to_the_bit(reference, weights, tmp_path):
    path = tmp_path / "b16.pth"
    named = argparse.Namespace(model="mae_vit_base_patch16", mask_ratio=0.7)
    torch.save({"model": weights, "optimizer": {"state": {}}, "epoch": 199, "scaler": {}, "args": named}, path)
    report = convert(path, tmp_path / "model")
    assert report.kind == "MaskAlign" and report.model_class == "VioletModel" and not report.new
    assert set(report.used) | {name for name in report.skipped if name in weights} == set(weights)
    assert set(report.skipped) - set(weights) == {"optimizer", "epoch", "scaler", "args"}
    assert report.skipped["clip_model.vision_model.embeddings.class_embedding"].startswith("the frozen teacher")
    assert report.skipped["pos_embed"] == "computed" and not report.unlike
    back = export_original(tmp_path / "model")
    assert set(back) == set(weights)
    assert all(torch.equal(back[name], value) for name, value in weights.items())


@pytest.mark.shared
@torch.no_grad()
def test_the_converted_encoder_gives_what_the_original_gave(reference, weights):
    model, _ = from_original({"model": dict(weights)})
    assert type(model) is VioletModel and model.config.vision_config.num_attention_heads == 4
    whole = model.vision_model(reference.pictures())
    assert reference.difference("trunk_mean_of_patches", whole.last_hidden_state.flatten(1, 3).mean(1)) < 2e-5
    alone, report = from_original(dict(weights), MaskAlignVisionModel)
    assert torch.equal(alone(reference.pictures()).frame_states, whole.frame_states) and not report.new


@pytest.mark.shared
def test_the_alignment_goes_with_a_model_that_is_trained_on(reference, weights):
    config = named_configuration(
        "maskalign-tiny",
        vision_config=from_original(dict(weights))[0].config.vision_config.to_dict(),
        objectives={"align": {}},
    )
    model, report = from_original(dict(weights), VioletForPreTraining, config)
    head = model.objective_heads["align"]
    assert torch.equal(head.weights, weights["distill_weights"])
    assert all(torch.equal(head.heads[str(n)].weight, weights[f"distill_heads.{n}.weight"]) for n in range(7, 12))
    assert "distill_heads.6.weight" in report.skipped and "distill_heads.7.weight" in report.used


@pytest.mark.shared
def test_positions_that_are_no_sines_are_reported_and_come_back(weights, tmp_path):
    other = weights | {"pos_embed": weights["pos_embed"] + 1e-3}
    torch.save(other, tmp_path / "other.pth")
    report = convert(tmp_path / "other.pth", tmp_path / "model")
    assert report.unlike == {"pos_embed": "pos_embed"} and "other numbers" in report.skipped["pos_embed"]
    assert torch.equal(export_original(tmp_path / "model")["pos_embed"], other["pos_embed"])


@pytest.mark.shared
def test_every_published_key_is_explained(reference):
    keys = {name: tuple(shape) for name, shape in reference.read_keys("maskalign_base_keys.json").items()}
    plan = plan_conversion(keys | {"clip_model.vision_model.embeddings.position_ids": (1, 197)})
    named = named_configuration("maskalign-base-16")
    assert plan.config.vision_config.to_dict() == named.vision_config.to_dict()
    used = {piece.theirs for piece in plan.layout.pieces}
    assert used | set(plan.skipped) == {*keys, "clip_model.vision_model.embeddings.position_ids"}
    assert not plan.layout.new and len(keys) == 374
    with torch.device("meta"):
        model = VioletModel(named)
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(
        torch.Size(shape).numel() for name, shape in keys.items() if name in used
    )


@pytest.mark.shared
@pytest.mark.proof
def test_the_published_size_comes_back_equal_to_the_bit(reference, tmp_path, free_memory):
    """The teacher and what the shapes fix are kept beside the model; what training kept is not weights, and goes."""
    keys = reference.read_keys("maskalign_base_keys.json")
    beside = {"optimizer": {"state": {}}, "epoch": 199, "scaler": {}, "args": argparse.Namespace(mask_ratio=0.7)}

    def sines(key: str) -> torch.Tensor | None:
        return sine_positions(14, 14, 768)[None] if key == "pos_embed" else None

    def write(weights: dict[str, torch.Tensor], folder: Path) -> Path:
        torch.save({"model": weights, **beside}, folder / "original.pth")
        return folder / "original.pth"

    report = comes_back(keys, tmp_path, free_memory, sines, write, beside=beside)
    shutil.rmtree(tmp_path)  # some GB, which pytest would keep
    teacher = {key for key, why in report.skipped.items() if why.startswith("the frozen teacher")}
    alignment = {key for key in keys if key.startswith("distill_")}
    assert teacher == {key for key in keys if key.startswith("clip_model.")} and len(teacher) == 199
    assert set(report.skipped) == teacher | alignment | {"pos_embed", *beside}
    assert teacher | alignment == set(report.kept)


@pytest.mark.shared
def test_a_fine_tuned_file_gives_its_trunk(weights):
    trunk = {name: value for name, value in weights.items() if not name.startswith(("distill", "clip_model", "norm."))}
    head = {"fc_norm.weight": torch.ones(256), "fc_norm.bias": torch.zeros(256), "head.weight": torch.zeros(10, 256)}
    model, report = from_original({**trunk, **head, "head.bias": torch.zeros(10)})
    assert report.kind == "MaskAlign, fine-tuned" and set(report.new) == {
        f"video_encoder.maskalign_vit.norm.{name}" for name in ("weight", "bias")
    }
    assert torch.equal(model.vision_model.blocks[3].attn.qkv.weight, weights["blocks.3.attn.qkv.weight"])
    assert "head.weight" in report.skipped


@pytest.mark.shared
@pytest.mark.parametrize(
    "change, told",
    [
        ({"blocks.3.mlp.fc1.bias": None}, "missing: 'blocks.3.mlp.fc1.bias'"),
        ({"pos_embed": None}, "missing|does not"),
        ({"blocks.3.extra": torch.zeros(2)}, "unknown to MaskAlign: 'blocks.3.extra'"),
        ({"norm.weight": torch.zeros(5)}, r"'norm.weight' has shape \(5,\)"),
        ({"pos_embed": torch.zeros(1, 24, 256)}, "not those of square pictures"),
    ],
)
def test_a_file_with_a_wrong_key_is_refused_by_its_name(weights, change, told):
    changed = {name: value for name, value in {**weights, **change}.items() if value is not None}
    with pytest.raises(WeightsError, match=told):
        from_original(changed)


class Exploit:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_the_arguments_beside_weights_are_read_and_nothing_else_is_run(tmp_path, capsys):
    weights = {"cls_token": torch.zeros(1, 1, 4)}
    torch.save({"model": weights, "args": argparse.Namespace(lr=1e-3, name="b16")}, tmp_path / "named.pth")
    read = read_weights(tmp_path / "named.pth")
    assert set(read.tensors) == {"cls_token"} and "args" in read.skipped
    for number, args in enumerate((argparse.Namespace(lr=Exploit()), Exploit())):
        torch.save({"model": weights, "args": args}, tmp_path / f"{number}.pth")
        with pytest.raises(WeightsError, match=r"refused, and nothing of it was run.*builtins\.print"):
            read_weights(tmp_path / f"{number}.pth")
    assert "run" not in capsys.readouterr().out


@pytest.mark.shared
def test_the_command_converts_and_writes_back(weights, tmp_path, capsys):
    write_tensors(tmp_path / "b16.safetensors", dict(weights))
    assert main(["convert", str(tmp_path / "b16.safetensors"), str(tmp_path / "model")]) == 0
    assert "the frozen teacher" in capsys.readouterr().out and (tmp_path / "model" / KEPT_FILE).is_file()
    assert main(["export-original", str(tmp_path / "model"), str(tmp_path / "back.safetensors")]) == 0
    assert set(read_weights(tmp_path / "back.safetensors").tensors) == set(weights)


def test_a_plain_vit_is_no_maskalign():
    with pytest.raises(ConversionError):
        from_original({"pos_embed": torch.zeros(1, 5, 8), "blocks.0.attn.qkv.weight": torch.zeros(24, 8)})

"""HD-VILA's checkpoints become models and come back equal to the bit, with what no pass reads."""

import json
import shutil
import zlib

import pytest
import torch
from full_size import comes_back

from violet.hub.conversion import convert, export_original, from_original
from violet.hub.layout_hd_vila import HD_VILA
from violet.hub.planning import ConversionError, plan_conversion

shared = pytest.mark.shared


def shapes_of(folder, name: str) -> dict[str, tuple[int, ...]]:
    whole = json.loads((folder / "goldens" / "hd_vila_base_keys.json").read_text())[name]
    return {key: tuple(shape) for key, shape in whole.items()}


def smaller(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The same names with an eighth of each width, so that a test takes seconds: a model of its own configuration."""
    words = {30522: 600, 512: 64}
    return {
        key: tuple(words.get(side, side // 8 if side >= 64 and side not in (100, 160) else side) for side in shape)
        for key, shape in shapes.items()
    }


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Numbers that tell each tensor from all others."""
    made = {}
    for key, shape in shapes.items():
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        made[key] = torch.randn(shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            made[key] = torch.tensor(7)
    return made


@shared
@pytest.mark.parametrize("stage", ["pretrain_stage1", "pretrain_stage2"])
def test_every_published_key_is_explained(shared_folder, stage):
    shapes = shapes_of(shared_folder, stage)
    plan = plan_conversion(shapes)
    assert plan.kind.name == HD_VILA.name
    assert set(plan.skipped) | {plan.names[piece.theirs] for piece in plan.layout.pieces} == set(shapes)
    assert not plan.layout.new
    unread = {key for key in plan.skipped if "num_batches_tracked" not in key}
    expected = {key for key in shapes if key.startswith(("cnn_low.layer4.", "timesformer.norm."))}
    if stage == "pretrain_stage2":
        expected |= {
            "transformer.bert.visual_embeddings.position_embeddings.weight",
            "transformer.cls.predictions.bias",
        }
    assert unread == {key for key in expected if "num_batches_tracked" not in key}
    sizes = plan.config.vision_config, plan.config.text_config.num_hidden_layers, plan.config.has_fusion
    assert (sizes[0].hidden_size, *sizes[1:]) == (1024, 12, stage == "pretrain_stage2")
    assert tuple(sizes[0].position_grid) == (10, 16) and tuple(sizes[0].resnet_depths) == (3, 4, 6, 3)


@shared
@pytest.mark.parametrize(
    "stage",
    ["pretrain_stage2", *(pytest.param(one, marks=pytest.mark.proof) for one in ("pretrain_stage1", "answers"))],
)
def test_a_checkpoint_comes_back_equal_to_the_bit(shared_folder, stage, tmp_path):
    shapes = smaller(shapes_of(shared_folder, "pretrain_stage1" if stage == "pretrain_stage1" else "pretrain_stage2"))
    if stage == "answers":
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith("transformer.cls.")}
        shapes |= {"transformer.classifier.0.weight": (256, 128), "transformer.classifier.0.bias": (256,)}
        shapes |= {"transformer.classifier.2.weight": (5, 256), "transformer.classifier.2.bias": (5,)}
    weights = filled(shapes)
    source = tmp_path / "weights.pt"
    torch.save(weights, source)
    convert(source, tmp_path / "model", with_tokenizer=False)
    settings = (
        json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())
        if (tmp_path / "model" / "preprocessor_config.json").is_file()
        else json.loads((tmp_path / "model" / "video_preprocessor_config.json").read_text())
    )
    assert settings["inputs"] == ["pixel_values_videos", "pixel_values_detail"]
    terms = json.loads((tmp_path / "model" / "config.json").read_text())["weights_license"]
    assert "Microsoft Research" in terms and "may be passed on" in terms
    back = export_original(tmp_path / "model")
    assert set(back) == set(weights)
    for key, value in weights.items():
        assert back[key].dtype == value.dtype and torch.equal(back[key], value), key


@shared
@pytest.mark.proof
@pytest.mark.parametrize("stage", ["pretrain_stage1", "pretrain_stage2"])
def test_the_published_sizes_come_back_equal_to_the_bit(shared_folder, stage, tmp_path, free_memory):
    def counted(key):
        return torch.tensor(7) if key.endswith("num_batches_tracked") else None

    comes_back(shapes_of(shared_folder, stage), tmp_path, free_memory, counted)
    shutil.rmtree(tmp_path)  # some GB, which pytest would keep


@shared
def test_missing_and_unknown_keys_and_odd_halves_are_refused(shared_folder):
    shapes = smaller(shapes_of(shared_folder, "pretrain_stage2"))
    with pytest.raises(ConversionError, match=r"has 'timesformer.time_embed', and this one does not"):
        plan_conversion({key: shape for key, shape in shapes.items() if key != "timesformer.time_embed"})
    with pytest.raises(ConversionError, match=r"missing: 'cnn.layer3.5.conv2.weight'"):
        plan_conversion({key: shape for key, shape in shapes.items() if key != "cnn.layer3.5.conv2.weight"})
    with pytest.raises(ConversionError, match=r"unknown to HD-VILA: 'transformer.extra'"):
        plan_conversion(shapes | {"transformer.extra": (3,)})
    odd = {key: shape for key, shape in shapes.items() if ".layer.23." not in key}
    with pytest.raises(ConversionError, match="BERT has 23 layers, which make no two halves"):
        plan_conversion(odd)
    grid = shapes | {"timesformer.pos_embed": (1, 100, 128)}
    with pytest.raises(ConversionError, match="The 100 positions .*`vision_config.position_grid`"):
        plan_conversion(grid)
    with pytest.raises(ConversionError, match="'grid_encoder_combine.0.weight' has shape"):
        plan_conversion(shapes | {"grid_encoder_combine.0.weight": (128, 128, 1, 1)})


def test_weights_of_another_system_are_no_hd_vila():
    with pytest.raises(ConversionError):
        from_original({"timesformer.blocks.0.norm1.weight": torch.zeros(4)})

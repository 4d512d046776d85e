"""CLIP-ViP's published files there and back, and models of transformers' CLIP as its beginning."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_vip_reference import PREFIX, SEED, ClipVipReference
from public_models import save_clip
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipTextConfig,
    SiglipTextModel,
)

from violet import VioletConfig, build_model, named_configuration
from violet.cli import main
from violet.hub import ConversionError, WeightsError, export_original, from_original
from violet.hub.planning import plan_conversion
from violet.modeling_violet import VioletForRetrieval, VioletModel
from violet.modeling_violet.encoders.clip_vip import ClipVipVisionModel

TEXTS = ["a red disc moves left", "the blue square stands still", "one of them goes up"]
NEW = {"added_cls", "temporal_embedding"}


@pytest.fixture(scope="module")
def reference(shared_folder) -> ClipVipReference:
    return ClipVipReference(shared_folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A small CLIP of transformers: folder, with tokenizer and processor."""
    return save_clip(TEXTS * 3, tmp_path_factory.mktemp("clip"))


def pictures(side: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


# --- published files ---


@pytest.mark.shared
def test_a_published_file_gives_what_the_original_gave(reference):
    model, report = from_original(dict(reference.weights))
    assert type(model) is VioletForRetrieval and report.kind == "CLIP-ViP" and not report.new
    assert set(report.used) | set(report.skipped) == set(reference.weights)
    assert {name.rpartition(".")[2] for name in report.skipped} == {"position_ids"}
    ids, mask = reference.text(SEED + 1)
    captions, captions_mask = reference.text(SEED + 3)
    with torch.no_grad():
        texts = model.violet.encode_texts(ids, mask)
        padded = model.violet.encode_texts(torch.where(mask.bool(), ids, 0), mask)
        found = {
            "text_last_hidden": texts.tokens,
            "text_pooled": texts.pooled,
            "text_pooled_padded_with_0": padded.pooled,
            "text_features": model.violet.embed_texts(ids, mask),
            "cap_features": model.violet.embed_texts(captions, captions_mask),
            "vis_features": model.violet.embed_videos(model.violet.encode_videos(reference.clip())),
            "img_features": model.violet.embed_videos(model.violet.encode_videos(reference.clip(SEED + 2, 1))),
        }
        logits = model(reference.clip(), ids, mask, labels=torch.arange(2))
    assert len(found) == 7
    assert {name: reference.difference(name, got) < 2e-5 for name, got in found.items()} == dict.fromkeys(found, True)
    assert reference.difference("logits_per_text", logits.logits) < 2e-3  # 99.5 times features
    # the terms of fine-tuning are summed, and the archive's are halved
    assert float(logits.loss) == pytest.approx(2 * float(reference.archive["loss_symmetric_mean"]), abs=1e-4)


@pytest.mark.shared
@pytest.mark.parametrize("counters", [True, False])
def test_the_command_line_there_and_back(reference, counters, tmp_path, capsys):
    weights = dict(reference.weights)
    if not counters:
        weights = {name: value for name, value in weights.items() if not name.endswith("position_ids")}
    torch.save(weights, tmp_path / "clip_vip.pt")
    assert main(["convert", str(tmp_path / "clip_vip.pt"), str(tmp_path / "model"), "--no_tokenizer"]) == 0
    settings = json.loads((tmp_path / "model" / "video_preprocessor_config.json").read_text())
    assert settings["num_frames"] == 6 and settings["size"] == {"height": 96, "width": 96}
    assert settings["frame_sampling"] == "ends" and settings["do_stretch"] and settings["resample"] == 3
    assert settings["image_mean"][0] == 0.48145466
    assert main(["export-original", str(tmp_path / "model"), str(tmp_path / "back.pt")]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert set(back) == set(reference.weights)
    for name, value in reference.weights.items():
        assert back[name].dtype == value.dtype and torch.equal(back[name], value), name


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.proof
def test_full_size_keys_come_back_to_the_bit(reference, free_memory):
    keys = reference.read_keys("clip_vip_base_keys.json")

    def weight(name: str) -> torch.Tensor:
        if name.endswith("position_ids"):
            return torch.arange(keys[name][1])[None]
        generator = torch.Generator().manual_seed(len(name) * 1009 + sum(map(ord, name)))
        return torch.randn(keys[name], generator=generator)

    model, report = from_original({name: weight(name) for name in keys})
    assert not report.new and set(report.used) | set(report.skipped) == set(keys)
    assert sum(one.numel() for one in model.parameters()) == 151_288_833
    back = export_original(model)
    assert set(back) == set(keys)
    for name in keys:
        assert torch.equal(back[name], weight(name)), name
    del model, back
    free_memory()


@pytest.mark.shared
@pytest.mark.parametrize("patch", [32, 16])
def test_published_sizes_are_those_of_the_named_configurations(reference, patch):
    keys = {name: tuple(shape) for name, shape in reference.read_keys("clip_vip_base_keys.json").items()}
    if patch == 16:
        places = {"patch_embedding.weight": (768, 3, 16, 16), "position_embedding.weight": (197, 768)}
        for name, shape in (places | {"position_ids": (1, 197)}).items():
            keys[f"{PREFIX}vision_model.embeddings.{name}"] = shape
    found = plan_conversion(keys).config.to_dict()
    expected = named_configuration(f"clip-vip-base-{patch}").to_dict()
    for side in ("vision_config", "text_config"):
        told, named = found.pop(side), expected.pop(side)
        for name in ("bos_token_id", "pad_token_id"):  # of transformers' text tower, which reads neither
            told.pop(name, None), named.pop(name, None)
        assert told == named
    del found["video_grid_size"], expected["video_grid_size"]  # VIOLET's own places, of which there are none
    assert found == expected


@pytest.mark.shared
@pytest.mark.parametrize(
    "change, told",
    [
        (
            {"vision_model.encoder.layers.1.mlp.fc1.bias": None},
            "missing: '{}vision_model.encoder.layers.1.mlp.fc1.bias'",
        ),
        (
            {"vision_model.embeddings.temporal_embedding": None},
            "missing: '{}vision_model.embeddings.temporal_embedding'",
        ),
        (
            {"vision_model.pre_layrnorm.extra": torch.zeros(2)},
            "unknown to CLIP-ViP: '{}vision_model.pre_layrnorm.extra'",
        ),
        ({"text_projection.weight": torch.zeros(64, 256)}, "shapes disagree on the width of the projections"),
        ({"vision_model.embeddings.class_embedding": torch.zeros(5)}, "class_embedding' has shape \\(5,\\)"),
    ],
)
def test_a_file_with_a_wrong_key_is_refused_by_its_name(reference, change, told):
    weights = reference.weights | {PREFIX + name: value for name, value in change.items()}
    with pytest.raises(ConversionError, match=told.format(PREFIX).replace(".", "\\.")):
        from_original({name: value for name, value in weights.items() if value is not None})


@pytest.mark.shared
@pytest.mark.parametrize("tower, last", [("vision_model", 11), ("text_model", 11)])
def test_a_last_layer_is_missed_at_published_sizes(reference, tower, last):
    keys = reference.read_keys("clip_vip_base_keys.json")
    start = f"{PREFIX}{tower}.encoder.layers.{last}."
    found = {name: tuple(shape) for name, shape in keys.items() if not name.startswith(start)}
    with pytest.raises(ConversionError, match=f"missing: '{start}"):
        plan_conversion(found)


@pytest.mark.shared
def test_another_size_is_refused_by_its_first_key(reference):
    keys = {name: tuple(shape) for name, shape in reference.read_keys("clip_vip_base_keys.json").items()}
    with pytest.raises(ConversionError, match="patch_embedding.weight' has shape"):
        plan_conversion(keys, VioletForRetrieval, named_configuration("clip-vip-base-16"))
    larger = named_configuration("clip-vip-base-32").to_dict()["vision_config"] | {"image_size": 384}
    plan = plan_conversion(keys, VioletForRetrieval, named_configuration("clip-vip-base-32", vision_config=larger))
    assert plan.config.vision_config.image_size == 384  # the grid of positions is interpolated, and the report says so


# --- CLIP of transformers ---


@torch.no_grad()
def test_a_clip_becomes_a_clip_vip_with_two_new_tables(clip):
    theirs, processor = CLIPModel.from_pretrained(clip).eval(), AutoTokenizer.from_pretrained(clip)
    model, report = from_original(clip)
    assert type(model) is VioletForRetrieval and report.kind == "CLIP"
    assert {name.rpartition(".")[2] for name in report.new} == NEW
    assert set(report.used) == set(theirs.state_dict())
    inputs = processor(TEXTS, padding=True, return_tensors="pt")
    expected = theirs.get_text_features(**inputs).pooler_output
    states = model.violet.encode_texts(inputs["input_ids"], inputs["attention_mask"])
    assert torch.equal(model.violet.projection.text_projection(states.pooled), expected)
    vision = model.config.vision_config.to_dict() | {"num_proxies": 1, "temporal_size": None}
    alone = VioletConfig(**model.config.to_dict() | {"vision_config": vision})
    plain, report = from_original(clip, config=alone)
    assert not report.new
    pixels = pictures()
    got = plain.violet.projection.video_projection(plain.violet.encode_videos(pixels[:, None]).pooled)
    torch.testing.assert_close(got, theirs.get_image_features(pixels).pooler_output, rtol=0, atol=1e-6)


def saved_tower(kind: type, clip: Path, folder: Path, prefixed: bool) -> Path:
    """A part of the CLIP, as newer or older releases of transformers save it."""
    tower = kind.from_pretrained(clip)
    tower.save_pretrained(folder)
    if prefixed:
        side = "vision_model." if "Vision" in kind.__name__ else "text_model."
        bare = tower.state_dict()
        named = {
            name if name.startswith((side, "visual_", "text_projection")) else side + name: bare[name] for name in bare
        }
        counters = {f"{side}embeddings.position_ids": torch.arange(5 if "Vision" in kind.__name__ else 48)[None]}
        (folder / "model.safetensors").unlink()
        torch.save(named | counters, folder / "pytorch_model.bin")
    return folder


@torch.no_grad()
@pytest.mark.parametrize("prefixed", [False, True])
@pytest.mark.parametrize("kind", [CLIPVisionModel, CLIPVisionModelWithProjection])
def test_a_vision_tower_becomes_the_tower(kind, prefixed, clip, tmp_path):
    folder = saved_tower(kind, clip, tmp_path, prefixed)
    model, report = from_original(folder)
    assert type(model) is ClipVipVisionModel and set(report.new) == {f"embeddings.{name}" for name in NEW}
    whole, _ = from_original(clip)
    for name, value in whole.violet.vision_model.state_dict().items():
        assert name in report.new or torch.equal(model.state_dict()[name], value)


@torch.no_grad()
@pytest.mark.parametrize("prefixed", [False, True])
@pytest.mark.parametrize("projected", [False, True])
def test_towers_fill_their_part_of_a_model_and_the_rest_is_named_as_new(projected, prefixed, clip, tmp_path):
    whole, _ = from_original(clip)
    kinds = (
        (CLIPVisionModelWithProjection, CLIPTextModelWithProjection) if projected else (CLIPVisionModel, CLIPTextModel)
    )
    vision, text = (
        saved_tower(kind, clip, tmp_path / side, prefixed) for kind, side in zip(kinds, ("v", "t"), strict=True)
    )
    model = build_model(whole.config, vision, text, VioletForRetrieval)
    expected = whole.state_dict()
    same = {name for name, value in model.state_dict().items() if torch.equal(value, expected[name])}
    new = {name.rpartition("violet.")[2] for name in expected.keys() - same}
    fresh = {f"video_encoder.clip_vip.embeddings.{name}" for name in ("added_cls",)}
    projections = {f"projection.{side}_projection.weight" for side in ("video", "text")} | {"projection.logit_scale"}
    assert new >= fresh and (new & projections >= projections - {"projection.logit_scale"}) is not projected
    told = model.conversion_report["vision"].new
    assert any("added_cls" in name for name in told)
    assert any("video_projection" in name for name in told) is not projected


@torch.no_grad()
def test_the_tower_of_a_violet_with_a_fusion_starts_from_a_clip(clip):
    vision, _ = from_original(clip)
    config = named_configuration("violet-tiny", vision_config=vision.config.vision_config.to_dict(), video_grid_size=2)
    model = build_model(config, vision=clip, model_class=VioletModel)
    report = model.conversion_report["vision"]
    assert "text_projection.weight" in report.skipped and "added_cls" in "".join(report.new)
    for name, value in vision.violet.vision_model.state_dict().items():
        assert name.rpartition(".")[2] in NEW or torch.equal(model.vision_model.state_dict()[name], value)
    assert model.encode_videos(pictures()[:, None]).num_special_per_clip == 4


def test_a_larger_grid_of_positions_is_interpolated_and_the_report_says_so(clip):
    model, _ = from_original(clip)
    larger = model.config.vision_config.to_dict() | {"image_size": 64}
    larger_model, report = from_original(
        clip, config=VioletConfig(**model.config.to_dict() | {"vision_config": larger})
    )
    assert report.changed == {"vision_model.embeddings.position_embedding.weight": "(5, 32) made (17, 32)"}
    table = larger_model.violet.vision_model.embeddings
    small = model.violet.vision_model.embeddings
    torch.testing.assert_close(table.position_embedding.weight[1:], small.places_in_frame(4, 4))


def test_what_the_settings_beside_a_clip_say_must_fit(clip):
    config = from_original(clip)[0].config
    other = config.vision_config.to_dict() | {"num_attention_heads": 2}
    with pytest.raises(ConversionError, match="`num_attention_heads` is 4 in its config.json, and 2 in ours"):
        from_original(clip, config=VioletConfig(**config.to_dict() | {"vision_config": other}))


@pytest.mark.parametrize("source", ["swin", "siglip"])
def test_another_starting_point_is_refused(source, clip, tmp_path):
    config: Any = from_original(clip)[0].config
    if source == "siglip":
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        weights: Any = SiglipTextModel(SiglipTextConfig(**sizes, vocab_size=50)).state_dict()
    else:
        weights = VioletModel(named_configuration("violet-tiny")).vision_model.state_dict()
        weights = {"backbone." + name.replace("stages.", "layers."): value for name, value in weights.items()}
    with pytest.raises(WeightsError, match="missing|nothing|unknown"):
        build_model(config, vision=weights, model_class=VioletForRetrieval)


def test_the_command_converts_a_folder_with_its_own_tokenizer(clip, tmp_path, capsys):
    assert main(["convert", str(clip), str(tmp_path / "model")]) == 0
    assert "new: violet.video_encoder.clip_vip.embeddings.added_cls and 1 more" in capsys.readouterr().out
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    assert (
        processor.max_length == 48 and processor.tokenizer("red")["input_ids"][-1] == processor.tokenizer.eos_token_id
    )
    assert processor.video_processor.num_frames == 12 and processor.video_processor.size.height == 32


def test_a_tokenizer_with_another_end_is_refused(clip, tmp_path, capsys):
    tokenizer = AutoTokenizer.from_pretrained(clip)
    tokenizer.eos_token = "a</w>"
    tokenizer.save_pretrained(tmp_path / "other")
    assert main(["convert", str(clip), str(tmp_path / "model"), "--tokenizer", str(tmp_path / "other")]) == 2
    assert "CLIP's own tokenizer is needed" in capsys.readouterr().err and not (tmp_path / "model").exists()

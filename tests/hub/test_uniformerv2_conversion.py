"""UniFormerV2's published files, OpenMMLab's, and the CLIP that it starts from: read, and written back."""

import json

import pytest
import torch
from transformers import AutoVideoProcessor, CLIPConfig, CLIPModel, CLIPVisionModel

from violet import VioletForVideoClassification, VioletModel, build_model
from violet.cli import main
from violet.configuration import named_configuration
from violet.hub import ConversionError, export_original, from_original
from violet.hub.planning import plan_conversion
from violet.modeling_violet.encoders.uniformerv2 import UniFormerV2Config, UniFormerV2Model

WIDTH = 64  # one head, by the rule of the published models
SMALL = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "patch_size": 8,
    "image_size": 16,
    "global_layers": [1, 2],
}


def configuration(num_labels: int = 5, **changes):
    vision = UniFormerV2Config(**{**SMALL, **changes})
    return named_configuration("uniformerv2-base-16-scene", vision_config=vision, num_labels=num_labels)


def model_of(**changes) -> VioletForVideoClassification:
    """A model in which no part is zero and every count differs."""
    torch.manual_seed(0)
    model = VioletForVideoClassification(configuration(**changes)).eval()
    for i, (name, value) in enumerate(model.state_dict().items()):
        if value.is_floating_point():
            value.normal_(std=0.1)
            if name.endswith("running_var"):
                value.abs_()
        else:
            value.fill_(i)
    return model


def clips() -> torch.Tensor:
    return torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


VARIANTS = [
    {},
    {"local_blocks": 1, "global_layers": [2]},
    {"local_blocks": 2, "temporal_downsampling": True},
    {"local_blocks": 2, "local_reduction": 2.7},
    {"frozen": True},
    {"frozen": True, "local_blocks": 2, "local_norm": "frozen"},
]


@torch.no_grad()
@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("kind", ["UniFormerV2", "UniFormerV2 (OpenMMLab)"])
def test_a_model_is_written_and_read_back_with_all_that_shapes_tell(changes, kind):
    model = model_of(**changes)
    written = export_original(model, kind)
    head = "cls_head.fc_cls." if "OpenMMLab" in kind else "backbone.transformer.proj.2."
    assert {name for name in written if not name.startswith("backbone.transformer.")} - {
        "backbone.conv1.weight",
        "backbone.class_embedding",
        "backbone.positional_embedding",
        "backbone.ln_pre.weight",
        "backbone.ln_pre.bias",
    } == ({head + "weight", head + "bias"} if "OpenMMLab" in kind else set())
    back, report = from_original({"model_state": written, "epoch": 3})
    assert type(back) is VioletForVideoClassification and set(report.used) == set(written) and not report.new
    assert len(report.assumed) == 2 and "`global_layers` are the last ones" in report.summary()
    told = back.config.vision_config
    expected = model.config.vision_config
    assert told.local_width == expected.local_width or not expected.local_blocks
    for name in ("global_layers", "local_blocks", "frozen", "balance", "temporal_downsampling", "image_size"):
        assert getattr(told, name) == getattr(expected, name), name
    again = export_original(back, kind)
    assert all(torch.equal(again[name], value) and again[name].dtype == value.dtype for name, value in written.items())
    assert set(again) == set(written)
    assert torch.equal(back(clips()).logits, model(clips()).logits)


@pytest.mark.parametrize(
    "key", ["backbone.transformer.resblocks.1.ln_2.bias", "backbone.transformer.dec.1.ln_3.weight"]
)
def test_a_missing_key_is_named(key):
    weights = export_original(model_of(local_blocks=2))
    del weights[key]
    with pytest.raises(ConversionError, match=f"missing: '{key}'"):
        from_original(weights)


def test_a_file_without_a_layer_or_a_global_block_is_refused_by_its_first_key():
    whole = export_original(model_of(local_blocks=2))
    for part, first in (("resblocks.1.", "lmhra1.pos_embed.0.weight"), ("dec.0.", "attn.in_proj_weight")):
        lacking = {name: value for name, value in whole.items() if f".{part}" not in name}
        with pytest.raises(ConversionError, match=rf"missing: '[\w.]*{part}") as error:
            from_original(lacking)
        assert first in str(error.value) or "ln_" in str(error.value)


def test_an_unknown_key_and_a_head_of_other_classes_are_refused():
    weights = export_original(model_of())
    with pytest.raises(ConversionError, match=r"unknown to UniFormerV2: 'backbone\.transformer\.extra'"):
        from_original(weights | {"backbone.transformer.extra": torch.zeros(2)})
    with pytest.raises(ConversionError, match=r"proj\.2\.weight' has shape \(5, 64\), but needs \(3, 64\)"):
        from_original(weights, config=configuration(num_labels=3))
    with pytest.raises(ConversionError, match=r"positional_embedding' has shape \(5, 64\), but needs \(17, 64\)"):
        from_original(weights, config=configuration(image_size=32))
    with pytest.raises(ConversionError, match="written as UniFormerV2 or UniFormerV2 .OpenMMLab., not as 'CLIP'"):
        export_original(model_of(), "CLIP")


def test_a_frozen_file_that_still_holds_the_mix_is_read_if_the_configuration_says_so():
    weights = export_original(model_of())
    assert not from_original(weights)[0].config.vision_config.frozen  # not guessed
    model, report = from_original(weights, config=configuration(frozen=True))
    assert model.violet.vision_model.balance is None
    assert report.skipped == {
        "backbone.transformer.balance": "the configuration's features are the query, without the class tokens"
    }


def test_features_without_the_head():
    model = model_of()
    features, report = from_original(export_original(model), VioletModel)
    assert set(report.skipped) == {
        f"backbone.transformer.proj.{i}.{one}" for i in (0, 2) for one in ("weight", "bias")
    }
    expected = model.violet.encode_videos(clips()).pooled
    assert torch.equal(features.encode_videos(clips()).pooled, expected) and expected.shape == (2, WIDTH)


def test_the_command_writes_the_mean_and_deviation_of_colours(tmp_path, capsys):
    torch.save({"model_state": export_original(model_of(temporal_downsampling=True))}, tmp_path / "k400.pyth.pt")
    assert main(["convert", str(tmp_path / "k400.pyth.pt"), str(tmp_path / "model")]) == 0
    assert "assumed: `num_attention_heads` is the width / 64" in capsys.readouterr().out
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "model")
    assert list(processor.image_mean) == [0.45] * 3 and list(processor.image_std) == [0.225] * 3
    assert (processor.num_frames, processor.size.height) == (16, 16)
    back = tmp_path / "back.pth"
    options = ["--kind", "UniFormerV2 (OpenMMLab)"]
    assert main(["export-original", str(tmp_path / "model"), str(back), *options]) == 0
    assert "cls_head.fc_cls.weight" in torch.load(back, weights_only=True)


# --- from a CLIP ---


def clip_model(image_size: int = 16, patch: int = 8, width: int = WIDTH) -> CLIPModel:
    torch.manual_seed(0)
    vision = {"hidden_size": width, "num_hidden_layers": 3, "num_attention_heads": 1, "intermediate_size": 4 * width}
    vision |= {"image_size": image_size, "patch_size": patch}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    text |= {"vocab_size": 40, "bos_token_id": 38, "eos_token_id": 39}
    return CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)).eval()


def openai_names(clip: CLIPModel) -> dict[str, torch.Tensor]:
    """The same weights as OpenAI keeps them."""
    found: dict[str, torch.Tensor] = {"logit_scale": torch.tensor(1.0), "text_projection": torch.zeros(2, 2)}
    found |= {"transformer.resblocks.0.ln_1.weight": torch.ones(4), "token_embedding.weight": torch.zeros(3, 4)}
    tower = {name.removeprefix("vision_model."): one for name, one in clip.state_dict().items() if "vision_m" in name}
    found["visual.proj"], found["visual.conv1.weight"] = torch.zeros(2, 2), tower["embeddings.patch_embedding.weight"]
    found["visual.class_embedding"] = tower["embeddings.class_embedding"]
    found["visual.positional_embedding"] = tower["embeddings.position_embedding.weight"]
    for theirs, ours in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        found |= {f"visual.{theirs}.{one}": tower[f"{ours}.{one}"] for one in ("weight", "bias")}
    for i in range(3):
        at, to = f"encoder.layers.{i}.", f"visual.transformer.resblocks.{i}."
        for one in ("weight", "bias"):
            parts = [tower[f"{at}self_attn.{part}_proj.{one}"] for part in "qkv"]
            found[f"{to}attn.in_proj_{one}"] = torch.cat(parts)
            found[f"{to}attn.out_proj.{one}"] = tower[f"{at}self_attn.out_proj.{one}"]
            for theirs, ours in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2")):
                found[f"{to}{theirs}.{one}"] = tower[f"{at}{ours}.{one}"]
            for theirs, ours in (("c_fc", "fc1"), ("c_proj", "fc2")):
                found[f"{to}mlp.{theirs}.{one}"] = tower[f"{at}mlp.{ours}.{one}"]
    return found


@torch.no_grad()
@pytest.mark.parametrize("names", ["openai", "transformers", "vision tower", "folder"])
@pytest.mark.parametrize("temporal", [False, True])
def test_a_model_started_from_a_clip_gives_its_tokens(names, temporal, tmp_path):
    """With downsampling on frames 0, 2, 4, …; q = 0 and z = mean of class tokens / 2; odd frames change nothing."""
    clip = clip_model()
    tower = CLIPVisionModel(clip.config.vision_config).eval()
    tower.load_state_dict(clip.vision_model.state_dict(), strict=False)
    if names == "folder":
        clip.save_pretrained(tmp_path)
    sources = {"openai": openai_names(clip), "transformers": clip.state_dict(), "vision tower": tower.state_dict()}
    config = configuration(temporal_downsampling=temporal, local_blocks=2 if temporal else 0)
    source = sources.get(names, str(tmp_path))
    model = build_model(config, vision=source, model_class=VioletForVideoClassification)
    report = model.conversion_report["vision"]
    encoder, pixels = model.violet.vision_model.eval(), clips()
    output = encoder(pixels)
    frames = pixels[:, :: 2 if temporal else 1]
    pictures = clip.vision_model(pixel_values=frames.flatten(0, 1)).last_hidden_state.unflatten(0, frames.shape[:2])
    tokens = torch.cat([output.frame_states, output.last_hidden_state.flatten(2, 3)], dim=2)
    torch.testing.assert_close(tokens, pictures, rtol=0, atol=1e-5)
    assert (output.query == 0).all()
    assert torch.equal(output.pooler_output, output.frame_states[:, :, 0].mean(1) / 2)
    taps = encoder.embeddings.patch_embedding.weight
    assert torch.equal(taps[:, :, taps.shape[2] // 2], clip.vision_model.embeddings.patch_embedding.weight)
    if temporal:
        assert (taps[:, :, [0, 2]] == 0).all()
        changed = pixels.clone()
        changed[:, 1::2] += 3
        assert torch.equal(encoder(changed).pooler_output, output.pooler_output)
    own = {name.removeprefix("violet.video_encoder.backbone.") for name in report.new}
    assert {name for name in own if "local_" not in name and "global_blocks." not in name} == {
        *("query", "balance", "classifier.0.weight", "classifier.0.bias", "classifier.2.weight", "classifier.2.bias")
    }
    assert set(report.skipped.values()) <= {"a part of CLIP that UniFormerV2 does not have", "computed"}


def test_a_clip_of_another_patch_or_width_is_refused_and_of_another_grid_resized():
    def start(source):
        return build_model(configuration(), vision=source, model_class=VioletForVideoClassification)

    with pytest.raises(
        ConversionError, match=r"conv1\.weight' has shape \(64, 3, 16, 16\), but needs \(64, 3, 8, 8\)"
    ):
        start(openai_names(clip_model(32, patch=16)))
    with pytest.raises(ConversionError, match=r"has shape \(32,"):
        start(clip_model(width=32).state_dict())
    changed = start(clip_model(32).state_dict()).conversion_report["vision"].changed
    assert changed == {"vision_model.embeddings.position_embedding.weight": "(17, 64) made (5, 64)"}


# --- the published sizes ---


@pytest.fixture(scope="module")
def base_keys(shared_folder):
    return json.loads((shared_folder / "goldens" / "uniformerv2_base_keys.json").read_text())


PUBLISHED = {
    "k400_b16_8x224": (114_552_208, [8, 9, 10, 11], 0, False),
    "sthv2_b16_16x224": (162_992_814, list(range(4, 12)), 2, False),
    "frozen_k400_l14_8x336": (354_426_256, [20, 21, 22, 23], 0, True),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_key_of_the_published_sizes_has_its_place(base_keys, name):
    parameters, layers, local, frozen = PUBLISHED[name]
    plan = plan_conversion({key: tuple(shape) for key, shape in base_keys[name].items()})
    vision = plan.config.vision_config
    assert plan.model_class is VioletForVideoClassification and not plan.skipped and not plan.layout.new
    assert len(plan.layout.pieces) == len(base_keys[name])
    assert (list(vision.global_layers), vision.local_blocks, vision.frozen) == (layers, local, frozen)
    assert vision.num_attention_heads == vision.hidden_size // 64
    with torch.device("meta"):
        model = VioletForVideoClassification(plan.config)
    assert sum(one.numel() for one in model.parameters()) == parameters
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert trained == (50_920_848 if frozen else parameters)


@pytest.mark.shared
@pytest.mark.proof
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes_come_back_equal_to_the_bit(base_keys, name, free_memory):
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for key, shape in base_keys[name].items():
        counts = key.endswith("num_batches_tracked")
        drawn[key] = torch.tensor(len(drawn)) if counts else torch.rand(shape, generator=generator)
    sums = {key: (value.double().sum().item(), value.flatten()[-1].item()) for key, value in drawn.items()}
    model, report = from_original(dict(drawn))
    assert set(report.used) == set(drawn)
    back = export_original(model)
    assert set(back) == set(drawn) == set(sums)
    assert all(torch.equal(back[key], value) and back[key].dtype == value.dtype for key, value in drawn.items())
    del model, back, drawn
    free_memory()


def test_the_named_configurations_are_the_published_models():
    scene, temporal = (
        named_configuration(f"uniformerv2-base-16-{name}").vision_config for name in ("scene", "temporal")
    )
    assert isinstance(scene, UniFormerV2Config) and UniFormerV2Model.config_class is type(temporal)
    assert (scene.local_blocks, list(scene.global_layers), scene.cell) == (0, [8, 9, 10, 11], (1, 16, 16))
    assert (temporal.local_blocks, list(temporal.global_layers), temporal.cell) == (2, list(range(4, 12)), (2, 16, 16))

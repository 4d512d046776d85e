"""The door for the original VIOLET's weights, with a small state dict under the original's names."""

import json
import os
import re

import pytest
import torch
from encoder_configs import model_config
from public_models import save_vision_model
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, BertTokenizer

from violet.cli import main
from violet.configuration import VioletConfig, named_configuration
from violet.configuration.configuration_violet import IMAGENET_BLACK
from violet.hub import ConversionError, export_original, from_original
from violet.hub.conversion import KEPT_FILE, convert_tensors, find_class, shapes_of
from violet.hub.planning import plan_conversion
from violet.hub.weight_files import read_weights
from violet.modeling_violet import (
    VioletForCaptioning,
    VioletForMaskedLM,
    VioletForMultipleChoice,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletForRetrieval,
    VioletModel,
    VioletVisionModel,
)
from violet.modeling_violet.encoders.video_swin import relative_position_index

WIDTH, VOCABULARY, PLACES, FRAMES, SIDE, ANSWERS, TASKS = 64, 50, 12, 3, 2, 7, 10
BIAS_ROWS = 15 * 13 * 13  # offsets in a window of (8, 7, 7)


def layer(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def original_shapes(version: int, embed: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> dict[str, tuple]:
    shapes = {
        "enc_txt.emb_txt.word_embeddings.weight": (VOCABULARY, WIDTH),
        "enc_txt.emb_txt.position_embeddings.weight": (PLACES, WIDTH),
        "enc_txt.emb_txt.token_type_embeddings.weight": (2, WIDTH),
        "enc_img.emb_cls": (1, 1, 1, WIDTH),
        "enc_img.emb_pos": (1, 1, 1 + SIDE**2, WIDTH),
        "enc_img.emb_len": (1, FRAMES, 1, WIDTH),
        "enc_img.swin.patch_embed.proj.weight": (embed, 3, 2, 4, 4),
        "enc_img.swin.patch_embed.proj.bias": (embed,),
        "fc_mtm.predictions.bias": (VOCABULARY,),
    }
    shapes |= norm("enc_txt.emb_txt.LayerNorm", WIDTH) | norm("enc_img.swin.patch_embed.norm", embed)
    for i in range(2):
        at = f"trsfr.layer.{i}"
        for name in ("query", "key", "value"):
            shapes |= layer(f"{at}.attention.self.{name}", WIDTH, WIDTH)
        shapes |= layer(f"{at}.attention.output.dense", WIDTH, WIDTH) | norm(f"{at}.attention.output.LayerNorm", WIDTH)
        shapes |= layer(f"{at}.intermediate.dense", 96, WIDTH) | layer(f"{at}.output.dense", WIDTH, 96)
        shapes |= norm(f"{at}.output.LayerNorm", WIDTH)
    for i, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        at, dim = f"enc_img.swin.layers.{i}", embed * 2**i
        for j in range(depth):
            block = f"{at}.blocks.{j}"
            shapes |= norm(f"{block}.norm1", dim) | norm(f"{block}.norm2", dim)
            shapes[f"{block}.attn.relative_position_bias_table"] = (BIAS_ROWS, count)
            shapes[f"{block}.attn.relative_position_index"] = (392, 392)
            shapes |= layer(f"{block}.attn.qkv", 3 * dim, dim) | layer(f"{block}.attn.proj", dim, dim)
            shapes |= layer(f"{block}.mlp.fc1", 4 * dim, dim) | layer(f"{block}.mlp.fc2", dim, 4 * dim)
        if i < len(depths) - 1:
            shapes[f"{at}.downsample.reduction.weight"] = (2 * dim, 4 * dim)
            shapes |= norm(f"{at}.downsample.norm", 4 * dim)
    last = embed * 2 ** (len(depths) - 1)
    shapes |= norm("enc_img.swin.norm", last) | norm("enc_img.norm", WIDTH)
    if last != WIDTH:
        shapes |= layer("enc_img.fc", WIDTH, last)
    shapes |= layer("fc.1", 2 * WIDTH, WIDTH) | layer("fc.3", ANSWERS, 2 * WIDTH)
    shapes |= layer("fc_mtm.predictions.transform.dense", WIDTH, WIDTH)
    shapes |= norm("fc_mtm.predictions.transform.LayerNorm", WIDTH)
    shapes |= layer("fc_mtm.predictions.decoder", VOCABULARY, WIDTH)
    if version == 2:
        shapes["enc_img.emb_odr"] = (1, 1, 1, WIDTH)
    else:
        shapes |= layer("fc_mvm.1", 2 * WIDTH, WIDTH) | layer("fc_mvm.3", 8, 2 * WIDTH)
    return shapes


def original(version: int = 2) -> dict[str, torch.Tensor]:
    shapes = (
        original_shapes(2, embed=64, depths=(1, 1), heads=(2, 4))
        if version == 2
        else original_shapes(1, embed=32, depths=(1, 2), heads=(1, 2))
    )
    generator = torch.Generator().manual_seed(version)
    weights = {
        name: relative_position_index((8, 7, 7))
        if name.endswith("relative_position_index")
        else 0.1 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }
    weights["fc_mtm.predictions.bias"] = weights["fc_mtm.predictions.decoder.bias"].clone()
    return weights


def plan(weights, **options):
    return plan_conversion({name: tuple(value.shape) for name, value in weights.items()}, **options)


def without(weights, *prefixes):
    return {name: value for name, value in weights.items() if not name.startswith(prefixes)}


def scores(model):
    generator = torch.Generator().manual_seed(0)
    clip, ids = torch.randn(2, 2, 3, 64, 64, generator=generator), torch.arange(1, 9).view(2, 4)
    with torch.no_grad():
        return model(pixel_values_videos=clip, input_ids=ids).logits


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "model_class", [VioletModel, VioletForMaskedLM, VioletForCaptioning, VioletForQuestionAnswering]
)
def test_the_report_explains_every_key_of_both_sides(version, model_class):
    weights = original(version)
    model, report = from_original(weights, model_class)
    target = model.state_dict()
    assert type(model) is model_class and not model.training
    assert set(report.used).isdisjoint(report.skipped)
    assert set(report.used) | set(report.skipped) == set(weights)
    assert all(isinstance(reason, str) and reason for reason in report.skipped.values())
    assert {target: source for source, target in report.used.items()} == report.loaded
    assert set(report.loaded) == set(target) and not report.new
    for key, name in report.used.items():
        assert torch.equal(target[name].flatten(), weights[key].flatten()), f"{key} -> {name}"


def test_skipped_keys_are_the_derived_ones_and_other_heads():
    _, report = from_original(original(1), VioletForQuestionAnswering)
    explained = [key for key in report.skipped if key.startswith(("fc_mtm.", "fc_mvm."))]
    computed = [key for key in report.skipped if key.endswith("relative_position_index")]
    assert len(explained) == 11 and len(computed) == 3
    assert set(explained) | set(computed) == set(report.skipped)
    assert all("head" in report.skipped[key] for key in explained if key != "fc_mtm.predictions.bias")
    assert all("window" in report.skipped[key] for key in computed)


def test_pre_training_heads_are_converted():
    decoder = {"decoder_hog.0.weight": torch.randn(64, WIDTH, 1, 1), "decoder_hog.0.bias": torch.randn(64)}
    weights = original(1) | decoder | {"fc.3.weight": torch.randn(1, 2 * WIDTH), "fc.3.bias": torch.randn(1)}
    model, report = from_original(weights, config=None)
    assert type(model) is VioletForPreTraining and not report.new
    assert report.used["fc.3.weight"] == "match_head.3.weight"
    head = model.mvm_heads["hog"].projection
    assert torch.equal(head.weight, weights["decoder_hog.0.weight"][:, :, 0, 0])


@pytest.mark.parametrize("model_class", [VioletForMultipleChoice, VioletForRetrieval])
def test_the_original_head_becomes_the_match_head_where_texts_are_scored(model_class):
    weights = original()
    weights |= {"fc.3.weight": weights["fc.3.weight"][:1], "fc.3.bias": weights["fc.3.bias"][:1]}
    model, report = from_original(weights, model_class)
    assert type(model) is model_class and not report.new
    assert {name for name in report.loaded if name.startswith("match_head.")} == {
        f"match_head.{layer}.{kind}" for layer in (1, 3) for kind in ("weight", "bias")
    }
    for name in ("1.weight", "1.bias", "3.weight", "3.bias"):
        assert torch.equal(model.match_head.get_parameter(name), weights[f"fc.{name}"])
    assert all("no such head" in why for key, why in report.skipped.items() if key.startswith("fc_mtm.predictions.t"))


def test_an_answering_head_is_no_match_head():
    with pytest.raises(ConversionError, match=r"fc\.3\.\w+.*match_head\.3"):
        from_original(original(), VioletForRetrieval)


def test_a_head_that_the_source_lacks_is_new():
    weights = without(original(), "fc_mtm.")
    model, report = from_original(weights, VioletForMaskedLM)
    assert report.new and set(report.new) == {name for name in model.state_dict() if name.startswith("mlm_head.")}
    assert set(report.loaded) | set(report.new) == set(model.state_dict())
    assert set(report.loaded).isdisjoint(report.new)
    assert scores(model).isfinite().all()


def test_sizes_and_version_2_are_read_from_the_shapes():
    config = plan(original(2) | {"emb_task": torch.zeros(TASKS, WIDTH)}).config
    vision = config.vision_config
    assert (vision.embed_dim, list(vision.depths), list(vision.num_heads)) == (64, [1, 1], [2, 4])
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (WIDTH, 2, 96)
    assert (config.vocab_size, config.max_position_embeddings, config.type_vocab_size) == (VOCABULARY, PLACES, 2)
    assert (config.num_video_frames, config.video_grid_size) == (FRAMES, SIDE)
    assert (config.num_labels, config.num_task_tokens, config.num_attention_heads) == (ANSWERS, TASKS, 1)
    assert config.hidden_frame_order and list(config.masked_patch_value) == [0, 0, 0]
    assert config.fusion_norm == "post" and config.projection_dim is None


def test_version_1_has_no_hidden_order_and_masks_to_black():
    config = plan(original(1)).config
    assert (config.vision_config.embed_dim, list(config.vision_config.depths)) == (32, [1, 2])
    assert not config.hidden_frame_order and config.num_task_tokens == 0
    assert list(config.masked_patch_value) == IMAGENET_BLACK


def test_the_task_tokens_are_converted():
    tokens = torch.randn(TASKS, WIDTH)
    model, report = from_original(original() | {"emb_task": tokens})
    assert report.used["emb_task"] == "violet.task_tokens"
    assert torch.equal(model.violet.task_tokens, tokens)


def test_the_class_follows_the_heads():
    weights = original()
    assert plan(weights).model_class is VioletForMaskedLM
    matching = weights | {"fc.3.weight": weights["fc.3.weight"][:1], "fc.3.bias": weights["fc.3.bias"][:1]}
    assert plan(matching).model_class is VioletForPreTraining
    assert plan(without(weights, "fc_mtm.")).model_class is VioletForQuestionAnswering
    assert plan(without(weights, "fc_mtm.", "fc.")).model_class is VioletModel
    model, report = from_original(without(weights, "fc_mtm.", "fc."))
    assert type(model) is VioletModel and not report.new


@pytest.mark.parametrize("key", ["enc_img.swin.layers.0.blocks.0.attn.gate", "enc_aud.weight", "fc_mvm.2.weight"])
def test_an_unknown_key_is_named(key):
    with pytest.raises(ConversionError, match=key.replace(".", r"\.")):
        from_original(original() | {key: torch.zeros(3)})


@pytest.mark.parametrize(
    "key, shape",
    [
        ("enc_img.norm.weight", (WIDTH - 1,)),
        ("enc_img.fc.weight", (2 * WIDTH, WIDTH)),  # transposed: as many numbers, but not the same matrix
        ("fc_mtm.predictions.decoder.bias", (VOCABULARY + 1,)),
        ("enc_img.emb_cls", (1, 2, 1, WIDTH // 2)),
    ],
)
def test_a_wrong_shape_is_named(key, shape):
    weights = original()
    assert key in weights
    weights[key] = torch.zeros(shape)
    with pytest.raises(ConversionError, match=key.replace(".", r"\.")):
        from_original(weights)


def test_a_configuration_that_is_given_must_agree():
    config = plan(original()).config
    config.vocab_size = VOCABULARY + 3
    with pytest.raises(ConversionError, match="word_embeddings"):
        from_original(original(), config=config)


def test_pickled_and_safetensors_files_give_the_same_model(tmp_path):
    weights = original()
    torch.save(weights, tmp_path / "weights.pt")
    save_file(weights, tmp_path / "weights.safetensors")
    expected, _ = from_original(weights)
    for path in (tmp_path / "weights.pt", os.fspath(tmp_path / "weights.safetensors")):
        model, report = from_original(path)
        assert set(report.used) | set(report.skipped) == set(weights)
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in expected.state_dict().items())
        assert scores(model).std() > 1e-2
        assert torch.equal(scores(model), scores(expected))


@pytest.mark.shared
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.proof)])
@pytest.mark.parametrize("name", ["v1_keys", "v2_keys", "v2_finetune_keys"])
def test_no_key_can_be_removed_renamed_or_reshaped(name, every, shared_folder):
    """Of keys that differ only in the number of their layer or block, the last; or every key."""
    shapes = {
        key: tuple(shape)
        for key, shape in json.loads((shared_folder / "goldens" / f"{name}.json").read_text()).items()
    }
    assert len(shapes) > 500 and not plan_conversion(shapes).layout.new
    last = {re.sub(r"(layer|layers|blocks)\.\d+", r"\1.#", key): key for key in shapes}
    assert 50 < len(last) < 120
    for key in shapes if every else last.values():
        shape = shapes[key]
        others = {other: shape for other, shape in shapes.items() if other != key}
        for changed in (others, others | {f"{key}_": shape}, shapes | {key: (*shape[:-1], shape[-1] + 1)}):
            with pytest.raises(ConversionError) as refused:
                plan_conversion(changed)
            assert repr(key) in str(refused.value), f"{key}: {refused.value}"


@pytest.mark.parametrize(
    "key, shape",
    [
        ("enc_img.emb_cls", (WIDTH,)),
        ("enc_img.emb_pos", (1, 1, 1 + SIDE**2 + 1, WIDTH)),  # no grid
        ("enc_img.emb_len", (FRAMES, 1, 1, WIDTH)),
        ("enc_img.swin.layers.0.blocks.0.attn.relative_position_index", (392, 391)),
        ("fc_mvm.3.weight", (2 * WIDTH, 8)),
        ("fc_mtm.predictions.bias", (VOCABULARY, 1)),
    ],
)
def test_nothing_is_reshaped_in_silence(key, shape):
    weights = original(1)
    assert key in weights
    weights[key] = torch.zeros(shape)
    with pytest.raises(ConversionError, match=repr(key).replace(".", r"\.")):
        from_original(weights)


def test_what_was_converted_is_not_kept_twice():
    weights = read_weights(original())
    plan = plan_conversion(shapes_of(weights))
    tensors, report = convert_tensors(plan, weights)
    assert len(tensors) > 50 and not set(report.used) & set(weights.tensors)
    assert set(report.skipped) - set(weights.skipped) == set(weights.tensors)


def test_a_head_of_which_something_is_left_is_missed():
    for start in ("fc.", "fc_mtm.", "fc_mvm."):
        keys = [key for key in original(1) if key.startswith(start)]
        for key in keys[1:]:
            with pytest.raises(ConversionError, match=repr(keys[0]).replace(".", r"\.")):
                plan({name: value for name, value in original(1).items() if name not in keys or name == key})


def test_the_index_may_be_absent_as_a_whole():
    weights = {key: value for key, value in original().items() if "relative_position_index" not in key}
    _, report = from_original(weights)
    assert len(weights) < len(original()) and not report.new


@pytest.mark.parametrize("wrap", ["module", "model", "state_dict", None])
def test_wrappers_and_their_prefixes_are_taken_off(wrap, tmp_path):
    weights = original()
    wrapped = {f"module.{key}": value for key, value in weights.items()}
    torch.save(wrapped if wrap is None else {wrap: wrapped, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    model, report = from_original(tmp_path / "w.pt")
    assert {"module." + key for key in weights} <= set(report.used) | set(report.skipped)
    assert ("optimizer" in report.skipped) == ("epoch" in report.skipped) == (wrap is not None)
    expected = from_original(weights)[0].state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_is_made_float32_and_reported(precision):
    weights = {key: value.to(precision) if value.is_floating_point() else value for key, value in original().items()}
    model, report = from_original(weights)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert set(report.changed) == set(report.used) and not report.unlike
    assert all(str(precision) in change for change in report.changed.values())
    norm = "enc_img.norm.weight"
    assert torch.equal(model.violet.video_encoder.norm.weight, weights[norm].float())


def test_whole_numbers_are_no_weights():
    with pytest.raises(ConversionError, match=r"enc_img\.norm\.weight.*int8"):
        from_original(original() | {"enc_img.norm.weight": torch.ones(WIDTH, dtype=torch.int8)})


def test_positions_of_another_number_are_interpolated_as_the_model_does():
    weights = original()
    config = plan(weights).config
    config.num_video_frames, config.video_grid_size = 5, 3
    model, report = from_original(weights, config=config)
    assert set(report.changed) == {"enc_img.emb_len", "enc_img.emb_pos"}
    assert model.violet.video_encoder.frame_embeddings.shape == (5, WIDTH)
    clip = torch.randn(2, 5, 3, 24, 24, generator=torch.Generator().manual_seed(0))  # a grid of 3 x 3: 2 is not enough
    with torch.no_grad():
        expected = from_original(weights)[0].violet.encode_videos(clip).tokens
        got = model.violet.encode_videos(clip).tokens
    assert expected.std() > 0.01
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_numbers_that_follow_from_others_are_compared_and_not_read():
    weights = original()
    index = "enc_img.swin.layers.0.blocks.0.attn.relative_position_index"
    changed = weights | {index: weights[index] + 1, "fc_mtm.predictions.bias": weights["fc_mtm.predictions.bias"] + 1}
    model, report = from_original(changed)
    assert set(report.unlike) == {index, "fc_mtm.predictions.bias"}
    assert all("other numbers" in report.skipped[key] for key in report.unlike)
    expected, plain = from_original(weights)
    assert not plain.unlike and torch.equal(scores(model), scores(expected))


@pytest.mark.parametrize("target", ["pixel", "hog", "depth", "flow"])
def test_decoders_of_masked_patches(target):
    width = 2 * WIDTH if target == "flow" else WIDTH
    outputs = 8**2 * {"pixel": 3, "flow": 2}.get(target, 1)
    head = {
        f"decoder_{target}.0.weight": torch.randn(outputs, width, 1, 1),
        f"decoder_{target}.0.bias": torch.randn(outputs),
    }
    model, report = from_original(without(original(), "fc.") | head)
    assert type(model) is VioletForPreTraining
    name = "optical_flow" if target == "flow" else target
    assert torch.equal(model.mvm_heads[name].projection.weight, head[f"decoder_{target}.0.weight"][:, :, 0, 0])
    assert set(report.new) == {name for name in model.state_dict() if name.startswith("match_head.")}
    for key in head:
        with pytest.raises(ConversionError, match=repr(key)):
            plan({other: value for other, value in {**original(), **head}.items() if other != key})


def test_task_tokens_are_missed_where_fine_tuned_models_have_them():
    weights = without(original(), "fc.")
    with pytest.raises(ConversionError, match="'emb_task'"):
        from_original(weights)
    config = plan(weights | {"emb_task": torch.zeros(TASKS, WIDTH)}).config
    config.num_task_tokens = 0  # said by someone who knows
    assert not from_original(weights, config=config)[1].new


def test_the_backbone_alone():
    model, report = from_original(original(), VioletVisionModel)
    whole = from_original(original())[0].violet.video_encoder.swin
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in model.state_dict().items())
    assert "only the video encoder" in report.skipped["enc_img.norm.bias"] and model.config.temporal_stride == 1


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("model_class", [VioletForMaskedLM, VioletForQuestionAnswering, VioletForRetrieval])
def test_an_export_gives_back_what_was_used(version, model_class):
    weights = original(version)
    if model_class is VioletForRetrieval:
        weights |= {"fc.3.weight": weights["fc.3.weight"][:1], "fc.3.bias": weights["fc.3.bias"][:1]}
    model, report = from_original(weights, model_class)
    exported = export_original(model)
    other_heads = {key for key, why in report.skipped.items() if "no such head" in why}
    if not any(key.startswith("fc_mtm.") for key in report.used):
        other_heads.add("fc_mtm.predictions.bias")
    assert set(exported) == set(weights) - other_heads and other_heads
    for key, value in exported.items():
        assert value.dtype == weights[key].dtype and torch.equal(value, weights[key]), key


def test_all_heads_of_pre_training_there_and_back():
    vision = {"embed_dim": 32, "depths": (1, 1), "num_heads": (1, 2)}
    targets = {"pixel": {}, "hog": {}, "depth": {}, "optical_flow": {}, "vq": {"channels": 11, "per_cell": 2}}
    config = VioletConfig(
        vision_config=vision,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        vocab_size=VOCABULARY,
        intermediate_size=96,
        max_position_embeddings=12,
        mvm_targets=targets,
        num_task_tokens=3,
        num_labels=1,
    )
    model = VioletForPreTraining(config)
    exported = export_original(model)
    assert {"decoder_flow.0.weight", "decoder_vq.0.bias", "fc_mvm.3.weight", "emb_task", "fc.3.weight"} <= set(
        exported
    )
    again, report = from_original(exported)
    assert type(again) is VioletForPreTraining and not report.new and not report.unlike
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert again.mvm_heads["vq"].per_cell == 2


def test_a_measured_head_is_not_exported():
    config = plan(original(1) | {"fc.3.weight": torch.zeros(1, 2 * WIDTH), "fc.3.bias": torch.zeros(1)}).config
    config.mvm_targets = {"hog": {"shift": 0.1, "scale": 2.0}}
    with pytest.raises(ConversionError, match="'hog' has a shift"):
        export_original(VioletForPreTraining(config))


def test_what_the_original_has_not_is_not_exported():
    with pytest.raises(ConversionError, match=r"violet\.projection\.logit_scale"):
        export_original(VioletForMaskedLM(named_configuration("violet-tiny", clip_summary=False, fusion_norm="post")))


def test_only_violets_are_exported(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    from_original(original(), VioletVisionModel)[0].save_pretrained(tmp_path / "backbone")
    for name in ("backbone", "nothing"):
        assert main(["export-original", str(tmp_path / name), str(tmp_path / "back.pt")]) == 2
        assert name in capsys.readouterr().err and not (tmp_path / "back.pt").exists()
    with pytest.raises(ConversionError, match="VioletVisionModel is no VIOLET"):
        export_original(from_original(original(), VioletVisionModel)[0])


@pytest.fixture
def tokenizer(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(VOCABULARY - 5))]
    folder = tmp_path / "tokenizer"
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    return folder


def test_the_command_line_there_and_back(tmp_path, tokenizer, capsys):
    weights = without(original(), "fc.") | {"emb_task": torch.randn(TASKS, WIDTH)}
    weights["fc_mtm.predictions.bias"] += 1  # not in use, and not lost
    source, folder, back = tmp_path / "violet.pt", tmp_path / "model", tmp_path / "back.pt"
    torch.save(weights, source)
    assert main(["convert", str(source), str(folder), "--tokenizer", str(tokenizer)]) == 0
    assert "VioletForMaskedLM" in capsys.readouterr().out
    report = json.loads((folder / "conversion_report.json").read_text())
    assert set(report["used"]) | set(report["skipped"]) == set(weights) and not report["new"]
    model = VioletForMaskedLM.from_pretrained(folder).eval()
    assert torch.equal(scores(model), scores(from_original(weights)[0]))
    assert set(report["loaded"]) == set(load_file(folder / "model.safetensors"))
    processor = AutoProcessor.from_pretrained(folder)
    assert processor(text="word3").input_ids[0].tolist() == [2, 8, 3]
    assert (model.config.mask_token_id, model.config.bos_token_id, model.config.eos_token_id) == (4, 2, 3)

    for output in (back, tmp_path / "back.safetensors"):
        assert main(["export-original", str(folder), str(output)]) == 0
        exported = torch.load(output, weights_only=True) if output == back else load_file(output)
        assert set(exported) == set(weights)
        assert all(
            torch.equal(exported[key], value) and exported[key].dtype == value.dtype for key, value in weights.items()
        )
    (folder / KEPT_FILE).unlink()
    assert torch.equal(export_original(folder)["fc_mtm.predictions.bias"], weights["fc_mtm.predictions.decoder.bias"])
    assert main(["export-original", str(folder), str(back)]) == 2 and "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, options, named",
    [
        ({"trsfr.layer.1.output.dense.weight": None}, [], "'trsfr.layer.1.output.dense.weight'"),
        ({"enc_img.emb_odr": None}, [], "'enc_img.emb_odr'"),
        ({"fc.3.bias": torch.zeros(4)}, [], "'fc.3.bias'"),
        ({"fc.5.bias": torch.zeros(4)}, [], "'fc.5.bias'"),
        ({}, ["--model_class", "VioletForSinging"], "VioletForSinging"),
        ({}, ["--config", "violet-huge"], "violet-huge"),
        ({}, ["--config", "violet-v2-base"], "'enc_img.emb_cls'"),
        ({}, ["--tokenizer", "nobody/no-such-tokenizer"], "nobody/no-such-tokenizer"),
    ],
)
def test_the_command_line_refuses_by_name_and_writes_nothing(change, options, named, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    weights = {key: value for key, value in {**original(), **change}.items() if value is not None}
    torch.save(weights, tmp_path / "violet.pt")
    options = options if "--tokenizer" in options else [*options, "--no_tokenizer"]
    assert main(["convert", str(tmp_path / "violet.pt"), str(tmp_path / "model"), *options]) == 2
    assert named in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["violet.pt"]


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path, tokenizer, capsys):
    weights = original()
    for key in ("enc_txt.emb_txt.word_embeddings.weight", "fc_mtm.predictions.decoder.weight"):
        weights[key] = weights[key][1:]
    for key in ("fc_mtm.predictions.decoder.bias", "fc_mtm.predictions.bias"):
        weights[key] = weights[key][1:]
    torch.save(weights, tmp_path / "violet.pt")
    assert main(["convert", str(tmp_path / "violet.pt"), str(tmp_path / "m"), "--tokenizer", str(tokenizer)]) == 2
    assert "has 50 words, and the weights have 49" in capsys.readouterr().err and not (tmp_path / "m").exists()


def test_a_conversion_without_a_tokenizer(tmp_path):
    save_file(original(), tmp_path / "violet.safetensors")
    assert main(["convert", str(tmp_path / "violet.safetensors"), str(tmp_path / "m"), "--no_tokenizer"]) == 0
    assert not (tmp_path / "m" / "tokenizer.json").exists()
    assert find_class("VioletForMaskedLM").from_pretrained(tmp_path / "m").config.vocab_size == VOCABULARY


# --- models of transformers that are encoders as they are ---


@pytest.mark.parametrize("encoder", ["siglip_vision_model", "vit", "videomae"])
def test_a_model_of_pictures_or_videos_is_no_conversion_and_told_what_it_is(encoder, tmp_path, capsys):
    folder, output = save_vision_model(encoder, tmp_path / "public"), tmp_path / "converted"
    assert main(["convert", str(folder), str(output), "--no_tokenizer"]) == 2
    said = capsys.readouterr().err
    assert f"a model of type '{encoder}' of transformers is not converted" in said
    assert f"violet finetune --model {folder}" in said and "violet.build_model(" in said
    assert not output.exists()
    with pytest.raises(ConversionError, match="is not converted"):
        from_original(folder)


def test_the_original_has_no_form_for_another_encoder(tmp_path, capsys):
    VioletForQuestionAnswering(model_config("vit")).save_pretrained(tmp_path / "model")
    assert main(["export-original", str(tmp_path / "model"), str(tmp_path / "original.pt")]) == 2
    assert "The vision encoder is a 'vit', and originals are known of 'violet_vision', " in capsys.readouterr().err
    assert not (tmp_path / "original.pt").exists()

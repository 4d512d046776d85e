"""The door for the original VIOLET's weights, with a small state dict under the original's names."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from violet.configuration.configuration_violet import IMAGENET_BLACK
from violet.hub.conversion import from_original, infer_class, infer_configuration
from violet.modeling_violet import (
    VioletForCaptioning,
    VioletForMaskedLM,
    VioletForMultipleChoice,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletForRetrieval,
    VioletModel,
)

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
    return {
        name: torch.zeros(shape, dtype=torch.long)
        if name.endswith("relative_position_index")
        else 0.1 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


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
    assert sorted(report.used.values()) == report.loaded
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
    with pytest.raises(ValueError, match=r"fc\.3\.\w+.*match_head\.3"):
        from_original(original(), VioletForRetrieval)


def test_a_head_that_the_source_lacks_is_new():
    weights = without(original(), "fc_mtm.")
    model, report = from_original(weights, VioletForMaskedLM)
    assert report.new and set(report.new) == {name for name in model.state_dict() if name.startswith("mlm_head.")}
    assert set(report.loaded) | set(report.new) == set(model.state_dict())
    assert set(report.loaded).isdisjoint(report.new)
    assert scores(model).isfinite().all()


def test_sizes_and_version_2_are_read_from_the_shapes():
    config = infer_configuration(original(2) | {"emb_task": torch.zeros(TASKS, WIDTH)})
    vision = config.vision_config
    assert (vision.embed_dim, list(vision.depths), list(vision.num_heads)) == (64, [1, 1], [2, 4])
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (WIDTH, 2, 96)
    assert (config.vocab_size, config.max_position_embeddings, config.type_vocab_size) == (VOCABULARY, PLACES, 2)
    assert (config.num_video_frames, config.video_grid_size) == (FRAMES, SIDE)
    assert (config.num_labels, config.num_task_tokens, config.num_attention_heads) == (ANSWERS, TASKS, 1)
    assert config.hidden_frame_order and list(config.masked_patch_value) == [0, 0, 0]
    assert config.fusion_norm == "post" and config.projection_dim is None


def test_version_1_has_no_hidden_order_and_masks_to_black():
    config = infer_configuration(original(1))
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
    assert infer_class(weights) is VioletForMaskedLM
    matching = weights | {"fc.3.weight": weights["fc.3.weight"][:1], "fc.3.bias": weights["fc.3.bias"][:1]}
    assert infer_class(matching) is VioletForPreTraining
    assert infer_class(without(weights, "fc_mtm.")) is VioletForQuestionAnswering
    assert infer_class(without(weights, "fc_mtm.", "fc.")) is VioletModel
    model, report = from_original(without(weights, "fc_mtm.", "fc."))
    assert type(model) is VioletModel and not report.new


@pytest.mark.parametrize(
    "key, named",
    [
        ("enc_img.emb_len", "enc_img.emb_len"),  # the configuration is read from it
        ("enc_img.swin.patch_embed.proj.weight", "enc_img.swin.patch_embed.proj.weight"),
        ("enc_img.norm.bias", "violet.video_encoder.norm.bias"),
        ("trsfr.layer.1.output.dense.weight", "violet.fusion.layers.1.output.weight"),
    ],
)
def test_a_missing_key_of_the_base_model_is_named(key, named):
    weights = original()
    del weights[key]
    with pytest.raises(KeyError, match=named.replace(".", r"\.")):
        from_original(weights)


@pytest.mark.parametrize("key", ["enc_img.swin.layers.0.blocks.0.attn.gate", "enc_aud.weight", "module.fc.1.weight"])
def test_an_unknown_key_is_named(key):
    with pytest.raises(KeyError, match=key.replace(".", r"\.")):
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
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        from_original(weights)


def test_a_configuration_that_is_given_must_agree():
    config = infer_configuration(original())
    config.vocab_size = VOCABULARY + 3
    with pytest.raises(ValueError, match="word_embeddings"):
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


class Payload:
    """What a hostile file may hold: unpickling it makes a folder."""

    def __init__(self, path):
        self.path = os.fspath(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "it_ran"
    torch.save(original() | {"enc_img.extra": Payload(mark)}, tmp_path / "weights.pt")
    with pytest.raises(pickle.UnpicklingError):
        from_original(tmp_path / "weights.pt")
    assert not mark.exists()
    torch.load(tmp_path / "weights.pt", weights_only=False)
    assert mark.exists(), "the payload must be able to run, or its refusal shows nothing"

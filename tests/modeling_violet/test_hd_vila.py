"""HD-VILA as a whole: its text side, projections, video tokens and ways of joining clips, as the original computes."""

import json
import re

import hd_vila
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from violet import (
    VioletConfig,
    VioletForMaskedLM,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletModel,
    named_configuration,
)
from violet.core.flat_modules import flat_modules
from violet.modeling_violet.clip_pooling import CLIP_POOLING
from violet.modeling_violet.contrastive_losses import mean_symmetric_contrast
from violet.modeling_violet.fusions import clip_by_clip
from violet.modeling_violet.heads import VioletPoolerHead
from violet.modeling_violet.losses import masked_accuracy

shared = pytest.mark.shared
cases = pytest.mark.parametrize("case", ["hybrid", "odd"])

BERT_NAMES = (
    (r"\.attention\.(query|key|value)\.", r".attention.self.\1."),
    (r"\.attention\.output\.", ".attention.output.dense."),
    (r"\.attention_norm\.", ".attention.output.LayerNorm."),
    (r"\.intermediate\.", ".intermediate.dense."),
    (r"(layer\.\d+)\.output\.", r"\1.output.dense."),
    (r"\.output_norm\.", ".output.LayerNorm."),
)
BERT, WORDS = "transformer.bert.", "transformer.cls.predictions."
MODEL_NAMES = (
    (r"^violet\.", ""),
    (r"^video_encoder\.two_resolutions\.", "VIDEO."),
    (r"^video_encoder\.row_embeddings\.", f"{BERT}visual_embeddings.row_position_embeddings."),
    (r"^video_encoder\.column_embeddings\.", f"{BERT}visual_embeddings.col_position_embeddings."),
    (r"^video_encoder\.type_embeddings\.", f"{BERT}visual_embeddings.token_type_embeddings."),
    (r"^video_encoder\.norm\.", f"{BERT}visual_embeddings.LayerNorm."),
    (r"^text_embeddings\.embeddings\.norm\.", f"{BERT}embeddings.LayerNorm."),
    (r"^text_embeddings\.embeddings\.", f"{BERT}embeddings."),
    (r"^text_embeddings\.pooler\.", f"{BERT}pooler1.dense."),
    (r"^text_embeddings\.layers\.(\d+)\.", rf"{BERT}encoder.layer.\1."),
    (r"^fusion\.layers\.(\d+)\.", lambda found: f"{BERT}encoder.layer.{int(found[1]) + 2}."),
    (r"^projection\.video_projection\.", "transformer.v_proj."),
    (r"^projection\.text_projection\.", "transformer.t_proj."),
    (r"^mlm_head\.dense\.", f"{WORDS}transform.dense."),
    (r"^mlm_head\.norm\.", f"{WORDS}transform.LayerNorm."),
    (r"^mlm_head\.decoder\.", f"{WORDS}decoder."),
    *BERT_NAMES,
)


def config(case: str, pooling: str = "lse", **changes) -> VioletConfig:
    own = hd_vila.archive()[2][case]
    fields = {
        "vision_config": hd_vila.config(case).to_dict(),
        "text_config": {"model_type": "hd_vila_text", "num_hidden_layers": 2},
        "fusion_model_config": {"model_type": "clip_by_clip", "clip_pooling": pooling},
        "vision_positions": "rows_and_columns",
        "video_grid_size": own["grid_positions"],
        "hidden_size": own["width"],
        "num_hidden_layers": own["layers"] - 2,
        "num_attention_heads": own["heads"],
        "intermediate_size": own["inner"],
        "vocab_size": own["vocab"],
        "max_position_embeddings": own["positions"],
        "hidden_frame_order": False,
        "projection_dim": own["width"],
        "projection_type": "pooled_with_bias",
    }
    return VioletConfig(**fields | changes)


def original_name(ours: str, more=()) -> str:
    for pattern, replacement in (*more, *MODEL_NAMES):
        ours = re.sub(pattern, replacement, ours)
    if ours.startswith("VIDEO."):
        ours = ours.removeprefix("VIDEO.")
        for pattern, replacement in hd_vila.VIDEO_NAMES:
            ours = re.sub(pattern, replacement, ours)
    return ours


def filled(model: PreTrainedModel, more=()) -> PreTrainedModel:
    """The model with the original's weights by their formula."""
    state = {}
    for ours, tensor in model.state_dict().items():
        name = original_name(ours, more)
        state[ours] = tensor if name.endswith("logit_scale") else hd_vila.value(name, tuple(tensor.shape))
    model.load_state_dict(state)
    return model.eval()


def texts(case: str, rows: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    own = hd_vila.archive()[2][case]
    rows, length = rows or own["batch"], own["length"]
    generator = np.random.default_rng(own["seed"] + 2)
    ids = generator.integers(200, own["vocab"], (rows, length))
    ids[:, 0] = 101
    mask = np.ones_like(ids)
    for row in range(rows):
        end = int(generator.integers(max(4, length // 3), length + 1))
        ids[row, end - 1] = 102
        ids[row, end:] = 0
        mask[row, end:] = 0
    return torch.from_numpy(ids), torch.from_numpy(mask)


def masked(case: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The words with [MASK] (103) where the original puts it, and their labels."""
    own, (ids, _) = hd_vila.archive()[2][case], texts(case)
    hidden = torch.from_numpy(np.random.default_rng(own["seed"] + 3).random(tuple(ids.shape))) < 0.3
    hidden &= ids > 199
    return ids.masked_fill(hidden, 103), ids.masked_fill(~hidden, -100)


def matches(case: str) -> torch.Tensor:
    """Which pairs the original calls matches."""
    own, stored = hd_vila.archive()[2][case], hd_vila.archive()[0]
    labels = np.random.default_rng(own["seed"] + 4).integers(0, 2, own["batch"])
    labels[0] = 1
    assert labels.tolist() == stored[f"{case}/match_labels"].tolist()
    return torch.from_numpy(labels)


@shared
@cases
@torch.no_grad()
def test_texts_and_projections_are_the_original_code_s(shared_folder, case):
    model = filled(VioletModel(config(case)))
    ids, mask = texts(case)
    encoded = model.encode_texts(ids, mask)
    hd_vila.expect(f"{case}/text_states", encoded.tokens)
    hd_vila.expect(f"{case}/text_mean_pooled", encoded.pooled)
    hd_vila.expect(f"{case}/text_feature", model.embed_texts(ids, mask))
    of_cls = model.text_embeddings.pooler(
        encoded.tokens[:, 0]
    ).tanh()  # what the original has beside, and uses nowhere
    hd_vila.expect(f"{case}/text_cls_pooled", of_cls)
    projected = torch.nn.functional.normalize(model.projection.text_projection(of_cls), dim=-1)
    hd_vila.expect(f"{case}/text_feature_of_cls", projected)
    video = model.encode_videos(**hd_vila.model_inputs(case))
    hd_vila.expect(f"{case}/video_feature", model.embed_videos(video))


@shared
@cases
@pytest.mark.parametrize("pooling", list(CLIP_POOLING))
@torch.no_grad()
def test_clips_joined_behind_the_fusion_are_the_original_code_s(shared_folder, case, pooling):
    model = filled(VioletForMaskedLM(config(case, pooling)))
    own = hd_vila.archive()[2][case]
    video = model.violet.encode_videos(**hd_vila.model_inputs(case))
    by_clip = video.tokens.unflatten(1, (own["clips"], -1)).transpose(0, 1)  # (clips, batch, h * w, D)
    hd_vila.expect(f"{case}/video_tokens", by_clip.flatten(0, 1))
    words, labels = masked(case)
    inputs = {"input_ids": words, "attention_mask": texts(case)[1], "video_tokens": video}
    output = model.violet(**inputs)
    states = output.video_hidden_state.unflatten(1, (own["clips"], -1)).transpose(0, 1)
    hd_vila.expect(f"{case}/video_states", states)
    if pooling != "lse_corrected":
        hd_vila.expect(f"{case}/{pooling}/text_states", output.text_hidden_state)
    found = model(**inputs, labels=labels)
    hd_vila.expect(f"{case}/{pooling}/mlm_logits_first64", found.logits[..., :64])
    stored = hd_vila.archive()[0]
    assert found.loss.item() == pytest.approx(stored[f"{case}/{pooling}/mlm_loss"].item(), rel=1e-5)
    if pooling != "lse_corrected":
        assert masked_accuracy(found.logits, labels) == stored[f"{case}/{pooling}/mlm_acc"].item()
        of_pairs = model(**inputs, labels=labels.masked_fill(matches(case)[:, None] == 0, -100)).loss
        expected = stored[f"{case}/{pooling}/mlm_loss_of_true_pairs"].item()
        assert of_pairs.item() == pytest.approx(expected, rel=1e-5)


HEAD_NAMES = (
    (r"^(answer|match)_head\.0\.", f"{BERT}pooler2.dense."),
    (r"^match_head\.3\.", "transformer.cls.seq_relationship."),
    (r"^answer_head\.3\.", "transformer.classifier.0."),
    (r"^answer_head\.5\.", "transformer.classifier.2."),
)


@shared
@cases
@pytest.mark.parametrize("pooling", list(CLIP_POOLING))
@torch.no_grad()
def test_matches_are_the_original_code_s(shared_folder, case, pooling):
    """Of several clips the head joins what it has behind its tanh."""
    heads = {"head_type": "pooler", "match_classes": 2, "objectives": {"rolled_vtm": {}}}
    model = filled(VioletForPreTraining(config(case, pooling, **heads)), HEAD_NAMES)
    words, match = masked(case)[0], matches(case)
    inputs = {**hd_vila.model_inputs(case), "input_ids": words, "attention_mask": texts(case)[1]}
    output = model.violet(**inputs)
    if output.clip_states is None:
        classes = VioletPoolerHead.forward(model.match_head, output.first_text_state())
    else:
        classes = VioletPoolerHead.read_clips(model.match_head, output.clip_states)
    hd_vila.expect(f"{case}/{pooling}/match_scores", classes)
    if pooling == "lse_corrected":
        return
    index = torch.arange(len(words))
    losses = model(
        **inputs, rolled_video_index=index, rolled_match=match.bool(), objectives={"rolled_vtm": 1.0}
    ).losses
    expected = hd_vila.archive()[0][f"{case}/{pooling}/match_loss"].item()
    assert losses["rolled_vtm"].item() == pytest.approx(expected, rel=1e-5)


def trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, one) for name, one in model.named_parameters() if one.grad is not None]


@shared
def test_gradients_of_contrast_and_masked_words_are_the_original_code_s(shared_folder):
    stored = hd_vila.archive()[0]
    order = json.loads((shared_folder / "goldens" / "hd_vila_keys.json").read_text())["grad_norms_order"]
    words, labels = masked("odd")
    mask = texts("odd")[1]
    model = filled(VioletForMaskedLM(config("odd")))
    violet = model.violet
    videos = violet.embed_videos(violet.encode_videos(**hd_vila.model_inputs("odd")))
    contrast = mean_symmetric_contrast(videos=videos, texts=violet.embed_texts(*texts("odd")), scale=20.0)
    assert contrast.item() == pytest.approx(stored["odd/contrast_of_stage_1"].item(), rel=1e-5)
    inputs = {**hd_vila.model_inputs("odd"), "input_ids": words, "attention_mask": mask}
    # contrast: small differences of large numbers, and another CPU's convolutions cross the kink of a ReLU elsewhere
    for name, loss, bound in (
        ("contrast", contrast, 2e-3),
        ("mlm", model(**inputs, labels=labels).loss, 1e-4),
    ):
        model.zero_grad(set_to_none=True)
        loss.backward()
        found = {original_name(ours): one.grad.double().norm().item() for ours, one in trained(model)}
        if f"{WORDS}decoder.bias" in found:  # one tensor, two names
            found[f"{WORDS}bias"] = found.pop(f"{WORDS}decoder.bias")
        assert set(found) <= set(order)
        got = np.array([found.get(key, np.nan) for key in order])
        expected = stored[f"odd/grad_norms_{name}"].astype(float)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        apart = np.abs(got - expected)
        far = apart > np.maximum(bound * np.abs(expected), 1e-6)
        assert not far.any(), [order[place] for place in np.flatnonzero(far)]
        assert np.nanmedian(apart / np.abs(expected)) < 1e-5


@shared
@pytest.mark.parametrize("case", ["tasks", "tasks_two_clips"])
@pytest.mark.parametrize("asked, labels", [("answers", 5), ("answers_bce", 5), ("count", 1), ("choices", 3)])
@torch.no_grad()
def test_answers_and_choices_of_each_clip_are_the_original_code_s(shared_folder, case, asked, labels):
    """Each clip as a row of its own: what joins the rows' logits is the measure, not the model."""
    own = hd_vila.archive()[2][case]
    wanted = config(case, head_type="pooler_mlp", num_labels=1 if asked in ("choices", "count") else labels)
    wanted.vision_config.num_clips = 1
    model = filled(VioletForQuestionAnswering(wanted), HEAD_NAMES)
    clips = {name: pixels.unflatten(1, (own["clips"], -1)) for name, pixels in hd_vila.model_inputs(case).items()}
    per_video = own["choices"] if asked == "choices" else 1
    ids, mask = texts(case, own["batch"] * per_video)
    index = torch.arange(own["batch"]).repeat_interleave(per_video)
    logits = [
        model(
            **{name: pixels[:, clip] for name, pixels in clips.items()},
            input_ids=ids,
            attention_mask=mask,
            video_index=index,
        ).logits
        for clip in range(own["clips"])
    ]
    by_clip = torch.stack(logits).view(own["clips"], own["batch"], -1)
    hd_vila.expect(f"{case}/{asked}/logits", by_clip)
    stored = hd_vila.archive()[0]
    if f"{case}/{asked}/loss_rows" in stored:
        labels = torch.from_numpy(stored[f"{case}/{asked}/labels"]).expand(own["clips"], -1)
        losses = (
            (by_clip[..., 0] - labels).square()
            if asked == "count"
            else torch.nn.functional.cross_entropy(by_clip.flatten(0, 1), labels.flatten().long(), reduction="none")
        )
        np.testing.assert_allclose(losses.flatten(), stored[f"{case}/{asked}/loss_rows"].flatten(), rtol=1e-5)


def small_model(model_class, pooling: str = "lse", clips: int = 1, **changes):
    torch.manual_seed(0)
    vision = {"model_type": "hd_vila", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"resnet_width": 4, "resnet_depths": (1, 1, 1, 1), "position_grid": (1, 2), "num_clips": clips}
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    tokens = {"vocab_size": 64, "bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4, "num_labels": 3}
    parts = {
        "vision_config": vision,
        "text_config": {"model_type": "hd_vila_text", "num_hidden_layers": 1},
        "fusion_model_config": {"model_type": "clip_by_clip", "clip_pooling": pooling},
        "vision_positions": "rows_and_columns",
        "projection_type": "pooled_with_bias",
        "projection_dim": 16,
    }
    return model_class(VioletConfig(**parts | sizes | tokens | changes))


def small_inputs(clips: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values_videos": torch.randn(2, clips * 7, 3, 16, 32, generator=generator),
        "pixel_values_detail": torch.randn(2, clips, 3, 64, 128, generator=generator),
        "input_ids": torch.tensor([[2, 9, 8, 4, 3], [2, 5, 4, 3, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
    }


@torch.no_grad()
def test_answers_about_two_clips_are_the_logsumexp_of_each():
    model = small_model(VioletForQuestionAnswering, clips=2, head_type="pooler_mlp").eval()
    inputs = small_inputs(clips=2)
    both = model(**inputs).logits
    model.config.vision_config.num_clips = 1
    pixels = {name: inputs.pop(name) for name in ("pixel_values_videos", "pixel_values_detail")}
    each = [
        model(**{name: one.unflatten(1, (2, -1))[:, clip] for name, one in pixels.items()}, **inputs).logits
        for clip in range(2)
    ]
    torch.testing.assert_close(both, torch.stack(each).logsumexp(0))


@pytest.mark.parametrize("pooling", list(CLIP_POOLING))
@torch.no_grad()
def test_equal_clips_are_one_clip_for_every_joining_but_the_published_one(pooling):
    model, one = small_model(VioletModel, pooling).eval(), small_inputs()
    alone = model(**one).text_hidden_state
    thrice = {name: one[name].repeat(1, 3, 1, 1, 1) for name in ("pixel_values_videos", "pixel_values_detail")}
    model.config.vision_config.num_clips = 3
    joined = model(**one | thrice).text_hidden_state
    if pooling == "lse":
        torch.testing.assert_close(joined, alone + torch.tensor(3.0).log())
    else:
        torch.testing.assert_close(joined, alone)


def test_a_correction_that_corrects_nothing_is_said(monkeypatch):
    said = []
    monkeypatch.setattr(clip_by_clip.logger, "warning", said.append)
    small_model(VioletModel, "lse_corrected", clips=2)
    assert not said
    small_model(VioletModel, "lse_corrected")
    assert "'lse_corrected' has no effect with `vision_config.num_clips` 1" in said[0]


def test_unknown_ways_of_joining_and_grids_without_places_are_refused():
    with pytest.raises(Exception, match="`clip_pooling`: 'sum' is unknown; known are lse, lse_corrected, mean, max"):
        small_model(VioletModel, "sum")
    model = small_model(VioletModel, video_grid_size=1)
    inputs = small_inputs()
    with pytest.raises(ValueError, match="grid has 1 x 2 cells, and `video_grid_size` has places for 1 x 1"):
        model.encode_videos(inputs["pixel_values_videos"], pixel_values_detail=inputs["pixel_values_detail"])
    with pytest.raises(ValueError, match="'sequence_to_sequence'.*serves 'bidirectional'"):
        small_model(VioletModel)(**inputs, attention_rule="sequence_to_sequence")


@pytest.mark.parametrize("clips", [1, 2])
def test_the_whole_model_trains_saves_and_loads(clips, tmp_path):
    model = small_model(VioletForQuestionAnswering, clips=clips).train()
    for block in model.violet.vision_model.timesformer.blocks:  # as it starts, small frames get no gradient
        torch.nn.init.normal_(block.temporal_fc.weight)
    inputs = small_inputs(clips)
    texts = {"caption_ids": inputs["input_ids"], "caption_attention_mask": inputs["attention_mask"]}
    model(**inputs, **texts, labels=torch.tensor([0, 2])).loss.backward()
    silent = [
        name
        for name, one in model.named_parameters()
        if one.grad is None or (not one.grad.abs().sum() and ".key." not in name)
    ]
    assert not silent
    model.eval().save_pretrained(tmp_path)
    loaded = VioletForQuestionAnswering.from_pretrained(tmp_path).eval()
    assert json.loads((tmp_path / "config.json").read_text())["fusion_model_config"]["clip_pooling"] == "lse"
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_a_checkpoint_carries_the_files_of_its_parts():
    config = small_model(VioletForQuestionAnswering).config.to_dict()
    carried = flat_modules(["VioletConfig", "VioletForQuestionAnswering", "VioletVideoProcessor"], config)
    assert {
        "two_resolutions.py",
        "clip_by_clip.py",
        "mean_text.py",
        "row_positions.py",
        "pooled_projection.py",
    } <= set(carried)
    assert "whole_clip.py" not in carried


def test_the_named_configuration_has_the_published_sizes():
    config = named_configuration("hd-vila-base")
    with torch.device("meta"):
        model = VioletForMaskedLM(config)
        count = sum(one.numel() for one in model.parameters()) / 1e6
    # 495.2 M of stage 2, less what no pass reads (the small frames' last stage 15.0, positions 0.5) and its heads.
    assert abs(count - 478.6) < 1.0, f"{count:.1f} M"
    assert config.vision_config.grid(7, 160, 256) == (1, 10, 16)

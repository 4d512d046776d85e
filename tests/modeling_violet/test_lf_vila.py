"""LF-VILA's text side, projections, fusion and heads against the outputs of its own code."""

import numpy as np
import pytest
import torch
from lf_vila import LfVila, drawn
from lf_vila_models import model_config, text_config

from violet import VioletConfig
from violet.hub import from_original
from violet.hub.kinds import Numbering
from violet.hub.layout_lf_vila import LF_VILA
from violet.modeling_violet import VioletForMultipleChoice, VioletForPreTraining
from violet.modeling_violet.contrastive_losses import symmetric_contrast, temporal_contrast
from violet.modeling_violet.objectives.rolled_matching import roll_pairs
from violet.modeling_violet.texts import build_text_side
from violet.modeling_violet.texts.paragraph_text import LfVilaParagraphText

DRAWN = ("keys", "candidates", "negatives")
ROUNDED = 2e-4  # numbers near -10000 are rounded to 1e-3


@pytest.fixture(scope="module")
def goldens(shared_folder) -> LfVila:
    return LfVila(shared_folder)


_built: dict[str, torch.nn.Module] = {}


def build(goldens: LfVila, keys: str, **changes):
    """The model of a key list, every weight of it from the original's."""
    name = f"{keys}{changes}"
    if name not in _built:
        windows = goldens.configs["odd"]["windows"]
        config = model_config(goldens, keys, **changes)
        _built[name], report = from_original(goldens.weights(goldens.keys["keys"][keys], windows), config=config)
        assert not report.new
    return _built[name]


@pytest.mark.shared
@torch.no_grad()
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "instance, prefix, masked_key, tolerance",
    [
        ("long", "", None, 5e-6),
        ("odd", "", None, 5e-6),
        ("paragraphs", "minimum_", None, 5e-6),
        ("paragraphs", "ten_thousand_", -10000.0, ROUNDED),
    ],
)
def test_states_of_sentences_and_paragraphs(goldens, instance, prefix, masked_key, tolerance, kernel):
    keys = "long" if instance == "long" else "odd"
    ids, mask = goldens.paragraph(instance)
    for start, token in (("", "all_sentences"), ("corrected_", "real_sentences")):
        text = text_config(goldens, instance, paragraph_token=token, masked_key=masked_key)
        side = build(goldens, keys, text_config=text).violet.text_embeddings
        build(goldens, keys, text_config=text).set_attn_implementation(kernel)
        sentences = side.sentence_states(ids, mask)
        goldens.expect(f"{instance}/{prefix}sentence_states", sentences, tolerance)
        goldens.expect(f"{instance}/{prefix}with_places", side.places(sentences).flatten(1, 2), tolerance)
        states = side.encode(ids.flatten(1), mask.flatten(1))
        goldens.expect(f"{instance}/{prefix}{start}paragraph_states", states.tokens, tolerance)
        assert states.mask.shape == states.tokens.shape[:2] and states.mask[:, 0].all()


@pytest.mark.shared
@torch.no_grad()
@pytest.mark.parametrize("instance", ["long", "odd"])
def test_unit_vectors_of_videos_paragraphs_clips_and_sentences(goldens, instance):
    model = build(goldens, instance).violet
    video, text = model.encode_videos(goldens.clip(instance)), model.encode_texts(*goldens.paragraph(instance))
    goldens.expect(f"{instance}/video_global_feature", model.embed_videos(video))
    goldens.expect(f"{instance}/text_global_feature", model.projection.text(text))
    goldens.expect(f"{instance}/video_clip_feature", model.projection.clips(video))
    goldens.expect(f"{instance}/text_sentence_feature", model.projection.sentences(text))
    assert model.projection.scale() == pytest.approx(20.0)


@pytest.mark.shared
@torch.no_grad()
def test_the_fusion_its_match_score_and_masked_words(goldens):
    """Stage 2: the first videos are rolled among themselves, and some words are masked (lf_vila.md)."""
    model = build(goldens, "odd")
    assert isinstance(model, VioletForPreTraining)
    ids, mask = goldens.paragraph("odd")
    ids, rolled = goldens.masked_words("odd", ids)[0], torch.tensor([1, 0, 2, 3, 4])
    video = model.violet.encode_videos(goldens.clip("odd"))
    goldens.expect("odd/video_tokens_with_places", video.tokens.unflatten(1, (8, 2)))
    text = model.violet.encode_texts(ids, mask)
    given = video.select(rolled)
    goldens.expect("odd/fusion_input", torch.cat([text.tokens, given.tokens], dim=1))
    output = model.violet(input_ids=ids, attention_mask=mask, video_tokens=video, video_index=rolled)
    states = torch.cat([output.text_hidden_state, output.video_hidden_state], dim=1)
    goldens.expect("odd/fusion_states", states)
    classes = torch.nn.Sequential.forward(model.match_head, output.first_text_state())
    goldens.expect("odd/match_scores", classes)
    torch.testing.assert_close(
        model.match_head(output.first_text_state())[:, 0].sigmoid(), classes.softmax(-1)[:, 1], atol=1e-6, rtol=0
    )
    goldens.expect("odd/mlm_logits_first64", model.mlm_head(states)[..., :64])


def gradient_norms(goldens: LfVila, model) -> tuple[np.ndarray, list[str]]:
    """Of the model's parameters in the original's order, NaN for none."""
    kind = LF_VILA.fitted(Numbering("VioletForPreTraining", text_layers=(2, 2)), Numbering())
    norms = {}
    for name, parameter in model.named_parameters():
        theirs = kind.their_name(name.removeprefix("violet.").replace("match_head", "answer_head"))
        if parameter.grad is not None:
            norms[theirs] = parameter.grad.double().norm().item()
    shared_bias = "text_encoder.cls.predictions."  # one tensor, two names
    if f"{shared_bias}decoder.bias" in norms:
        norms[f"{shared_bias}bias"] = norms.pop(f"{shared_bias}decoder.bias")
    return np.array([norms.get(name, np.nan) for name in goldens.keys["grad_norms_order"]]), sorted(norms)


def assert_gradient_norms(goldens: LfVila, model, stage: int) -> None:
    expected = goldens.archive[f"odd/grad_norms_stage{stage}"].astype(float)
    got, trained = gradient_norms(goldens, model)
    assert np.isfinite(got).sum() == len(trained) > 200  # each of ours is one of theirs
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    far = np.abs(got - expected) > np.maximum(1e-4 * np.abs(expected), 1e-6)
    assert not far.any(), [goldens.keys["grad_norms_order"][place] for place in np.flatnonzero(far)]


@pytest.mark.shared
def test_losses_and_gradients_of_the_first_stage(goldens):
    """As published: the video itself may be among the others."""
    model = build(goldens, "odd", contrastive_weight=2.0)  # a model of its own, whose gradients nobody reads
    violet, archive, clips = model.violet, goldens.archive, goldens.configs["odd"]["clips"]
    video, text = violet.encode_videos(goldens.clip("odd")), violet.encode_texts(*goldens.paragraph("odd"))
    whole = symmetric_contrast(videos=violet.embed_videos(video), texts=violet.projection.text(text), scale=20.0)
    drawn = {name: torch.from_numpy(archive[f"odd/draw_{name}"]).view(-1, clips) for name in DRAWN}
    in_time = temporal_contrast(
        clips=violet.projection.clips(video),
        sentences=violet.projection.sentences(text),
        scale=20.0,
        corrected=False,
        **{name: rows[:, :2] if name != "negatives" else rows[:, 0] for name, rows in drawn.items()},
    )
    assert whole.item() == pytest.approx(archive["odd/ct_global_loss"].item(), rel=1e-5)
    assert 0.25 * in_time.item() == pytest.approx(archive["odd/ct_time_loss"].item(), rel=1e-5)
    (whole + 0.25 * in_time).backward()
    assert_gradient_norms(goldens, model, 1)


@pytest.mark.shared
def test_losses_and_gradients_of_the_second_stage(goldens):
    model = build(goldens, "odd", objectives={"rolled_vtm": {}, "rolled_mlm": {}})
    (ids, mask), archive = goldens.paragraph("odd"), goldens.archive
    words, labels = goldens.masked_words("odd", ids)
    index, match = roll_pairs(len(ids))
    assert match.tolist() == archive["odd/match_labels"].tolist()
    output = model(
        pixel_values_videos=goldens.clip("odd"),
        input_ids=words.flatten(1),
        attention_mask=mask.flatten(1),
        labels=labels.flatten(1),
        rolled_video_index=index,
        rolled_match=match,
        objectives={"rolled_mlm": 1.0, "rolled_vtm": 10.0},
    )
    assert output.losses["rolled_mlm"].item() == pytest.approx(archive["odd/mlm_loss"].item(), rel=1e-5)
    assert 10 * output.losses["rolled_vtm"].item() == pytest.approx(archive["odd/vtm_loss"].item(), rel=1e-5)
    for name, theirs in (("rolled_mlm", "mlm_acc"), ("rolled_vtm", "vtm_acc")):
        assert output.accuracies[name].item() == pytest.approx(archive[f"odd/{theirs}"].item())
    output.loss.backward()
    assert_gradient_norms(goldens, model, 2)


@pytest.mark.shared
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_which_videos_are_rolled(goldens, rows):
    theirs = torch.from_numpy(goldens.archive[f"losses/match/batch_{rows}"]).view(2, rows)
    index, match = roll_pairs(rows, corrected=False)
    assert index.tolist() == theirs[0].tolist() and match.long().tolist() == theirs[1].tolist()
    ours, is_match = roll_pairs(rows)
    assert ours.tolist() == index.tolist() and is_match.tolist() == (ours == torch.arange(rows)).tolist()


@pytest.mark.shared
@torch.no_grad()
def test_answers(goldens):
    ids, mask = goldens.paragraph("tasks")
    labels = torch.from_numpy(goldens.archive["tasks/labels"]).long()
    model = build(goldens, "qa_classification", label_smoothing=0.1)
    output = model(goldens.clip("tasks"), ids, mask, labels=labels)
    goldens.expect("tasks/qa_logits", output.logits)
    expected = goldens.archive["tasks/qa_loss_smoothing_0.1"].item()
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.shared
@torch.no_grad()
def test_options_and_the_steps_in_which_the_answer_is_seen(goldens):
    model = build(goldens, "qa_multichoice")
    ids, mask = goldens.options()
    choices = torch.from_numpy(goldens.archive["tasks/choice_labels"]).long()
    output = model(goldens.clip("tasks"), ids, mask, labels=choices)
    goldens.expect("tasks/choice_logits", output.logits)
    assert output.loss.item() == pytest.approx(goldens.archive["tasks/choice_loss"].item(), rel=1e-5)
    labels = torch.from_numpy(goldens.archive["tasks/span_labels"]).long().view(2, 4)
    weights = torch.from_numpy(goldens.archive["tasks/span_weights"]).float().view(2, 4)
    of_frames = torch.nn.functional.cross_entropy(output.span_logits.flatten(0, 1), labels.flatten(), reduction="none")
    loss = (of_frames * weights.flatten()).sum() / labels.numel()
    assert loss.item() == pytest.approx(float(goldens.archive["tasks/span_loss"].item()), rel=1e-5)


@pytest.mark.shared
@torch.no_grad()
def test_classes_of_videos(goldens):
    model = build(goldens, "video_classification")
    labels = torch.from_numpy(goldens.archive["tasks/labels"]).long()
    output, video = model(goldens.clip("tasks"), labels=labels), model.violet.encode_videos(goldens.clip("tasks"))
    goldens.expect("tasks/class_video_feature", model.violet.embed_videos(video))
    goldens.expect("tasks/class_logits", output.logits)
    # a layer of the original's that feeds nothing: kept beside a converted model
    layer = [drawn(f"video_frame_proj.{name}", shape) for name, shape in (("weight", [128, 128]), ("bias", [128]))]
    of_frames = torch.nn.functional.linear(video.patches().mean((2, 3)), *layer)
    goldens.expect("tasks/class_frame_feature", torch.nn.functional.normalize(of_frames, dim=-1))
    assert output.loss.item() == pytest.approx(goldens.archive["tasks/class_loss"].item(), rel=1e-5)


# --- what a toy would not show, and what is refused ---


def small_config(**changes) -> VioletConfig:
    text = {"model_type": "paragraph", "num_sentence_layers": 2, "num_paragraph_layers": 2, "sentence_length": 6}
    return VioletConfig(
        **{
            "text_config": {**text, "max_sentences": 4, "max_places": 25, **changes.pop("text", {})},
            "hidden_size": 32,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "vocab_size": 128,
            "max_position_embeddings": 16,
            "initializer_range": 0.2,
            **changes,
        }
    )


def side_of(**changes) -> LfVilaParagraphText:
    torch.manual_seed(0)
    config = small_config(**changes)
    config._attn_implementation = "sdpa"
    side = build_text_side(config)
    for parameter in side.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return side.eval()


def sentences(seed: int = 0) -> torch.Tensor:
    return torch.randint(5, 128, (2, 3, 6), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_sentences_are_read_alone_and_their_order_matters_to_the_paragraph():
    side, ids = side_of(), sentences()
    mask = torch.ones_like(ids)
    turned = ids[:, [1, 0, 2]]
    assert torch.equal(side.sentence_states(turned, mask)[:, [1, 0, 2]], side.sentence_states(ids, mask))
    one, other = (side.encode(given).tokens[:, 0] for given in (ids, turned))
    assert (one - other).abs().max() > 0.01


@torch.no_grad()
def test_places_are_counted_over_padding_and_padding_is_seen_by_none():
    side, ids = side_of(), sentences()
    mask = torch.ones_like(ids)
    mask[:, 1, 4:] = 0
    other = ids.clone()
    other[:, 1, 4:] = 7
    one, two = side.encode(ids, mask), side.encode(other, mask)
    real = one.mask.bool()
    torch.testing.assert_close(one.tokens[real], two.tokens[real], atol=1e-6, rtol=0)
    longer = side_of(text={"sentence_length": 7, "max_places": 29})
    padded = torch.nn.functional.pad(ids, (0, 1))
    moved = longer.encode(padded, torch.nn.functional.pad(mask, (0, 1))).tokens[:, 0]
    assert (moved - one.tokens[:, 0]).abs().max() > 0.01


@torch.no_grad()
def test_an_empty_sentence_is_none():
    """As many empty sentences as one likes move no real state; as published they do."""
    ids = sentences()
    mask = torch.ones_like(ids)
    mask[:, 2] = 0
    other = ids.clone()
    other[:, 2] = 9
    for token, moves in (("real_sentences", False), ("all_sentences", True)):
        side = side_of(text={"paragraph_token": token})
        states = [side.encode(given, mask).tokens[:, 0] for given in (ids, other)]
        assert ((states[0] - states[1]).abs().max() > 1e-3) == moves
    side = side_of()
    torch.testing.assert_close(side.encode(ids, mask).tokens[:, :13], side.encode(ids[:, :2]).tokens)
    nothing = side.encode(ids, torch.zeros_like(mask))
    assert torch.isfinite(nothing.tokens).all()


@torch.no_grad()
def test_a_paragraph_may_be_one_row_and_a_text_one_sentence():
    side, ids = side_of(), sentences()
    torch.testing.assert_close(side.encode(ids).tokens, side.encode(ids.flatten(1)).tokens)
    short = side.encode(ids[:, 0, :4]).tokens
    padded = side.encode(ids[:, :1], torch.tensor([[[1, 1, 1, 1, 0, 0]]]).expand(2, -1, -1)).tokens
    assert short.shape == (2, 5, 32)
    torch.testing.assert_close(short, padded[:, :5], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "ids, says",
    [
        (torch.ones(1, 8, dtype=torch.long), "`sentence_length` 6 places each.*got 8"),
        (torch.ones(1, 2, 5, dtype=torch.long), "`sentence_length` 6 places, padding included; got 5"),
        (torch.ones(1, 5, 6, dtype=torch.long), "5 sentences are more than `max_sentences` 4"),
    ],
)
def test_paragraphs_that_do_not_fit_are_refused(ids, says):
    with pytest.raises(ValueError, match=says):
        side_of().encode(ids)


def test_more_places_than_there_are_rows_are_refused():
    with pytest.raises(ValueError, match="`sentence_length`.*`max_places` 18"):
        side_of(text={"max_places": 18}).encode(sentences())


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"text": {"sentence_length": 25}}, "sentence_length.*max_places"),
        ({"text": {"paragraph_token": "first"}}, "paragraph_token.*real_sentences"),
        ({"fusion_norm": "pre"}, "text_config.model_type.*fusion_norm"),
        ({"max_position_embeddings": 5}, "text_config.sentence_length.*max_position_embeddings"),
        ({"match_classes": 2}, "match_classes.*head_type"),
        ({"head_type": "embedding"}, "head_type.*projection_dim"),
        ({"video_grid_size": [2, 3]}, "video_grid_size.*vision_positions"),
    ],
)
def test_contradictions_are_refused_with_both_names(changes, says):
    with pytest.raises(Exception, match=f"(?s){says}"):
        side_of(**changes)


@pytest.mark.shared
def test_one_more_cell_or_frame_than_there_are_places_for_is_refused(goldens):
    model = build(goldens, "odd").violet
    with pytest.raises(ValueError, match=r"`video_grid_size` is \(1, 2\), and the clip's grid is \(2, 3\)"):
        model.encode_videos(torch.zeros(1, 4, 3, 192, 320))
    with pytest.raises(ValueError, match="12 steps in time, and `num_video_frames` is 8"):
        model.encode_videos(torch.zeros(1, 12, 3, 128, 200))


@pytest.mark.shared
def test_a_fused_model_learns_words_and_recognises_options(goldens):
    """Gradients reach every parameter of the text side, and masked words are read behind the paragraph's token."""
    config = model_config(goldens, "odd", match_classes=1, projection_dim=None)
    model = VioletForMultipleChoice(config).train()
    ids, mask = goldens.paragraph("odd")
    loss = model(
        goldens.clip("odd")[:1], ids[None, :3].flatten(2), mask[None, :3].flatten(2), labels=torch.tensor([1])
    ).loss
    loss.backward()
    unread = [
        name
        for name, one in model.violet.text_embeddings.named_parameters()
        if one.grad is None or not one.grad.abs().sum()
    ]
    assert not unread or all(".key.bias" in name for name in unread)

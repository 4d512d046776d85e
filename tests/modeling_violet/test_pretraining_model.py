"""`VioletForPreTraining`: each objective against another computation, what it shares, and what it must not see."""

import itertools
import math

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AutoModelForPreTraining
from transformers.utils import logging as transformers_logging

from violet.configuration import named_configuration
from violet.configuration.configuration_violet import IMAGENET_BLACK
from violet.modeling_violet import VioletForMaskedLM, VioletForPreTraining, VioletForQuestionAnswering, bert_layers
from violet.modeling_violet.fusions import bert_fusion
from violet.modeling_violet.losses import IGNORE_INDEX, contrastive_loss
from violet.modeling_violet.objectives.passes import hardest

BATCH, FRAMES, GRID, SIDE = 4, 2, 4, 8
VOCABULARY, MASK, ABSENT = 60, 4, -1
SMALL = {
    "vision_config": {
        "embed_dim": 8,
        "depths": (1, 2, 1),
        "num_heads": (1, 2, 2),
        "window_size": (2, 2, 2),
        "patch_size": 2,
        "drop_path_rate": 0.0,
        "initializer_range": 0.2,
    },
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
    "initializer_range": 0.2,
    "projection_dim": 16,
    "classifier_dropout": 0.0,
    "mvm_targets": {"pixel": {}, "vq": {"channels": 11}, "2d_feature": {"channels": 7}},
}
NEGATIVES = torch.tensor([[1, 2, 3], [3, 0, ABSENT], [0, ABSENT, ABSENT], [ABSENT] * 3])
OBJECTIVES = ["vtm", "mlm", "smtm", "vtc", "mvm_pixel", "mvm_vq", "mvm_2d_feature"]
ALL = dict.fromkeys(OBJECTIVES, 1.0)


def build(model_class=VioletForPreTraining, seed=0, kernel=None, **overrides):
    torch.manual_seed(seed)
    config = named_configuration("violet-tiny", **{**SMALL, **overrides})
    return model_class._from_config(config, attn_implementation=kernel).eval()


@pytest.fixture(scope="module")
def model():
    return build()


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clips(seed=1):
    return draw(seed, BATCH, FRAMES, 3, GRID * SIDE, GRID * SIDE)


def texts():
    """Words of 9, 6, 8 and 7 tokens, padded with 0."""
    words = torch.randint(5, VOCABULARY, (BATCH, 9), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(9) < torch.tensor([9, 6, 8, 7])[:, None]).long()
    return words * mask, mask


def inputs(**changes):
    """What every objective needs: masked patches and words, negatives, some absent, and targets."""
    words, mask = texts()
    hidden = torch.zeros_like(words, dtype=torch.bool)
    hidden[0, 2] = hidden[1, 1] = hidden[1, 4] = hidden[3, 5] = True
    targets = {
        "pixel": clips(),
        "vq": torch.randint(0, 11, (BATCH, FRAMES, GRID, GRID), generator=torch.Generator().manual_seed(3)),
        "2d_feature": draw(4, BATCH, FRAMES, GRID, GRID, 7),
    }
    return {
        "pixel_values_videos": clips(),
        "input_ids": words.masked_fill(hidden, MASK),
        "attention_mask": mask,
        "labels": words.masked_fill(~hidden, IGNORE_INDEX),
        "bool_masked_pos": draw(5, BATCH, FRAMES, GRID, GRID) > 0.6,
        "negative_index": NEGATIVES,
        "mvm_targets": targets,
        "objectives": ALL,
        **changes,
    }


def assert_same(one, other, tolerance=1e-5):
    assert one.numel() > 1 and one.float().std() > 1e-3, "an empty or constant tensor would agree with anything"
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def assert_same_loss(one, other, tolerance=1e-5):
    assert one.shape == () and one.item() > 1e-2, "a loss of 0 would agree with many mistakes"
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def weights_of(model, model_class, **overrides):
    """Another class with the model's weights: those that it has beside them are returned."""
    other = build(model_class, seed=9, **overrides)
    missing, _ = other.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    return other


# --- each objective, computed in another way ---


@torch.no_grad()
def test_matching_is_a_choice_among_pairs_that_are_fused_one_by_one(model):
    given = inputs()
    output = model(**given)

    def score(video, text):
        states = model.violet(
            pixel_values_videos=given["pixel_values_videos"][video : video + 1],
            bool_masked_pos=given["bool_masked_pos"][video : video + 1],
            input_ids=given["input_ids"][text : text + 1],
            attention_mask=given["attention_mask"][text : text + 1],
        ).last_hidden_state
        first_word = FRAMES * (1 + GRID * GRID)  # behind the video's tokens
        return model.match_head(states[0, first_word]).item()

    losses, right = [], []
    for video, others in enumerate(NEGATIVES.tolist()):
        scores = [score(video, text) for text in [video, *(text for text in others if text != ABSENT)]]
        found = output.match_logits[video, : len(scores)]
        assert found.tolist() == pytest.approx(scores, abs=1e-5)
        if len(scores) > 1:  # with one, there is nothing to choose from
            powers = [math.exp(value / 0.05) for value in scores]
            losses.append(-math.log(powers[0] / sum(powers)))
            right.append(scores[0] == max(scores))
    assert len(losses) == 3 and max(losses) - min(losses) > 1e-2
    assert output.losses["vtm"].item() == pytest.approx(sum(losses) / 3, rel=1e-3)
    assert output.accuracies["vtm"].item() == pytest.approx(sum(right) / 3)


def test_matching_without_any_other_text_is_no_loss_and_no_gradient():
    model = build()
    output = model(**inputs(negative_index=torch.full((BATCH, 2), ABSENT), objectives={"vtm": 1}))
    assert output.loss.item() == 0
    output.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients and all((gradient == 0).all() for gradient in gradients), "and none of them is NaN"


def test_absent_texts_have_no_part_in_the_gradient():
    """What stands at −1 is text 0, for its shape's sake."""

    def gradient(negatives):
        model = build()
        model(**inputs(negative_index=negatives, objectives={"vtm": 1})).loss.backward()
        return model.violet.text_embeddings.word_embeddings.weight.grad

    more = torch.cat([NEGATIVES, torch.full((BATCH, 2), ABSENT)], dim=1)
    assert_same(gradient(NEGATIVES), gradient(more))


@torch.no_grad()
@pytest.mark.parametrize("name, rule", [("mlm", "bidirectional"), ("smtm", "sequence_to_sequence")])
def test_masked_words_are_those_of_the_masked_language_model(model, name, rule):
    given = inputs()
    other = weights_of(model, VioletForMaskedLM)
    shared = ("pixel_values_videos", "input_ids", "attention_mask", "labels", "bool_masked_pos")
    expected = other(**{key: given[key] for key in shared}, attention_rule=rule)
    output = model(**given)
    assert_same_loss(output.losses[name], expected.loss)
    valid = given["labels"] >= 0
    right = (expected.logits.argmax(-1) == given["labels"])[valid].float().mean()
    assert output.accuracies[name].item() == pytest.approx(right.item())
    if name == "mlm":
        assert_same(output.mlm_logits, expected.logits)
    assert abs(output.losses["mlm"] - output.losses["smtm"]) > 1e-3, "the rules differ"


@torch.no_grad()
def test_masked_patches_are_compared_patch_by_patch(model):
    given = inputs()
    output = model(**given)
    pair = ("pixel_values_videos", "input_ids", "attention_mask", "bool_masked_pos")
    states = model.violet(**{key: given[key] for key in pair}).video_hidden_state
    difference = {"pixel": [], "vq": [], "2d_feature": []}
    for place in given["bool_masked_pos"].nonzero():
        video, frame, row, column = place.tolist()
        state = states[video, frame * (1 + GRID * GRID) + 1 + row * GRID + column]
        of_pixels = model.mvm_heads["pixel"].projection(state).view(3, SIDE, SIDE)
        rows, columns = slice(row * SIDE, (row + 1) * SIDE), slice(column * SIDE, (column + 1) * SIDE)
        shown = given["pixel_values_videos"][video, frame, :, rows, columns]
        difference["pixel"].append((of_pixels - shown).abs().mean())
        word = given["mvm_targets"]["vq"][video, frame, row, column]
        difference["vq"].append(-model.mvm_heads["vq"](state).log_softmax(-1)[word])
        feature = given["mvm_targets"]["2d_feature"][video, frame, row, column]
        difference["2d_feature"].append((model.mvm_heads["2d_feature"](state) - feature).abs().mean())
    assert 20 < len(difference["vq"]) < BATCH * FRAMES * GRID * GRID / 2
    for name, found in difference.items():
        assert_same_loss(output.losses[f"mvm_{name}"], torch.stack(found).mean())


def embeddings_of(model, given):
    """Of videos and of unmasked texts, as anyone gets them."""
    words = torch.where(given["labels"] >= 0, given["labels"], given["input_ids"])
    return (
        model.get_video_features(given["pixel_values_videos"]).pooler_output,
        model.get_text_features(words, given["attention_mask"]).pooler_output,
    )


@torch.no_grad()
def test_contrast_is_that_of_the_features_of_videos_and_unmasked_words(model):
    given = inputs(bool_masked_pos=None, objectives={"vtc": 1})
    videos, words = embeddings_of(model.violet, given)
    output = model(**given)
    assert_same_loss(output.loss, contrastive_loss(videos, words, model.violet.projection.logit_scale))
    right = (videos @ words.t()).argmax(1) == torch.arange(BATCH)
    assert output.accuracies["vtc"].item() == pytest.approx(right.float().mean().item())
    masked_words = {"input_ids": given["input_ids"], "labels": None, "attention_mask": given["attention_mask"]}
    other = model(given["pixel_values_videos"], **masked_words, objectives={"vtc": 1}).loss
    assert abs(other - output.loss) > 1e-4, "the masked words would give another loss"


@torch.no_grad()
def test_videos_of_the_same_words_are_no_negatives_in_contrast(model):
    given = inputs(bool_masked_pos=None, objectives={"vtc": 1})
    for name in ("input_ids", "labels", "attention_mask"):
        given[name] = given[name].clone()
        given[name][2] = given[name][0]
    given["input_ids"][2] = torch.where(given["labels"][0] >= 0, given["labels"][0], given["input_ids"][0])
    given["labels"][2] = IGNORE_INDEX  # the same words, hidden in one of the two only
    videos, words = embeddings_of(model.violet, given)
    same = torch.eye(BATCH, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True
    scale = model.violet.projection.logit_scale
    loss = model(**given).loss
    assert_same_loss(loss, contrastive_loss(videos, words, scale, same))
    assert abs(loss - contrastive_loss(videos, words, scale)) > 1e-3


@torch.no_grad()
def test_contrast_tells_videos_apart_from_wrong_texts_too(model):
    given = inputs(bool_masked_pos=None, objectives={"vtc": 1})
    videos, words = embeddings_of(model.violet, given)
    wrong = torch.randint(5, 40, (2, 7), generator=torch.Generator().manual_seed(9))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    others = model.violet.get_text_features(wrong, mask).pooler_output
    scale = model.violet.projection.logit_scale.exp()
    to_texts = torch.cat([videos @ words.t(), videos @ others.t()], dim=1) * scale
    to_videos = words @ videos.t() * scale
    own = torch.arange(BATCH)
    expected = (
        torch.nn.functional.cross_entropy(to_texts, own) + torch.nn.functional.cross_entropy(to_videos, own)
    ) / 2
    output = model(**given, wrong_ids=wrong, wrong_attention_mask=mask)
    assert_same_loss(output.loss, expected)
    plain = model(**given).loss
    assert output.loss > plain, "there is more to tell apart"
    true_ones = torch.where(given["labels"] >= 0, given["labels"], given["input_ids"])
    fooled = model(**given, wrong_ids=true_ones, wrong_attention_mask=given["attention_mask"])
    assert_same_loss(fooled.loss, plain + math.log(2) / 2)  # every text occurs twice, for one of two directions


# --- any subset ---


@torch.no_grad()
def test_the_loss_is_the_weighted_sum_of_any_subset_and_each_part_is_the_same_in_all(model):
    whole = model(**inputs())
    assert set(whole.losses) == set(OBJECTIVES) == set(model.objective_names())
    assert len({round(loss.item(), 4) for loss in whole.losses.values()}) == len(OBJECTIVES)
    generator = torch.Generator().manual_seed(6)
    subsets = [(name,) for name in OBJECTIVES] + list(itertools.combinations(OBJECTIVES, 2)) + [tuple(OBJECTIVES)]
    for names in subsets:
        weights = dict(zip(names, (torch.rand(len(names), generator=generator) + 0.5).tolist(), strict=True))
        output = model(**inputs(objectives=weights))
        assert set(output.losses) == set(names)
        for name in names:
            assert_same_loss(output.losses[name], whole.losses[name])
        expected = sum(weights[name] * whole.losses[name].item() for name in names)
        assert output.loss.item() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_what_is_given_decides_the_objectives_where_none_are_named(model):
    given = inputs(objectives=None)
    assert set(model(**given).losses) == set(OBJECTIVES) - {"smtm"}
    given["mvm_targets"] = {"vq": given["mvm_targets"]["vq"]}
    given["negative_index"] = None
    output = model(**given)
    assert set(output.losses) == {"mlm", "vtc", "mvm_vq"}
    assert output.loss.item() == pytest.approx(sum(loss.item() for loss in output.losses.values()), rel=1e-6)


@pytest.mark.parametrize("name", ["mvm_hog", "mtm", "vtm "])
def test_an_objective_that_the_model_has_not_is_refused_by_name(model, name):
    with pytest.raises(ValueError, match=f"no objective '{name}'.*mvm_pixel"):
        model(**inputs(objectives={"mlm": 1.0, name: 1.0}))


def test_contrast_is_refused_where_there_is_no_projection():
    with pytest.raises(ValueError, match="'vtc'.*projection_dim"):
        build(projection_dim=None)(**inputs())


@pytest.mark.parametrize(
    "objective, missing",
    [
        ("vtm", "negative_index"),
        ("mlm", "labels"),
        ("smtm", "labels"),
        ("mvm_vq", "bool_masked_pos"),
        ("mvm_vq", "mvm_targets"),
        ("vtc", "input_ids"),
        ("vtc", "pixel_values_videos"),
    ],
)
def test_a_missing_input_is_refused_by_name(model, objective, missing):
    with pytest.raises(ValueError, match=missing):
        model(**inputs(objectives={objective: 1.0}, **{missing: None}))


def test_no_objective_at_all_is_refused(model):
    with pytest.raises(ValueError, match="No objective"):
        model(**inputs(objectives={}))


# --- what is shared, and which negatives ---


def batch_of(output):
    """The tensor of a layer, or of a model's output, whose rows are the batch."""
    return output if isinstance(output, torch.Tensor) else output[0]


def count_rows(model, module, **changes):
    """The batch sizes of that module's calls in one pass."""
    rows = []
    hook = module.register_forward_hook(lambda _, given, output: rows.append(len(batch_of(output))))
    try:
        with torch.no_grad():
            model(**inputs(**changes))
    finally:
        hook.remove()
    return rows


@pytest.mark.parametrize(
    "changes, rows",
    [
        ({"objectives": {name: 1 for name in OBJECTIVES if name != "smtm"}}, [BATCH, BATCH * 3]),
        ({}, [BATCH, BATCH * 3, BATCH]),  # smtm has a pass of its own, under the other rule
        ({"objectives": {"vtm": 1}, "negative_index": NEGATIVES[:, :2]}, [BATCH, BATCH * 2]),
        ({"objectives": {"vtm": 1, "mlm": 1}, "num_hard_negatives": 1}, [BATCH, BATCH]),
        ({"objectives": {"mlm": 1, "mvm_vq": 1}}, [BATCH]),
        ({"objectives": {"smtm": 1}}, [BATCH]),
        ({"objectives": {"vtc": 1}}, []),
    ],
)
def test_a_video_with_its_own_text_is_fused_once_for_all_objectives(model, changes, rows):
    assert count_rows(model, model.violet.fusion.layers[0], **changes) == rows
    assert count_rows(model, model.violet.video_encoder.swin, **changes) == [BATCH], "and a video is encoded once"


@torch.no_grad()
def test_hard_negatives_are_the_candidates_nearest_before_the_fusion(model):
    candidates = torch.tensor([[1, 2, 3], [3, 0, 2], [0, 3, ABSENT], [2, ABSENT, ABSENT]])
    given = inputs(bool_masked_pos=None, objectives={"vtm": 1}, negative_index=candidates)
    videos, words = embeddings_of(model.violet, given)
    nearness = (videos @ words.t()).tolist()
    chosen = []
    for video, row in enumerate(candidates.tolist()):
        there = sorted((text for text in row if text != ABSENT), key=lambda text: -nearness[video][text])
        chosen.append([*there, ABSENT, ABSENT][:2])
    assert chosen != candidates[:, :2].tolist(), "it is a choice"
    found = model(**given, num_hard_negatives=2)
    expected = model(**given | {"negative_index": torch.tensor(chosen)})
    assert_same(found.match_logits, expected.match_logits)
    assert_same_loss(found.losses["vtm"], expected.losses["vtm"])
    assert abs(found.losses["vtm"] - model(**given).losses["vtm"]) > 1e-3


def test_fewer_candidates_than_hard_negatives_leave_places_empty():
    videos = torch.eye(3)
    words = torch.tensor([[0.6, 0.8, 0.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    candidates = torch.tensor([[2, 1], [ABSENT, 2], [ABSENT, ABSENT]])
    assert hardest(candidates, videos, words, 2).tolist() == [[1, 2], [2, ABSENT], [ABSENT, ABSENT]]
    assert hardest(candidates, videos, words, 1).tolist() == [[1], [2], [ABSENT]]
    assert hardest(candidates, videos, words, 5).tolist() == [[1, 2], [2, ABSENT], [ABSENT, ABSENT]]


# --- received attention ---


def attention_inputs():
    words, mask = texts()
    return {"pixel_values_videos": clips(), "input_ids": words, "attention_mask": mask}


def test_received_attention_is_the_sum_of_the_weights_and_leaves_the_model_as_it_was(model):
    kernel = model.config._attn_implementation
    assert kernel == "sdpa"
    received = model(**attention_inputs(), only_received_attention=True).received_attention
    assert not received.requires_grad
    with torch.no_grad():
        eager = weights_of(model, VioletForPreTraining, kernel="eager")
        attentions = eager.violet(**attention_inputs(), output_attentions=True).attentions
    assert len(attentions) == 3
    expected = sum(layer.sum(dim=2) / layer.shape[1] for layer in attentions).sum(dim=1)  # over queries, heads, layers
    assert_same(received, expected)
    tokens = FRAMES * (1 + GRID * GRID) + 9
    assert received.sum(1).tolist() == pytest.approx([3 * tokens] * BATCH, rel=1e-4), "each query gives away 1 a layer"
    padding = attention_inputs()["attention_mask"] == 0
    assert padding.any() and (received[:, -9:][padding] == 0).all()

    assert model.config._attn_implementation == model.violet.fusion.config._attn_implementation == kernel
    assert not any(module._forward_hooks for module in model.violet.fusion.modules())
    assert torch.is_grad_enabled()


def test_received_attention_leaves_the_model_as_it_was_after_an_error(model):
    with (
        pytest.raises(ValueError, match="bool_masked_pos"),
        bert_fusion.record_received_attention(model.violet.fusion),
    ):
        model.violet(**attention_inputs(), bool_masked_pos=torch.zeros(1, 1, 1, 1))
    assert model.config._attn_implementation == "sdpa" and torch.is_grad_enabled()
    assert not any(module._forward_hooks for module in model.violet.fusion.modules())


def most_weights_alive(monkeypatch, run):
    """The largest number of layers' attention weights that were in memory at a time."""
    attend = bert_layers.eager_attention_forward
    made, alive = [], []

    def spy(*arguments, **options):
        output, weights = attend(*arguments, **options)
        made.append(StorageWeakRef(weights.untyped_storage()))
        alive.append(sum(not weights.expired() for weights in made))
        return output, weights

    monkeypatch.setattr(bert_layers, "eager_attention_forward", spy)
    result = run()
    del result
    assert len(made) == 3
    return max(alive)


def test_received_attention_holds_one_layers_weights_at_a_time(monkeypatch):
    model = build(kernel="eager")
    given = attention_inputs()
    assert most_weights_alive(monkeypatch, lambda: model.violet(**given, output_attentions=True)) == 3, "the measure"
    assert most_weights_alive(monkeypatch, lambda: model(**given, only_received_attention=True)) == 1


# --- gradients ---


def test_every_parameter_gets_a_gradient():
    model = build(vision_config=SMALL["vision_config"] | {"window_size": (2, 4, 4)}).train()
    model(**inputs()).loss.backward()
    named = dict(model.named_parameters())
    assert not [name for name, parameter in named.items() if parameter.grad is None]
    assert all(parameter.grad.isfinite().all() for parameter in named.values())
    # a key's bias adds the same to all logits of a query, the match head's last to all scores: softmax sees neither
    unseen = ("attention.key.bias", "match_head.3.bias")
    assert not [name for name, parameter in named.items() if not parameter.grad.any() and not name.endswith(unseen)]


@pytest.mark.parametrize("black", [(0.0, 0.0, 0.0), IMAGENET_BLACK], ids=["mean colour", "black"])
@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("name", ["violet-tiny", "small, as published"])
def test_gradients_are_moderate_at_the_start_whatever_is_masked(name, share, black):
    """A patch of zeros once made them 1e15: each LayerNorm on the way multiplied them by 1 / sqrt(eps)."""
    torch.manual_seed(0)
    published = SMALL | {"fusion_norm": "post", "initializer_range": 0.02}
    published["vision_config"] = SMALL["vision_config"] | {"initializer_range": 0.02}
    overrides = {"mvm_targets": SMALL["mvm_targets"]} if name == "violet-tiny" else published
    config = named_configuration("violet-tiny", **overrides, masked_patch_value=black)
    model = VioletForPreTraining(config)
    given = inputs()
    if name == "violet-tiny":
        given["pixel_values_videos"] = given["mvm_targets"]["pixel"] = draw(7, BATCH, FRAMES, 3, 128, 128)
    given["bool_masked_pos"] = torch.rand(given["bool_masked_pos"].shape) <= share
    if share == 1.0:
        assert given["bool_masked_pos"].all()
    given["bool_masked_pos"][0, 1] = True  # a whole frame
    model(**given).loss.backward()
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm().item()
    assert 1e-2 < norm < 1e3


# --- saving and loading ---


@torch.no_grad()
def test_a_saved_model_is_the_same_when_loaded_with_its_mvm_heads(tmp_path, model):
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is VioletForPreTraining and not any(report.values()), report
    expected, got = model.state_dict(), loaded.state_dict()
    assert set(expected) == set(got) and any(name.startswith("mvm_heads.2d_feature.") for name in got)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    one, other = model(**inputs()), loaded(**inputs())
    assert set(other.losses) == set(OBJECTIVES)
    assert all(torch.equal(one.losses[name], other.losses[name]) for name in OBJECTIVES)
    assert_same(one.mvm_predictions["pixel"], other.mvm_predictions["pixel"], tolerance=0)


@pytest.mark.parametrize(
    "model_class, left, new",
    [
        (VioletForMaskedLM, ("match_head.", "mvm_heads."), ()),
        (VioletForQuestionAnswering, ("match_head.", "mvm_heads.", "mlm_head."), ("answer_head.",)),
    ],
)
def test_another_task_takes_all_but_the_heads_and_says_so(tmp_path, model, caplog, model_class, left, new):
    model.save_pretrained(tmp_path)
    transformers_logging.enable_propagation()
    try:
        loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    finally:
        transformers_logging.disable_propagation()
    before, after = set(model.state_dict()), set(loaded.state_dict())
    assert set(report["unexpected_keys"]) == before - after == {name for name in before if name.startswith(left)}
    assert set(report["missing_keys"]) == after - before
    assert all(name.startswith(new or "none") for name in after - before) and bool(after - before) == bool(new)
    assert not report["mismatched_keys"]
    for prefix in (*left, *new):
        assert prefix in caplog.text, "it is said, not done in silence"
    assert all(torch.equal(loaded.state_dict()[name], model.state_dict()[name]) for name in before & after)


# --- what must not be seen ---


def everything(output):
    tensors = {f"loss of {name}": loss for name, loss in output.losses.items()}
    tensors |= {"mlm": output.mlm_logits, "match": output.match_logits}
    return tensors | output.mvm_predictions


@torch.no_grad()
def test_pixels_under_the_mask_leak_into_nothing(model):
    given = inputs()
    before = everything(model(**given))
    assert set(before) == {f"loss of {name}" for name in OBJECTIVES} | {"mlm", "match", *model.mvm_heads}
    hidden = given["bool_masked_pos"].repeat_interleave(SIDE, dim=2).repeat_interleave(SIDE, dim=3).unsqueeze(2)
    assert 0.1 < hidden.float().mean() < 0.5
    after = everything(model(**given | {"pixel_values_videos": torch.where(hidden, clips(seed=8), clips())}))
    assert all(torch.equal(before[name], after[name]) for name in before)
    shown = everything(model(**given | {"pixel_values_videos": torch.where(hidden, clips(), clips(seed=8))}))
    assert all((before[name] - shown[name]).abs().max() > 1e-4 for name in before)


@torch.no_grad()
def test_masked_words_leak_neither_into_words_nor_into_matching(model):
    given = inputs()
    before = model(**given)
    other = torch.where(given["labels"] >= 0, (given["labels"] + 7) % VOCABULARY, IGNORE_INDEX)
    after = model(**given | {"labels": other})
    for name in ("mlm_logits", "match_logits"):
        assert torch.equal(before[name], after[name])
    assert all(torch.equal(before.mvm_predictions[name], after.mvm_predictions[name]) for name in model.mvm_heads)
    assert before.losses["vtm"] == after.losses["vtm"] and before.losses["mlm"] != after.losses["mlm"]
    assert before.losses["vtc"] != after.losses["vtc"], "contrast reads the words that are hidden from the others"

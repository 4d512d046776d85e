"""
What every model does: saving, initialisation, gradients, batching, masking, sizes, attention, losses, errors. What one
task does stands beside: test_generation, test_matching, test_pretraining_model, test_peft.
"""

import copy
import itertools
import math

import pytest
import torch
from accelerate import infer_auto_device_map
from torch import nn
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForVisualQuestionAnswering,
)

from violet.configuration import NAMED_CONFIGURATIONS, named_configuration
from violet.core.upstream import checkpoint_activations
from violet.modeling_violet import (
    Tokens,
    VioletForCaptioning,
    VioletForMaskedLM,
    VioletForMultipleChoice,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletForRetrieval,
    VioletModel,
    VioletVisionModel,
)
from violet.modeling_violet.embeddings import interpolate_grid, interpolate_rows
from violet.modeling_violet.encoders.video_swin import VioletVideoSwinAttention, relative_position_index
from violet.modeling_violet.losses import contrastive_loss

LAYERS, PLACES, VOCABULARY, ANSWERS = 2, 16, 60, 5
BLACK = (-0.5, 0.25, 2.0)
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": PLACES,
    "projection_dim": 16,
    "num_labels": ANSWERS,
    "masked_patch_value": BLACK,
    "match_temperature": 1.0,  # no score is magnified, nor its rounding
    "mvm_targets": {"vq": {"channels": 11}},
}
PUBLISHED = {"fusion_norm": "post", "hidden_frame_order": True, "num_task_tokens": 4}  # as VIOLETv2 has them

MODELS = [
    (VioletModel, AutoModel),
    (VioletForMaskedLM, AutoModelForMaskedLM),
    (VioletForQuestionAnswering, AutoModelForVisualQuestionAnswering),
    (VioletForMultipleChoice, AutoModelForMultipleChoice),
    (VioletForRetrieval, VioletForRetrieval),  # transformers has no Auto class for it
    (VioletForCaptioning, AutoModelForImageTextToText),
    (VioletForPreTraining, AutoModelForPreTraining),
    (VioletVisionModel, AutoModel),
]
CLASSES = [model_class for model_class, _ in MODELS]
FUSED = [model_class for model_class in CLASSES if model_class is not VioletVisionModel]
"""Those that take a text, too."""
HEADS = {
    VioletModel: (),
    VioletForMaskedLM: ("mlm_head.",),
    VioletForQuestionAnswering: ("answer_head.",),
    VioletForMultipleChoice: ("match_head.",),
    VioletForRetrieval: ("match_head.",),
    VioletForCaptioning: ("mlm_head.",),
    VioletForPreTraining: ("match_head.", "mlm_head.", "mvm_heads."),
}
KERNELS = ["eager", "sdpa"]


def build(model_class=VioletModel, seed=0, **overrides):
    config = named_configuration("violet-tiny", **{**SMALL, **overrides})
    torch.manual_seed(seed)
    return model_class(config.vision_config if model_class is VioletVisionModel else config).eval()


def clip(videos=2, frames=2, height=64, width=64, seed=1):
    return torch.randn(videos, frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


def words(texts=2, length=6, seed=2):
    return torch.randint(1, VOCABULARY, (texts, length), generator=torch.Generator().manual_seed(seed))


def inputs_of(model, **inputs):
    inputs = {"pixel_values_videos": clip(), "input_ids": words(), **inputs}
    if isinstance(model, VioletVisionModel):
        return {"pixel_values_videos": inputs["pixel_values_videos"]}
    if isinstance(model, VioletForMultipleChoice):  # two options: a text's words, and others in their place
        inputs["input_ids"] = torch.stack([inputs["input_ids"], inputs["input_ids"] % (VOCABULARY - 1) + 1], dim=1)
        if "attention_mask" in inputs:
            inputs["attention_mask"] = torch.stack([inputs["attention_mask"]] * 2, dim=1)
    if isinstance(model, VioletForPreTraining):
        labels = None if inputs["input_ids"] is None else inputs["input_ids"].clone()
        inputs |= {"labels": labels, "objectives": {"mlm": 1.0}}
    return inputs


def main_output(output):
    return next(output[name] for name in ("logits", "mlm_logits", "last_hidden_state") if name in output)


def run(model, **inputs):
    return main_output(model(**inputs_of(model, **inputs)))


def any_loss(scores):
    """A number with a gradient for every score. (The squares of what a LayerNorm gives always sum up to the same.)"""
    weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(11))
    return (scores * weights).sum() / scores.numel() ** 0.5


def assert_same(one, other, tolerance=1e-5):
    assert one.numel() and one.float().std() > 1e-2, "an empty or constant tensor would agree with anything"
    torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


def assert_differ(one, other, least=1e-3):
    assert one.shape == other.shape
    assert (one - other).abs().max() > least


def derived_buffers(model):
    """Name -> value of what is computed and not saved."""
    saved = model.state_dict()
    return {name: value for name, value in model.named_buffers() if name not in saved}


# --- saving and loading ---


@torch.no_grad()
@pytest.mark.parametrize("variant", [{}, PUBLISHED], ids=["tiny", "as published"])
@pytest.mark.parametrize("model_class, auto_class", MODELS)
def test_a_saved_model_is_the_same_when_loaded(tmp_path, model_class, auto_class, variant):
    model = build(model_class, **variant)
    model.save_pretrained(tmp_path)
    loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is model_class and not loaded.training
    assert not any(report.values()), report
    assert_equal_models(model, loaded)


def assert_equal_models(model, loaded):
    expected, got = model.state_dict(), loaded.state_dict()
    assert list(expected) == list(got)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    expected, got = derived_buffers(model), derived_buffers(loaded)
    assert any(name.endswith("relative_position_index") for name in expected)
    assert list(expected) == list(got)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    one, other = run(model), run(loaded)
    assert one.std() > 1e-2 and torch.equal(one, other)


@torch.no_grad()
@pytest.mark.parametrize("model_class, auto_class", MODELS)
def test_a_model_saved_in_shards_is_the_same_when_loaded(tmp_path, model_class, auto_class):
    model = build(model_class)
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert_equal_models(model, loaded)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_class, auto_class", MODELS)
def test_a_model_saved_in_half_precision_stays_there_and_is_the_same(tmp_path, model_class, auto_class, dtype):
    model = build(model_class).to(dtype)
    model.save_pretrained(tmp_path)
    loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    expected, got = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    one, other = (run(one, pixel_values_videos=clip().to(dtype)) for one in (model, loaded))
    assert one.float().std() > 1e-2 and torch.equal(one, other)
    widened = auto_class.from_pretrained(tmp_path, dtype=torch.float32)
    assert {parameter.dtype for parameter in widened.parameters()} == {torch.float32}


@pytest.mark.parametrize("model_class", CLASSES)
def test_a_state_dict_holds_parameters_alone(model_class):
    model = build(model_class, **PUBLISHED)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    assert derived_buffers(model)


def test_loaded_buffers_have_the_right_values(tmp_path):
    build(VioletForMaskedLM).save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert loaded.violet.video_encoder.masked_patch_value.tolist() == list(BLACK)
    attentions = [module for module in loaded.modules() if isinstance(module, VioletVideoSwinAttention)]
    assert attentions
    for attention in attentions:
        assert torch.equal(attention.relative_position_index, relative_position_index((4, 4, 4)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Each class's model and the folder that it is saved in."""
    folder = tmp_path_factory.mktemp("saved")
    models = {}
    for model_class in HEADS:
        models[model_class] = build(model_class), folder / model_class.__name__
        models[model_class][0].save_pretrained(models[model_class][1])
    return models


def of_heads(state_dict, heads):
    return {name for name in state_dict if name.startswith(tuple(heads))}


@pytest.mark.parametrize("source, target", list(itertools.permutations(HEADS, 2)))
def test_loading_another_class_reports_exactly_the_heads(saved, source, target):
    model, folder = saved[source]
    torch.manual_seed(9)
    loaded, report = target.from_pretrained(folder, output_loading_info=True)
    new = of_heads(loaded.state_dict(), set(HEADS[target]) - set(HEADS[source]))
    left = of_heads(model.state_dict(), set(HEADS[source]) - set(HEADS[target]))
    assert bool(new) is (not set(HEADS[target]) <= set(HEADS[source]))
    assert bool(left) is (not set(HEADS[source]) <= set(HEADS[target]))
    assert set(report["missing_keys"]) == new
    assert set(report["unexpected_keys"]) == left
    assert not report["mismatched_keys"]
    one, other = getattr(model, "violet", model), getattr(loaded, "violet", loaded)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    for name, value in loaded.state_dict().items():
        if name in new:
            assert value.isfinite().all() and (value.dim() == 1 or value.numel() < 99 or 0.04 < value.std() < 0.12)
        elif name in model.state_dict():
            assert torch.equal(value, model.state_dict()[name])


def test_another_number_of_answers_is_refused_unless_asked_for(tmp_path):
    model = build(VioletForQuestionAnswering)
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch|mismatch"):
        VioletForQuestionAnswering.from_pretrained(tmp_path, num_labels=ANSWERS + 2)
    loaded, report = VioletForQuestionAnswering.from_pretrained(
        tmp_path, num_labels=ANSWERS + 2, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {key[0] for key in report["mismatched_keys"]} == {"answer_head.3.weight", "answer_head.3.bias"}
    assert run(loaded).shape == (2, ANSWERS + 2)


# --- initialisation ---


@pytest.mark.parametrize("model_class", CLASSES)
def test_initialisation_follows_the_seed(model_class):
    one, same, other = (build(model_class, seed=seed, **PUBLISHED).state_dict() for seed in (3, 3, 4))
    drawn = [name for name in one if one[name].dim() > 1]
    assert drawn
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


@pytest.mark.parametrize("model_class", CLASSES)
def test_initialisation_reaches_every_parameter_and_buffer(model_class):
    config = build(model_class, **PUBLISHED).config
    with torch.device("meta"):
        model = model_class(config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            value.fill_(math.nan if value.is_floating_point() else -(10**6))
            assert not getattr(value, "_is_hf_initialized", False)
    for module in model.modules():
        module._is_hf_initialized = False
    torch.manual_seed(0)
    model.initialize_weights()
    untouched = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    assert not untouched
    for name, value in derived_buffers(build(model_class, **PUBLISHED)).items():
        assert torch.equal(model.get_buffer(name), value), name
    drawn = {name: value for name, value in model.state_dict().items() if value.dim() > 1}
    assert drawn
    for name, value in drawn.items():
        assert 0.5 * 0.08 < value.std() < 1.1 * 0.08, name  # both initializer_range are 0.08
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert norms
    for norm in norms:
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert torch.equal(norm.bias, torch.zeros_like(norm.bias))


@pytest.mark.parametrize("name", [name for name in NAMED_CONFIGURATIONS if "-tiny" in name])
def test_initialisation_reaches_every_parameter_of_every_system(name):
    """Memory that nothing is written to is NaN here; elsewhere it is what was there before, mostly zeros."""
    with torch.device("meta"):
        model = VioletForPreTraining(named_configuration(name))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    for module in model.modules():
        module._is_hf_initialized = False
    model.initialize_weights()
    assert [key for key, value in model.named_parameters() if not value.isfinite().all()] == []


def test_the_padding_word_starts_at_zero():
    rows = build().text_embeddings.word_embeddings.weight
    assert torch.equal(rows[0], torch.zeros_like(rows[0]))
    assert rows[1:].abs().amax(1).min() > 0.01


# --- gradients ---


def assert_every_parameter_has_a_gradient(model):
    # adding a vector to every key adds the same to all logits of a query: the softmax does not see it
    nothing = ("attention.key.bias", "match_head.3.bias")  # nor does the softmax over a text's or a video's scores
    names = [name for name, _ in model.named_parameters() if not name.endswith(nothing)]
    assert len(names) > 50
    without = [name for name in names if model.get_parameter(name).grad is None]
    zero = [name for name in names if name not in without and not model.get_parameter(name).grad.abs().max() > 0]
    assert not without and not zero
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


LABELS = {
    VioletForMaskedLM: words(seed=6),
    VioletForQuestionAnswering: torch.tensor([0, 3]),
    VioletForMultipleChoice: torch.tensor([1, 0]),
    VioletForRetrieval: torch.tensor([1, 0]),
    VioletForCaptioning: words(seed=6),
}


# of pre-training, see test_pretraining_model
@pytest.mark.parametrize("model_class", [VioletModel, *LABELS])
@pytest.mark.parametrize("fusion_norm", ["pre", "post"])
def test_every_parameter_gets_a_gradient(model_class, fusion_norm):
    hides = model_class in (VioletModel, VioletForMaskedLM)
    contrasts = model_class is VioletForQuestionAnswering
    model = build(
        model_class,
        fusion_norm=fusion_norm,
        num_task_tokens=4,
        hidden_frame_order=hides,
        projection_dim=16 if contrasts else None,
    ).train()
    given = inputs_of(model, task_ids=torch.tensor([2]))
    if hides:
        given["hidden_frame_order"] = torch.tensor([[True, False], [False, False]])
    if contrasts:
        given["caption_ids"] = words(seed=5)
    if model_class is VioletModel:
        states = model(**given).last_hidden_state
        loss = (states * torch.randn_like(states)).sum()
    else:
        loss = model(**given, labels=LABELS[model_class]).loss
    loss.backward()
    assert_every_parameter_has_a_gradient(model)


def test_the_vision_model_trains_every_parameter():
    model = build(VioletVisionModel).train()
    features = run(model)
    (features * torch.randn_like(features)).sum().backward()
    assert_every_parameter_has_a_gradient(model)


@pytest.mark.parametrize("model_class", CLASSES)
def test_gradient_checkpointing_changes_no_gradient(model_class):
    model = build(model_class, hidden_dropout_prob=0.1).train()
    recomputing = copy.deepcopy(model)
    checkpoint_activations(recomputing)  # the dropout is drawn once, too
    calls = {"plain": 0, "recomputing": 0}

    def count(key):
        def add(*_):
            calls[key] += 1

        return add

    for key, one in (("plain", model), ("recomputing", recomputing)):
        if model_class is VioletVisionModel:
            swin = one
        else:
            base = getattr(one, "violet", one)
            swin = base.video_encoder.swin
            base.fusion.layers[0].intermediate.register_forward_hook(count(key))
        swin.stages[2].blocks[1].norm1.register_forward_hook(count(key))
        torch.manual_seed(0)
        any_loss(run(one)).backward()
    encoders = 1 if model_class is VioletVisionModel else 2
    assert calls == {"plain": encoders, "recomputing": 2 * encoders}, "each encoder must run its layers once more"
    assert_equal_gradients(model, recomputing, tolerance=1e-7)


def assert_equal_gradients(model, other, tolerance):
    compared = 0
    for name, parameter in model.named_parameters():
        gradient = other.get_parameter(name).grad
        assert (gradient is None) is (parameter.grad is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, parameter.grad, atol=tolerance, rtol=1e-3, msg=name)
            compared += bool(gradient.abs().max() > 10 * tolerance)
    assert compared > 50


@pytest.mark.parametrize("model_class", CLASSES)
def test_both_kernels_give_the_same_outputs_and_gradients(model_class):
    eager = build(model_class, **PUBLISHED)
    fused = copy.deepcopy(eager)
    eager.set_attn_implementation("eager")
    fused.set_attn_implementation("sdpa")
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    one, other = (run(x, pixel_values_videos=clip(height=96, width=160), attention_mask=mask) for x in (eager, fused))
    assert_same(one, other)
    for scores in (one, other):
        any_loss(scores).backward()
    assert_equal_gradients(eager, fused, tolerance=1e-5)


@pytest.mark.gpu
@torch.no_grad()
@pytest.mark.parametrize("model_class", [x for x in FUSED if x is not VioletForCaptioning])  # its mask is no flash's
def test_the_flash_kernel_gives_what_plain_attention_gives(model_class):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = build(model_class, **PUBLISHED).to("cuda", torch.bfloat16)
    given = inputs_of(model, pixel_values_videos=clip().to("cuda", torch.bfloat16), input_ids=words().cuda())
    fusion = getattr(model, "violet", model).fusion
    forward, calls = fusion.forward, []

    def flash(*arguments, **settings):  # the video encoder's biases are no flash's either
        calls.append(1)
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
            return forward(*arguments, **settings)

    model.set_attn_implementation("eager")
    expected = main_output(model(**given)).float()
    model.set_attn_implementation("sdpa")
    fusion.forward = flash
    got = main_output(model(**given)).float()
    assert calls
    assert_same(expected, got, tolerance=0.05 * expected.abs().max().item())


@pytest.mark.parametrize("rule", ["bidirectional", "sequence_to_sequence"])
def test_both_kernels_give_the_same_under_both_rules(rule):
    eager = build(VioletForMaskedLM, **PUBLISHED)
    fused = copy.deepcopy(eager)
    eager.set_attn_implementation("eager")
    fused.set_attn_implementation("sdpa")
    assert eager.violet.video_encoder.swin.config._attn_implementation == "eager"
    assert fused.violet.video_encoder.swin.config._attn_implementation == "sdpa"
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    given = inputs_of(eager, pixel_values_videos=clip(height=96, width=160), attention_mask=mask, attention_rule=rule)
    one, other = eager(**given).logits, fused(**given).logits
    assert_same(one[mask.bool()], other[mask.bool()])
    for logits in (one, other):
        logits[mask.bool()].square().mean().backward()
    assert_equal_gradients(eager, fused, tolerance=1e-5)


# --- batches, padding, videos and texts ---


@torch.no_grad()
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rule", ["bidirectional", "sequence_to_sequence"])
def test_padding_of_texts_changes_no_state(kernel, rule):
    model = build(**PUBLISHED)
    model.set_attn_implementation(kernel)
    ids, filler = words(length=5), words(length=4, seed=8)
    padded = torch.cat([ids, filler], dim=1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros_like(filler)], dim=1)
    plain = model(**inputs_of(model, input_ids=ids), attention_rule=rule)
    longer = model(**inputs_of(model, input_ids=padded, attention_mask=mask), attention_rule=rule)
    assert_same(plain.text_hidden_state, longer.text_hidden_state[:, :5])
    assert_same(plain.video_hidden_state, longer.video_hidden_state)
    unmasked = model(**inputs_of(model, input_ids=padded), attention_rule="bidirectional")
    assert_differ(unmasked.video_hidden_state, longer.video_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("model_class", FUSED)
def test_padding_never_changes_a_result(model_class):
    model = build(model_class, **PUBLISHED)
    ids, filler = words(length=5), words(length=4, seed=8)
    padded = torch.cat([ids, filler], dim=1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros_like(filler)], dim=1)
    plain, longer, unmasked = (
        run(model, input_ids=ids),
        run(model, input_ids=padded, attention_mask=mask),
        run(model, input_ids=padded),
    )
    if plain.dim() == 3:  # by tokens: without those of the padding
        longer, unmasked = longer[:, : plain.shape[1]], unmasked[:, : plain.shape[1]]
    assert_same(plain, longer)
    if model_class is not VioletForCaptioning:  # there no word sees what comes behind it
        assert_differ(plain, unmasked)


@torch.no_grad()
def test_padding_of_prompts_and_captions_changes_no_result():
    model = build(VioletForQuestionAnswering)
    ids, filler = words(length=4), words(length=3, seed=8)
    padded = {"ids": torch.cat([ids, filler], dim=1), "mask": torch.tensor([[1] * 4 + [0] * 3] * 2)}

    plain = model(**inputs_of(model), prompt_ids=ids, caption_ids=ids)
    longer = model(
        **inputs_of(model),
        prompt_ids=padded["ids"],
        prompt_attention_mask=padded["mask"],
        caption_ids=padded["ids"],
        caption_attention_mask=padded["mask"],
    )
    assert_same(plain.logits, longer.logits)
    torch.testing.assert_close(plain.loss, longer.loss)
    unmasked = model(**inputs_of(model), prompt_ids=padded["ids"], caption_ids=padded["ids"])
    assert_differ(unmasked.logits, longer.logits)
    assert abs(unmasked.loss - longer.loss) > 1e-4


@torch.no_grad()
def test_one_prompt_serves_every_text():
    model = build()
    prompt = words(texts=1, length=3, seed=8)
    once = model(**inputs_of(model), prompt_ids=prompt)
    each = model(**inputs_of(model), prompt_ids=prompt.repeat(2, 1))
    assert once.prompt_hidden_state.shape == (2, 3, 64)
    assert_same(once.last_hidden_state, each.last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("model_class", CLASSES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_sample_alone_is_the_sample_in_a_batch(model_class, kernel):
    model = build(model_class, **PUBLISHED)
    model.set_attn_implementation(kernel)
    pixels, ids = clip(videos=3), words(texts=3)
    together = run(model, pixel_values_videos=pixels, input_ids=ids)
    if model_class is VioletForRetrieval:  # of all pairs, each text with its own video
        together = together.diagonal().unsqueeze(1)
    alone = [run(model, pixel_values_videos=pixels[i : i + 1], input_ids=ids[i : i + 1]) for i in range(3)]
    assert_differ(alone[0], alone[1])
    assert_same(together, torch.cat(alone))


@torch.no_grad()
def test_an_index_is_the_same_as_repeating_the_videos():
    model = build(VioletForQuestionAnswering)
    pixels, ids, index = clip(), words(texts=4), torch.tensor([1, 0, 0, 1])
    indexed = run(model, pixel_values_videos=pixels, input_ids=ids, video_index=index)
    assert_same(indexed, run(model, pixel_values_videos=pixels[index], input_ids=ids))
    assert_differ(indexed, run(model, pixel_values_videos=pixels[1 - index], input_ids=ids))


@torch.no_grad()
def test_swapping_the_index_swaps_the_answers():
    model = build(VioletForQuestionAnswering)
    pixels, ids = clip(), words(texts=1).repeat(2, 1)
    straight, crossed = (
        run(model, pixel_values_videos=pixels, input_ids=ids, video_index=torch.tensor(index))
        for index in ([0, 1], [1, 0])
    )
    assert_differ(straight[0], straight[1])
    assert_same(straight, crossed.flip(0))


@torch.no_grad()
@pytest.mark.parametrize("model_class", [VioletForMaskedLM, VioletForQuestionAnswering])
def test_video_tokens_given_back_are_the_same_as_encoding_again(model_class):
    model = build(model_class)
    encoded = model.violet(**inputs_of(model)).video_tokens
    calls = []
    model.violet.video_encoder.register_forward_hook(lambda *_: calls.append(1))
    again = run(model, pixel_values_videos=None, video_tokens=encoded, input_ids=words(seed=7))
    assert not calls, "a clip is encoded once"
    assert_same(again, run(model, input_ids=words(seed=7)))
    assert_differ(again, run(model))


@torch.no_grad()
def test_selected_videos_come_in_the_order_of_the_index():
    tokens = Tokens(torch.randn(3, 8, 5), torch.ones(3, 8), grid=(2, 1, 3), num_special_per_frame=1)
    chosen = tokens.select(torch.tensor([2, 2, 0]))
    assert torch.equal(chosen.tokens, torch.stack([tokens.tokens[2], tokens.tokens[2], tokens.tokens[0]]))
    assert chosen.mask.shape == (3, 8) and chosen.grid == (2, 1, 3)


def test_patches_are_the_tokens_without_the_special_ones():
    # a token holds its own place: (frame, -1) for a special one, (frame, row * 10 + column) for a patch
    frames, rows, columns = 2, 2, 3
    places = []
    for frame in range(frames):
        places.append([frame, -1])
        places.extend([frame, 10 * row + column] for row in range(rows) for column in range(columns))
    tokens = Tokens(torch.tensor([places]), torch.ones(1, 14), (frames, rows, columns), num_special_per_frame=1)
    for frame in range(frames):
        for row in range(rows):
            for column in range(columns):
                assert tokens.patches()[0, frame, row, column].tolist() == [frame, 10 * row + column]


# --- masked patches and hidden frame order ---


@torch.no_grad()
@pytest.mark.parametrize("height, width, rows, columns", [(64, 96, 2, 3), (70, 100, 3, 4)])
def test_masked_patches_take_the_configured_value_and_others_stay(height, width, rows, columns):
    model = build()
    pixels = clip(height=height, width=width)
    masked = torch.rand(2, 2, rows, columns, generator=torch.Generator().manual_seed(3)) < 0.5
    assert masked.any() and not masked.all()
    expected = pixels.clone()
    for video, frame, row, column in masked.nonzero().tolist():
        patch = expected[video, frame, :, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        patch[:] = torch.tensor(BLACK).view(3, 1, 1)
    assert torch.equal(model.video_encoder.mask_patches(pixels, masked), expected)
    assert_same(
        model.encode_videos(pixels, bool_masked_pos=masked).tokens, model.encode_videos(expected).tokens, tolerance=0
    )


@torch.no_grad()
def test_pixels_under_the_mask_do_not_matter_and_those_outside_do():
    model = build(VioletForMaskedLM)
    masked = torch.zeros(2, 2, 3, 4, dtype=torch.bool)
    masked[:, 0, 1, 2] = masked[:, 1, 2, 3] = True
    pixels = clip(height=70, width=100)
    inside, outside = pixels.clone(), pixels.clone()
    inside[:, 0, :, 32:64, 64:96] = 5.0
    inside[:, 1, :, 64:, 96:] = -5.0
    outside[:, 0, :, 31, 64] = 5.0  # one row of pixels above the masked patch
    plain, under, beside = (
        run(model, pixel_values_videos=x, bool_masked_pos=masked) for x in (pixels, inside, outside)
    )
    assert_same(plain, under, tolerance=0)
    assert_differ(plain, beside, least=1e-5)
    assert_differ(run(model, pixel_values_videos=pixels), run(model, pixel_values_videos=inside))


@torch.no_grad()
def test_a_hidden_order_hides_which_frame_came_first():
    model = build(**PUBLISHED, clip_summary=False)  # which would tell the order
    pixels = clip(videos=1).repeat_interleave(2, dim=0)
    hidden = torch.tensor([[True, True], [False, False]])
    tokens = model.encode_videos(pixels, hidden_frame_order=hidden)
    tables = model.video_encoder
    special = tables.frame_token + tables.position_embeddings[0]
    first = tokens.tokens.unflatten(1, (2, -1))[:, :, 0]
    assert_same(first[0], tables.norm(special + tables.hidden_order_embedding).expand(2, -1))
    assert_same(first[1], tables.norm(special + tables.frame_embeddings[:2]))


@torch.no_grad()
def test_task_tokens_stand_between_video_and_text():
    model = build(VioletForQuestionAnswering, **PUBLISHED)
    output = model.violet(**inputs_of(model), task_ids=torch.tensor([1, 3]))
    assert output.prompt_hidden_state.shape == (2, 1, 64)
    lengths = [output.video_hidden_state.shape[1], 1, 6]
    parts = output.last_hidden_state.split(lengths, dim=1)
    for part, name in zip(parts, ("video", "prompt", "text"), strict=True):
        assert torch.equal(part, output[f"{name}_hidden_state"])
    one, other = (run(model, task_ids=torch.full((2,), task)) for task in (1, 3))
    assert_same(one, run(model, task_ids=torch.tensor([1])), tolerance=0)  # one for all
    mixed = run(model, task_ids=torch.tensor([1, 3]))
    assert_differ(one, other)
    assert_same(mixed, torch.stack([one[0], other[1]]))


# --- frame counts and sizes ---


@torch.no_grad()
@pytest.mark.parametrize("frames", range(1, 17))
def test_any_number_of_frames_runs(frames):
    model = build(**PUBLISHED)
    output = model(**inputs_of(model, pixel_values_videos=clip(frames=frames)))
    assert output.video_tokens.grid == (frames, 2, 2)
    assert output.video_hidden_state.shape == (2, frames * 5, 64)
    assert output.video_tokens.patches().shape == (2, frames, 2, 2, 64)
    assert output.last_hidden_state.isfinite().all() and output.last_hidden_state.std() > 0.1


@torch.no_grad()
@pytest.mark.parametrize(
    "height, width, rows, columns",
    [(64, 64, 2, 2), (96, 64, 3, 2), (100, 70, 4, 3), (320, 320, 10, 10), (480, 480, 15, 15), (20, 7, 1, 1)],
)
def test_any_size_runs(height, width, rows, columns):
    model = build()
    pixels = clip(videos=1, frames=1, height=height, width=width)
    output = model(**inputs_of(model, pixel_values_videos=pixels, input_ids=words(texts=1)))
    assert output.video_tokens.grid == (1, rows, columns)
    assert output.video_tokens.tokens.shape == (1, 1 + rows * columns, 64)
    assert output.video_tokens.mask.shape == (1, 1 + rows * columns)
    assert output.last_hidden_state.isfinite().all() and output.last_hidden_state.std() > 0.1


def output_shape(model_class, videos, frames, rows, columns, length):
    words_of_each = (videos, length, VOCABULARY)
    return {
        VioletModel: (videos, frames * (1 + rows * columns) + length, 64),
        VioletForMaskedLM: words_of_each,
        VioletForQuestionAnswering: (videos, ANSWERS),
        VioletForMultipleChoice: (videos, 2),
        VioletForRetrieval: (videos, videos),
        VioletForCaptioning: words_of_each,
        VioletForPreTraining: words_of_each,
        VioletVisionModel: (videos, frames, rows, columns, 256),
    }[model_class]


OF_EACH_SHAPE = (VioletVisionModel, VioletModel, VioletForMultipleChoice, VioletForPreTraining)
"""A class for each shape of output: states of a clip, of tokens, scores of texts, and of words."""


@torch.no_grad()
@pytest.mark.parametrize(
    "model_class",
    [name if name in OF_EACH_SHAPE else pytest.param(name, marks=pytest.mark.proof) for name in CLASSES],
)
def test_any_number_of_frames_and_any_size_run_in_every_class(model_class):
    model = build(model_class, **PUBLISHED)
    sizes = [(64, 64), (96, 64), (100, 70), (64, 131), (320, 192), (320, 320)]
    for frames, (height, width) in [
        *zip((5, 16, 7, 2, 1, 1), sizes, strict=True),
        *((n, (64, 64)) for n in range(1, 17)),
    ]:
        pixels = clip(frames=frames, height=height, width=width)
        scores = run(model, pixel_values_videos=pixels)
        grid = -(-height // 32), -(-width // 32)
        assert scores.shape == output_shape(model_class, 2, frames, *grid, 6)
        assert scores.isfinite().all() and scores.std() > 1e-2


def test_within_the_limits_the_first_positions_are_used_as_they_are():
    encoder = build().video_encoder
    for rows, columns in ((2, 2), (3, 2), (10, 10), (14, 14), (7, 28)):
        assert torch.equal(
            interpolate_grid(encoder.position_embeddings, rows, columns),
            encoder.position_embeddings[: 1 + rows * columns],
        )
    for frames in range(1, 7):
        assert torch.equal(interpolate_rows(encoder.frame_embeddings, frames), encoder.frame_embeddings[:frames])


@torch.no_grad()
def test_beyond_the_limits_positions_are_interpolated():
    encoder = build().video_encoder
    row, column = torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij")
    encoder.position_embeddings[1:, 0], encoder.position_embeddings[1:, 1] = row.flatten(), column.flatten()
    table = interpolate_grid(encoder.position_embeddings, 15, 20)
    assert table.shape == (301, 64)
    assert torch.equal(table[0], encoder.position_embeddings[0])
    rows, columns = table[1:, :2].unflatten(0, (15, 20)).unbind(-1)
    assert (rows.diff(dim=0) > 0.5).all() and torch.allclose(rows, rows[:, :1].expand_as(rows), atol=1e-4)
    assert (columns.diff(dim=1) > 0.3).all() and torch.allclose(columns, columns[:1].expand_as(columns), atol=1e-4)
    times = interpolate_rows(torch.arange(6.0).unsqueeze(1).expand(6, 4), 16)
    torch.testing.assert_close(times, torch.linspace(0, 5, 16).unsqueeze(1).expand(16, 4))


@torch.no_grad()
def test_the_order_of_frames_matters_to_the_fusion():
    model = build()
    still = clip(videos=2, frames=1).repeat(1, 4, 1, 1, 1)
    assert_differ(
        model(**inputs_of(model, pixel_values_videos=still)).video_hidden_state[:, :5],
        model(**inputs_of(model, pixel_values_videos=still)).video_hidden_state[:, 5:10],
    )
    moving = clip(frames=4)
    assert_differ(run(model, pixel_values_videos=moving), run(model, pixel_values_videos=moving.flip(1)))


# --- attention rules ---


@torch.no_grad()
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("place", [0, 2, 5])
def test_sequence_to_sequence_shows_a_word_only_to_itself_and_later_ones(kernel, place):
    model = build(VioletForMaskedLM, **PUBLISHED).violet
    model.set_attn_implementation(kernel)
    ids = words()
    changed = ids.clone()
    changed[:, place] = changed[:, place] % (VOCABULARY - 1) + 1

    def moved(rule):
        one, other = (
            model(**inputs_of(model, input_ids=x, task_ids=torch.tensor([0, 1])), attention_rule=rule)
            for x in (ids, changed)
        )
        distance = {
            name: (one[name] - other[name]).abs().amax((0, 2))
            for name in ("video_hidden_state", "prompt_hidden_state", "text_hidden_state")
        }
        return {name: (value > 1e-5).tolist() for name, value in distance.items()}

    written = moved("sequence_to_sequence")
    assert not any(written["video_hidden_state"]) and not any(written["prompt_hidden_state"])
    assert written["text_hidden_state"] == [i >= place for i in range(6)]
    assert all(all(seen) for seen in moved("bidirectional").values())


@torch.no_grad()
@pytest.mark.parametrize("kernel", KERNELS)
def test_sequence_to_sequence_text_sees_video_and_prompt(kernel):
    model = build(**PUBLISHED)
    model.set_attn_implementation(kernel)

    def text(**inputs):
        return model(**inputs_of(model, **inputs), attention_rule="sequence_to_sequence").text_hidden_state

    plain = text(task_ids=torch.tensor([0, 0]))
    assert ((plain - text(task_ids=torch.tensor([1, 1]))).abs().amax((0, 2)) > 1e-3).all()
    other_video = text(task_ids=torch.tensor([0, 0]), pixel_values_videos=clip(seed=9))
    assert ((plain - other_video).abs().amax((0, 2)) > 1e-3).all()


def test_an_unknown_attention_rule_is_refused_by_name():
    model = build()
    with pytest.raises(ValueError, match="attention_rule.*'casual'.*sequence_to_sequence"):
        model(**inputs_of(model), attention_rule="casual")


# --- outputs ---


@torch.no_grad()
@pytest.mark.parametrize("model_class", FUSED)
@pytest.mark.parametrize("fusion_norm", ["pre", "post"])
def test_hidden_states_and_attentions_are_given_where_asked_for(model_class, fusion_norm):
    model = build(model_class, fusion_norm=fusion_norm)
    model.set_attn_implementation("eager")
    base, fused = getattr(model, "violet", model), []
    plain = model(**inputs_of(model))
    assert plain.hidden_states is None and plain.attentions is None
    base.register_forward_hook(lambda module, given, output: fused.append(output.last_hidden_state))
    output = model(**inputs_of(model), output_hidden_states=True, output_attentions=True)
    # what is asked for has the last layer compute all states, and not only the head's: another order of additions
    assert_same(main_output(plain), main_output(output), tolerance=1e-6)
    rows = 4 if model_class in (VioletForMultipleChoice, VioletForRetrieval) else 2  # options, or pairs
    tokens = 2 * 5 + 6
    assert [state.shape for state in output.hidden_states] == [(rows, tokens, 64)] * (LAYERS + 1)
    assert [weights.shape for weights in output.attentions] == [(rows, 4, tokens, tokens)] * LAYERS
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(rows, 4, tokens))
        assert weights.std() > 1e-3
    last = output.hidden_states[-1] if base.fusion.norm is None else base.fusion.norm(output.hidden_states[-1])
    assert len(fused) == 1
    assert_same(last, fused[0])


@torch.no_grad()
def test_the_vision_model_gives_hidden_states_and_attentions_where_asked_for():
    model = build(VioletVisionModel)
    model.set_attn_implementation("eager")
    plain = model(clip())
    assert plain.hidden_states is None and plain.attentions is None
    output = model(clip(), output_hidden_states=True, output_attentions=True)
    assert_same(plain.last_hidden_state, output.last_hidden_state, tolerance=0)
    sides = [(16, 32), (16, 32), (8, 64), (4, 128), (4, 128), (2, 256)]  # before the first block, and behind each
    assert [state.shape for state in output.hidden_states] == [(2, 2, side, side, width) for side, width in sides]
    assert_same(model.norm(output.hidden_states[-1]), output.last_hidden_state)
    # (clips * windows, heads, tokens, tokens), windows of at most (2, 4, 4)
    shapes = [(32, 1, 32, 32), (8, 2, 32, 32), (2, 4, 32, 32), (2, 4, 32, 32), (2, 8, 8, 8)]
    assert [weights.shape for weights in output.attentions] == shapes
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))


@torch.no_grad()
@pytest.mark.parametrize("model_class", CLASSES)
def test_a_tuple_holds_what_the_named_output_holds(model_class):
    model = build(model_class)
    given = inputs_of(model)
    if model_class in LABELS:
        given["labels"] = LABELS[model_class]
    named, plain = model(**given), model(**given, return_dict=False)
    assert isinstance(plain, tuple) and not isinstance(named, tuple)
    assert len(plain) == len(named.to_tuple()) > 0
    values, others = tree_leaves(named.to_tuple()), tree_leaves(plain)
    assert sum(torch.is_tensor(value) for value in values) > (model_class is not VioletVisionModel)
    for one, other in zip(values, others, strict=True):
        assert torch.equal(one, other) if torch.is_tensor(one) else one == other
    if model_class in LABELS:
        assert torch.equal(plain[0], named.loss) and torch.equal(plain[1], named.logits)


@torch.no_grad()
def test_embeddings_before_the_fusion_are_unit_vectors_of_one_space():
    model = build()
    video, text = model.get_video_features(clip()), model.get_text_features(words())
    for features in (video, text):
        assert features.pooler_output.shape == (2, 16)
        torch.testing.assert_close(features.pooler_output.norm(dim=-1), torch.ones(2))
        assert_differ(features.pooler_output[0], features.pooler_output[1])
    assert torch.equal(video.last_hidden_state, model.encode_videos(clip()).tokens)
    without = build(projection_dim=None)
    assert without.get_video_features(clip()).pooler_output is None
    assert without.get_text_features(words()).pooler_output is None


@torch.no_grad()
def test_embeddings_before_the_fusion_know_the_order_of_frames_and_words():
    model = build()
    pixels, ids = clip(frames=4), words()
    assert_differ(
        model.get_video_features(pixels).pooler_output, model.get_video_features(pixels.flip(1)).pooler_output
    )
    assert_differ(model.get_text_features(ids).pooler_output, model.get_text_features(ids.flip(1)).pooler_output)


# --- losses ---


MASKED = torch.tensor([[-100, 7, -100, 59, -100, 0], [-100] * 5 + [3]])
LABELLED = [
    (VioletForQuestionAnswering, torch.tensor([4, -100])),
    (VioletForMultipleChoice, torch.tensor([-100, 1])),
    (VioletForMaskedLM, MASKED),
    (VioletForCaptioning, MASKED),
]


@pytest.mark.parametrize("model_class, labels", LABELLED)
def test_the_loss_is_the_cross_entropy_of_the_labels_that_count(model_class, labels):
    model = build(model_class)
    assert model(**inputs_of(model)).loss is None
    output = model(**inputs_of(model), labels=labels)
    expected = nn.functional.cross_entropy(output.logits.flatten(0, -2), labels.flatten(), ignore_index=-100)
    assert output.loss > 0.1
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("model_class, labels", LABELLED)
def test_no_label_that_counts_gives_no_loss_and_finite_gradients(model_class, labels):
    model = build(model_class).train()
    loss = model(**inputs_of(model), labels=torch.full_like(labels, -100)).loss
    loss.backward()
    assert loss.item() == 0
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) > 50 and all(not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("model_class, labels", LABELLED)
@pytest.mark.parametrize("beyond", ["the last class", "-1"])
def test_a_label_outside_the_classes_is_refused_by_value_and_limit(model_class, labels, beyond):
    model = build(model_class)
    classes = output_shape(model_class, 2, 2, 2, 2, 6)[-1]
    value = classes if beyond == "the last class" else -1
    labels = labels.clone()
    labels[labels != -100] = value
    with pytest.raises(ValueError, match=f"label {value} .*{classes} classes.*0 to {classes - 1}"):
        model(**inputs_of(model), labels=labels)


@torch.no_grad()
@pytest.mark.parametrize("weight", [0.25, 3.0])
def test_the_caption_loss_is_added_with_its_weight(weight):
    model = build(VioletForQuestionAnswering, contrastive_weight=weight)
    captions, labels = words(seed=5), torch.tensor([1, 2])
    answers = model(**inputs_of(model), labels=labels).loss
    both = model(**inputs_of(model), labels=labels, caption_ids=captions).loss
    alone = model(**inputs_of(model), caption_ids=captions).loss
    contrast = model.violet.caption_loss(model.violet.encode_videos(clip()), captions)
    assert contrast > 0.1 and answers > 0.1
    torch.testing.assert_close(alone, weight * contrast)
    torch.testing.assert_close(both, answers + weight * contrast)


@torch.no_grad()
def test_captions_belong_to_videos_and_not_to_texts():
    model = build(VioletForQuestionAnswering)
    captions, index = words(seed=5), torch.tensor([0, 0, 1, 0])
    loss = model(**inputs_of(model, input_ids=words(texts=4)), video_index=index, caption_ids=captions).loss
    torch.testing.assert_close(loss, model.violet.caption_loss(model.violet.encode_videos(clip()), captions))


@torch.no_grad()
def test_equal_captions_count_as_positives_of_each_other():
    # Without dropout equal captions have equal embeddings, and the loss is the same either way.
    model = build(hidden_dropout_prob=0.5).train()
    videos = model.encode_videos(clip(videos=3))
    captions = words(texts=3)
    captions[1] = captions[0]
    captions[2, 1:3] = captions[0, 1:3]  # some words in common do not make captions equal
    torch.manual_seed(0)
    loss = model.caption_loss(videos, captions)
    torch.manual_seed(0)
    embeddings = model.get_text_features(captions).pooler_output
    assert_differ(embeddings[0], embeddings[1])
    videos, scale = model.projection.video(videos), model.projection.logit_scale
    positives = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    torch.testing.assert_close(loss, contrastive_loss(videos, embeddings, scale, positives))
    assert abs(loss - contrastive_loss(videos, embeddings, scale)) > 1e-2


# --- errors ---


def refused(model, error, match, **inputs):
    with pytest.raises(error, match=match):
        model(**inputs_of(model, **inputs))


def test_videos_are_given_once():
    model = build()
    refused(model, ValueError, "pixel_values_videos.*video_tokens", pixel_values_videos=None)
    tokens = model.encode_videos(clip())
    refused(model, ValueError, "pixel_values_videos.*video_tokens", video_tokens=tokens)


def test_missing_words_are_named():
    refused(build(), ValueError, "input_ids", input_ids=None)


def test_unequal_counts_need_an_index():
    model = build(VioletForQuestionAnswering)
    refused(model, ValueError, "3 texts and 2 videos.*video_index", input_ids=words(texts=3))


def test_task_ids_need_task_tokens():
    refused(build(), ValueError, "task_ids.*num_task_tokens", task_ids=torch.tensor([0, 0]))


def test_a_task_and_a_prompt_are_not_given_together():
    model = build(**PUBLISHED)
    refused(model, ValueError, "task_ids.*prompt_ids", task_ids=torch.tensor([0, 0]), prompt_ids=words(length=2))


def test_hiding_the_order_needs_its_embedding():
    hidden = torch.zeros(2, 2, dtype=torch.bool)
    refused(build(), ValueError, "hidden_frame_order", hidden_frame_order=hidden)


@pytest.mark.parametrize("name, shape", [("bool_masked_pos", (2, 2, 2, 2)), ("hidden_frame_order", (2, 2))])
def test_encoded_videos_cannot_be_masked(name, shape):
    model = build(**PUBLISHED)
    given = {"pixel_values_videos": None, "video_tokens": model.encode_videos(clip())}
    refused(model, ValueError, "video_tokens.*pixel_values_videos", **given, **{name: torch.zeros(shape).bool()})


@torch.no_grad()
@pytest.mark.parametrize("name", ["input_ids", "prompt_ids"])
def test_a_text_that_is_too_long_is_refused(name):
    model = build()
    refused(model, ValueError, f"{PLACES + 1} tokens.*max_position_embeddings", **{name: words(length=PLACES + 1)})
    assert run(model, **{name: words(length=PLACES)}).isfinite().all()


def test_captions_need_a_projection():
    model = build(VioletForQuestionAnswering, projection_dim=None)
    refused(model, ValueError, "projection_dim", caption_ids=words())


# --- number types and vocabulary ---


@torch.no_grad()
@pytest.mark.parametrize(
    ("dtype", "kernel"),
    [
        (torch.bfloat16, "sdpa"),
        (torch.float16, "eager"),
        pytest.param(torch.bfloat16, "eager", marks=pytest.mark.proof),
        pytest.param(torch.float16, "sdpa", marks=pytest.mark.proof),
    ],
)
@pytest.mark.parametrize("model_class", CLASSES)
def test_half_precision_gives_finite_outputs_near_those_of_float32(model_class, dtype, kernel):
    model = build(model_class, **PUBLISHED)
    model.set_attn_implementation(kernel)
    pixels = clip(frames=7, height=96, width=64)  # more frames than positions, and shifted windows
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    expected = run(model, pixel_values_videos=pixels, attention_mask=mask)
    got = run(model.to(dtype), pixel_values_videos=pixels.to(dtype), attention_mask=mask)
    assert got.dtype == dtype and got.isfinite().all()
    assert_same(expected, got.float(), tolerance=0.1 * expected.abs().max().item())


@pytest.mark.parametrize("kernel", KERNELS)
def test_training_under_autocast_gives_finite_gradients(kernel):
    model = build(VioletForQuestionAnswering).train()
    model.set_attn_implementation(kernel)
    given = inputs_of(model, pixel_values_videos=clip(height=96, width=160))
    given |= {"labels": torch.tensor([0, 3]), "caption_ids": words(seed=5)}
    expected = model(**given).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**given).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.1)  # eight bits of mantissa
    assert_every_parameter_has_a_gradient(model)


@torch.no_grad()
@pytest.mark.parametrize("model_class", FUSED)
def test_a_larger_vocabulary_keeps_the_old_words(model_class):
    model = build(model_class)
    before = run(model)
    model.resize_token_embeddings(VOCABULARY + 4)
    assert model.config.vocab_size == VOCABULARY + 4
    assert model.get_input_embeddings().num_embeddings == VOCABULARY + 4
    after = run(model)
    if "mlm_head." in HEADS[model_class]:
        assert after.shape == (2, 6, VOCABULARY + 4)
        after = after[..., :VOCABULARY]
    assert_same(before, after)
    new_words = run(model, input_ids=torch.full((2, 6), VOCABULARY + 3))[..., : before.shape[-1]]
    assert new_words.isfinite().all()
    assert_differ(new_words, after)


@torch.no_grad()
@pytest.mark.parametrize("model_class, auto_class", MODELS[:-1])
def test_a_resized_model_is_the_same_when_loaded(tmp_path, model_class, auto_class):
    model = build(model_class)
    model.resize_token_embeddings(VOCABULARY + 4)
    model.save_pretrained(tmp_path)
    loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert_equal_models(model, loaded)


@pytest.mark.parametrize(
    "wrong, complaint",
    [
        ({"bool_masked_pos": torch.zeros(1, 2, 14, 14, dtype=torch.bool)}, r"bool_masked_pos.*\(2, 2, 2, 2\)"),
        ({"hidden_frame_order": torch.zeros(1, 1, dtype=torch.bool)}, r"hidden_frame_order.*\(2, 2\)"),
        ({"video_index": torch.tensor([0, 1, 1])}, "video_index.*2 texts"),
        ({"prompt_ids": words(3)}, "prompt_ids.*3 rows for 2 texts"),
        ({"task_ids": torch.tensor([0, 1, 1])}, r"task_ids.*\(3,\) for 2 texts"),
    ],
)
def test_a_shape_that_would_be_spread_in_silence_is_refused(wrong, complaint):
    with pytest.raises(ValueError, match=complaint):
        run(build(**PUBLISHED), **wrong)


def test_captions_must_be_as_many_as_videos():
    model = build(VioletForQuestionAnswering)
    with pytest.raises(ValueError, match="1 texts for 2 videos"):
        model(**inputs_of(model), caption_ids=words(1))


# --- compilers and devices ---


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    "model_class",
    [name if name is VioletForPreTraining else pytest.param(name, marks=pytest.mark.proof) for name in CLASSES],
)
def test_the_forward_compiles_into_one_graph(model_class):
    model = build(model_class)
    given = inputs_of(model, attention_mask=torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]]))
    if model_class in LABELS:
        given["labels"] = LABELS[model_class]
    expected = model(**given)
    torch.compiler.reset()
    got = torch.compile(model, fullgraph=True, backend="eager")(**given)
    assert_same(main_output(expected), main_output(got))
    if model_class in LABELS:
        torch.testing.assert_close(got.loss, expected.loss)


@pytest.mark.proof
@torch.no_grad()
@pytest.mark.parametrize("model_class", CLASSES)
def test_the_forward_is_exported_as_one_graph(model_class):
    model = build(model_class)
    given = inputs_of(model, attention_mask=torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]]))
    graph = torch.export.export(model, (), given).module()
    other = {**given, "pixel_values_videos": clip(seed=7)}
    if model_class in FUSED:
        other |= {"input_ids": given["input_ids"].flip(0)}
    assert_same(main_output(model(**other)), main_output(graph(**other)))
    assert_differ(main_output(model(**given)), main_output(graph(**other)))


@pytest.mark.parametrize("model_class", CLASSES)
def test_a_map_of_devices_splits_no_block(model_class):
    model = build(model_class)
    size = sum(4 * parameter.numel() for parameter in model.parameters())
    parts = {0: size // 3, 1: size // 3, "cpu": size}
    devices = infer_auto_device_map(model, max_memory=parts, no_split_module_classes=model._no_split_modules)
    assert len(set(devices.values())) > 1

    def device_of(name):
        prefixes = [prefix for prefix in devices if prefix in ("", name) or name.startswith(prefix + ".")]
        return devices[max(prefixes, key=len)]

    blocks = {name: x for name, x in model.named_modules() if type(x).__name__ in model._no_split_modules}
    assert {type(block).__name__ for block in blocks.values()} == set(model._no_split_modules)
    for name, block in blocks.items():
        assert len({device_of(f"{name}.{parameter}") for parameter, _ in block.named_parameters()}) == 1, name

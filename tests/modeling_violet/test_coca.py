"""CoCa: the goldens' outputs, what its parts must not depend on, writing with a cache, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from coca_golden import CONTEXT, WORDS, CocaGoldens, caption, clip, coca_model, thinned

from violet.configuration import VioletConfig, named_configuration
from violet.core.upstream import checkpoint_activations
from violet.modeling_violet import (
    VioletForCaptioning,
    VioletForMaskedLM,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletForRetrieval,
    VioletForVideoClassification,
    VioletModel,
)
from violet.modeling_violet.losses import contrastive_loss, masked_cross_entropy
from violet.pipelines.writing import check_special_tokens, write
from violet.training.arguments import ModelArguments
from violet.training.tasks import task_captioning

FEATURES, LOGITS = 2e-5, 1e-4
BOTH = ("legacy", "corrected")


@pytest.fixture(scope="module")
def goldens(shared_folder) -> CocaGoldens:
    return CocaGoldens()


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def assert_near(got: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    assert got.shape == wanted.shape
    assert wanted.float().std() > 0 or wanted.numel() == 1
    assert float((got.double() - wanted.double()).abs().max()) <= tolerance


def written(model: VioletForCaptioning, pixels: torch.Tensor, **settings) -> torch.Tensor:
    settings = {"max_length": 14, "do_sample": False, **settings}
    return model.generate(pixel_values_videos=pixels, **settings)


def until_end(rows: torch.Tensor, end: int) -> list[list[int]]:
    """The words of each row up to its first end."""
    return [row[: row.index(end) + 1] if end in row else row for row in rows.tolist()]


# --- the goldens ---


@pytest.mark.parametrize("block", range(4))
def test_states_of_the_trunk(goldens, block):
    model = coca_model().violet.vision_model
    states = model(goldens.picture, output_hidden_states=True).hidden_states[block]
    assert_near(thinned(states), goldens.get(f"vision_hidden_{block}"), FEATURES)


def test_the_pooler_before_and_behind_its_norm(goldens):
    video = coca_model().violet.video_encoder
    states = video.encode({"pixel_values_videos": goldens.picture})
    flat = torch.cat([states.frame_states, states.last_hidden_state.flatten(2, 3)], 2).flatten(1, 2)
    pooled = video.pooler(flat)
    assert_near(thinned(pooled), goldens.get("pooler_output"), FEATURES)
    assert_near(thinned(video.norm(pooled)), goldens.get("pooler_after_ln_post"), FEATURES)


@pytest.mark.parametrize("shown", ["image", "video"])
@pytest.mark.parametrize("kind", ["single", "parallel", "cascade"])
def test_vectors_and_tokens_of_pictures_and_videos(goldens, shown, kind):
    model = coca_model(kind, width=384 if kind == "single" else 256).violet
    video = model.encode_videos(goldens.picture if shown == "image" else goldens.video)
    end = "" if kind == "single" else f"_{kind}"
    vectors = goldens.get(f"{shown}_features{end}").flatten(0, -2)  # two poolers: (batch, 1, width) there
    assert_near(model.embed_videos(video), vectors, FEATURES)
    assert_near(thinned(video.tokens), goldens.get(f"{shown}_embs{end}"), FEATURES)
    assert video.grid is None and len(video.mask[0]) == video.tokens.shape[1]


def test_the_vector_before_it_is_normalised(goldens):
    model = coca_model().violet
    video = model.encode_videos(goldens.picture)
    assert_near(model.projection.video_projection(video.pooled), goldens.get("image_features_unnormalised"), FEATURES)


def test_a_video_is_not_the_mean_of_its_frames(goldens):
    model = coca_model().violet
    frames = model.embed_videos(model.encode_videos(goldens.video.flatten(0, 1).unsqueeze(1))).unflatten(0, (3, 4))
    mean = torch.nn.functional.normalize(frames.mean(1), dim=-1)
    assert_near(mean, goldens.get("video_features_mean_of_frames"), FEATURES)
    assert (mean - goldens.get("video_features")).abs().max() > 5e-3


def record(modules, model, **inputs) -> list[torch.Tensor]:
    """What these modules give in a pass."""
    given: list[torch.Tensor] = []
    hooks = [module.register_forward_hook(lambda m, i, output: given.append(output)) for module in modules]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    return given


def test_every_block_of_the_legacy_tower_with_its_cls(goldens):
    text = coca_model(cls_mask="legacy").violet.text_embeddings
    given = record(text.layers, text.encode, input_ids=goldens.ids, attention_mask=goldens.mask)
    words = goldens.mask.bool()
    for block, states in enumerate(given, start=1):
        wanted = goldens.get(f"text_hidden_{block}_legacy")
        assert_near(thinned(states)[:, :CONTEXT][words], wanted[:, :CONTEXT][words], FEATURES)
        assert_near(thinned(states)[:, -1], wanted[:, -1], FEATURES)


@pytest.mark.parametrize("mask", BOTH)
def test_vectors_tokens_and_logits_of_texts(goldens, mask):
    model, words = coca_model(cls_mask=mask), goldens.mask.bool()
    text = model.violet.encode_texts(goldens.ids, goldens.mask)
    assert_near(model.violet.projection.text(text), goldens.get(f"text_features_{mask}"), FEATURES)
    assert_near(thinned(text.tokens)[words], goldens.get(f"text_tokens_{mask}")[words], FEATURES)
    for shown, name in ((goldens.picture, f"logits_{mask}"), (goldens.video, "video_logits")):
        logits = model(pixel_values_videos=shown, input_ids=goldens.ids, attention_mask=goldens.mask).logits
        assert_near(thinned(logits)[words], goldens.get(name)[words], LOGITS)


def test_every_block_of_the_decoder(goldens):
    model, words = coca_model(cls_mask="legacy"), goldens.mask.bool()
    layers = model.violet.fusion.layers
    blocks = [block for layer in layers for block in (layer.own, layer.cross)]
    given = record(
        blocks, model, pixel_values_videos=goldens.picture, input_ids=goldens.ids, attention_mask=goldens.mask
    )
    names = [f"decoder_{kind}_{layer}" for layer in range(3) for kind in ("own", "cross")]
    for name, states in zip(names, given, strict=True):
        assert_near(thinned(states)[words], goldens.get(name)[words], LOGITS)


@pytest.mark.parametrize("mask", BOTH)
@pytest.mark.parametrize("scale", [1 / 0.07, 100.0])
def test_contrast_of_pictures_and_texts(goldens, mask, scale):
    model = coca_model(cls_mask=mask).violet
    pictures = model.embed_videos(model.encode_videos(goldens.picture))
    texts = model.embed_texts(goldens.ids, goldens.mask)
    loss = contrastive_loss(pictures, texts, torch.tensor(scale).log())
    wanted = goldens.get(f"contrastive_loss_{mask}/{scale:.4f}")
    assert float((loss - wanted).abs()) <= 1e-5 * float(wanted)


@pytest.mark.parametrize("mask", BOTH)
def test_the_caption_loss_is_shifted_and_a_mean_over_all_words(goldens, mask):
    model = coca_model(cls_mask=mask)
    labels = torch.where(goldens.mask.bool(), goldens.ids, -100)
    inputs = {"input_ids": goldens.ids, "attention_mask": goldens.mask, "pixel_values_videos": goldens.picture}
    output = model(labels=labels, **inputs)
    wanted = float(goldens.get(f"caption_loss_times_2_{mask}")) / 2
    assert float(output.loss) == pytest.approx(wanted, rel=1e-5)
    by_row = [
        masked_cross_entropy(row[None, :-1], own[None, 1:]) for row, own in zip(output.logits, labels, strict=True)
    ]
    assert_near(torch.stack(by_row), goldens.get(f"caption_loss_by_row_{mask}"), 1e-5)
    assert float(torch.stack(by_row).mean()) != pytest.approx(wanted, rel=1e-4)
    unshifted = float(goldens.get(f"caption_loss_unshifted_{mask}"))
    assert float(masked_cross_entropy(output.logits, labels)) == pytest.approx(unshifted, rel=1e-5)
    assert unshifted != pytest.approx(wanted, rel=1e-3)


def unit_rows(seed: int, rows: int = 5) -> torch.Tensor:
    values = np.random.default_rng(seed).standard_normal((5, 16))[:rows]
    return torch.from_numpy(values / np.linalg.norm(values, axis=1, keepdims=True))


@pytest.mark.parametrize("case", ["random", "one_row", "all_alike", "nothing_to_say"])
@pytest.mark.parametrize("scale", [1 / 0.07, 100.0])
@pytest.mark.parametrize("weights", [(2, 1), (1, 0)])
def test_both_losses_in_float64(goldens, case, scale, weights):
    of_words, of_contrast = weights
    logits = torch.from_numpy(np.random.default_rng(3170).standard_normal((5, 9, 50)))
    targets = caption(3171, 5, 10, 50)[:, 1:]
    pictures, texts = unit_rows(3172), unit_rows(3173)
    if case == "one_row":
        logits, targets, pictures, texts = (rows[:1] for rows in (logits, targets, pictures, texts))
    elif case == "all_alike":
        pictures = texts = unit_rows(3172, 1).expand(5, -1)
        logits = torch.zeros_like(logits)
    elif case == "nothing_to_say":
        targets = torch.zeros_like(targets)
    labels = torch.where(targets != 0, targets, -100)
    contrast = of_contrast * contrastive_loss(pictures, texts, torch.tensor(scale, dtype=torch.float64).log())
    words = of_words * masked_cross_entropy(logits, labels)
    wanted = goldens.get(f"loss/{case}/{scale:.4f}/{of_words}_{of_contrast}")
    assert float(contrast) == pytest.approx(float(wanted[0]), rel=1e-6, abs=1e-12)
    if case == "nothing_to_say":
        assert wanted[1].isnan() and float(words) == 0
    else:
        assert float(words) == pytest.approx(float(wanted[1]), rel=1e-6)


# --- writing ---

WAYS = {
    "generated_greedy": {},
    "generated_beam_4": {"num_beams": 4},
    "generated_repetition_penalty_1.5": {"repetition_penalty": 1.5},
    "stopping_greedy": {},
    "stopping_greedy_min_length_8": {"min_length": 8},
    "stopping_beam_4": {"num_beams": 4},
    "stopping_beam_4_no_length_penalty": {"num_beams": 4, "length_penalty": 0.0},
}


@pytest.mark.parametrize("name", WAYS)
def test_texts_are_those_of_the_original(goldens, name):
    end = int(goldens.get("end_id")) if name.startswith("stopping") else WORDS - 1
    found = written(
        coca_model(sharper=20.0),
        goldens.picture,
        eos_token_id=end,
        return_dict_in_generate=True,
        output_scores=True,
        **WAYS[name],
    )
    assert until_end(found.sequences, end) == until_end(goldens.get(name), end)
    by_their_code = name.replace("generated_", "generated_by_their_").replace("greedy", "top_k_1")
    if by_their_code in goldens.arrays:
        assert until_end(found.sequences, end) == until_end(goldens.get(by_their_code), end)
    if "beam" in name and f"{name}_score" in goldens.arrays:
        assert_near(found.sequences_scores, goldens.get(f"{name}_score"), 1e-4)
    if name == "generated_greedy":
        steps = torch.stack(found.scores, 1).log_softmax(-1).amax(-1)
        assert_near(steps.mean(1), goldens.get("generated_greedy_mean_log_prob"), 1e-4)


def test_texts_about_videos(goldens):
    found = written(coca_model(sharper=20.0), goldens.video)
    assert torch.equal(found, goldens.get("generated_greedy_video"))


@pytest.mark.parametrize("way", ["input_ids", "padded", "prompt_ids"])
def test_texts_after_a_prompt_with_and_without_padding(goldens, way):
    prompt = goldens.ids[2:3, :4].expand(3, -1)
    padded = torch.nn.functional.pad(prompt, (0, 3))
    begun = {
        "input_ids": {"input_ids": prompt},
        "padded": {"input_ids": padded, "attention_mask": (padded != 0).long()},
        "prompt_ids": {
            "prompt_ids": torch.cat([prompt, torch.full((3, 1), WORDS - 1)], 1)[:1],
            "prompt_attention_mask": torch.ones(1, 5, dtype=torch.long),
        },
    }
    model = coca_model(sharper=20.0)
    assert torch.equal(written(model, goldens.picture, **begun[way]), goldens.get("generated_after_prompt"))
    of_original = goldens.get("generated_after_padded_prompt_original")
    assert not torch.equal(of_original, goldens.get("generated_after_prompt"))


def test_prompts_of_unequal_length_are_each_as_if_alone(goldens):
    model = coca_model(sharper=20.0)
    ids, mask = goldens.ids[:, :6].clone(), torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0], [1] * 4 + [0] * 2])
    ids[1, 1] = 7  # row 1 of the captions ends there
    together = written(model, goldens.picture, input_ids=ids, attention_mask=mask, max_new_tokens=5)
    for row, length in enumerate((6, 2, 4)):
        alone = written(model, goldens.picture[row : row + 1], input_ids=ids[row : row + 1, :length], max_new_tokens=5)
        assert together[row, -5:].tolist() == alone[0, -5:].tolist()


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 5}], ids=["one", "3", "drawn"]
)
def test_a_cache_of_both_halves_changes_no_word(settings):
    model, pixels = coca_model(sharper=20.0), clip(5, 2, 2)
    texts = []
    for cached in (True, False):
        torch.manual_seed(1)
        settings = {**settings, "max_length": 12, "video_index": torch.tensor([1, 0, 1])}
        texts.append(written(model, pixels, use_cache=cached, **settings))
    assert torch.equal(*texts)
    assert len({tuple(row) for row in texts[0].tolist()}) > 1


def test_with_a_cache_each_step_reads_one_word_and_the_video_only_once():
    model, counts = coca_model(), {"words": [], "video": 0}
    decoder = model.violet.fusion.layers[0]

    def count_words(module, inputs, output):
        counts["words"].append(output.shape[1])

    def count_video(module, inputs, output):
        counts["video"] += 1

    tower = model.violet.text_embeddings.layers[0]
    hooks = [tower.register_forward_hook(count_words), decoder.own.register_forward_hook(count_words)]
    hooks += [decoder.cross.context_norm.register_forward_hook(count_video)]
    written(model, clip(5, 1, 1), max_length=8, min_length=8)
    for hook in hooks:
        hook.remove()
    assert counts == {"words": [1] * 14, "video": 1}


def test_words_are_streamed_as_they_are_written():
    class Streamer:
        def __init__(self):
            self.words = []

        def put(self, ids):
            self.words += ids.flatten().tolist()

        def end(self):
            self.ended = True

    streamer, model = Streamer(), coca_model(sharper=20.0)
    text = written(model, clip(5, 1, 1), streamer=streamer)
    assert streamer.words == text[0].tolist() and streamer.ended


# --- what parts depend on ---


def test_a_word_changes_nothing_before_it(goldens):
    model, ids = coca_model(), goldens.ids[:1].clone()
    before = model(pixel_values_videos=goldens.picture[:1], input_ids=ids).logits
    ids[0, 7] = ids[0, 7] % (WORDS - 3) + 1
    after = model(pixel_values_videos=goldens.picture[:1], input_ids=ids).logits
    assert torch.equal(before[:, :7], after[:, :7])
    assert ((before - after)[0, 7:].abs().amax(-1) > 1e-3).all()
    shorter = model(pixel_values_videos=goldens.picture[:1], input_ids=ids[:, :9]).logits
    assert_near(shorter, after[:, :9], 1e-5)


def test_the_unimodal_half_does_not_know_the_video(goldens):
    model = coca_model()
    given = [
        record([model.violet.text_embeddings.layers[-1]], model, pixel_values_videos=pixels, input_ids=goldens.ids)[0]
        for pixels in (goldens.picture, goldens.picture.flip(0))
    ]
    assert torch.equal(*given)
    logits = [
        model(pixel_values_videos=p, input_ids=goldens.ids).logits for p in (goldens.picture, goldens.picture.flip(0))
    ]
    assert (logits[0] - logits[1]).abs().max() > 0.1


@pytest.mark.parametrize("mask", BOTH)
@pytest.mark.parametrize("padding", [0, 1, 4, 9])
def test_padding_changes_neither_vector_nor_logits(goldens, mask, padding):
    model, length = coca_model(cls_mask=mask), int(goldens.mask[2].sum())
    ids, real = goldens.ids[2:, : length + padding], goldens.mask[2:, : length + padding]
    vector = model.violet.embed_texts(ids, real)
    assert_near(vector, goldens.get(f"text_features_{mask}")[2:], FEATURES)
    logits = model(pixel_values_videos=goldens.picture[2:], input_ids=ids, attention_mask=real).logits
    full = model(pixel_values_videos=goldens.picture[2:], input_ids=goldens.ids[2:], attention_mask=goldens.mask[2:])
    assert_near(logits[:, :length], full.logits[:, :length], LOGITS)
    if padding < 2:  # the original's vector there is another: its CLS has the place behind the padding
        theirs = goldens.get(f"text_features_row2_{'one' if padding else 'no'}_pad_{mask}")
        assert (vector - theirs).abs().max() > 0.05


def test_the_word_of_the_padding_id_is_a_word(goldens):
    model, ids = coca_model(), goldens.ids[:1].clone()
    ids[0, 5] = 0
    labels = ids.clone()
    with_it = model.violet.embed_texts(ids, torch.ones_like(ids))
    assert (with_it - model.violet.embed_texts(ids, (ids != 0).long())).abs().max() > 1e-3
    inputs = {"pixel_values_videos": goldens.picture[:1], "input_ids": ids}
    loss = model(labels=labels, **inputs).loss
    labels[0, 5] = -100
    assert abs(float(loss) - float(model(labels=labels, **inputs).loss)) > 1e-3


def test_the_pooler_knows_no_order_of_frames_but_by_their_rows(goldens):
    model = coca_model().violet
    order, video = torch.tensor([2, 0, 3, 1]), goldens.video
    embed = lambda pixels: model.embed_videos(model.encode_videos(pixels))  # noqa: E731
    assert_near(embed(video), embed(video[:, order]), 1e-6)
    still = goldens.picture.expand(-1, 4, -1, -1, -1)
    assert_near(embed(still), embed(goldens.picture), 1e-6)
    rows = model.video_encoder.frame_rows.rows
    rows.copy_(torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)))
    try:
        assert (embed(video) - embed(video[:, order])).abs().max() > 1e-3
        assert embed(torch.cat([video, video], 1)).shape == (3, 256)  # rows of more frames are interpolated
    finally:
        rows.zero_()


def small(**changes) -> VioletConfig:
    """A CoCa of a few weights over a Video Swin of a few."""
    vision = {"model_type": "violet_vision", "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}
    fields = {
        **named_configuration("coca-tiny").to_dict(),
        "vision_config": {**vision, "window_size": (2, 2, 2), "patch_size": 8, "drop_path_rate": 0.0},
        **{"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "projection_dim": 16},
        **{"vocab_size": 64, "max_position_embeddings": 12, "pooler": {"num_queries": 5, "num_heads": 4}},
    }
    return VioletConfig(**{**fields, **changes})


def batch(texts: int = 3) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 64, (texts, 8), generator=draw)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    pixels = torch.rand(texts, 4, 3, 32, 32, generator=draw)
    return {"pixel_values_videos": pixels, "input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("encoder", ["violet_vision", "coca_vit", "clip_vip", "clip_vision_model"])
def test_any_encoder_with_a_pooler_learns_every_parameter(encoder):
    from encoder_configs import ENCODER_CONFIGS

    torch.manual_seed(0)
    model = VioletForPreTraining(small(vision_config={"model_type": encoder, **ENCODER_CONFIGS[encoder]}))
    model.freeze_unused(["contrast", "caption"])
    assert all(parameter.requires_grad for parameter in model.violet.fusion.parameters())
    with torch.enable_grad():
        loss = model(**batch(), objectives={"contrast": 1.0, "caption": 2.0}).loss
        loss.backward()
    without = [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
    assert not without
    assert loss.isfinite()


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["single", "cascade"])
def test_captioning_reads_every_parameter_that_it_does_not_freeze(kind, weight):
    pooler = {"kind": kind, "num_queries": 5, "num_heads": 4}
    model = VioletForCaptioning(small(pooler=pooler, caption_contrast_weight=weight))
    for parameter in model.unread_parameters():
        parameter.requires_grad_(False)
    inputs = batch()
    with torch.enable_grad():
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert not [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
    assert bool(model.unread_parameters()) is (weight == 0)


def test_one_pass_of_each_half_serves_both_losses():
    model, calls = VioletForPreTraining(small()).eval(), {"text": 0, "decoder": 0, "video": 0}

    def count(name):
        return lambda *ignored: calls.__setitem__(name, calls[name] + 1)

    parts = {"text": model.violet.text_embeddings.layers[0], "decoder": model.violet.fusion.layers[0].own}
    parts["video"] = model.violet.video_encoder.pooler
    for name, part in parts.items():
        part.register_forward_hook(count(name))
    both = model(**batch(), objectives={"contrast": 1.0, "caption": 2.0})
    assert calls == {"text": 1, "decoder": 1, "video": 1}
    assert float(both.loss) == pytest.approx(float(both.losses["contrast"] + 2 * both.losses["caption"]), rel=1e-6)
    captioning = VioletForCaptioning(small(caption_contrast_weight=0.5)).eval()
    captioning.violet.text_embeddings.layers[0].register_forward_hook(count("text"))
    inputs = batch()
    labels = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], -100)
    loss = captioning(**inputs, labels=labels).loss
    assert calls["text"] == 2
    captioning.config.caption_contrast_weight = 0.0
    assert float(loss) > float(captioning(**inputs, labels=labels).loss)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_objective_is_the_loss_of_captioning_and_0_without_a_word(smoothing):
    model = VioletForPreTraining(small(label_smoothing=smoothing)).eval()
    captioning = VioletForCaptioning(model.config).eval()
    captioning.load_state_dict({k: v for k, v in model.state_dict().items() if k in captioning.state_dict()})
    inputs = batch()
    labels = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], -100)
    found = model(**inputs, objectives={"caption": 1.0}).loss
    assert float(found) == pytest.approx(float(captioning(**inputs, labels=labels).loss), rel=1e-6)
    inputs["attention_mask"] = torch.zeros_like(inputs["attention_mask"])
    assert float(model(**inputs, objectives={"caption": 1.0}).loss) == 0


def test_retrieval_and_classes_read_the_embeddings():
    inputs = batch()
    model = VioletForRetrieval(small()).eval()
    videos = model.violet.embed_videos(model.violet.encode_videos(inputs["pixel_values_videos"]))
    texts = model.violet.embed_texts(inputs["input_ids"], inputs["attention_mask"])
    wanted = (texts @ videos.t()) / 0.07
    assert_near(model(**inputs).logits, wanted, 1e-4)
    classes = VioletForVideoClassification(small(num_labels=3)).eval()
    assert classes(inputs["pixel_values_videos"]).logits.shape == (3, 3)
    assert {id(one) for one in model.violet.fusion.parameters()} <= {id(one) for one in model.unread_parameters()}


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_kernels_and_checkpointing_agree(kernel):
    torch.manual_seed(0)
    config = small()
    config._attn_implementation = kernel
    model = VioletForPreTraining._from_config(config, attn_implementation=kernel)
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.copy_(0.1 * torch.randn(parameter.shape))
    losses = []
    for checkpointed in (False, True):
        if checkpointed:
            checkpoint_activations(model)
            model.train()
        with torch.enable_grad():
            loss = model(**batch(), objectives={"contrast": 1.0, "caption": 1.0}).loss
            loss.backward()
        losses.append(float(loss))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(8.3, abs=5.0)


def test_it_is_saved_and_loaded(tmp_path):
    model = VioletForCaptioning(small()).eval()
    model.save_pretrained(tmp_path)
    again = VioletForCaptioning.from_pretrained(tmp_path).eval()
    inputs = batch()
    assert torch.equal(model(**inputs).logits, again(**inputs).logits)
    search = VioletForRetrieval.from_pretrained(tmp_path).eval()
    embed = model.violet.embed_texts(inputs["input_ids"], inputs["attention_mask"])
    assert torch.equal(embed, search.violet.embed_texts(inputs["input_ids"], inputs["attention_mask"]))


def test_it_starts_as_published():
    torch.manual_seed(0)
    model = VioletForCaptioning(named_configuration("coca-tiny"))
    width, layers = 128, 2
    text, layer = model.violet.text_embeddings, model.violet.fusion.layers[0]
    for weight, std in (
        (text.word_embeddings.weight, 0.02),
        (text.position_embeddings.weight, 0.01),
        (text.layers[0].attention.qkv.weight, width**-0.5),
        (text.layers[0].attention.out.weight, (width * 2 * layers) ** -0.5),
        (layer.own.mlp.fc1.weight, (2 * width) ** -0.5),
        (layer.cross.mlp.fc2.weight, (width * 2 * layers) ** -0.5),
        (layer.cross.attention.in_proj_weight, width**-0.5),
        (model.mlm_head.decoder.weight, width**-0.5),
        (model.violet.projection.text_projection.weight, width**-0.5),
        (model.violet.video_encoder.pooler.query, 1.0),
    ):
        assert float(weight.std()) == pytest.approx(std, rel=0.1)
    assert not model.violet.video_encoder.frame_rows.rows.any()
    assert float(model.violet.projection.scale()) == pytest.approx(1 / 0.07, rel=1e-5)
    with torch.no_grad():
        model.violet.projection.logit_scale.fill_(-1.0)
    assert float(model.violet.projection.scale()) == 1.0


def test_named_configurations_have_the_published_sizes():
    with torch.device("meta"):
        model = VioletForCaptioning(named_configuration("coca-vit-base-32"))
    rows = model.violet.video_encoder.frame_rows.rows.numel()
    assert sum(one.numel() for one in model.parameters()) - rows == 253_560_065


# --- what is refused ---


@pytest.mark.parametrize("model_class", [VioletForMaskedLM, VioletForQuestionAnswering])
def test_models_of_a_joint_fusion_are_refused(model_class):
    with pytest.raises(
        ValueError, match=rf"{model_class.__name__} needs the rule of attention 'bidirectional'.*'coca' serves"
    ):
        model_class(small())


@pytest.mark.parametrize("name", ["vtm", "mlm", "smtm", "rolled_vtm"])
def test_objectives_of_a_joint_fusion_are_refused(name):
    with pytest.raises(ValueError, match="needs a fusion .* that joins a video with a whole text|no objective"):
        if name == "rolled_vtm":
            VioletForPreTraining(small(objectives={name: {}}))
        VioletForPreTraining(small()).find_objectives([name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"next_word_prediction": False, "objectives": None}, "'coca' predicts each word .*`next_word_prediction`"),
        ({"mvm_targets": {"pixel": {}}}, "`mvm_targets` .*'coca'"),
        ({"pooler": {"num_queries": 1, "num_heads": 4}}, "`pooler.num_queries`: the kind 'single' needs 2"),
        ({"pooler": {"num_queries": 5, "num_heads": 5}}, "`pooler.num_heads`: 5 does not divide `hidden_size` 32"),
        ({"pooler": {"kind": "both"}}, "`pooler.kind`: 'both' is unknown"),
        ({"pooler": {"queries": 5}}, "`pooler` has no option queries"),
        ({"vision_positions": "none"}, "`pooler`: is read by the `vision_positions` 'attentional_pooler' only"),
        ({"projection_type": "in_order"}, "`projection_type` 'in_order' .*'attentional_pooler'"),
        ({"text_config": {"model_type": "coca_text", "cls_mask": "new"}}, "`cls_mask`: 'new' is unknown"),
        ({"text_config": {"model_type": "coca_text", "padding_word": 64}}, "`padding_word`.*`vocab_size` 64"),
        ({"caption_contrast_weight": 1.0, "projection_dim": None, "objectives": None}, "`caption_contrast_weight`"),
        (
            {"text_config": None, "projection_type": "coca"},
            "`projection_type` 'coca' needs .*`text_config.model_type`",
        ),
    ],
)
def test_contradictions_are_refused_when_it_is_built(changes, message):
    with pytest.raises(Exception, match=message):
        VioletForPreTraining(small(**changes))


def test_bad_inputs_are_refused_with_their_numbers():
    model, inputs = VioletForCaptioning(small()).eval(), batch()
    long = torch.randint(5, 64, (3, 13))
    with pytest.raises(ValueError, match="13 tokens is longer than `max_position_embeddings` 12"):
        model(pixel_values_videos=inputs["pixel_values_videos"], input_ids=long)
    with pytest.raises(ValueError, match="longer than `max_position_embeddings` 12"):
        model.generate(pixel_values_videos=inputs["pixel_values_videos"], max_length=14, min_length=14)
    with pytest.raises(ValueError, match="`prompt_ids` or `input_ids`"):
        model.generate(**inputs, prompt_ids=long[:, :3])
    with pytest.raises(ValueError, match="needs the rule of attention 'bidirectional'.*'coca'"):
        VioletModel(small())(**inputs)


def test_contrast_only_weights_do_not_write():
    config = small(fusion_model_config={"model_type": "none"}, objectives={"contrast": {}})
    VioletForRetrieval(config)
    with pytest.raises(ValueError, match="VioletForCaptioning reads the states of a fusion"):
        VioletForCaptioning(config)


# --- pipelines and fine-tuning ---

TOKENIZER = SimpleNamespace(
    **{"cls_token_id": 2, "sep_token_id": 3, "pad_token_id": 0, "mask_token_id": None},
    **{"bos_token_id": None, "eos_token_id": None},
)


def test_the_pipeline_takes_a_prompt_as_the_beginning_and_does_not_repeat_it():
    model, pixels = VioletForCaptioning(small()).eval(), batch()["pixel_values_videos"]
    check_special_tokens(model, TOKENIZER)  # no [MASK] is needed where the next word is predicted
    prompts = [[2, 7, 8, 3], [2, 9, 3], [2, 7, 8, 9, 3]]
    texts, scores = write(
        model, TOKENIZER, {"pixel_values_videos": pixels}, prompts, max_new_tokens=4, do_sample=False
    )
    assert texts.shape[:2] == scores.shape == (3, 1)
    for row, prompt in enumerate(prompts):
        ids = torch.tensor([prompt[:-1]])
        alone = written(model, pixels[row : row + 1], input_ids=ids, max_length=None, max_new_tokens=4)
        assert texts[row, 0].tolist()[: alone.shape[1] - ids.shape[1]] == alone[0, ids.shape[1] :].tolist()
    long = [[2, *range(10, 19), 3]] * 3  # 10 tokens of the 12 that there are places for
    assert write(model, TOKENIZER, {"pixel_values_videos": pixels}, long, max_new_tokens=11)[0].shape[-1] <= 2
    with pytest.raises(ValueError, match="A prompt of 12 tokens leaves no place .* 12"):
        write(model, TOKENIZER, {"pixel_values_videos": pixels}, [[2, *range(10, 21), 3]] * 3)


@pytest.mark.parametrize(("weight", "warns"), [(0.0, True), (0.5, False)])
def test_captions_without_contrast_are_learned_with_a_warning(monkeypatch, weight, warns):
    said: list[str] = []
    monkeypatch.setattr(task_captioning.logger, "warning", said.append)
    task_captioning.warn_if_search_is_forgotten(VioletForCaptioning(small(caption_contrast_weight=weight)))
    assert bool(said) is warns
    assert not said or "`caption_contrast_weight` is 0" in said[0]


def test_fine_tuning_leaves_how_a_model_predicts_as_it_is():
    changes = task_captioning.TASK.configure(ModelArguments(), None, None, None)
    assert changes == {}
    asked = ModelArguments(next_word_prediction=True, caption_contrast_weight=0.25)
    wanted = {"next_word_prediction": True, "caption_contrast_weight": 0.25}
    assert task_captioning.TASK.configure(asked, None, None, None) == wanted

"""VLoRA: the goldens' outputs, what low-rank weights do to any layer, and what is refused."""

import pytest
import torch
from vlora_golden import PICTURE, SEED, VloraLlama, VloraReference, replace_absent, whole_config

from violet.core.upstream import CACHE_NAME, checkpoint_activations
from violet.modeling_violet import VioletForConditionalGeneration
from violet.modeling_violet.low_rank import add_product

NEAR = 2e-5


@pytest.fixture(scope="module")
def reference(shared_folder) -> VloraReference:
    return VloraReference(shared_folder)


def assert_near(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = NEAR) -> None:
    assert got.shape == wanted.shape
    assert wanted.float().std() > 0 or wanted.numel() == 1
    difference = float((got.detach() - wanted).abs().max())
    assert difference <= tolerance, difference


@pytest.fixture(scope="module")
def features(reference) -> torch.Tensor:
    return reference.features(reference.pictures(SEED, 3))


@pytest.fixture(scope="module")
def weights(reference, features):
    generator = reference.generator()
    with torch.no_grad():
        return generator.weights(generator(features))


# --- the goldens: the generator ---


def test_visual_tokens_are_the_goldens(reference, features):
    generator = reference.generator()
    assert_near(features[:, ::3, ::8], reference.archive["visual_features"])
    assert_near(generator.visual(features)[:, ::3, ::8], reference.archive["projected"])


@torch.no_grad()
def test_the_queries_on_their_way_are_the_goldens(reference, features):
    generator, archive = reference.generator(), reference.archive
    own, visual = generator.generators[0], generator.visual(features)
    queries = own.queries.expand(3, -1, -1)
    assert_near(queries[:, :, ::8], archive["queries_0"])
    normed = own.blocks[0].self_norm(queries)
    added = own.blocks[0].self_attention(normed, normed, normed, need_weights=False)[0]
    assert_near(added[:, :, ::8], archive["self_attention_of_block_0"])
    for i, block in enumerate(own.blocks):
        queries = block(queries, visual, None)
        assert_near(queries[:, :, ::8], archive[f"queries_after_block_{i}"])


@pytest.mark.parametrize(
    ("group", "changes"),
    [
        ("given", {}),
        ("joint", {"separate": False}),
        ("types_mq", {"types": "mq"}),
        ("every_layer", {"skip_layers": 1}),
        ("no_alpha", {"alpha": None}),
    ],
)
@torch.no_grad()
def test_weights_of_given_tokens_are_the_goldens(reference, group, changes):
    generator = reference.generator(**changes)
    made = generator.weights(generator(reference.given_features()))
    for kind, letter in enumerate(made.types):
        assert_near(made.a[:, kind][:, :, ::8], reference.archive[f"{group}_A_{letter}"])
        assert_near(made.b[kind][:, ::8], reference.archive[f"{group}_B_{letter}"])


def test_weights_of_pictures_are_the_goldens(reference, weights):
    present = replace_absent(weights, torch.tensor([True, True, False]))
    for kind, letter in enumerate("qkvom"):
        assert_near(present.a[:, kind][:, :, ::8], reference.archive[f"image_A_{letter}"])
        assert_near(present.b[kind][:, ::8], reference.archive[f"image_B_{letter}"])


def test_products_are_the_goldens(reference):
    g = reference.drawer()
    x, a, b = (
        torch.from_numpy(g.standard_normal(shape).astype("float32")) for shape in ((2, 5, 12), (2, 12, 3), (1, 12, 3))
    )
    assert_near(add_product(x, a, b[0]), reference.archive["applied"])
    assert_near(b @ a.transpose(1, 2), reference.archive["applied_as_matrix"])


# --- the goldens: transformers' Llama with them ---


def inputs(reference) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(reference.archive[name].clone() for name in ("ids", "mask", "labels"))


def mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@torch.no_grad()
def test_llama_with_low_rank_weights_is_the_golden(reference, weights):
    ids, mask, labels = inputs(reference)
    output = VloraLlama(reference)(ids, mask, weights, output_hidden_states=True)
    assert_near(output.logits[..., :64], reference.archive["logits_first64"])
    for i, states in enumerate(output.hidden_states):
        assert_near(states[:, ::3, ::8], reference.archive[f"hidden_{i}"])
    assert float(mean_loss(output.logits, labels)) == pytest.approx(float(reference.archive["loss"]), rel=1e-6)


@torch.no_grad()
def test_llama_without_or_with_other_weights_is_the_golden(reference, weights):
    ids, mask, labels = inputs(reference)
    model, archive = VloraLlama(reference), reference.archive
    plain = model(ids, mask, None).logits
    assert_near(plain[..., :64], archive["logits_without_first64"])
    assert float(mean_loss(plain, labels)) == pytest.approx(float(archive["loss_without"]), rel=1e-6)
    with_weights = model(ids, mask, weights).logits
    assert torch.equal(with_weights[2], plain[2])  # a row without a picture
    for kind in "qkvom":
        loss = mean_loss(model(ids, mask, weights.only(kind)).logits, labels)
        assert loss.item() == pytest.approx(float(archive[f"loss_only_{kind}"]), rel=1e-6)
    swapped = model(ids, mask, weights.select(torch.tensor([1, 0, 2]))).logits
    assert_near(swapped[..., :64], archive["logits_swapped_first64"])


def test_gradients_are_the_goldens(reference, features):
    ids, mask, labels = inputs(reference)
    generator, model, archive = reference.generator(), VloraLlama(reference), reference.archive
    model.llama.requires_grad_(False)
    mean_loss(model(ids, mask, generator.weights(generator(features))).logits, labels).backward()
    assert_near(generator.b.grad[0, :, ::16], archive["grad_Bs"])
    assert_near(generator.positions.grad[0, ::3, ::8], archive["grad_pos_embed"])
    assert_near(generator.generators[0].head.bias.grad[::16], archive["grad_head_0_bias"])
    assert_near(generator.generators[4].queries.grad[0, :, ::8], archive["grad_queries_4"])


def test_at_the_start_only_b_moves(reference, features):
    ids, mask, labels = inputs(reference)
    generator, model = reference.generator(), VloraLlama(reference)
    torch.nn.init.zeros_(generator.b)
    loss = mean_loss(model(ids, mask, generator.weights(generator(features))).logits, labels)
    assert loss.item() == pytest.approx(float(reference.archive["start_loss"]), rel=1e-6)
    loss.backward()
    assert_near(generator.b.grad[0, :, ::16], reference.archive["start_grad_Bs"])
    others = [p.grad for name, p in generator.named_parameters() if name != "b"]
    assert max(float(grad.abs().max()) for grad in others) == float(reference.archive["start_grad_others_largest"])


@torch.no_grad()
def test_writing_with_a_cache_is_the_golden_of_right_positions(reference):
    archive, generator, model = reference.archive, reference.generator(), VloraLlama(reference)
    made = generator.weights(generator(reference.features(reference.pictures(SEED + 31, 2))))
    ids, cache, scores = archive["prompt"].clone(), None, []
    places, first = ids == PICTURE, ids.shape[1]
    for _ in range(8):
        new = ids if cache is None else ids[:, -1:]
        mask = torch.ones_like(ids)
        mask[:, :first] = (~places).long()
        output = model.llama(
            input_ids=new.masked_fill(new == PICTURE, 0),
            attention_mask=mask,
            position_ids=torch.arange(ids.shape[1])[None, -new.shape[1] :],
            low_rank=made,
            use_cache=True,
            **{CACHE_NAME: cache},
        )
        cache = output[CACHE_NAME]
        logits = output.logits[:, -1]
        scores.append(logits[:, 3:67])
        allowed = logits.clone()
        allowed[:, 2] = float("-inf")
        ids = torch.cat([ids, allowed.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(ids[:, first:], archive["generated_corrected"])
    assert_near(torch.stack(scores, 1), archive["generated_corrected_scores_first64"])
    assert (torch.stack(scores, 1) - archive["generated_original_scores_first64"]).abs().max() > 1e-3


# --- the goldens: our model class ---


@pytest.fixture(scope="module")
def whole(reference):
    return reference.whole()


def given(reference, seed: int = SEED, rows: int = 2) -> torch.Tensor:
    return reference.pictures(seed, rows).unsqueeze(1)


@torch.no_grad()
def test_the_whole_model_is_the_golden(reference, whole):
    ids, mask, labels = inputs(reference)
    before = ids.clone(), mask.clone()
    output = whole(given(reference, rows=3)[:2], input_ids=ids, attention_mask=mask.long(), labels=labels)
    wanted = reference.archive["logits_first64"]
    assert_near(output.logits[mask][:, :64], wanted[mask])  # padding has other positions
    counted = torch.arange(ids.shape[1])[None].expand(3, -1)
    asked = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": counted}
    assert_near(whole(given(reference, rows=3)[:2], **asked).logits[..., :64], wanted)
    assert output.loss.item() == pytest.approx(float(reference.archive["loss"]), rel=1e-6)
    assert torch.equal(ids, before[0]) and torch.equal(mask, before[1])
    plain = whole(input_ids=ids.clamp(min=0), attention_mask=(mask & (ids >= 0)).long(), position_ids=None)
    assert torch.equal(plain.logits[2], output.logits[2])  # a text without a picture
    swapped = whole(
        given(reference, rows=3)[:2], input_ids=ids, attention_mask=mask.long(), video_index=torch.tensor([1, 0])
    )
    assert_near(swapped.logits[mask][:, :64], reference.archive["logits_swapped_first64"][mask])


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_what_it_writes_is_the_golden_of_right_positions(reference, whole, use_cache, padding):
    prompt = reference.archive["prompt"]
    mask = torch.ones_like(prompt)
    if padding != "none":
        sides = (3, 0) if padding == "left" else (0, 3)
        prompt, mask = (torch.nn.functional.pad(one, sides) for one in (prompt, mask))
    output = whole.generate(
        prompt,
        attention_mask=mask,
        pixel_values_videos=given(reference, SEED + 31),
        use_cache=use_cache,
        **{"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False},
        **{"return_dict_in_generate": True, "output_logits": True},
    )
    assert torch.equal(output.sequences[:, prompt.shape[1] :], reference.archive["generated_corrected"])
    scores = torch.stack(output.logits, 1)[..., 3:67]
    assert_near(scores, reference.archive["generated_corrected_scores_first64"])


@torch.no_grad()
def test_beams_of_several_rows_are_those_of_each_alone(reference, whole):
    prompt, pictures = reference.archive["prompt"], given(reference, SEED + 31)
    options = {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    together = whole.generate(prompt, pixel_values_videos=pictures, **options)
    for row in range(2):
        one = slice(row, row + 1)
        alone = whole.generate(prompt[one], pixel_values_videos=pictures[one], **options)
        assert torch.equal(together[2 * row : 2 * row + 2], alone)


@torch.no_grad()
def test_a_plain_text_is_answered_without_pictures(reference, whole):
    ids = reference.archive["ids"][2:, :9]
    found = whole.generate(ids, max_new_tokens=4, do_sample=False)
    wanted = reference.llama().generate(ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(found, wanted)


@torch.no_grad()
def test_a_place_in_front_of_all_words_is_computed_too(reference, whole):
    ids = torch.tensor([[PICTURE, 5, 6, 7]])
    logits = whole(given(reference, rows=1), input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert logits.isfinite().all()


@torch.no_grad()
def test_videos_of_several_frames_need_tokens_that_know_their_places(reference, whole):
    ids = torch.tensor([[1, PICTURE, 5]])
    with pytest.raises(ValueError, match="has 32 visual tokens, and `fusion_model_config.num_positions` is 16"):
        whole(torch.zeros(1, 2, 3, 56, 56), input_ids=ids)
    fields = whole.config.fusion_model_config.to_dict()
    fields = {**fields, "num_positions": None}
    free = VioletForConditionalGeneration(whole_config(fusion_model_config=fields)).eval()
    assert free(torch.zeros(1, 2, 3, 56, 56), input_ids=ids).logits.shape == (1, 3, 500)


@pytest.mark.parametrize(
    ("ids", "videos", "named"),
    [
        ([[1, PICTURE, PICTURE, 5]], 2, "Text 0 has `<video>` 2 times"),
        ([[1, 4, 5, 6]], 1, "0 texts have `<video>`.*and 1 videos"),
        ([[1, PICTURE, 5, 6]], 2, "1 texts have `<video>`.*and 2 videos"),
        ([[1, PICTURE, 5, 6]], 0, "1 places of `<video>`, and there is no video"),
    ],
)
def test_texts_and_videos_that_do_not_fit_are_refused(whole, ids, videos, named):
    pixels = torch.zeros(videos, 1, 3, 56, 56) if videos else None
    with pytest.raises(ValueError, match=named):
        whole(pixels, input_ids=torch.tensor(ids))


@pytest.mark.parametrize(
    ("language", "own", "named"),
    [
        ({"num_key_value_heads": 2}, {}, r"'k'.*128 x 128.*Linear \(64, 128\)"),
        ({"num_hidden_layers": 6}, {}, "`fusion_model_config.skip_layers` 4 does not divide `text_config.num_hidden"),
        ({}, {"rank": 129}, "`fusion_model_config.rank` 129 is more than `text_config.hidden_size` 128"),
    ],
)
def test_language_models_that_cannot_take_the_weights_are_refused(language, own, named):
    config = whole_config()
    text = {**config.text_config.to_dict(), "num_key_value_heads": None, **language}
    fusion = {**config.fusion_model_config.to_dict(), **own}
    with pytest.raises(ValueError, match=named):
        VioletForConditionalGeneration(whole_config(text_config=text, fusion_model_config=fusion))


@torch.no_grad()
def test_grouped_keys_serve_with_the_other_kinds():
    config = whole_config()
    text = {**config.text_config.to_dict(), "num_key_value_heads": 2, "model_type": "qwen2"}
    fusion = {**config.fusion_model_config.to_dict(), "types": "qom"}
    torch.manual_seed(0)
    model = VioletForConditionalGeneration(whole_config(text_config=text, fusion_model_config=fusion)).eval()
    torch.nn.init.normal_(model.violet.fusion.generator.b, std=0.3)
    ids = torch.tensor([[1, PICTURE, 5, 6]])
    one, other = (model(torch.full((1, 1, 3, 56, 56), value), input_ids=ids).logits for value in (0.0, 1.0))
    assert (one - other).abs().max() > 1e-3


def test_gradient_checkpointing_of_the_language_model_changes_nothing(reference):
    ids, mask, labels = inputs(reference)
    model = reference.whole().train()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(given(reference), input_ids=ids, attention_mask=mask.long(), labels=labels).loss.backward()
        gradients.append([one.grad.clone() for one in model.violet.fusion.parameters()])
        checkpoint_activations(model)
    assert model.violet.fusion.measures["low_rank_size"] > 0
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_lora_of_the_language_model_and_a_saved_model_keep_the_weights(reference, whole, tmp_path):
    from peft import LoraConfig, get_peft_model

    ids, mask, _ = inputs(reference)
    asked = {"input_ids": ids, "attention_mask": mask.long()}
    wanted = whole(given(reference), **asked).logits
    whole.save_pretrained(tmp_path)
    loaded = VioletForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(loaded(given(reference), **asked).logits, wanted)
    tuned = get_peft_model(loaded, LoraConfig(target_modules=["q_proj", "o_proj"], r=2))
    assert_near(tuned(given(reference), **asked).logits, wanted, 1e-5)  # LoRA begins at 0


# --- with a processor, as other language models ---


@torch.no_grad()
def test_a_processor_writes_one_place_for_a_clip_whatever_its_frames():
    from language_models import FRAMES, SIDE, language_tokenizer, violet_config

    from violet.hub.language_models import language_processor
    from violet.processing import VioletVideoProcessor

    fields = {"model_type": "low_rank_language_model", "generator_size": 16, "generator_blocks": 1, "rank": 2}
    config = violet_config("smollm2", fusion_model_config={**fields, "types": "qom", "skip_layers": 2})
    torch.manual_seed(0)
    model = VioletForConditionalGeneration(config).eval()
    torch.nn.init.normal_(model.violet.fusion.generator.b, std=0.5)
    frames = VioletVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=FRAMES)
    processor = language_processor(config, language_tokenizer(), frames)
    clip = torch.randint(0, 256, (FRAMES, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(1)).byte().numpy()
    given = dict(processor(text=["<video> what moves left?", "nothing"], videos=[clip], padding=True))
    assert (given["input_ids"] == model.violet.fusion.video_token_id).sum(1).tolist() == [1, 0]
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    written = model.generate(**given, **options, output_logits=True, return_dict_in_generate=True)
    other = {**given, "pixel_values_videos": given["pixel_values_videos"].flip(1)}
    flipped = model.generate(**other, **options, output_logits=True, return_dict_in_generate=True)
    assert not torch.equal(written.logits[0][0], flipped.logits[0][0])
    assert torch.equal(written.logits[0][1], flipped.logits[0][1])  # the text without a clip

"""
Language models of transformers as the text side: what is written with a cache is what is written without, by itself
as in a batch, padded on either side; the language model's weights are there once, as they were published.
"""

import copy
import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from language_models import END, LANGUAGE_CONFIGS, PADDING, PLACES, START, VIDEO, WORDS, clips, violet_config
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM

from violet import VioletConfig
from violet.core.upstream import checkpoint_activations
from violet.modeling_violet import (
    VioletForCaptioning,
    VioletForConditionalGeneration,
    VioletForMaskedLM,
    VioletForRetrieval,
    VioletForVideoClassification,
    VioletModel,
)

NEW = 4
TINY = ("llama", "qwen2", "smollm3")
OTHERS = ("smollm2", "qwen3", "gemma2")
LONG = [START, 9, *[VIDEO] * PLACES, 31, 32, 33]
SHORT = [*[VIDEO] * PLACES, 41]
PLAIN = [START, 51, 52, 53]


def build(name: str, seed: int = 0, **changes):
    torch.manual_seed(seed)
    return VioletForConditionalGeneration(violet_config(name, **changes)).eval()


@pytest.fixture(scope="module", params=TINY)
def model(request):
    return build(request.param)


@pytest.fixture(scope="module", params=TINY + OTHERS)
def any_model(request):
    return build(request.param)


@pytest.fixture(scope="module")
def llama():
    return build("llama")


def pad(rows: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    padding = [[PADDING] * (longest - len(row)) for row in rows]
    ones = [[1] * len(row) for row in rows]
    join = (lambda a, b: [*b, *a]) if side == "left" else (lambda a, b: [*a, *b])
    ids = [join(row, more) for row, more in zip(rows, padding, strict=True)]
    mask = [join(row, [0] * len(more)) for row, more in zip(ones, padding, strict=True)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def write(model, **given):
    return model.generate(max_new_tokens=NEW, min_new_tokens=NEW, **{"do_sample": False, **given})


def new(model, given, **settings):
    return write(model, **given, **settings)[:, given["input_ids"].shape[1] :]


# --- writing ---


def test_with_a_cache_the_same_is_written_with_the_same_logits_as_without(any_model):
    model = any_model
    given = {**pad([LONG, PLAIN, SHORT], "left"), "pixel_values_videos": clips(2)}
    scored = {"return_dict_in_generate": True, "output_logits": True}
    cached, whole = write(model, **given, **scored), write(model, **given, **scored, use_cache=False)
    assert torch.equal(cached.sequences, whole.sequences)
    assert len({tuple(row.tolist()) for row in cached.sequences[:, -NEW:]}) == 3, "texts that differ"
    for one, other in zip(cached.logits, whole.logits, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)
    assert torch.equal(cached.sequences[:, : len(LONG)], given["input_ids"]), "the prompt with its videos comes back"


def test_the_logits_of_a_step_are_those_of_a_pass_over_all_words(model):
    given = {**pad([LONG, SHORT], "left"), "pixel_values_videos": clips(2)}
    found = write(model, **given, return_dict_in_generate=True, output_logits=True)
    mask = torch.nn.functional.pad(given["attention_mask"], (0, NEW), value=1)
    with torch.no_grad():
        logits = model(clips(2), input_ids=found.sequences, attention_mask=mask).logits[:, -NEW - 1 : -1]
    torch.testing.assert_close(torch.stack(found.logits, 1), logits, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3, "num_return_sequences": 2}])
def test_a_text_in_a_batch_with_and_without_videos_is_what_it_is_alone(model, mode):
    rows = [(LONG, [0]), (PLAIN, []), (SHORT, [1])]
    batch = {**pad([row for row, _ in rows], "left"), "pixel_values_videos": clips(2)}
    together = new(model, batch, **mode)
    found = []
    for row, videos in rows:
        alone = {**pad([row], "left"), **({"pixel_values_videos": clips(2)[videos]} if videos else {})}
        found.append(new(model, alone, **mode))
    assert torch.equal(together, torch.cat(found))


def test_padding_on_the_right_writes_the_same_words_as_on_the_left(model):
    found = {
        side: new(model, {**pad([SHORT, LONG, PLAIN], side), "pixel_values_videos": clips(2)})
        for side in ("left", "right")
    }
    assert torch.equal(found["left"], found["right"])
    with torch.no_grad():
        states = {}
        for side in found:
            given = pad([SHORT, LONG, PLAIN], side)
            logits = model(clips(2), **given).logits
            states[side] = logits[given["attention_mask"].bool()]
    torch.testing.assert_close(states["left"], states["right"], atol=2e-4, rtol=1e-4)


def test_a_video_is_encoded_once_for_all_that_is_asked_about_it(model):
    asked = pad([LONG, SHORT, LONG], "left")
    index = torch.tensor([1, 1, 0])
    once = new(model, {**asked, "pixel_values_videos": clips(2), "video_index": index})
    repeated = new(model, {**asked, "pixel_values_videos": clips(2)[index]})
    assert torch.equal(once, repeated) and not torch.equal(once[0], once[2])
    tokens = model.violet.encode_videos(clips(2))
    assert torch.equal(new(model, {**asked, "video_tokens": tokens, "video_index": index}), once)
    beams = new(model, {**asked, "video_tokens": tokens, "video_index": index}, num_beams=3)
    assert torch.equal(beams, new(model, {**asked, "pixel_values_videos": clips(2)[index]}, num_beams=3))


def test_a_text_may_have_several_videos(llama):
    both = [START, *[VIDEO] * PLACES, 7, *[VIDEO] * PLACES, 8]
    given = {**pad([both, PLAIN, LONG], "left"), "pixel_values_videos": clips(3)}
    assert torch.equal(new(llama, given)[:1], new(llama, {**pad([both], "left"), "pixel_values_videos": clips(3)[:2]}))
    exchanged = new(llama, {**pad([both], "left"), "pixel_values_videos": clips(3)[[1, 0]]})
    assert not torch.equal(new(llama, given)[:1], exchanged)


def test_what_is_written_is_never_the_place_of_a_video_and_settings_of_generate_hold(llama):
    given = {**pad([LONG, SHORT], "left"), "pixel_values_videos": clips(2)}
    found = new(llama, given, repetition_penalty=1.5, no_repeat_ngram_size=2)
    assert found.max() < WORDS
    again = new(llama, given, repetition_penalty=1.5, no_repeat_ngram_size=2, use_cache=False)
    assert torch.equal(found, again)
    torch.manual_seed(0)
    sampled = new(llama, given, do_sample=True, num_return_sequences=3)
    assert sampled.shape == (6, NEW)
    assert torch.equal(new(llama, given, cache_implementation="static"), new(llama, given))


# --- what the video has to do with it ---


def test_without_a_video_it_is_the_language_model_to_the_bit(model):
    given = pad([PLAIN, [START, 5]], "left")
    positions = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = model.language_model(**given, position_ids=positions).logits
        assert expected.std() > 0.1 and torch.equal(model(**given).logits, expected)
    assert torch.equal(write(model, **given), write(model.language_model, **given))


def test_places_see_the_video_and_no_word_sees_what_comes_behind_it(model):
    ids = torch.tensor([LONG])
    with torch.no_grad():
        one, other = model(clips(1), ids).logits, model(clips(1, seed=5), ids).logits
        assert torch.equal(one[:, :2], other[:, :2]), "in front of the video"
        assert (one[:, -1] - other[:, -1]).abs().max() > 1e-2
        changed = ids.clone()
        changed[0, -1] = 99
        torch.testing.assert_close(model(clips(1), changed).logits[:, :-1], one[:, :-1], atol=1e-5, rtol=0)


def test_frames_count_in_their_order(llama):
    ids = torch.tensor([LONG])
    with torch.no_grad():
        forwards, backwards = llama(clips(1), ids).logits, llama(clips(1).flip(1), ids).logits
    assert (forwards[:, -1] - backwards[:, -1]).abs().max() > 1e-2


# --- the loss ---


def test_the_loss_is_the_mean_surprise_of_the_labelled_words(model):
    given = pad([LONG, SHORT], "right")
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    with torch.no_grad():
        found = model(clips(2), **given, labels=labels)
    steps = found.logits[:, :-1].double().log_softmax(-1)
    targets = labels[:, 1:]
    wanted = [
        -steps[row, place, targets[row, place]]
        for row in range(2)
        for place in range(targets.shape[1])
        if targets[row, place] not in (-100, VIDEO)
    ]
    assert len(wanted) == 5, "9, 31, 32, 33 and 41: no place of a video, no padding"
    assert found.loss.item() == pytest.approx(torch.stack(wanted).mean().item(), rel=1e-5)
    assert model(clips(2), **given, labels=torch.full_like(labels, -100)).loss == 0


def test_every_parameter_gets_a_gradient_and_checkpointing_gives_the_same(model):
    model = copy.deepcopy(model).train()
    given = {**pad([LONG, PLAIN], "right"), "pixel_values_videos": clips(1)}
    given["labels"] = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    plain = model(**given)
    plain.loss.backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert all(
        one.abs().max() > 0 for name, one in gradients.items() if "position" not in name and "_proj.bias" not in name
    )
    model.zero_grad()
    checkpoint_activations(model)
    again = model(**given, use_cache=False)
    again.loss.backward()
    assert torch.equal(again.loss, plain.loss)
    for name, one in model.named_parameters():
        torch.testing.assert_close(one.grad, gradients[name], msg=name)
    assert any(
        module.gradient_checkpointing
        for module in model.language_model.modules()
        if hasattr(module, "gradient_checkpointing")
    )


# --- weights ---


def test_the_language_model_is_saved_once_and_gives_back_its_own_file(any_model, tmp_path):
    model = any_model
    source = AutoModelForCausalLM.from_config(model.config.text_config)
    source.load_state_dict(model.language_model.state_dict())
    source.save_pretrained(tmp_path / "published")
    model.save_pretrained(tmp_path / "ours")
    keys = load_file(tmp_path / "ours" / "model.safetensors").keys()
    inside = "violet.text_embeddings.language_model."
    own = load_file(tmp_path / "published" / "model.safetensors")
    assert {key.removeprefix(inside) for key in keys if key.startswith(inside)} == own.keys()
    loaded, report = VioletForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    loaded.language_model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "published" / "model.safetensors"
    ).read_bytes()
    given = {**pad([LONG], "left"), "pixel_values_videos": clips(1)}
    assert torch.equal(loaded(**given).logits, model(**given).logits)


@pytest.mark.parametrize("auto_class", [AutoModelForImageTextToText, AutoModelForMultimodalLM])
def test_auto_classes_give_the_class_that_the_checkpoint_holds(auto_class, llama, tmp_path):
    llama.save_pretrained(tmp_path)
    assert type(auto_class.from_pretrained(tmp_path)) is VioletForConditionalGeneration
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["text_config"]["model_type"] == "llama" and config["vocab_size"] == WORDS


def test_a_device_map_splits_no_layer(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    mapped = VioletForConditionalGeneration.from_pretrained(tmp_path, device_map={"": "cpu"})
    given = {**pad([LONG], "left"), "pixel_values_videos": clips(1)}
    assert torch.equal(write(mapped, **given), write(llama, **given))
    assert {"LlamaDecoderLayer", "CLIPEncoderLayer"} <= set(llama._no_split_modules)
    accelerate = pytest.importorskip("accelerate")
    parts = accelerate.infer_auto_device_map(
        llama, {0: 60_000, "cpu": 10**9}, no_split_module_classes=list(llama._no_split_modules)
    )
    assert not [name for name in parts if ".layers.0." in name], "no device boundary inside of a layer"


def test_a_vocabulary_that_grows_leaves_the_place_of_videos_as_it_was(llama, tmp_path):
    grown = copy.deepcopy(llama)
    grown.resize_token_embeddings(WORDS + 3, mean_resizing=False)
    given = {**pad([LONG], "left"), "pixel_values_videos": clips(1)}
    with torch.no_grad():
        found = grown(**given).logits
        torch.testing.assert_close(found[..., :WORDS], llama(**given).logits)
    assert found.shape[-1] == WORDS + 3 and grown.violet.fusion.video_token_id == VIDEO
    grown.save_pretrained(tmp_path)
    assert torch.equal(VioletForConditionalGeneration.from_pretrained(tmp_path)(**given).logits, found)


def test_configuration_is_the_language_models_where_words_are_written(llama):
    config = llama.config
    assert config.get_text_config() is config.text_config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (START, END, PADDING)
    assert llama.generation_config.eos_token_id == END
    plain = VioletConfig()
    assert plain.get_text_config() is plain


def test_adapters_on_the_language_model_alone_learn_and_are_the_same_when_loaded(model, tmp_path):
    peft = pytest.importorskip("peft")
    chosen = {"target_modules": r".*language_model.*\.(q_proj|v_proj)", "task_type": "CAUSAL_LM"}
    settings = peft.LoraConfig(r=4, lora_alpha=16, **chosen)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(copy.deepcopy(model), settings)
    trained = {name for name, one in adapted.named_parameters() if one.requires_grad}
    assert len(trained) == 8 and all("language_model" in name and "lora_" in name for name in trained)
    given = {**pad([LONG, PLAIN], "left"), "pixel_values_videos": clips(1)}
    assert torch.equal(write(adapted, **given), write(model, **given)), "nothing is learned yet"
    optimizer = torch.optim.AdamW([one for one in adapted.parameters() if one.requires_grad], lr=3e-2)
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    losses = []
    for _ in range(8):
        losses.append(adapted(**given, labels=labels).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]
    adapted.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path).eval()
    written = write(adapted.eval(), **given)
    assert torch.equal(write(loaded, **given), written)
    assert torch.equal(write(loaded, **given, use_cache=False), written)
    with torch.no_grad():
        assert (loaded(**given).logits - model(**given).logits).abs().max() > 0.1
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(merged(**given).logits, adapted(**given).logits, atol=2e-3, rtol=1e-3)


# --- refused ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": None}, "`fusion_model_config.model_type` is 'language_model', and `text_config` is missing"),
        ({"text_config": {"model_type": "clip_text_model"}}, "`text_config.model_type` 'clip_text_model' is none of"),
        ({"text_config": {"model_type": "bert"}}, "'bert' lets each word see those behind it"),
        ({"text_config": {"model_type": "bart"}}, "'bart' lets each word see those behind it"),
    ],
)
def test_a_text_side_that_does_not_write_is_refused_by_both_keys(changes, message):
    config = violet_config("llama").to_dict()
    with pytest.raises(ValueError, match=message):
        VioletForConditionalGeneration(VioletConfig(**{**config, **changes}))


def test_other_classes_and_fusions_are_refused_by_name():
    config = violet_config("llama", projection_dim=8)
    for other in (VioletForMaskedLM, VioletForCaptioning, VioletForRetrieval, VioletForVideoClassification):
        with pytest.raises(ValueError, match=f"{other.__name__} needs .* 'language_model' serves 'causal'"):
            other(config)
    bert = {**config.to_dict(), "fusion_model_config": None, "text_config": None}
    with pytest.raises(ValueError, match="VioletForConditionalGeneration needs .*'bert' serves 'bidirectional'"):
        VioletForConditionalGeneration(VioletConfig(**bert))
    with pytest.raises((ValueError, StrictDataclassError), match="`pooled_grid`: must be 1 or more"):
        violet_config("llama", pooled=0)


def test_places_and_videos_must_fit_with_the_numbers(llama):
    one = {"pixel_values_videos": clips(1)}
    with pytest.raises(
        ValueError, match=f"have 0 places of `<video>` .* 1 videos of {PLACES} tokens each need {PLACES}"
    ):
        llama(**one, input_ids=torch.tensor([PLAIN]))
    with pytest.raises(ValueError, match=f"have {2 * PLACES} places .* need {PLACES}"):
        llama(**one, input_ids=torch.tensor([LONG, LONG]))
    with pytest.raises(ValueError, match=f"have {PLACES} places of `<video>`, and there is no video"):
        llama(input_ids=torch.tensor([LONG]))
    with pytest.raises(ValueError, match="`input_ids` is missing"):
        llama.generate(**one)
    with pytest.raises(ValueError, match=r"`fusion_model_config\.pooled_grid` 3 is more than the 2 x 2 cells"):
        build("llama", pooled=3)(**one, input_ids=torch.tensor([LONG]))


# --- as a fusion ---


def test_as_a_fusion_the_video_stands_in_front_of_the_words(llama):
    words = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        found = llama.violet(clips(1), input_ids=words, attention_rule="causal")
        ids = torch.tensor([[*[VIDEO] * PLACES, 5, 6, 7]])
        expected = llama.language_model.lm_head(found.text_hidden_state)
        torch.testing.assert_close(llama(clips(1), ids).logits[:, -3:], expected)
    assert found.video_hidden_state.shape == (1, PLACES, 32)
    with pytest.raises(ValueError, match="needs the rule of attention 'bidirectional' .* serves 'causal'"):
        llama.violet(clips(1), input_ids=words)
    assert type(llama.violet) is VioletModel and set(LANGUAGE_CONFIGS) == {*TINY, *OTHERS}


@pytest.mark.parametrize("pooled", [1, 2])
def test_pooled_steps_are_means_over_their_cells(pooled):
    model = build("llama", pooled=pooled)
    connector, video = model.violet.fusion.connector, model.violet.encode_videos(clips(1))
    cells = video.patches()
    tokens = connector.pool(video)
    assert tokens.tokens.shape[1] == tokens.mask.shape[1] == 4 * pooled**2
    expected = cells.mean((2, 3)) if pooled == 1 else cells.flatten(1, 3)
    torch.testing.assert_close(tokens.tokens, expected.reshape(tokens.tokens.shape))

"""What every text side promises: VIOLET's own, and text encoders of transformers."""

import pytest
import torch
from encoder_configs import FRAMES, SIDE, model_config

from violet import VioletConfig
from violet.modeling_violet import VioletForCaptioning, VioletForMaskedLM, VioletForPreTraining, VioletModel
from violet.modeling_violet.texts import TEXTS, TextSide, build_text_side

_SMALL = {"vocab_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TEXT_CONFIGS = {
    "own": None,
    "bert": {"model_type": "bert", "hidden_size": 24, **_SMALL},
    "clip_text_model": {"model_type": "clip_text_model", "hidden_size": 32, "eos_token_id": 3, **_SMALL},
}
CONTEXTUAL = ("bert", "clip_text_model")
sides = pytest.mark.parametrize("side", TEXT_CONFIGS)


def config_of(side: str, **changes) -> VioletConfig:
    return model_config("vit", text_config=TEXT_CONFIGS[side], initializer_range=0.2, **changes)


def build(side: str, model_class=VioletForMaskedLM, **changes):
    torch.manual_seed(0)
    return model_class(config_of(side, **changes)).eval()


def pixels() -> torch.Tensor:
    return torch.randn(2, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


WORDS = torch.tensor([[2, 9, 8, 7, 3], [2, 5, 6, 7, 3]])


@sides
def test_words_become_states_of_the_models_width_that_tell_words_and_places_apart(side):
    model = build(side).violet
    texts = model.encode_texts(WORDS)
    assert texts.tokens.shape == (2, 5, model.config.hidden_size) and texts.mask.sum() == 10
    turned = model.encode_texts(WORDS[:, [0, 2, 1, 3, 4]]).tokens
    assert (turned[:, 1:3] - texts.tokens[:, 1:3]).norm(dim=-1).min() > 0.1
    assert (turned[:, 1:3] - texts.tokens[:, [2, 1]]).norm(dim=-1).min() > 1e-3


@sides
@torch.no_grad()
def test_padding_of_texts_changes_no_result(side):
    model = build(side)
    padded = torch.cat([WORDS, torch.full((2, 3), 11)], 1)
    mask = torch.cat([torch.ones_like(WORDS), torch.zeros(2, 3, dtype=torch.long)], 1)
    short, long, unmasked = (
        model(pixel_values_videos=pixels(), input_ids=ids, attention_mask=given).logits[:, :5]
        for ids, given in ((WORDS, None), (padded, mask), (padded, None))
    )
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-4)
    assert (short - unmasked).abs().max() > 1e-3, "the mask is what does it"
    one, other = (model.violet.embed_texts(ids, given) for ids, given in ((WORDS, None), (padded, mask)))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("side", CONTEXTUAL)
def test_a_side_says_whether_its_words_know_each_other(side):
    """The first word's state changes with the last word, or the last one's with the first."""
    states = {}
    for name in ("own", side):
        model = build(name).violet
        changed = WORDS.clone()
        changed[:, 0], changed[:, -1] = 30, 31
        states[name] = (model.encode_texts(WORDS).tokens - model.encode_texts(changed).tokens)[:, 1:-1].abs().max()
        assert model.text_embeddings.contextual == (name in CONTEXTUAL)
    assert states["own"] == 0 < states[side]


@sides
def test_every_parameter_of_a_side_learns(side):
    model = build(side).train()
    model(pixel_values_videos=pixels(), input_ids=WORDS, labels=WORDS).loss.backward()
    for name, parameter in model.violet.text_embeddings.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0 or ".key.bias" in name or "k_proj.bias" in name, name


@sides
def test_the_table_of_words_grows_with_the_tokenizer_and_is_loaded_so(side, tmp_path):
    model = build(side)
    before = model(pixel_values_videos=pixels(), input_ids=WORDS).logits
    model.resize_token_embeddings(140)
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == 140
    after = model(pixel_values_videos=pixels(), input_ids=WORDS).logits
    torch.testing.assert_close(after[..., :128], before)
    new = torch.where(WORDS == 7, 139, WORDS)
    expected = model(pixel_values_videos=pixels(), input_ids=new).logits
    model.save_pretrained(tmp_path)
    loaded = VioletForMaskedLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(pixel_values_videos=pixels(), input_ids=new).logits, expected)


@pytest.mark.parametrize("side", CONTEXTUAL)
def test_writing_word_by_word_is_refused_with_words_that_know_those_behind_them(side):
    settings = f"`attention_rule`.*`text_config.model_type` '{side}'"
    with pytest.raises(ValueError, match=f"VioletForCaptioning needs .*'sequence_to_sequence' .{settings}"):
        build(side, VioletForCaptioning)
    model = build(side, VioletForPreTraining)
    for ask in (model.freeze_unused, model.find_objectives):
        with pytest.raises(ValueError, match=f"The objective 'smtm' needs .*{settings}"):
            ask(["mlm", "smtm"])
    with pytest.raises(ValueError, match=settings):
        build(side)(pixel_values_videos=pixels(), input_ids=WORDS, attention_rule="sequence_to_sequence")
    assert [one.name for one in model.find_objectives(["mlm"])] == ["mlm"]


@pytest.mark.parametrize("side", CONTEXTUAL)
def test_vocabularies_that_differ_are_refused_with_both(side):
    with pytest.raises(ValueError, match="`vocab_size` is 130, and `text_config.vocab_size` 128"):
        VioletModel(config_of(side, vocab_size=130))


def test_a_text_longer_than_the_positions_is_refused_by_violets_own_side():
    with pytest.raises(ValueError, match="A text of 20 tokens is longer than `max_position_embeddings` 16"):
        build("own", max_position_embeddings=16).violet.encode_texts(torch.full((1, 20), 7))


def test_an_unknown_text_configuration_is_taken_for_a_text_encoder_of_transformers():
    assert type(build_text_side(config_of("bert"))) is TEXTS.find("bert") is TEXTS["text_encoder"]
    assert isinstance(build_text_side(config_of("own")), TextSide)

"""MM-GEM on a small Llama: its embeddings and captions, what leaves them as they are, and what is refused."""

import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn

from violet import VioletConfig, VioletForPreTraining, VioletForRetrieval, VioletModel
from violet.modeling_violet import Tokens
from violet.modeling_violet.area_pooling import boxes_of_steps, pool_boxes
from violet.modeling_violet.losses import IGNORE_INDEX
from violet.modeling_violet.modeling_conditional_generation import VioletForConditionalGeneration
from violet.modeling_violet.objectives.generation import video_first, with_end

BEGIN, END, PADDING = 1, 2, 0
LLAMA = {
    "model_type": "llama",
    **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"intermediate_size": 128, "vocab_size": 24, "max_position_embeddings": 64, "pad_token_id": PADDING},
}


def config_of(fusion: dict | None = None, **changes) -> VioletConfig:
    vision = {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": (2, 2, 2), "drop_path_rate": 0.0}
    own = {"model_type": "language_model", "pooled_grid": 2, "embedding_grid": 2, **(fusion or {})}
    fields = {
        **{"vision_config": vision, "text_config": LLAMA, "fusion_model_config": own, "hidden_size": 32},
        **{"num_attention_heads": 4, "num_video_frames": 2, "video_grid_size": 4, "hidden_frame_order": False},
        **{
            "projection_dim": 16,
            "projection_type": "language_model",
            "objectives": {"contrast": {}, "generation": {}},
        },
    }
    return VioletConfig(**{**fields, **changes})


@pytest.fixture(scope="module")
def model() -> VioletForPreTraining:
    torch.manual_seed(0)
    made = VioletForPreTraining(config_of()).eval()
    with torch.no_grad():
        for parameter in made.violet.text_embeddings.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3)  # at the usual start all words are alike, and nothing would be shown
    return made


@pytest.fixture
def violet(model) -> VioletModel:
    return model.violet


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


IDS = torch.tensor([[1, 5, 9, 7, 3], [1, 4, 8, 0, 0], [1, 6, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
BOX = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 0.5, 0.5], [0.3, 0.1, 1.0, 0.7]])


@torch.no_grad()
def test_a_texts_vector_depends_neither_on_padding_nor_on_the_batch(violet):
    whole = violet.embed_texts(IDS, MASK)
    padded = violet.embed_texts(nn.functional.pad(IDS, (0, 5)), nn.functional.pad(MASK, (0, 5)))
    torch.testing.assert_close(padded, whole, atol=1e-6, rtol=0)
    left = violet.embed_texts(*(torch.stack([row.roll(int(5 - m.sum())) for row, m in zip(of, MASK, strict=True)])
                                for of in (IDS, MASK)))  # fmt: skip
    torch.testing.assert_close(left, whole, atol=1e-6, rtol=0)
    for row in range(3):
        length = int(MASK[row].sum())
        torch.testing.assert_close(violet.embed_texts(IDS[row : row + 1, :length])[0], whole[row], atol=1e-6, rtol=0)
    other_padding = violet.embed_texts(IDS.masked_fill(MASK == 0, END), MASK)  # the mask decides, never the id
    torch.testing.assert_close(other_padding, whole, atol=0, rtol=0)


@torch.no_grad()
def test_the_vector_behind_the_words_and_not_the_last_word_is_read(violet, monkeypatch):
    """Computed again by hand, on the language model itself; and elsewhere than behind the last word it is another."""
    language_model = violet.fusion.language_model
    end = violet.projection.end_vector

    def by_hand(place: int, read: int) -> torch.Tensor:
        words = language_model.get_input_embeddings()(IDS[1:2, :3])
        embeds = torch.cat([words, words.new_zeros(1, place - 3, 64), end.view(1, 1, -1)], dim=1)
        states = language_model.model(inputs_embeds=embeds).last_hidden_state[:, read]
        return nn.functional.normalize(violet.projection.text_projection(states), dim=-1)[0]

    found = violet.embed_texts(IDS, MASK)[1]
    torch.testing.assert_close(found, by_hand(3, 3), atol=1e-6, rtol=0)
    assert float((found - by_hand(7, 7)).abs().max()) > 0.01
    assert float(found @ by_hand(3, 2)) < 0.95


@torch.no_grad()
def test_a_videos_vector_is_that_of_its_box_and_of_the_whole_without_one(violet, pixels):
    video = violet.encode_videos(pixels)
    whole = violet.embed_videos(video)
    all_of_it = violet.with_boxes(video, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(3, 4))
    torch.testing.assert_close(violet.embed_videos(all_of_it), whole, atol=1e-6, rtol=0)
    boxed = violet.embed_videos(violet.with_boxes(video, BOX))
    assert float((boxed * whole).sum(1).max()) < 0.999
    tube = BOX[:, None].expand(3, 2, 4)
    torch.testing.assert_close(violet.embed_videos(violet.with_boxes(video, tube)), boxed, atol=0, rtol=0)
    torch.testing.assert_close(violet.embed_videos(violet.encode_videos(pixels, boxes=BOX)), boxed, atol=1e-6, rtol=0)
    states = pool_boxes(video.patches(), BOX, 2)
    assert states.shape == (3, 2, 2, 2, 32)


@torch.no_grad()
def test_a_frame_that_does_not_show_the_box_gives_no_tokens_and_no_part_of_the_vector(violet, pixels):
    shown = torch.tensor([[1, 0], [1, 1], [0, 1]])
    tube = BOX[:, None].repeat(1, 2, 1)
    tube[0, 1] = 0.0  # what stands there is not read
    video = violet.with_boxes(violet.encode_videos(pixels), tube, shown)
    places = violet.fusion.connector(video)
    assert places.mask.tolist() == [[1] * 4 + [0] * 4, [1] * 8, [0] * 4 + [1] * 4]
    hidden = video.patches().clone()
    hidden[0, 1] = hidden[2, 0] = 99.0
    changed = violet.embed_videos(video.with_tokens(torch.cat([video.tokens.unflatten(1, (2, -1))[:, :, :1],
                                                               hidden.flatten(2, 3)], 2).flatten(1, 2)))  # fmt: skip
    torch.testing.assert_close(changed, violet.embed_videos(video), atol=1e-6, rtol=0)


def test_with_one_part_the_vector_does_not_know_left_from_right_and_with_two_it_does():
    torch.manual_seed(0)
    for parts, alike in ((1, True), (2, False)):
        projection = VioletModel(config_of({"embedding_grid": parts}, vision_positions="none")).projection
        video = VioletModel(config_of(vision_positions="none")).encode_videos(torch.randn(1, 2, 3, 32, 32))
        mirrored = video.with_tokens(video.patches().flip(3).flatten(1, 3))
        same = torch.allclose(projection.video(video), projection.video(mirrored), atol=1e-6)
        assert same == alike


def test_both_losses_train_every_weight_in_one_step_and_their_sum_is_the_loss(model, pixels):
    objectives = {"contrast": 1.0, "generation": 1.0}
    output = model(pixel_values_videos=pixels, input_ids=IDS, attention_mask=MASK, objectives=objectives)
    torch.testing.assert_close(output.loss, output.losses["contrast"] + output.losses["generation"])
    model.zero_grad()
    output.loss.backward()
    missing = [name for name, one in model.named_parameters() if one.grad is None and one.requires_grad]
    model.zero_grad()
    assert missing == []


def test_captions_of_boxes_and_of_wholes_have_other_losses(model, pixels):
    given = {"pixel_values_videos": pixels, "input_ids": IDS, "attention_mask": MASK}
    with torch.no_grad():
        whole = model(**given, objectives={"contrast": 1.0, "generation": 1.0}).losses
        boxed = model(**given, boxes=BOX, objectives={"contrast": 1.0, "generation": 1.0}).losses
    assert all(abs(float(whole[name] - boxed[name])) > 1e-4 for name in whole)


def test_the_generation_loss_is_the_language_models_own_of_the_words_and_the_end(model, pixels):
    """Row by row without padding, by the language model's logits: the mean over all words of the batch."""
    with torch.no_grad():
        found = model(pixel_values_videos=pixels, input_ids=IDS, attention_mask=MASK, objectives={"generation": 1.0})
        video = model.violet.fusion.connector(model.violet.encode_videos(pixels)).tokens
        language_model, total, count = model.violet.fusion.language_model, 0.0, 0
        for row in range(3):
            words = [*IDS[row, : int(MASK[row].sum())].tolist(), END]
            embedded = language_model.get_input_embeddings()(torch.tensor([words]))
            embeds = torch.cat([embedded[:, :1], video[row : row + 1], embedded[:, 1:]], dim=1)
            logits = language_model(inputs_embeds=embeds).logits[0, -len(words) : -1]
            total += float(nn.functional.cross_entropy(logits, torch.tensor(words[1:]), reduction="sum"))
            count += len(words) - 1
    assert float(found.losses["generation"]) == pytest.approx(total / count, rel=1e-5)


def test_an_end_is_added_once_and_the_video_stands_behind_the_beginning():
    ids, mask = with_end(torch.tensor([[0, 1, 5], [1, 5, END]]), torch.tensor([[0, 1, 1], [1, 1, 1]]), END)
    assert ids.tolist() == [[1, 5, END, 0], [1, 5, END, 0]] and mask.tolist() == [[1, 1, 1, 0]] * 2
    video = Tokens(torch.full((2, 2, 1), 9.0), torch.tensor([[1, 1], [1, 0]]))
    words = ids.unsqueeze(-1).float()
    embeds, seen, labels = video_first(words, ids, mask, video, BEGIN)
    assert embeds[..., 0].tolist() == [[1, 9, 9, 5, END, 0]] * 2
    assert seen.tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 0, 1, 1, 0]]
    assert labels.tolist() == [[IGNORE_INDEX] * 3 + [5, END, IGNORE_INDEX]] * 2
    embeds, _, labels = video_first(words, ids, mask, video, None)  # a tokenizer without a beginning, such as Qwen's
    assert embeds[0, :, 0].tolist() == [9, 9, 1, 5, END, 0]
    assert labels[0].tolist() == [IGNORE_INDEX] * 2 + [1, 5, END, IGNORE_INDEX]


@torch.no_grad()
def test_what_is_written_with_a_cache_is_what_is_computed_again_at_each_word(model, pixels):
    writer = VioletForConditionalGeneration(model.config).eval()
    writer.violet.load_state_dict(model.violet.state_dict())
    video = writer.violet.encode_videos(pixels, boxes=BOX)
    prompt = torch.tensor([[BEGIN] + [writer.violet.fusion.video_token_id] * 8]).expand(3, -1)
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    settings |= {"return_dict_in_generate": True, "output_logits": True}
    cached = writer.generate(prompt, video_tokens=video, **settings)
    again = writer.generate(prompt, video_tokens=video, use_cache=False, **settings)
    assert torch.equal(cached.sequences, again.sequences)
    cached, again = (torch.stack(one.logits, dim=1) for one in (cached, again))
    torch.testing.assert_close(cached, again)
    assert (cached[:, 1:] - cached[:, :1]).abs().max() > 1e-2, "each word has logits of its own"


@torch.no_grad()
def test_search_compares_embeddings_although_there_is_a_fusion(model, pixels):
    searcher = VioletForRetrieval(model.config).eval()
    searcher.violet.load_state_dict(model.violet.state_dict())
    assert searcher.match_head is None and model.mlm_head is None
    scores = searcher(pixel_values_videos=pixels, input_ids=IDS, attention_mask=MASK).logits
    violet = model.violet
    wanted = violet.compare(violet.embed_videos(violet.encode_videos(pixels)), violet.embed_texts(IDS, MASK))
    torch.testing.assert_close(scores, wanted)


def test_the_language_model_comes_back_as_it_was(model, tmp_path):
    from transformers import AutoModelForCausalLM

    model.save_pretrained(tmp_path / "whole")
    again = VioletForPreTraining.from_pretrained(tmp_path / "whole")
    for name, values in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], values), name
    again.violet.fusion.language_model.save_pretrained(tmp_path / "words")
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "words")
    assert torch.equal(alone.lm_head.weight, model.violet.fusion.language_model.lm_head.weight)


def test_boxes_of_an_encoder_with_longer_steps_are_means_of_those_shown():
    boxes = torch.tensor([[[0.0, 0.0, 0.4, 0.4], [0.2, 0.2, 0.6, 0.6], [0.1, 0.1, 0.3, 0.3], [9.0, 9.0, 9.0, 9.0]]])
    found, shown = boxes_of_steps(boxes, torch.tensor([[1, 1, 1, 0]]), 2)
    torch.testing.assert_close(found, torch.tensor([[[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.3, 0.3]]]))
    assert shown.tolist() == [[1, 1]]
    with pytest.raises(ValueError, match="4 of each video"):
        boxes_of_steps(boxes, torch.ones(1, 4), 3)


BERT: dict = {"fusion_model_config": None, "text_config": None}
REFUSED: dict[str, tuple[dict, str]] = {
    "masked words": ({"objectives": {"mlm": {}}}, "'mlm' needs a fusion"),
    "matching": ({"objectives": {"vtm": {}}}, "'vtm' needs a fusion"),
    "words of patches": ({"objectives": {"smtm": {}}}, "'smtm' needs a fusion"),
    "captions by BERT": (
        {
            "fusion_model_config": None,
            "text_config": None,
            "projection_type": "in_order",
            "objectives": {"generation": {}},
        },
        "`fusion_model_config.model_type` None is no language model",
    ),
    "vectors by BERT": (
        BERT,
        "'language_model' reads texts by a language",
    ),
    "no parts": ({"fusion": {"embedding_grid": 0}}, "`embedding_grid`: must be 1 or more"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_is_refused_when_the_model_is_built(kind):
    changes, message = REFUSED[kind]
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match=re.escape(message)):
        VioletForPreTraining(config_of(**changes))


def test_too_many_parts_boxes_without_a_reader_and_long_captions_are_refused(model, pixels):
    fine = VioletModel(config_of({"embedding_grid": 8}))
    with pytest.raises(ValueError, match="`fusion_model_config.embedding_grid` 8 is more than the 4 x 4 cells"):
        fine.embed_videos(fine.encode_videos(pixels))
    plain = VioletModel(config_of({"pooled_grid": None}, projection_type="in_order"))
    video = plain.encode_videos(pixels, boxes=BOX)
    with pytest.raises(ValueError, match="'in_order' reads no boxes"):
        plain.embed_videos(video)
    with pytest.raises(ValueError, match="`fusion_model_config.pooled_grid` is None"):
        plain.fusion.connector(video)
    with pytest.raises(ValueError, match=r"\(10, 12, 20, 30\) is in pixels"):
        model.violet.encode_videos(pixels, boxes=torch.tensor([[10, 12, 20, 30]] * 3))
    long = torch.full((3, 60), 5)
    with pytest.raises(ValueError, match="61 tokens behind a video of 8 .* 64"):
        model(pixel_values_videos=pixels, input_ids=long, objectives={"generation": 1.0})
    with pytest.raises(ValueError, match="more than the language model's `max_position_embeddings` 64"):
        model.violet.embed_texts(torch.full((1, 64), 5))

"""Models without a fusion, texts or positions of their own; and what an encoder gives beside its grid."""

import pytest
import torch
from encoder_configs import FRAMES, PATCH, SIDE, model_config
from torch import nn
from transformers import AutoConfig, CLIPTextConfig, PreTrainedConfig, PreTrainedModel

from violet.evaluation.searching import MemoryGallery, score_all, score_pairs
from violet.modeling_violet import (
    ENCODERS,
    Tokens,
    VioletForMultipleChoice,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletForRetrieval,
    VioletForVideoClassification,
    VioletModel,
)
from violet.modeling_violet.losses import retrieval_loss
from violet.modeling_violet.tokens import VisionStates

NONE = {"model_type": "none"}
WORDS = torch.tensor([[2, 9, 8, 7, 3, 0], [2, 5, 6, 7, 8, 3], [2, 5, 3, 0, 0, 0]])
MASK = (WORDS > 0).long()
CLIP_TEXT = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CLIP_TEXT |= {"max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


class TalkativeConfig(PreTrainedConfig):
    model_type = "test_talkative"
    hidden_size: int = 24
    pooled_size: int = 5
    num_channels: int = 3
    cell = (1, PATCH, PATCH)

    def grid(self, frames, height, width):
        return frames, height // PATCH, width // PATCH


class Talkative(PreTrainedModel):
    """An encoder with two tokens of each frame, three of the clip, and a vector."""

    config_class = TalkativeConfig
    main_input_name = "pixel_values_videos"

    def __init__(self, config):
        super().__init__(config)
        self.patches = nn.Conv3d(3, config.hidden_size, (1, PATCH, PATCH), (1, PATCH, PATCH))
        self.of_frame = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.of_clip = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.vector = nn.Linear(config.hidden_size, config.pooled_size)
        self.post_init()

    def forward(self, pixel_values_videos, **kwargs):
        grid = self.patches(pixel_values_videos.transpose(1, 2)).permute(0, 2, 3, 4, 1)
        of_frame = self.of_frame(grid.mean((2, 3))).unflatten(-1, (2, -1))
        of_clip = self.of_clip(grid.mean((1, 2, 3))).unflatten(-1, (3, -1))
        return VisionStates(grid, of_frame, of_clip, self.vector(grid.mean((1, 2, 3))))


AutoConfig.register("test_talkative", TalkativeConfig, exist_ok=True)
ENCODERS.add("test_talkative", Talkative)


def talkative(**changes):
    settings = model_config("vit", initializer_range=0.2, **changes).to_dict()
    return type(model_config("vit"))(**{**settings, "vision_config": {"model_type": "test_talkative"}})


def towers(**changes):
    """Two towers, each with a vector of its own."""
    text = CLIPTextConfig(**CLIP_TEXT, vocab_size=model_config("vit").vocab_size).to_dict()
    parts = {"text_config": text, "fusion_model_config": NONE, "vision_positions": "none", "projection_type": "pooled"}
    return talkative(**{**parts, **changes})


def pixels(videos: int = 2) -> torch.Tensor:
    return torch.randn(videos, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def build(model_class, config):
    torch.manual_seed(0)
    return model_class(config).eval()


@torch.no_grad()
def test_tokens_of_frames_and_of_the_clip_stand_in_front_of_the_patches():
    for positions, frame_tokens in (("violet", 2), ("none", 2)):
        model = build(VioletModel, talkative(vision_positions=positions))
        tokens = model.encode_videos(pixels())
        rows = SIDE // PATCH
        assert (tokens.num_special_per_clip, tokens.num_special_per_frame) == (3, frame_tokens)
        assert tokens.tokens.shape == (2, 3 + FRAMES * (2 + rows * rows), model.config.hidden_size)
        assert tokens.patches().shape == (2, FRAMES, rows, rows, model.config.hidden_size)
        assert tokens.pooled.shape == (2, 5)
    states = model.video_encoder.encoder.states(model.vision_model, pixels())
    project = model.video_encoder.projection
    torch.testing.assert_close(tokens.patches(), project(states.last_hidden_state))
    torch.testing.assert_close(tokens.tokens[:, :3], project(states.clip_states))
    torch.testing.assert_close(tokens.tokens[:, 3:5], project(states.frame_states[:, 0]))


def test_every_objective_finds_the_patches_behind_such_tokens():
    model = build(VioletForPreTraining, talkative(mvm_targets={"pixel": {}})).train()
    masked = torch.zeros(2, FRAMES, SIDE // PATCH, SIDE // PATCH, dtype=torch.bool)
    masked[:, 1, 0, 1] = True
    given = {"pixel_values_videos": pixels(), "input_ids": WORDS[:2], "labels": WORDS[:2], "bool_masked_pos": masked}
    given |= {"mvm_targets": {"pixel": pixels()}, "negative_index": torch.tensor([[1], [0]])}
    output = model(**given)
    output.loss.backward()
    assert output.mvm_predictions["pixel"].shape == pixels().shape
    of_encoder = dict(model.violet.vision_model.named_parameters())
    assert all(one.grad.abs().sum() > 0 for name, one in of_encoder.items() if not name.startswith("vector"))


@torch.no_grad()
def test_two_towers_score_pairs_by_the_product_of_their_vectors(tmp_path):
    model = build(VioletForRetrieval, towers())
    assert not [name for name, _ in model.named_parameters() if "fusion" in name or "match_head" in name]
    labels = torch.tensor([0, 1, 1])
    output = model(pixel_values_videos=pixels(), input_ids=WORDS, attention_mask=MASK, labels=labels)
    clip, project = model.violet.vision_model, model.violet.projection
    videos = nn.functional.normalize(clip(pixels()).pooler_output @ project.video_projection.weight.t(), dim=-1)
    ends = torch.tensor([4, 5, 2])  # the places of the end of each text
    states = model.violet.text_embeddings.model(input_ids=WORDS, attention_mask=MASK).last_hidden_state
    texts = nn.functional.normalize(states[torch.arange(3), ends] @ project.text_projection.weight.t(), dim=-1)
    torch.testing.assert_close(output.logits, torch.tensor(4.6).exp() * texts @ videos.t())
    torch.testing.assert_close(output.loss, retrieval_loss(output.logits, labels))
    encoded, words = model.violet.encode_videos(pixels()), model.violet.encode_texts(WORDS, MASK)
    pairs = model.score_pairs(encoded, words.select(torch.tensor([2, 0])), torch.tensor([1, 0])).logits
    torch.testing.assert_close(pairs, output.logits[[2, 0], [1, 0]])
    model.save_pretrained(tmp_path)
    loaded = VioletForRetrieval.from_pretrained(tmp_path).eval()
    inputs = {"pixel_values_videos": pixels(), "input_ids": WORDS, "attention_mask": MASK}
    assert torch.equal(loaded(**inputs).logits, output.logits)


def test_two_towers_train_every_parameter():
    model = build(VioletForRetrieval, towers()).train()
    model(
        pixel_values_videos=pixels(), input_ids=WORDS, attention_mask=MASK, labels=torch.tensor([0, 1, 1])
    ).loss.backward()
    without = {name for name, one in model.named_parameters() if one.grad is None}
    assert without == {
        f"violet.video_encoder.backbone.{part}.{kind}"
        for part in ("of_frame", "of_clip")
        for kind in ("weight", "bias")
    }


@torch.no_grad()
def test_a_search_by_two_towers_needs_the_galleries_vectors_only():
    model = build(VioletForRetrieval, towers())
    table = model(pixel_values_videos=pixels(5), input_ids=WORDS, attention_mask=MASK).logits
    embeds = model.violet.embed_videos(model.violet.encode_videos(pixels(5)))
    gallery = MemoryGallery(tuple("abcde"), None, embeds)
    torch.testing.assert_close(score_all(model, gallery, WORDS, MASK), table)
    candidates = torch.tensor([[4, 0], [1, 2], [3, 3]])
    torch.testing.assert_close(score_pairs(model, gallery, WORDS, MASK, candidates), table.gather(1, candidates))


@torch.no_grad()
def test_classes_are_read_from_the_clips_vector_without_fusion_and_text(tmp_path):
    config = towers(text_config=NONE, projection_dim=None)
    model = build(VioletForVideoClassification, config)
    assert not any("text" in name for name in model.state_dict())
    head, vector = model.classifier, model.violet.vision_model(pixels()).pooler_output
    normed = nn.functional.layer_norm(vector, (5,), head[0].weight, head[0].bias)
    output = model(pixel_values_videos=pixels(), labels=torch.tensor([0, 2]))
    torch.testing.assert_close(output.logits, normed @ head[2].weight.t() + head[2].bias)
    model.save_pretrained(tmp_path)
    loaded = VioletForVideoClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(pixel_values_videos=pixels()).logits, output.logits)
    with pytest.raises(ValueError, match="reads no text: its `text_config.model_type` is 'none'"):
        model.violet.encode_texts(WORDS)


def test_without_a_vector_of_its_own_the_mean_of_the_states_is_read():
    config = model_config("vit", fusion_model_config=NONE, text_config=NONE, vision_positions="none")
    config.projection_dim = None
    model = build(VioletForVideoClassification, config)
    states = model.violet.encode_videos(pixels()).tokens.mean(1)
    torch.testing.assert_close(model(pixel_values_videos=pixels()).logits, model.classifier(states))


@pytest.mark.parametrize("model_class", [VioletForQuestionAnswering, VioletForMultipleChoice])
def test_what_reads_a_fusion_is_refused_without_one(model_class):
    with pytest.raises(
        ValueError, match=f"{model_class.__name__} reads the states of a fusion, and `fusion_model_con"
    ):
        model_class(towers())


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            lambda: towers(projection_dim=None),
            "compares videos and texts by their embeddings, and `projection_dim` is",
        ),
        (lambda: model_config("vit", projection_type="pooled"), "`vision_config.model_type` 'vit' gives none"),
        (lambda: talkative(projection_type="pooled"), "`text_config.model_type` None gives none"),
        (
            lambda: talkative(vision_positions="elsewhere"),
            "No layer of positions is named 'elsewhere'; there are viol",
        ),
    ],
)
def test_contradictions_are_refused_with_both_keys(config, says):
    with pytest.raises(ValueError, match=says):
        VioletForRetrieval(config())


def test_galleries_whose_tokens_stand_elsewhere_are_not_joined():
    one = Tokens(torch.randn(1, 6, 4), torch.ones(1, 6), grid=(1, 2, 2), num_special_per_clip=2)
    other = Tokens(torch.randn(1, 6, 4), torch.ones(1, 6), grid=(1, 2, 2), num_special_per_frame=2)
    with pytest.raises(ValueError, match="unequal grids"):
        Tokens.join([one, other])

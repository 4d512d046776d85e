"""The fusion `low_rank`: a clip as weights of a text model. What it promises, and what it refuses."""

import copy
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from violet.configuration import VioletConfig, named_configuration
from violet.core.upstream import CACHE_NAME, checkpoint_activations
from violet.modeling_violet import (
    Tokens,
    VioletForCaptioning,
    VioletForMaskedLM,
    VioletForMultipleChoice,
    VioletForPreTraining,
    VioletForRetrieval,
    VioletModel,
)
from violet.modeling_violet.attention import AttentionLayout
from violet.modeling_violet.fusions import record_received_attention
from violet.modeling_violet.low_rank import BERT_PLACES, KINDS, LowRankLayers, LowRankWeights, product_norms
from violet.modeling_violet.weight_generator import VloraConfig
from violet.training.arguments import SettingsError
from violet.training.building import check_attended

WIDTH, RANK, LAYERS, WORDS, VIDEOS = 32, 4, 4, 6, 3
OWN = {"model_type": "low_rank", "generator_size": 32, "generator_blocks": 2, "rank": RANK, "skip_layers": 2}
SMALL = {
    "vision_config": {
        **{"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": (2, 2, 2), "drop_path_rate": 0.0},
        "initializer_range": 0.3,
    },
    **{"vocab_size": 40, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4},
    **{"intermediate_size": 48, "max_position_embeddings": 32, "initializer_range": 0.3, "fusion_norm": "post"},
    "projection_dim": 16,
}


def config(own: dict | None = None, **changes) -> VioletConfig:
    return named_configuration("violet-tiny", **{**SMALL, "fusion_model_config": {**OWN, **(own or {})}, **changes})


def build(model_class=VioletModel, own: dict | None = None, b: float = 0.3, **changes):
    """A random model whose B is not 0, as it would be at the start."""
    torch.manual_seed(0)
    model = model_class(config(own, **changes)).eval()
    base = model if isinstance(model, VioletModel) else model.violet
    nn.init.normal_(base.fusion.generator.b, std=b)
    return model


def clips(videos: int = VIDEOS, frames: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(videos, frames, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def words(texts: int = VIDEOS, seed: int = 2) -> torch.Tensor:
    ids = torch.randint(5, 40, (texts, WORDS), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = 2
    return ids


# --- what weights do ---


@torch.no_grad()
def test_products_are_those_of_merged_matrices_row_by_row_and_of_low_rank():
    model = build().fusion
    video = Tokens(torch.randn(VIDEOS, 5, WIDTH), torch.ones(VIDEOS, 5, dtype=torch.long))
    text = Tokens(torch.randn(VIDEOS, WORDS, WIDTH), torch.ones(VIDEOS, WORDS, dtype=torch.long))
    weights = model.generator.weights(model.prepare(video).prepared)
    assert all(int(torch.linalg.matrix_rank(one)) == RANK for one in weights.matrices().flatten(0, 2))
    together = model({"video": video, "text": text})["text"]
    for row in range(VIDEOS):
        merged = copy.deepcopy(model)
        changes = weights.matrices()[row]
        for i, kind in enumerate(KINDS):
            for place, number in enumerate((1, 3)):
                layer = merged.layers[number]
                if kind == "m":  # a matrix of its own beside the MLP
                    branch = changes[i, place]
                    layer.feed_forward = lambda x, real=None, layer=layer, branch=branch: (
                        layer.output(layer.activation(layer.intermediate(x))) + x @ branch.t()
                    )
                else:
                    layer.get_submodule(BERT_PLACES.modules[kind][1]).weight += changes[i, place]
        merged.generator.b.zero_()
        alone = merged({"video": video.select(torch.tensor([row])), "text": text.select(torch.tensor([row]))})["text"]
        torch.testing.assert_close(alone[0], together[row], atol=5e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_alone_tells_of_the_clip_and_the_first_layer_of_none(kind):
    model, ids = build(own={"types": kind}), words()
    one, other = (model(clips(seed=seed), ids, output_hidden_states=True) for seed in (1, 5))
    assert (one.text_hidden_state - other.text_hidden_state).abs().max() > 1e-3
    assert torch.equal(one.hidden_states[1], other.hidden_states[1])  # behind the first layer
    assert not torch.equal(one.hidden_states[2], other.hidden_states[2])


@torch.no_grad()
def test_rows_do_not_mix():
    model, ids, videos = build(), words(), clips()
    together = model(videos, ids).text_hidden_state
    for row in range(VIDEOS):
        alone = model(videos[row : row + 1], ids[row : row + 1]).text_hidden_state
        torch.testing.assert_close(alone[0], together[row], atol=5e-5, rtol=0)
    exchanged = model(videos.flip(0), ids.flip(0)).text_hidden_state
    torch.testing.assert_close(exchanged.flip(0), together, atol=5e-5, rtol=0)


@torch.no_grad()
def test_the_sequence_is_the_text_whatever_the_frames():
    model, ids = build(), words()
    for frames in (1, 2, 5):
        output = model(clips(frames=frames), ids)
        assert output.last_hidden_state.shape == (VIDEOS, WORDS, WIDTH)
        assert output.video_hidden_state is None


@torch.no_grad()
def test_padding_of_a_video_is_not_seen():
    fusion = build().fusion
    tokens = torch.randn(2, 7, WIDTH)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    padded = fusion.prepare(Tokens(tokens, mask)).prepared
    torch.testing.assert_close(
        padded[1:], fusion.prepare(Tokens(tokens[1:, :4], mask[1:, :4])).prepared, atol=5e-5, rtol=0
    )
    assert (padded[1] - fusion.prepare(Tokens(tokens, torch.ones_like(mask))).prepared[1]).abs().max() > 1e-3


# --- how it learns ---


def test_at_the_start_it_is_the_text_model_and_b_moves_first():
    model, ids = build(VioletForMaskedLM, b=0.0).train(), words()
    generator = model.violet.fusion.generator
    assert torch.equal(generator.b, torch.zeros_like(generator.b))
    text_only = copy.deepcopy(model)
    for hooked in text_only.violet.fusion.layers.modules():
        hooked._forward_hooks.clear()
    one, other = (model(clips(seed=seed), ids).logits for seed in (1, 5))
    assert torch.equal(one, other) and torch.equal(one, text_only(clips(), ids).logits)
    optimizer = torch.optim.SGD(generator.parameters(), lr=1.0)
    moved: list[set[str]] = []
    for _ in range(2):
        before = {name: value.clone() for name, value in generator.named_parameters()}
        optimizer.zero_grad()
        model(clips(), ids, labels=ids).loss.backward()
        optimizer.step()
        moved.append({name for name, value in generator.named_parameters() if not torch.equal(value, before[name])})
    assert moved[0] == {"b"}
    # a key's bias shifts all scores of a query alike: it never matters, but its tensor is the whole in-projection's
    assert moved[1] == {name for name, _ in generator.named_parameters()}


def test_it_starts_as_published():
    own = {"num_positions": 50, "generator_size": 128}
    generator = build(b=0.0, initializer_range=0.02, own=own).fusion.generator.requires_grad_(False)
    assert generator.generators[0].queries.std() == pytest.approx(1, rel=0.15)
    assert generator.positions.std() == pytest.approx(1, rel=0.05)
    block = generator.generators[0].blocks[0]
    assert block.intermediate.weight.std() == pytest.approx(0.02, rel=0.05)
    assert block.self_attention.out_proj.weight.std() == pytest.approx(0.02, rel=0.05)
    bound = (6 / (128 + 3 * 128)) ** 0.5
    assert block.cross_attention.in_proj_weight.abs().max() == pytest.approx(bound, rel=0.01)
    assert not block.cross_attention.in_proj_bias.any() and not generator.b.any()


def test_pretraining_passes_learn_and_tell_how_large_the_weights_are():
    model, ids = build(VioletForPreTraining).train(), words()
    negatives = torch.tensor([[1, 2], [0, 2], [0, 1]])
    objectives = dict.fromkeys(("vtc", "vtm", "mlm", "smtm"), 1.0)
    output = model(clips(), ids, labels=ids, negative_index=negatives, objectives=objectives)
    output.loss.backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None]
    size = output.measures["low_rank_size"]
    fusion = model.violet.fusion
    weights = fusion.generator.weights(model.violet.encode_videos(clips()).prepared)
    expected = [
        weights.matrices()[:, KINDS.index(kind), place].norm(dim=(-1, -2))
        / fusion.low_rank.linear(number, kind).weight.norm()
        for kind in "qkvo"
        for place, number in enumerate((1, 3))
    ]
    assert size == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)
    model.eval()
    assert "low_rank_size" not in model(clips(), ids, labels=ids, objectives={"mlm": 1.0}).measures


def test_norms_need_no_matrices():
    a, b = torch.randn(2, 9, 3), torch.randn(9, 3)
    torch.testing.assert_close(product_norms(a, b), (b @ a.transpose(1, 2)).norm(dim=(1, 2)))


def test_gradient_checkpointing_changes_nothing():
    model, ids = build(VioletForMaskedLM).train(), words()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        # two passes before one backward, as matching and writing in pre-training
        (model(clips(), ids, labels=ids).loss + model(clips(seed=7), ids.flip(0), labels=ids).loss).backward()
        gradients.append([value.grad.clone() for value in model.parameters() if value.grad is not None])
        checkpoint_activations(model)
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, atol=1e-6, rtol=1e-4)


# --- one clip, many texts ---


class Counted:
    """How often a module runs, and on how many rows."""

    def __init__(self, module: nn.Module):
        self.rows: list[int] = []
        module.register_forward_hook(lambda module, inputs, output: self.rows.append(len(inputs[0])))


@torch.no_grad()
def test_the_generator_runs_once_a_video():
    model = build(VioletForRetrieval)
    runs = Counted(model.violet.fusion.generator)
    scores = model(clips(), words(4), pairs_per_pass=5).logits
    assert scores.shape == (4, VIDEOS) and runs.rows == [VIDEOS]
    one = model(clips()[1:2], words(4)).logits
    torch.testing.assert_close(scores[:, 1:2], one, atol=1e-4, rtol=1e-5)
    runs.rows.clear()
    captioner = build(VioletForCaptioning)
    runs = Counted(captioner.violet.fusion.generator)
    captioner.generate(pixel_values_videos=clips(2), max_length=8, num_beams=3, do_sample=False)
    assert runs.rows == [2]


@torch.no_grad()
def test_a_merged_clip_gives_what_its_products_give():
    model, ids = build(), words(5)
    video = model.encode_videos(clips(2))
    index = torch.zeros(5, dtype=torch.long)
    plain = model(input_ids=ids, video_tokens=video, video_index=index).text_hidden_state
    before = [value.clone() for value in model.parameters()]
    with model.fusion.merged(video.select(index[:1])):
        merged = model(input_ids=ids, video_tokens=video, video_index=index).text_hidden_state
        with pytest.raises(ValueError, match="this pass has another"):
            model(input_ids=ids, video_tokens=video, video_index=index + 1)
    torch.testing.assert_close(merged, plain, atol=5e-5, rtol=0)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    with pytest.raises(ValueError, match="merge one video at a time"), model.fusion.merged(video):
        pass


@torch.no_grad()
def test_many_kinds_merge_but_m_stays_beside():
    layers = build().fusion.low_rank
    weights = LowRankWeights("qm", torch.randn(1, 2, 2, WIDTH, RANK), torch.randn(2, 2, WIDTH, RANK))
    with layers.merged(weights) as rest:
        assert rest.types == "m" and torch.equal(rest.a, weights.a[:, 1:])


# --- writing ---


@torch.no_grad()
@pytest.mark.parametrize("next_word", [False, True])
@pytest.mark.parametrize("beams", [1, 3])
def test_writing_with_a_cache_is_writing_without(beams, next_word):
    model = build(VioletForCaptioning, next_word_prediction=next_word)
    options = {"max_length": 9, "num_beams": beams, "do_sample": False, "output_scores": True}
    options |= {"return_dict_in_generate": True, "eos_token_id": None}
    prompt = {"prompt_ids": words(2)[:, :3], "prompt_attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    video = model.violet.encode_videos(clips(2))
    runs = [
        model.generate(video_tokens=video, use_cache=use_cache, **prompt, **options) for use_cache in (True, False)
    ]
    assert torch.equal(runs[0].sequences, runs[1].sequences)
    for one, other in zip(runs[0].scores, runs[1].scores, strict=True):
        torch.testing.assert_close(one, other, atol=5e-5, rtol=0)
    cache = runs[0][CACHE_NAME]
    assert cache.get_seq_length() < 3 + 9  # prompt and words; no video
    other = model.generate(video_tokens=video.select(torch.tensor([1, 0])), **prompt, **options)
    assert not torch.equal(other.scores[0], runs[0].scores[0])


# --- a model that goes round ---


@torch.no_grad()
def test_a_copy_and_a_saved_model_have_hooks_of_their_own(tmp_path):
    model, ids = build(), words()
    wanted = model(clips(), ids).text_hidden_state
    twin = copy.deepcopy(model)
    model.fusion.generator.b.zero_()
    assert torch.equal(twin(clips(), ids).text_hidden_state, wanted)
    twin.save_pretrained(tmp_path)
    loaded = VioletModel.from_pretrained(tmp_path)
    assert isinstance(loaded.config.fusion_model_config, VloraConfig)
    assert torch.equal(loaded(clips(), ids).text_hidden_state, wanted)


# --- what is refused ---


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({"skip_layers": 3}, "`fusion_model_config.skip_layers` 3 does not divide `num_hidden_layers` 4"),
        ({"skip_layers": 8}, "`fusion_model_config.skip_layers` 8 does not divide `num_hidden_layers` 4"),
        ({"types": "qx"}, "unknown letters x"),
        ({"types": "qq"}, "a letter twice"),
        ({"types": ""}, "names no matrix"),
        ({"rank": WIDTH + 1}, "`fusion_model_config.rank` 33 is more than `hidden_size` 32"),
        ({"generator_size": 40}, "multiple of the generator's 16 heads"),
        ({"alpha": 0}, "`alpha`"),
    ],
)
def test_contradictions_are_refused_when_it_is_built(own, named):
    with pytest.raises((ValueError, StrictDataclassError), match=named):
        build(own=own)


def test_what_reads_the_fusions_video_states_is_refused_by_name():
    for what in ("'pixel' among `mvm_targets`", "'mfr' among `mvm_targets`"):
        with pytest.raises(ValueError, match=f"{what}.*'low_rank'"):
            build(VioletForPreTraining, mvm_targets={what.split("'")[1]: {}})
    with pytest.raises(ValueError, match="`span_head`.*'low_rank'"):
        build(VioletForMultipleChoice, span_head=True)
    with pytest.raises(ValueError, match="'attended'.*'low_rank'"):
        build(VioletForPreTraining)(clips(), words(), only_received_attention=True)
    with pytest.raises(ValueError, match="'low_rank' takes no sound"):
        build(audio_config={"model_type": "vatt_audio", "shared": False, "backbone_size": 16, "num_hidden_layers": 1})


def test_a_rule_that_asks_for_the_videos_places_is_refused():
    with pytest.raises(ValueError, match="the group 'video', and this fusion has none"):
        AttentionLayout({"text": 3}, outside=("video",)).start("video")


def test_other_numbers_of_visual_tokens_than_the_learned_places_are_refused():
    model = build(own={"num_positions": 10})
    assert model(clips(), words()).text_hidden_state.shape == (VIDEOS, WORDS, WIDTH)
    with pytest.raises(ValueError, match="has 5 visual tokens, and `fusion_model_config.num_positions` is 10"):
        model(clips(frames=1), words())


def test_a_layer_without_such_a_matrix_is_refused():
    with pytest.raises(ValueError, match="'q'.*has no module 'attention'"):
        LowRankLayers([nn.Identity()], 1, "q", 8, BERT_PLACES)
    layer = nn.Module()
    layer.attention = nn.Module()
    layer.attention.key = nn.Linear(8, 4)
    with pytest.raises(ValueError, match=r"'k', whose weights are 8 x 8.*Linear \(4, 8\)"):
        LowRankLayers([layer], 1, "k", 8, BERT_PLACES)


def test_attention_that_a_text_receives_can_still_be_read():
    model = build()
    with record_received_attention(model.fusion) as received:
        model(clips(), words())
    assert received.total.shape == (VIDEOS, WORDS)


def test_masks_by_attention_are_refused_before_a_run_begins():
    with pytest.raises(SettingsError, match="`masks`: 'attended'.*'low_rank'"):
        check_attended(SimpleNamespace(masks={"attended": 0.5}), build(VioletForPreTraining))
    check_attended(SimpleNamespace(masks={"random": 1.0, "attended": 0.0}), build(VioletForPreTraining))


def test_a_checkpoint_carries_the_code_that_adds_the_weights(tmp_path):
    build(VioletForMaskedLM).save_pretrained(tmp_path, with_code=True)
    carried = {path.name for path in tmp_path.glob("*.py")}
    assert {"low_rank.py", "low_rank_fusion.py", "weight_generator.py"} <= carried
    assert "low_rank_language_model.py" not in carried

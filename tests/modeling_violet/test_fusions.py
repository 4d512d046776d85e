"""What a fusion and the rules of attention promise."""

import pytest
import torch
from encoder_configs import FRAMES, SIDE, model_config
from transformers import AutoConfig, PreTrainedConfig

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
)
from violet.modeling_violet.attention import RULES, AttentionLayout, AttentionRule, build_attention_mask
from violet.modeling_violet.fusions import FUSIONS, Fusion, record_received_attention
from violet.modeling_violet.fusions.bert_fusion import VioletBertFusion

WIDTH = 32


class OneWayConfig(PreTrainedConfig):
    model_type = "test_one_way"


class OneWayFusion(VioletBertFusion):
    """It serves the bidirectional rule only."""

    rules = ("bidirectional",)


AutoConfig.register("test_one_way", OneWayConfig, exist_ok=True)
FUSIONS.add("test_one_way", OneWayFusion)


def build(model_class=VioletModel, **changes):
    torch.manual_seed(0)
    return model_class(model_config("vit", initializer_range=0.2, **changes)).eval()


def groups(**lengths: int) -> dict[str, Tokens]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: Tokens(torch.randn(2, length, WIDTH, generator=generator), torch.ones(2, length, dtype=torch.long))
        for name, length in lengths.items()
    }


@torch.no_grad()
@pytest.mark.parametrize("rule", ["bidirectional", "sequence_to_sequence"])
def test_each_group_comes_back_by_name_in_its_order_and_shape(rule):
    given = groups(video=6, prompt=3, text=4)
    states = build().fuse(given, rule)
    assert list(states) == ["video", "prompt", "text"]
    assert all(states[name].shape == group.tokens.shape for name, group in given.items())
    assert build().fuse(groups(video=6))["video"].shape == (2, 6, WIDTH)


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("rule", ["bidirectional", "sequence_to_sequence"])
def test_a_padded_token_changes_no_other(kernel, rule):
    model, given = build(), groups(video=6, text=4)
    model.set_attn_implementation(kernel)
    given["text"].mask[:, 2] = 0
    one = model.fuse(given, rule)
    given["text"].tokens[:, 2] += 9
    other = model.fuse(given, rule)
    torch.testing.assert_close(one["video"], other["video"])
    torch.testing.assert_close(one["text"][:, [0, 1, 3]], other["text"][:, [0, 1, 3]])
    given["text"].mask[:, 2] = 1
    assert (model.fuse(given, rule)["text"] - other["text"])[:, 3].abs().max() > 1e-3


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("rule", ["bidirectional", "sequence_to_sequence"])
@pytest.mark.parametrize("name", ["text", "prompt"])
def test_a_group_s_first_state_by_itself_is_that_of_the_whole_pass(norm, kernel, rule, name):
    model, given = build(fusion_norm=norm), groups(video=6, prompt=2, text=4)
    model.set_attn_implementation(kernel)
    given["text"].mask[0, 2:] = 0
    inputs = [group.tokens.requires_grad_() for group in given.values()]
    whole = model.fuse(given, rule)[name][:, :1]
    alone = model.fuse(given, rule, first_of=name)
    assert list(alone) == [name] and alone[name].shape == (2, 1, WIDTH)
    torch.testing.assert_close(alone[name], whole, atol=1e-6, rtol=1e-5)
    gradients = [torch.autograd.grad(states.pow(3).sum(), inputs) for states in (alone[name], whole)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


LOW_RANK = {"model_type": "low_rank", "generator_size": 32, "generator_blocks": 1, "rank": 4, "skip_layers": 1}
EXPERTS = {"model_type": "bert_with_experts", "experts": {"layers": 1}}


def build_fused(model_class, own, **changes):
    """A model with that `fusion_model_config`, whose low-rank weights, if it has some, are not 0 as at the start."""
    model = build(model_class, fusion_model_config=own, **changes)
    if own is LOW_RANK:
        torch.nn.init.normal_(model.violet.fusion.generator.b, std=0.3)
    return model


@pytest.mark.parametrize("own", [None, LOW_RANK, EXPERTS], ids=["bert", "low_rank", "experts"])
def test_negatives_weigh_the_same_whether_only_their_first_states_are_computed_or_all(own, monkeypatch):
    """In a fusion with experts a token's state depends on the others: there all are computed, with the own pairs."""
    undisturbed = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"), 0.0)
    model = build_fused(VioletForPreTraining, own, **undisturbed).double()
    narrows, rows = model.violet.fusion.narrows, []
    model.violet.fusion.layers[-1].register_forward_hook(lambda layer, given, states: rows.append(states.shape[:2]))
    ids = torch.randint(5, 50, (3, 4), generator=torch.Generator().manual_seed(1))
    pixels = torch.randn(3, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    batch = {
        "pixel_values_videos": pixels.double(),
        "input_ids": ids,
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]),
        "labels": torch.where(torch.arange(4) == 1, ids, -100),
        "negative_index": torch.tensor([[1, 2], [2, 0], [1, -1]]),
        "objectives": {"vtm": 1.0, "mlm": 1.0},
    }

    def loss_and_gradients() -> list[torch.Tensor]:
        model.zero_grad()
        output = model(**batch)
        output.loss.backward()
        return [output.loss, *(one.grad for one in model.parameters() if one.grad is not None)]

    found = loss_and_gradients()
    length = 4 if own is LOW_RANK else model.violet.encode_videos(batch["pixel_values_videos"]).tokens.shape[1] + 4
    assert rows == ([(3, length), (6, 1)] if narrows else [(9, length)])
    rows.clear()
    checkpoint_activations(model.train())
    checkpointed = loss_and_gradients()
    assert rows == [(9, length)]
    monkeypatch.setattr(type(model.violet.fusion), "narrows", False)
    wanted = loss_and_gradients()
    assert len(found) == len(wanted) > 50
    for one, same, other in zip(found, checkpointed, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-8)
        torch.testing.assert_close(same, other, atol=1e-10, rtol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("own", [None, LOW_RANK], ids=["bert", "low_rank"])
@pytest.mark.parametrize("model_class", [VioletForQuestionAnswering, VioletForRetrieval, VioletForMultipleChoice])
def test_heads_of_one_state_have_only_that_computed_unless_all_are_recorded(model_class, own):
    model, lengths = build_fused(model_class, own, num_labels=3), []
    model.violet.fusion.layers[-1].register_forward_hook(lambda layer, given, states: lengths.append(states.shape[1]))
    ids = torch.randint(5, 50, (2, 3, 4) if model_class is VioletForMultipleChoice else (2, 4))
    given = {"pixel_values_videos": torch.randn(2, FRAMES, 3, SIDE, SIDE), "input_ids": ids}
    one, recorded = model(**given), model(**given, output_hidden_states=True)
    assert lengths[0] == 1 < lengths[1] == recorded.hidden_states[-1].shape[1]
    torch.testing.assert_close(one.logits, recorded.logits, atol=1e-6, rtol=1e-5)
    assert one.logits.std() > 1e-3
    with record_received_attention(model.violet.fusion):
        model(**given)
    model(**given)
    assert lengths[2:] == [lengths[1], 1]


def seen(rule: str, layout: AttentionLayout, mask: torch.Tensor, queries: int | None = None) -> torch.Tensor:
    """(batch, queries, keys): what the mask of the eager kernel lets be seen."""
    config = build().config
    config._attn_implementation = "eager"
    states = torch.zeros(len(mask), mask.shape[1] if queries is None else queries, WIDTH)
    made = build_attention_mask(config, states, mask, rule, layout)
    shape = (len(mask), states.shape[1], mask.shape[1])
    return torch.ones(shape, dtype=torch.bool) if made is None else (made[:, 0] == 0).expand(shape)


def test_the_rules_say_place_by_place_who_sees_whom():
    layout = AttentionLayout({"video": 2, "prompt": 1, "text": 3})
    mask = torch.ones(1, 6, dtype=torch.long)
    assert seen("bidirectional", layout, mask).all()
    written = ["111000", "111000", "111000", "111100", "111110", "111111"]
    assert ["".join(str(int(one)) for one in row) for row in seen("sequence_to_sequence", layout, mask)[0]] == written


def test_words_that_continue_a_cache_see_all_of_it_and_those_before_them():
    layout, mask = AttentionLayout({"past": 3, "text": 2}), torch.tensor([[1, 1, 0, 1, 1]])
    assert seen("sequence_to_sequence", layout, mask, queries=2)[0].int().tolist() == [
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]


def test_a_layout_says_where_a_group_begins():
    layout = AttentionLayout({"video": 2, "prompt": 1, "text": 3})
    assert [layout.start(name) for name in ("video", "prompt", "text", "sound")] == [0, 2, 3, 6]


def test_a_cache_needs_a_rule_under_which_earlier_states_stay_true():
    from transformers import DynamicCache

    with pytest.raises(ValueError, match="cannot be kept under `attention_rule` 'bidirectional'.*sequence_to_seq"):
        build().fuse(groups(video=6, text=4), cache=DynamicCache())


def test_a_rule_that_a_fusion_lacks_is_refused_with_both_settings():
    own = {"fusion_model_config": {"model_type": "test_one_way"}}
    settings = (
        "'sequence_to_sequence' .`attention_rule`.*`fusion_model_config.model_type` 'test_one_way' serves 'bidir"
    )
    with pytest.raises(ValueError, match=f"VioletForCaptioning needs .*{settings}"):
        build(VioletForCaptioning, **own)
    model = build(VioletForPreTraining, **own)
    with pytest.raises(ValueError, match=f"The objective 'smtm' needs .*{settings}"):
        model.freeze_unused({"mlm", "smtm"})
    with pytest.raises(ValueError, match=settings):
        build(VioletForMaskedLM, **own)(
            pixel_values_videos=torch.zeros(1, FRAMES, 3, SIDE, SIDE),
            input_ids=torch.tensor([[2, 7, 3]]),
            attention_rule="sequence_to_sequence",
        )


def test_a_fusion_that_lists_an_unknown_rule_is_refused_when_it_is_built(monkeypatch):
    monkeypatch.setattr(OneWayFusion, "rules", ("bidirectional", "sideways"))
    with pytest.raises(ValueError, match="No rule of attention is named 'sideways'; there are bidirectional, seq"):
        build(fusion_model_config={"model_type": "test_one_way"})


def test_an_unknown_fusion_is_refused():
    class Unlisted(PreTrainedConfig):
        model_type = "test_unlisted"

    AutoConfig.register("test_unlisted", Unlisted, exist_ok=True)
    with pytest.raises(ValueError, match="No fusion is named 'test_unlisted'; there are bert"):
        build(fusion_model_config={"model_type": "test_unlisted"})


def test_received_attention_of_a_fusion_of_other_layers_is_refused(monkeypatch):
    class Plain(Fusion):
        def __init__(self, config):
            super().__init__()
            self.layers, self.norm = torch.nn.ModuleList([torch.nn.Linear(WIDTH, WIDTH)]), None

        def forward(self, groups, rule="bidirectional", cache=None, past_mask=None, **kwargs):
            return {name: self.layers[0](group.tokens) for name, group in groups.items()}

    monkeypatch.setitem(FUSIONS._entries, "test_one_way", Plain)
    model = build(VioletForPreTraining, fusion_model_config={"model_type": "test_one_way"})
    given = {"pixel_values_videos": torch.zeros(1, FRAMES, 3, SIDE, SIDE), "input_ids": torch.tensor([[2, 7, 3]])}
    with pytest.raises(ValueError, match="The fusion Plain has no layers of BERT"):
        model(**given, only_received_attention=True)
    assert model(**given, labels=given["input_ids"]).loss > 0


def test_rules_are_named_once():
    assert set(VioletBertFusion.rules) == {"bidirectional", "sequence_to_sequence"} < set(RULES)
    with pytest.raises(ValueError, match="named 'bidirectional' already"):
        RULES.add("bidirectional", AttentionRule(causal=True))

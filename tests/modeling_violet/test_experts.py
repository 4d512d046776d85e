"""Experts in a layer's place: who takes which token, what an answer may depend on, and what is refused."""

import math

import pytest
import torch
from encoder_configs import FRAMES, SIDE, model_config
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import violet
from violet.core.catalogue import MODEL_CLASSES
from violet.core.upstream import checkpoint_activations
from violet.evaluation.expert_load import record_expert_load
from violet.modeling_violet import (
    Tokens,
    VioletForCaptioning,
    VioletForMaskedLM,
    VioletForPreTraining,
    VioletForRetrieval,
    VioletModel,
)
from violet.modeling_violet.experts import ExpertOptions, VioletExperts, expert_layers, record_experts
from violet.training.optimization import parameter_groups

WIDTH, INNER = 16, 24


def layer(seed: int = 0, **options) -> VioletExperts:
    torch.manual_seed(seed)
    experts = VioletExperts(ExpertOptions(**options), WIDTH, INNER, "gelu")
    experts.start_weights()
    return experts.eval()


def states(batch: int = 2, length: int = 12, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(seed))


def fusion_config(choice: str = "experts", **options):
    experts = {"number": 4, "layers": 1, "choice": choice, **options}
    return model_config("vit", fusion_model_config={"model_type": "bert_with_experts", "experts": experts})


def inputs(batch: int = 2, words: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        "pixel_values_videos": torch.randn(batch, FRAMES, 3, SIDE, SIDE, generator=generator),
        "input_ids": torch.randint(5, 100, (batch, words), generator=generator),
        "attention_mask": torch.ones(batch, words, dtype=torch.long),
    }


def build(model_class=VioletModel, config=None, **changes):
    torch.manual_seed(0)
    return model_class(config or fusion_config(**changes)).eval()


# --- who takes what ---


def test_each_expert_takes_exactly_its_places_and_the_rest_pass_by():
    experts, x = layer(), states()
    with record_experts(detailed=True) as reports:
        output = experts(x)
    taken = reports[0].taken
    assert (taken.sum(1) == 3).all(), "12 tokens, 4 experts"
    nobody = ~taken.any(-1)
    assert 0 < nobody.sum() < nobody.numel() and (output[nobody] == 0).all() and (output[~nobody] != 0).any(-1).all()
    assert float(reports[0].left_behind) == pytest.approx(float(nobody.float().mean()))


@torch.no_grad()
def test_tokens_in_another_order_have_their_outputs_in_that_order():
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(layer()(states()[:, order]), layer()(states())[:, order])


@torch.no_grad()
def test_equal_probabilities_go_to_the_first_tokens():
    experts = layer()
    nn.init.zeros_(experts.router.weight)
    choice = experts.choose(states(), torch.ones(2, 12, dtype=torch.bool))
    assert (choice.tokens == torch.arange(3)).all()


def test_a_token_that_nobody_took_has_the_gradient_of_the_z_loss_only():
    experts, x = layer(), states().requires_grad_(True)
    with record_experts(detailed=True) as reports:
        output = experts(x)
    nobody = ~reports[0].taken.any(-1)
    (of_output,) = torch.autograd.grad(output.square().sum(), x, retain_graph=True)
    (of_router,) = torch.autograd.grad(reports[0].z_loss, x)
    assert (of_output[nobody] == 0).all() and (of_router[nobody] != 0).any(-1).all()


# --- what an answer may depend on ---


@torch.no_grad()
@pytest.mark.parametrize("choice", ["experts", "tokens"])
@pytest.mark.parametrize("groups", ["sample", "batch"])
def test_a_row_alone_is_the_row_in_any_batch_in_evaluation(choice, groups):
    experts, x = layer(choice=choice, groups=groups, group_size=16).double(), states(4).double()
    torch.testing.assert_close(experts(x[1:2])[0], experts(x)[1], rtol=0, atol=1e-14)


@torch.no_grad()
def test_tokens_of_a_batch_compete_in_training_if_asked():
    experts, x = layer(groups="batch").train(), states(4)
    assert (experts(x)[:1] - experts(x[:1])).abs().max() > 1e-3
    torch.testing.assert_close(layer().train()(x)[:1], layer().train()(x[:1]))


@torch.no_grad()
@pytest.mark.parametrize("choice", ["experts", "tokens"])
@pytest.mark.parametrize("groups", ["sample", "batch"])
@pytest.mark.parametrize("training", [False, True])
def test_padding_takes_no_place_and_changes_nothing(choice, groups, training):
    experts, x = layer(choice=choice, groups=groups, capacity_factor=1.0).train(training), states()
    longer = torch.cat([x, 5 * states(2, 7, seed=3)], dim=1)
    real = torch.cat([torch.ones(2, 12), torch.zeros(2, 7)], dim=1).long()
    with record_experts(detailed=True) as reports:
        padded = experts(longer, real)
    assert not reports[0].taken[:, 12:].any() and (padded[:, 12:] == 0).all()
    torch.testing.assert_close(padded[:, :12], experts(x))


@torch.no_grad()
def test_rows_of_other_lengths_have_capacities_of_their_own():
    real = torch.tensor([[1] * 12, [1] * 5 + [0] * 7])
    with record_experts(detailed=True) as reports:
        layer()(states(), real)
    assert reports[0].taken.sum(1).tolist() == [[3] * 4, [1] * 4], "5 / 4 is 1"
    empty = torch.zeros(2, 12, dtype=torch.long)
    assert (layer()(states(), empty) == 0).all()


@torch.no_grad()
def test_a_group_that_experts_do_not_divide_is_taken():
    experts = layer(groups="batch", group_size=7).train()
    assert experts(states(5, 2)).shape == (5, 2, WIDTH)


def moved_by_the_last_token(experts: VioletExperts) -> float:
    experts, one, other = experts.double(), states().double(), states().double()
    other[:, -1] = 3 * other[:, -1] + 1
    with torch.no_grad():
        return float((experts(one) - experts(other))[:, :-1].abs().max())


def test_who_chooses_decides_whether_earlier_tokens_know_the_last():
    assert moved_by_the_last_token(layer()) > 1e-3
    for top_k in (1, 2):
        for training in (False, True):
            assert moved_by_the_last_token(layer(choice="tokens", top_k=top_k).train(training)) < 1e-14


# --- tokens choose ---


@torch.no_grad()
def test_full_places_drop_later_tokens_in_training_only():
    experts = layer(choice="tokens", number=4, capacity_factor=1.0)
    x = states()[:1, :1].expand(2, 8, -1)  # all want the same expert, which has 8 / 4 places
    with record_experts(detailed=True) as reports:
        experts.train()(x)
        experts.eval()(x)
    dropping, answering = reports
    assert dropping.taken.any(-1).tolist() == [[True] * 2 + [False] * 6] * 2
    assert float(dropping.left_behind) == 0.75 and float(answering.left_behind) == 0.0
    assert float(dropping.load.max()) == 4.0


@torch.no_grad()
def test_two_experts_share_a_token_by_gates_whose_sum_is_one():
    experts, x = layer(choice="tokens", top_k=2), states()
    logits = experts.route(x)
    gates, chosen = logits.softmax(-1).topk(2)
    every = torch.stack([experts.activation(x @ a) @ b for a, b in zip(experts.inner, experts.outer, strict=True)], 2)
    found = every.gather(2, chosen.unsqueeze(-1).expand(-1, -1, -1, WIDTH))
    torch.testing.assert_close(experts(x), (found * (gates / gates.sum(-1, keepdim=True)).unsqueeze(-1)).sum(2))


@torch.no_grad()
def test_the_balance_loss_is_one_if_even_and_their_number_if_one_takes_all():
    experts = layer(choice="tokens")
    experts.router.weight.copy_(torch.eye(4, WIDTH) * 200)
    even = torch.eye(WIDTH)[:4].repeat(3, 1)[None]
    with record_experts() as reports:
        experts(even)
        experts(even[:, :1].expand(-1, 12, -1))
    assert [round(float(one.balance_loss), 4) for one in reports] == [1.0, 4.0]
    assert reports[0].load.tolist() == [1.0] * 4


# --- cost ---


@pytest.mark.parametrize("choice", ["experts", "tokens"])
def test_a_layer_of_experts_costs_what_a_dense_one_does(choice):
    experts, x = VioletExperts(ExpertOptions(8, choice=choice), 256, 1024, "gelu").eval(), torch.randn(2, 128, 256)
    experts.start_weights()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        experts(x)
    dense = 2 * 2 * x.shape[0] * x.shape[1] * 256 * 1024
    assert 1.0 <= counter.get_total_flops() / dense < 1.05


# --- in models ---


def labelled(**changes):
    given = inputs()
    return {**given, "labels": given["input_ids"], **changes}


def test_the_losses_of_experts_are_in_the_loss_and_what_is_measured_beside_it():
    losses = {}
    for weight in (0.0, 0.001, 1.0):
        model = build(VioletForMaskedLM, z_loss_weight=weight)
        output = model(**labelled())
        losses[weight] = float(output.loss)
        z = float(output.measures["experts_z_loss"])
    assert z > 1 and losses[1.0] - losses[0.0] == pytest.approx(z, rel=1e-4)
    assert losses[0.001] - losses[0.0] == pytest.approx(0.001 * z, rel=1e-2)
    assert {"experts_left_behind", "experts_capacity", "experts_load_most", "experts_say_least"} <= set(
        output.measures
    )
    plain = VioletForMaskedLM(model_config("vit")).eval()(**labelled())
    assert plain.measures is None and "measures" not in plain
    as_tuple = build(VioletForMaskedLM, z_loss_weight=1.0)(**labelled(), return_dict=False)
    assert float(as_tuple[0]) == losses[1.0]


@pytest.mark.parametrize("name", [name for name, one in MODEL_CLASSES.items() if "For" in name])
def test_every_head_adds_the_losses_of_experts(name):
    assert "with_measures" in _decorators(getattr(violet, name).forward)


def _decorators(forward) -> list[str]:
    names = []
    while hasattr(forward, "__wrapped__"):
        names.append(forward.__code__.co_qualname.partition(".")[0])
        forward = forward.__wrapped__
    return names


def test_activations_that_are_computed_again_give_the_same_and_are_told_once():
    found = []
    for again in (False, True):
        model = build(VioletForMaskedLM, z_loss_weight=1.0).train()
        if again:
            checkpoint_activations(model)
        torch.manual_seed(3)
        output = model(**labelled())
        output.loss.backward()
        experts = next(iter(expert_layers(model).values()))
        found.append((output.loss.detach(), output.measures["experts_z_loss"], experts.router.weight.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_a_pairs_states_do_not_depend_on_its_batch_nor_on_padding():
    model, given = build(groups="batch"), inputs(3)
    whole = model(**given).last_hidden_state
    alone = model(**{name: value[1:2] for name, value in given.items()}).last_hidden_state
    torch.testing.assert_close(whole[1:2], alone, rtol=0, atol=2e-6)
    padded = {
        **given,
        "input_ids": nn.functional.pad(given["input_ids"], (0, 4)),
        "attention_mask": nn.functional.pad(given["attention_mask"], (0, 4)),
    }
    torch.testing.assert_close(model(**padded).text_hidden_state[:, :5], model(**given).text_hidden_state)


def test_expert_choice_is_refused_under_causal_rules_with_both_settings():
    wanted = "rule of attention 'sequence_to_sequence'.*`fusion_model_config.experts.choice` 'experts'.*to 'tokens'"
    with pytest.raises(ValueError, match=f"VioletForCaptioning needs the {wanted}"):
        build(VioletForCaptioning)
    with pytest.raises(ValueError, match=f"The objective 'smtm' needs the {wanted}"):
        build(VioletForPreTraining).find_objectives({"smtm": 1.0})
    with pytest.raises(ValueError, match=wanted):
        group = Tokens(torch.zeros(1, 3, 32), torch.ones(1, 3, dtype=torch.long))
        build().fusion({"video": group, "text": group}, "sequence_to_sequence")


@torch.no_grad()
def test_tokens_that_choose_write_with_a_cache_what_they_write_without():
    model, given = build(VioletForCaptioning, choice="tokens", top_k=2), inputs()
    pixels = given["pixel_values_videos"]
    cached, uncached = (
        model.generate(pixel_values_videos=pixels, max_new_tokens=6, use_cache=use, do_sample=False) for use in (1, 0)
    )
    assert torch.equal(cached, uncached) and cached.shape[1] > 2


@torch.no_grad()
def test_retrieval_in_parts_measures_what_one_pass_does():
    model, given = build(VioletForRetrieval), {**inputs(), "labels": torch.tensor([0, 1])}
    one, parts = (model(**given, pairs_per_pass=size) for size in (256, 1))
    torch.testing.assert_close(parts.loss, one.loss)
    torch.testing.assert_close(parts.measures["experts_z_loss"], one.measures["experts_z_loss"])


def test_saved_and_loaded_they_are_the_same(tmp_path):
    model, given = build(VioletForMaskedLM), inputs()
    model.save_pretrained(tmp_path)
    again = VioletForMaskedLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**given).logits, model(**given).logits)
    assert again.config.fusion_model_config.experts["number"] == 4


def test_experts_decay_and_every_parameter_gets_a_gradient():
    model = build(VioletForMaskedLM).train()
    model(**labelled()).loss.backward()
    (experts,) = expert_layers(model).values()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in experts.parameters())
    decayed = {id(one) for one in parameter_groups(model, 0.1)[0]["params"]}
    assert all(id(one) in decayed for one in experts.parameters())


@torch.no_grad()
def test_the_load_is_told_by_where_tokens_come_from():
    model, given = build(), inputs()
    with record_expert_load(model) as load:
        model(**given)
    (layer_load,) = load.named()
    assert layer_load.tokens == {"video": 2 * FRAMES * 5, "text": 10}, "4 patches and a token of each frame"
    assert layer_load.total.tolist() == [2 * round(25 / 4)] * 4
    assert layer_load.left_behind == sum(layer_load.left.values()) / 50
    with (
        pytest.raises(ValueError, match="there are no `experts`"),
        record_expert_load(VioletModel(model_config("vit"))),
    ):
        pass


REFUSED = {
    "has no option size; it has number": {"size": 3},
    "`number` must be 1 or more, got 0": {"number": 0},
    "`choice` 'words' is unknown": {"choice": "words"},
    "`groups` 'rows' is unknown": {"groups": "rows"},
    "`capacity_factor` 5.0 must lie above 0 and be at most `number` 4": {"capacity_factor": 5.0},
    "the one expert would drop tokens": {"number": 1, "capacity_factor": 0.5},
    "`top_k` must be 1 or 2": {"choice": "tokens", "top_k": 3},
    "`z_loss_weight` -1": {"z_loss_weight": -1},
    "`as_published` is of `choice` 'experts'": {"choice": "tokens", "as_published": True},
    "`fusion_model_config.experts.layers` 3 are more than the fusion's `num_hidden_layers` 2": {"layers": 3},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused_by_name(message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        VioletModel(fusion_config(**REFUSED[message]))


def test_capacities_round_halves_to_even_and_are_at_least_one():
    assert [ExpertOptions(4).capacity(tokens) for tokens in (0, 1, 2, 10, 14, 18)] == [0, 1, 1, 2, 4, 4]
    assert ExpertOptions(4, choice="tokens", top_k=2).capacity(10) == 5
    assert math.isclose(ExpertOptions(4, capacity_factor=1.25).capacity(10), 3)

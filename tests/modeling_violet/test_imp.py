"""IMP: the goldens' outputs, its spaces and temperatures, token drop, and what is refused."""

import math
import re

import numpy as np
import pytest
import torch
from imp_golden import ImpGoldens
from torch import nn

from violet.configuration import named_configuration
from violet.modeling_violet import VioletForPreTraining, VioletForQuestionAnswering, VioletModel
from violet.modeling_violet.contrastive_losses import CONTRASTS, one_way_contrasts
from violet.modeling_violet.embedding_gradients import EmbeddingGradients
from violet.modeling_violet.encoders.imp_video import ImpVisionConfig, ImpVisionModel
from violet.modeling_violet.experts import (
    ExpertChoice,
    ExpertOptions,
    VioletExperts,
    measures_of,
    published_groups,
    record_experts,
)
from violet.modeling_violet.imp_layers import read_rows
from violet.modeling_violet.objectives.imp import kept_in_order, number_kept
from violet.modeling_violet.sounds.spectrogram import ImpAudioConfig, ImpAudioModel
from violet.training.alternating import AlternatingSchedule
from violet.training.learning_rates import learning_rate_factor
from violet.training.optimization import give_zero_gradients

MODALITIES = {"vision": "video", "spectrogram": "audio", "text": "text"}
NEAR, LOSS = 1e-5, 1e-6


@pytest.fixture(scope="module")
def goldens(shared_folder) -> ImpGoldens:
    return ImpGoldens()


def assert_near(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = NEAR) -> None:
    assert got.shape == wanted.shape
    assert wanted.numel() < 2 or wanted.float().std() > 0
    assert float((got.detach().double() - wanted.double()).abs().max()) <= tolerance


# --- the goldens ---


@torch.no_grad()
def pass_through(
    model: VioletModel, inputs: dict[str, torch.Tensor], modality: str, **given
) -> dict[str, torch.Tensor]:
    """Every stage of a modality on its way through the instance, by the archive's names."""
    part = {
        "vision": model.vision_model,
        "spectrogram": model.audio_encoder.model,
        "text": model.text_embeddings.model,
    }[modality]
    layers, found = model.vision_model.backbone.layers, {}
    choices: list[ExpertChoice] = []

    def keep(name: str):
        return lambda module, args, output: found.update({name: output})

    hooks = [layer.register_forward_hook(keep(f"hidden_{i + 1}")) for i, layer in enumerate(layers)]
    hooks += [layers[i].experts.register_forward_hook(keep(f"layer_{i}/moe_output")) for i in (1, 2)]
    first = part.words if modality == "text" else part.patches
    hooks.append(first.register_forward_hook(keep("tokens")))
    hooks.append(
        part.stream.pre_projection.register_forward_pre_hook(lambda module, args: found.update(with_positions=args[0]))
    )
    plain = VioletExperts.apply_choice

    def remember(self, x, choice):
        choices.append(choice)
        return plain(self, x, choice)

    VioletExperts.apply_choice = remember
    try:
        with record_experts() as reports:
            if modality == "vision":
                output = part(given.pop("pixels", inputs["pixels"]), **given)
                states = output.kept_states if given else output.last_hidden_state.flatten(1, 3)
                found |= {"features": states, "pooled": output.pooler_output}
            elif modality == "spectrogram":
                output = part.encode_spectrograms(inputs["spectrogram"])
                found |= {"features": output.last_hidden_state, "pooled": output.pooler_output}
            else:
                found["features"], found["pooled"] = part(inputs["ids"], inputs["mask"])
    finally:
        VioletExperts.apply_choice = plain
        for hook in hooks:
            hook.remove()
    if modality != "text":  # (batch, D, *grid) -> (batch, N, D)
        found["tokens"] = found["tokens"].flatten(2).transpose(1, 2)
    for layer, (choice, report) in enumerate(zip(choices, reports, strict=True), start=1):
        order = choice.tokens.argsort(-1)
        found |= {
            f"layer_{layer}/logits": choice.logits,
            f"layer_{layer}/chosen": choice.tokens.gather(-1, order),
            f"layer_{layer}/gates": choice.gates.gather(-1, order),
            f"layer_{layer}/times_taken": choice.times_taken(),
            **{f"layer_{layer}/{name}": getattr(report, name) for name in ("z_loss", "left_behind", "confidence")},
        }
    found["z_loss"] = measures_of(reports)["experts_z_loss"]
    own = MODALITIES[modality]
    for theirs, other in MODALITIES.items():
        if other != own:
            found[f"to_{theirs}"] = model.projection.vectors(own, other, found["pooled"])
    return found


def compare(goldens: ImpGoldens, found: dict[str, torch.Tensor], start: str) -> set[str]:
    """Each of the archive's arrays that begin so, but deeper folders, against what was found; their names."""
    names = {name.removeprefix(start) for name in goldens.arrays.files if name.startswith(start)}
    for name in names:
        wanted, got = goldens.get(start + name), found[name]
        if name.endswith("chosen"):
            assert torch.equal(got, wanted.long()), name
        elif wanted.dim() == 0:
            assert float(got) == pytest.approx(float(wanted), rel=LOSS), name
        else:
            assert_near(got, wanted)
    return names


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_stage_of_a_modality_is_the_goldens(goldens, modality):
    assert len(compare(goldens, pass_through(goldens.model, goldens.inputs, modality), f"{modality}/")) == 26


@pytest.mark.parametrize("modality", MODALITIES)
def test_groups_of_a_sample_are_the_goldens(goldens, modality):
    found = pass_through(goldens.by_sample, goldens.inputs, modality)
    assert len(compare(goldens, found, f"per_sample/{modality}/")) == 7


def test_dropped_tokens_are_the_goldens(goldens):
    kept = goldens.get("dropped/kept").long()
    found = pass_through(goldens.model, goldens.inputs, "vision", kept=kept)
    assert compare(goldens, {**found, "kept": kept}, "dropped/") == {"kept", "features", "pooled", "z_loss"}
    generator = np.random.default_rng(3729)
    assert kept.tolist() == [sorted(generator.permutation(32)[:8].tolist()) for _ in range(6)]


def test_a_lower_resolution_is_the_goldens(goldens):
    found = pass_through(goldens.model, goldens.inputs, "vision", pixels=goldens.inputs["small"])
    assert len(compare(goldens, found, "low_resolution/")) == 4


def test_the_loss_of_the_whole_instance_is_the_goldens(goldens):
    passes = {name: pass_through(goldens.model, goldens.inputs, name) for name in MODALITIES}
    losses = []
    for one, other in (("vision", "text"), ("vision", "spectrogram"), ("spectrogram", "text")):
        ways = one_way_contrasts(passes[one][f"to_{other}"][:, None], passes[other][f"to_{one}"][:, None], 1.0)
        losses.append(sum(ways) / 2)
    nce, z = sum(losses) / 3, sum(found["z_loss"] for found in passes.values())
    for name, value in {"nce": nce, "z": z, "total_original": nce + z, "total_z_0.001": nce + 0.001 * z}.items():
        assert float(value) == pytest.approx(float(goldens.get(f"model_loss/{name}")), rel=LOSS), name


# --- one layer ---

ROUTES = {"one": 1.0, "two": 2.0, "all": 3.0, "single_place": 0.25, "no_place": 0.1, "equal_logits": 1.0}
ROUTES["twin_tokens"] = 1.0


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3724 + seed).standard_normal(shape))


def layer(factor: float = 1.0, number: int = 3, **changes) -> VioletExperts:
    """The goldens' layer of experts: D 8, F 10."""
    given = {"number": number, "capacity_factor": factor, "as_published": True, **changes}
    experts = VioletExperts(ExpertOptions(**given), 8, 10, "gelu_pytorch_tanh")
    weights = {
        "router.weight": drawn(40, 8, number).t(),
        "inner": drawn(41, number, 8, 10) / 8**0.5,
        "outer": drawn(42, number, 10, 8) / 10**0.5,
    }
    experts.load_state_dict({name: value.float() for name, value in weights.items()})
    return experts.eval()


@pytest.mark.parametrize("case", ROUTES)
def test_a_layer_of_experts_and_its_gradients_are_the_goldens(goldens, case):
    experts, x = layer(ROUTES[case]), drawn(43, 2, 12, 8).float()
    if case == "equal_logits":
        nn.init.zeros_(experts.router.weight)
    if case == "twin_tokens":
        x[:, 6:] = x[:, :6]
    x.requires_grad_(True)
    choice = experts.choose(x, torch.ones(2, 12, dtype=torch.bool))
    with record_experts() as reports:
        output = experts(x)
    (output.square().sum() + reports[0].z_loss).backward()
    found = {
        "output": output,
        "logits": choice.logits,
        "chosen": choice.tokens,
        "gates": choice.gates,
        "times_taken": choice.times_taken(),
        **{name: getattr(reports[0], name) for name in ("z_loss", "left_behind", "confidence")},
        "grad_router": experts.router.weight.grad.t(),
        "grad_input": x.grad,
    }
    names = [name for name in goldens.arrays.files if name.startswith(f"route/{case}/")]
    assert len(names) == 10
    for name in names:
        wanted, got = goldens.get(name), found[name.rpartition("/")[2]]
        assert got.shape == wanted.shape, name
        if name.endswith("chosen"):
            assert torch.equal(got, wanted.long()), name
        elif wanted.numel():
            assert float((got.detach().double() - wanted.double()).abs().max()) <= NEAR, name


def test_rounding_to_bfloat16_is_the_goldens(goldens):
    got = layer(bfloat16=True)(drawn(43, 2, 12, 8).float())
    wanted = goldens.get("route/bfloat16/output")
    assert_near(got, wanted)
    assert (layer()(drawn(43, 2, 12, 8).float()) - wanted).abs().max() > 1e-3


def test_one_expert_is_a_dense_layer(goldens):
    experts, x = layer(number=1), drawn(43, 2, 12, 8).float()
    dense = nn.functional.gelu(x @ experts.inner[0], approximate="tanh") @ experts.outer[0]
    for name in ("output", "dense"):
        assert_near(experts(x), goldens.get(f"route/one_expert/{name}"))
    assert torch.allclose(experts(x), dense, atol=1e-6)


def test_the_z_loss_of_zero_logits_is_the_goldens(goldens):
    experts = layer()
    nn.init.zeros_(experts.router.weight)
    with record_experts() as reports:
        experts(drawn(43, 2, 12, 8).float())
    assert float(reports[0].z_loss) == pytest.approx(math.log(3) ** 2, rel=LOSS)
    assert float(goldens.get("route/z_loss_zero_logits")) == pytest.approx(math.log(3) ** 2)


# --- tables ---


def test_groups_and_capacities_are_the_goldens(goldens):
    for tokens, most, experts, groups, *_ in goldens.get("tables/groups").tolist():
        assert published_groups(tokens, most, experts) == groups
    for factor, tokens, experts, capacity in goldens.get("tables/capacity").tolist():
        options = ExpertOptions(number=int(experts), capacity_factor=factor, as_published=True)
        assert options.capacity(int(tokens)) == capacity
        assert ExpertOptions(number=int(experts), capacity_factor=factor).capacity(int(tokens)) == max(capacity, 1)


def test_numbers_of_kept_tokens_are_the_goldens(goldens):
    for drop, tokens, original, corrected in goldens.get("tables/kept").tolist():
        assert int((1 - drop) * tokens) == original
        assert number_kept(drop, int(tokens)) == corrected


def test_rows_that_places_read_are_the_goldens(goldens):
    names = [name for name in goldens.arrays.files if name.startswith("tables/places/")]
    assert len(names) == 13
    for name in names:
        places, rows = map(int, name.removeprefix("tables/places/").split("_of_"))
        read = read_rows(torch.arange(rows)[:, None], places)[:, 0].tolist()
        assert read == goldens.get(name).tolist()
        in_float32 = np.floor(np.arange(places, dtype=np.float32) / np.float32(places) * np.float32(rows))
        original = goldens.get(name.replace("places/", "places_original/")).tolist()
        assert in_float32.astype(int).tolist() == original
        assert (original != read) == (name.removeprefix("tables/places/") in ("41_of_41", "49_of_49", "100_of_100"))


def test_as_many_places_as_rows_read_each_row_once():
    for places in range(1, 513):
        assert torch.equal(read_rows(torch.arange(places)[:, None], places)[:, 0], torch.arange(places))


@pytest.mark.parametrize(
    "size, peak, steps", [("base", 1e-3, 502000), ("large", 5e-4, 505000), ("small", 8e-4, 200000)]
)
def test_learning_rates_are_the_goldens(goldens, size, peak, steps):
    for step, rate in zip(
        goldens.get("schedule/steps").tolist(), goldens.get(f"schedule/{size}").tolist(), strict=True
    ):
        got = peak * learning_rate_factor(f"imp_{size}", step, steps, 0.0)
        assert got == pytest.approx(rate, rel=LOSS, abs=1e-15)


# --- the loss of a pair ---


def loss_sets(case: str) -> tuple[torch.Tensor, torch.Tensor]:
    a, b, c = drawn(50, 6, 1, 16), drawn(51, 6, 1, 16), drawn(52, 6, 3, 16)
    zero = a.clone()
    zero[0] = 0
    return {
        "pair": (a, b),
        "several": (a, c),
        "several_both": (c, c.flip(1) + 0.1 * c),
        "one_row": (a[:1], b[:1]),
        "alike": (a[:1].expand(6, -1, -1), b[:1].expand(6, -1, -1)),
        "perfect": (a, a),
        "zero_row": (zero, b),
    }[case]


def accuracies(first: torch.Tensor, second: torch.Tensor) -> tuple[float, float]:
    """Of each vector and each place in the other set's rows, whether the row nearest to it there is its own."""
    first, second = (nn.functional.normalize(one, dim=-1) for one in (first, second))
    scores = torch.einsum("ild,jmd->ijlm", first, second)
    rows = torch.arange(len(first))[:, None, None]
    return tuple(float((scores.argmax(axis) == rows).double().mean()) for axis in (0, 1))


def test_the_loss_of_a_pair_is_the_goldens(goldens):
    cases = [name.split("/")[1:] for name in goldens.arrays.files if re.match(r"loss/.*/", name)]
    assert len(cases) == 16
    for case, kind in cases:
        margin, temperature = (0.2, 0.07) if kind == "margin_0.2" else (0.0, float(kind.removeprefix("temperature_")))
        ways = one_way_contrasts(*loss_sets(case), temperature, margin)
        wanted = goldens.get(f"loss/{case}/{kind}").tolist()
        assert [float(way) for way in ways] == pytest.approx(wanted[:2], rel=LOSS, abs=1e-9), (case, kind)
        assert accuracies(*loss_sets(case)) == pytest.approx(wanted[2:]), (case, kind)


def test_the_loss_of_several_pairs_is_the_goldens(goldens):
    form = CONTRASTS["rows_and_columns"].loss
    one = form(videos=drawn(50, 6, 16), texts=drawn(51, 6, 16), scale=1 / 0.2)
    two = form(videos=drawn(50, 6, 1, 16), texts=drawn(52, 6, 3, 16), scale=1.0)
    assert float((one + 0.5 * two) / 2) == pytest.approx(float(goldens.get("loss/pairs")), rel=LOSS)


# --- alternating steps ---


def order(intervals: tuple[int, ...], steps: range) -> list[int]:
    schedule = AlternatingSchedule(
        [1.0] * len(intervals), [(1, 1, 1)] * len(intervals), [(1.0, 0, {"imp": 1.0})], 0, intervals
    )
    return [schedule.plan(step).dataset for step in steps]


ALL = (1, 1, 12, 5, 12, 8)


def test_the_order_of_updates_is_the_goldens(goldens):
    assert order(ALL, range(120)) == goldens.get("agd/order_all").tolist()
    assert order((1, 3, 2), range(40)) == goldens.get("agd/order_small").tolist()
    resumed = order(ALL, range(17)) + order(ALL, range(17, 40))
    assert resumed == goldens.get("agd/order_resumed_after_17_corrected").tolist()
    assert order(ALL, range(17)) + order(ALL, range(23)) == goldens.get("agd/order_resumed_after_17_original").tolist()
    assert set(goldens.get("agd/order_one_name_twice").tolist()) == {1}, "a shared counter: loader 0 never runs"


@pytest.mark.parametrize("unused", ["original", "skip"])
def test_updates_in_turn_are_the_goldens(goldens, unused):
    model = nn.ParameterDict({"kernel": drawn(60, 5, 4), **{f"vector_{k}": drawn(61 + k, 4) for k in range(3)}})
    groups = [
        {"params": [model["kernel"]], "weight_decay": 0.01},
        {"params": [model[f"vector_{k}"] for k in range(3)], "weight_decay": 0.0},
    ]
    optimizer, losses = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.999), eps=1e-7), []
    for task in order((1, 3, 2), range(24)):
        guess = drawn(70 + task, 8, 5) @ model["kernel"] @ model[f"vector_{task}"]
        loss = (guess - drawn(80 + task, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if unused == "original":
            give_zero_gradients(model)
        optimizer.step()
        losses.append(float(loss))
    assert losses == pytest.approx(goldens.get(f"agd/{unused}/losses").tolist(), abs=1e-4)
    assert_near(model["kernel"], goldens.get(f"agd/{unused}/shared/kernel"), 1e-4)
    for k in range(3):
        assert_near(model[f"vector_{k}"], goldens.get(f"agd/{unused}/task_{k}/vector"), 1e-4)


# --- the parts in VIOLET ---


def batch(rows: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {
        "pixel_values_videos": torch.randn(rows, 8, 3, 64, 64, generator=generator),
        "input_ids": torch.randint(5, 60, (rows, 7), generator=generator),
        "attention_mask": torch.ones(rows, 7, dtype=torch.long),
        "audio_values": 0.1 * torch.randn(rows, 8192, generator=generator),
        "audio_attention_mask": torch.ones(rows, 8192, dtype=torch.long),
        "imp_draws": torch.arange(rows),
    }


def pretraining(options=None, **changes) -> VioletForPreTraining:
    torch.manual_seed(0)
    return VioletForPreTraining(named_configuration("imp-tiny", objectives={"imp": options or {}}, **changes))


def test_every_parameter_gets_a_gradient_and_temperatures_start_at_one():
    model = pretraining().train()
    output = model(**batch(), objectives={"imp": 1.0})
    output.loss.backward()
    assert not [name for name, one in model.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0]
    assert {name: float(value) for name, value in output.measures.items() if name.startswith("temperature")} == {
        f"temperature_{pair}": pytest.approx(1.0, abs=1e-5) for pair in ("video_text", "video_audio", "audio_text")
    }
    vision = {**named_configuration("imp-tiny").vision_config.to_dict(), "experts": None}
    parts = {"vision_config": vision, "audio_config": None, "text_config": None}
    dense = VioletModel(
        named_configuration("imp-tiny", **{**parts, "text_config": {**text_config(), "experts": None}})
    )
    assert [round(float(one), 6) for one in dense.projection.temperatures()] == [0.2]
    assert float(dense.projection.scale()) == pytest.approx(5.0, rel=1e-4)


def text_config() -> dict:
    return named_configuration("imp-tiny").text_config.to_dict()


def test_a_temperature_below_zero_is_held_by_relu_and_stays_finite():
    projection = pretraining().violet.projection
    nn.init.constant_(projection.temperature_text_video, -3.0)
    assert float(projection.scale()) == pytest.approx(1e6, rel=1e-3) and projection.logit_scale.isfinite()


@torch.no_grad()
def test_a_clip_without_sound_is_no_row_of_its_pairs():
    model = pretraining().eval()
    given = batch()
    given["audio_attention_mask"][1], given["audio_values"][1] = 0, 0.0
    losses = model(**given, objectives={"imp": 1.0}).predictions["imp"]
    others = {name: value[[0, 2]] for name, value in given.items()}
    wanted = model(**others, objectives={"imp": 1.0}).predictions["imp"]
    for name in ("video_audio", "audio_text"):
        torch.testing.assert_close(losses[name], wanted[name])
    assert abs(losses["video_text"] - wanted["video_text"]) > 1e-3
    given["audio_attention_mask"][:] = 0
    silent = model(**given, objectives={"imp": 1.0})
    assert silent.predictions["imp"]["video_audio"] == 0 and silent.loss.isfinite()


def test_tokens_are_dropped_in_training_only_by_the_rows_own_draws():
    model, given = pretraining({"drop": 0.5, "audio_drop": 0.25}).train(), batch()
    first, again = (float(model(**given, objectives={"imp": 1.0}).loss) for _ in range(2))
    other = float(model(**{**given, "imp_draws": torch.arange(3) + 9}, objectives={"imp": 1.0}).loss)
    assert first == again != other
    whole = float(pretraining().train()(**given, objectives={"imp": 1.0}).loss)
    assert first != whole
    assert float(model.eval()(**given, objectives={"imp": 1.0}).loss) == float(
        pretraining().eval()(**given, objectives={"imp": 1.0}).loss
    )


def test_kept_tokens_are_in_order_each_once_and_a_rows_own():
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 1)]
    kept = kept_in_order(generators, 40, 0.75)
    assert kept.shape == (3, 10) and (kept.diff(dim=1) > 0).all()
    assert torch.equal(kept[0], kept[2]) and not torch.equal(kept[0], kept[1])


@torch.no_grad()
def test_places_are_read_by_coordinate_whatever_is_dropped():
    model = pretraining().violet.vision_model.eval()
    pixels = batch()["pixel_values_videos"]
    seen = []
    hook = model.stream.pre_projection.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    kept = torch.tensor([[0, 5, 63]]).expand(3, -1)
    model(pixels)
    model(pixels, kept=kept)
    hook.remove()
    assert torch.equal(seen[1], seen[0][:, [0, 5, 63]])


@torch.no_grad()
def test_answers_depend_neither_on_the_batch_nor_on_padding():
    model, given = pretraining().violet.eval(), batch()
    words = given["input_ids"], given["attention_mask"]
    alone = model.embed_texts(words[0][:1], words[1][:1])
    together = model.embed_texts(*(nn.functional.pad(one, (0, 5)) for one in words))
    torch.testing.assert_close(together[:1], alone)
    pixels = given["pixel_values_videos"]
    torch.testing.assert_close(
        model.embed_videos(model.encode_videos(pixels))[1:2], model.embed_videos(model.encode_videos(pixels[1:2]))
    )


@torch.no_grad()
def test_sizes_in_turn_pass_the_same_modules():
    model = pretraining().violet.eval()
    parts = [id(module) for module in model.modules()]
    grids = [
        model.encode_videos(torch.zeros(1, frames, 3, side, side)).grid for frames, side in ((8, 64), (4, 32)) * 2
    ]
    assert grids == [(4, 4, 4), (2, 2, 2)] * 2 and parts == [id(module) for module in model.modules()]


@torch.no_grad()
def test_a_spectrogram_tells_low_from_high_and_silence_from_sound():
    config = ImpAudioConfig(**{**named_configuration("imp-tiny").audio_config.to_dict(), "shared": False})
    model = ImpAudioModel(config).eval()
    time = torch.arange(8192) / 8000
    waves = torch.stack([(2 * math.pi * 300 * time).sin(), (2 * math.pi * 3000 * time).sin(), torch.zeros(8192)])
    made = model.spectrogram(waves)
    assert made.shape == (3, 64, 64) and (made[2] == -1.5).all()
    low, high = (one[20:40].mean(0).argmax() for one in made[:2])
    assert low < 12 < 40 < high
    mask = torch.ones(3, 8192, dtype=torch.long)
    mask[0, 4096:] = 0
    states = model(waves, mask)
    assert states.attention_mask.sum(1).tolist() == [8, 16, 16] and (states.last_hidden_state[0, 8:] == 0).all()


def test_a_batch_with_experts_is_not_computed_in_parts():
    model, given = pretraining().train(), batch()
    named = {"imp": 1.0}
    sets = model(**given, objectives=named, only_embeddings=True).embeddings
    gradients = EmbeddingGradients({name: torch.ones_like(one) for name, one in sets.items()})
    with pytest.raises(ValueError, match="`grad_cache_chunk_size`: the losses of `experts` are means over a batch"):
        model(**given, objectives=named, embedding_gradients=gradients)


def test_any_fusion_takes_imps_encoder_and_its_experts_losses():
    torch.manual_seed(0)
    vision = named_configuration("imp-tiny").vision_config.to_dict()
    config = named_configuration("violet-tiny", vision_config=vision, num_labels=3, clip_summary=False)
    model = VioletForQuestionAnswering(config)
    given = batch()
    output = model(
        given["pixel_values_videos"], given["input_ids"], given["attention_mask"], labels=torch.tensor([0, 1, 2])
    )
    assert output.logits.shape == (3, 3) and output.measures["experts_z_loss"] > 0


REFUSED = {
    "`experts`: `layers` 9 are more than `num_hidden_layers` 3": {"experts": {"layers": 9}},
    "`vision_config.experts`: `capacity_factor` 9": {"experts": {"number": 4, "layers": 1, "capacity_factor": 9.0}},
    "`num_attention_heads`: 5 does not divide `backbone_size` 64": {"num_attention_heads": 5},
    "`position_grid`: must be three positive numbers": {"position_grid": (4, 4)},
}


@pytest.mark.parametrize("says", REFUSED)
def test_sizes_that_cannot_be_are_refused(says):
    with pytest.raises(Exception, match=re.escape(says)):
        ImpVisionConfig(**{**named_configuration("imp-tiny").vision_config.to_dict(), **REFUSED[says]})


def test_what_does_not_fit_is_refused_by_both_names():
    text = {**text_config(), "backbone_size": 32}
    with pytest.raises(ValueError, match="`text_config.backbone_size` is 32.*`vision_config.backbone_size`, 64"):
        VioletModel(named_configuration("imp-tiny", text_config=text))
    with pytest.raises(ValueError, match="`text_config.shared` takes the layers.*'violet_vision'"):
        VioletModel(named_configuration("violet-tiny", text_config=text_config()))
    with pytest.raises(
        ValueError, match="'disjoint' needs a vector of each modality, and `text_config.model_type` None"
    ):
        VioletModel(named_configuration("imp-tiny", text_config=None))
    with pytest.raises(
        ValueError, match="multiple of 2, and their height and width of 16 and 16 pixels; got 3 frames"
    ):
        ImpVisionModel(named_configuration("imp-tiny").vision_config)(torch.zeros(1, 3, 3, 64, 64))
    with pytest.raises(Exception, match="texts of 65 words are longer than 64: cut them"):
        pretraining().violet.encode_texts(torch.ones(1, 65, dtype=torch.long))


OBJECTIVE_REFUSED = {
    "'imp' needs a space for each pair.*it is 'in_order'": ({}, {"projection_type": "in_order"}),
    "weights must be 0 or more": ({"video_text": -1.0}, {}),
    "`drop` must be 0 or more and below 1, got 1": ({"drop": 1.0}, {}),
    "'imp' has no option rate": ({"rate": 1.0}, {}),
}


@pytest.mark.parametrize("says", OBJECTIVE_REFUSED)
def test_an_objective_that_cannot_be_is_refused(says):
    options, changes = OBJECTIVE_REFUSED[says]
    with pytest.raises(ValueError, match=says):
        pretraining(options, **changes)

"""MaskAlign: the original's outputs (student, teachers, draws, losses, steps), and what alignment must (not) do."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from encoder_configs import ENCODER_CONFIGS, FRAMES, PATCH, model_config
from encoder_configs import SIDE as SMALL_SIDE
from maskalign_reference import BATCH, SEED, SIDE, STUDENT, MaskAlignReference, drawn, fill
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from violet import VioletConfig
from violet.core.upstream import checkpoint_activations
from violet.modeling_violet import VioletForPreTraining
from violet.modeling_violet.encoders import find_encoder
from violet.modeling_violet.encoders.maskalign_vit import MaskAlignVisionConfig, MaskAlignVisionModel, sine_positions
from violet.modeling_violet.objectives.align import (
    AlignOptions,
    MaskAlignHead,
    distance,
    draw_kept,
    normalised,
    num_kept,
)
from violet.modeling_violet.objectives.align_teacher import MaskAlignTeacher, layer_weights
from violet.training.learning_rates import cosine

STATES, LOSSES = 2e-5, 1e-5
GRID = (1, 5, 5)
WEIGHTS = ("mean", "out", "linear_decay", "top1", "top5", "top12", "mid0", "mid7")
NORMS, KINDS = ("none", "l2", "whiten", "bn"), ("l2", "l1", "smoothl1")


def head_name(name: str) -> str:
    return "distill_weights" if name == "weights" else f"distill_{name}"


def filled_head(depth: int = 12, layers: int = 12, **options: Any) -> MaskAlignHead:
    head = MaskAlignHead(AlignOptions(**{"layers": "mean", "teacher_layers": layers, **options}), depth, 256)
    fill(head, head_name)
    return head


def golden_model(reference: MaskAlignReference, vision: dict[str, Any] | None = None, **options: Any):
    """A small VIOLET whose encoder is the student, with the original's weights by formula."""
    config = VioletConfig(
        vision_config={"model_type": "maskalign_vit", **STUDENT, **(vision or {})},
        objectives={"align": options},
        **{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        **{"vocab_size": 64, "bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4},
    )
    model = VioletForPreTraining(config).eval()
    model.violet.vision_model.load_state_dict(reference.student(**(vision or {})).state_dict())
    fill(model.objective_heads["align"], head_name)
    return model


def align_loss(model: nn.Module, pictures: torch.Tensor, target: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
    words = torch.tensor([[2, 5, 3]]).expand(len(pictures), -1)
    output = model(pictures, words, mvm_targets={"align": target}, objectives={"align": 1.0}, **given)
    return output.loss


def noise_of(seed: int, *shape: int) -> torch.Tensor:
    """Exp(1) as the original's draw takes it from the global generator."""
    torch.manual_seed(seed)
    return torch.empty(shape).exponential_()


def of_blocks(target: torch.Tensor, width: int = 768) -> list[torch.Tensor]:
    """A teacher's target of one frame -> for each block (B, 1 + L, C)."""
    return list(target[:, 0, :, :-1].unflatten(-1, (-1, width)).unbind(-2))


def last(target: torch.Tensor, blocks: int = 5, width: int = 768) -> torch.Tensor:
    """The same target of the last blocks only."""
    return target[..., -(blocks * width + 1) :]


def taken(states: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """[CLS] and the kept patches, of (B, 1 + L, C)."""
    places = torch.cat([torch.zeros_like(kept[:, :1]), kept + 1], 1)
    return states[torch.arange(len(states))[:, None], places]


def original_target(states: torch.Tensor, kept: torch.Tensor, norm: str) -> torch.Tensor:
    """`bn` is not one of ours: over everything, batch, hidden patches and channels."""
    if norm == "bn":
        return taken((states - states.mean()) / (states.var() + 1e-6).sqrt(), kept)
    return taken(normalised(states, norm), kept)


@pytest.fixture(scope="module")
def reference(shared_folder) -> MaskAlignReference:
    return MaskAlignReference(shared_folder)


@pytest.fixture(scope="module")
def target(reference) -> torch.Tensor:
    """What the CLIP teacher gives of all its blocks, (2, 1, 26, 12 * 768 + 1)."""
    return MaskAlignTeacher(reference.clip(), "mean")(reference.pictures(), GRID)


@pytest.fixture(scope="module")
def blocks(reference) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        kept = reference["ids_keep"].unsqueeze(1)
        return reference.student()(reference.pictures(), kept=kept, output_hidden_states=True).hidden_states[1:]


# --- the original's outputs ---


@pytest.mark.shared
@pytest.mark.parametrize("block", [0, 1, 11])
def test_the_students_states_of_kept_patches(reference, blocks, block):
    assert reference.difference(f"student_hidden_{block}", blocks[block], thinned=True) < STATES


@pytest.mark.shared
@torch.no_grad()
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_the_student_as_a_classifiers_trunk_also_of_larger_pictures(reference, kernel):
    student = reference.student()
    student.set_attn_implementation(kernel)
    whole = student(reference.pictures())
    larger = student(reference.pictures(SEED + 9, side=SIDE + 48))
    assert reference.difference("trunk_mean_of_patches", whole.last_hidden_state.flatten(1, 3).mean(1)) < STATES
    assert reference.difference("trunk_cls", whole.frame_states[:, 0, 0]) < STATES
    places = student.embeddings.places(8, 8)[None]
    assert reference.difference("trunk_larger_pos_embed", places, thinned=True) < 1e-6
    assert (
        reference.difference("trunk_larger_mean_of_patches", larger.last_hidden_state.flatten(1, 3).mean(1)) < STATES
    )


@pytest.mark.shared
@pytest.mark.parametrize("side", [5, 14])
def test_the_sines(reference, side):
    assert reference.difference(f"sincos_{side}", sine_positions(side, side, 256)[::3, ::8]) < 1e-6


@pytest.mark.shared
@pytest.mark.parametrize("block", [1, 6, 12])
def test_the_teachers_states_and_where_it_looks(reference, target, block):
    assert reference.difference(f"teacher_hidden_{block}", of_blocks(target)[block - 1], thinned=True) < STATES
    assert reference.difference("importance", target[:, 0, 1:, -1]) < 1e-6


@pytest.mark.shared
def test_the_draw_with_the_same_generator_keeps_the_same_patches(reference, target):
    kept = draw_kept(noise_of(SEED, BATCH, 25), num_kept(25, 0.7), target[:, 0, 1:, -1])
    assert torch.equal(kept, reference["ids_keep"])


@pytest.mark.shared
@pytest.mark.parametrize("norm", NORMS)
def test_the_losses_of_all_targets_distances_and_weights(reference, target, blocks, norm):
    kept = reference["ids_keep"]
    with torch.no_grad():
        predictions = filled_head()(blocks)
    for number in (0, 11):
        assert reference.difference(f"prediction_{number}", predictions[number], thinned=True) < STATES
    wanted = [original_target(states, kept, norm) for states in of_blocks(target)]
    assert reference.difference(f"target_{norm}_11", wanted[11], thinned=True) < STATES
    for kind in KINDS:
        losses = [distance(*pair, kind) for pair in zip(predictions, wanted, strict=True)]
        for weights in WEIGHTS:
            loss = sum(w * one for w, one in zip(layer_weights(weights, 12), losses, strict=True))
            expected = reference[f"loss/{norm}/{kind}/{weights}"].item()
            assert loss.item() == pytest.approx(expected, rel=LOSSES), (kind, weights)


@pytest.mark.shared
def test_the_whole_forward_its_gradients_and_what_gets_none(reference, target):
    model = golden_model(reference)
    loss = align_loss(model, reference.pictures(), last(target), align_noise=noise_of(SEED, BATCH, 1, 25))
    assert loss.item() == pytest.approx(reference["loss_forward"].item(), rel=LOSSES)
    loss.backward()
    vision, head = model.violet.vision_model, model.objective_heads["align"]
    found = {
        "grad_distill_weights": head.weights.grad,
        "grad_cls_token": vision.embeddings.cls_token.grad,
        "grad_qkv_0_bias": vision.blocks[0].attn.qkv.bias.grad,
        "grad_head_11_bias": head.heads["11"].bias.grad[::4],
    }
    for name, gradient in found.items():
        expected = reference[name]
        apart = (gradient - expected).abs().max() / expected.abs().max()
        assert apart < 1e-4, name
    assert not head.weights.grad[:7].any() and (head.weights.grad[7:].abs().sum(0) > 0).all()
    without = {name for name, one in vision.named_parameters() if one.grad is None}
    absent = {f"distill_heads.{block}.{kind}" for block in range(7) for kind in ("weight", "bias")}  # we build no such
    assert without | absent == set(reference.archive["without_gradient"])


@pytest.mark.shared
def test_five_steps_of_the_optimiser(reference, target):
    model = golden_model(reference)
    head = model.objective_heads["align"]
    trained = [*model.violet.vision_model.named_parameters(), *head.named_parameters()]
    decays = {name: one.dim() > 1 and name != "weights" or name.endswith("cls_token") for name, one in trained}
    groups = [
        {"params": [one for name, one in trained if decays[name] is decay], "weight_decay": 0.05 * decay}
        for decay in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    importance = target[:, :, 1:, -1]
    for step in range(5):
        noise = noise_of(SEED + step, BATCH, 1, 25)
        kept = draw_kept(noise, 7, importance)
        assert torch.equal(kept[:, 0], reference["steps_ids_keep"][step])
        loss = align_loss(model, reference.pictures(), last(target), align_noise=noise)
        assert loss.item() == pytest.approx(reference["steps_losses"][step].item(), rel=1e-4)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert reference.difference("steps_distill_weights", head.weights) < STATES
    assert torch.equal(head.weights[:7], drawn("distill_weights", (12, 12))[:7])  # out of reach of the last five


@pytest.mark.shared
@torch.no_grad()
@pytest.mark.parametrize(
    "name, options",
    [
        ("loss_head_norm_linear", {"head": "norm_linear"}),
        ("loss_head_mlp", {"head": "mlp"}),
        ("loss_head_mlp2", {"head": "mlp2"}),
        ("loss_simple", {"alignment": "simple"}),
        ("loss_at_initial_alignment", {}),
    ],
)
def test_other_heads_and_alignments(reference, target, name, options):
    model = golden_model(reference, **options)
    if "initial" in name:
        model.objective_heads["align"].start_weights()
    loss = align_loss(model, reference.pictures(), last(target), align_kept=reference["ids_keep"].unsqueeze(1))
    assert loss.item() == pytest.approx(reference[name].item(), rel=LOSSES)


@pytest.mark.shared
@torch.no_grad()
def test_nothing_masked(reference, target):
    kept = torch.randperm(25, generator=torch.Generator().manual_seed(0)).expand(BATCH, 1, -1)
    loss = align_loss(golden_model(reference), reference.pictures(), last(target), align_kept=kept)
    assert loss.item() == pytest.approx(reference["loss_nothing_masked"].item(), rel=LOSSES)


@pytest.mark.shared
@torch.no_grad()
def test_a_student_of_fewer_blocks_by_their_sum(reference, target):
    model = golden_model(reference, {"num_hidden_layers": 4}, alignment="sum")
    given = {"align_kept": reference["ids_keep"].unsqueeze(1)}
    loss = align_loss(model, reference.pictures(), last(target), **given)
    assert loss.item() == pytest.approx(reference["loss_sum"].item(), rel=LOSSES)
    states = model.violet.video_encoder.visible_states(
        {"pixel_values_videos": reference.pictures()}, given["align_kept"]
    )
    assert states.num_special == 1
    prediction = model.objective_heads["align"](states.blocks)[-1][:, 0]
    assert reference.difference("sum_prediction_11", prediction, thinned=True) < STATES
    model.objective_heads["align"].start_weights()
    loss = align_loss(model, reference.pictures(), last(target), **given)
    assert loss.item() == pytest.approx(reference["loss_sum_initial_alignment"].item(), rel=LOSSES)


@pytest.mark.shared
@torch.no_grad()
def test_a_dino_teacher(reference):
    target = MaskAlignTeacher(reference.dino(), "mean")(reference.pictures(), GRID)
    for block in (1, 12):
        assert reference.difference(f"dino_hidden_{block}", of_blocks(target)[block - 1], thinned=True) < STATES
    assert reference.difference("dino_importance", target[:, 0, 1:, -1]) < 1e-6
    kept = reference["ids_keep"].unsqueeze(1)
    loss = align_loss(golden_model(reference), reference.pictures(), last(target), align_kept=kept)
    assert loss.item() == pytest.approx(reference["loss_dino"].item(), rel=LOSSES)


@pytest.mark.shared
@pytest.mark.proof
@torch.no_grad()
def test_a_clip_l_14_that_sees_196_pixels(reference):
    network = reference.clip(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=224, patch_size=14
    )
    pictures = reference.pictures(SEED + 5, 1, 224)
    places = network.embeddings.interpolate_pos_encoding(torch.empty(1, 197, 1024), 196, 196)
    assert reference.difference("large_position_rows", places[0, ::8, ::16]) < 1e-5
    target = MaskAlignTeacher(network, "mean", teacher_size=196)(pictures, (1, 14, 14))
    states = of_blocks(target, 1024)
    for block in (1, 24):
        assert reference.difference(f"large_hidden_{block}", states[block - 1][:, ::12, ::16]) < STATES
    assert reference.difference("large_importance", target[:, 0, 1:, -1]) < 1e-6
    noise = noise_of(SEED + 5, 1, 1, 196)
    assert torch.equal(draw_kept(noise, num_kept(196, 0.7), target[:, :, 1:, -1])[0], reference["large_ids_keep"])
    options = {"alignment": "sum", "teacher_width": 1024, "teacher_layers": 24}
    model = golden_model(reference, {"num_hidden_layers": 4, "image_size": 224}, **options)
    loss = align_loss(model, pictures, last(target, 5, 1024), align_noise=noise)
    assert loss.item() == pytest.approx(reference["large_loss"].item(), rel=LOSSES)


@pytest.mark.shared
def test_how_many_are_kept(reference):
    rows = [row for row in reference.archive["kept"] if row[1] < 1]
    assert len(rows) == 12
    assert [num_kept(int(cells), ratio) for cells, ratio, _, _ in rows] == [right for *_, right in rows]


@pytest.mark.shared
def test_each_place_is_kept_as_often_as_enumeration_says(reference):
    importance = torch.tensor([0.4, 0.3, 0.2, 0.1]).expand(20_000, -1)
    noise = torch.empty(20_000, 4).exponential_(generator=torch.Generator().manual_seed(3))
    kept = draw_kept(noise, 2, importance)
    assert (kept[:, 0] != kept[:, 1]).all()
    share = torch.stack([(kept == place).any(1).double().mean() for place in range(4)])
    exact = reference["keep_2_of_4_exact"]
    assert ((share - exact).abs() < 3 * (exact * (1 - exact) / 20_000).sqrt()).all()


@pytest.mark.shared
def test_the_learning_rate_behind_its_warm_up(reference):
    for epoch, rate in reference.archive["lr"]:
        if epoch >= 20:
            assert 1e-5 + (6e-4 - 1e-5) * cosine((epoch - 20) / 180) == pytest.approx(rate, rel=1e-6)


@pytest.fixture(scope="module")
def given() -> dict[str, torch.Tensor]:
    """Given states, in the order in which the reference draws them."""
    generator = np.random.default_rng(SEED + 20)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))

    found = {"y": normal(2, 7, 16), "p": normal(2, 7, 16), "p1": normal(1, 1, 16), "t1": normal(1, 1, 16)}
    found["layers"] = torch.stack([normal(2, 7, 16) for _ in range(6)])
    found["goals"] = torch.stack([normal(2, 7, 16) for _ in range(6)])
    found["h"] = 3 * normal(2, 5, 16) + 1
    found["h"][0, 2], found["h"][1, 0] = 4, 0
    return found | {"w2": normal(6, 6)}


@pytest.mark.shared
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "case", ["random", "equal", "ones_apart", "minus_ones_apart", "just_inside", "far", "one_row"]
)
def test_distances_of_edge_cases_and_their_gradients(reference, given, case, kind):
    y, p, zeros = given["y"], given["p"], torch.zeros_like(given["y"])
    prediction, target = {
        "random": (p, y),
        "equal": (y, y),
        "ones_apart": (zeros, zeros + 1),
        "minus_ones_apart": (zeros, zeros - 1),
        "just_inside": (zeros, zeros + 0.999),
        "far": (zeros, zeros + 100),
        "one_row": (given["p1"], given["t1"]),
    }[case]
    prediction = prediction.clone().requires_grad_()
    loss = distance(prediction, target, kind)
    loss.backward()
    assert loss.item() == pytest.approx(reference[f"state_loss/{case}/{kind}"].item(), rel=LOSSES)
    expected = reference[f"state_grad/{case}/{kind}"]
    torch.testing.assert_close(prediction.grad[0, 0, :4], expected, rtol=1e-5, atol=1e-9)


@pytest.mark.shared
@pytest.mark.parametrize("weights", ["mean", "out", "linear_decay", "top1", "top3", "top6", "mid2"])
def test_weights_of_six_layers(reference, given, weights):
    losses = [distance(*pair, "smoothl1") for pair in zip(given["layers"], given["goals"], strict=True)]
    loss = sum(w * one for w, one in zip(layer_weights(weights, 6), losses, strict=True))
    assert loss.item() == pytest.approx(reference[f"layers_loss/{weights}"].item(), rel=LOSSES)


@pytest.mark.shared
def test_nine_of_six_layers_are_refused_though_the_original_takes_them(reference, given):
    losses = [distance(*pair, "smoothl1") for pair in zip(given["layers"], given["goals"], strict=True)]
    assert (sum(losses) / 9).item() == pytest.approx(reference["layers_loss_original/top9"].item(), rel=LOSSES)
    with pytest.raises(ValueError, match="`layers` 'top9' cannot be of a teacher of 6 blocks"):
        layer_weights("top9", 6)


@pytest.mark.shared
@pytest.mark.parametrize("norm", NORMS)
def test_targets_of_a_constant_row_and_of_zeros(reference, given, norm):
    found = original_target(given["h"], reference["norm_ids"], norm)
    assert reference.difference(f"norm_target/{norm}", found) < STATES


@pytest.mark.shared
@torch.no_grad()
def test_six_layers_aligned(reference, given):
    head = MaskAlignHead(AlignOptions(layers="mean", teacher_layers=6), 6, 16)
    assert torch.equal(head.weights, torch.eye(6) + 0.01)
    assert reference.difference("aligned_initial", torch.stack(head.align(tuple(given["layers"])))) < STATES
    head.weights.copy_(given["w2"])
    assert reference.difference("alignment", head.weights) < 1e-6
    assert reference.difference("aligned", torch.stack(head.align(tuple(given["layers"])))) < STATES


# --- what it computes ---

CELLS = (SMALL_SIDE // PATCH) ** 2
WITH_TOKENS = ("maskalign_vit", "clip_vision_model", "siglip_vision_model", "dinov2", "vit")
TEACHERS = ("clip_vision_model", "dinov2", "vit")


def network(kind: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A tiny model of transformers, large enough in its weights for every part to count."""
    torch.manual_seed(seed)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **{**ENCODER_CONFIGS[kind], **changes})).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return model


def teacher_of(kind: str = "vit", **options: Any) -> MaskAlignTeacher:
    return MaskAlignTeacher(network(kind), **{"layers": "top2", **options})


def student(kind: str = "maskalign_vit", **options: Any) -> VioletForPreTraining:
    torch.manual_seed(0)
    known = {"teacher_width": 32, "teacher_layers": 2, "layers": "top2", "ratio": 0.5}
    return VioletForPreTraining(model_config(kind, objectives={"align": {**known, **options}})).eval()


def clips(side: int = SMALL_SIDE) -> torch.Tensor:
    return torch.randn(2, FRAMES, 3, side, side, generator=torch.Generator().manual_seed(1))


def exponential(*shape: int) -> torch.Tensor:
    return torch.empty(shape).exponential_(generator=torch.Generator().manual_seed(2))


def kept_of(places: list[int]) -> torch.Tensor:
    return torch.tensor(places).expand(2, FRAMES, -1)


def visible(model: VioletForPreTraining, pixels: torch.Tensor, kept: torch.Tensor) -> Any:
    return model.violet.video_encoder.visible_states({"pixel_values_videos": pixels}, kept)


@torch.no_grad()
@pytest.mark.parametrize("kind", WITH_TOKENS)
def test_hidden_pixels_change_nothing_and_all_kept_is_the_whole_picture(kind):
    """And the order of the kept patches is only that of the states."""
    model = student(kind, mask="random", alignment="sum")
    encoder = model.violet.vision_encoder
    assert encoder.hides == ("pixels", "tokens") and encoder.num_blocks == 2
    some = visible(model, clips(), kept_of([2, 0]))
    changed = clips()
    changed[:, :, :, :PATCH, PATCH:] += 5  # cell 1
    changed[:, :, :, PATCH:, PATCH:] -= 5  # cell 3
    again, seen = visible(model, changed, kept_of([2, 0])), visible(model, changed, kept_of([2, 1]))
    for one, other, moved in zip(some.blocks, again.blocks, seen.blocks, strict=True):
        assert one.shape == (2, FRAMES, some.num_special + 2, 32)
        assert torch.equal(one, other) and not torch.allclose(one, moved, atol=1e-3)
    turned = visible(model, clips(), kept_of([0, 2])).blocks[-1]
    order = [*range(some.num_special), some.num_special + 1, some.num_special]
    torch.testing.assert_close(turned, some.blocks[-1][:, :, order])
    whole = visible(model, clips(), kept_of(list(range(CELLS)))).blocks
    name = "pixel_values_videos" if kind == "maskalign_vit" else "pixel_values"
    pixels = clips() if kind == "maskalign_vit" else clips().flatten(0, 1)
    known = model.violet.vision_model(**{name: pixels}, output_hidden_states=True).hidden_states[1:]
    for one, other in zip(whole, known, strict=True):
        torch.testing.assert_close(one.flatten(0, 1), other, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind, special", [("deit", 2), ("dinov2_with_registers", 5)])
def test_tokens_beside_the_class_token_stay(kind, special):
    sizes = {**ENCODER_CONFIGS["dinov2"], **({"intermediate_size": 64} if kind == "deit" else {})}
    encoder = find_encoder(AutoConfig.for_model(kind, **sizes))
    torch.manual_seed(0)
    model = encoder.build().eval()
    states = encoder.visible_states(model, clips(), kept_of(list(range(CELLS))))
    known = model(pixel_values=clips().flatten(0, 1), output_hidden_states=True).hidden_states[1:]
    assert states.num_special == special
    for one, other in zip(states.blocks, known, strict=True):
        torch.testing.assert_close(one.flatten(0, 1), other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["maskalign_vit", "vit"])
def test_activations_computed_again_give_the_same_gradients(kind):
    target, given = teacher_of()(clips(), (FRAMES, 2, 2)), {"align_noise": exponential(2, FRAMES, CELLS)}
    gradients = []
    for checkpointed in (False, True):
        model = student(kind).train()
        if checkpointed:
            checkpoint_activations(model)
        align_loss(model, clips(), target, **given).backward()
        gradients.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 20
    assert all(torch.allclose(one, gradients[1][name], atol=1e-7) for name, one in gradients[0].items())


def test_what_a_teacher_has_of_hidden_patches_does_not_count():
    model, kept = student(), kept_of([3, 1])
    target = teacher_of()(clips(), (FRAMES, 2, 2))
    other = target.clone()
    other[:, :, [1, 3]] += 7
    losses = [align_loss(model, clips(), one, align_kept=kept) for one in (target, other)]
    assert losses[0] == losses[1] and losses[0] != align_loss(model, clips(), other, align_kept=kept_of([0, 1]))
    turned = align_loss(model, clips(), target, align_kept=kept_of([1, 3]))
    assert turned.item() == pytest.approx(losses[0].item(), rel=1e-6)


@pytest.mark.parametrize("kind", WITH_TOKENS)
def test_it_trains_every_block_and_the_alignments_weighed_rows_only(kind):
    model = student(kind, layers="top1", mask="random", alignment="linear")
    target = teacher_of(layers="top1")(clips(), (FRAMES, 2, 2))
    align_loss(model, clips(), target, align_noise=exponential(2, FRAMES, CELLS)).backward()
    head = model.objective_heads["align"]
    assert not head.weights.grad[0].any() and (head.weights.grad[1] != 0).all() and list(head.heads) == ["1"]
    for number, block in enumerate(find_encoder(model.config.vision_config).layers(model.violet.vision_model)):
        moved = {name: one.grad for name, one in block.named_parameters() if one.grad is not None}
        assert moved and all(one.abs().sum() > 0 for name, one in moved.items() if ".k" not in name), number


@pytest.mark.parametrize("kind", ["violet_vision", "clip_vip"])
def test_an_encoder_of_pixels_aligns_its_last_states_and_the_log_says_so(kind, caplog):
    with pytest.raises(
        ValueError, match=f"{kind!r} gives 1, which hides pixels.*`teacher_layers` is 2.*`alignment: sum`"
    ):
        student(kind, alignment="linear")
    model = student(kind, alignment="sum")
    teacher = teacher_of()
    with caplog.at_level(logging.WARNING):
        model.objectives["align"].check_teacher(teacher, model)
    assert f"{kind!r} cannot drop tokens: the pixels of hidden patches are masked" in caplog.text
    target = teacher(clips(), (FRAMES, 2, 2))
    hidden = clips()
    hidden[:, :, :, :, :PATCH] += 5  # cells 0 and 2
    losses = [align_loss(model, one, target, align_kept=kept_of([1, 3])) for one in (clips(), hidden)]
    assert torch.equal(*losses)
    losses[0].backward()
    assert all(one.grad.abs().sum() > 0 for one in model.objective_heads["align"].parameters())
    with pytest.raises(ValueError, match=f"{kind!r} cannot drop tokens"):
        model.violet.vision_encoder.visible_states(model.violet.vision_model, clips(), kept_of([1, 3]))


def test_a_tube_keeps_the_same_patches_in_every_frame():
    target = teacher_of()(clips(), (FRAMES, 2, 2))
    tube, frame = student(draw="tube").objectives["align"], student().objectives["align"]
    importance = target[:, :, 1:, -1]
    kept = tube.draw(exponential(2, 1, CELLS), importance)
    assert (kept == kept[:, :1]).all() and kept.shape == (2, FRAMES, 2)
    assert torch.equal(kept[:, 0], draw_kept(exponential(2, 1, CELLS)[:, 0], 2, importance.mean(1)))
    by_frame = frame.draw(exponential(2, FRAMES, CELLS), importance)
    assert (by_frame != by_frame[:, :1]).any()


def test_the_random_draw_keeps_the_smallest_and_places_of_no_importance_come_last():
    noise = torch.tensor([[0.5, 0.1, 0.9, 0.3]])
    assert draw_kept(noise, 3).tolist() == [[1, 3, 0]]
    importance = torch.tensor([[0.0, 0.2, 0.0, 0.1]])
    assert draw_kept(noise, 4, importance).tolist() == [[1, 3, 0, 2]]
    all_zero = draw_kept(noise, 4, torch.zeros(1, 4))
    assert sorted(all_zero[0].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_teacher_gives_raw_states_and_the_eager_attention_of_its_last_block(kind):
    """Beside the fused kernel in the other blocks, whose states stay what they are."""
    plain, teacher = network(kind), teacher_of(kind)
    plain.set_attn_implementation("eager")
    target = teacher(clips(), (FRAMES, 2, 2))
    pixels = teacher.pictures(clips())
    with torch.no_grad():
        known = plain(pixels, output_attentions=True, output_hidden_states=True)
    states = target[..., :-1].unflatten(-1, (2, 32)).flatten(0, 1)
    for number in range(2):
        torch.testing.assert_close(states[:, :, number], known.hidden_states[1 + number], rtol=0, atol=1e-5)
    seen = known.attentions[-1][:, :, 0].mean(1)
    torch.testing.assert_close(target[..., -1].flatten(0, 1), seen, rtol=0, atol=1e-6)
    kernels = [module.config._attn_implementation for module in teacher.network.modules() if hasattr(module, "config")]
    assert {"sdpa", "eager"} == set(kernels)


def test_a_teacher_stays_frozen_and_apart():
    model, teacher = student(), teacher_of("clip_vision_model")
    model.objectives["align"].check_teacher(teacher, model)
    teacher.train()
    assert not teacher.network.training and not any(one.requires_grad for one in teacher.parameters())
    assert not any("teacher" in name or "network" in name for name in model.state_dict())
    assert not teacher(clips(), (FRAMES, 2, 2)).requires_grad


def test_a_teacher_sees_its_own_colours():
    white = torch.ones(1, 1, 3, SMALL_SIDE, SMALL_SIDE)
    imagenet = (white - MEAN_OF_STUDENT) / STD_OF_STUDENT
    clip = teacher_of("clip_vision_model").pictures(imagenet)[0, :, 0, 0]
    torch.testing.assert_close(clip, (1 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / CLIP_STD)
    torch.testing.assert_close(teacher_of("vit").pictures(imagenet), imagenet[0])


MEAN_OF_STUDENT = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD_OF_STUDENT = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


def test_a_finer_grid_is_pooled_before_it_is_normalised_and_its_attention_summed():
    teacher, fine = teacher_of(pool=True), teacher_of()
    whole = fine(clips(64), (FRAMES, 4, 4))
    pooled = teacher(clips(64), (FRAMES, 2, 2))
    assert torch.equal(pooled[:, :, 0], whole[:, :, 0])
    cells = whole[:, :, 1:].unflatten(2, (2, 2, 2, 2))  # rows, rows of a cell, columns, columns of a cell
    torch.testing.assert_close(pooled[:, :, 1:, :-1].unflatten(2, (2, 2)), cells[..., :-1].mean((3, 5)))
    torch.testing.assert_close(pooled[:, :, 1:, -1].unflatten(2, (2, 2)), cells[..., -1].sum((3, 5)))
    resized = teacher_of(teacher_size=32)(clips(64), (FRAMES, 2, 2))
    assert resized.shape == pooled.shape and not torch.allclose(resized, pooled, atol=1e-2)


def test_a_model_is_the_same_when_loaded_and_a_new_alignment_starts_near_the_identity(tmp_path):
    model, target = student(), teacher_of()(clips(), (FRAMES, 2, 2))
    with torch.no_grad():
        model.objective_heads["align"].weights.add_(0.1)
    model.save_pretrained(tmp_path / "whole")
    loaded, report = VioletForPreTraining.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not any(report.values())
    given = {"align_noise": exponential(2, FRAMES, CELLS)}
    assert torch.equal(
        align_loss(loaded.eval(), clips(), target, **given), align_loss(model, clips(), target, **given)
    )
    bare = VioletForPreTraining(model_config("maskalign_vit"))
    bare.save_pretrained(tmp_path / "bare")
    fresh = VioletForPreTraining.from_pretrained(tmp_path / "bare", config=model.config)
    assert torch.equal(fresh.objective_heads["align"].weights, torch.eye(2) + 0.01)


@pytest.mark.parametrize("kind", ["maskalign_vit", "vit"])
def test_a_teacher_without_a_class_token_teaches_patches_drawn_at_random(kind):
    model, teacher = student(kind, mask="random"), teacher_of("siglip_vision_model", mask="random")
    target = teacher(clips(), (FRAMES, 2, 2))
    assert target.shape == (2, FRAMES, CELLS, 2 * 32 + 1)
    assert align_loss(model, clips(), target, align_noise=exponential(2, FRAMES, CELLS)).isfinite()


# --- as a model of its own ---


def test_stochastic_depth_drops_whole_branches_of_a_frame_in_training_only():
    config = MaskAlignVisionConfig(**ENCODER_CONFIGS["maskalign_vit"], drop_path_rate=0.9)
    torch.manual_seed(0)
    model = MaskAlignVisionModel(config)
    assert [block.drop_path.rate for block in model.blocks] == [0, 0.9]
    assert torch.equal(model.eval()(clips()).frame_states, model(clips()).frame_states)
    states = model.train()(clips(), output_hidden_states=True).hidden_states
    kept = (states[2] != states[1]).flatten(1).any(1)
    assert 0 < kept.sum() < len(kept), "of some frames both branches of the last block were dropped"


@torch.no_grad()
def test_it_is_the_same_when_loaded_by_its_auto_class(tmp_path):
    model = student().violet.vision_model
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert type(loaded) is MaskAlignVisionModel and "embeddings.positions" not in loaded.state_dict()
    assert torch.equal(loaded(clips()).frame_states, model(clips()).frame_states)


def test_frames_that_are_no_squares_need_positions_of_their_own():
    sizes = ENCODER_CONFIGS["maskalign_vit"]
    with pytest.raises(ValueError, match="those of squares of 32 pixels, got frames of 48 x 32"):
        MaskAlignVisionConfig(**sizes).grid(1, 48, 32)
    model = MaskAlignVisionModel(MaskAlignVisionConfig(**{**sizes, "image_size": None}))
    assert model(torch.randn(1, 2, 3, 48, 32)).last_hidden_state.shape == (1, 2, 3, 2, 32)
    assert torch.equal(model.embeddings.places(3, 2), sine_positions(3, 2, 32))
    assert torch.equal(model.embeddings.places(1, 1), sine_positions(1, 1, 32))


def test_weights_begin_as_the_original_draws_them():
    torch.manual_seed(0)
    model = MaskAlignVisionModel(MaskAlignVisionConfig(num_hidden_layers=1))
    for name, rows, columns in (
        ("blocks.0.attn.qkv", 3 * 768, 768),
        ("blocks.0.mlp.fc1", 3072, 768),
        ("embeddings.patch_embedding", 768, 768),
    ):
        module, bound = model.get_submodule(name), (6 / (rows + columns)) ** 0.5
        assert 0.99 * bound < module.weight.abs().max() <= bound and not module.bias.any(), name
    assert 0.018 < model.embeddings.cls_token.std() < 0.022


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"image_size": 36}, "`image_size`: 36 is not a multiple of `patch_size` 16"),
        ({"num_attention_heads": 5}, "`num_attention_heads`: 5 does not divide `hidden_size` 32"),
        ({"hidden_size": 34, "num_attention_heads": 2}, "`hidden_size`: 34 is no multiple of 4"),
        ({"drop_path_rate": 1.0}, "`drop_path_rate`: must lie in"),
        ({"mlp_ratio": 0}, "`mlp_ratio`: must be above 0"),
        ({"norm_pix_loss": True}, "has no field norm_pix_loss"),
    ],
)
def test_contradictions_of_sizes_are_refused_by_name(changes, told):
    with pytest.raises(Exception, match=told):
        MaskAlignVisionConfig(**{**ENCODER_CONFIGS["maskalign_vit"], **changes})


# --- what is refused ---


@pytest.mark.parametrize(
    "options, told",
    [
        ({"layers": "top3"}, "`layers` 'top3' cannot be of a teacher of 2 blocks"),
        ({"layers": "top0"}, "`layers` 'top0' cannot be"),
        ({"layers": "stop1"}, "`layers` 'stop1' is unknown; use topK, mean, out, midI or linear_decay"),
        ({"layers": "mid2"}, "`layers` 'mid2' cannot be of a teacher of 2 blocks"),
        (
            {"layers": "linear_decay", "teacher_layers": 1},
            "`layers` 'linear_decay' cannot be of a teacher of 1 blocks",
        ),
        ({"ratio": 1.0}, "`ratio` must lie in"),
        ({"ratio": -0.1}, "`ratio` must lie in"),
        ({"mask": "attended"}, "`mask` 'attended' is unknown; use attention, random"),
        ({"target_norm": "bn"}, "`target_norm` 'bn' is unknown; use whiten, l2, none"),
        ({"head": "mlp3"}, "`head` 'mlp3' is unknown"),
        ({"loss": "cosine"}, "`loss` 'cosine' is unknown"),
        ({"draw": "clip"}, "`draw` 'clip' is unknown; use frame, tube"),
        ({"alignment": "none"}, "`alignment` 'none' is unknown"),
        ({"teacher_layers": 4}, "'maskalign_vit' gives 2, and `teacher_layers` is 4. Use `alignment: sum`"),
        ({"teacher_layers": 4, "alignment": "simple"}, "alignment` 'simple' of 'align' needs as many blocks"),
        ({"teacher": "vit"}, "'align' has no option teacher"),
    ],
)
def test_options_that_cannot_be_are_refused_at_construction(options, told):
    with pytest.raises(ValueError, match=told):
        student(**options)


@pytest.mark.parametrize("kind", ["videomae", "vjepa2"])
def test_cells_of_several_frames_are_refused(kind):
    with pytest.raises(ValueError, match=f"compares frame by frame, and `vision_config.model_type` {kind!r}"):
        student(kind, alignment="sum")


def test_a_ratio_that_keeps_nothing_is_refused():
    target = teacher_of()(clips(), (FRAMES, 2, 2))
    with pytest.raises(ValueError, match=r"a `ratio` of 0.8 keeps none of the 4 patches of a frame"):
        align_loss(student(ratio=0.8), clips(), target, align_noise=exponential(2, FRAMES, CELLS))


def test_a_batch_without_what_it_needs_is_refused_by_name():
    model, target = student(), teacher_of()(clips(), (FRAMES, 2, 2))
    words = torch.tensor([[2, 5, 3]]).expand(2, -1)
    with pytest.raises(ValueError, match=r"'align' needs `mvm_targets\['align'\]`"):
        model(clips(), words, align_noise=exponential(2, FRAMES, CELLS), objectives={"align": 1.0})
    with pytest.raises(ValueError, match="'align' needs `align_noise`"):
        model(clips(), words, mvm_targets={"align": target}, objectives={"align": 1.0})
    assert "align" not in model(clips(), words).losses
    for wrong, told in (
        (target[:, :, 1:-1], "`mvm_targets"),
        (target[..., 1:], "`mvm_targets"),
        (target[:1], "`mvm_t"),
    ):
        with pytest.raises(ValueError, match=told):
            align_loss(model, clips(), wrong, align_noise=exponential(2, FRAMES, CELLS))
    with pytest.raises(ValueError, match=r"`align_noise` has the shape \(2, 1, 4\); these videos need \(2, 4, 4\)"):
        align_loss(model, clips(), target, align_noise=exponential(2, 1, CELLS))
    with pytest.raises(ValueError, match="The kept cells have the shape"):
        align_loss(model, clips(), target, align_kept=torch.zeros(2, 1, 2, dtype=torch.long))


def test_teachers_that_do_not_serve_are_refused():
    with pytest.raises(ValueError, match="SiglipVisionModel has no class token whose attention.*set `mask` to random"):
        teacher_of("siglip_vision_model")
    with pytest.raises(ValueError, match=r"grid is 4 x 4 and the student's 2 x 2. Set `teacher_size`.*\(32 x 32"):
        teacher_of()(clips(64), (FRAMES, 2, 2))
    with pytest.raises(ValueError, match="to whole multiples and `pool`"):
        teacher_of(pool=True)(clips(48), (FRAMES, 2, 2))
    with pytest.raises(ValueError, match="patches of 16 pixels do not fill pictures of 40 x 40"):
        teacher_of()(clips(40), (FRAMES, 2, 2))
    with pytest.raises(ValueError, match="no list of `num_hidden_layers` blocks: it is no ViT"):
        MaskAlignTeacher(student("violet_vision", alignment="sum").violet.vision_model)
    damaged = teacher_of()
    with pytest.raises(ValueError, match="attention in video 1 of the batch is not finite"):
        damaged(torch.cat([clips()[:1], clips()[1:] * torch.nan]), (FRAMES, 2, 2))


def test_a_teacher_that_learns_shares_or_has_other_sizes_is_refused():
    model, objective = student("vit"), student("vit").objectives["align"]
    with pytest.raises(ValueError, match="the teacher shares weights with the student"):
        shared = MaskAlignTeacher(model.violet.vision_model, layers="top2")
        objective.check_teacher(shared, model)
    with pytest.raises(ValueError, match="the teacher takes gradients"):
        objective.check_teacher(teacher_of().requires_grad_(True), model)
    with pytest.raises(ValueError, match="the teacher's `teacher_width` is 16, and the model was made for 32"):
        objective.check_teacher(MaskAlignTeacher(network("vit", hidden_size=16), layers="top2"), model)


def test_a_teacher_without_attention_is_refused_by_what_to_do(monkeypatch):
    teacher = teacher_of()
    for module in teacher.network.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = "sdpa"
    with pytest.raises(ValueError, match="ViTModel gives no attention, not even by its eager kernel"):
        teacher(clips(), (FRAMES, 2, 2))


def test_positions_are_computed_anew_behind_a_model_without_memory():
    """`from_pretrained` builds on the meta device first: what was computed there must not come back."""
    config = MaskAlignVisionConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=48)
    with torch.device("meta"):
        MaskAlignVisionModel(config)
    positions = MaskAlignVisionModel(config).embeddings.positions
    assert positions.device.type == "cpu" and torch.equal(positions, sine_positions(3, 3, 32))

"""MaskAlign: the original's outputs (student, teachers, draws, losses, steps), and what alignment must (not) do."""

from typing import Any

import numpy as np
import pytest
import torch
from maskalign_reference import BATCH, SEED, SIDE, STUDENT, MaskAlignReference, drawn, fill
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel, ViTConfig, ViTModel

from violet import VioletConfig
from violet.modeling_violet import VioletForPreTraining
from violet.modeling_violet.encoders.maskalign_vit import sine_positions
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
    """The same target of the last blocks alone."""
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

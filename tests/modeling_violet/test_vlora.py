"""VLoRA: the goldens' outputs, what low-rank weights do to any layer, and what is refused."""

import pytest
import torch
from vlora_golden import PICTURE, SEED, VloraLlama, VloraReference, replace_absent

from violet.core.upstream import CACHE_NAME
from violet.modeling_violet.low_rank import add_product

NEAR = 2e-5


@pytest.fixture(scope="module")
def reference(shared_folder) -> VloraReference:
    return VloraReference(shared_folder)


def assert_near(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = NEAR) -> None:
    assert got.shape == wanted.shape
    assert wanted.float().std() > 0 or wanted.numel() == 1
    difference = float((got.detach() - wanted).abs().max())
    assert difference <= tolerance, difference


@pytest.fixture(scope="module")
def features(reference) -> torch.Tensor:
    return reference.features(reference.pictures(SEED, 3))


@pytest.fixture(scope="module")
def weights(reference, features):
    generator = reference.generator()
    with torch.no_grad():
        return generator.weights(generator(features))


# --- the goldens: the generator ---


def test_visual_tokens_are_the_goldens(reference, features):
    generator = reference.generator()
    assert_near(features[:, ::3, ::8], reference.archive["visual_features"])
    assert_near(generator.visual(features)[:, ::3, ::8], reference.archive["projected"])


@torch.no_grad()
def test_the_queries_on_their_way_are_the_goldens(reference, features):
    generator, archive = reference.generator(), reference.archive
    own, visual = generator.generators[0], generator.visual(features)
    queries = own.queries.expand(3, -1, -1)
    assert_near(queries[:, :, ::8], archive["queries_0"])
    normed = own.blocks[0].self_norm(queries)
    added = own.blocks[0].self_attention(normed, normed, normed, need_weights=False)[0]
    assert_near(added[:, :, ::8], archive["self_attention_of_block_0"])
    for i, block in enumerate(own.blocks):
        queries = block(queries, visual, None)
        assert_near(queries[:, :, ::8], archive[f"queries_after_block_{i}"])


@pytest.mark.parametrize(
    ("group", "changes"),
    [
        ("given", {}),
        ("joint", {"separate": False}),
        ("types_mq", {"types": "mq"}),
        ("every_layer", {"skip_layers": 1}),
        ("no_alpha", {"alpha": None}),
    ],
)
@torch.no_grad()
def test_weights_of_given_tokens_are_the_goldens(reference, group, changes):
    generator = reference.generator(**changes)
    made = generator.weights(generator(reference.given_features()))
    for kind, letter in enumerate(made.types):
        assert_near(made.a[:, kind][:, :, ::8], reference.archive[f"{group}_A_{letter}"])
        assert_near(made.b[kind][:, ::8], reference.archive[f"{group}_B_{letter}"])


def test_weights_of_pictures_are_the_goldens(reference, weights):
    present = replace_absent(weights, torch.tensor([True, True, False]))
    for kind, letter in enumerate("qkvom"):
        assert_near(present.a[:, kind][:, :, ::8], reference.archive[f"image_A_{letter}"])
        assert_near(present.b[kind][:, ::8], reference.archive[f"image_B_{letter}"])


def test_products_are_the_goldens(reference):
    g = reference.drawer()
    x, a, b = (
        torch.from_numpy(g.standard_normal(shape).astype("float32")) for shape in ((2, 5, 12), (2, 12, 3), (1, 12, 3))
    )
    assert_near(add_product(x, a, b[0]), reference.archive["applied"])
    assert_near(b @ a.transpose(1, 2), reference.archive["applied_as_matrix"])


# --- the goldens: transformers' Llama with them ---


def inputs(reference) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(reference.archive[name].clone() for name in ("ids", "mask", "labels"))


def mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@torch.no_grad()
def test_llama_with_low_rank_weights_is_the_golden(reference, weights):
    ids, mask, labels = inputs(reference)
    output = VloraLlama(reference)(ids, mask, weights, output_hidden_states=True)
    assert_near(output.logits[..., :64], reference.archive["logits_first64"])
    for i, states in enumerate(output.hidden_states):
        assert_near(states[:, ::3, ::8], reference.archive[f"hidden_{i}"])
    assert float(mean_loss(output.logits, labels)) == pytest.approx(float(reference.archive["loss"]), rel=1e-6)


@torch.no_grad()
def test_llama_without_or_with_other_weights_is_the_golden(reference, weights):
    ids, mask, labels = inputs(reference)
    model, archive = VloraLlama(reference), reference.archive
    plain = model(ids, mask, None).logits
    assert_near(plain[..., :64], archive["logits_without_first64"])
    assert float(mean_loss(plain, labels)) == pytest.approx(float(archive["loss_without"]), rel=1e-6)
    with_weights = model(ids, mask, weights).logits
    assert torch.equal(with_weights[2], plain[2])  # a row without a picture
    for kind in "qkvom":
        loss = mean_loss(model(ids, mask, weights.only(kind)).logits, labels)
        assert loss.item() == pytest.approx(float(archive[f"loss_only_{kind}"]), rel=1e-6)
    swapped = model(ids, mask, weights.select(torch.tensor([1, 0, 2]))).logits
    assert_near(swapped[..., :64], archive["logits_swapped_first64"])


def test_gradients_are_the_goldens(reference, features):
    ids, mask, labels = inputs(reference)
    generator, model, archive = reference.generator(), VloraLlama(reference), reference.archive
    model.llama.requires_grad_(False)
    mean_loss(model(ids, mask, generator.weights(generator(features))).logits, labels).backward()
    assert_near(generator.b.grad[0, :, ::16], archive["grad_Bs"])
    assert_near(generator.positions.grad[0, ::3, ::8], archive["grad_pos_embed"])
    assert_near(generator.generators[0].head.bias.grad[::16], archive["grad_head_0_bias"])
    assert_near(generator.generators[4].queries.grad[0, :, ::8], archive["grad_queries_4"])


def test_at_the_start_only_b_moves(reference, features):
    ids, mask, labels = inputs(reference)
    generator, model = reference.generator(), VloraLlama(reference)
    torch.nn.init.zeros_(generator.b)
    loss = mean_loss(model(ids, mask, generator.weights(generator(features))).logits, labels)
    assert loss.item() == pytest.approx(float(reference.archive["start_loss"]), rel=1e-6)
    loss.backward()
    assert_near(generator.b.grad[0, :, ::16], reference.archive["start_grad_Bs"])
    others = [p.grad for name, p in generator.named_parameters() if name != "b"]
    assert max(float(grad.abs().max()) for grad in others) == float(reference.archive["start_grad_others_largest"])


@torch.no_grad()
def test_writing_with_a_cache_is_the_golden_of_right_positions(reference):
    archive, generator, model = reference.archive, reference.generator(), VloraLlama(reference)
    made = generator.weights(generator(reference.features(reference.pictures(SEED + 31, 2))))
    ids, cache, scores = archive["prompt"].clone(), None, []
    places, first = ids == PICTURE, ids.shape[1]
    for _ in range(8):
        new = ids if cache is None else ids[:, -1:]
        mask = torch.ones_like(ids)
        mask[:, :first] = (~places).long()
        output = model.llama(
            input_ids=new.masked_fill(new == PICTURE, 0),
            attention_mask=mask,
            position_ids=torch.arange(ids.shape[1])[None, -new.shape[1] :],
            low_rank=made,
            use_cache=True,
            **{CACHE_NAME: cache},
        )
        cache = output[CACHE_NAME]
        logits = output.logits[:, -1]
        scores.append(logits[:, 3:67])
        allowed = logits.clone()
        allowed[:, 2] = float("-inf")
        ids = torch.cat([ids, allowed.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(ids[:, first:], archive["generated_corrected"])
    assert_near(torch.stack(scores, 1), archive["generated_corrected_scores_first64"])
    assert (torch.stack(scores, 1) - archive["generated_original_scores_first64"]).abs().max() > 1e-3

"""CLIP-ViP's vision tower: the original's outputs, and what its attention must and must not see."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from clip_vip_reference import SEED, VISION, ClipVipReference, drawn
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    get_cosine_schedule_with_warmup,
)

from violet.core.upstream import checkpoint_activations
from violet.evaluation.retrieval import retrieval_metrics
from violet.modeling_violet.encoders.clip_vip import ClipVipVisionConfig, ClipVipVisionModel

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "temporal_size": 4,
}
FRAMES, PATCHES, PROXIES = 4, 16, 4
TOLERANCE = 2e-5


def small_model(seed: int = 0, **changes: Any) -> ClipVipVisionModel:
    """Weights large enough for every part to count, also those that begin at 0."""
    torch.manual_seed(seed)
    model = ClipVipVisionModel(ClipVipVisionConfig(**{**SMALL, **changes})).eval()
    for name, parameter in model.named_parameters():
        spread = 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
        parameter.data = ("norm" in name and "weight" in name) + spread * torch.randn(parameter.shape)
    return model


def clips(frames: int = FRAMES, side: int = 32) -> torch.Tensor:
    return torch.randn(2, frames, 3, side, side, generator=torch.Generator().manual_seed(1))


def in_same_frame_or_proxy(frames: int, proxies: int = PROXIES, patches: int = PATCHES) -> torch.Tensor:
    """(N, N), the rule that the two parts must equal, written out."""
    frame = [-1] * proxies + [frame for frame in range(frames) for _ in range(patches)]
    return torch.tensor([[a == -1 or b == -1 or a == b for b in frame] for a in frame])


def dense_attention(attention: nn.Module, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The same weights, with every pair and a mask."""
    heads = (attention.num_heads, -1)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (projection(x).unflatten(-1, heads).transpose(1, 2) for projection in projections)
    logits = query * attention.scaling @ key.transpose(2, 3)
    weights = logits.masked_fill(~seen, float("-inf")).softmax(-1)
    return attention.out_proj((weights @ value).transpose(1, 2).flatten(2))


def make_dense(model: ClipVipVisionModel, seen: torch.Tensor) -> None:
    for layer in model.encoder.layers:
        attention = layer.self_attn
        attention.forward = lambda x, frames, attention=attention: (dense_attention(attention, x, seen), None)


# --- the original's outputs ---


@pytest.fixture(scope="module")
def reference(shared_folder) -> ClipVipReference:
    return ClipVipReference(shared_folder)


def golden_model(reference: ClipVipReference, **changes: Any) -> ClipVipVisionModel:
    model = ClipVipVisionModel(ClipVipVisionConfig(**{**VISION, **changes})).eval()
    weights = reference.part("vision_model.")
    if model.embeddings.temporal_embedding is None:
        del weights["embeddings.temporal_embedding"]
    if model.embeddings.added_cls is None:
        del weights["embeddings.added_cls"]
    elif model.config.num_proxies != 4:
        shape = list(model.embeddings.added_cls.shape)
        weights["embeddings.added_cls"] = drawn("clipmodel.vision_model.embeddings.added_cls", shape)
    model.load_state_dict(weights)
    return model


def features(reference: ClipVipReference, pooled: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(pooled @ reference.part("visual_projection.")["weight"].t(), dim=-1)


@pytest.mark.shared
@torch.no_grad()
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_the_tower_gives_what_the_original_gave_at_every_stage(reference, kernel):
    model = golden_model(reference)
    model.set_attn_implementation(kernel)
    output = model(reference.clip(), output_hidden_states=True)
    first = model.encoder.layers[0]
    found = {
        "embeddings": model.embeddings(reference.clip())[0],
        **{f"vision_hidden_{i}": states for i, states in enumerate(output.hidden_states)},
        "attention_0": first.self_attn(first.layer_norm1(output.hidden_states[0]), 6)[0],
        "vision_proxies": output.clip_states,
        "vision_pooled": output.pooler_output,
        "vis_features": features(reference, output.pooler_output),
    }
    assert len(found) == 9
    assert {name: reference.difference(name, got) < TOLERANCE for name, got in found.items()} == dict.fromkeys(
        found, True
    )
    patches = output.hidden_states[-1][:, 4:]
    assert torch.equal(output.last_hidden_state, patches.view(2, 6, 6, 6, -1))


@pytest.mark.shared
@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 4, 9])
def test_other_numbers_of_frames_give_what_the_original_gave(reference, frames):
    pooled = golden_model(reference)(reference.clip(SEED + 10 + frames, frames)).pooler_output
    assert reference.difference(f"vis_features_{frames}_frames", features(reference, pooled)) < TOLERANCE


@pytest.mark.shared
@torch.no_grad()
@pytest.mark.parametrize(
    "name, changes", [("without_temporal_embedding", {"temporal_size": None}), ("two_proxies", {"num_proxies": 2})]
)
def test_without_places_in_time_and_with_two_proxies(reference, name, changes):
    pooled = golden_model(reference, **changes)(reference.clip()).pooler_output
    assert reference.difference(f"vis_features_{name}", features(reference, pooled)) < TOLERANCE


@pytest.mark.shared
@torch.no_grad()
def test_a_picture_and_the_mean_of_frames_by_clip_itself(reference):
    picture = golden_model(reference)(reference.clip(SEED + 2, 1)).pooler_output
    assert reference.difference("img_features", features(reference, picture)) < TOLERANCE
    plain = golden_model(reference, num_proxies=1, temporal_size=None)
    frames = plain(reference.clip().flatten(0, 1).unsqueeze(1)).pooler_output
    mean = nn.functional.normalize(features(reference, frames).unflatten(0, (2, 6)).mean(1), dim=-1)
    assert reference.difference("vis_features_mean_of_frames", mean) < TOLERANCE


@pytest.mark.shared
@torch.no_grad()
def test_the_tolerance_tells_the_mistakes_apart(reference):
    """What the spec says that full attention and a mean of the proxies cost, is far beyond the tolerance."""
    model, clip = golden_model(reference), reference.clip()
    mean = model.post_layernorm(model(clip).clip_states.mean(1))
    assert reference.difference("vis_features", features(reference, mean)) > 0.1
    make_dense(model, torch.ones(220, 220, dtype=torch.bool))
    assert reference.difference("vis_features", features(reference, model(clip).pooler_output)) > 2e-3


# --- what it computes ---


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_two_parts_equal_dense_attention_under_the_rule(kernel):
    model, dense = small_model(), small_model()
    model.set_attn_implementation(kernel)
    seen = in_same_frame_or_proxy(FRAMES)
    x = torch.randn(2, PROXIES + FRAMES * PATCHES, 32, generator=torch.Generator().manual_seed(2))
    attention = model.encoder.layers[0].self_attn
    expected = dense_attention(attention, x, seen)
    torch.testing.assert_close(attention(x, FRAMES)[0], expected, rtol=0, atol=2e-6)
    assert (dense_attention(attention, x, torch.ones_like(seen)) - expected).abs().max() > 1e-2
    make_dense(dense, seen)
    for name in ("last_hidden_state", "clip_states", "pooler_output"):
        torch.testing.assert_close(model(clips())[name], dense(clips())[name], rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_weights_of_both_parts_are_those_of_dense_attention():
    model = small_model()
    model.set_attn_implementation("eager")
    proxies, patches = model(clips(), output_attentions=True).attentions[0]
    assert proxies.shape == (2, 4, PROXIES, PROXIES + FRAMES * PATCHES)
    assert patches.shape == (2 * FRAMES, 4, PATCHES, PROXIES + PATCHES)
    for weights in (proxies, patches):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@torch.no_grad()
def test_a_changed_frame_reaches_the_others_by_the_proxies_only():
    model, frame = small_model(), 2
    changed = clips()
    changed[:, frame] += 1
    states, others = (model(pixels, output_hidden_states=True).hidden_states for pixels in (clips(), changed))
    moved = [(one - other).abs() for one, other in zip(states, others, strict=True)]
    of_proxies = [one[:, :PROXIES].amax() for one in moved]
    of_frames = [one[:, PROXIES:].unflatten(1, (FRAMES, -1)).amax((0, 2, 3)) for one in moved]
    elsewhere = [n for n in range(FRAMES) if n != frame]
    assert of_proxies[0] == 0 and of_proxies[1] > 1e-3
    assert (of_frames[1][elsewhere] == 0).all() and of_frames[1][frame] > 1e-3
    assert (of_frames[2] > 1e-4).all()


@torch.no_grad()
def test_the_order_of_frames_counts_only_by_their_places_in_time():
    order = [2, 0, 3, 1]
    with_places, without = small_model(), small_model(temporal_size=None)
    assert without.embeddings.temporal_embedding is None
    for model, same in ((without, True), (with_places, False)):
        one, other = (model(pixels).pooler_output for pixels in (clips(), clips()[:, order]))
        assert torch.allclose(one, other, rtol=0, atol=1e-5) is same


@torch.no_grad()
def test_a_still_clip_is_not_its_picture():
    """More patches share the proxies' softmax."""
    model, picture = small_model(temporal_size=None), clips(1)
    still = model(picture.expand(-1, 4, -1, -1, -1)).pooler_output
    assert (still - model(picture).pooler_output).abs().max() > 1e-2


def test_places_in_time_are_the_tables_or_interpolated_with_half_pixel_centres():
    embeddings = small_model().embeddings
    rows = embeddings.temporal_embedding
    assert embeddings.places_in_time(4) is rows
    assert torch.equal(embeddings.places_in_time(1)[0, 0], (rows[0, 1] + rows[0, 2]) / 2)
    twice = embeddings.places_in_time(8)[0]
    torch.testing.assert_close(twice[0], rows[0, 0])
    torch.testing.assert_close(twice[1], 0.75 * rows[0, 0] + 0.25 * rows[0, 1])


@torch.no_grad()
@pytest.mark.parametrize("side", [32, 48])
def test_one_proxy_and_one_frame_are_clip(side):
    """And frames of another size than its own are seen as transformers' CLIP sees them."""
    model = small_model(num_proxies=1, temporal_size=None)
    sizes = {name: value for name, value in SMALL.items() if name != "temporal_size"}
    clip = CLIPVisionModel(CLIPVisionConfig(**sizes)).eval()
    clip.load_state_dict(model.state_dict())
    expected = clip(clips(1, side)[:, 0], interpolate_pos_encoding=True)
    output = model(clips(1, side))
    torch.testing.assert_close(output.pooler_output, expected.pooler_output, rtol=0, atol=1e-5)
    patches = expected.last_hidden_state[:, 1:].view_as(output.last_hidden_state)
    torch.testing.assert_close(output.last_hidden_state, patches, rtol=0, atol=1e-5)


@pytest.mark.parametrize("patch, pairs", [(32, (33_532, 350_464)), (16, (479_824, 5_550_736))])
def test_the_pairs_of_attention_are_those_of_the_spec(patch, pairs):
    assert ClipVipVisionConfig(patch_size=patch).attention_pairs(12, 224, 224) == pairs


@torch.no_grad()
def test_the_pairs_are_those_that_are_computed():
    model = small_model()
    model.set_attn_implementation("eager")
    computed = [
        sum(weights.shape[:1].numel() // 2 * weights[0, 0].numel() for weights in of_layer)
        for of_layer in model(clips(), output_attentions=True).attentions
    ]
    assert computed == [model.config.attention_pairs(FRAMES, 32, 32)[0]] * 2


# --- as a model of its own ---


def test_every_weight_learns_also_with_activations_computed_again():
    gradients = []
    for checkpointed in (False, True):
        model = small_model().train()
        if checkpointed:
            checkpoint_activations(model)
        output = model(clips())
        (
            output.pooler_output.sum() + output.last_hidden_state.pow(2).sum() + output.clip_states.pow(3).sum()
        ).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and torch.equal(gradient, gradients[1][name]), name
        # a bias of the keys adds the same to all logits of a query
        assert "k_proj.bias" in name or gradient.abs().max() > 1e-4, name


@torch.no_grad()
def test_half_precision():
    model = small_model()
    output = model(clips()).pooler_output
    half = model.to(torch.bfloat16)(clips()).pooler_output
    assert half.dtype == torch.bfloat16
    assert nn.functional.cosine_similarity(half.float(), output).min() > 0.99


@torch.no_grad()
def test_it_is_the_same_when_loaded_by_its_auto_class(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is ClipVipVisionConfig and config.temporal_size == 4
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(clips()).pooler_output, model(clips()).pooler_output)


def test_fresh_weights_are_clips_and_the_places_in_time_are_zero():
    torch.manual_seed(0)
    embeddings = ClipVipVisionModel(ClipVipVisionConfig(num_hidden_layers=1)).embeddings
    assert not embeddings.temporal_embedding.any()
    assert 0.95 < embeddings.added_cls.std() < 1.05
    assert 0.03 < embeddings.class_embedding.std() < 0.042
    copies = ClipVipVisionModel(ClipVipVisionConfig(num_hidden_layers=1, proxy_init="class_copies")).embeddings
    apart = copies.added_cls - copies.class_embedding
    assert 0.018 < apart.std() < 0.022


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"num_proxies": 0}, "`num_proxies`: must be 1 or more, got 0"),
        ({"temporal_size": 0}, "`temporal_size`: must be 1 or more, got 0"),
        ({"image_size": 36}, "`image_size`: 36 is not a multiple of `patch_size` 8"),
        ({"num_attention_heads": 5}, "`num_attention_heads`: 5 does not divide `hidden_size` 32"),
        ({"proxy_init": "zeros"}, "`proxy_init`: 'zeros' is unknown"),
        ({"if_use_temporal_embed": 0}, "has no field if_use_temporal_embed"),
    ],
)
def test_contradictions_are_refused_by_name(changes, told):
    with pytest.raises(Exception, match=told):
        ClipVipVisionConfig(**{**SMALL, **changes})


def test_a_side_that_is_no_multiple_of_a_patch_is_refused():
    with pytest.raises(ValueError, match="multiples of 8 pixels, got 36 x 32"):
        ClipVipVisionConfig(**SMALL).grid(4, 36, 32)
    with pytest.raises(ValueError, match="multiples of 8 pixels, got 36 x 36"):
        small_model()(clips(side=36))


def measured(scores: torch.Tensor, way: str, name: str = "{}", **settings) -> list[float]:
    found = retrieval_metrics(scores, range(len(scores)), **settings)
    start = name.format({"t2v": "text_to_video", "v2t": "video_to_text"}[way])
    return [found[f"{start}_{metric}"] for metric in ("r1", "r5", "r10", "median_rank", "mean_rank")]


@pytest.mark.shared
@pytest.mark.parametrize("way", ["t2v", "v2t"])
@pytest.mark.parametrize("case", ["random", "tied", "positive"])
def test_recalls_and_ranks_plain_and_by_dual_softmax(shared_folder, case, way):
    """Equal scores count by their expectation; the original does not, and loses queries."""
    archive = np.load(shared_folder / "goldens" / "clip_vip_public.npz")
    scores = torch.from_numpy(archive[f"sim/{case}"]).double()
    np.testing.assert_allclose(measured(scores, way), archive[f"metrics_corrected/{case}/{way}"], atol=1e-12)
    by_both = scores * (100 * scores).softmax(0)
    np.testing.assert_allclose(by_both, archive[f"dsl/{case}"], atol=1e-6)
    product = scores * (100 * scores).softmax(0 if way == "t2v" else 1)  # the axis that is not searched
    np.testing.assert_allclose(measured(product, way), archive[f"metrics_corrected/{case}/dsl_{way}"], atol=1e-12)
    ours = measured(100 * scores, way, "dual_softmax_{}", use_dual_softmax=True)
    np.testing.assert_allclose(ours, archive[f"metrics_log/{case}/dsl_{way}"], atol=1e-12)
    if case != "tied":
        np.testing.assert_allclose(measured(scores, way), archive[f"metrics_original/{case}/{way}"], atol=1e-12)
        np.testing.assert_allclose(measured(by_both, way), archive[f"metrics_original/{case}/dsl_{way}"], atol=1e-12)


@pytest.mark.shared
def test_the_recipe_s_optimizer_and_rates_are_near_the_originals(shared_folder):
    """It is torch's AdamW and transformers' cosine; theirs decays after the step, and falls at once."""
    archive = np.load(shared_folder / "goldens" / "clip_vip_public.npz")
    draws = [np.random.default_rng(SEED + 60 + number).standard_normal((3, 4)) for number in range(6)]
    weights = nn.Parameter(torch.from_numpy(draws[0].copy()))
    optimizer = torch.optim.AdamW([weights], lr=0.01, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2)
    for gradient in draws[1:]:
        weights.grad = torch.from_numpy(gradient)
        optimizer.step()
    expected = archive["adamw_after_5_steps"]
    assert np.abs(expected - draws[0]).max() > 0.04  # what the steps moved
    np.testing.assert_allclose(weights.detach(), expected, atol=1e-4)
    for total in (50, 1000, 7031):
        rates = get_cosine_schedule_with_warmup(optimizer, math.ceil(0.01 * total), total).lr_lambdas[0]
        steps, theirs = archive[f"lr_cosine/{total}"].T
        within = steps <= total
        ours = [1e-6 * rates(int(step)) for step in steps[within]]
        np.testing.assert_allclose(ours, theirs[within], atol=0.02e-6)  # of a peak of 1e-6

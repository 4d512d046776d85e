"""Masked feature regression: stored values, masks, what must not leak, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from violet import VioletConfig, VioletForPreTraining
from violet.modeling_violet.objectives import masked_features
from violet.modeling_violet.objectives.masked_features import (
    correlated_mask,
    feature_regression_loss,
    feature_similarity,
    feature_spread,
    masked_count,
    normalised,
)
from violet.modeling_violet.objectives.masked_vision import mvm_loss

GOLDEN = Path(__file__).parents[2] / "../shared/goldens/visual_parsing_public.npz"
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.exists():
        pytest.skip("needs ../shared")
    return np.load(GOLDEN)


def drawn(golden):
    """(features, noise, prediction), as the golden's text says."""
    batch, frames, rows, columns, width = golden["mfr_case"][:5]
    places, generator = frames * rows * columns, np.random.default_rng(4101)
    features = generator.standard_normal((batch, places, width), np.float32)
    noise = generator.random((batch, places), np.float32)
    prediction = generator.standard_normal((batch, places, width), np.float32)
    return [torch.from_numpy(one) for one in (features, noise, prediction)]


def test_similarity_is_as_stored(golden):
    features, _, _ = drawn(golden)
    similarity = feature_similarity(features)
    np.testing.assert_allclose(similarity[:, ::3, ::3], golden["mfr/cosine"], atol=TOLERANCE, rtol=0)
    assert similarity.std() > 0.1


@pytest.mark.parametrize("group", [1, 3, 4, 8])
def test_masks_are_those_stored(golden, group):
    features, noise, _ = drawn(golden)
    count = int(golden["mfr_case"][5])
    mask = correlated_mask(feature_similarity(features), noise, count, group)
    assert (mask.numpy() == golden[f"mfr/mask_group_{group}"]).all()
    seeds = torch.from_numpy(golden[f"mfr/seeds_group_{group}"])
    assert mask.gather(1, seeds).all() and (noise.argmin(1) == seeds[:, 0]).all()
    assert (mask.sum(1) == count).all()


def test_of_equals_the_lower_place_is_hidden(golden):
    features, noise, _ = drawn(golden)
    count, group = map(int, golden["mfr_case"][5:])
    ties = correlated_mask(torch.zeros(len(noise), noise.shape[1], noise.shape[1]), noise, count, group)
    assert (ties.numpy() == golden["mfr/mask_all_ties"]).all()
    rounded = torch.from_numpy(np.round(feature_similarity(features).numpy(), 1))
    assert (correlated_mask(rounded, noise, count, group).numpy() == golden["mfr/mask_rounded_similarity"]).all()


def test_losses_are_as_stored(golden):
    features, _, prediction = drawn(golden)
    mask = torch.from_numpy(golden[f"mfr/mask_group_{golden['mfr_case'][6]}"])
    one = torch.zeros_like(mask)
    one[0, 3] = True
    target = normalised(features)
    for name, given, hidden in (
        ("loss", target, mask),
        ("loss_not_normalised", features, mask),
        ("loss_nothing_masked", target, mask & False),
        ("loss_one_masked", target, one),
        ("loss_all_masked", target, mask | True),
    ):
        loss = feature_regression_loss(prediction, given, hidden)
        assert abs(loss.item() - float(golden[f"mfr/{name}"])) < TOLERANCE, name


@pytest.mark.parametrize("count, group", [(1, 1), (7, 1), (7, 7), (7, 3), (29, 4)])
def test_exactly_that_many_places_are_hidden(count, group):
    torch.manual_seed(0)
    similarity, noise = torch.randn(5, 30, 30).mul(3).round(), torch.rand(5, 30)
    mask = correlated_mask(similarity, noise, count, group)
    assert (mask.sum(1) == count).all() and len(mask.unique(dim=0)) > 1
    if group == 1:
        assert (mask == (noise.argsort(1).argsort(1) < count)).all(), "plain random masking"


def test_a_group_is_what_is_alike():
    kinds = torch.arange(24).repeat(2, 1) // 4  # six kinds of four places
    similarity = (kinds[:, :, None] == kinds[:, None, :]).float()
    mask = correlated_mask(similarity, torch.rand(2, 24, generator=torch.Generator().manual_seed(1)), 8, 4)
    assert (mask.unflatten(1, (6, 4)).sum(2).sort(1).values == torch.tensor([0, 0, 0, 0, 4, 4])).all()


def test_counts_and_groups_that_cannot_be_are_refused():
    assert masked_count(0.15, 16) == 2 and masked_count(0.01, 16) == 1
    for ratio in (0.0, 1.0, -0.1, 1.5):
        with pytest.raises(ValueError, match="`ratio`.*must lie between 0 and 1"):
            masked_count(ratio, 16)
    with pytest.raises(ValueError, match="hides all 16 places"):
        masked_count(0.99, 16)
    for group in (0, 3):
        with pytest.raises(ValueError, match=f"`group` {group} must lie from 1 to the 2 places"):
            correlated_mask(torch.zeros(1, 16, 16), torch.rand(1, 16), 2, group)
    with pytest.raises(ValueError, match="'mean' only"):
        mvm_loss("mfr", torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1), reduction="original")
    with pytest.raises(ValueError, match="the mask the same without the width"):
        feature_regression_loss(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), torch.ones(1, 3).bool())


def test_spread_is_1_for_independent_features_and_0_for_equal_ones():
    torch.manual_seed(0)
    assert 0.95 < feature_spread(normalised(torch.randn(2, 200, 64))) < 1.05
    assert feature_spread(normalised(torch.randn(2, 1, 64).expand(-1, 30, -1))) < 1e-6


SWIN = {
    "embed_dim": 8,
    "depths": (1, 1, 1),
    "num_heads": (1, 2, 2),
    "window_size": (2, 2, 2),
    "patch_size": 4,
    "drop_path_rate": 0.0,
}
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT |= {"intermediate_size": 32, "image_size": 64, "patch_size": 16}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SMALL |= {"vocab_size": 60, "video_grid_size": 4, "initializer_range": 0.1, "clip_summary": True}
SMALL |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"), 0.0)


def model_of(vision=SWIN, more=(), **options) -> VioletForPreTraining:
    torch.manual_seed(0)
    targets = {"mfr": {"group": 2, **options}, **{name: {} for name in more}}
    return VioletForPreTraining(VioletConfig(vision_config=vision, mvm_targets=targets, **SMALL)).eval()


def batch(correlated=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    given = {
        "pixel_values_videos": torch.randn(3, 2, 3, 64, 64, generator=generator),
        "input_ids": torch.randint(5, 60, (3, 6), generator=generator),
        "bool_masked_pos": torch.rand(3, 2, 4, 4, generator=generator) < 0.3,
    }
    if correlated:
        given |= {"correlated": torch.tensor([True, False, True]), "correlated_count": 5}
        given |= {"correlated_noise": torch.rand(3, 32, generator=generator)}
    return given


MFR = {"mvm_mfr": 1.0}


def test_features_at_hidden_places_change_no_prediction(monkeypatch):
    model, given = model_of(), batch()
    mask, plain = given["bool_masked_pos"], type(model.violet.video_encoder).encode
    seen = []

    def encode(self, pixels, bool_masked_pos=None):
        states = plain(self, pixels, bool_masked_pos)
        other = torch.randn(states.last_hidden_state.shape, generator=torch.Generator().manual_seed(len(seen)))
        seen.append(torch.where(mask.unsqueeze(-1), other, states.last_hidden_state))
        states.last_hidden_state = seen[-1]
        return states

    monkeypatch.setattr(type(model.violet.video_encoder), "encode", encode)
    one, other = (model(**given, objectives=MFR | {"mlm": 1.0}, labels=given["input_ids"]) for _ in range(2))
    assert (seen[0] - seen[1]).abs().max() > 1, "the features differ"
    assert torch.equal(one.mvm_predictions["mfr"], other.mvm_predictions["mfr"])
    assert torch.equal(one.mlm_logits, other.mlm_logits), "nor through the summary of the clip"
    assert one.losses["mvm_mfr"] != other.losses["mvm_mfr"], "the target is the features"


def test_the_loss_is_of_the_clean_features_at_the_hidden_places():
    model, given = model_of(), batch(correlated=True)
    output = model(**given, objectives=MFR)
    features = model.violet.video_encoder.encode(given["pixel_values_videos"]).last_hidden_state
    mask = given["bool_masked_pos"].clone()
    drawn_masks = correlated_mask(feature_similarity(features.flatten(1, 3)), given["correlated_noise"], 5, 2)
    mask[[0, 2]] = drawn_masks.view(mask.shape)[[0, 2]]
    assert torch.equal(output.bool_masked_pos, mask) and not torch.equal(mask, given["bool_masked_pos"])
    apart = output.mvm_predictions["mfr"] - torch.nn.functional.layer_norm(features, (32,), eps=1e-6)
    torch.testing.assert_close(output.losses["mvm_mfr"], apart[mask].square().mean())
    assert 0 < output.measures["spread_mfr"] < 1.5
    assert model(**given).losses.keys() >= {"mvm_mfr"}, "asked for by its input"


def test_other_objectives_of_the_batch_read_the_same_pass():
    model, given = model_of(more=["pixel"]), batch(correlated=True)
    target = {"pixel": torch.randn(3, 2, 3, 64, 64)}
    output = model(**given, mvm_targets=target, objectives=MFR | {"mvm_pixel": 1.0})
    expected = mvm_loss("pixel", output.mvm_predictions["pixel"], target["pixel"], output.bool_masked_pos)
    torch.testing.assert_close(output.losses["mvm_pixel"], expected)


@pytest.mark.parametrize("hide", ["features", "pixels"])
def test_every_parameter_that_it_trains_gets_a_gradient(hide):
    model = model_of(hide=hide).train()
    model.freeze_unused(MFR)
    model(**batch(correlated=True), objectives=MFR).loss.backward()
    assert (model.mvm_heads["mfr"].hidden is None) == (hide == "pixels")
    names = ("mvm_heads", "violet.video_encoder", "violet.fusion")
    without = [
        name for name, one in model.named_parameters() if name.startswith(names) and one.requires_grad
        and (one.grad is None or one.grad.abs().sum() == 0)
    ]  # fmt: skip
    assert all("key.bias" in name or "hidden_order" in name for name in without), without


def test_the_target_has_no_gradient():
    assert not normalised(torch.randn(2, 3, requires_grad=True)).requires_grad
    model = model_of(hide="pixels").train()
    head = model.mvm_heads["mfr"]
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)  # a prediction that no state reaches: only the target could move the encoder
    model(**batch(), objectives=MFR).loss.backward()
    assert all(one.grad is None or not one.grad.any() for one in model.violet.parameters())
    assert head.bias.grad.abs().sum() > 0


def test_hidden_pixels_are_not_seen_at_all():
    model, given = model_of(hide="pixels"), batch()
    shown = given["pixel_values_videos"]
    cells = given["bool_masked_pos"].repeat_interleave(16, 2).repeat_interleave(16, 3).unsqueeze(2)
    changed = torch.where(cells, shown.flip(0), shown)
    one, other = (model(**{**given, "pixel_values_videos": x}, objectives=MFR) for x in (shown, changed))
    assert torch.equal(one.mvm_predictions["mfr"], other.mvm_predictions["mfr"])
    assert one.losses["mvm_mfr"] != other.losses["mvm_mfr"]


def test_attention_groups_patches_of_a_frame():
    model, given = model_of(VIT, similarity="attention"), batch(correlated=True)
    encoder = model.violet.vision_encoder
    between = encoder.patch_attention(model.violet.vision_model, given["pixel_values_videos"])
    assert between.shape == (3, 32, 32) and (between[:, :16, 16:] == 0).all() and (between[:, :16, :16] > 0).all()
    rows = between.sum(-1)
    assert (rows < 1).all() and (rows > 0.5).all(), "the class token has the rest"
    output = model(**given, objectives=MFR)
    expected = correlated_mask(between, given["correlated_noise"], 5, 2).view(3, 2, 4, 4)
    assert torch.equal(output.bool_masked_pos[0], expected[0])
    assert model.violet.vision_model.config._attn_implementation == "sdpa", "the kernel is put back"
    with pytest.raises(ValueError, match="`similarity` 'attention'.*'violet_vision'.*use 'cosine'"):
        model_of(similarity="attention")


def test_what_cannot_be_is_refused_by_name():
    for options, said in (
        ({"similarity": "dot"}, "`similarity` 'dot' is unknown; use cosine, attention"),
        ({"hide": "words"}, "`hide` 'words' is unknown; use features, pixels"),
        ({"group": 0}, "`group` must be 1 or more"),
        ({"group": "four"}, "`group` must be a number"),
        ({"channels": 3}, "no option channels; it has: group, similarity, hide"),
    ):
        with pytest.raises(ValueError, match=said):
            model_of(**options)
    given = batch(correlated=True)
    with pytest.raises(ValueError, match="`correlated` needs `correlated_noise`"):
        model_of()(**{**given, "correlated_noise": None}, objectives=MFR)
    with pytest.raises(ValueError, match="`group` 6 must lie from 1 to the 5 places"):
        model_of(group=6)(**given, objectives=MFR)
    with pytest.raises(ValueError, match="`bool_masked_pos` has shape"):
        model_of()(**{**given, "bool_masked_pos": given["bool_masked_pos"][:, :1]}, objectives=MFR)
    with pytest.raises(ValueError, match="needs `bool_masked_pos`"):
        model_of()(**{**given, "bool_masked_pos": None}, objectives=MFR)


def test_a_fusion_without_states_of_the_video_is_refused(monkeypatch):
    model = model_of()
    plain = model.violet.fusion.forward
    monkeypatch.setattr(
        model.violet.fusion, "forward", lambda *given, **named: {"text": plain(*given, **named)["text"]}
    )
    with pytest.raises(ValueError, match="`fusion_model_config.model_type` 'bert' gives no states of the video"):
        model(**batch(), objectives=MFR)


def test_features_that_are_all_alike_are_warned_of():
    objective = model_of().objectives["mvm_mfr"]
    assert objective.warning({"spread_mfr": 0.5}) is None and objective.warning({}) is None
    assert "differ by 0.05 only" in objective.warning({"spread_mfr": 0.05})
    assert masked_features.LEAST_SPREAD == 0.1


def test_it_is_saved_and_loaded(tmp_path):
    model, given = model_of(), batch(correlated=True)
    model.save_pretrained(tmp_path)
    again = VioletForPreTraining.from_pretrained(tmp_path).eval()
    assert again.config.mvm_targets == {"mfr": {"group": 2}}
    assert torch.equal(again(**given, objectives=MFR).loss, model(**given, objectives=MFR).loss)

"""The contrastive losses against the outputs of the systems' own code, and at their edges."""

import json
import math

import numpy as np
import pytest
import torch

from violet.modeling_violet.contrastive_losses import (
    CONTRASTS,
    asymmetric_contrast,
    form_arguments,
    gather_sets,
    mil_nce,
    nearest_in_time,
    symmetric_contrast_with_masks,
    temporal_contrast,
)
from violet.modeling_violet.losses import IGNORE_INDEX

shared = pytest.mark.shared
CLIP_VIP = {
    "NCELearnableTempLoss": "symmetric",
    "NCELearnableTempDSLLoss": "dual_softmax",
    "VidImgNCELearnableTempLoss": "pooled",
    "VidImgDivideNCELearnableTempLoss": "vs_fc",
    "NCELearnableTempLoss_vs_vc": "vs_vc",
    "NCELearnableTempLoss_vs_vc_fc": "vs_vc_fc",
    "NCELearnableTempLoss_vsc": "vsc",
    "NCELearnableTempLoss_vsc_fc": "vsc_fc",
}
SETS = ("videos", "texts", "frames", "frame_captions")
CASES = ("random", "captions_are_subtitles", "all_alike", "one_row", "all_equal_sources")
MASKS = {"no_mask": None, "all_valid": [1] * 6, "some": [1, 0, 1, 1, 0, 1], "one_valid": [0, 1, 0, 0, 0, 0]}
MASKS["none_valid"] = [0] * 6
_archives: dict[str, dict[str, np.ndarray]] = {}


@pytest.fixture
def archive(shared_folder):
    def read(name: str) -> dict[str, np.ndarray]:
        if name not in _archives:
            _archives[name] = dict(np.load(shared_folder / "goldens" / f"{name}_public.npz"))
        return _archives[name]

    return read


def unit(seed: int, *shape: int) -> torch.Tensor:
    x = np.random.default_rng(seed).standard_normal(shape)
    return torch.from_numpy(x / np.linalg.norm(x, axis=-1, keepdims=True))


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def four_sources(case: str, seed: int = 2100) -> dict[str, torch.Tensor]:
    if case == "all_alike":
        return dict.fromkeys(SETS, unit(seed + 34, 1, 16).expand(5, -1))
    start, rows = (30, 1) if case == "one_row" else (20, 5)
    found = {name: unit(seed + start + number, rows, 16) for number, name in enumerate(SETS)}
    if case == "captions_are_subtitles":
        found["frame_captions"] = found["texts"]
    if case == "all_equal_sources":
        found = dict.fromkeys(SETS, found["texts"])
    return found


def compute(name: str, sets: dict[str, torch.Tensor], **options) -> torch.Tensor:
    form = CONTRASTS[name]
    return form.loss(**{key: sets[key] for key in form.sets}, **options)


def assert_value(found: torch.Tensor, expected, tolerance: float = 1e-9):
    expected = float(np.asarray(expected).item())
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(expected, rel=tolerance, abs=1e-12)


@shared
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("original", CLIP_VIP)
def test_clip_vip_losses_and_their_gradients(archive, original, case):
    for logit_scale in (4.6, 1.0):
        sets = {name: rows.clone().requires_grad_() for name, rows in four_sources(case).items()}
        scale = torch.tensor(logit_scale, dtype=torch.float64, requires_grad=True)
        loss = compute(CLIP_VIP[original], sets, scale=scale.exp())
        key = f"{original}/{case}/{logit_scale}"
        assert_value(loss, archive("clip_vip")[f"loss/{key}"])
        loss.backward()
        if case == "random":
            assert_value(scale.grad, archive("clip_vip")[f"grad_scale/{key}"])
        if f"grad_v/{key}" in archive("clip_vip"):
            for letter, name in zip("vsfc", SETS, strict=True):
                expected = archive("clip_vip")[f"grad_{letter}/{key}"]
                assert np.abs(sets[name].grad.numpy() - expected).max() <= 1e-6 * np.abs(expected).max()


@shared
@pytest.mark.parametrize("case", CASES)
def test_clip_vip_losses_of_a_fixed_temperature(archive, case):
    sets = four_sources(case)
    several = {**sets, "texts": sets["texts"][:, None]}
    for temperature in (0.05, 1.0):
        key = f"{case}/{temperature}"
        assert_value(
            compute("symmetric", sets, scale=1 / temperature), archive("clip_vip")[f"loss/NCEContrastiveLoss/{key}"]
        )
        assert_value(
            compute("mil_nce", several, scale=1 / temperature),
            archive("clip_vip")[f"loss/MILNCEContrastiveLoss/{key}"],
        )


@shared
def test_clip_vip_three_texts_a_video_hard_negatives_and_triplets(archive):
    found, sets = archive("clip_vip"), four_sources("random")
    for temperature in (0.05, 1.0):
        loss = mil_nce(videos=sets["videos"], texts=unit(2140, 15, 16).view(5, 3, 16), scale=1 / temperature)
        assert_value(loss, found[f"loss/MILNCEContrastiveLoss/three_texts/{temperature}"])
    for negatives in (1, 4):
        loss = compute("hard_negatives", sets, negatives=negatives)
        assert_value(loss, found[f"loss/HardNegLoss/random/{negatives}"])
    for order in (False, True):
        for hardest in (False, True):
            name = f"{'order' if order else 'cosine'}_{'hardest' if hardest else 'all'}"
            loss = compute("triplet", sets, margin=0.2, order=order, hardest=hardest)
            assert_value(loss, found[f"loss/TripletContrastiveLoss/random/{name}"])


@shared
def test_hd_vila_losses(archive):
    found, videos, texts = archive("hd_vila"), unit(6506, 6, 16), unit(6516, 6, 16)
    cases = {
        "random": (videos, texts),
        "one_row": (unit(6501, 1, 16), unit(6511, 1, 16)),
        "all_alike": (unit(6520, 1, 16).expand(4, -1),) * 2,
    }
    names = {name for name in found if name.startswith("loss/")}
    for case, (one, other) in cases.items():
        sets = {"videos": one, "texts": other}
        for temperature in (0.05, 0.08):
            name = f"loss/{case}/NCEContrastiveLoss/{temperature}"
            if name in names:
                names.remove(name)
                assert_value(compute("symmetric", sets, scale=1 / temperature), found[name])
                assert_value(2 * compute("symmetric_mean", sets, scale=1 / temperature), found[name])
    sets = {"videos": videos, "texts": texts}
    for negatives in (1, 4):
        expected = found[f"loss/random/HardNegLoss/{negatives}"]
        assert_value(compute("hard_negatives", sets, negatives=negatives), expected)
    for hardest in (0, 1):
        expected = found[f"loss/random/TripletContrastiveLoss/{hardest}"]
        assert_value(compute("triplet", sets, margin=0.2, hardest=bool(hardest)), expected)
    loss = mil_nce(videos=videos, texts=unit(6530, 18, 16).view(6, 3, 16), scale=20.0)
    assert_value(loss, found["loss/random/MILNCEContrastiveLoss/0.05"], 1e-6)  # theirs is in float32
    assert len(names) == 5


@shared
def test_lf_vila_global_losses(archive):
    for name, videos, texts in (
        ("random", unit(5806, 6, 16), unit(5816, 6, 16)),
        ("one_row", unit(5801, 1, 16), unit(5811, 1, 16)),
        ("all_alike", *[unit(5820, 1, 16).expand(4, -1)] * 2),
    ):
        loss = compute("symmetric", {"videos": videos, "texts": texts}, scale=20.0)
        assert_value(loss, archive("lf_vila")[f"losses/global/{name}"])


@shared
@pytest.mark.parametrize(
    "case",
    [
        "base", "no_other_negatives", "three_candidates", "all_clips", "one_candidate", "two_samples", "one_sample",
        "one_clip", "many", "all_tied",
    ],
)  # fmt: skip
def test_lf_vila_temporal_contrast(archive, case):
    found = archive("lf_vila")
    sizes = json.loads(str(found["configs"]))["losses"][case]
    rows, places, seed = sizes["batch"], sizes["clips"], sizes["seed"]
    sentences, clips = unit(seed, rows, places, 16), unit(seed + 1, rows, places, 16)
    if case != "all_tied":
        clips = clips + 0.3 * sentences
        clips = clips / clips.norm(dim=-1, keepdim=True)
    drawn = [
        torch.from_numpy(found[f"losses/time/{case}/draw_{name}"]).view(rows, places)
        for name in ("keys", "candidates", "negatives")
    ]
    keys, candidates = drawn[0][:, : sizes["keys"]], drawn[1][:, : sizes["candidates"]]
    for form in ("original", "corrected"):
        leaves = [clips.clone().requires_grad_(), sentences.clone().requires_grad_()]
        loss = temporal_contrast(
            clips=leaves[0], sentences=leaves[1], scale=20.0, keys=keys, candidates=candidates,
            negatives=drawn[2][:, 0], num_negatives=sizes["negatives"], corrected=form == "corrected",
        )  # fmt: skip
        expected = float(found[f"losses/time/{case}/{form}"].item())
        assert_value(loss, 0.0 if math.isnan(expected) else expected)
        loss.backward()
        if loss.item() == 0:
            assert all(not leaf.grad.any() for leaf in leaves), "no row is left: no gradient"


@shared
def test_lf_vila_labels_of_all_draws(archive):
    table = torch.from_numpy(archive("lf_vila")["losses/time/labels_of_all_draws_of_four"]).view(-1, 6)
    keys, candidates, expected = table[:, :2], table[:, 2:4], table[:, 4:]
    assert len(table) == 144 and (expected < 0).sum() == 24
    for corrected in (True, False):  # with two candidates both rules say the same
        assert torch.equal(
            nearest_in_time(keys, candidates, corrected), expected.masked_fill(expected < 0, IGNORE_INDEX)
        )
    three = nearest_in_time(torch.tensor([[2]]), torch.tensor([[1, 3, 0]]))
    assert three.item() == IGNORE_INDEX, "a tie for the nearest"
    assert nearest_in_time(torch.tensor([[2]]), torch.tensor([[1, 3, 0]]), corrected=False).item() == 0
    assert nearest_in_time(torch.tensor([[2]]), torch.tensor([[0, 2, 4]])).item() == 1
    assert nearest_in_time(torch.tensor([[2]]), torch.tensor([[0, 2, 4]]), corrected=False).item() == IGNORE_INDEX


# --- VATT ---


def vatt_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Videos, sound and texts, three a video; of any length."""
    return normal(3330, 6, 16), normal(3331, 6, 1, 16), normal(3332, 18, 16).view(6, 3, 16)


@shared
@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("name", MASKS)
def test_vatt_losses_and_their_gradients(archive, name, temperature):
    found, (videos, sound, texts) = archive("vatt"), vatt_inputs()
    mask = None if MASKS[name] is None else torch.tensor(MASKS[name])
    some, key = torch.tensor(MASKS["some"]), f"{name}/{temperature}"
    videos, texts = videos.requires_grad_(), texts.requires_grad_()
    loss = asymmetric_contrast(videos, texts, mask, temperature)
    assert_value(loss, found[f"loss/asymmetric_text/{key}"])
    loss.backward()
    for leaf, part in ((videos, "video"), (texts, "text")):
        expected = found[f"loss/asymmetric_text/{key}/grad_{part}"].reshape(leaf.shape)
        np.testing.assert_allclose(leaf.grad, expected, rtol=1e-5, atol=1e-8)
    if name == "some":
        assert not texts.grad[~mask.bool()].any() and videos.grad[~mask.bool()].any(), "its video stays a negative"
    assert_value(asymmetric_contrast(videos, sound, mask, temperature), found[f"loss/asymmetric_audio/{key}"])
    symmetric = symmetric_contrast_with_masks(texts, videos, mask, None, temperature)
    assert_value(symmetric, found[f"loss/symmetric_text/{key}"])
    if mask is not None:
        both = symmetric_contrast_with_masks(texts, videos, mask, some, temperature)
        assert_value(both, found[f"loss/symmetric_text_both_masks_corrected/{key}"])
    if name == "some" and temperature == 0.07:
        only = symmetric_contrast_with_masks(texts, videos, None, some, temperature)
        assert_value(only, found["loss/symmetric_text_video_mask_only/some/0.07"])


@shared
def test_vatt_edges(archive):
    found, (videos, sound, texts) = archive("vatt"), vatt_inputs()
    unit_matrix, ones = torch.eye(6, 16, dtype=torch.float64), torch.ones(6, 16, dtype=torch.float64)
    for temperature in (0.07, 0.01):
        perfect = asymmetric_contrast(unit_matrix, unit_matrix[:, None], None, temperature)
        assert_value(perfect, found[f"loss/asymmetric_perfect/{temperature}"])
    perfect = symmetric_contrast_with_masks(unit_matrix[:, None], unit_matrix, None, None, 0.01)
    assert_value(perfect, found["loss/symmetric_perfect/0.01"])
    assert_value(asymmetric_contrast(ones, ones[:, None], None, 0.07), found["loss/asymmetric_all_alike/0.07"])
    alike = symmetric_contrast_with_masks(ones[:, None], ones, None, None, 0.07)
    assert_value(alike, found["loss/symmetric_all_alike/0.07"])
    one = asymmetric_contrast(videos[:1], texts[:1], None, 0.07)
    assert_value(one, found["loss/asymmetric_one_row/0.07"])
    one = asymmetric_contrast(videos[:1], texts[:1, :1], None, 0.07)
    assert_value(one, found["loss/asymmetric_one_row_one_text/0.07"])
    zero = torch.cat([torch.zeros_like(videos[:1]), videos[1:]])
    assert_value(asymmetric_contrast(zero, texts, None, 0.07), found["loss/asymmetric_zero_row/0.07"])
    mask = torch.from_numpy(found["loss/two_replicas_mask"])
    assert_value(asymmetric_contrast(videos, texts, mask, 0.07), found["loss/two_replicas_corrected"])
    some = torch.tensor(MASKS["some"])
    text, audio = asymmetric_contrast(videos, texts, some, 0.07), asymmetric_contrast(videos, sound, None, 0.07)
    for weights in ((1, 1), (1, 0.5), (0, 1)):
        name = f"loss/total/{weights[0]}_{weights[1]}"
        assert_value((weights[0] * text + weights[1] * audio) / sum(weights), found[name])


# --- what needs no archive ---


@pytest.mark.parametrize("name", [name for name in CONTRASTS if name not in ("temporal", "pooled")])
@pytest.mark.parametrize("rows", [1, 4])
def test_one_row_and_rows_that_are_all_alike_have_a_defined_loss(name, rows):
    form = CONTRASTS[name]
    one = torch.nn.functional.normalize(torch.randn(1, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    sets = {key: one.expand(rows, -1).clone().requires_grad_() for key in form.sets}
    if name in ("mil_nce", "asymmetric", "symmetric_with_masks"):
        sets["texts"] = one.expand(rows, 1, -1).clone().requires_grad_()
    needed = {"scale": torch.tensor(20.0), "negatives": 3}
    loss = form.loss(**sets, **{key: value for key, value in needed.items() if key in form_arguments(form)})
    loss.backward()
    floor = math.log(2) if name == "asymmetric" else 0.0
    if rows == 1:
        assert loss.item() == pytest.approx(floor, abs=1e-6)
    else:
        assert loss.item() > floor + 0.5 and math.isfinite(loss.item())
    assert all(torch.isfinite(leaf.grad).all() for leaf in sets.values())


def test_captions_that_are_the_subtitles_cost_what_the_subtitles_do():
    """Of `vsc`: both of a clip's losses are equal then (clip_vip.md, proof 5)."""
    videos, texts = unit(1, 5, 8), unit(2, 5, 8)
    whole = compute("vsc", {"videos": videos, "texts": texts, "frame_captions": texts}, scale=5.0)
    scores = 5.0 * videos @ texts.t()
    own, diagonal = scores.diagonal(), torch.eye(5, dtype=torch.bool)
    beside = scores.masked_fill(diagonal, float("-inf"))
    one = (torch.cat([own[:, None], beside, beside], 1).logsumexp(1) - own).mean()
    back = (scores.logsumexp(0) - own).mean()
    torch.testing.assert_close(whole, 2 * (one + back))


def test_as_many_hard_negatives_as_rows_are_refused():
    sets = {"videos": unit(1, 5, 8), "texts": unit(2, 5, 8)}
    with pytest.raises(ValueError, match="`negatives` 5 must be below the batch of 5 rows"):
        compute("hard_negatives", sets, negatives=5)
    with pytest.raises(ValueError, match="`negatives` must be 1 or more, got 0"):
        compute("hard_negatives", sets, negatives=0)


@pytest.mark.parametrize("name", ["mil_nce", "asymmetric", "symmetric_with_masks"])
def test_missing_texts_change_nothing(name):
    """What stands in their place has neither weight nor gradient, and equals rows with fewer texts."""
    videos, texts = unit(1, 4, 8), unit(2, 4, 3, 8)
    mask = torch.tensor([[1, 1, 0]] * 4)
    fewer = compute(name, {"videos": videos, "texts": texts[:, :2]}, scale=10.0)
    if name == "mil_nce":
        torch.testing.assert_close(
            compute(name, {"videos": videos, "texts": texts}, scale=10.0, text_mask=mask), fewer
        )
    mask = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0]])
    leaf = texts.clone().requires_grad_()
    loss = compute(name, {"videos": videos, "texts": leaf}, scale=10.0, text_mask=mask)
    loss.backward()
    assert loss > 0 and not leaf.grad[[1, 3]].any() and leaf.grad[[0, 2]].abs().sum((1, 2)).min() > 0
    none = compute(name, {"videos": videos, "texts": texts}, scale=10.0, text_mask=torch.zeros_like(mask))
    assert none == 0


def draws(rows: int, places: int = 4) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng(3)
    drawn = [torch.from_numpy(np.stack([generator.permutation(places) for _ in range(rows)])) for _ in range(3)]
    return {"keys": drawn[0][:, :2], "candidates": drawn[1][:, :2], "negatives": drawn[2][:, 0]}


def test_the_same_video_is_no_negative_of_temporal_contrast():
    clips, sentences = unit(1, 3, 4, 8), unit(2, 3, 4, 8)
    clips[1] = clips[0]
    settings = {"sentences": sentences, "scale": 20.0, **draws(3)}
    ids = torch.tensor([7, 7, 9])
    told = temporal_contrast(clips=clips, video_ids=ids, **settings)
    plain = temporal_contrast(clips=clips, **settings)
    assert told < plain - 1e-3
    other = clips.clone()
    other[2] = unit(5, 4, 8)
    assert temporal_contrast(clips=other, video_ids=ids, **settings) != told, "others still are"


def test_a_sentence_that_is_none_has_no_part_in_temporal_contrast():
    clips, sentences = unit(1, 3, 4, 8), unit(2, 3, 4, 8)
    mask = torch.ones(3, 4, dtype=torch.long)
    mask[0, 2:] = mask[1, 3:] = 0
    leaf = sentences.clone().requires_grad_()
    loss = temporal_contrast(clips=clips, sentences=leaf, scale=20.0, sentence_mask=mask, **draws(3))
    loss.backward()
    assert loss > 0 and not leaf.grad[mask == 0].any() and leaf.grad[mask == 1].any()
    nothing = temporal_contrast(
        clips=clips, sentences=sentences, scale=20.0, sentence_mask=torch.zeros_like(mask), **draws(3)
    )
    assert nothing == 0


def test_one_process_gathers_its_own_rows():
    sets = {"videos": unit(1, 3, 8), "texts": unit(2, 3, 8)}
    assert all(torch.equal(rows, sets[name]) for name, rows in gather_sets(sets).items())

"""The flow between modalities: stored values of its formulas, identities, what is refused, and a recorded pass."""

from pathlib import Path

import numpy as np
import pytest
import torch

from violet.evaluation.modality_flow import ModalityFlow, masks_of_groups
from violet.modeling_violet.tokens import Tokens

GOLDEN = Path(__file__).parents[2] / "../shared/goldens/visual_parsing_public.npz"
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.exists():
        pytest.skip("needs ../shared")
    return np.load(GOLDEN)


def attentions(golden) -> list[torch.Tensor]:
    """Each layer's attention, as the golden's text says, float32."""
    batch, length, num_video, layers, heads = golden["case"]
    generator = np.random.default_rng(4100)
    text = np.zeros((batch, length), bool)
    for row in text:
        row[num_video : num_video + generator.integers(2, length - num_video + 1)] = True
    assert (text == golden["text"]).all()
    padding = ~(text | golden["video"])
    found = []
    for _ in range(layers):
        scores = 2 * generator.standard_normal((batch, heads, length, length), np.float32).astype(np.float64)
        scores = np.where(padding[:, None, None, :], -1e9, scores)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        found.append(torch.from_numpy((weights / weights.sum(-1, keepdims=True)).astype(np.float32)))
    return found


def flow_of(layers, video, text, **options) -> ModalityFlow:
    flow = ModalityFlow(video, text, **options)
    for weights in layers:
        flow.add(weights)
    return flow


@pytest.mark.parametrize("group", ["imf", "imf_residual_0.25", "imf_without_special", "imf_sequence_to_sequence"])
def test_the_stored_values_are_met(golden, group):
    layers, options = attentions(golden), {}
    video, text = (torch.from_numpy(golden[name]) for name in ("video", "text"))
    if group == "imf_residual_0.25":
        options["residual"] = 0.25
    if group == "imf_without_special":
        video, text = video.clone(), text.clone()
        video[:, ::5] = False
        text[torch.arange(len(text)), text.int().argmax(1)] = False
    if group == "imf_sequence_to_sequence":
        length = video.shape[1]
        seen = torch.zeros(length, length, dtype=torch.bool)
        seen[:, : golden["case"][2]] = True
        seen[golden["case"][2] :] |= torch.ones(length, length).tril().bool()[golden["case"][2] :]
        layers = [one * seen for one in layers]
        layers = [one / one.sum(-1, keepdim=True).clamp(min=1e-30) for one in layers]
    flow = flow_of(layers, video, text, **options)
    values = flow.values()
    assert values["text_from_video"].std() > 0.001, "the compared values differ"
    for direction in ("text_from_video", "video_from_text"):
        for stored, own in (
            (f"{direction}", values[direction]),
            (f"corrected_{direction}", values[f"{direction}_corrected"]),
            (f"layers_{direction}", torch.stack(flow.layers[direction], 1)),
        ):
            np.testing.assert_allclose(own, golden[f"{group}/{stored}"], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(values["imf"], golden[f"{group}/imf"], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(values["imf_corrected"], golden[f"{group}/corrected_imf"], atol=TOLERANCE, rtol=0)
    if group == "imf_sequence_to_sequence":
        assert (values["video_from_text"] == 0).all()


SIZES = (7, 4)


def masks(padding=0):
    video = torch.zeros(2, sum(SIZES) + padding, dtype=torch.bool)
    text = video.clone()
    video[:, : SIZES[0]] = True
    text[:, SIZES[0] : sum(SIZES)] = True
    return video, text


LENGTH = sum(SIZES)


def random_attention(layers=3, length=LENGTH, visible=None):
    torch.manual_seed(0)
    scores = torch.randn(layers, 2, 3, length, length)
    if visible is not None:
        scores = scores.masked_fill(~visible, float("-inf"))
    return list(scores.softmax(-1))


@pytest.mark.parametrize("depth", [1, 2, 6])
@pytest.mark.parametrize("residual", [0.0, 0.5, 0.9])
def test_uniform_attention_gives_1_at_any_depth(depth, residual):
    uniform = torch.full((2, 3, sum(SIZES), sum(SIZES)), 1 / sum(SIZES))
    flow = flow_of([uniform] * depth, *masks(), residual=residual)
    values = flow.values()
    for name in ("text_from_video_corrected", "video_from_text_corrected", "imf_corrected"):
        assert (values[name] - 1).abs().max() < 1e-5
    if depth == 1:
        expected = (1 - residual) * SIZES[0] / sum(SIZES)
        assert (values["text_from_video"] - expected).abs().max() < 1e-6


def test_nothing_flows_between_blocks_and_heads_and_places_do_not_matter():
    video, text = masks()
    apart = (video[0][:, None] & video[0]) | (text[0][:, None] & text[0])
    values = flow_of(random_attention(visible=apart), video, text).values()
    assert (values["imf"] == 0).all() and (values["imf_corrected"] == 0).all()
    layers = random_attention()
    order = torch.cat([torch.randperm(SIZES[0]), SIZES[0] + torch.randperm(SIZES[1])])
    moved = [one[:, [2, 0, 1]][:, :, order][..., order] for one in layers]
    one, other = (flow_of(given, video, text).values() for given in (layers, moved))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-6, rtol=0)
    assert (flow_of(layers[::-1], video, text).values()["imf"] - one["imf"]).abs().max() > 1e-4, "order matters"


def test_padding_changes_nothing_to_the_bit():
    longer = [torch.nn.functional.pad(one, (0, 3, 0, 3)) for one in random_attention()]
    for one in longer:
        one[:, :, -3:, :3] = 1 / 3  # what padding itself sees
    ours = flow_of(random_attention(), *masks()).values()
    padded = flow_of(longer, *masks(padding=3)).values()
    for name, value in ours.items():
        torch.testing.assert_close(padded[name], value, atol=2e-7, rtol=0)


def test_the_flow_into_some_rows_and_from_each_token():
    video, text = masks()
    flow = flow_of(random_attention(), video, text)
    into = flow.into(text)
    torch.testing.assert_close(into["from_video"], flow.values()["text_from_video"])
    torch.testing.assert_close(into["from_video_corrected"], flow.values()["text_from_video_corrected"])
    torch.testing.assert_close(into["from_video"] + into["from_text"], torch.ones(2))
    first = torch.zeros_like(text)
    first[:, SIZES[0]] = True
    assert (flow.into(first)["from_video"] - into["from_video"]).abs().max() > 1e-3
    torch.testing.assert_close(flow.sources(text)[:, : SIZES[0]].sum(1), into["from_video"])
    with pytest.raises(ValueError, match="`rows` holds tokens that do not count"):
        flow_of(random_attention(length=14), *masks(padding=3)).into(torch.ones(2, 14, dtype=torch.bool))


def test_what_has_no_flow_is_refused():
    video, text = masks()
    for residual in (-0.1, 1.0, 1.5):
        with pytest.raises(ValueError, match=r"`residual`: must lie in \[0, 1\)"):
            ModalityFlow(video, text, residual)
    with pytest.raises(ValueError, match="Pair 1 has no text token that counts"):
        ModalityFlow(video, torch.stack([text[0], text[0] & False]))
    with pytest.raises(ValueError, match="no token in both"):
        ModalityFlow(video, video)
    with pytest.raises(ValueError, match="in one sequence"):
        ModalityFlow(video, text).add(torch.ones(6, 3, 11, 11))
    with pytest.raises(ValueError, match="No layer's attention"):
        ModalityFlow(video, text).values()
    one_way = flow_of(random_attention(), video, text, both_ways=False)
    assert "imf" not in one_way.values() and {"text_from_video", "video_from_text"} <= set(one_way.values())
    with pytest.raises(ValueError, match="`imf` is no number for a rule"):
        one_way.imf()


def test_special_tokens_and_prompts_are_told_apart():
    grid = Tokens(torch.zeros(2, 1 + 2 * 5, 4), torch.ones(2, 11), (2, 2, 2), 1, 1)
    words = Tokens(torch.zeros(2, 4, 4), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]))
    prompt = Tokens(torch.zeros(2, 1, 4), torch.ones(2, 1))
    video, text = masks_of_groups({"video": grid, "prompt": prompt, "text": words})
    assert video.sum(1).tolist() == [11, 11] and text.sum(1).tolist() == [5, 4]
    special = torch.tensor([[1, 0, 1], [1, 1, 0]]).bool()  # the text side puts one token in front
    video, text = masks_of_groups({"video": grid, "prompt": prompt, "text": words}, False, special)
    assert video[0].nonzero()[:, 0].tolist() == [2, 3, 4, 5, 7, 8, 9, 10]
    assert text.nonzero().tolist() == [[0, 11], [0, 14], [1, 11]]
    with pytest.raises(ValueError, match="holds no text"):
        masks_of_groups({"video": grid})
    with pytest.raises(ValueError, match="`special_words`"):
        masks_of_groups({"video": grid, "text": words}, special_tokens=False)

import itertools
import statistics

import numpy as np
import pytest
import torch

from violet import VioletForRetrieval, named_configuration
from violet.evaluation.retrieval import dual_softmax, query_ranks, retrieval_measures, retrieval_metrics
from violet.evaluation.searching import score_gallery
from violet.modeling_violet import Tokens


def expected_metrics(scores, video_of_text):
    """By loops, over every order of each query's candidates in which higher scores come first."""
    texts, videos = len(scores), len(scores[0])
    queries = [(scores[text], {video_of_text[text]}) for text in range(texts)]
    back = []
    for video in range(videos):
        own = {text for text in range(texts) if video_of_text[text] == video}
        if own:
            back.append(([scores[text][video] for text in range(texts)], own))
    metrics = {}
    for way, asked in (("text_to_video", queries), ("video_to_text", back)):
        ranks, recalls = [], {1: [], 5: [], 10: []}
        for candidates, targets in asked:
            orders = [
                order
                for order in itertools.permutations(range(len(candidates)))
                if all(candidates[a] >= candidates[b] for a, b in itertools.pairwise(order))
            ]
            first = [1 + min(order.index(target) for target in targets) for order in orders]
            ranks.append(sum(first) / len(first))
            for count, recall in recalls.items():
                recall.append(sum(rank <= count for rank in first) / len(first))
        metrics |= {f"{way}_r{count}": statistics.mean(recall) for count, recall in recalls.items()}
        metrics |= {f"{way}_median_rank": statistics.median(ranks), f"{way}_mean_rank": statistics.mean(ranks)}
    return metrics


@pytest.mark.parametrize("levels", [2, 3, 1000])
def test_metrics_are_those_of_every_order_that_ties_leave_open(levels):
    generator = torch.Generator().manual_seed(levels)
    for texts, videos in ((6, 6), (7, 5), (4, 7)):
        scores = torch.randint(0, levels, (texts, videos), generator=generator).float()
        video_of_text = torch.randint(0, videos, (texts,), generator=generator)
        got = retrieval_metrics(scores, video_of_text)
        assert got == pytest.approx(expected_metrics(scores.tolist(), video_of_text.tolist()))


@pytest.mark.parametrize("levels", [5, 10**6])
def test_ranks_are_those_of_a_numpy_sort_with_ties(levels):
    """With ties, the mean over the places that equal scores take in a sort from either end."""
    generator = np.random.default_rng(levels)
    scores = generator.integers(0, levels, (300, 120)).astype(float)
    video_of_text = generator.integers(0, 120, 300)
    ascending = np.sort(-scores, axis=1)
    own = -scores[np.arange(300), video_of_text]
    first = 1 + np.array([np.searchsorted(row, value, "left") for row, value in zip(ascending, own, strict=True)])
    last = np.array([np.searchsorted(row, value, "right") for row, value in zip(ascending, own, strict=True)])
    assert (first < last).any() == (levels == 5)
    ranks, shares = (first + last) / 2, {}
    for count in (1, 5, 10):
        shares[count] = np.mean(np.clip((count - first + 1) / (last - first + 1), 0, 1))
    found = retrieval_metrics(torch.from_numpy(scores), video_of_text)
    assert found["text_to_video_mean_rank"] == pytest.approx(ranks.mean())
    assert found["text_to_video_median_rank"] == pytest.approx(np.median(ranks))
    assert {count: found[f"text_to_video_r{count}"] for count in shares} == pytest.approx(shares)
    targets = torch.zeros(300, 120, dtype=torch.bool)
    targets[torch.arange(300), torch.from_numpy(video_of_text)] = True
    parts = query_ranks(torch.from_numpy(scores), targets, at_a_time=37)
    assert np.allclose(parts["rank"], ranks)


def test_dual_softmax_takes_from_a_video_that_every_text_prefers_and_says_so():
    """Video 0 scores high with all texts; each text's own video stands out from the others all the same."""
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)) * 0.1 + 2 * torch.eye(6)
    scores[:, 0] += 3
    plain = retrieval_metrics(scores, range(6))
    dual = retrieval_metrics(scores, range(6), use_dual_softmax=True)
    assert plain["text_to_video_r1"] == pytest.approx(1 / 6)
    assert dual["dual_softmax_text_to_video_r1"] == 1 and not set(plain) & set(dual)
    product = scores.double().softmax(0) * scores.double().softmax(1)
    torch.testing.assert_close(dual_softmax(scores).exp(), product)
    far = torch.full((3, 3), -2000.0).fill_diagonal_(2000.0)
    assert retrieval_metrics(far, range(3), use_dual_softmax=True)["dual_softmax_text_to_video_mean_rank"] == 1


def test_intervals_draw_the_texts_of_a_video_together():
    scores = torch.eye(8).repeat_interleave(5, 0)
    scores[:10] = -scores[:10]
    measures = retrieval_measures(scores, torch.arange(8).repeat_interleave(5))
    texts, videos = (measures[f"{way}_r1"] for way in ("text_to_video", "video_to_text"))
    assert texts.value() == videos.value() == 0.75
    assert texts.interval() == videos.interval() and texts.interval()[0] < 0.6


def test_a_perfect_order_a_reversed_one_and_a_model_that_scores_all_alike():
    perfect = retrieval_metrics(torch.eye(20), torch.arange(20))
    assert perfect["text_to_video_r1"] == perfect["video_to_text_r1"] == 1
    assert perfect["text_to_video_median_rank"] == perfect["video_to_text_mean_rank"] == 1
    worst = retrieval_metrics(-torch.eye(20), list(range(20)))
    assert worst["text_to_video_r10"] == 0 and worst["video_to_text_median_rank"] == 20
    blind = retrieval_metrics(torch.zeros(20, 20), torch.arange(20))
    for way in ("text_to_video", "video_to_text"):
        for count in (1, 5, 10):
            assert blind[f"{way}_r{count}"] == pytest.approx(count / 20)
        assert blind[f"{way}_mean_rank"] == pytest.approx(10.5)


def test_what_has_no_order_or_no_target_is_refused():
    scores = torch.rand(3, 4)
    with pytest.raises(ValueError, match="1 of 12 scores are NaN"):
        retrieval_metrics(scores.index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(float("nan"))), [0, 1, 2])
    with pytest.raises(ValueError, match="outside of 0 to 3"):
        retrieval_metrics(scores, [0, 1, 4])
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(2,\)"):
        retrieval_metrics(scores, [0, 1])
    with pytest.raises(ValueError, match="one of either at least"):
        retrieval_metrics(torch.zeros(0, 4), [])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return VioletForRetrieval(named_configuration("violet-tiny")).eval()


@pytest.fixture(scope="module")
def gallery():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(5, 2, 3, 32, 32, generator=generator)
    input_ids = torch.randint(5, 512, (3, 7), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 4:] = 0
    return pixels, input_ids, attention_mask


@pytest.mark.parametrize("pairs_per_pass", [1, 4, 256])
def test_the_scores_are_the_models_whatever_is_scored_at_a_time(model, gallery, pairs_per_pass):
    pixels, input_ids, attention_mask = gallery
    with torch.no_grad():
        videos = Tokens.join([model.violet.encode_videos(part) for part in pixels.split(2)])
        expected = model(pixel_values_videos=pixels, input_ids=input_ids, attention_mask=attention_mask).logits
    scores = score_gallery(model, videos, input_ids, attention_mask, pairs_per_pass)
    assert scores.shape == (3, 5) and scores.std() > 1e-3 and not scores.requires_grad
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)


def test_a_video_and_a_text_are_encoded_once(model, gallery, monkeypatch):
    pixels, input_ids, attention_mask = gallery
    videos, calls = model.violet.encode_videos(pixels), []
    for name in ("video_encoder", "text_embeddings"):
        module = getattr(model.violet, name)
        monkeypatch.setattr(
            module, "forward", lambda *a, forward=module.forward, name=name: calls.append(name) or forward(*a)
        )
    score_gallery(model, videos, input_ids, attention_mask, pairs_per_pass=2)
    assert calls == ["text_embeddings"]


def test_videos_of_unequal_grids_make_no_gallery(model):
    encoded = [model.violet.encode_videos(torch.zeros(1, frames, 3, 32, 32)) for frames in (2, 3)]
    with pytest.raises(ValueError, match="unequal grids"):
        Tokens.join(encoded)
    with pytest.raises(ValueError, match="pairs_per_pass"):
        score_gallery(model, encoded[0], torch.ones(1, 3, dtype=torch.long), pairs_per_pass=0)

"""Losses and the order-keeping pooling, against numbers computed by hand."""

import math

import pytest
import torch
from torch import nn

from violet.modeling_violet.losses import IGNORE_INDEX, contrastive_loss, masked_cross_entropy
from violet.modeling_violet.projection import pool_in_order


def by_hand(scores: list[list[float]], positives: list[list[int]]) -> float:
    """Mean over rows and over columns of the negative logarithm of the positives' probability."""

    def one_way(scores, positives):
        rows = []
        for row, chosen in zip(scores, positives, strict=True):
            meant = sum(math.exp(score) for score, positive in zip(row, chosen, strict=True) if positive)
            rows.append(-math.log(meant / sum(math.exp(score) for score in row)))
        return sum(rows) / len(rows)

    def turned(table):
        return [list(column) for column in zip(*table, strict=True)]

    return (one_way(scores, positives) + one_way(turned(scores), turned(positives))) / 2


# With the unit matrix as texts and a scale of 1, the scores are the videos' own rows.
SCORES = [[0.9, 0.1, -0.4], [0.2, 0.5, 0.3], [-0.6, 0.7, 0.8]]
SCALE_1 = torch.tensor(0.0)


def test_cross_entropy_is_the_mean_over_the_labels_that_count():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, IGNORE_INDEX, 6, 0, IGNORE_INDEX], [IGNORE_INDEX] * 4 + [3]])
    kept = [(0, 0, 1), (0, 2, 6), (0, 3, 0), (1, 4, 3)]
    expected = -sum(logits[i, j].log_softmax(-1)[label] for i, j, label in kept) / len(kept)
    torch.testing.assert_close(masked_cross_entropy(logits, labels), expected)


def test_cross_entropy_of_no_label_is_zero_with_finite_gradients():
    logits = torch.randn(3, 4, requires_grad=True)
    loss = masked_cross_entropy(logits, torch.full((3,), IGNORE_INDEX))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(3, 4))


def test_cross_entropy_is_computed_in_float32():
    logits = (20 * torch.randn(64, 50, generator=torch.Generator().manual_seed(1))).to(torch.bfloat16)
    labels = torch.arange(64) % 50
    loss = masked_cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits.double(), labels).float())


def test_contrastive_loss_of_three_pairs():
    loss = contrastive_loss(torch.tensor(SCORES), torch.eye(3), SCALE_1)
    assert loss.item() == pytest.approx(by_hand(SCORES, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]), abs=1e-6)


def test_contrastive_loss_with_several_positives():
    positives = [[1, 0, 0], [0, 1, 1], [0, 1, 1]]
    loss = contrastive_loss(torch.tensor(SCORES), torch.eye(3), SCALE_1, torch.tensor(positives, dtype=torch.bool))
    assert loss.item() == pytest.approx(by_hand(SCORES, positives), abs=1e-6)
    only_pairs = contrastive_loss(torch.tensor(SCORES), torch.eye(3), SCALE_1)
    assert abs(loss.item() - only_pairs.item()) > 1e-2


def test_contrastive_loss_does_not_tell_videos_from_texts():
    generator = torch.Generator().manual_seed(2)
    videos, texts = (nn.functional.normalize(torch.randn(4, 6, generator=generator), dim=-1) for _ in range(2))
    scale = torch.tensor(1.5)
    positives = torch.eye(4, dtype=torch.bool)
    positives[0, 2] = True
    forth = contrastive_loss(videos, texts, scale, positives)
    torch.testing.assert_close(forth, contrastive_loss(texts, videos, scale, positives.t()))
    assert abs(forth.item() - contrastive_loss(videos, texts, scale, positives.t()).item()) > 1e-3


def test_contrastive_loss_vanishes_when_every_pair_is_aligned_and_is_large_when_pairs_are_crossed():
    sharp = torch.tensor(100.0).log()
    assert contrastive_loss(torch.eye(3), torch.eye(3), sharp).item() < 1e-6
    crossed = contrastive_loss(torch.eye(3), torch.eye(3).roll(1, 0), sharp).item()
    assert crossed == pytest.approx(100, abs=1e-3)


def test_contrastive_loss_without_any_information_is_the_logarithm_of_the_count():
    same = torch.ones(5, 4) / 2
    assert contrastive_loss(same, same, torch.tensor(2.0)).item() == pytest.approx(math.log(5), abs=1e-6)


def test_the_scale_is_held_at_one_hundred():
    videos = torch.tensor(SCORES)
    at_most = contrastive_loss(videos, torch.eye(3), torch.tensor(100.0).log())
    beyond = contrastive_loss(videos, torch.eye(3), torch.tensor(1000.0).log())
    below = contrastive_loss(videos, torch.eye(3), torch.tensor(50.0).log())
    torch.testing.assert_close(beyond, at_most)
    assert abs(below.item() - at_most.item()) > 1e-2


def steps(count: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(2, count, 5, generator=torch.Generator().manual_seed(seed))


def test_the_first_base_is_the_plain_mean():
    states = steps(6)
    torch.testing.assert_close(pool_in_order(states, torch.ones(2, 6), 1), states.mean(1))


def test_pooling_tells_a_sequence_from_its_reverse_where_a_mean_does_not():
    states, mask = steps(6), torch.ones(2, 6)
    forth, back = pool_in_order(states, mask, 4), pool_in_order(states.flip(1), mask, 4)
    torch.testing.assert_close(forth[:, :5], back[:, :5])
    assert (forth - back).abs().amax(1).min() > 0.1


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_as_many_bases_as_steps_keep_every_step(count):
    states = steps(count)
    coefficients = pool_in_order(states, torch.ones(2, count), count).unflatten(1, (count, 5))
    # the inverse of a DCT-II whose coefficients are means
    rebuilt = torch.zeros_like(states)
    for step in range(count):
        rebuilt[:, step] = coefficients[:, 0]
        for base in range(1, count):
            rebuilt[:, step] += 2 * math.cos(math.pi * base * (step + 0.5) / count) * coefficients[:, base]
    torch.testing.assert_close(rebuilt, states, atol=1e-5, rtol=0)


def test_padding_is_not_pooled():
    states, noise = steps(5), 100 * steps(3, seed=4)
    mask = torch.cat([torch.ones(2, 5), torch.zeros(2, 3)], dim=1)
    padded = pool_in_order(torch.cat([states, noise], dim=1), mask, 4)
    torch.testing.assert_close(padded, pool_in_order(states, torch.ones(2, 5), 4))


def test_each_sequence_is_pooled_over_its_own_length():
    states = steps(6)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    together = pool_in_order(states, mask, 4)
    torch.testing.assert_close(together[:1], pool_in_order(states[:1, :3], torch.ones(1, 3), 4))
    torch.testing.assert_close(together[1:], pool_in_order(states[1:], torch.ones(1, 6), 4))


def test_a_sequence_of_padding_alone_is_pooled_to_zero():
    assert torch.equal(pool_in_order(steps(3), torch.zeros(2, 3), 2), torch.zeros(2, 10))

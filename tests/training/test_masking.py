"""What is hidden: shares, boxes and draws by attention against probabilities worked out by hand."""

import itertools
import math
from collections import Counter

import pytest
import torch

from violet.modeling_violet.losses import IGNORE_INDEX
from violet.training.masking import Masking, block_mask, mask_attended, mask_words, sample_generator

MASK = 4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_share(count, total, share):
    """Within four standard deviations of a binomial draw."""
    assert total > 1000
    assert abs(count - total * share) < 4 * math.sqrt(total * share * (1 - share)), f"{count} of {total}"


# --- random and block ---


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.8])
def test_each_patch_and_each_word_is_hidden_with_its_probability(ratio):
    masking, draws = Masking({"random": 1.0}, patch_ratio=ratio, word_ratio=ratio / 2), generator()
    patches = torch.stack([masking.draw_patches("random", (3, 4, 5), draws) for _ in range(400)])
    assert_share(int(patches.sum()), patches.numel(), ratio)
    for frame, row, column in [(0, 0, 0), (2, 3, 4), (1, 2, 0)]:
        here = patches[:, frame, row, column]
        assert abs(here.float().mean() - ratio) < 4 * math.sqrt(ratio * (1 - ratio) / len(here)), "everywhere alike"
    neighbours = (patches[..., 1:] & patches[..., :-1]).sum()  # each by itself
    assert_share(int(neighbours), patches[..., 1:].numel(), ratio**2)

    maskable = torch.tensor([False, True, True, True, False, True, False])
    words = torch.stack([masking.draw_words(maskable, draws) for _ in range(1000)])
    assert not words[:, ~maskable].any(), "what may not be hidden never is"
    assert_share(int(words.sum()), 4000, ratio / 2)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_nothing_and_everything_can_be_hidden(ratio):
    masking = Masking({"random": 1.0}, patch_ratio=ratio, word_ratio=ratio)
    maskable = torch.tensor([False, True, True])
    for seed in range(20):
        assert (masking.draw_patches("random", (2, 2, 2), generator(seed)) == bool(ratio)).all()
        assert (masking.draw_words(maskable, generator(seed)) == (maskable & bool(ratio))).all()


def box_probability(side, longest):
    """By place, the probability that a box of uniform length [1, longest] at a uniform place covers it."""
    probability = torch.zeros(side, dtype=torch.float64)
    for length in range(1, longest + 1):
        for start in range(side - length + 1):
            probability[start : start + length] += 1 / longest / (side - length + 1)
    return probability


@pytest.mark.parametrize(
    "grid, longest",
    [
        ((4, 7, 7), (3, 4, 4)),  # lengths below T, and below 2/3 of 7, which is 4.67
        ((4, 6, 3), (3, 3, 1)),  # below 4, and below 2
        ((2, 2, 5), (1, 1, 3)),  # below 1.33, and below 3.33
        ((1, 1, 1), (1, 1, 1)),
        ((1, 7, 2), (1, 4, 1)),
    ],
)
def test_boxes_follow_violets_rule(grid, longest):
    """As many boxes as frames, independent of one another: a place is free where all of them miss it."""
    sides = [box_probability(side, most) for side, most in zip(grid, longest, strict=True)]
    one_box = sides[0][:, None, None] * sides[1][None, :, None] * sides[2][None, None, :]
    expected = 1 - (1 - one_box) ** grid[0]
    count, draws = 3000, generator(1)
    masks = torch.stack([block_mask(grid, draws) for _ in range(count)])
    assert masks.dtype == torch.bool and masks.flatten(1).any(1).all(), "there always is a box"
    found = masks.double().mean(0)
    bound = 4.5 * (expected * (1 - expected) / count).sqrt() + 1e-9
    assert ((found - expected).abs() <= bound).all()


def test_a_single_box_is_a_box():
    """Two frames of one row have two boxes, each in one frame: where they are apart, a frame's columns are one box."""
    lengths = Counter()
    for seed in range(500):
        mask = block_mask((2, 1, 8), generator(seed))
        for frame in mask[:, 0]:
            places = frame.nonzero().flatten().tolist()
            if places and mask.any(2).all():  # one box per frame
                assert places == list(range(places[0], places[-1] + 1))
                lengths[len(places)] += 1
    assert set(lengths) == {1, 2, 3, 4, 5}, "below 2/3 of 8, which is 5.33"
    total = sum(lengths.values())
    assert all(abs(number - total / 5) < 5 * math.sqrt(total * 0.16) for number in lengths.values()), "uniform"


def test_kinds_are_drawn_with_their_weights():
    masking, draws = Masking({"random": 3.0, "block": 1.0, "attended": 4.0}), generator(2)
    kinds = Counter(masking.draw_kind(draws) for _ in range(4000))
    for kind, share in {"random": 3 / 8, "block": 1 / 8, "attended": 4 / 8}.items():
        assert_share(kinds[kind], 4000, share)
    assert {Masking({"random": 0.0, "block": 2.0}).draw_kind(draws) for _ in range(50)} == {"block"}


def test_the_order_in_which_kinds_are_written_decides_nothing():
    """A run's settings are compared without it."""
    one, other = Masking({"random": 3.0, "block": 1.0}), Masking({"block": 1.0, "random": 3.0})
    drawn = [one.draw_kind(generator(seed)) for seed in range(100)]
    assert drawn == [other.draw_kind(generator(seed)) for seed in range(100)] and len(set(drawn)) == 2


def test_masked_words_are_all_replaced_and_labelled():
    ids = torch.tensor([[2, 10, 11, 12, 3, 0]])
    hidden = torch.tensor([[False, True, False, True, False, False]])
    masked, labels = mask_words(ids, hidden, MASK)
    assert masked.tolist() == [[2, MASK, 11, MASK, 3, 0]]
    assert labels.tolist() == [[IGNORE_INDEX, 10, IGNORE_INDEX, 12, IGNORE_INDEX, IGNORE_INDEX]]


# --- attended ---


def attended_batch(samples, grid=(1, 1, 2), attended=None, seed=0):
    """Texts `[CLS] a b [SEP] [PAD]`, of which a and b may be hidden."""
    ids = torch.tensor([[2, 10, 11, 3, 0]]).expand(samples, -1)
    places = math.prod(grid) + 5
    return {
        "input_ids": ids.clone(),
        "labels": torch.full_like(ids, IGNORE_INDEX),
        "bool_masked_pos": torch.zeros(samples, *grid, dtype=torch.bool),
        "maskable_words": torch.tensor([[False, True, True, False, False]]).expand(samples, -1),
        "attended": torch.ones(samples, dtype=torch.bool) if attended is None else attended,
        "mask_noise": torch.rand(samples, places, generator=generator(seed)).clamp(min=1e-7),
    }


def exact_probabilities(weights, count):
    """Of each set of `count` places, drawn one after the other without repetition in proportion to the weights."""
    sets = Counter()
    for order in itertools.permutations(range(len(weights)), count):
        probability, left = 1.0, sum(weights)
        for place in order:
            probability *= weights[place] / left
            left -= weights[place]
        sets[frozenset(order)] += probability
    assert sum(sets.values()) == pytest.approx(1)
    return sets


def test_attended_masks_are_draws_without_repetition_in_proportion_to_attention():
    """Two patches and two words; what the special tokens receive, more than all others, does not matter."""
    samples, weights = 6000, (3.0, 1.0, 0.5, 2.0)
    received = torch.tensor([[90.0, 3.0, 1.0, 80.0, 0.5, 2.0, 70.0, 0.0]]).expand(samples, -1)
    batch = attended_batch(samples)
    masked = mask_attended(batch, received, ratio=0.5, mask_token_id=MASK)
    hidden_words = masked["labels"] >= 0
    assert not hidden_words[:, [0, 3, 4]].any()
    hidden = torch.cat([masked["bool_masked_pos"].flatten(1), hidden_words[:, 1:3]], dim=1)
    assert (hidden.sum(1) == 2).all()
    assert ((masked["input_ids"] == MASK) == hidden_words).all()
    assert torch.equal(torch.where(hidden_words, masked["labels"], masked["input_ids"]), batch["input_ids"])
    found = Counter(frozenset(row.nonzero().flatten().tolist()) for row in hidden)
    expected = exact_probabilities(weights, 2)
    assert set(found) == set(expected)
    for places, probability in expected.items():
        assert_share(found[places], samples, probability)


@pytest.mark.parametrize("ratio, grid, count", [(0.15, (2, 3, 3), 3), (0.0, (2, 2, 2), 0), (1.0, (2, 2, 2), 10)])
def test_attended_masks_hide_their_share_of_patches_and_words_together(ratio, grid, count):
    samples = 50
    tokens = grid[0] * (1 + grid[1] * grid[2]) + 5
    received = torch.rand(samples, tokens, generator=generator(5)) + 0.01
    masked = mask_attended(attended_batch(samples, grid), received, ratio, MASK)
    hidden = masked["bool_masked_pos"].flatten(1).sum(1) + (masked["labels"] >= 0).sum(1)
    assert (hidden == count).all(), "of 20 and 10 places"


def test_patches_are_hidden_where_their_own_attention_is():
    """All attention on one patch and one word: the frame's and the text's special tokens shift nothing."""
    grid = (3, 2, 2)
    received = torch.zeros(8, 3 * 5 + 5)
    received[:, 1 * 5 + 1 + 1 * 2 + 0] = 1.0  # frame 1, row 1, column 0
    received[:, 15 + 2] = 1.0  # the word 11
    received[:, [0, 5, 10, 15, 18]] = 9.0
    masked = mask_attended(attended_batch(8, grid), received, ratio=2 / 14, mask_token_id=MASK)
    expected = torch.zeros(grid, dtype=torch.bool)
    expected[1, 1, 0] = True
    assert (masked["bool_masked_pos"] == expected).all()
    assert (masked["input_ids"] == torch.tensor([2, 10, MASK, 3, 0])).all()
    # and no place without attention fills up a share that cannot be reached
    more = mask_attended(attended_batch(8, grid), received, ratio=0.5, mask_token_id=MASK)
    assert (more["bool_masked_pos"] == expected).all()


def test_more_attention_is_hidden_more_often():
    samples, grid = 2000, (2, 3, 3)
    received = torch.cat([torch.arange(1.0, 21.0).repeat(1, 1), torch.ones(1, 5)], dim=1).expand(samples, -1)
    masked = mask_attended(attended_batch(samples, grid, seed=7), received, 0.3, MASK)["bool_masked_pos"]
    share = masked.float().mean(0).flatten()
    low, middle, high = share[:6].mean(), share[6:12].mean(), share[12:].mean()
    assert low < middle - 0.05 and middle < high - 0.05


def test_only_samples_that_are_to_be_attended_change():
    chosen = torch.tensor([True, False, True, False])
    batch = attended_batch(4, (2, 2, 2), chosen)
    batch["input_ids"][1, 2], batch["labels"][1, 2] = MASK, 11  # masked at random before
    batch["bool_masked_pos"][1, 0, 1, 1] = batch["bool_masked_pos"][3] = True
    before = {name: value.clone() for name, value in batch.items()}
    received = torch.rand(4, 15, generator=generator(1)) + 0.1
    masked = mask_attended(batch, received, 0.5, MASK)
    for name, value in masked.items():
        assert torch.equal(value[~chosen], before[name][~chosen])
        assert torch.equal(batch[name], before[name]), "the batch itself stays"
    assert (masked["bool_masked_pos"][chosen].flatten(1).sum(1) + (masked["labels"][chosen] >= 0).sum(1) == 5).all()


def test_an_attended_sample_does_not_depend_on_its_batch():
    grid = (2, 2, 2)
    batch = attended_batch(6, grid)
    received = torch.rand(6, 15, generator=generator(2)) + 0.1
    together = mask_attended(batch, received, 0.4, MASK)
    alone = mask_attended({name: value[4:5] for name, value in batch.items()}, received[4:5], 0.4, MASK)
    assert together["bool_masked_pos"].any()
    assert all(torch.equal(together[name][4:5], alone[name]) for name in alone)


# --- one frame, one patch; generators; refusals ---


@pytest.mark.parametrize("grid", [(1, 1, 1), (1, 2, 2), (4, 1, 1)])
def test_images_and_single_patches_can_be_masked(grid):
    masking = Masking({"random": 1.0, "block": 1.0, "attended": 1.0}, patch_ratio=0.5)
    for kind in ("random", "block"):
        masks = torch.stack([masking.draw_patches(kind, grid, generator(seed)) for seed in range(50)])
        assert masks.shape[1:] == grid and masks.any()
    assert not masking.draw_patches("attended", grid, generator()).any()
    tokens = grid[0] * (1 + grid[1] * grid[2]) + 5
    masked = mask_attended(attended_batch(20, grid), torch.ones(20, tokens), 0.5, MASK)
    hidden = masked["bool_masked_pos"].flatten(1).sum(1) + (masked["labels"] >= 0).sum(1)
    places = math.prod(grid) + 2
    assert ((hidden - places / 2).abs() <= 0.5).all() and masked["bool_masked_pos"].any()


def test_a_samples_masks_are_its_own_in_each_epoch():
    masking = Masking({"random": 1.0, "block": 1.0}, patch_ratio=0.5, word_ratio=0.5)

    def draw(*sample):
        own = sample_generator(*sample)
        kind = masking.draw_kind(own)
        patches = masking.draw_patches(kind, (4, 5, 5), own)
        return kind, tuple(patches.flatten().tolist()), tuple(masking.draw_words(torch.ones(9) > 0, own).tolist())

    samples = [(seed, epoch, name) for seed in (0, 1, 11) for epoch in (0, 1, 10) for name in ("a", "b", "1/a", "0/a")]
    torch.manual_seed(1)
    first = [draw(*sample) for sample in samples]
    torch.manual_seed(2)
    assert [draw(*sample) for sample in reversed(samples)] == first[::-1]
    assert len(set(first)) == len(samples), "(1, 10, a) is neither (11, 0, a) nor (1, 1, 0/a)"
    state = torch.get_rng_state()
    draw(0, 0, "a")
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kinds": {"random": 1.0, "blocks": 1.0}}, "blocks is unknown"),
        ({"kinds": {}}, "above 0"),
        ({"kinds": {"random": 0.0}}, "above 0"),
        ({"kinds": {"random": 2.0, "block": -1.0}}, "0 or more"),
        ({"patch_ratio": 1.5}, "patch_ratio"),
        ({"word_ratio": -0.1}, "word_ratio"),
    ],
)
def test_contradictions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Masking(**arguments)

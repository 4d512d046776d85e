"""What each step draws from, counted naively."""

import math

import pytest

from violet.training.mixture import BLOCK, MixtureSchedule

WEIGHTS = (5.0, 2.0, 1.0)
SIZES = ((4, 64, 64), (1, 64, 96), (4, 32, 32))
OBJECTIVES = ((3.0, 0, {"vtm": 1.0}), (1.0, 0, {"mlm": 0.5, "vtc": 2.0}))


def schedule(seed=3, weights=WEIGHTS, objectives=OBJECTIVES):
    return MixtureSchedule(weights, SIZES[: len(weights)], objectives, seed)


@pytest.fixture(scope="module")
def plans():
    """The plans of more than two blocks of steps."""
    drawn = schedule()
    return [drawn.plan(step) for step in range(2 * BLOCK + 500)]


def assert_share(count, total, share):
    """Within four standard deviations of a binomial draw, and not so near that it could be no draw at all."""
    assert abs(count - total * share) < 4 * math.sqrt(total * share * (1 - share))


def test_data_sets_and_objectives_are_drawn_in_proportion(plans):
    for start in (0, BLOCK):
        block = plans[start : start + BLOCK]
        for number, weight in enumerate(WEIGHTS):
            assert_share(sum(plan.dataset == number for plan in block), BLOCK, weight / 8)
        assert_share(sum(plan.objectives == OBJECTIVES[0][2] for plan in block), BLOCK, 0.75)
        both = sum(plan.dataset == 1 and plan.objectives == OBJECTIVES[1][2] for plan in block)
        assert_share(both, BLOCK, 0.25 * 0.25)  # independently of one another
    assert {tuple(plan.objectives) for plan in plans} == {("vtm",), ("mlm", "vtc")}
    assert [plan.dataset for plan in plans[:BLOCK]] != [plan.dataset for plan in plans[BLOCK : 2 * BLOCK]]


def test_a_position_is_the_number_of_batches_drawn_before(plans):
    counts = [0, 0, 0]
    drawn = schedule()
    for step, plan in enumerate(plans):
        if step % 997 == 0 or abs(step % BLOCK) < 3 or step % BLOCK == BLOCK - 1:
            assert drawn.positions(step) == counts
        assert plan.position == counts[plan.dataset]
        assert plan.clip == SIZES[plan.dataset]
        counts[plan.dataset] += 1
    assert min(counts) > 900


def test_a_plan_depends_on_seed_and_step_alone(plans):
    for step in (2 * BLOCK + 7, 0, BLOCK, BLOCK - 1, 1, 5000, 2 * BLOCK + 7):
        assert schedule().plan(step) == plans[step], "without the steps before it"
    backwards = schedule()
    assert [backwards.plan(step) for step in range(BLOCK + 20, BLOCK - 20, -1)] == plans[BLOCK + 20 : BLOCK - 20 : -1]
    other = schedule(seed=4)
    same = sum(other.plan(step).dataset == plans[step].dataset for step in range(500))
    assert same < 350, "another seed, another order (46 % agree by chance)"


def test_objectives_take_part_from_their_start_on():
    drawn = schedule(objectives=((1.0, 0, {"vtm": 1.0}), (3.0, 700, {"mlm": 1.0})))
    names = [next(iter(drawn.plan(step).objectives)) for step in range(4700)]
    assert set(names[:700]) == {"vtm"}
    assert_share(names[700:].count("mlm"), 4000, 0.75)


def test_one_data_set_is_drawn_from_at_every_step():
    drawn = schedule(weights=(0.001,), objectives=((1.0, 0, {"mlm": 1.0}),))
    for step in (0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 5):
        assert drawn.plan(step).position == step and drawn.positions(step) == [step]


def test_weights_count_against_one_another_alone():
    drawn, scaled = schedule(), schedule(weights=[1000 * weight for weight in WEIGHTS])
    assert [drawn.plan(step) for step in range(300)] == [scaled.plan(step) for step in range(300)]

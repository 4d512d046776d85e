"""The schedule `alternating`: whose turn it is, counted naively; and what a recipe may say of it."""

import pytest
import torch

from violet.training import SettingsError
from violet.training.alternating import AlternatingSchedule
from violet.training.learning_rates import LEARNING_RATES
from violet.training.recipe import read_recipe

ALL = (1, 1, 12, 5, 12, 8)
SIZES = [(4 * (i + 1), 32, 32) for i in range(6)]


def schedule(intervals=ALL, own=(), objectives=((1.0, 0, {"imp": 1.0}),)) -> AlternatingSchedule:
    count = len(intervals)
    return AlternatingSchedule([1.0] * count, SIZES[:count], objectives, 0, intervals, own)


def counted(intervals, steps: int) -> list[tuple[int, int]]:
    """(data set, batches drawn from it before) of each step, sweep by sweep."""
    found, drawn, sweep = [], [0] * len(intervals), 0
    while len(found) < steps:
        sweep += 1
        for number, interval in enumerate(intervals):
            if sweep % interval == 0:
                found.append((number, drawn[number]))
                drawn[number] += 1
    return found[:steps]


@pytest.mark.parametrize("intervals", [ALL, (1,), (1, 3, 2), (7, 1, 97)])
def test_turns_and_positions_are_those_of_sweeps_counted_one_by_one(intervals):
    one, wanted, drawn = schedule(intervals), counted(intervals, 700), [0] * len(intervals)
    for step, (dataset, position) in enumerate(wanted):
        plan = one.plan(step)
        assert (plan.dataset, plan.position, plan.clip) == (dataset, position, SIZES[dataset])
        assert one.positions(step) == drawn
        drawn[dataset] += 1


def test_a_plan_depends_on_the_step_only():
    one = schedule()
    assert [one.plan(step) for step in (10**9, 3, 699)] == [schedule().plan(step) for step in (10**9, 3, 699)]
    assert [one.plan(step).dataset for step in range(699, 0, -1)] == [d for d, _ in counted(ALL, 700)[:0:-1]]


def test_after_s_sweeps_each_has_had_its_share_of_them():
    sweeps = 240
    steps = sum(sweeps // interval for interval in ALL)
    assert schedule().positions(steps) == [sweeps // interval for interval in ALL]


def test_a_data_set_has_its_own_objectives():
    one = schedule((1, 2), [None, {"vtc": 2.0}])
    assert [dict(one.plan(step).objectives) for step in range(3)] == [{"imp": 1.0}, {"imp": 1.0}, {"vtc": 2.0}]


@pytest.mark.parametrize(
    "says, changes",
    [
        ("`interval`: must be 1 or more, got 0", {"intervals": (1, 0)}),
        ("`interval`: all are above 1 .2, 3.", {"intervals": (2, 3)}),
        ("`objectives`: 2 sets are drawn from", {"objectives": ((1.0, 0, {"imp": 1.0}), (1.0, 0, {"vtc": 1.0}))}),
    ],
)
def test_turns_that_mean_nothing_are_refused(says, changes):
    with pytest.raises(ValueError, match=says):
        schedule(**changes)


def recipe(first=None, second=None, **changes):
    table = {"source": "table", "path": "rows.csv"}
    datasets = [{"name": "one", **table, **(first or {})}, {"name": "two", **table, **(second or {})}]
    return read_recipe({"datasets": datasets, "schedule": "alternating", "objectives": {"imp": 1.0}, **changes})


def test_a_recipe_names_intervals_objectives_and_sizes_of_its_data_sets():
    read = recipe({"image_size": [32, 64]}, {"interval": 3, "objectives": {"vtc": 1.0, "imp": 0.0}}, image_size=48)
    assert read.dataset_settings() == ([1, 3], [None, {"vtc": 1.0}])
    assert read.all_objectives() == {"imp": 1.0, "vtc": 1.0}
    assert [read.frame_size(None, dataset) for dataset in read.datasets] == [(32, 64), (48, 48)]


@pytest.mark.parametrize(
    "says, given",
    [
        ("data set 'two': interval must be 1 or more, got 0", {"second": {"interval": 0}}),
        ("all are above 1", {"first": {"interval": 2}, "second": {"interval": 2}}),
        (
            "data set 'two': `interval` and `objectives`.*`schedule` is 'mixture'",
            {"second": {"interval": 2}, "schedule": "mixture"},
        ),
        ("`unused`: 'keep' is unknown; use skip, zero", {"unused": "keep"}),
        ("data set 'one': image_size: must be pixels", {"first": {"image_size": [1, 2, 3]}}),
        ("the names .* must differ", {"second": {"name": "one"}}),
        ("`warmup` 0.1: `learning_rate_schedule` 'imp_base' rises by itself", {"learning_rate_schedule": "imp_base"}),
    ],
)
def test_what_a_recipe_cannot_mean_is_refused(says, given):
    with pytest.raises(SettingsError, match=says):
        recipe(**given)


def test_rates_go_down_up_and_down():
    for name, low in (("imp_base", 0.005), ("imp_large", 0.002)):
        rates = torch.tensor([LEARNING_RATES[name](step / 1010) for step in range(1011)])
        assert rates.max() == pytest.approx(1.0, abs=2e-2) and rates[0] == pytest.approx(0.02)
        assert rates[:100].min() == pytest.approx(low, abs=2e-2) and rates[-1] < 0.01

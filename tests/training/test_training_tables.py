"""The tables of training: what each entry promises, and a part that is added from outside."""

from collections import Counter
from dataclasses import replace

import pytest
from datasets import Dataset

from violet.core.registry import Registry
from violet.training import SettingsError
from violet.training.dataset_sources import load_dataset
from violet.training.learning_rates import LEARNING_RATES, learning_rate_factor
from violet.training.pretraining import Pretraining
from violet.training.recipe import SOURCES, DatasetRecipe, PretrainingRecipe
from violet.training.schedule import SCHEDULES

DATASET = {"name": "clips", "path": "clips.csv"}


@pytest.fixture(params=[SCHEDULES, LEARNING_RATES, SOURCES], ids=lambda table: table.role)
def table(request) -> Registry:
    return request.param


@pytest.fixture
def restored(monkeypatch):
    """Additions end with the test."""
    for table in (SCHEDULES, LEARNING_RATES, SOURCES):
        monkeypatch.setattr(table, "_entries", dict(table._entries))


def test_every_entry_is_there_and_an_unknown_name_is_told_the_known_ones(table):
    assert len(table) > 0 and all(callable(table[name]) for name in table)
    with pytest.raises(ValueError, match=f"'nothing'; there are {', '.join(table)}"):
        table.find("nothing")


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_counts_the_batches_of_each_data_set(name):
    def build():
        return SCHEDULES[name]([2.0, 1.0], [(4, 64, 64), (1, 32, 48)], [(1.0, 0, {"mlm": 1.0})], 7)

    schedule, drawn = build(), Counter()
    for step in range(300):
        plan = schedule.plan(step)
        assert schedule.positions(step) == [drawn[0], drawn[1]] and plan.position == drawn[plan.dataset]
        drawn[plan.dataset] += 1
    assert min(drawn[0], drawn[1]) > 50
    assert build().plan(299) == plan, "without the steps before it"


@pytest.mark.parametrize("name", LEARNING_RATES)
def test_learning_rates_start_at_the_peak_or_rise_to_it_and_stay_within_it(name):
    rates = [learning_rate_factor(name, step, 5000, 0.0) for step in range(5000)]
    assert all(0 <= rate <= 1 for rate in rates) and max(rates) == pytest.approx(1.0, abs=5e-3)
    assert rates[0] == 1.0 or rates.index(max(rates)) < 1000


def test_a_learning_rate_of_your_own_is_taken(restored):
    LEARNING_RATES.add("half", lambda progress: 1 - progress / 2)
    recipe = PretrainingRecipe([DatasetRecipe(source="table", **DATASET)], learning_rate_schedule="half")
    assert learning_rate_factor(recipe.learning_rate_schedule, 6, 10, 0.2) == 0.75


def test_a_schedule_of_your_own_decides_every_step(restored, drawn, tmp_path):
    class FirstOnly(SCHEDULES["mixture"]):
        """Every step draws from the first data set."""

        def plan(self, step):
            return replace(super().plan(step), dataset=0, position=step)

        def positions(self, step):
            return [step, *[0] * (len(self.weights) - 1)]

    shapes = {"source": "moving_shapes", "path": str(drawn), "clips": 24, "validation_clips": 8}
    datasets = [DatasetRecipe(name=name, **shapes) for name in ("first", "second")]
    settings = {"objectives": {"mlm": 1}, "max_steps": 6, "batch_size": 8, "eval_batches": 1, "num_workers": 0}
    settings |= {"mixed_precision": "no", "trackers": [], "output_dir": str(tmp_path)}
    with pytest.raises(SettingsError, match="`schedule`: 'first_only' is unknown; use mixture"):
        PretrainingRecipe(datasets, schedule="first_only", **settings)
    SCHEDULES.add("first_only", FirstOnly)
    run = Pretraining(PretrainingRecipe(datasets, schedule="first_only", **settings))
    assert [run.training.schedule.plan(step).dataset for step in range(20)] == [0] * 20
    mixed = Pretraining(PretrainingRecipe(datasets, **settings))
    assert {mixed.training.schedule.plan(step).dataset for step in range(20)} == {0, 1}


def test_a_source_of_your_own_is_taken(restored):
    def two_clips(recipe):
        return Dataset.from_list([{"video": f"{recipe.path}/{i}.mp4", "caption": "a disc"} for i in range(2)]), None

    with pytest.raises(SettingsError, match="source .two_clips. is unknown; use moving_shapes, table, tsv"):
        DatasetRecipe(source="two_clips", **DATASET)
    SOURCES.add("two_clips", two_clips)
    train, validation = load_dataset(DatasetRecipe(source="two_clips", **DATASET))
    assert train["video"][1] == "clips.csv/1.mp4" and validation is None

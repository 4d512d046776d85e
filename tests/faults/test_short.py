"""The short form of the campaign: a few seeds of each promise, one seed twice, and mutants that must be caught."""

import gc

import pytest
from campaign import FIXTURES, BrokenPromise, module_of, names


@pytest.fixture(autouse=True)
def what_runs_held_is_freed():
    """Decoders end with the runs that started them."""
    yield
    gc.collect()


PROMISES = names()
MUTANTS = [(name, mutant) for name in PROMISES for mutant in module_of(name).MUTANTS]
LONG = [name for name in PROMISES if module_of(name).PROMISE.short_seeds == 0]
"""Their trials start processes that train: a few seeds of them are a proof."""


def cases(given: list) -> list:
    """As parameters of a test; those of long trials are proofs."""
    of = [(one if isinstance(one, tuple) else (one,)) for one in given]
    return [pytest.param(*one, id=": ".join(one), marks=[pytest.mark.proof] * (one[0] in LONG)) for one in of]


REPLAYED = [file for name in PROMISES for file in sorted((FIXTURES / name).glob("*"))]


@pytest.mark.parametrize("name", cases(PROMISES))
def test_the_promise_holds_and_a_seed_makes_the_same_trial_twice(name, tmp_path):
    promise = module_of(name).PROMISE
    assert promise.name == name
    found = []
    for number, seed in enumerate([0, *range(promise.short_seeds or 2)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(promise.trial(seed, folder))
    assert found[0] == found[1]


@pytest.mark.parametrize(("name", "mutant"), cases(MUTANTS))
def test_a_mutant_is_caught(name, mutant, tmp_path):
    module = module_of(name)
    with pytest.raises(BrokenPromise), module.MUTANTS[mutant]():
        for seed in range(module.PROMISE.short_seeds or 2):
            folder = tmp_path / str(seed)
            folder.mkdir()
            module.PROMISE.trial(seed, folder)


@pytest.mark.parametrize("file", REPLAYED, ids=[f"{file.parent.name}/{file.name}" for file in REPLAYED])
def test_an_input_that_once_broke_a_promise_breaks_it_no_more(file):
    replay = module_of(file.parent.name).PROMISE.replay
    assert replay is not None, f"PROMISE.replay of {file.parent.name}.py is missing, and there is {file}"
    replay(file)


def test_every_promise_has_a_mutant():
    assert PROMISES and {name for name, _ in MUTANTS} == set(PROMISES)

"""tools/combinations.py: what counts as working, as refused by name, and as a failure."""

import importlib.util
import sys
from pathlib import Path

import pytest

from violet.modeling_violet.objectives.objective import BUILT_IN
from violet.training import TASKS


@pytest.fixture(scope="module")
def combinations():
    spec = importlib.util.spec_from_file_location(
        "combinations", Path(__file__).parents[1] / "tools" / "combinations.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["combinations"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["combinations"]


def test_a_refusal_must_name_the_encoder(combinations, tmp_path):
    bench = combinations.Bench("vit", tmp_path, tmp_path, {})

    def refuse(message):
        def check(bench):
            raise ValueError(message)

        return combinations.run_check(check, bench)

    assert refuse("The vision encoder 'vit' needs larger frames.") == ("refused", "")
    assert bench.notes == ["vit: The vision encoder 'vit' needs larger frames."]
    cell, wrong = refuse("shape mismatch")
    assert cell == "NO" and "shape mismatch" in wrong
    assert combinations.run_check(lambda bench: None, bench) == ("yes", "")
    assert combinations.run_check(lambda bench: combinations.require(False, "other numbers"), bench)[0] == "NO"
    assert combinations.run_check(lambda bench: {}["gone"], bench)[0] == "NO"


def test_every_task_and_objective_is_walked_and_the_page_has_a_row_for_each_encoder(combinations):
    assert set(combinations.TABLES["tasks"]) == set(TASKS)
    assert set(BUILT_IN) - {"mvm"} < set(combinations.TABLES["objectives"])
    cells = {"tasks": {"vit": {"retrieval": "yes"}, "videomae": {"retrieval": "refused"}}}
    text = combinations.page(cells, ["two\nlines"], 61.0)
    assert "| encoder | retrieval |\n|---|---|\n| vit | yes |\n| videomae | refused |" in text
    assert "- two lines" in text and "transformers " in text


def test_answers_are_near_up_to_the_last_digits(combinations):
    answer = [{"answer": "disc", "score": 0.5}]
    assert combinations.near(answer, [{"answer": "disc", "score": 0.500001}])
    assert not combinations.near(answer, [{"answer": "disc", "score": 0.51}])
    assert not combinations.near(answer, [{"answer": "ring", "score": 0.5}]) and not combinations.near(answer, [])

"""The scripts in examples/ run as they stand there."""

import ast
import runpy
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from violet.modeling_violet import ENCODERS
from violet.modeling_violet.objectives.objective import OBJECTIVES
from violet.training.preparations.preparation import PREPARATIONS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(autouse=True)
def tables(monkeypatch, tmp_path):
    for table in (ENCODERS, OBJECTIVES, PREPARATIONS):
        for part in ("_entries", "_sources"):
            monkeypatch.setattr(table, part, dict(getattr(table, part)))
    AcceleratorState._reset_state(True)
    monkeypatch.chdir(tmp_path)


def test_an_encoder_of_your_own_trains(capsys):
    runpy.run_path(str(EXAMPLES / "own_encoder.py"), run_name="__main__")
    assert float(capsys.readouterr().out.removeprefix("loss ")) > 0


def test_an_objective_of_your_own_is_pretrained(capsys):
    runpy.run_path(str(EXAMPLES / "own_objective.py"), run_name="__main__")
    measured = ast.literal_eval(capsys.readouterr().out.splitlines()[-1])
    assert {"shapes/loss_reversal", "shapes/accuracy_reversal"} <= set(measured)
    assert all(value > 0 for name, value in measured.items() if "loss" in name)
    assert Path("outputs/own_objective/model.safetensors").is_file()

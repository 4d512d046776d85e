from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Drawn clips with captions: 24 to pre-train on, 8 for validation."""
    from violet.data import moving_shapes

    folder = tmp_path_factory.mktemp("drawn") / "shapes"
    moving_shapes(folder, pretrain=24, validation=8, train=0, test=0, test_unseen=0, test_together=0)
    return folder


@pytest.fixture(autouse=True)
def without_java(monkeypatch):
    """METEOR takes its time, and has a test of its own."""
    monkeypatch.setattr("violet.evaluation.captions.has_java", lambda: False)


@pytest.fixture
def separate_runs():
    """Accelerate keeps one state for a process, and a run changes the number of threads."""
    from accelerate.state import AcceleratorState

    threads = torch.get_num_threads()
    AcceleratorState._reset_state(True)
    torch.set_num_threads(1)
    yield
    AcceleratorState._reset_state(True)
    torch.set_num_threads(threads)

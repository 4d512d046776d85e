"""Checkpoints that are cut short, and which ones stay."""

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from violet.core.files import is_whole
from violet.data.loading import FailedSample, FailedSamples
from violet.training.checkpoints import (
    checkpoint_folder,
    checkpoint_to_resume,
    last_whole_checkpoint,
    new_checkpoint,
    seal_checkpoint,
)


@pytest.fixture
def accelerator():
    """Accelerate keeps one state for a process."""
    AcceleratorState._reset_state(True)
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(True)


def write(output, step, accelerator, kept=2, text="weights"):
    with new_checkpoint(output, step, accelerator, kept) as folder:
        (folder / "weights").write_text(text)


def names(output):
    return sorted(path.name for path in output.iterdir())


def test_a_checkpoint_that_is_cut_short_has_no_name_and_is_replaced(accelerator, tmp_path):
    write(tmp_path, 5, accelerator)
    with pytest.raises(OSError, match="full"), new_checkpoint(tmp_path, 10, accelerator, 2) as folder:
        (folder / "half").write_text("x")
        raise OSError("the disk is full")
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")
    assert names(tmp_path) == [".checkpoint-10.partial", "checkpoint-5"]
    write(tmp_path, 10, accelerator)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-5"]
    assert names(tmp_path / "checkpoint-10") == ["manifest.json", "weights"]


def test_a_torn_checkpoint_of_the_same_step_is_replaced_and_the_oldest_steps_go(accelerator, tmp_path):
    for step in (8, 9, 10):
        write(tmp_path, step, accelerator, kept=3)
    (tmp_path / "checkpoint-10" / "weights").write_text("torn")
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    write(tmp_path, 10, accelerator, text="again")
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-9"], "8 is the oldest, though 10 comes first by name"
    assert is_whole(tmp_path / "checkpoint-10")


def test_the_trainers_best_checkpoint_stays(tmp_path):
    for step in (1, 2, 3):
        folder = checkpoint_folder(tmp_path, step)
        folder.mkdir()
        (folder / "weights").write_text("weights")
        seal_checkpoint(folder, None)
    seal_checkpoint(checkpoint_folder(tmp_path, 3), kept=2, best=str(tmp_path / "checkpoint-1"))
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3"]


def test_a_run_that_starts_again_forgets_what_it_skipped(accelerator, tmp_path):
    skipped = FailedSamples(tmp_path)
    skipped.add([FailedSample("train", 3, "a.mp4", "damaged")])
    write(tmp_path, 1, accelerator)
    assert checkpoint_to_resume(tmp_path, accelerator, skipped) == str(tmp_path / "checkpoint-1")
    assert len(skipped.all()) == 1
    (tmp_path / "checkpoint-1" / "manifest.json").unlink()
    assert checkpoint_to_resume(tmp_path, accelerator, skipped) is None
    assert skipped.all() == []

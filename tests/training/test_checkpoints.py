"""Checkpoints that are cut short, and which ones stay."""

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from violet.core.files import is_whole
from violet.data.loading import FailedSample, FailedSamples
from violet.training.checkpoints import (
    CheckpointError,
    checkpoint_folder,
    checkpoint_to_resume,
    last_whole_checkpoint,
    new_checkpoint,
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
    said = r"checkpoint-10 could not be written: the disk is full. .*checkpoint-5 is whole and stays"
    with pytest.raises(CheckpointError, match=said), new_checkpoint(tmp_path, 10, accelerator, 2) as folder:
        (folder / "half").write_text("x")
        raise OSError("the disk is full")
    assert names(tmp_path) == ["checkpoint-5"]
    left = tmp_path / ".partial" / "checkpoint-10"  # by a killed process
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    write(tmp_path, 10, accelerator)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-5"]
    assert names(tmp_path / "checkpoint-10") == ["manifest.json", "weights"]


def test_damage_is_named_by_file(accelerator, tmp_path, caplog):
    write(tmp_path, 5, accelerator)
    folder = checkpoint_folder(tmp_path, 6)
    for damage, said in {
        "cut": "weights has 3 bytes, and 7 in manifest.json",
        "other": "weights has other content",
        "gone": "weights is missing",
        "more": "notes is not in manifest.json",
        "manifest": "manifest.json is damaged",
    }.items():
        write(tmp_path, 6, accelerator)
        if damage == "gone":
            (folder / "weights").unlink()
        elif damage == "more":
            (folder / "notes").write_text("")
        elif damage == "manifest":
            (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:-1])
        else:
            (folder / "weights").write_text({"cut": "wei", "other": "weightz"}[damage])
        caplog.clear()
        assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")
        assert f"{folder} is not whole: {said}" in caplog.text


def test_a_torn_checkpoint_of_the_same_step_is_replaced_and_the_oldest_steps_go(accelerator, tmp_path):
    for step in (8, 9, 10):
        write(tmp_path, step, accelerator, kept=3)
    (tmp_path / "checkpoint-10" / "weights").write_text("torn")
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    write(tmp_path, 10, accelerator, text="again")
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-9"], "8 is the oldest, though 10 comes first by name"
    assert is_whole(tmp_path / "checkpoint-10")


def test_what_was_passed_over_goes_before_the_one_that_is_whole(accelerator, tmp_path):
    for step in (8, 10):
        write(tmp_path, step, accelerator)
    (tmp_path / "checkpoint-10" / "weights").write_text("torn")
    write(tmp_path, 9, accelerator, kept=1)
    assert names(tmp_path) == ["checkpoint-9"]


def test_the_best_checkpoint_stays(accelerator, tmp_path):
    for step in (1, 2, 3):
        with new_checkpoint(tmp_path, step, accelerator, 2, best=str(tmp_path / "checkpoint-1")) as folder:
            (folder / "weights").write_text("weights")
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

"""Checkpoints of a run: each is whole or is passed over, and a run goes on from the last whole one."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..core.files import PARTIAL, delete_or_tell, find_damage, put_folder, seal
from ..data.loading import FailedSamples

logger = logging.getLogger(__name__)


class CheckpointError(Exception):
    """A checkpoint could not be written, or is not what its manifest says."""


def checkpoint_folder(output_dir: str | os.PathLike, step: int) -> Path:
    """Where the checkpoint of a step lies, in transformers' spelling."""
    return Path(output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


@contextmanager
def new_checkpoint(
    output_dir: str | os.PathLike, step: int, accelerator: Accelerator, kept: int | None, best: str | None = None
) -> Iterator[Path]:
    """
    A folder in the run's `.partial` that all processes fill. When the block ends in all of them, it is flushed, gets
    its manifest and then the checkpoint's name, and only then older checkpoints are deleted. If it fails, the older
    ones stay and nothing of it does. What a killed process left is replaced.

    Args:
        kept, best: see `prune_checkpoints`.

    Raises:
        CheckpointError: if it cannot be written; the message says why, and which checkpoint is the last whole one.
    """
    folder = checkpoint_folder(output_dir, step)
    partial = folder.parent / PARTIAL / folder.name
    main = accelerator.is_main_process
    try:
        if main:
            if partial.parent.exists():
                shutil.rmtree(partial.parent)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        yield partial
        accelerator.wait_for_everyone()
        if main:
            seal(partial)
            put_folder(partial, folder)
    except BaseException as error:
        if main:
            shutil.rmtree(partial.parent, ignore_errors=True)
        if isinstance(error, OSError | RuntimeError | SafetensorError):  # torch and safetensors raise the last two
            raise _not_written(folder, error) from error
        raise
    if main:
        clear_partial(output_dir)
        prune_checkpoints(folder, kept, best)
    accelerator.wait_for_everyone()


def _not_written(folder: Path, error: Exception) -> CheckpointError:
    whole = last_whole_checkpoint(folder.parent)
    reason = str(error)
    if "inline_container" in reason or "iostream error" in reason:  # torch does not say why
        reason = (
            f"torch could not write a file ({reason}), as when the disk is full, a quota used up, or it is read-only"
        )
    stays = "No checkpoint was written before it" if whole is None else f"{whole} is whole and stays"
    return CheckpointError(
        f"{folder} could not be written: {reason}. {stays}. Make room, or see to it that {folder.parent} can be "
        "written, and start the same run again."
    )


def prune_checkpoints(newest: Path, kept: int | None, best: str | None = None) -> None:
    """
    Deletes the oldest checkpoints of a run. Those of later steps than the newest one go first: the run passed over
    them when it went on from an earlier one, since they were not whole.

    Args:
        newest: the one that was just written; it stays.
        kept: how many stay, that one included; None, or 0, keeps all.
        best: a checkpoint that stays as well.
    """
    if not kept:
        return
    folders = checkpoints_of(newest.parent)
    stay = {newest.name} | ({Path(best).name} if best else set())
    for folder in reversed(folders):
        if len(stay) < kept and step_of(folder) <= step_of(newest):
            stay.add(folder.name)
    for folder in folders:
        if folder.name not in stay:
            _delete(folder)


def _delete(folder: Path) -> None:
    """Takes its name from a checkpoint before it goes, so that no half of it is left; says so if it cannot be."""
    gone = folder.parent / PARTIAL / folder.name
    try:
        gone.parent.mkdir(exist_ok=True)
        folder.rename(gone)
        shutil.rmtree(gone.parent)
    except OSError as error:
        logger.warning("%s could not be deleted (%s): newer checkpoints are whole, delete it yourself.", folder, error)


def clear_partial(output_dir: str | os.PathLike) -> None:
    """Deletes what a killed process, or one whose disk failed, left in the run's folder."""
    partial = Path(output_dir) / PARTIAL
    if partial.exists():
        delete_or_tell(partial)


def step_of(checkpoint: str | os.PathLike) -> int:
    """The number in a checkpoint's name."""
    return int(Path(checkpoint).name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"))


def checkpoints_of(output_dir: str | os.PathLike) -> list[Path]:
    """The checkpoint folders of a run, whole or not, by their steps."""
    return sorted(
        (
            folder
            for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
            if folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-").isdigit()
        ),
        key=step_of,
    )


def last_whole_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The newest checkpoint folder that is whole; what is not is named in the log, by file, and passed over."""
    for folder in reversed(checkpoints_of(output_dir)):
        damage = find_damage(folder)
        if damage is None:
            return str(folder)
        logger.warning("%s is not whole: %s. It is not resumed from.", folder, damage)
    return None


def check_whole(folder: str | os.PathLike) -> None:
    """
    Raises:
        CheckpointError: if a checkpoint is not what its manifest says; the message names the file.
    """
    damage = find_damage(folder)
    if damage is not None:
        raise CheckpointError(
            f"{folder} is not whole: {damage}. Delete it and start the same run again: it goes on from the one before."
        )


def checkpoint_to_resume(
    output_dir: str | os.PathLike, accelerator: Accelerator, failed_samples: FailedSamples
) -> str | None:
    """
    The last whole checkpoint, as the main process finds it, in all processes; what a killed process left half written
    is deleted. Without a checkpoint the run starts again, and samples that an earlier attempt skipped are forgotten.
    """
    found: list[str | None] = [None]
    if accelerator.is_main_process:
        clear_partial(output_dir)
        found[0] = last_whole_checkpoint(output_dir)
        if found[0] is None:
            failed_samples.forget()
    broadcast_object_list(found)
    accelerator.wait_for_everyone()
    return found[0]

"""Checkpoints of a run: each is whole or is passed over, and a run goes on from the last whole one."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..core.files import is_whole, seal
from ..core.upstream import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from ..data.loading import FailedSamples

logger = logging.getLogger(__name__)


def checkpoint_folder(output_dir: str | os.PathLike, step: int) -> Path:
    """Where the checkpoint of a step lies, in transformers' spelling."""
    return Path(output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


@contextmanager
def new_checkpoint(output_dir: str | os.PathLike, step: int, accelerator: Accelerator, kept: int) -> Iterator[Path]:
    """
    A folder that all processes fill. When the block ends in all of them, it takes the checkpoint's name, whole, and
    older checkpoints are deleted. What a killed process left under either name is replaced.

    Args:
        kept: number of checkpoints that stay, this one included.
    """
    folder = checkpoint_folder(output_dir, step)
    partial = folder.with_name(f".{folder.name}.partial")
    if accelerator.is_main_process:
        for old in (partial, folder):
            if old.exists():
                shutil.rmtree(old)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    yield partial
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        seal(partial)
        partial.rename(folder)
        prune_checkpoints(output_dir, kept)
    accelerator.wait_for_everyone()


def seal_checkpoint(folder: Path, kept: int | None, best: str | None = None) -> None:
    """
    Makes a checkpoint whole that transformers' Trainer wrote in its place, and deletes older ones after that.

    Args:
        kept: number of checkpoints that stay, this one included; None keeps all.
        best: a checkpoint that is never deleted.
    """
    seal(folder)
    prune_checkpoints(folder.parent, kept, best, by_time=True)


def prune_checkpoints(
    output_dir: str | os.PathLike, kept: int | None, best: str | None = None, by_time: bool = False
) -> None:
    """
    Deletes the oldest checkpoints of a run until `kept` are left; None, or 0, keeps all.

    Args:
        best: a checkpoint that is never deleted.
        by_time: whether the oldest are those that were written first, and not those of the lowest step.
    """
    rotate_checkpoints(
        output_dir=str(output_dir), save_total_limit=kept, best_model_checkpoint=best, use_mtime=by_time
    )


def last_whole_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The newest checkpoint folder that is whole; what is not is named in the log and passed over."""
    folders = [
        folder
        for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-").isdigit()
    ]
    for folder in sorted(folders, key=lambda folder: int(folder.name.split("-")[-1]), reverse=True):
        if is_whole(folder):
            return str(folder)
        logger.warning("%s is not whole (its writing was cut short, or it was changed): not resumed from.", folder)
    return None


def checkpoint_to_resume(
    output_dir: str | os.PathLike, accelerator: Accelerator, failed_samples: FailedSamples
) -> str | None:
    """
    The last whole checkpoint, as the main process finds it, in all processes. Without one the run starts again, and
    the samples that an earlier attempt skipped are forgotten.
    """
    found: list[str | None] = [None]
    if accelerator.is_main_process:
        found[0] = last_whole_checkpoint(output_dir)
        if found[0] is None:
            failed_samples.forget()
    broadcast_object_list(found)
    accelerator.wait_for_everyone()
    return found[0]

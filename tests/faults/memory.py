"""What a run holds in memory does not grow from epoch to epoch."""

import ctypes
import gc
import random
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from campaign import BrokenPromise, Promise
from small_runs import CLIPS, recipe, separate_run, trainer

FIRST, LAST, SHARE = 2, 20, 0.02
FEWER = 5
"""The last epoch of seed 0, so that `make test` can afford it."""


def held() -> int:
    """Bytes of this process and those that it started, each page counted where it is no other process's."""
    import psutil

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed and is kept by malloc is no leak
    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_full_info().uss
        except psutil.NoSuchProcess:
            continue
    return total


def finetune(folder: Path, epochs: int, workers: int, after: Callable[[int], None]) -> None:
    from transformers import TrainerCallback

    class Epochs(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            after(round(state.epoch))

    given = {"max_steps": -1, "num_train_epochs": epochs, "per_device_train_batch_size": 8}
    run = trainer(folder, dataloader_num_workers=workers, **given)
    run.add_callback(Epochs())
    run.train()


def pretrain(folder: Path, epochs: int, workers: int, after: Callable[[int], None]) -> None:
    from violet.training.pretraining import Pretraining
    from violet.training.recipe import read_recipe

    each = CLIPS // 8
    given = recipe(folder / "run", max_steps=epochs * each, num_workers=workers, save_steps=5 * each)
    run = Pretraining(read_recipe(given))
    step = run.train_step

    def steps(number: int, *rest: Any) -> None:
        step(number, *rest)
        if number % each == 0:
            after(number // each)

    run.train_step = steps  # type: ignore[method-assign]
    run.run(resume=False)


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """One run of twenty epochs, with 0 to 2 workers."""
    chance, found, last = random.Random(seed), {}, LAST if seed else FEWER
    workers, kind = chance.randint(0, 2) if seed else 0, (finetune, pretrain)[seed % 2]

    def after(epoch: int) -> None:
        if epoch in (FIRST, last):
            found[epoch] = held()

    with separate_run():
        kind(folder, last, workers, after)
    growth = found[last] / found[FIRST] - 1
    if growth > SHARE:
        raise BrokenPromise(
            f"{kind.__name__} with {workers} workers held {found[FIRST] / 2**20:.1f} MiB after epoch {FIRST} and "
            f"{found[last] / 2**20:.1f} MiB after epoch {last}, {growth:.1%} more"
        )
    return {"runs": 1}


@contextmanager
def keeps_batches():
    """A run that keeps what its batches were made into."""
    from violet.processing import VideoTextProcessor

    kept, move = [], VideoTextProcessor.to_device

    def keeps(self: Any, *given: Any, **named: Any) -> Any:
        found = move(self, *given, **named)
        kept.append([value.repeat_interleave(40) for value in found.values() if hasattr(value, "repeat_interleave")])
        return found

    with patch.object(VideoTextProcessor, "to_device", keeps):
        yield


MUTANTS = {"every batch is kept": keeps_batches}
PROMISE = Promise(
    "memory",
    "what a run holds grows by 2 % at most from epoch 2 to 20",
    12,
    trial,
    processes=2,
    limit=1200.0,
    short_seeds=0,
)

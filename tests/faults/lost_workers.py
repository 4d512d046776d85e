"""A data loader's worker is killed or stopped in a real run: the run goes on, to the very same weights."""

import multiprocessing
import os
import random
import signal
import tempfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from campaign import BrokenPromise, Promise
from small_runs import captioned_shards, recipe, separate_run, trainer

STEPS = 9
LAST = 3
"""The last step after which a worker is lost: then not all batches are made yet."""


def pretrain(folder: Path, workers: int, after_step: Callable[[int], None]) -> dict[str, Any]:
    """The weights of a run of pre-training."""
    from violet.training.pretraining import Pretraining
    from violet.training.recipe import read_recipe

    changes = {"frame_sampling": "jitter", "fit": "random_crop", "decode_time_limit": 10.0, "eval_batches": 1}
    run = Pretraining(read_recipe(recipe(folder / "run", max_steps=STEPS, num_workers=workers, **changes)))
    step = run.train_step

    def steps(number: int, *rest: Any) -> None:
        step(number, *rest)
        after_step(number)

    run.train_step = steps  # type: ignore[method-assign]
    run.run(resume=False)
    return run.accelerator.unwrap_model(run.model).state_dict()


def finetune(folder: Path, workers: int, after_step: Callable[[int], None]) -> dict[str, Any]:
    """The weights of a run of the Trainer, over two epochs."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            after_step(state.global_step)

    given = {"max_steps": STEPS, "dataloader_num_workers": workers}
    run = trainer(folder, None, {"decode_time_limit": 10.0}, **given)
    run.add_callback(Steps())
    run.train()
    return run.model.state_dict()


class Means:
    """In a worker: the clips of a batch of a stream -> the means of their frames, and the names."""

    def __init__(self) -> None:
        from violet.data import ClipReader
        from violet.processing import VioletVideoProcessor

        frames = VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=2, frame_sampling="jitter")
        self.reader = ClipReader(frames, time_limit=10.0)

    def __call__(self, rows: list[dict[str, Any]]) -> tuple[list[str], Any]:
        import torch

        clips = [self.reader.read(row["clip"], draw=row["draw"], name=row["video"]) for row in rows]
        names = [f"{row['video']}, {row['draw']}" for row in rows]
        return names, torch.stack([torch.from_numpy(clip.frames).float().mean((0, 1, 2)) / 255 for clip in clips])


def stream(folder: Path, workers: int, after_step: Callable[[int], None]) -> dict[str, Any]:
    """The weights of a loop of one's own over two epochs of a stream, and the order of its samples."""
    import torch

    from violet.data import LastingLoader, ShardStream

    shards = captioned_shards()
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer, work, order = torch.optim.AdamW(model.parameters(), lr=1e-2), Means(), []
    rows = ShardStream(shards, batch_size=2, seed=3, lanes=2, block=4)
    plain = torch.utils.data.DataLoader(
        rows, batch_size=None, num_workers=workers, collate_fn=work, persistent_workers=workers == 2
    )
    batches = LastingLoader(plain, work.reader.held, work.reader.stall_limit)
    for epoch in range(2):
        rows.set_epoch(epoch)
        for names, colours in batches:
            order += names
            loss = (model(colours) - colours.sum(1, keepdim=True)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            after_step(len(order) // 2)
    numbers = [zlib.crc32(name.encode()) for name in order]
    return {**model.state_dict(), "order": torch.tensor(numbers)}


@cache
def expected(kind: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The weights without a fault, and without workers."""
    with tempfile.TemporaryDirectory() as folder:
        return kind(Path(folder), 0, lambda step: None)


KINDS = (pretrain, stream, finetune)


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """One run in which a worker is lost: killed if the seed is even, stopped if it is odd."""
    chance = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    lost, workers = (signal.SIGKILL, signal.SIGSTOP)[seed % 2], chance.randint(1, 2)
    after, found = chance.randint(0, LAST), []

    def lose(step: int) -> None:
        if step == max(after, 1):
            children = sorted(child.pid or 0 for child in multiprocessing.active_children())
            found.append(chance.choice(children))
            os.kill(found[0], lost)

    about = f"{workers} workers, {lost.name} after step {max(after, 1)} of {kind.__name__}"
    start = patch("violet.processing.decoder_process.START_SECONDS", 15.0)  # two minutes, on a busy machine
    with separate_run(), counted() as starts, start:
        same = expected(kind)
        try:
            weights = kind(folder, workers, lose)
        except StopIteration as error:
            raise BrokenPromise(f"{about}: there were too few batches") from error
    if not found or not starts:
        raise BrokenPromise(f"{about}: workers were started again {len(starts)} times")
    different = [name for name, value in same.items() if not (name in weights and value.equal(weights[name]))]
    if different:
        raise BrokenPromise(f"{about}: the weights of {different[0]} and {len(different) - 1} more are others")
    return {"lost": 1, "replaced": 1, lost.name: 1}


@contextmanager
def counted():
    """How often workers are started again, as a list."""
    from violet.data.lasting import LastingLoader

    starts, give_up = [], LastingLoader._give_up

    def counts(self: Any, *given: Any) -> None:
        give_up(self, *given)
        starts.append(1)

    with patch.object(LastingLoader, "_give_up", counts):
        yield starts


@contextmanager
def loses_batches():
    """Batches that were on their way are not made again."""
    from violet.data.lasting import _Order

    def goes_on(self: Any) -> Any:
        self._under_way.clear()
        for indices in self._source:
            self._under_way.append(indices)
            yield indices

    with patch.object(_Order, "__iter__", goes_on):
        yield


@contextmanager
def streams_begin_again():
    """The rest of a stream is all of it."""
    from violet.data import ShardStream

    rest = ShardStream.rest
    with patch.object(ShardStream, "rest", lambda self, done: rest(self, 0)):
        yield


MUTANTS = {"batches on their way are lost": loses_batches, "a stream begins again": streams_begin_again}
PROMISE = Promise(
    "lost_workers",
    "a worker that loads data is killed or stopped: it is replaced, and the weights are those without a fault",
    100,
    trial,
    short_seeds=0,
)

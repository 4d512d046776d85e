"""A run that is interrupted at any step and goes on, with other workers, ends as the one that was not, to the bit."""

import random
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from campaign import Promise
from interrupted_runs import CODE, KINDS, STEPS, draw_interruption, interrupted_run

ORDER = ("stream", "finetune", "pretrain")
PAIRS = [(before, after) for before in range(3) for after in range(3)]


def trial(seed: int, folder: Path) -> dict[str, int]:
    """One interruption: every step of each kind of run, with each pair of numbers of workers before and after."""
    chance = random.Random(seed)
    kind, place = ORDER[seed % len(ORDER)], seed // len(ORDER)
    step, pair = 1 + place % STEPS, PAIRS[(place % STEPS + place // STEPS) % len(PAIRS)]
    return {kind: interrupted_run(kind, folder, [draw_interruption(chance, kind, step)], list(pair))}


@contextmanager
def other_dropout():
    """Generators are not set to what the checkpoint says."""
    from transformers import Trainer

    from violet.training import pretraining, run_state

    with (
        patch.object(run_state, "set_generators", lambda states: None),
        patch.object(pretraining, "set_generators", lambda states: None),
        patch.object(Trainer, "_load_rng_state", lambda self, checkpoint: None),
    ):
        yield


@contextmanager
def skips_a_batch():
    """A stream goes on one batch too far; a table's epoch too."""
    from violet.data import ShardStream

    whole = ShardStream.set_epoch
    with patch.object(ShardStream, "set_epoch", lambda self, epoch, place=0: whole(self, epoch, place + (place > 0))):
        yield


MUTANTS = {"dropout draws other numbers": other_dropout, "a batch is skipped": skips_a_batch}
PROMISE = Promise(
    "resume_points",
    "interrupted at each step of 3 epochs and resumed: weights, optimiser, schedule, generators, log and sample order "
    "equal to the bit; fine-tuning, pre-training, streams; 0-2 workers, changed between",
    len(KINDS) * STEPS * len(PAIRS),
    trial,
    processes=1,
    short_seeds=1,
    code=CODE,
)

"""A run that is interrupted 3 to 10 times, by kills and by SIGTERM, ends as the one that was not, to the bit."""

import random
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from campaign import Promise
from interrupted_runs import CODE, STEPS, draw_interruption, interrupted_run

ORDER = ("stream", "finetune", "pretrain")


def trial(seed: int, folder: Path) -> dict[str, int]:
    """A chain of interruptions at drawn moments of rising steps, each part with drawn workers."""
    chance = random.Random(seed)
    kind = ORDER[seed % len(ORDER)]
    steps = sorted(chance.sample(range(1, STEPS + 1), 3 + seed % 8))
    workers = [chance.randint(0, 2) for _ in range(len(steps) + 1)]
    chain = [draw_interruption(chance, kind, step) for step in steps]
    return {f"{kind}, resumes": interrupted_run(kind, folder, chain, workers)}


@contextmanager
def forgets_moments():
    """The optimiser's moments start again."""
    from violet.training import pretraining, run_state

    whole = run_state.load_optimizer

    def load(folder):
        state, scaler = whole(folder)
        return {**state, "state": {}}, scaler

    with patch.object(run_state, "load_optimizer", load), patch.object(pretraining, "load_optimizer", load):
        yield


MUTANTS = {"the optimiser starts again": forgets_moments}
PROMISE = Promise(
    "resume_chains",
    "interrupted 3-10 times (SIGKILL, SIGTERM) with other workers each time: equal to the bit at the end",
    200,
    trial,
    short_seeds=1,
    code=CODE,
)

"""A process killed at any call of a save leaves the older checkpoint or the newer one: whole, and of one step."""

import shutil
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from campaign import BrokenPromise, Promise
from savers import KINDS, broken, litter, load, saver, state_of
from traced_process import Plan

WHEN = ("before", "half", "after")


def trial(seed: int, folder: Path) -> dict[str, int]:
    """
    A save that is killed before, after or half way through one of its calls: all of them in turn. Then what the next
    start does first: it deletes what was left half written.
    """
    from violet.training.checkpoints import clear_partial

    kind, place = KINDS[seed % len(KINDS)], seed // len(KINDS)
    of = saver(kind)
    count = len(of.calls)
    turn, number = divmod(place, count)
    at, when = (number * 7919 + count // 2) % count, WHEN[(turn + number) % len(WHEN)]  # each in a mixed order
    output = folder / "run"
    shutil.copytree(of.before, output)
    made = of.save(output, Plan(at, kill=when))
    last = at == count - 1 and when != "before"
    if made.status != -9 and not last:
        raise BrokenPromise(f"{kind}: not killed {when} call {at}, {of.calls[at]}: {made.status} {made.said[-2000:]}")
    where = f"{kind}, killed {when} call {at} of {count}, {of.calls[at]}"
    found = state_of(kind, output)
    if found not in of.states:
        raise BrokenPromise(f"{where}: {'nothing whole is left' if found is None else 'it is of neither save'}")
    load(kind, output)
    if kind != "model":
        clear_partial(output)
        if litter(kind, output):
            raise BrokenPromise(f"{where}: left behind: {', '.join(litter(kind, output))}")
    return {"older": found == of.states[0], "newer": found == of.states[1]}


@contextmanager
def in_place():
    """A save into the checkpoint's own folder, the newest of which is taken to be whole."""
    from violet.training import checkpoints, pretraining, trainer

    @contextmanager
    def new_checkpoint(output_dir, step, accelerator, kept, best=None):
        folder = checkpoints.checkpoint_folder(output_dir, step)
        folder.mkdir()
        yield folder
        checkpoints.seal(folder)
        checkpoints.prune_checkpoints(folder, kept, best)

    with (
        patch.object(pretraining, "new_checkpoint", new_checkpoint),
        patch.object(trainer, "new_checkpoint", new_checkpoint),
        patch.object(checkpoints, "find_damage", lambda folder: None),
        broken("in place"),
    ):
        yield


MUTANTS = {"checkpoints are written in place": in_place}
PROMISE = Promise(
    "killed_saves",
    "SIGKILL at every call of a save (before, half way, after): a whole, loadable checkpoint of one step is left",
    2000,
    trial,
    short_seeds=3,
)

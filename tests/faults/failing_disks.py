"""A disk that is full or read-only, or denies permission, at any call of a save: an error that says so and no harm."""

import shutil
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from campaign import BrokenPromise, Promise
from savers import KINDS, Made, broken, litter, load, saver, state_of
from traced_process import ERRORS, Plan

WORDS = {
    "disk full": "No space left on device",
    "quota": "quota",
    "read-only": "Read-only file system",
    "not permitted": "ermission denied",
}
LASTS = {"disk full": "allocating", "quota": "allocating", "read-only": "all", "not permitted": ""}
"""What else fails from then on: a full disk lets one delete, a read-only one nothing; a permission is one call's."""


def trial(seed: int, folder: Path) -> dict[str, int]:
    """A save of which a call fails, as it would on such a disk: all calls in turn, with each error."""
    from violet.training.checkpoints import clear_partial

    kind, name = KINDS[seed % len(KINDS)], list(ERRORS)[seed // len(KINDS) % len(ERRORS)]
    of = saver(kind)
    at = (seed // (len(KINDS) * len(ERRORS)) * 7919 + len(of.calls) // 2) % len(of.calls)
    output = folder / "run"
    shutil.copytree(of.before, output)
    before = {path for path in folder.rglob("*") if "checkpoint-" not in str(path)}
    made = of.save(output, Plan(at, error=ERRORS[name], lasts=LASTS[name]))
    where = f"{kind}, {name} at call {at} of {len(of.calls)}, {of.calls[at]}"
    found = state_of(kind, output)
    if found not in of.states:
        raise BrokenPromise(f"{where}: what is left is whole of neither save; it said {made.said[-1500:]}")
    load(kind, output)
    _check_words(kind, name, made, where, saved=found == of.states[1])
    if name == "read-only" and kind != "model":
        clear_partial(output)  # nothing can be deleted there before it can be written again
    left = litter(kind, output) if name != "read-only" or kind != "model" else []
    more = {path for path in folder.rglob("*") if "checkpoint-" not in str(path)} - before
    if made.status and (left or (more and name != "read-only")):
        raise BrokenPromise(f"{where}: left behind: {', '.join(left) or sorted(map(str, more))}; {made.said[-1500:]}")
    return {"refused": made.status == 3, "saved": made.status == 0}


def _check_words(kind: str, name: str, made: Made, where: str, saved: bool) -> None:
    """An error must say what is wrong and what stays; a save that was done may warn of what it could not delete."""
    if made.status == 0:
        if not saved:
            raise BrokenPromise(f"{where}: it ended well, and the older one is left; it said {made.said[-1500:]}")
        return
    if made.status != 3:
        raise BrokenPromise(f"{where}: ended with {made.status}, and said {made.said[-3000:]}")
    words = ["disk is full" if "torch could not" in made.said else WORDS[name].lower()]
    if kind != "model":
        words += ["could not be written", "is whole and stays"]
    missing = [word for word in words if word not in made.said.lower()]
    if missing:
        raise BrokenPromise(f"{where}: the error lacks {missing}: {made.said[-1500:]}")


@contextmanager
def without_cleaning():
    """A checkpoint whose writing failed leaves its half."""
    from violet.training import checkpoints

    class Kept:
        rmtree = staticmethod(lambda folder, ignore_errors=False: None if ignore_errors else shutil.rmtree(folder))

    with patch.object(checkpoints, "shutil", Kept), broken("without cleaning"):
        yield


MUTANTS = {"what was half written stays": without_cleaning}
PROMISE = Promise(
    "failing_disks",
    "disk full, over quota, read-only or not permitted at every call of a save: a clear error, the older checkpoint "
    "kept, nothing left behind",
    2000,
    trial,
    short_seeds=3,
)

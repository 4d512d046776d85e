"""
Processes that stand before a save, with everything in memory, and make it again and again, each time in a forked
process whose disk fails, or that is killed, at one of its calls.
"""

import atexit
import json
import logging
import os
import random
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import interrupted_runs
from campaign import BrokenPromise
from interrupted_runs import end_group, start
from traced_process import Plan, traced, watch_from_here

KINDS = ("finetune", "pretrain", "model")
"""Checkpoints of both ways of training, and a run's model, which takes the place of an older one."""
OLDER, NEWER = 1, 2
"""Steps: the checkpoint that is there, and the one that is saved."""

_savers: dict[str, "Saver"] = {}
mutant = ""
"""What is broken in this process: a saver that was forked before knows nothing of it."""


@dataclass
class Made:
    """What a save did: its status (0; 3 for an error that it told; below 0 for a signal), its calls, what it said."""

    status: int
    calls: list[str]
    said: str


def saver(kind: str) -> "Saver":
    """The saver of that kind, which this process starts once."""
    key = f"{os.getpid()} {kind} {mutant}"
    if key not in _savers:
        _savers[key] = Saver(kind)
    return _savers[key]


@contextmanager
def broken(name: str) -> Iterator[None]:
    """Within it savers are forked again, from this process as it is now."""
    global mutant
    mutant = name
    try:
        yield
    finally:
        for key in [key for key in _savers if key.startswith(f"{os.getpid()} ") and key.endswith(f" {name}")]:
            _savers.pop(key).end()
        mutant = ""


class Saver:
    """
    A process that has trained to the step `NEWER`, about to save.

    Attributes:
        before: a folder as it is before the save; trials copy it.
        states: of the folder before the save, and after one that nothing disturbed: the content of what counts.
        calls: of an undisturbed save.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self.folder = _new_folder(kind)
        self.said = self.folder / "said"
        self.before, self.owner = self.folder / "run", os.getpid()
        if kind == "model":  # the process of fine-tuning has one
            self.pid, self.pipe = None, saver("finetune").pipe
            self.save(self.before, Plan(), other=True)
        else:
            self.pipe, end = Pipe()
            self.pid = start(lambda: self._train(end), self.said)
            end.close()
            if not self.pipe.poll(120) or self.pipe.recv() != "ready":
                raise BrokenPromise(f"the saver of {kind} did not begin: {self.said.read_text()[-3000:]}")
        self.states = [state_of(kind, self.before)]
        after = self.folder / "after"
        shutil.copytree(self.before, after)
        made = self.save(after, Plan())
        self.states.append(state_of(kind, after))
        self.calls = made.calls
        if made.status != 0 or self.states[0] == self.states[1] or len(self.calls) < 10:
            raise BrokenPromise(f"an undisturbed save of {kind} ended with {made.status}: {made.said[-3000:]}")

    def end(self) -> None:
        if os.getpid() == self.owner:
            if self.pid is not None:
                end_group(self.pid)
                os.waitpid(self.pid, 0)
            shutil.rmtree(self.folder, ignore_errors=True)

    def save(self, output: Path, plan: Plan, other: bool = False) -> Made:
        """Makes the save into that folder; `other`: of a model that is a little other."""
        self.pipe.send([str(output), asdict(plan), self.kind, other])
        if not self.pipe.poll(60):
            raise BrokenPromise(f"a save of {self.kind} did not end within 60 s, with {plan}")
        return Made(*self.pipe.recv())

    # --- in its process ---

    def _train(self, pipe: Any) -> int:
        interrupted_runs.quiet()
        run, patched = self.folder / "run", _StopsAtSave(self, pipe)
        interrupted_runs.RUNS[self.kind](run, 0, 1, patched)
        return 1

    def serve(self, pipe: Any, trainer: Any) -> None:
        """Saves as it is asked to, for ever."""
        pipe.send("ready")
        drawn = random.getstate()
        while True:
            output, plan, kind, other = pipe.recv()
            said = self.folder / "save"
            work = lambda: self._save_in(Path(output), kind, other, trainer, said, drawn)  # noqa: E731, B023
            status, calls = traced(work, Plan(**plan))
            pipe.send([status, calls, said.read_text() if said.exists() else ""])
            said.unlink(missing_ok=True)

    def _save_in(self, output: Path, kind: str, other: bool, trainer: Any, said: Path, drawn: Any) -> int:
        from violet.training import CheckpointError

        random.setstate(drawn)  # Python seeds it again in a forked process
        number_of_file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(number_of_file, 1), os.dup2(number_of_file, 2)  # whose calls are not watched
        file = sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
        logging.basicConfig(stream=file, force=True)
        try:
            if kind == "finetune":
                trainer.args.output_dir, trainer.args.save_total_limit = str(output), 1
                watch_from_here()
                type(trainer).unwatched_save(trainer, trainer.model, None)
            elif kind == "pretrain":
                from violet.training.training_log import TrainingLog

                trainer.output_dir, trainer.recipe.checkpoints_kept = output, 1
                log = TrainingLog(output, trainer.accelerator)
                watch_from_here()
                type(trainer).unwatched_save(trainer, NEWER, log)
            else:
                from violet.training.runs import save_model

                if other:
                    next(trainer.model.parameters()).data += 1
                    trainer.model.config.classifier_dropout = 0.3
                output.mkdir(exist_ok=True)
                watch_from_here()
                save_model(output, trainer.model, trainer._processor)
        except (CheckpointError, OSError) as error:
            print(f"{type(error).__name__}: {error}")
            return 3
        except BaseException:  # noqa: BLE001  its kind is what the trial looks at
            traceback.print_exc()
            return 4
        finally:
            file.flush()
        return 0


def _new_folder(kind: str) -> Path:
    """A folder beside what the runs read. Those of processes that are gone are deleted."""
    beside = interrupted_runs.made().parent
    for old in beside.glob("saver-*"):
        if not Path("/proc", old.name.split("-")[1]).exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = beside / f"saver-{os.getpid()}-{kind}-{mutant.replace(' ', '-')}"
    folder.mkdir()
    return folder


@atexit.register
def _end_all() -> None:
    for one in _savers.values():
        one.end()


class _StopsAtSave(interrupted_runs.Watch):
    """Lets the run go to the save of the step `NEWER`, and serves there."""

    def __init__(self, of: Saver, pipe: Any):
        super().__init__(of.folder / "run", None)
        self.of, self.pipe = of, pipe

    def at(self, step: int, moment: str) -> None:
        if (step, moment) != (NEWER, interrupted_runs.MOMENTS[2]):
            return
        frame = sys._getframe(1)  # `saved` of interrupted_runs: its first argument saves, as `save` does
        trainer = frame.f_locals["self"]
        type(trainer).unwatched_save = frame.f_locals["save"]
        self.of.serve(self.pipe, trainer)


# --- what is in a folder ---


def state_of(kind: str, folder: Path) -> dict[str, str] | None:
    """
    What a run would go on from: the files of the last whole checkpoint by their sums; or those of a model.
    None if there is nothing.
    """
    from violet.core.files import MANIFEST, sha256
    from violet.training import last_whole_checkpoint

    if kind == "model":
        files = [folder / name for name in ("model.safetensors", "config.json")]
        return {file.name: sha256(file) for file in files if file.exists()} or None
    found = last_whole_checkpoint(folder)
    if found is None:
        return None
    manifest = Path(found) / MANIFEST
    listing = json.loads(manifest.read_text()) if manifest.exists() else {}
    # the Trainer's arguments hold the folder's path
    sums = {name: one["sha256"] for name, one in listing.items() if name not in ("training_args.bin", MANIFEST)}
    return {Path(found).name: json.dumps(sums)}


def litter(kind: str, folder: Path) -> list[str]:
    """What no one reads: temporary names, and checkpoints that are not whole."""
    from violet.core.files import find_damage
    from violet.training.checkpoints import checkpoints_of

    found = [path for path in (*folder.rglob("*"), *folder.parent.iterdir()) if "partial" in path.name]
    if kind != "model":
        found += [path for path in checkpoints_of(folder) if find_damage(path)]
    return sorted(str(path) for path in set(found))


def load(kind: str, folder: Path) -> None:
    """Reads what is in the folder by the functions that a run goes on with."""
    import torch
    from safetensors.torch import load_file

    from violet.training import last_whole_checkpoint
    from violet.training.run_state import load_optimizer

    if kind == "model":
        assert load_file(folder / "model.safetensors") and json.loads((folder / "config.json").read_text())
        return
    last = Path(str(last_whole_checkpoint(folder)))
    assert load_file(last / "model.safetensors")
    if kind == "pretrain":
        assert load_optimizer(last)[0]["state"] and json.loads((last / "progress.json").read_text())
        return
    from transformers.trainer_pt_utils import safe_globals

    with safe_globals():
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            assert torch.load(last / name, weights_only=True)

"""The training commands, killed at random times and started again: equal weights, and nothing left behind."""

import os
import random
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import psutil
import yaml
from campaign import BrokenPromise, Promise
from interrupted_runs import CODE, EPOCHS, STEPS, check_outcome, expected, finish, made, quiet, recipe, start

KINDS = ("finetune", "pretrain")


def trial(seed: int, folder: Path) -> dict[str, int]:
    """
    The command, killed once to three times at drawn moments, by itself or with its workers, and on to its end: its
    function in a forked process, which has it imported; of every tenth seed `python -m violet.cli` itself.
    """
    chance = random.Random(seed)
    kind, real = KINDS[seed % 2], seed % 10 == 9
    output, temporary = folder / "run", folder / "temporary"
    temporary.mkdir()
    made(), expected(kind)
    kills = sorted(chance.sample(range(1, STEPS - 1), 1 + seed // 2 % 3))
    for number, step in enumerate(kills):
        pid = start(lambda: command(kind, output, chance_of(seed, number), temporary, real), folder / "said")  # noqa: B023
        _wait_for(pid, output, step, folder / "said")
        time.sleep(chance.random() * 0.1)
        _kill(pid, alone=chance.random() < 0.5)
        _check_temporary(temporary, f"{kind}, killed after step {step}")
    pid = start(lambda: command(kind, output, chance.randint(0, 2), temporary, real), folder / "said")
    ended = finish(pid, folder / "said", 200)
    if ended.status != 0:
        raise BrokenPromise(f"{kind}, killed after steps {kills}: ended with {ended.status}: {ended.said[-3000:]}")
    check_outcome(kind, output, ordered=False)
    _check_temporary(temporary, f"{kind}, killed after steps {kills}, at the end")
    return {"kills": len(kills)}


def chance_of(seed: int, number: int) -> int:
    """The workers of a part."""
    return random.Random(seed * 100 + number).randint(0, 2)


def command(kind: str, output: Path, workers: int, temporary: Path, real: bool) -> int:
    """`violet finetune …` or `violet pretrain …`, with this temporary folder."""
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    folder = made()
    if kind == "finetune":
        argv = [
            *("finetune", "--task=captioning", f"--model={folder / 'finetune'}"),
            f"--train_file={folder / 'captions.csv'}",
            f"--output_dir={output}", "--per_device_train_batch_size=3", f"--num_train_epochs={EPOCHS}",
            "--learning_rate=1e-2", "--save_steps=1", "--logging_steps=5", "--lr_scheduler_type=cosine",
            f"--dataloader_num_workers={workers}", "--report_to=none", "--disable_tqdm=true", "--bf16=false",
            "--seed=7",
        ]  # fmt: skip
    else:
        import dataclasses

        file = output.parent / f"recipe-{workers}.yaml"
        file.write_text(yaml.safe_dump(dataclasses.asdict(recipe(output, workers))))
        argv = ["pretrain", str(file), "--resume"]
    if real:
        os.execv(sys.executable, [sys.executable, "-m", "violet.cli", *argv])
    quiet()
    from violet.cli import main

    return main(argv)


def _wait_for(pid: int, output: Path, step: int, said: Path) -> None:
    """Until the checkpoint of that step or a later one has its name."""
    deadline = time.monotonic() + 200
    while not any(
        folder.name.split("-")[1].isdigit() and int(folder.name.split("-")[1]) >= step
        for folder in output.glob("checkpoint-*")
    ):
        if os.waitpid(pid, os.WNOHANG)[0] or time.monotonic() > deadline:
            raise BrokenPromise(f"it ended, or hung, before it was killed: {said.read_text()[-3000:]}")
        time.sleep(0.01)


def _kill(pid: int, alone: bool) -> None:
    """SIGKILL, to it only, or to all that it started as well. Its workers end by themselves."""
    started = psutil.Process(pid).children(recursive=True)
    os.kill(pid, signal.SIGKILL) if alone else os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    left = psutil.wait_procs(started, timeout=60)[1]
    if left:
        raise BrokenPromise(f"its workers did not end within 60 s: {left}")


def _check_temporary(folder: Path, where: str) -> None:
    left = sorted(path.name for path in folder.iterdir())
    if left:
        raise BrokenPromise(f"{where}: left in the temporary folder: {', '.join(left)}")


@contextmanager
def held_in_files():
    """A reader that keeps a file in the temporary folder, as it once did."""
    from violet.data import loading

    whole = loading.HeldSamples.__init__

    def begin(self):
        whole(self)
        self.folder = tempfile.mkdtemp(prefix="violet-held-")

    with patch.object(loading.HeldSamples, "__init__", begin):
        yield


MUTANTS = {"a temporary folder is left": held_in_files}
PROMISE = Promise(
    "killed_commands",
    "the training commands killed at random times and started again: equal weights, nothing in the temporary folder",
    100,
    trial,
    limit=900,
    short_seeds=0,
    code=CODE,
)

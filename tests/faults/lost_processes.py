"""One of two training processes is killed or stopped: the other ends in time and names its rank and step."""

import json
import multiprocessing
import os
import random
import re
import signal
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from campaign import BrokenPromise, Promise, module_of
from small_runs import recipe

DEAD_SECONDS = 10.0
STALL_LIMIT = 15.0
STARTS_WITHIN = 200.0
LIGHT = 2
MUTANT = "VIOLET_FAULTS_MUTANT"
PROGRAM = """
import sys
sys.path[:0] = {path!r}
import lost_processes
sys.exit(lost_processes.run(sys.argv[1]))
"""


def run(file: str) -> int:
    """What each process does: `violet pretrain FILE`, with the code broken if a mutant is asked for."""
    from violet.cli import main

    multiprocessing.set_start_method("fork", force=True)  # as in a command; in `OwnProcess` workers import all again
    with module_of("lost_processes").BROKEN[os.environ.get(MUTANT, "")]():
        return main(["pretrain", file])


class Exchanging:
    """A process that does nothing but the exchange of a training step: forked, and started in a moment."""

    def __init__(self, rank: int, folder: Path, environment: dict[str, str]):
        self.process = multiprocessing.get_context("fork").Process(target=exchange, args=(rank, folder, environment))
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def exchange(rank: int, folder: Path, environment: dict[str, str]) -> None:
    """Sums over the processes, step by step, with a line of the log after each."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from violet.training.processes import ProcessGoneError, ProcessWatch

    os.environ |= environment
    os.dup2(os.open(folder / f"said_{rank}.txt", os.O_WRONLY | os.O_CREAT, 0o600), 2)
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=True)
    log = folder / "run/log.jsonl"
    log.parent.mkdir(exist_ok=True)
    with module_of("lost_processes").BROKEN[os.environ.get(MUTANT, "")]():
        try:
            with ProcessWatch(accelerator, STALL_LIMIT) as watch, open(log, "a") as out:
                for step in range(1, 100_000):
                    watch.beat(step, "computing the gradient")
                    accelerator.reduce(torch.ones(1))
                    time.sleep(0.02)
                    if rank == 0:
                        out.write(json.dumps({"step": step}) + "\n")
                        out.flush()
        except ProcessGoneError as error:
            os.write(2, f"{error}\n".encode())
            os._exit(2)


def start(folder: Path, given: dict[str, Any] | None) -> list[Any]:
    """
    Two processes that pre-train, or for None only exchange, with the environment that a launcher gives them, and
    nobody who ends them.
    """
    from own_process import OwnProcess

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    both |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    each = [both | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    if given is None:
        return [Exchanging(rank, folder, each[rank]) for rank in range(2)]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(given))
    here = Path(__file__).parent
    program = PROGRAM.format(path=[str(here), str(here.parent / "helpers")])
    return [
        OwnProcess(
            *("-c", program, folder / "recipe.yaml"),
            env=each[rank],
            stdout=folder / f"out_{rank}.txt",
            stderr=folder / f"said_{rank}.txt",
        )
        for rank in range(2)
    ]


def wait_for(done: Any, seconds: float, processes: list[Any], folder: Path) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        ended = [rank for rank, process in enumerate(processes) if process.poll() is not None]
        if ended or time.monotonic() > deadline:
            said = "".join((folder / f"said_{rank}.txt").read_text()[-2000:] for rank in range(2))
            raise BrokenPromise(f"before the fault {ended or 'nothing'} ended, or a run did not start: {said}")
        time.sleep(0.05)


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """
    One run of two processes of which one is lost: killed if the seed is even, stopped if it is odd. The first two
    seeds train nothing, so that `make test` can afford them.
    """
    chance = random.Random(seed)
    lost, rank, workers = (signal.SIGKILL, signal.SIGSTOP)[seed % 2], chance.randrange(2), chance.randint(0, 1)
    begun, pause = chance.randint(1, 4), chance.uniform(0, 0.5)
    every = {"eval_steps": 7, "save_steps": 5, "logging_steps": 1, "num_workers": workers}
    given = recipe(folder / "run", max_steps=100_000, process_time_limit=STALL_LIMIT, **every)
    processes = start(folder, given if seed >= LIGHT else None)
    log, number = folder / "run/log.jsonl", {"rank": rank, "how": lost.name}
    try:
        wait_for(lambda: log.exists() and log.read_text().count("\n") >= begun, STARTS_WITHIN, processes, folder)
        time.sleep(pause)
        at = time.monotonic()
        os.kill(processes[rank].process.pid, lost)
        allowed = DEAD_SECONDS + (STALL_LIMIT if lost == signal.SIGSTOP else 0)
        while processes[1 - rank].poll() is None and time.monotonic() - at < allowed:
            time.sleep(0.02)
        seconds, status = time.monotonic() - at, processes[1 - rank].poll()
    finally:
        for process in processes:
            process.kill()
    said = (folder / f"said_{1 - rank}.txt").read_text()
    if status is None:
        raise BrokenPromise(f"{number}: process {1 - rank} was still there after {seconds:.1f} s: {said[-2000:]}")
    named = re.search(rf"Process {rank} \(step (\d+), [^)]+\) (is gone|has not answered|has stood still)", said)
    steps = json.loads(log.read_text().splitlines()[-1])["step"]
    if status == 0 or named is None or abs(int(named[1]) - steps) > 2:
        raise BrokenPromise(f"{number}: at step {steps} process {1 - rank} ended by {status}, saying: {said[-2000:]}")
    return {"lost": 1, "named": 1, lost.name: 1}


@contextmanager
def does_not_watch():
    """Processes that do not watch one another."""
    from violet.training.processes import ProcessWatch

    with patch.object(ProcessWatch, "_connect", lambda self: {}):
        yield


@contextmanager
def names_itself():
    """A message that names the wrong step."""
    with patch("violet.training.processes._place", lambda state: f"(step {state['step'] + 99}, computing)"):
        yield


@contextmanager
def whole():
    yield


BROKEN = {"": whole, "does not watch": does_not_watch, "names another step": names_itself}


def through_environment(name: str):
    @contextmanager
    def mutant():
        with patch.dict(os.environ, {MUTANT: name}):
            yield

    return mutant


MUTANTS = {name: through_environment(name) for name in BROKEN if name}
PROMISE = Promise(
    "lost_processes",
    "one of two training processes is killed (the other ends within 10 s) or stopped (within its time limit and 10 "
    "s), and is named with its step",
    100,
    trial,
    processes=2,
    limit=300.0,
    short_seeds=1,
    code=("training",),
)

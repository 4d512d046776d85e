"""
The campaign: what docs/reliability.md promises, tried with planted faults, and how often it was tried.

A promise is a module beside this one: `NAME.py` with

    PROMISE = Promise("NAME", "what is promised", full_count=2000, trial=trial)
    MUTANTS = {"what is broken": a function that gives a context manager}

`trial(seed, folder)` makes one trial from its seed, in an empty folder of its own: the same seed makes the same trial.
It raises `BrokenPromise` if the promise does not hold, and may return counts, which are summed, and text, which is
only compared when a seed is tried twice. A mutant breaks the code under test; a trial of the short form must catch it.

    make faults                      a tenth of the counts, an hour at most
    make faults FULL=1               all of them, in any number of sittings: it goes on where it was stopped
    python tests/faults/campaign.py --only NAME --seconds 600 --seeds 3,17
    python tests/faults/campaign.py --docs      writes the table of docs/reliability.md from what has been tried here;
                                                where more has been tried of another code, its line stays
"""

import argparse
import datetime
import fcntl
import hashlib
import importlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FIXTURES = HERE / "fixtures"
RESULTS = ROOT / "outputs" / "faults"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- campaign: written by tests/faults/campaign.py --docs -->", "<!-- end of campaign -->"
LARGEST_FIXTURE = 200_000


class BrokenPromise(AssertionError):
    """A trial in which the promise did not hold. `file` is the input that showed it; it becomes a fixture."""

    def __init__(self, sentence: str, file: Path | None = None):
        super().__init__(sentence)
        self.file = file


@dataclass(frozen=True)
class Promise:
    """
    Something that always holds, and how it is tried.

    Args:
        name: its module's.
        what: a line for the table.
        full_count: how many seeds, from 0, are the whole of it.
        trial: see this file's docstring.
        processes: how many processes a trial keeps busy; two cores are shared by as many trials as that allows.
        limit: seconds after which a trial counts as hanging; it is killed, and the promise is broken.
        short_seeds: how many seeds `make test` tries, for the promise and for each mutant; 0 leaves two to
            `make proofs`, where trials start processes that train.
        code: the folders of the package on which it rests: when they change, what was tried before no longer counts.
        replay: tries a fixture, a file of `fixtures/NAME/`, and raises `BrokenPromise`; `make test` calls it.
    """

    name: str
    what: str
    full_count: int
    trial: Callable[[int, Path], dict[str, Any] | None]
    processes: int = 1
    limit: float = 300.0
    short_seeds: int = 2
    code: tuple[str, ...] = ("core", "data", "processing", "training")
    replay: Callable[[Path], None] | None = None


def names() -> list[str]:
    """The modules that hold a promise."""
    return sorted(file.stem for file in HERE.glob("*.py") if "\nPROMISE = " in file.read_text(encoding="utf-8"))


def module_of(name: str) -> ModuleType:
    """A promise's module: it has `PROMISE` and `MUTANTS`."""
    sys.path[:0] = [str(one) for one in (HERE, HERE.parent / "helpers") if str(one) not in sys.path]
    return importlib.import_module(name)


def inputs(name: str, make: Callable[[Path], Any]) -> Path:
    """A folder that `make` fills once for all trials and processes (clips, weights); trials do not write there."""
    folder = Path(tempfile.gettempdir()) / f"violet-faults-{os.getuid()}" / source_of(("data",))[:12] / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_name(f".{name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


# --- one trial ---


def try_seed(promise: Promise, seed: int) -> dict[str, Any]:
    """Tries one seed in a folder that goes afterwards: a line of the results."""
    begun = time.perf_counter()
    line: dict[str, Any] = {"seed": seed, "broken": None, "counts": {}}
    folder = Path(tempfile.mkdtemp(prefix=f"faults-{promise.name}-"))
    try:
        line["counts"] = promise.trial(seed, folder) or {}
    except BrokenPromise as broken:
        line["broken"] = str(broken)
        if broken.file is not None:
            line["input"] = str(keep(promise.name, seed, broken.file))
    except Exception:  # noqa: BLE001  what a trial did not foresee breaks the promise too
        line["broken"] = traceback.format_exc(limit=-6)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return line | {"seconds": round(time.perf_counter() - begun, 2)}


def keep(name: str, seed: int, file: Path) -> Path:
    """Makes an input that broke a promise a fixture, or, if it is large, puts it beside the results."""
    small = file.stat().st_size <= LARGEST_FIXTURE
    target = (FIXTURES if small else RESULTS / "failing") / name / f"seed-{seed}{file.suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, target)
    return target


def serve(name: str, connection: Connection) -> None:
    """A process of the campaign: tries the seeds that it is sent."""
    promise = module_of(name).PROMISE
    with suppress(EOFError):
        while True:
            connection.send(try_seed(promise, connection.recv()))


class Worker:
    """
    A process that tries one seed after another, and is replaced when it dies or hangs. It has a session of its own, so
    that what a trial started ends with it; what it says is in `NAME.log` beside the results.
    """

    def __init__(self, promise: Promise):
        self.promise = promise
        self.seed: int | None = None
        self.start()

    def start(self) -> None:
        self.connection, other = multiprocessing.Pipe()
        command = [sys.executable, __file__, "--only", self.promise.name, "--serve", str(other.fileno())]
        with open(RESULTS / f"{self.promise.name}.log", "ab") as log:
            self.process = subprocess.Popen(
                command, pass_fds=[other.fileno()], start_new_session=True, stdout=log, stderr=log
            )
        other.close()

    def send(self, seed: int) -> None:
        self.seed, self.begun = seed, time.monotonic()
        self.connection.send(seed)

    def result(self) -> dict[str, Any] | None:
        """The line of the seed that is tried, if it is done; a process that died or hangs is one that broke it."""
        said = None
        if self.connection.poll():
            with suppress(EOFError, ConnectionError):
                said = self.connection.recv()
        elif self.process.poll() is None and time.monotonic() - self.begun < self.promise.limit:
            return None
        if said is None:
            hangs = self.process.poll() is None
            self.stop()
            how = f"did not end within {self.promise.limit:g} s" if hangs else "died"
            said = {"seed": self.seed, "broken": f"The process of this trial {how}.", "counts": {}}
            said["seconds"] = round(time.monotonic() - self.begun, 2)
            self.start()
        self.seed = None
        return said

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()


# --- sittings ---


def source_of(folders: Iterable[str]) -> str:
    """A hash of the code in these folders of the package."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def stamp(promise: Promise) -> dict[str, str]:
    """What a line of the results says of the code that was tried."""
    others = {HERE / f"{name}.py" for name in names() if name != promise.name} | {Path(__file__)}
    own = b"".join(file.read_bytes() for file in sorted(HERE.glob("*.py")) if file not in others)
    source = hashlib.sha256(source_of(promise.code).encode() + own).hexdigest()[:16]
    commit = _git("rev-parse", "--short=9", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {"source": source, "commit": commit + ("+changes" if changed else "")}


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def results(promise: Promise) -> dict[int, dict[str, Any]]:
    """What has been tried of the code as it is: the last line of each seed."""
    file, source = RESULTS / f"{promise.name}.jsonl", stamp(promise)["source"]
    if not file.exists():
        return {}
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):  # the campaign was killed while it wrote this line
            lines.append(json.loads(text))
    return {line["seed"]: line for line in lines if line["source"] == source}


def sit(promise: Promise, seeds: Iterable[int], deadline: float) -> None:
    """Tries these seeds until the deadline (of `time.monotonic`), a line of the results after each."""
    left = list(seeds)[::-1]
    if not left or time.monotonic() > deadline:
        return
    said, file = stamp(promise), RESULTS / f"{promise.name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    workers = [Worker(promise) for _ in range(min(len(left), max(1, 2 // promise.processes)))]
    try:
        while True:
            for worker in workers:
                if worker.seed is None and left and time.monotonic() < deadline:
                    worker.send(left.pop())
            busy = [worker for worker in workers if worker.seed is not None]
            if not busy:
                return
            wait([worker.connection for worker in busy], timeout=1.0)
            for worker in busy:
                line = worker.result()
                if line is None:
                    continue
                if line["broken"]:
                    print(f"{promise.name}, seed {line['seed']}: {line['broken']}", flush=True)
                with open(file, "a", encoding="utf-8") as out:  # the line before may be half written
                    out.write("\n" + json.dumps({**line, **said, "date": datetime.date.today().isoformat()}))
    finally:
        for worker in workers:
            worker.stop()


def summary(promise: Promise, count: int) -> dict[str, Any]:
    """What has been tried of a promise's first `count` seeds."""
    lines = [line for seed, line in results(promise).items() if seed < count]
    totals: dict[str, float] = {}
    for line in lines:
        for name, value in line["counts"].items():
            if isinstance(value, int | float):
                totals[name] = totals.get(name, 0) + value
    return {
        "promise": promise.name,
        "what": promise.what,
        "tried": len(lines),
        "of": promise.full_count,
        "broken": sum(bool(line["broken"]) for line in lines),
        "counts": totals,
        "commits": sorted({line["commit"] for line in lines}),
        "seeds": [min(line["seed"] for line in lines), max(line["seed"] for line in lines)] if lines else [],
        "date": max((line["date"] for line in lines), default=""),
        "seconds": round(sum(line["seconds"] for line in lines)),
    }


def table(summaries: Iterable[dict[str, Any]], written: dict[str, str]) -> str:
    """The summaries as a table in Markdown; a promise keeps its line of `written` if that says more trials."""
    rows = [
        "| promise | tried | broken | seen | seeds | commit | date |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in summaries:
        before = written.get(one["what"], "| | 0 of")
        if one["tried"] < int(before.split("|")[2].split()[0].replace(",", "")):
            rows.append(before)
            continue
        seen = ", ".join(f"{name} {value:,}" for name, value in one["counts"].items())
        seeds = "-".join(map(str, one["seeds"]))
        tried = f"{one['tried']:,} of {one['of']:,}"
        cells = (one["what"], tried, one["broken"], seen, seeds, ", ".join(one["commits"]), one["date"])
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def write_docs(summaries: Iterable[dict[str, Any]]) -> None:
    """Puts the table between its two marks in docs/reliability.md."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    old, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{PAGE} lacks the lines {BEGIN!r} and {END!r}, between which the table stands.")
    written = {line.split("|")[1].strip(): line for line in old.splitlines() if line.startswith("|")}
    PAGE.write_text(f"{before}{BEGIN}\n{table(summaries, written)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all seeds of each promise, not a tenth of them")
    parser.add_argument("--only", help="these promises, by name, with commas between them")
    parser.add_argument("--seconds", type=float, default=math.inf, help="how long this sitting may take")
    parser.add_argument("--seeds", help="try these seeds (with commas between them) whether they were tried or not")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)  # what a `Worker` starts
    parser.add_argument("--docs", action="store_true", help="only write the table of docs/reliability.md")
    given = parser.parse_args()
    chosen = given.only.split(",") if given.only else names()
    unknown = sorted(set(chosen).difference(names()))
    if unknown:
        parser.error(f"--only: there is no promise {', '.join(unknown)}; there are {', '.join(names())}")
    if given.serve is not None:
        serve(chosen[0], Connection(given.serve))
        return
    promises = [module_of(name).PROMISE for name in chosen]
    if given.docs:
        write_docs(summary(promise, promise.full_count) for promise in promises)
        return
    deadline, found = time.monotonic() + given.seconds, []
    counts = [one.full_count if given.full else math.ceil(one.full_count / 10) for one in promises]
    for promise, count in zip(promises, counts, strict=True):
        if given.seeds:
            seeds = [int(seed) for seed in given.seeds.split(",")]
        else:
            done = {seed for seed, line in results(promise).items() if not line["broken"]}
            seeds = [seed for seed in range(count) if seed not in done]
        sit(promise, seeds, deadline)
        found.append(summary(promise, count))
        one = found[-1]
        print(
            f"{promise.name}: {one['tried']} of {count} tried, {one['broken']} broken, {one['counts']}, "
            f"{one['seconds']} s, {', '.join(one['commits'])}",
            flush=True,
        )
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "summary.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "summary.md").write_text(table(found, {}) + "\n", encoding="utf-8")
    unfinished = [one["promise"] for one, count in zip(found, counts, strict=True) if one["tried"] < count]
    if unfinished and not given.seeds:
        print(f"Not all tried yet: {', '.join(unfinished)}. The same command goes on.")
    sys.exit(1 if any(one["broken"] for one in found) else 0)


if __name__ == "__main__":
    import campaign  # the modules of the promises know these classes by that name

    campaign.main()

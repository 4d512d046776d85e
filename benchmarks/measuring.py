"""
How a path of `violet speed` is measured.

What is compared takes turns in one process, so that it shares whatever else the machine does; a round times the
machine's own matrix product, then the path, then what stands beside it. A row has the median of the times, and that of
the rounds' ratios, which a busy machine changes far less than the times themselves.
"""

import ctypes
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
SIDE = 1536
"""Of the matrices whose product is the machine's own rate."""
BRIEF = 0.02
"""Seconds that a timed call takes at least: what is faster is called several times."""
LONG = 0.5
"""Seconds beyond which a first call says well enough how long one takes."""


@dataclass(frozen=True)
class Bar:
    """
    What a row must reach.

    Attributes:
        number: of the row, one of its columns or of its `numbers`.
        most, least: the bound, one of the two.
    """

    number: str
    most: float | None = None
    least: float | None = None

    def __str__(self) -> str:
        return f"{self.number} {'at most' if self.least is None else 'at least'} {self.bound:g}"

    @property
    def bound(self) -> float:
        bound = self.most if self.least is None else self.least
        assert bound is not None  # one of the two is given
        return bound

    def reached(self, row: Mapping[str, Any]) -> bool | None:
        """Whether the row has it; None if it does not have that number."""
        found = row.get(self.number, row["numbers"].get(self.number))
        if found is None:
            return None
        return found <= self.bound if self.least is None else found >= self.bound


@dataclass(frozen=True)
class Case:
    """
    A path that is timed.

    Attributes:
        name: of the row.
        run: does it once.
        amount: how many of `unit` a run does.
        unit: what the rate counts, such as "clips".
        beside: does the same in another way, or the bare work in it; its time divides that of `run`.
        beside_name: what that is.
        counted: whether the operations of a run are counted.
        elsewhere: whether other processes do a part of it, so that no processor's time tells how long it takes.
        numbers: more of the row; or what makes them of the row.
        bars: what the row must reach.
    """

    name: str
    run: Callable[[], Any]
    amount: float = 1
    unit: str = "runs"
    beside: Callable[[], Any] | None = None
    beside_name: str = ""
    counted: bool = True
    elsewhere: bool = False
    numbers: Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]] = field(default_factory=dict)
    bars: Sequence[Bar] = ()


@dataclass(frozen=True)
class Told:
    """A row that was measured in its own way: seconds of one run, and its numbers."""

    name: str
    seconds: float
    amount: float = 1
    unit: str = "runs"
    numbers: Mapping[str, Any] = field(default_factory=dict)
    bars: Sequence[Bar] = ()


@dataclass(frozen=True)
class Setting:
    """
    Under what a table is made.

    Attributes:
        quick: small sizes, fewer rounds, and no bars, which are for the published size.
        folder: for what paths write, removed at the end.
        clips: mp4 files.
        clock: one of `CLOCKS`.
        seconds: for the rounds of a path, at least one.
        most_rounds: of a path.
    """

    quick: bool
    folder: Path
    clips: tuple[str, ...]
    clock: str = "wall"
    seconds: float = 20.0
    most_rounds: int = 5

    def time(self, work: Callable[[], Any], times: int = 1) -> float:
        """Seconds of one call, the mean of `times`."""
        now = CLOCKS[self.clock]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = now()
        for _ in range(times):
            work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return (now() - start) / times


def matmul() -> tuple[Callable[[], Any], int]:
    """The machine's own matrix product, and its operations."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 8192 if device == "cuda" else SIDE
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    one = torch.randn(side, side, dtype=dtype, device=device)
    made = torch.empty_like(one)
    return lambda: torch.mm(one, one, out=made), 2 * side**3


def operations(work: Callable[[], Any]) -> int:
    """The floating-point operations of matrix products, convolutions and attention in a call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def peak_bytes(work: Callable[[], Any]) -> int | None:
    """By how much a call raises the memory that this process holds, at most; None if the system does not tell."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    if not sys.platform.startswith("linux"):
        work()
        return None
    with suppress(OSError, AttributeError):  # another C library keeps what was freed: the number is then too small
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    except OSError:
        work()
        return None
    before = _of_process("VmRSS")
    work()
    return max(_of_process("VmHWM") - before, 0)


def _of_process(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def measure(case: Case, setting: Setting) -> dict[str, Any]:
    """
    The row of a path: `seconds`, `rate`, `unit`, `share` of the machine's rate, `peak_bytes`, `beside` (what that is),
    `ratio` (its time divided by that of what stands beside it), `beside_peak_bytes`, `rounds`, `operations`,
    `numbers`, `bars`.
    """
    setting = replace(setting, clock="wall") if case.elsewhere else setting
    product, of_product = matmul()
    peak, once = _peak_and_seconds(case.run, setting)
    beside_peak, other = (None, 0.0) if case.beside is None else _peak_and_seconds(case.beside, setting)
    counted = operations(case.run) if case.counted else 0
    product()
    bare = setting.time(product)
    times, others = (max(1, math.ceil(BRIEF / max(one, 1e-7))) for one in (once, other))
    of_round = times * once + (others * other if case.beside else 0) + bare
    rounds = min(max(int(setting.seconds / of_round), 1), setting.most_rounds)
    found: list[tuple[float, float, float]] = []
    for number in range(rounds):
        rate = of_product / setting.time(product)
        both = [lambda: setting.time(case.run, times), lambda: _beside(case, setting, others)]
        first, second = (one() for one in (both if number % 2 == 0 else both[::-1]))
        found.append((rate, *((first, second) if number % 2 == 0 else (second, first))))
    seconds = statistics.median(one for _, one, _ in found)
    row = {
        "name": case.name,
        "seconds": seconds,
        "rate": case.amount / seconds,
        "unit": case.unit,
        "share": statistics.median(counted / one / rate for rate, one, _ in found) if counted else None,
        "operations": counted or None,
        "peak_bytes": peak,
        "beside": case.beside_name or None,
        "ratio": None if case.beside is None else statistics.median(one / other for _, one, other in found),
        "beside_peak_bytes": beside_peak,
        "rounds": rounds,
        "matmul_rate": statistics.median(rate for rate, _, _ in found),
    }
    numbers = case.numbers(row) if callable(case.numbers) else case.numbers
    return _judged(row | {"numbers": dict(numbers)}, case.bars, setting)


def _peak_and_seconds(work: Callable[[], Any], setting: Setting) -> tuple[int | None, float]:
    """What `peak_bytes` says of a first call, and about how long one takes: a short one is timed by itself."""
    peaks: list[int | None] = []
    seconds = setting.time(lambda: peaks.append(peak_bytes(work)))
    return peaks[0], setting.time(work) if seconds < LONG else seconds


def _beside(case: Case, setting: Setting, times: int) -> float:
    return math.nan if case.beside is None else setting.time(case.beside, times)


def told(row: Told, setting: Setting) -> dict[str, Any]:
    """The row of a path that was measured in its own way, with the columns of `measure`."""
    empty = dict.fromkeys(
        ("share", "operations", "peak_bytes", "beside", "ratio", "beside_peak_bytes", "rounds", "matmul_rate")
    )
    made = {"name": row.name, "seconds": row.seconds, "rate": row.amount / row.seconds, "unit": row.unit}
    return _judged({**made, **empty, "numbers": dict(row.numbers)}, row.bars, setting)


def _judged(row: dict[str, Any], bars: Sequence[Bar], setting: Setting) -> dict[str, Any]:
    judged = [] if setting.quick else [{"bar": str(bar), "reached": bar.reached(row)} for bar in bars]
    return row | {"bars": judged}


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """How time grows with size: p of seconds = c * size ** p, by least squares of the logarithms."""
    x, y = ([math.log(value) for value in values] for values in (sizes, seconds))
    of_x, of_y = statistics.fmean(x), statistics.fmean(y)
    return sum((a - of_x) * (b - of_y) for a, b in zip(x, y, strict=True)) / sum((a - of_x) ** 2 for a in x)

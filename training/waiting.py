"""How long the steps of a run wait for their data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator

WAITING_SHARE = "waiting_share"
"""The entry of a log, from 0 to 1. It is a time: two runs that are otherwise equal to the bit differ in it."""


class DataWaiting:
    """
    The share of a step in which the device waits for data, over all processes: in each step they meet at the gradient,
    so the step waits as long as the process that waits longest. What lies between steps (evaluations, checkpoints) is
    no part of it.

    On a GPU the time is that in which it has nothing to do, between two events of its stream: it goes on with earlier
    work while this process asks for the next batch. Elsewhere it is this process's time.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self._began: float | None = None
        self._waits: list[tuple[Any, Any]] = []
        self._steps: list[tuple[float, float]] = []

    def begin_step(self) -> None:
        """Before a step's first batch is asked for."""
        self._began, self._waits = time.perf_counter(), []

    @contextmanager
    def for_data(self) -> Iterator[None]:
        """In the block a batch is asked for."""
        before = self._moment()
        yield
        self._waits.append((before, self._moment()))

    def end_step(self) -> None:
        """After a step; nothing, if none was begun."""
        if self._began is None:
            return
        waited = sum(_seconds(before, after) for before, after in self._waits)
        self._steps.append((waited, time.perf_counter() - self._began))
        self._began = None

    def entry(self) -> dict[str, float]:
        """
        `waiting_share` of the steps since the last call, the same in all processes, which all must ask; nothing
        without steps.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return {}
        own = torch.tensor([steps], device=self.accelerator.device)
        longest = self.accelerator.gather(own).amax(0)  # (processes, steps, 2) -> (steps, 2)
        waited, taken = longest.sum(0).tolist()
        return {WAITING_SHARE: waited / taken}

    def _moment(self) -> Any:
        if self.accelerator.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _seconds(before: Any, after: Any) -> float:
    if isinstance(before, float):
        return after - before
    after.synchronize()  # it has passed long since: each step's gradient was judged
    return before.elapsed_time(after) / 1000

"""A data loader whose workers are replaced when they die or stop, in the same order of batches."""

import logging
import multiprocessing
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from typing import Any

import torch

from .loading import HeldSamples, WorkerDiedError
from .parallel import end_with_parent

logger = logging.getLogger(__name__)

TRIES = 3
"""How often workers are started again for one batch."""

_WATCH_SECONDS = 1.0
_LOST = re.compile(r"DataLoader worker \(pid\(s\) ([\d, ]+)\) exited unexpectedly")


class LastingLoader(torch.utils.data.DataLoader):
    """
    A `DataLoader` that survives its workers. If one dies (the system kills a large process when memory is short), or
    if a batch does not come and no worker has taken up a sample for `time_limit` seconds (one is stopped, or hangs),
    all workers are killed and started again, and the batches that were on their way are made again: what the loader
    gives is the same, in the same order, if a batch is a function of its indices. A death is noticed within five
    seconds.

    Args:
        given: the loader in whose place it stands, for rows by index or over a `ShardStream`; its workers were not
            started yet. What it gives of a stream must follow from nothing but the batch (`collate_fn`).
        held: what the workers are reading, see `ClipReader.held`. Without it no time limit is kept.
        time_limit: seconds.

    Raises:
        ValueError: for a stream that cannot be taken up at a batch (no `rest`), or does not make its batches itself.

    Raises (in iterating):
        WorkerDiedError: if three times in a row workers die or stop over one batch; it names the samples they held.
    """

    def __init__(self, given: torch.utils.data.DataLoader, held: HeldSamples | None, time_limit: float):
        streams = isinstance(given.dataset, torch.utils.data.IterableDataset)
        self._work: _Order | _Stream = _Stream(given) if streams else _Order(given)
        self._settings: dict[str, Any] = {
            name: getattr(given, name)
            for name in (
                *("num_workers", "collate_fn", "pin_memory", "worker_init_fn", "multiprocessing_context"),
                *("generator", "prefetch_factor", "persistent_workers"),
            )
        }
        self._settings["worker_init_fn"] = _Beginning(given.worker_init_fn)
        super().__init__(given.dataset, **self._settings, **self._work.whole())
        self._held = held
        self._limit = time_limit
        self._inner: torch.utils.data.DataLoader | None = None
        self._workers: list[BaseProcess] = []
        self._waiting_since: float | None = None
        self._stalled = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self.num_workers == 0:
            yield from super().__iter__()
            return
        if not self._work.begin():
            self._inner, self._workers = None, []
        ended = threading.Event()
        if self._held is not None:
            threading.Thread(target=self._watch, args=(ended, self._held)).start()
        try:
            yield from self._batches()
        finally:
            ended.set()
            self._waiting_since = None
        if not self.persistent_workers:
            self._inner, self._workers = None, []

    def _batches(self) -> Iterator[Any]:
        batches, tries = None, 0
        while True:
            self._waiting_since = time.time()
            try:
                if batches is None:
                    batches = self._start()
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                # A batch on its way from a worker that dies breaks off by one of the last two.
                by_worker = "in DataLoader worker process" in str(error)
                if by_worker or (isinstance(error, RuntimeError) and not _LOST.search(str(error))):
                    raise
                self._waiting_since = None
                tries += 1
                self._give_up(error, tries)
                batches = None
                continue
            self._waiting_since = None
            tries = 0
            self._work.delivered()
            yield batch

    def _start(self) -> Iterator[Any]:
        """The workers' batches, of workers that are there or are started now."""
        if self._inner is None:
            rows, by = self._work.left()
            self._inner = torch.utils.data.DataLoader(rows, **self._settings, **by)
        get_temp_dir()  # for the sockets of all workers: one that is killed does not delete a folder of its own
        before, handler = multiprocessing.active_children(), _child_handler()
        batches = iter(self._inner)
        self._workers += [child for child in multiprocessing.active_children() if child not in before]
        _restore_child_handler(handler)
        return batches

    def _watch(self, ended: threading.Event, held: HeldSamples) -> None:
        """
        A thread: kills workers that stand still. This process cannot look for itself: a stopped worker may have
        begun to hand a batch over, which is waited for without a limit.

        It is no daemon: one that frees a tensor while Python shuts down ends the process by SIGABRT. A pass that was
        left unfinished is watched until the main thread ends.
        """
        while not ended.wait(_WATCH_SECONDS) and threading.main_thread().is_alive():
            since = self._waiting_since
            if since is not None and time.time() - max(since, held.last_taken()) > self._limit:
                self._stalled = True
                for worker in list(self._workers):
                    worker.kill()  # a stopped process ends by SIGKILL only

    def _give_up(self, error: Exception, tries: int) -> None:
        """
        Kills the workers, so that new ones are started.

        Raises:
            WorkerDiedError: if that was done too often for this batch.
        """
        stalled, self._stalled = self._stalled, False
        found = None if stalled else _LOST.search(str(error))
        numbers = [int(number) for number in found[1].split(",")] if found else []
        concerned = numbers or [worker.pid for worker in self._workers if worker.pid is not None]
        samples = [] if self._held is None else [self._held.of(number) or "nothing yet" for number in concerned]
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join()
        self._inner, self._workers = None, []
        how = f"took longer than {self._limit:g} s" if stalled else "is gone"
        said = f"A process that loads data {how}. Taken up last: {' and '.join(samples) or 'unknown'}."
        if tries >= TRIES:
            raise WorkerDiedError(
                f"{said} That was attempt {tries} at one batch. Was the memory full? Fewer workers, or a smaller "
                "frame cache, take less; a sample that ends its process may be left out."
            ) from error
        logger.warning("%s The workers are started again, and the batch is made again.", said)


class _Beginning:
    """What a worker does first: it sees to it that it ends with the process that started it."""

    def __init__(self, then: Any):
        self.then = then

    def __call__(self, worker: int) -> None:
        end_with_parent()
        if self.then is not None:
            self.then(worker)


class _Order:
    """Rows by index; when their indices are asked for again, from the first one on whose batch was not delivered."""

    def __init__(self, given: torch.utils.data.DataLoader):
        self._rows = given.dataset
        self._batched = given.batch_sampler is not None
        self._all: Any = given.batch_sampler if self._batched else given.sampler
        self._source: Iterator[Any] = iter(())
        self._under_way: deque[Any] = deque()

    def whole(self) -> dict[str, Any]:
        """What a `DataLoader` of all is made with, beside its rows."""
        return self._by(self._all)

    def left(self) -> tuple[Any, dict[str, Any]]:
        """The rows, and what makes a `DataLoader` of those whose batches are left in each pass."""
        return self._rows, self._by(self)

    def _by(self, order: Any) -> dict[str, Any]:
        return {"batch_sampler": order} if self._batched else {"batch_size": None, "sampler": order}

    def begin(self) -> bool:
        """Begins a pass; whether workers that are there can make it."""
        self._source = iter(self._all)
        self._under_way.clear()
        return True

    def delivered(self) -> None:
        self._under_way.popleft()

    def __iter__(self) -> Iterator[Any]:
        yield from list(self._under_way)
        for indices in self._source:
            self._under_way.append(indices)
            yield indices


class _Stream:
    """A stream; when it is asked for again in a pass, from the first batch on that was not delivered. As `_Order`."""

    def __init__(self, given: torch.utils.data.DataLoader):
        self._all: Any = given.dataset
        if not hasattr(self._all, "rest") or given.batch_size is not None:
            raise ValueError(
                "A stream whose workers are to be replaced makes its batches itself (`batch_size=None`) and goes on "
                f"at any of them (`rest`), as ShardStream does; this is {type(self._all).__name__}."
            )
        self._pass, self._done, self._is_rest = self._all, 0, False

    def whole(self) -> dict[str, Any]:
        return {"batch_size": None}

    def left(self) -> tuple[Any, dict[str, Any]]:
        self._is_rest = self._done > 0  # workers of the stream itself may stay, and make later passes as well
        return (self._pass.rest(self._done) if self._is_rest else self._all), self.whole()

    def begin(self) -> bool:
        usable = not self._is_rest
        self._pass, self._done, self._is_rest = self._all.rest(0), 0, False
        return usable

    def delivered(self) -> None:
        self._done += 1


def _child_handler() -> Any:
    return signal.getsignal(signal.SIGCHLD)


def _restore_child_handler(before: Any) -> None:
    """
    torch's handler of SIGCHLD raises an error wherever this process stands when a worker dies, in the middle of a step
    too. Deaths are noticed when the next batch is waited for, instead.
    """
    own = "torch.utils.data._utils.signal_handling"
    if getattr(_child_handler(), "__module__", None) != own:
        return
    if threading.current_thread() is threading.main_thread():
        usable = before is not None and getattr(before, "__module__", None) != own
        signal.signal(signal.SIGCHLD, before if usable else signal.SIG_DFL)
        sys.modules[own]._SIGCHLD_handler_set = False  # type: ignore[attr-defined]  # loaders of another kind set it again

"""Many jobs in several processes, with their results in order."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import Any


def in_parallel(work: Callable[[Any], Any], jobs: Iterable[Any], workers: int) -> Iterator[Any]:
    """
    `map(work, jobs)` in `workers` processes, or in this one if they are less than 2. Few jobs are made ahead. An
    error of a job is raised in its turn; the processes end with this one, however it ends.
    """
    if workers < 2:
        yield from map(work, jobs)
        return
    forks = "fork" in multiprocessing.get_all_start_methods()  # it starts at once, without importing everything again
    context = multiprocessing.get_context("fork" if forks else "spawn")
    jobs = iter(jobs)
    with ProcessPoolExecutor(workers, context, initializer=end_with_parent) as pool:
        waiting: deque[Future] = deque(pool.submit(work, job) for job in islice(jobs, 2 * workers))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(work, job) for job in islice(jobs, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """
    Ends this process, one of `multiprocessing`, when the one that started it is gone. If that is killed, other workers
    keep the queue open and this one would wait for ever; torch's workers look for their parent, which is another
    process if a server starts them (forkserver, the default from Python 3.14 on).
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

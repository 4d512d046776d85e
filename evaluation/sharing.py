"""Work on rows that several processes share out: each row is one process's, whatever the remainder."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

Item = TypeVar("Item")


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def own_share(count: int) -> range:
    """
    This process's part of `count` rows: a run of neighbours, so that a video's rows stay together; all of them in a
    single process. The parts of all processes are the rows, each once; they differ by one row at most.
    """
    if not _together():
        return range(count)
    processes, rank = dist.get_world_size(), dist.get_rank()
    return range(rank * count // processes, (rank + 1) * count // processes)


def gather(items: list[Item]) -> list[Item]:
    """The items of all processes, in the order of their ranks. Every process must call it, with any number of them."""
    if not _together():
        return items
    lists: list[list[Item]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(lists, items)
    return [item for one in lists for item in one]


def on_first(compute: Callable[[], Item]) -> Item:
    """What the first process computes, in every process; if it raises, every process does."""
    if not _together():
        return compute()
    result: list = [None, None]
    if dist.get_rank() == 0:
        try:
            result[0] = compute()
        except Exception as error:  # noqa: BLE001 - passed on to all
            result[1] = error
    dist.broadcast_object_list(result)
    dist.barrier()  # gloo's sender may go on, and end, before the others have received
    if result[1] is not None:
        raise result[1]
    return result[0]

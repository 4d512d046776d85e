"""Two processes against one: the same rows, unevenly shared, must give the same loss, gradients and statistics."""

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from own_process import START, of_server
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

BOUND = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Of a loss, relative; of a gradient, in parts of its largest entry."""

Step = Callable[[nn.Module, nn.Module, Any, int | None], torch.Tensor]
"""(model, or the same wrapped for several processes; model; rows; rows of a part) -> loss; the gradients are added."""


def rows_of(batch: Any, rows: slice) -> Any:
    """Those rows of every tensor of a batch."""
    if isinstance(batch, Mapping):
        return {name: rows_of(value, rows) for name, value in batch.items()}
    return batch[rows]


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The gradients, and the statistics that batch norms keep."""
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return found | {name: one for name, one in model.named_buffers() if "running" in name}


def run_process(
    rank: int,
    folder: str,
    build: Callable[[str, torch.dtype], tuple[nn.Module, Any, Step]],
    cases: list[str],
    sizes: list[int | None],
    of_first: int,
    dtypes: list[torch.dtype],
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {}
    for case in cases:
        for dtype in dtypes:
            for size in sizes:
                plain, batch, step = build(case, dtype)
                own = rows_of(batch, slice(0, of_first) if rank == 0 else slice(of_first, None))
                loss = step(DistributedDataParallel(plain, find_unused_parameters=True), plain, own, size)
                found[case, dtype, size] = loss, copy.deepcopy(state(plain))
    torch.save(found, f"{folder}/found_{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def compare_with_one(
    folder: Path,
    build: Callable[[str, torch.dtype], tuple[nn.Module, Any, Step]],
    cases: Iterable[str],
    of_first: int,
    sizes: Iterable[int | None] = (None,),
    each_loss: bool = True,
    dtypes: Iterable[torch.dtype] = tuple(BOUND),
    least: int = 16,
) -> None:
    """
    Asserts that two processes have the loss, the gradients and the statistics of one, to `BOUND`.

    Args:
        build: a function of a module, which the processes import: (case, dtype) -> (model, batch, step).
        of_first: how many rows the first process has.
        sizes: rows of a part; None for no parts.
        each_loss: whether each process has the loss of the whole batch; if not, their mean is it.
        least: how many gradients and statistics there are at least.
    """
    cases, sizes, dtypes = list(cases), list(sizes), list(dtypes)
    of_server()
    given = str(folder), build, cases, sizes, of_first, dtypes
    multiprocessing.start_processes(run_process, given, nprocs=2, start_method=START)
    both = [torch.load(folder / f"found_{rank}.pt") for rank in range(2)]
    for case in cases:
        for dtype in dtypes:
            bound = BOUND[dtype]
            model, batch, step = build(case, dtype)
            loss = step(model, model, batch, None)
            expected = state(model)
            assert loss > 0.1 and len(expected) >= least, (case, dtype, len(expected))
            for size in sizes:
                found = [one[case, dtype, size] for one in both]
                losses = [of_one for of_one, _ in found]
                for one in losses if each_loss else [torch.stack(losses).mean()]:
                    torch.testing.assert_close(one, loss, rtol=bound, atol=0)
                for _, own in found:
                    assert own.keys() == expected.keys()
                    for name, gradient in expected.items():
                        difference = (own[name] - gradient).abs().max()
                        assert difference <= bound * gradient.abs().max() + 1e-3 * bound, (case, dtype, size, name)

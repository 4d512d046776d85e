"""Two processes against one: the same rows, unevenly shared, must give the same loss and the same gradients."""

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
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


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def run_process(
    rank: int,
    folder: str,
    build: Callable[[str, torch.dtype], tuple[nn.Module, Any, Step]],
    cases: list[str],
    sizes: list[int | None],
    of_first: int,
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {}
    for case in cases:
        for dtype in BOUND:
            for size in sizes:
                plain, batch, step = build(case, dtype)
                own = rows_of(batch, slice(0, of_first) if rank == 0 else slice(of_first, None))
                loss = step(DistributedDataParallel(plain, find_unused_parameters=True), plain, own, size)
                found[case, dtype, size] = loss, copy.deepcopy(gradients(plain))
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
) -> None:
    """
    Asserts that two processes have the loss and the gradients of one, to `BOUND`.

    Args:
        build: a function of a module, which the processes import: (case, dtype) -> (model, batch, step).
        of_first: how many rows the first process has.
        sizes: rows of a part; None for no parts.
        each_loss: whether each process has the loss of the whole batch; if not, their mean is it.
    """
    cases, sizes = list(cases), list(sizes)
    multiprocessing.spawn(run_process, (str(folder), build, cases, sizes, of_first), nprocs=2)
    both = [torch.load(folder / f"found_{rank}.pt") for rank in range(2)]
    for case in cases:
        for dtype, bound in BOUND.items():
            model, batch, step = build(case, dtype)
            loss = step(model, model, batch, None)
            expected = gradients(model)
            assert loss > 0.1 and len(expected) > 15, (case, dtype, len(expected))
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

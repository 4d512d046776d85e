"""Weights that stay elsewhere until their module runs: accelerate's offloading (`device_map` with `cpu`, `disk`)."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

Read = TypeVar("Read")


def read_weights(module: nn.Module, read: Callable[[], Read]) -> Read:
    """
    What `read` makes of a module's own weights. Needed outside of the module's `forward`: only for that accelerate
    brings weights by itself.
    """
    hook: Any = getattr(module, "_hf_hook", None)
    if hook is None or not any(one.is_meta for one in module.parameters(recurse=False)):
        return read()
    hook.pre_forward(module)
    try:
        return read()
    finally:
        hook.post_forward(module, None)


def table_rows(table: nn.Embedding, first: int, end: int | None) -> torch.Tensor:
    """The rows `first:end` of a table."""
    return read_weights(table, lambda: table.weight[first:end])

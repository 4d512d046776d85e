"""
Gradient caching (Gao et al., 2021, arXiv:2101.06983): a contrastive batch of any size in the memory of a small one.

The embeddings of a batch are computed part by part without a graph; the loss of all of them gives their gradients;
then each part is computed again, with the same random numbers, and its embeddings' gradients go through the model.
Loss and gradients are those of the whole batch, for about one more forward pass.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import nn

from ..core.clip_inputs import take_clip_inputs
from ..modeling_violet.embedding_gradients import EmbeddingGradients
from .arguments import SettingsError

Sets = dict[str, torch.Tensor]
SHARDED = {DistributedType.FSDP: "FSDP", DistributedType.DEEPSPEED: "DeepSpeed"}
"""Ways of sharing a model's weights out to processes."""


@dataclass(frozen=True)
class RandomState:
    """Where the random numbers of the CPU and of the accelerator stand."""

    cpu: torch.Tensor
    accelerator: torch.Tensor | None

    @staticmethod
    def now() -> "RandomState":
        kind = _accelerator()
        state = None if kind is None else getattr(torch, kind).get_rng_state()
        return RandomState(torch.get_rng_state(), state)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """In the block they stand there again; behind it where they stood before."""
        kind = _accelerator()
        before = RandomState.now()
        try:
            self._set(kind)
            yield
        finally:
            before._set(kind)

    def _set(self, kind: str | None) -> None:
        torch.set_rng_state(self.cpu)
        if kind is not None:
            getattr(torch, kind).set_rng_state(self.accelerator)


def _accelerator() -> str | None:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return None if found is None else found.type


def backward_in_parts(
    parts: Sequence[Any],
    embed: Callable[[Any], Sets],
    compare: Callable[[Sets], tuple[torch.Tensor, Any]],
    backward: Callable[[Any, EmbeddingGradients, bool], None],
    shared: Sequence[nn.Parameter] = (),
) -> Any:
    """
    Adds the gradients of a loss of all parts' embeddings to the parameters.

    Args:
        parts: the batch, in parts.
        embed: a part -> its sets of embeddings, (rows, …) each. It is called without a graph.
        compare: the sets of all parts -> (the loss, whatever else).
        backward: (part, gradients of its sets, whether it is the last) -> computes the part's embeddings again and
            passes the gradients on; the last part's hold those of `shared`.
        shared: parameters that `compare` reads itself.

    Returns:
        What else `compare` gave.
    """
    states, found = [], []
    with torch.no_grad():
        for part in parts:
            states.append(RandomState.now())
            found.append(embed(part))
    sets = {name: torch.cat([one[name] for one in found]).requires_grad_() for name in found[0]}
    loss, result = compare(sets)
    sources = [*sets.values(), *shared]
    gradients = torch.autograd.grad(loss, sources, allow_unused=True)
    known = [torch.zeros_like(source) if one is None else one for source, one in zip(sources, gradients, strict=True)]
    of_shared = tuple(known[len(sets) :])
    by_part = {
        name: gradient.split([len(one[name]) for one in found])
        for name, gradient in zip(sets, known[: len(sets)], strict=True)
    }
    del found, sets, loss, gradients
    for number, (part, state) in enumerate(zip(parts, states, strict=True)):
        last = number == len(parts) - 1
        given = EmbeddingGradients({name: of[number] for name, of in by_part.items()}, of_shared if last else ())
        with state.restored():
            backward(part, given, last)
    return result


def split_batch(batch: Mapping[str, Any], rows: int, size: int) -> list[dict[str, Any]]:
    """
    A batch in parts of at most `size` rows, as equal as they can be.

    Args:
        batch: tensors of that many rows each, and what is no tensor, which every part gets.

    Raises:
        ValueError: for a tensor with other rows.
    """
    for name, value in batch.items():
        if isinstance(value, torch.Tensor) and len(value) != rows:
            raise ValueError(f"`{name}` has {len(value)} rows in a batch of {rows}: it cannot be computed in parts.")
    count = math.ceil(rows / size)
    pieces = {
        name: value.tensor_split(count) if isinstance(value, torch.Tensor) else [value] * count
        for name, value in batch.items()
    }
    return [{name: of[number] for name, of in pieces.items()} for number in range(count)]


def split_pairs(batch: Mapping[str, Any], size: int) -> list[dict[str, Any]]:
    """
    Videos and texts that need not belong together, in parts of at most `size` videos and, if each part is to have a
    video, about as many texts.

    Args:
        batch: pixels, a row for each video; `input_ids` and what else has a row for each text.
    """
    batch = dict(batch)
    pixels = take_clip_inputs(batch)
    videos, texts = len(next(iter(pixels.values()))), len(batch["input_ids"])
    count = min(math.ceil(max(videos, texts) / size), videos, texts)
    pieces = {name: value.tensor_split(count) for name, value in {**pixels, **batch}.items()}
    return [{name: of[number] for name, of in pieces.items()} for number in range(count)]


def live_batch_norms(model: nn.Module) -> list[str]:
    """The names of layers whose result depends on the other rows of a batch: those cannot be computed in parts."""
    kinds = nn.modules.batchnorm._BatchNorm
    model_mode = model.training
    model.train()
    found = [name for name, module in model.named_modules() if isinstance(module, kinds) and module.training]
    model.train(model_mode)
    return found


def refuse_live_norms(setting: str, model: nn.Module) -> None:
    """
    Raises:
        SettingsError: for a model whose norms read the whole batch.
    """
    live = live_batch_norms(model)
    if live:
        raise SettingsError(
            f"{setting}: {live[0]} takes its mean over the batch, so that parts of one give other numbers than the "
            "whole."
        )


def refuse_sharded(setting: str, kind: DistributedType) -> None:
    """
    Raises:
        SettingsError: if no process has all weights: parts pass the model outside of what gathers them.
    """
    if kind in SHARDED:
        raise SettingsError(
            f"{setting}: weights that {SHARDED[kind]} shards over processes are not served. Start the processes by "
            "examples/accelerate_ddp.yaml, or leave it out."
        )

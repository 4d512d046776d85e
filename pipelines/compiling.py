"""`torch.compile` of a model's parts, once for batches of any size."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch._dynamo.decorators import maybe_mark_dynamic
from torch._dynamo.exc import TorchDynamoException
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel


class CompileError(RuntimeError):
    """A part of a model that cannot be compiled on this machine; the message names it."""


def compile_parts(model: PreTrainedModel, backend: str | Callable | None = None) -> list[str]:
    """
    Compiles, in place, what a model computes most in: vision encoder, text side, and fusion. Each becomes two graphs,
    when they are first called for: one for a batch of one row, as torch always has it, and one for all larger batches;
    for texts of any length. For clips of another size or number of frames it is compiled again. A fusion that writes
    word by word stays as it is, since its cache grows with every word.

    Args:
        backend: of `torch.compile`; by default torch's own, which needs a C++ compiler on a CPU.

    Returns:
        The names of the parts.
    """
    violet: Any = model.base_model
    how: dict[str, Any] = {"fullgraph": True, "backend": backend or "inductor"}
    vision, text, fusion = violet.vision_model, violet.text_embeddings, violet.fusion
    vision.forward = for_any_batch("vision encoder", torch.compile(vision.forward, **how))
    names = ["vision encoder"]
    if text.contextual:
        text.encode = for_any_batch("text side", torch.compile(text.encode, **how))
        names.append("text side")
    if violet.has_fusion and not model.can_generate():
        fusion.forward = for_any_batch("fusion", torch.compile(fusion.forward, **how))
        names.append("fusion")
    return names


def for_any_batch(name: str, compiled: Callable) -> Callable:
    """
    A compiled function that is told which sides of its tensors may change: the batch of all, and the length of texts.

    Raises:
        CompileError: at a call, if it cannot be compiled.
    """

    @wraps(compiled)
    def call(*args: Any, **kwargs: Any) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor) and tensor.dim():
                maybe_mark_dynamic(tensor, 0)
                if tensor.dim() < 4:  # texts, and not pixels
                    maybe_mark_dynamic(tensor, 1)
        try:
            return compiled(*args, **kwargs)
        except TorchDynamoException as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise CompileError(f"The {name} cannot be compiled here: {reason}") from error

    return call

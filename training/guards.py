"""A step whose loss or gradient is NaN or infinite is not applied; too many of them in a row stop the run."""

import json
import logging
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from torch import nn
from torch.distributed.tensor import DTensor

from ..core.files import write_text

logger = logging.getLogger(__name__)

BAD_STEPS_FILE = "bad_steps.jsonl"
MAX_BAD_STEPS = 3
ADVICE = "Look at these samples, or lower the learning rate."


def check_finite(what: str, value: float | torch.Tensor, samples: Iterable[str]) -> None:
    """
    Refuses a value that is NaN or infinite.

    Args:
        what: its name in the message, such as "gradient of step 3".
        value: one number; on a GPU it is waited for.
        samples: names of the samples that it was computed from.

    Raises:
        FloatingPointError: if it is not finite; the message names the samples.
    """
    number = value.item() if isinstance(value, torch.Tensor) else value
    if not math.isfinite(number):
        raise FloatingPointError(
            f"The {what} is {number}; it was not applied. Its samples: {', '.join(samples)}. {ADVICE}"
        )


class TooManyBadSamplesError(RuntimeError):
    """More samples could not be read than a run bears; the message names the first."""


class StepGuard:
    """
    Judges each step of the optimiser before it is taken. If in any process a loss of the step, or the gradient, is NaN
    or infinite, then no process takes the step: weights, the optimiser's state and the running means of batch norms
    stay as they were. Such a step is logged and is a line of `bad_steps.jsonl` in the run's folder: step, process,
    what was not finite, its value, and the samples.

    With a gradient scaler (float16) gradients overflow while it looks for its scale: such steps are written down too,
    but count only once the scale has come down to 1.

    Args:
        folder: the run's.
        limit: that many bad steps in a row stop the run.
    """

    def __init__(self, folder: str | os.PathLike, accelerator: Accelerator, limit: int):
        self.path = Path(folder) / BAD_STEPS_FILE
        self.accelerator = accelerator
        self.limit = limit
        self.step: int | None = None
        self._in_a_row: int | None = None
        self._reason: str | None = None
        self._losses: list[torch.Tensor] = []
        self._samples: list[list[str]] = []
        self._norms: list[tuple[torch.Tensor, torch.Tensor]] = []

    def stop(self, reason: str | None) -> None:
        """Stops the run in all processes when this step is judged, if a reason is given."""
        self._reason = reason

    def begin_step(self, step: int, model: nn.Module) -> None:
        """Before the first batch of a step; the first call also forgets what a killed run wrote beyond it."""
        if self._in_a_row is None:
            self._go_on_from(step)
        self.step, self._losses, self._samples = step, [], []
        self._norms = [(buffer, buffer.clone()) for buffer in _running_means(model)]

    def _go_on_from(self, step: int) -> None:
        lines = [line for line in self.lines() if line["step"] < step]
        if self.accelerator.is_main_process and self.path.exists():
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        counted = {line["step"] for line in lines if line["counts"]}
        self._in_a_row = next(number for number in range(step) if step - 1 - number not in counted)
        self.accelerator.wait_for_everyone()

    def add_loss(self, loss: torch.Tensor, samples: Sequence[str]) -> None:
        """
        Notes the loss of one batch of the step, before its gradient is computed.

        Raises:
            FloatingPointError: under DeepSpeed, which takes the step together with the gradient.
        """
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            check_finite(f"loss of step {self.step}", loss, samples)
        self._losses.append(loss.detach().float().mean())
        self._samples.append(list(samples))

    def may_apply(self, norm: torch.Tensor | float) -> bool:
        """
        Whether the step is to be taken; the same in all processes. If not, clear the gradients: an optimiser passes
        over parameters that have none.

        Args:
            norm: the gradient's, over all processes.

        Raises:
            FloatingPointError: for the last bad step in a row that is borne; the message names its samples.
            TooManyBadSamplesError: if `stop` was given a reason in any process.
        """
        assert self.step is not None and self._in_a_row is not None  # begin_step was called
        norm = whole_norm(norm).float().to(self.accelerator.device)
        values = torch.stack([*self._losses, norm])
        bad = (~values.isfinite()).float()
        stops = torch.full_like(norm, float(self._reason is not None))
        of_losses, of_gradient, stops = self.accelerator.reduce(torch.stack([bad[:-1].sum(), bad[-1], stops])).tolist()
        if stops:
            reasons = self._gathered([self._reason] if self._reason else [])
            raise TooManyBadSamplesError(reasons[0])
        step, self.step = self.step, None
        if not of_losses and not of_gradient:
            self._in_a_row = 0
            return True
        for buffer, before in self._norms:
            buffer.copy_(before)
        overflows = self.accelerator.scaler is not None and not of_losses
        counts = not (overflows and self.accelerator.scaler.get_scale() > 1)
        found = self._describe(values.tolist(), step, counts)
        if self.accelerator.is_main_process:
            self._write(found)
        self._in_a_row += counts
        for line in found[:1]:
            reason = f"the {line['what']} is {line['value']}"
            said = f"{reason}. Samples of process {line['process']}: {', '.join(line['samples'])}. {ADVICE}"
            if counts and self._in_a_row >= self.limit:
                raise FloatingPointError(
                    f"Step {step}: {said} It was not applied, and it is number {self._in_a_row} in a row, where the "
                    f"run stops. {self.path} lists all of them."
                )
            if self.accelerator.is_main_process:
                logger.warning("Step %d was not applied: %s See %s.", step, said, self.path)
        return False

    def _describe(self, values: list[float], step: int, counts: bool) -> list[dict[str, Any]]:
        """What was not finite, in every process: losses with their own samples, else the gradient with all."""
        *losses, norm = values
        process = self.accelerator.process_index
        found = [
            {"what": "loss", "value": str(loss), "samples": samples}
            for loss, samples in zip(losses, self._samples, strict=True)
            if not math.isfinite(loss)
        ]
        every = self._gathered([{"step": step, "process": process, "counts": counts, **line} for line in found])
        if every:
            return every
        samples = [name for names in self._samples for name in names]
        line = {"step": step, "process": process, "counts": counts}
        return self._gathered([{**line, "what": "gradient", "value": str(norm), "samples": samples}])

    def _gathered(self, own: list[Any]) -> list[Any]:
        """The lists of all processes as one."""
        return gather_object(own) if self.accelerator.num_processes > 1 else own

    def _write(self, lines: Iterable[dict[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def lines(self) -> list[dict[str, Any]]:
        """What `bad_steps.jsonl` says; the half line of a killed process is left out."""
        if not self.path.exists():
            return []
        whole = [line for line in self.path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        return [json.loads(line) for line in whole]

    def metrics(self) -> dict[str, float]:
        """`steps_not_applied`, if there are any."""
        steps = {line["step"] for line in self.lines()}
        return {"steps_not_applied": len(steps)} if steps else {}

    def check_weights(self, model: nn.Module) -> None:
        """
        Before weights are written.

        Raises:
            FloatingPointError: in all processes, if a weight is NaN or infinite in one; it names the parameter.
        """
        bad = [name for name, one in model.named_parameters() if not _local(one.detach()).isfinite().all()]
        bad = [name.removeprefix("module.") for name in self._gathered(bad)]  # which DDP puts before it
        if bad:
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            raise FloatingPointError(
                f"The weights of {bad[0]}{more} are NaN or infinite: they were not saved, and the checkpoint before "
                "stays. Lower the learning rate and go on from there."
            )


def whole_norm(norm: torch.Tensor | float) -> torch.Tensor:
    """A gradient's norm; of sharded weights (FSDP) no process has the whole of it."""
    return norm.full_tensor() if isinstance(norm, DTensor) else torch.as_tensor(norm)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _running_means(model: nn.Module) -> list[torch.Tensor]:
    """What a forward pass in training mode changes: the running means, variances and counts of batch norms."""
    kinds = nn.modules.batchnorm._BatchNorm
    norms = [module for module in model.modules() if isinstance(module, kinds) and module.training]
    return [buffer for norm in norms for buffer in norm.buffers()]

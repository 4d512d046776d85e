"""A run that is asked to end (SIGTERM) saves what it has and ends; the same call goes on from there."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

STATUS = 128 + signal.SIGTERM
"""Of a command that ended so: what a shell says of a process that SIGTERM ended."""


class RunStopped(Exception):
    """A run has ended before its last step, because it was asked to; the message says where it was saved."""


class StopRequest:
    """
    Within `with StopRequest() as request`, SIGTERM does not end the process: it asks the run to end, which looks at
    `request.made` after each step. A second SIGTERM ends the process at once, and so does leaving the block after one
    that the run did not look at: it came behind the last step. Outside of the main thread, where Python handles no
    signals, nothing changes.
    """

    def __init__(self) -> None:
        self._made = self._told = False
        self._before: Any = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None and signal.getsignal(signal.SIGTERM) in (self._note, signal.SIG_DFL):
            signal.signal(signal.SIGTERM, self._before)
        if self._made and not self._told and error[0] is None:
            os.kill(os.getpid(), signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._made = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def made(self, accelerator: Accelerator) -> bool:
        """Whether any process of the run was asked to end: all of them get the same answer at the same step."""
        self._told = self._made
        if accelerator.num_processes == 1:
            return self._told
        made = torch.tensor(float(self._told), device=accelerator.device)
        return bool(accelerator.reduce(made, "sum") > 0)


def stopped(step: int, steps: int, checkpoint: Any) -> RunStopped:
    """The error to raise when the checkpoint of a step is whole."""
    return RunStopped(
        f"ended by SIGTERM after step {step} of {steps}. {checkpoint} is whole; the same call goes on from there."
    )

"""The log of a pre-training run, over all processes."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator

from ..core.files import write_text
from .run_state import from_hex, to_hex

logger = logging.getLogger(__name__)

LOG_FILE = "log.jsonl"


class TrainingLog:
    """What happens, over all processes: to the console, `log.jsonl` and accelerate's trackers."""

    COUNTS = ("masked_words", "masked_patches", "patches", "skipped_steps")

    def __init__(self, output_dir: Path, accelerator: Accelerator):
        self.path = output_dir / LOG_FILE
        self.accelerator = accelerator
        self.values: dict[str, list[torch.Tensor]] = {}

    def add(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """What was added since the last call: counts summed, the rest averaged."""
        accelerator, found = self.accelerator, {}
        for name, values in self.values.items():
            stacked = torch.stack([value.to(accelerator.device) for value in values])
            total = name in self.COUNTS
            reduced = accelerator.reduce(stacked.sum() if total else stacked.mean(), "sum" if total else "mean")
            found[name] = reduced.item()
        self.values = {}
        return found

    def pending(self) -> dict[str, list[str]]:
        """What this process added since the last line, to the bit and in JSON's types (which have no NaN)."""
        return to_hex(self.values)

    def restore(self, pending: Mapping[str, list[str]]) -> None:
        """Goes on where `pending` was asked."""
        self.values = from_hex(pending)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line of the log."""
        if self.accelerator.is_main_process:
            with open(self.path, "a", encoding="utf-8") as file:  # half a line of a killed process is dropped later
                file.write(json.dumps({"step": step, **values}) + "\n")
            logger.info("step %d  %s", step, "  ".join(f"{name} {value:.4g}" for name, value in values.items()))
        self.accelerator.log(dict(values), step=step)

    def warn(self, step: int, warning: str | None) -> None:
        """Says on the console what is not well at that step, if anything is."""
        if warning is not None and self.accelerator.is_main_process:
            logger.warning("step %d: %s", step, warning)

    def lines(self) -> list[dict[str, float]]:
        """The lines that are whole."""
        whole = self.path.read_text().split("\n")[:-1] if self.path.exists() else []
        return [json.loads(line) for line in whole]

    def drop_after(self, step: int) -> None:
        """Leaves out what a killed run wrote beyond the checkpoint from which this one goes on."""
        if self.accelerator.is_main_process and self.path.exists():
            kept = [json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step]
            write_text(self.path, "".join(kept))

"""Logs of runs that are to be equal to the bit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from violet.training.waiting import WAITING_SHARE


def lines(folder: str | Path) -> list[dict[str, Any]]:
    """Those of a pre-training run's log, see `without_times`."""
    return [without_times(json.loads(line)) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


def without_times(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of a log without its one entry that is a time, which no two runs share."""
    return {name: value for name, value in line.items() if name != WAITING_SHARE}

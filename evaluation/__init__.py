"""Metrics with intervals, search, galleries and reports."""

from pathlib import Path

from .answers import AnswerAccuracy
from .measures import Evaluation, Measure
from .metrics import METRICS, Metric

__all__ = ["AnswerAccuracy", "Evaluation", "METRICS", "Measure", "Metric", "module_path"]


def module_path(name: str) -> str:
    """
    Where a metric stands for `evaluate.load`: "accuracy", "captioning" or "retrieval". Nothing is downloaded.

    Raises:
        ValueError: for another name.
    """
    file = Path(__file__).parent / f"violet_{name}.py"
    if not file.is_file():
        known = sorted(file.stem.removeprefix("violet_") for file in Path(__file__).parent.glob("violet_*.py"))
        raise ValueError(f"No metric is named {name!r}; there are {', '.join(known)}.")
    return str(file)

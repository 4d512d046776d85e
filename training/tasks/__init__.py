"""What a model can be fine-tuned for: one file per task, with its rows, check, collator and measure."""

from .task import TASKS, Task

__all__ = ["TASKS", "Task"]

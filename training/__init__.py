"""Fine-tuning with the Trainer API: collators, order, checkpoints, recipes."""

from .arguments import DataArguments, FinetuningArguments, ModelArguments, SettingsError
from .checkpoints import last_whole_checkpoint
from .finetuning import FinetuningResult, finetune
from .tasks import TASKS, Task
from .tasks.task_open_ended import QuestionCollator
from .trainer import VioletTrainer

__all__ = [
    "DataArguments",
    "FinetuningArguments",
    "FinetuningResult",
    "ModelArguments",
    "QuestionCollator",
    "SettingsError",
    "TASKS",
    "Task",
    "VioletTrainer",
    "finetune",
    "last_whole_checkpoint",
]

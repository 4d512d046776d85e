"""Fine-tuning with the Trainer API: collators, order, checkpoints, recipes."""

from .arguments import DataArguments, FinetuningArguments, ModelArguments, SettingsError
from .finetuning import FinetuningResult, finetune
from .tasks import TASKS, Task
from .tasks.task_open_ended import QuestionCollator
from .trainer import VioletTrainer, last_whole_checkpoint

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

"""Fine-tuning with the Trainer API: collators, order, checkpoints, recipes."""

from .arguments import DataArguments, FinetuningArguments, ModelArguments, SettingsError
from .checkpoints import last_whole_checkpoint
from .collating import QuestionCollator
from .finetuning import FinetuningResult, finetune
from .tasks import TASKS, Task
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

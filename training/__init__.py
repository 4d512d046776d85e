"""Fine-tuning with the Trainer API: collators, order, checkpoints, recipes."""

from .arguments import DataArguments, FinetuningArguments, ModelArguments, SettingsError
from .checkpoints import CheckpointError, last_whole_checkpoint
from .finetuning import FinetuningResult, finetune
from .stopping import RunStopped
from .tasks import TASKS, Task
from .tasks.task_open_ended import QuestionCollator
from .trainer import VioletTrainer

__all__ = [
    "CheckpointError",
    "DataArguments",
    "FinetuningArguments",
    "FinetuningResult",
    "ModelArguments",
    "QuestionCollator",
    "RunStopped",
    "SettingsError",
    "TASKS",
    "Task",
    "VioletTrainer",
    "finetune",
    "last_whole_checkpoint",
]

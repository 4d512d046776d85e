"""Fine-tuning with the Trainer API: collators, order, checkpoints, recipes."""

from .arguments import DataArguments, FinetuningArguments, ModelArguments, SettingsError
from .collating import QuestionCollator
from .finetuning import FinetuningResult, evaluate_answers, finetune
from .trainer import VioletTrainer, last_whole_checkpoint

__all__ = [
    "DataArguments",
    "FinetuningArguments",
    "FinetuningResult",
    "ModelArguments",
    "QuestionCollator",
    "SettingsError",
    "VioletTrainer",
    "evaluate_answers",
    "finetune",
    "last_whole_checkpoint",
]

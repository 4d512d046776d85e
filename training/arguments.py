"""Settings of a fine-tuning run, as dataclasses for `HfArgumentParser`: command line, YAML, JSON or Python."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from ..configuration import NAMED_CONFIGURATIONS
from ..weights import pretrained_names

TASKS = ("open-ended",)


class SettingsError(ValueError):
    """Settings that contradict one another, or the run in the output folder; the message names them."""


def read_settings(path: str | Path) -> dict[str, Any]:
    """
    The settings in a YAML file, or a JSON one.

    Raises:
        SettingsError: for a file that is missing, or holds no names and values.
    """
    import yaml

    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))  # YAML holds JSON
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise SettingsError(f"{path} must hold names and values, not {type(settings).__name__}.")
    return settings


@dataclass
class DataArguments:
    """What to train on. Without files: the built-in moving shapes."""

    task: str = field(default="open-ended", metadata={"help": f"One of: {', '.join(TASKS)}.", "choices": TASKS})
    train_file: str | None = field(
        default=None,
        metadata={"help": "CSV, JSONL or JSON with the columns video, question, answer (and caption, question_type)."},
    )
    validation_file: str | None = field(default=None, metadata={"help": "The like, evaluated during training."})
    test_file: str | None = field(default=None, metadata={"help": "The like, evaluated at the end."})
    video_folder: str | None = field(
        default=None, metadata={"help": "Where relative video paths start; by default each table's own folder."}
    )
    shapes_folder: str = field(
        default="outputs/moving_shapes", metadata={"help": "Where the built-in data set is written, or reused."}
    )
    shapes_clips: int = field(default=8000, metadata={"help": "Training clips of the built-in data set."})
    shapes_seed: int = field(default=0, metadata={"help": "Decides what the built-in data set shows."})
    max_answers: int = field(default=1500, metadata={"help": "Size of the answer vocabulary: the most frequent ones."})
    questions_per_video: int | None = field(
        default=None, metadata={"help": "At most so many questions of a video in an epoch, drawn anew in each."}
    )
    frame_cache_mb: int = field(
        default=1024,
        metadata={"help": "MiB of decoded frames that each data loader's worker keeps, so as to decode videos once."},
    )

    def __post_init__(self):
        if self.task not in TASKS:
            raise SettingsError(f"--task: {self.task!r} is unknown; known are {', '.join(TASKS)}.")
        if self.train_file is None and (self.validation_file or self.test_file):
            raise SettingsError("--train_file: missing, though another file is given.")
        for name in ("max_answers", "shapes_clips", "questions_per_video"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"--{name}: must be 1 or more, got {value}.")


@dataclass
class ModelArguments:
    """What to train."""

    model: str = field(
        default="violet-tiny",
        metadata={"help": "A folder or Hub name with weights; violet-tiny's come with the package."},
    )
    from_scratch: bool = field(
        default=False,
        metadata={"help": f"Random weights of a named configuration instead: {', '.join(NAMED_CONFIGURATIONS)}."},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "From scratch: a folder or Hub name, such as bert-base-uncased; by default a small vocabulary is "
            "trained on the texts of the training data."
        },
    )
    image_size: int | None = field(default=None, metadata={"help": "Side of a frame in pixels."})
    num_frames: int | None = field(default=None, metadata={"help": "Frames taken of each video."})
    freeze_backbone: bool = field(
        default=False,
        metadata={
            "help": "Keep the Video Swin's weights as they are: several times faster, and as good on clips like "
            "those it was pre-trained on."
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager or sdpa; by default what is faster on this device."}
    )

    def __post_init__(self):
        if self.from_scratch and self.model not in NAMED_CONFIGURATIONS:
            raise SettingsError(
                f"--from_scratch: no configuration is named {self.model!r}; use {', '.join(NAMED_CONFIGURATIONS)}."
            )
        if not self.from_scratch and self.model in NAMED_CONFIGURATIONS and self.model not in pretrained_names():
            raise SettingsError(
                f"--model: no weights of {self.model} come with the package; give a folder or Hub name that has some, "
                "or --from_scratch true to start from random ones."
            )
        for name in ("image_size", "num_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"--{name}: must be 1 or more, got {value}.")


@dataclass
class FinetuningArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the defaults of VIOLET's fine-tuning."""

    output_dir: str | None = field(default="outputs/finetuned", metadata={"help": "Checkpoints and results."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Questions in a batch."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Questions in a batch."})
    learning_rate: float = field(default=2e-5, metadata={"help": "The peak."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Beta2 of AdamW."})
    weight_decay: float = field(default=1e-3, metadata={"help": "Not on biases and norms."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps, or below 1 their share."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two lines of the log."})
    dataloader_num_workers: int = field(default=1, metadata={"help": "Processes that decode videos."})
    dataloader_persistent_workers: bool = field(default=True, metadata={"help": "They keep what they decoded."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator needs every column."})

    def __post_init__(self):
        if self.remove_unused_columns:
            raise SettingsError("--remove_unused_columns: must stay off, the collator needs the columns.")
        if self.dataloader_num_workers == 0:
            self.dataloader_persistent_workers = False
        if not torch.accelerator.is_available():
            self.use_cpu = True  # said aloud, because bfloat16 without an accelerator is refused otherwise
        super().__post_init__()

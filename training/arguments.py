"""Settings of a fine-tuning run, as dataclasses for `HfArgumentParser`: command line, YAML, JSON or Python."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from ..configuration import NAMED_CONFIGURATIONS
from ..core.weights import pretrained_names
from ..data.loading import MAX_BAD_SHARE, TIME_LIMIT_SECONDS
from ..processing import VioletVideoProcessor
from ..processing.video_processing_violet import FRAME_SAMPLINGS
from .guards import MAX_BAD_STEPS
from .tasks import TASKS

TASK_NAMES = tuple(TASKS)
BAD_SAMPLES = ("raise", "skip")
FITS = ("pad", "center_crop", "random_crop", "stretch")


class SettingsError(ValueError):
    """Settings that contradict one another, or the run in the output folder; the message names them."""


def check_frames(fit: str | None, frame_sampling: str | None) -> None:
    """Refuses what `set_frames` does not know."""
    for name, value, known in (("fit", fit, FITS), ("frame_sampling", frame_sampling, FRAME_SAMPLINGS)):
        if value is not None and value not in known:
            raise SettingsError(f"`{name}`: {value!r} is unknown; use {', '.join(known)}.")


def set_frames(frames: VioletVideoProcessor, fit: str | None, frame_sampling: str | None) -> None:
    """Lets the processor choose and fit frames as a run asks for; None leaves its own way."""
    if fit is not None:
        frames.do_pad_to_square, frames.do_random_crop = fit == "pad", fit == "random_crop"
        frames.do_stretch = fit == "stretch"
    if frame_sampling is not None:
        frames.frame_sampling = frame_sampling


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
    """The data to train on; without files, the built-in moving shapes."""

    task: str = field(
        default="open-ended", metadata={"help": f"One of: {', '.join(TASK_NAMES)}.", "choices": TASK_NAMES}
    )
    train_file: str | None = field(
        default=None,
        metadata={
            "help": "CSV, JSONL, JSON, Parquet, a folder of clips, tar shards, hub:NAME, or the original's "
            "task.json@split (see violet.data.read_rows), with the columns video, question, answer (open-ended, "
            "masked-answer; and caption, question_type); video, question, options, answer (multiple-choice; options "
            "as a list or as left|right); video, text with [MASK], answer (fill-in-the-blank); video, "
            "caption (retrieval, captioning); video, label (classification; several labels as a list or as a|b)."
        },
    )
    validation_file: str | None = field(default=None, metadata={"help": "As `train_file`, evaluated during training."})
    test_file: str | None = field(default=None, metadata={"help": "As `train_file`, evaluated at the end."})
    video_folder: str | None = field(
        default=None, metadata={"help": "Where relative video paths start; by default each table's own folder."}
    )
    shapes_folder: str = field(
        default="outputs/moving_shapes", metadata={"help": "Where the built-in data set is written, or reused."}
    )
    shapes_clips: int = field(default=8000, metadata={"help": "Training clips of the built-in data set."})
    shapes_seed: int = field(default=0, metadata={"help": "Decides what the built-in data set shows."})
    shapes_sound: bool = field(
        default=False,
        metadata={"help": "Shapes of the built-in data set make tones, and what is heard is asked too."},
    )
    max_answers: int = field(default=1500, metadata={"help": "Size of the answer vocabulary: the most frequent ones."})
    questions_per_video: int | None = field(
        default=None, metadata={"help": "At most this many questions of a video per epoch, drawn in each epoch."}
    )
    word_ratio: float = field(
        default=0.15, metadata={"help": "Captioning: the share of a caption's words that are masked in training."}
    )
    dual_softmax: bool = field(
        default=False,
        metadata={"help": "Retrieval: also measure by dual softmax, in which a text's order depends on all texts."},
    )
    allow_unknown_words: bool = field(
        default=False,
        metadata={
            "help": "Train although the tokenizer does not know more than a third of the words in the training texts."
        },
    )
    frame_cache_mb: int = field(
        default=1024,
        metadata={"help": "MiB of decoded frames that each data loader's worker keeps, so as to decode videos once."},
    )
    bad_samples: str = field(
        default="raise",
        metadata={
            "help": "A video that cannot be read stops the run (raise), or its rows are left out, counted and written "
            "to failed_samples.jsonl (skip).",
            "choices": BAD_SAMPLES,
        },
    )
    max_bad_share: float = field(
        default=MAX_BAD_SHARE,
        metadata={
            "help": "With --bad_samples skip: the share of bad samples, of all that were tried, above which the run "
            "stops."
        },
    )
    decode_time_limit: float = field(
        default=TIME_LIMIT_SECONDS,
        metadata={"help": "Seconds for decoding one video; what takes longer is killed, and is bad."},
    )
    test_clips: int = field(
        default=1,
        metadata={"help": "Clips of each video in the final evaluation, with other frames each; scores are averaged."},
    )

    def __post_init__(self):
        if self.task not in TASKS:
            raise SettingsError(f"--task: {self.task!r} is unknown; known are {', '.join(TASKS)}.")
        if not 0 < self.word_ratio <= 1:
            raise SettingsError(f"--word_ratio: must lie above 0, up to 1, got {self.word_ratio}.")
        if self.bad_samples not in BAD_SAMPLES:
            raise SettingsError(f"--bad_samples: {self.bad_samples!r} is unknown; use {', '.join(BAD_SAMPLES)}.")
        if not 0 <= self.max_bad_share <= 1:
            raise SettingsError(f"--max_bad_share: must lie from 0 to 1, got {self.max_bad_share}.")
        if not self.decode_time_limit > 0:
            raise SettingsError(f"--decode_time_limit: must be above 0 seconds, got {self.decode_time_limit}.")
        if self.test_clips > 1 and not TASKS[self.task].chooses:
            raise SettingsError(f"--test_clips: {self.task} has no scores of answers to average; leave it at 1.")
        if self.train_file is None and (self.validation_file or self.test_file):
            raise SettingsError("--train_file: missing, though another file is given.")
        for name in ("max_answers", "shapes_clips", "questions_per_video", "test_clips"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"--{name}: must be 1 or more, got {value}.")


@dataclass
class ModelArguments:
    """The model to train, and how its parts learn."""

    model: str = field(
        default="violet-tiny",
        metadata={
            "help": "A folder or Hub name: of a VIOLET (violet-tiny's weights come with the package), or of a model "
            "of pictures or videos of transformers, such as openai/clip-vit-base-patch16 (CLIP, SigLIP, DINOv2, ViT, "
            "VideoMAE, V-JEPA 2, TimeSformer, …), which becomes the vision encoder of a new VIOLET."
        },
    )
    text: str = field(
        default="bert-base-uncased",
        metadata={
            "help": "A folder or Hub name of a BERT: the words and the fusion of a new VIOLET, where --model is a "
            "model of pictures or videos. Or of a language model (Llama, Qwen, SmolLM, …), which then reads videos "
            "among its words and writes (captioning, open-ended). A VIOLET has its own."
        },
    )
    system: str | None = field(
        default=None,
        metadata={
            "aliases": ["--as"],
            "help": "What a --model of transformers becomes, key by key: clip-vip (of a CLIP: two towers without a "
            "fusion, whose frames meet in proxy tokens) or uniformerv2 (of a CLIP's pictures: for classification). By "
            "default its vision part becomes the encoder of a new VIOLET, see --text.",
        },
    )
    from_scratch: bool = field(
        default=False,
        metadata={"help": f"Random weights of a named configuration instead: {', '.join(NAMED_CONFIGURATIONS)}."},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "A folder or Hub name, such as bert-base-uncased, whose vocabulary replaces the model's: words of "
            "both keep what was learned of them, the others start at random. From scratch a small vocabulary is "
            "trained on the texts of the training data if none is given."
        },
    )
    image_size: int | None = field(default=None, metadata={"help": "Side of a frame in pixels."})
    num_frames: int | None = field(default=None, metadata={"help": "Frames taken of each video."})
    fit: str | None = field(
        default=None,
        metadata={
            "help": "How a frame becomes a square: pad with black, center_crop, random_crop in training and "
            "center_crop else, or stretch; by default the processor's own.",
            "choices": FITS,
        },
    )
    frame_sampling: str | None = field(
        default=None,
        metadata={
            "help": "Which frames are taken in training: even, random_start (evenly spaced, from a drawn place), "
            "jitter (one drawn in each of equal parts) or ends (from the first to the last, in training from near the "
            "first to near the last); by default the processor's own.",
            "choices": FRAME_SAMPLINGS,
        },
    )
    freeze_backbone: bool = field(
        default=False,
        metadata={
            "help": "Keep the vision encoder's weights as they are: several times faster, and as good on clips like "
            "those it was pre-trained on."
        },
    )
    freeze: str | None = field(
        default=None,
        metadata={
            "help": "Modules whose weights stay as they are, by name, with spaces between them, such as "
            "violet.text_embeddings.language_model (with a language model: only the encoder and the connector learn)."
        },
    )
    max_text_length: int | None = field(
        default=None, metadata={"help": "Tokens of a text, which is cut beyond them; by default the processor's own."}
    )
    next_word_prediction: bool | None = field(
        default=None,
        metadata={
            "help": "Captioning: predict each word from the one before, instead of masked words (as VIOLET's "
            "published models); by default as the model does."
        },
    )
    caption_contrast_weight: float | None = field(
        default=None,
        metadata={
            "help": "Captioning: weight of the contrast between videos and captions beside the words' loss, for "
            "models that are to find videos too; by default as the model's configuration says."
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager or sdpa; by default what is faster on this device."}
    )

    def __post_init__(self):
        if self.from_scratch and self.system is not None:
            raise SettingsError("--as starts from the weights of --model, and --from_scratch from none: give one.")
        if self.from_scratch and self.model not in NAMED_CONFIGURATIONS:
            raise SettingsError(
                f"--from_scratch: no configuration is named {self.model!r}; use {', '.join(NAMED_CONFIGURATIONS)}."
            )
        if not self.from_scratch and self.model in NAMED_CONFIGURATIONS and self.model not in pretrained_names():
            raise SettingsError(
                f"--model: no weights of {self.model} come with the package; give a folder or Hub name that has some, "
                "or --from_scratch true to start from random ones."
            )
        check_frames(self.fit, self.frame_sampling)
        for name in ("image_size", "num_frames", "max_text_length"):
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
    backbone_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the vision encoder, if it is to differ."}
    )
    logit_scale_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the temperature of the loss before the fusion, if it is to differ."}
    )
    layer_decay: float = field(
        default=1.0, metadata={"help": "What a layer's learning rate is, in parts of that of the layer behind it."}
    )
    grad_cache_chunk_size: int | None = field(
        default=None,
        metadata={
            "help": "For retrieval by a model without a fusion: compute a batch in parts of that many rows, with the "
            "loss and gradients of the whole. A batch of any size then takes the memory of a part, and about one more "
            "forward pass."
        },
    )
    max_bad_steps: int = field(
        default=MAX_BAD_STEPS,
        metadata={
            "help": "Steps in a row whose loss or gradient is NaN or infinite after which the run stops; none of them "
            "is applied, and each is listed in bad_steps.jsonl."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Evaluate whenever a checkpoint is saved, keep the best one, and stop after this many evaluations "
            "without a better one (by --metric_for_best_model; the validation loss if it is not given)."
        },
    )

    log_flow: bool = field(
        default=False,
        metadata={
            "help": "Log with each line, of the first validation batch, the flow between video and text in the fusion "
            "and the loss with another clip's video; needs --validation_file or the built-in data."
        },
    )
    license: str | None = field(
        default=None,
        metadata={
            "help": "Of the model, for its card, as the Hub spells it: apache-2.0. Nothing is published without."
        },
    )

    def __post_init__(self):
        if not 0 < self.layer_decay <= 1:
            raise SettingsError(f"--layer_decay: must lie above 0, up to 1, got {self.layer_decay}.")
        if self.grad_cache_chunk_size is not None and self.grad_cache_chunk_size < 1:
            raise SettingsError(f"--grad_cache_chunk_size: must be 1 or more, got {self.grad_cache_chunk_size}.")
        if self.max_bad_steps < 1:
            raise SettingsError(f"--max_bad_steps: must be 1 or more, got {self.max_bad_steps}.")
        if self.early_stopping_patience is not None:
            if self.early_stopping_patience < 1:
                raise SettingsError(
                    f"--early_stopping_patience: must be 1 or more, got {self.early_stopping_patience}."
                )
            self.load_best_model_at_end = True
            self.restore_callback_states_from_checkpoint = True  # how many evaluations were no better
            self.eval_strategy = self.save_strategy = "steps"
            self.eval_steps = self.save_steps
        if self.remove_unused_columns:
            raise SettingsError("--remove_unused_columns: must stay off, the collator needs the columns.")
        if self.train_sampling_strategy != "random":
            raise SettingsError(
                f"--train_sampling_strategy: must stay random, got {self.train_sampling_strategy}: the rows of a "
                "video stand together, so that it is decoded once. docs/performance.md says what batches of texts of "
                "like length would save."
            )
        if self.dataloader_num_workers == 0:
            self.dataloader_persistent_workers = False
        if not torch.accelerator.is_available():
            self.use_cpu = True  # said aloud, because bfloat16 without an accelerator is refused otherwise
        is_ours = self.accelerator_config is None
        super().__post_init__()
        if is_ours and self.dataloader_pin_memory and self.device.type == "cuda":
            self.accelerator_config.non_blocking = True

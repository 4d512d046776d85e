"""Fine-tuning on questions about videos: data, model, Trainer, results."""

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import AutoProcessor, AutoTokenizer, TrainingArguments, set_seed

from .._version import __version__
from ..configuration import NAMED_CONFIGURATIONS, VioletConfig, named_configuration
from ..data import moving_shapes, open_ended, read_table
from ..evaluation.answers import AnswerAccuracy, choose_answers
from ..files import save_into, sha256, write_json
from ..modeling_violet import VioletForQuestionAnswering
from ..modeling_violet.heads import VioletClassificationHead
from ..processing import VideoTextProcessor, VioletVideoProcessor, train_wordpiece_tokenizer
from ..weights import pretrained
from .arguments import DataArguments, ModelArguments, SettingsError
from .collating import QuestionCollator, normalize_answer
from .machine import preferred_kernel
from .trainer import VioletTrainer, last_whole_checkpoint

logger = logging.getLogger(__name__)

FRAMES_FROM_SCRATCH = {"violet-tiny": (64, 4), "violet-v1-base": (224, 5), "violet-v2-base": (224, 5)}
"""Side in pixels and number of frames that a named configuration is trained with."""

RUN_FILE = "run.json"
METRICS_FILE = "metrics.json"
DECISIVE = (
    "seed",
    "learning_rate",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "bf16",
    "fp16",
)
"""Training arguments that decide a run's result: a run goes on only with the same ones."""


def load_tables(data: DataArguments) -> DatasetDict:
    """The rows to train and evaluate on, a question a row: `video`, `question`, `answer` and what else they have."""
    if data.train_file is None:
        clips = moving_shapes(data.shapes_folder, train=data.shapes_clips, seed=data.shapes_seed)
        return DatasetDict({split: open_ended(rows) for split, rows in clips.items()})
    files = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
    return DatasetDict(
        {split: read_table(file, video_folder=data.video_folder) for split, file in files.items() if file is not None}
    )


def answer_vocabulary(answers: Iterable[str], most: int) -> list[str]:
    """The `most` frequent answers, normalised; the most frequent first, equals in alphabetical order."""
    counts = Counter(normalize_answer(answer) for answer in answers)
    return sorted(counts, key=lambda answer: (-counts[answer], answer))[:most]


def frames_from_scratch(
    model: str, image_size: int | None = None, num_frames: int | None = None
) -> VioletVideoProcessor:
    """What a named configuration starts from scratch with, where side and number of frames are not asked for."""
    side, frames = FRAMES_FROM_SCRATCH[model]
    side, frames = image_size or side, num_frames or frames
    return VioletVideoProcessor(size={"height": side, "width": side}, num_frames=frames)


def build_processor(arguments: ModelArguments, texts: Iterable[str]) -> VideoTextProcessor:
    """A processor for a model from scratch: of the named configuration's frames, or those asked for."""
    if arguments.tokenizer is None:
        vocabulary = named_configuration(arguments.model).vocab_size
        tokenizer = train_wordpiece_tokenizer(texts, vocab_size=vocabulary)
    else:
        tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    frames = frames_from_scratch(arguments.model, arguments.image_size, arguments.num_frames)
    return VideoTextProcessor(tokenizer, frames)


def build_model_and_processor(
    arguments: ModelArguments, rows: Dataset, max_answers: int, kernel: str | None
) -> tuple[VioletForQuestionAnswering, VideoTextProcessor]:
    """
    From scratch where a named configuration is asked for, else from pretrained weights. The answers are those of
    `rows`; pretrained weights keep their answer head where it has the very same ones, and start a new one elsewhere.
    """
    answers = answer_vocabulary(rows["answer"], max_answers)
    if not arguments.from_scratch:
        source = pretrained(arguments.model) if arguments.model in NAMED_CONFIGURATIONS else arguments.model
        before = VioletConfig.from_pretrained(source).id2label
        answers = list(before.values()) if set(before.values()) == set(answers) else answers
    labels = {"id2label": dict(enumerate(answers)), "label2id": {answer: i for i, answer in enumerate(answers)}}
    if arguments.from_scratch:
        columns = [name for name in ("question", "answer", "caption") if name in rows.column_names]
        processor = build_processor(arguments, (str(text) for name in columns for text in rows[name] if text))
        config = named_configuration(arguments.model, vocab_size=len(processor.tokenizer), **labels)
        return VioletForQuestionAnswering._from_config(config, attn_implementation=kernel), processor
    processor = AutoProcessor.from_pretrained(source)
    if arguments.num_frames is not None:
        processor.video_processor.num_frames = arguments.num_frames
    if arguments.image_size is not None:
        processor.video_processor.size = {"height": arguments.image_size, "width": arguments.image_size}
    model = VioletForQuestionAnswering.from_pretrained(
        source, attn_implementation=kernel, ignore_mismatched_sizes=True, **labels
    )
    if list(before.values()) != answers:  # a head of the same size would be loaded all the same
        model.answer_head = VioletClassificationHead(model.config, len(answers)).apply(model._init_weights)
    return model, processor


def run_settings(model: ModelArguments, data: DataArguments, training: TrainingArguments) -> dict[str, Any]:
    """Everything that decides the result of a run, flat and in JSON's types."""
    settings = dataclasses.asdict(model) | dataclasses.asdict(data)
    settings |= {name: getattr(training, name) for name in DECISIVE}
    settings |= {"lr_scheduler_type": training.lr_scheduler_type.value, "violet": __version__}
    del settings["frame_cache_mb"]  # it decides the speed alone
    for name in ("train_file", "validation_file", "test_file"):
        if settings[name] is not None:
            settings[f"{name}_sha256"] = sha256(settings[name])
    return json.loads(json.dumps(settings))


def begin_run(output_dir: Path, settings: dict[str, Any]) -> None:
    """
    Writes the run's settings into its folder, or compares them with those that are there.

    Raises:
        SettingsError: where the folder holds a run with other settings; it names them.
    """
    file = output_dir / RUN_FILE
    if not file.exists():
        write_json(file, settings)
        return
    before = json.loads(file.read_text())
    other = [
        f"{name} was {before.get(name)!r} and is {settings.get(name)!r}"
        for name in sorted({*before, *settings})
        if before.get(name) != settings.get(name)
    ]
    if other:
        raise SettingsError(
            f"{output_dir} holds a run with other settings: {'; '.join(other)}. "
            "Give another output folder, or the same settings to go on with that run."
        )


@dataclass
class FinetuningResult:
    """What a run leaves, beside the files in its folder."""

    model: VioletForQuestionAnswering
    processor: VideoTextProcessor
    collator: QuestionCollator
    tables: DatasetDict
    metrics: dict[str, float]
    settings: dict[str, Any]


def evaluate_answers(
    model: VioletForQuestionAnswering, collator: QuestionCollator, rows: Dataset, training: TrainingArguments
) -> dict[str, float]:
    """`loss`, `accuracy` and `accuracy_TYPE` for each type of question in `rows`."""
    trainer = VioletTrainer(
        model=model,
        args=training,
        eval_dataset=rows,
        data_collator=collator,
        compute_metrics=AnswerAccuracy(_question_types(rows)),
        preprocess_logits_for_metrics=choose_answers,
    )
    metrics = trainer.evaluate(metric_key_prefix="")
    return {
        name.removeprefix("_"): value for name, value in metrics.items() if name.startswith(("_accuracy", "_loss"))
    }


def finetune(model_arguments: ModelArguments, data: DataArguments, training: TrainingArguments) -> FinetuningResult:
    """
    Trains, evaluates and saves. The same call in the same folder goes on from the last whole checkpoint.

    Into `training.output_dir`: model and processor, for `from_pretrained`; `metrics.json`, with the accuracy on each
    further split; `run.json`, the settings; checkpoints.

    Raises:
        SettingsError: where the folder holds a run with other settings, or a table or video cannot be used.
    """
    output_dir = Path(training.output_dir)
    tables = load_tables(data)
    settings = run_settings(model_arguments, data, training)
    begin_run(output_dir, settings)
    set_seed(training.seed)

    kernel = model_arguments.attn_implementation or preferred_kernel(training.bf16, training.device)
    model, processor = build_model_and_processor(model_arguments, tables["train"], data.max_answers, kernel)
    if model_arguments.freeze_backbone:
        model.violet.video_encoder.swin.requires_grad_(False)
    captions = model.violet.projection is not None and not model_arguments.freeze_backbone
    cache = data.frame_cache_mb * 2**20
    collator = QuestionCollator(
        processor, model.config.label2id, captions=captions, cache_bytes=cache, name_videos=True
    )
    unknown = sum(normalize_answer(answer) not in model.config.label2id for answer in tables["train"]["answer"])
    if unknown:
        logger.warning(
            "%d training rows have an answer outside the %d most frequent: no loss.",
            unknown,
            len(model.config.label2id),
        )

    validation = tables.get("validation")
    trainer = VioletTrainer(
        model=model,
        args=training,
        train_dataset=tables["train"],
        eval_dataset=validation,
        data_collator=collator,
        processing_class=processor,
        compute_metrics=AnswerAccuracy(None if validation is None else _question_types(validation)),
        preprocess_logits_for_metrics=choose_answers,
        rows_per_video=data.questions_per_video,
    )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(output_dir))

    evaluator = QuestionCollator(processor, model.config.label2id)
    metrics: dict[str, float] = {"steps": trainer.state.global_step}
    for split in [name for name in tables if name != "train"]:
        prefix = "" if split == "test" else f"{split}_"
        found = evaluate_answers(model, evaluator, tables[split], training)
        metrics |= {prefix + name: value for name, value in found.items()}

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    if trainer.is_world_process_zero():
        save_into(output_dir, write)
        write_json(output_dir / METRICS_FILE, metrics | {"settings": settings})
    return FinetuningResult(model, processor, evaluator, tables, metrics, settings)


def _question_types(rows: Dataset) -> list[str] | None:
    return list(rows["question_type"]) if "question_type" in rows.column_names else None

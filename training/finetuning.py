"""Fine-tuning on any of VIOLET's tasks: data, model, Trainer, results."""

import dataclasses
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from accelerate.utils import DistributedType
from datasets import Dataset, DatasetDict
from transformers import (
    AutoProcessor,
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)

from .._version import __version__
from ..configuration import NAMED_CONFIGURATIONS, VioletConfig, named_configuration
from ..core.weights import pretrained
from ..data import moving_shapes, read_rows, rows_digest
from ..data.hub_rows import HUB
from ..data.loading import ClipReader
from ..hub.conversion import load_tokenizer
from ..hub.language_models import language_configuration, with_language_model
from ..hub.starting_points import build_system, configuration_for, processor_of_system
from ..hub.vision_models import check_clip
from ..modeling_violet import VioletForRetrieval, VioletPreTrainedModel
from ..modeling_violet.encoders import find_encoder
from ..processing import VideoTextProcessor, special_tokens
from .arguments import DataArguments, FinetuningArguments, ModelArguments, SettingsError, set_frames
from .checkpoints import checkpoint_to_resume
from .flow_callback import ModalityFlowCallback
from .gradient_caching import refuse_live_norms, refuse_sharded
from .hearing import prepare_hearing
from .machine import preferred_kernel
from .runs import begin_run, end_run, freeze, is_hub_name, only_run_in, save_model
from .scratch import processor_from_scratch, texts_from_scratch
from .starting import SYSTEMS, check_system, model_from_parts, processor_from_parts, starts_from_parts
from .tasks import TASKS, Task
from .trainer import VioletTrainer
from .vocabulary import check_answers, check_tokenizer, check_words, exchange_vocabulary

logger = logging.getLogger(__name__)

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
    "label_smoothing_factor",
    "backbone_learning_rate",
    "logit_scale_learning_rate",
    "layer_decay",
    "grad_cache_chunk_size",
    "early_stopping_patience",
    "bf16",
    "fp16",
)
"""Training arguments that decide a run's result: a run goes on only with the same ones."""

SELDOM_DECISIVE = ("data_seed", "dataloader_drop_last", "optim", "adam_epsilon", "ignore_data_skip")
"""The same, which are among a run's settings only where they are not what they are by default."""


def load_tables(data: DataArguments) -> DatasetDict:
    """The rows to train and evaluate on: `video`, the columns of the task, and what else they have."""
    task = TASKS[data.task]
    if data.train_file is None:
        clips = moving_shapes(
            data.shapes_folder, train=data.shapes_clips, seed=data.shapes_seed, sound=data.shapes_sound
        )
        trained = ("train", "validation")
        return DatasetDict(
            {split: (task.rows if split in trained else task.test_rows)(rows) for split, rows in clips.items()}
        )
    files = {"train": data.train_file, "validation": data.validation_file, "test": data.test_file}
    return DatasetDict(
        {
            split: read_rows(file, task.columns, data.video_folder, task.check)
            for split, file in files.items()
            if file is not None
        }
    )


def find_task(arguments: ModelArguments, data: DataArguments) -> Task:
    """The task as the model does it that the run starts from, see `Task.of`."""
    task = TASKS[data.task]
    return task if task.written is None else task.of(_configuration(arguments))


def _configuration(arguments: ModelArguments) -> VioletConfig:
    if arguments.from_scratch:
        return named_configuration(arguments.model)
    if arguments.system is not None:
        return VioletConfig()
    if not from_parts(arguments):
        return VioletConfig.from_pretrained(source_of(arguments))
    if language_configuration(arguments.text) is None:
        return VioletConfig()
    return with_language_model(VioletConfig(), arguments.text, (1, 1))


def source_of(arguments: ModelArguments) -> str:
    """Where `from_pretrained` finds the weights to start from."""
    return pretrained(arguments.model) if arguments.model in NAMED_CONFIGURATIONS else arguments.model


def build_processor(arguments: ModelArguments, rows: Dataset, data: DataArguments) -> VideoTextProcessor:
    """
    The processor of the pretrained weights; or that of a model of pictures or videos, with a BERT's tokenizer; or one
    for a model from scratch: of the named configuration's frames, with a vocabulary that is trained on the rows. With
    what else is asked for.

    Raises:
        WeightsError, SettingsError: for a tokenizer that cannot be had, or lacks a special token; for clips that the
            model's vision encoder cannot take.
    """
    task = find_task(arguments, data)
    tokenizer = None if arguments.tokenizer is None else load_tokenizer(arguments.tokenizer)
    if tokenizer is not None:
        check_tokenizer(tokenizer, str(arguments.tokenizer))
    if arguments.from_scratch:
        texts = chain(texts_of(rows, task.texts), [task.words])
        processor = processor_from_scratch(
            arguments.model, tokenizer, texts, arguments.image_size, arguments.num_frames
        )
    else:
        processor = processor_of_weights(arguments)
        if tokenizer is not None:
            processor = VideoTextProcessor(
                tokenizer, processor.video_processor, max_length=processor.max_length, padding=processor.padding
            )
    set_frames(processor.video_processor, arguments.fit, arguments.frame_sampling)
    if arguments.max_text_length is not None:
        processor.max_length = arguments.max_text_length
    return processor


def from_parts(arguments: ModelArguments) -> bool:
    """Whether a new model starts from a model of pictures or videos, see `starts_from_parts`."""
    return not arguments.from_scratch and arguments.system is None and starts_from_parts(arguments.model)


def processor_of_weights(arguments: ModelArguments) -> VideoTextProcessor:
    """
    The processor to start with: of a VIOLET's weights, of a system's, or of public parts; with the clips that are
    asked for.

    Raises:
        WeightsError: for clips that the vision encoder cannot take; of public parts see `processor_from_parts`.
    """
    sizes = (arguments.num_frames, arguments.image_size)
    if arguments.system is not None:
        check_system(arguments.model, arguments.system)
        return processor_of_system(arguments.model, SYSTEMS[arguments.system], *sizes)
    if from_parts(arguments):
        return processor_from_parts(arguments.model, arguments.text, *sizes)
    processor = AutoProcessor.from_pretrained(source_of(arguments))
    frames = processor.video_processor
    if arguments.num_frames is not None:
        frames.num_frames = arguments.num_frames
    if arguments.image_size is not None:
        frames.size = {"height": arguments.image_size, "width": arguments.image_size}
    if arguments.num_frames is not None or arguments.image_size is not None:
        config = VioletConfig.from_pretrained(source_of(arguments))
        check_clip(find_encoder(config.vision_config), frames.num_frames, frames.size["height"])
    return processor


def texts_of(rows: Dataset, columns: Iterable[str]) -> Iterable[str]:
    """Every text in those of these columns that the rows have; lists of texts are texts too."""
    for name in columns:
        if name not in rows.column_names:
            continue
        for batch in rows.select_columns(name).iter(batch_size=1000):  # row by row takes three times as long
            for value in batch[name]:
                yield from (str(text) for text in (value if isinstance(value, list) else [value]) if text)


def build_model(
    arguments: ModelArguments, processor: VideoTextProcessor, rows: Dataset, data: DataArguments, kernel: str | None
) -> VioletPreTrainedModel:
    """
    From scratch if a named configuration is asked for, else from pretrained weights, with what the task sets in
    their configuration; those of a model of pictures or videos as `model_from_parts` or, for a system,
    `hub.starting_points.build_system` says. A VIOLET's weights keep their head of labels if it has the very same ones,
    and start a new one otherwise. If another tokenizer is asked for, see `exchange_vocabulary`.
    """
    task, source = find_task(arguments, data), "" if arguments.from_scratch else source_of(arguments)
    new_model, before = arguments.system is not None or from_parts(arguments), None
    if task.label_head and not arguments.from_scratch and not new_model:
        before = list(VioletConfig.from_pretrained(source).id2label.values())
    changes = task.configure(arguments, data, rows, before)
    if arguments.from_scratch:
        changes |= texts_from_scratch(arguments.model, processor.tokenizer)
        config = named_configuration(arguments.model, **changes)
        return task.model_class._from_config(config, attn_implementation=kernel)
    if arguments.system is not None:
        frames = processor.video_processor
        system = SYSTEMS[arguments.system]
        changes |= {"vocab_size": len(processor.tokenizer), **special_tokens(processor.tokenizer)}
        return build_system(source, system, task.model_class, frames.size["height"], kernel, **changes)
    own = processor.tokenizer
    if arguments.tokenizer is not None:
        own = load_tokenizer(arguments.text) if new_model else AutoProcessor.from_pretrained(source).tokenizer
    changes |= special_tokens(own)
    if new_model:
        config = configuration_for(arguments.text, **changes)
        model = model_from_parts(source, arguments.text, config, task.model_class, processor, kernel)
    else:
        model = task.model_class.from_pretrained(
            source, attn_implementation=kernel, ignore_mismatched_sizes=bool(task.label_head), **changes
        )
    if task.label_head and not new_model and before != list(changes["id2label"].values()):
        # A head of the same size would be loaded all the same.
        setattr(model, task.label_head, model.new_label_head().apply(model._init_weights))
    if own.get_vocab() != processor.tokenizer.get_vocab():
        kept = exchange_vocabulary(model, own, processor.tokenizer)
        logger.warning(
            "--tokenizer: %d of its %d tokens are the model's too and keep what it learned of them; the others start "
            "at random.", kept, len(processor.tokenizer),
        )  # fmt: skip
    return model


def build_model_and_processor(
    arguments: ModelArguments, rows: Dataset, data: DataArguments, kernel: str | None
) -> tuple[VioletPreTrainedModel, VideoTextProcessor]:
    """`build_model`, and the processor of `build_processor`."""
    processor = build_processor(arguments, rows, data)
    return build_model(arguments, processor, rows, data, kernel), processor


def run_settings(
    model: ModelArguments, data: DataArguments, training: FinetuningArguments, tables: DatasetDict
) -> dict[str, Any]:
    """Everything that decides the result of a run, flat and in JSON's types."""
    settings = dataclasses.asdict(model) | dataclasses.asdict(data)
    settings |= {name: getattr(training, name) for name in DECISIVE}
    settings |= {"lr_scheduler_type": training.lr_scheduler_type.value, "violet": __version__}
    usual = {one.name: one.default for one in dataclasses.fields(training)}
    for name in SELDOM_DECISIVE:
        value = getattr(training, name)
        value = getattr(value, "value", value)
        if value != usual[name]:
            settings[name] = value
    if not from_parts(model):  # a VIOLET has its own
        del settings["text"]
    if model.system is None:
        del settings["system"]
    if not data.shapes_sound:  # runs from before there was any may go on
        del settings["shapes_sound"]
    if model.freeze is None:
        del settings["freeze"]
    # A run that was stopped by a bad sample, or refused for its words, may go on.
    for name in ("frame_cache_mb", "decode_time_limit", "bad_samples", "max_bad_share", "allow_unknown_words"):
        del settings[name]
    for split in ("train", "validation", "test"):
        if settings[f"{split}_file"] is not None:
            settings[f"{split}_file_sha256"] = rows_digest(tables[split])
    return json.loads(json.dumps(settings))


@dataclass
class FinetuningResult:
    """What a run leaves, beside the files in its folder."""

    task: Task
    model: VioletPreTrainedModel
    processor: VideoTextProcessor
    tables: DatasetDict
    metrics: dict[str, float]
    settings: dict[str, Any]


def finetune(
    model_arguments: ModelArguments,
    data: DataArguments,
    training: FinetuningArguments,
    tables: DatasetDict | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> FinetuningResult:
    """
    Trains, evaluates and saves. The same call in the same folder goes on from the last whole checkpoint.

    Args:
        tables: the rows of "train" and of other splits, as `load_tables` gives them, in place of what `data` names.
        callbacks: further callbacks of the Trainer. They report progress: the Trainer's log is not printed then.

    Into `training.output_dir`: model and processor, for `from_pretrained`; `metrics.json`, with the measures of each
    further split; `README.md`, the model card; `run.json`, the settings; `failed_samples.jsonl`, if samples were
    skipped; checkpoints. With `push_to_hub` the model then goes to the Hub, with its card.

    Raises:
        SettingsError: if the folder holds a run with other settings or another run is in it, a table or video cannot
            be used, or the tokenizer does not know its words (see `vocabulary`).
        CheckpointError: if a checkpoint cannot be written.
        RunStopped: if SIGTERM asked the run to end; it is saved.
    """
    output_dir, task = Path(str(training.output_dir)), find_task(model_arguments, data)
    with training.main_process_first(local=False):  # one process draws the clips
        tables, processor, settings = prepare_run(model_arguments, data, training, tables)
    set_seed(training.seed)
    kernel = model_arguments.attn_implementation or preferred_kernel(training.bf16, training.device)
    model = build_model(model_arguments, processor, tables["train"], data, kernel)
    prepare_hearing(processor, model, [tables["train"]])
    if training.grad_cache_chunk_size is not None:
        check_gradient_caching(model, data.task, training)
    with only_run_in(output_dir, training.process_index == 0):
        with training.main_process_first(local=False):  # one writes the settings
            begin_run(output_dir, settings)
        return _run(model_arguments, data, training, callbacks, task, model, processor, tables, settings)


def _run(
    model_arguments: ModelArguments,
    data: DataArguments,
    training: FinetuningArguments,
    callbacks: Sequence[TrainerCallback],
    task: Task,
    model: VioletPreTrainedModel,
    processor: VideoTextProcessor,
    tables: DatasetDict,
    settings: dict[str, Any],
) -> FinetuningResult:
    """The second half of `finetune`: trains, evaluates and saves."""
    output_dir = Path(str(training.output_dir))
    for parameter in model.unread_parameters():
        parameter.requires_grad_(False)
    if model_arguments.freeze_backbone:
        model.violet.vision_model.requires_grad_(False)
    freeze(model, (model_arguments.freeze or "").split(), "--freeze")
    trainer = build_trainer(model, processor, tables, data, training, callbacks)
    with trainer.watch:
        checkpoint = checkpoint_to_resume(output_dir, trainer.accelerator, trainer.failed_samples)
        trainer.train(resume_from_checkpoint=checkpoint)
        return _finish(trainer, task, model_arguments, data, training, processor, tables, settings)


def _finish(
    trainer: VioletTrainer,
    task: Task,
    model_arguments: ModelArguments,
    data: DataArguments,
    training: FinetuningArguments,
    processor: VideoTextProcessor,
    tables: DatasetDict,
    settings: dict[str, Any],
) -> FinetuningResult:
    """The end of `finetune`: evaluates and saves what was trained."""
    output_dir, model = Path(str(training.output_dir)), trainer.accelerator.unwrap_model(trainer.model)
    trainer.guard.check_weights(trainer.model)
    metrics: dict[str, float] = {"steps": trainer.state.global_step}
    for split in [name for name in tables if name != "train"]:
        prefix = "" if split == "test" else f"{split}_"
        if split.startswith("test_") and not len(tables[split]):
            logger.warning("The split %s has no row for the task %s: it is not measured.", split, data.task)
            continue
        found = task.evaluate(model, processor, tables[split], data, training)
        metrics |= {prefix + name: value for name, value in found.items()}
    trainer.accelerator.wait_for_everyone()
    metrics |= trainer.failed_samples.metrics() | trainer.guard.metrics()
    if trainer.is_world_process_zero():
        save_model(output_dir, model, processor)
        facts = card_facts(model_arguments, data, tables)
        end_run(output_dir, metrics, settings, tables, training.license, **facts)
    if training.push_to_hub:
        trainer.push_to_hub()
    return FinetuningResult(task, model, processor, tables, metrics, settings)


def prepare_run(
    model_arguments: ModelArguments,
    data: DataArguments,
    training: FinetuningArguments,
    given: DatasetDict | None = None,
) -> tuple[DatasetDict, VideoTextProcessor, dict[str, Any]]:
    """
    (tables, processor, settings) of a run, checked.

    Args:
        given: tables in place of those that `data` names.

    Raises:
        SettingsError: see `finetune`.
    """
    task, first = find_task(model_arguments, data), training.process_index == 0
    if not model_arguments.from_scratch:
        processor_of_weights(model_arguments)  # what cannot be used is refused before clips are drawn
    tables = load_tables(data) if given is None else given
    if tables.get("validation") is None and training.eval_strategy != "no":
        raise SettingsError("--validation_file: missing, though evaluation during training is asked for.")
    settings = run_settings(model_arguments, data, training, tables)
    if given is not None:
        settings |= {f"{split}_sha256": rows_digest(rows, folders=False) for split, rows in given.items()}
    processor = build_processor(model_arguments, tables["train"], data)
    texts = texts_of(tables["train"], task.reads)
    check_words(texts, processor.tokenizer, data.allow_unknown_words, log=first)
    check_answers(task, tables["train"], processor.tokenizer, log=first)
    return tables, processor, settings


def way_of_sharing(training: FinetuningArguments) -> DistributedType:
    """How the processes will share the model, which the Trainer finds out only when it is made."""
    if training.deepspeed_plugin is not None:
        return DistributedType.DEEPSPEED
    if training.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return DistributedType.FSDP
    return training.distributed_state.distributed_type


def check_gradient_caching(model: VioletPreTrainedModel, task: str, training: FinetuningArguments) -> None:
    """
    Raises:
        SettingsError: for a model whose batches cannot be computed in parts, or that processes share in a way in which
            they cannot.
    """
    setting = "--grad_cache_chunk_size"
    refuse_sharded(setting, way_of_sharing(training))
    if training.n_gpu > 1:
        raise SettingsError(
            f"{setting}: one process with {training.n_gpu} GPUs would split the parts again. Start a process for each "
            "by `accelerate launch`, or show it one GPU."
        )
    if not isinstance(model, VioletForRetrieval):
        raise SettingsError(f"{setting}: serves --task retrieval, not {task}: no embeddings are compared there.")
    if model.match_head is not None:
        raise SettingsError(
            f"{setting}: this model's fusion scores each pair of a video and a text; only one without "
            "(`fusion_model_config.model_type` 'none', such as clip-vip-tiny) compares embeddings."
        )
    refuse_live_norms(setting, model)


def build_trainer(
    model: VioletPreTrainedModel,
    processor: VideoTextProcessor,
    tables: DatasetDict,
    data: DataArguments,
    training: FinetuningArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> VioletTrainer:
    """The Trainer of a run with the task's collator and metrics; further callbacks silence the Trainer's own log."""
    task, validation = TASKS[data.task].of(model.config), tables.get("validation")
    # The heads smooth their own targets: the Trainer's way knows only one form of labels.
    model.config.label_smoothing, training.label_smoothing_factor = training.label_smoothing_factor, 0.0
    reader = ClipReader(processor.video_processor, data.frame_cache_mb * 2**20, data.decode_time_limit)
    skip = data.bad_samples == "skip"
    collator = task.collate(processor, model, data, training=True, reader=reader, name_videos=True, skip_bad=skip)

    patience = training.early_stopping_patience
    trainer = VioletTrainer(
        model=model,
        args=training,
        train_dataset=tables["train"],
        eval_dataset=validation,
        data_collator=collator,
        processing_class=processor,
        callbacks=[*callbacks, *([] if patience is None else [EarlyStoppingCallback(patience)])],
        rows_per_video=data.questions_per_video,
        rows_apart=task.apart,
        backbone_learning_rate=training.backbone_learning_rate,
        logit_scale_learning_rate=training.logit_scale_learning_rate,
        layer_decay=training.layer_decay,
        grad_cache_chunk_size=training.grad_cache_chunk_size,
        max_bad_share=data.max_bad_share,
        **task.metrics_of(validation),
    )
    if training.log_flow:
        trainer.add_callback(ModalityFlowCallback(trainer))
    if callbacks:
        trainer.remove_callback(PrinterCallback)
    return trainer


def card_facts(model: ModelArguments, data: DataArguments, tables: DatasetDict) -> dict[str, Any]:
    """What a model card tells of a run beside its settings: the Hub's names of what it used, and an example."""
    source = data.train_file or ""
    row = tables["train"][0]
    return {
        "base_model": model.model if is_hub_name(model.model) else None,
        "dataset": source.removeprefix(HUB).split("@")[0].split(":")[0] if source.startswith(HUB) else None,
        "example": {name: row[name] for name in TASKS[data.task].columns if name != "video"},
    }

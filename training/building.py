"""What a pre-training run is built from, one function per part: accelerator, processor, model, optimiser, batches."""

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from datasets import Dataset
from transformers import AutoProcessor, AutoTokenizer

from ..configuration import VioletConfig, named_configuration
from ..core.upstream import checkpoint_activations
from ..data.loading import ClipReader
from ..hub import WeightsError
from ..hub.starting_points import configuration_for
from ..hub.vision_models import check_clip
from ..modeling_violet import VioletForPreTraining
from ..modeling_violet.encoders import Encoder
from ..modeling_violet.experts import expert_layers
from ..modeling_violet.fusions.fusion import require_states_of
from ..modeling_violet.objectives.masked_features import check_group, masked_count
from ..modeling_violet.objectives.masked_vision import start_at
from ..modeling_violet.objectives.objective import BUILT_IN, OBJECTIVES, EmbeddingObjective
from ..modeling_violet.objectives.teachers import Teacher
from ..processing import VideoTextProcessor, VioletVideoProcessor, special_tokens
from ..processing.boxes import check_row_boxes
from .arguments import SettingsError, set_frames
from .dataset_sources import Splits
from .gradient_caching import SHARDED, refuse_live_norms, refuse_sharded
from .machine import preferred_dtype, preferred_kernel
from .masking import Masking
from .optimization import parameter_groups
from .preparations.preparation import ROW_CHECKS
from .pretraining_data import CaptionedVideos, PretrainingBatches, PretrainingCollator, row_id
from .recipe import DatasetRecipe, PretrainingRecipe
from .runs import freeze
from .schedule import SCHEDULES
from .scratch import processor_from_scratch, texts_from_scratch
from .starting import model_from_parts, processor_from_parts, starts_from_parts
from .targets import has_teacher, load_teacher, open_targets, target_options, target_settings

logger = logging.getLogger(__name__)

PROJECTION_WIDTH = 256
"""Of the embeddings before the fusion in a model that starts from public parts (Li et al., 2021, arXiv:2107.07651)."""


def starts_new(recipe: PretrainingRecipe) -> bool:
    """Whether the run makes a new model, from scratch or from public parts, instead of training a VIOLET further."""
    return recipe.from_scratch or starts_from_parts(recipe.model)


def precision_of(recipe: PretrainingRecipe) -> str:
    """accelerate's name of the number type that the recipe asks for."""
    if recipe.mixed_precision != "auto":
        return recipe.mixed_precision
    return "bf16" if preferred_dtype() == "bfloat16" else "no"


def build_accelerator(recipe: PretrainingRecipe) -> Accelerator:
    """
    The processes of the run, joined.

    Raises:
        SettingsError: if the processes do not work together, or shard weights of which an average is to be kept.
    """
    accelerator = Accelerator(
        mixed_precision=precision_of(recipe),
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        log_with=recipe.trackers or None,
        project_dir=recipe.output_dir,
        cpu=not torch.accelerator.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != processes:
        raise SettingsError(
            f"{processes} processes were started, and accelerate made {accelerator.num_processes} of them "
            "work together: the others would train models of their own. Start them by one of "
            "examples/accelerate_*.yaml."
        )
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    if deepspeed is not None:  # it cannot see this from a data loader, which it is not given
        deepspeed.deepspeed_config["train_micro_batch_size_per_gpu"] = recipe.batch_size // processes
    if recipe.grad_cache_chunk_size is not None:
        refuse_sharded("`grad_cache_chunk_size`", accelerator.distributed_type)
    if recipe.ema_decay is not None and accelerator.distributed_type in SHARDED:
        raise SettingsError("`ema_decay`: no average is kept of weights that are sharded over processes.")
    return accelerator


def words_with_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """All words that come with the rows: captions, and the questions and answers of drawn videos."""
    for row in rows:
        yield row["caption"]
        yield from row.get("captions") or ()
        yield row.get("frame_caption") or ""
        for question in row.get("questions") or ():
            yield question["question"]
            yield question["answer"]


def build_processor(recipe: PretrainingRecipe, tables: Sequence[Splits]) -> VideoTextProcessor:
    """
    The pretrained model's; that of a model of pictures or videos, with a BERT's tokenizer; from scratch a new one, if
    need be with a vocabulary that is trained on the rows.
    """
    if recipe.from_scratch:
        tokenizer = None if recipe.tokenizer is None else AutoTokenizer.from_pretrained(recipe.tokenizer)
        texts = (text for train, _ in tables for text in words_with_rows(train))
        processor = processor_from_scratch(recipe.model, tokenizer, texts, recipe.image_size)
        if processor.video_places is None:  # else it is the longest text with a video in it
            processor.max_length = recipe.max_text_length
        configuration = named_configuration(recipe.model)
        text: Any = configuration.text_config
        if getattr(text, "model_type", None) == "paragraph":
            processor.max_length = text.sentence_length
            most = getattr(configuration.vision_config, "num_clips", text.max_sentences)
            processor.max_sentences = min(most, text.max_sentences)
    elif starts_from_parts(recipe.model):
        processor = processor_from_parts(recipe.model, recipe.text, image_size=recipe.image_size)
        processor.max_length = recipe.max_text_length
    else:
        processor = AutoProcessor.from_pretrained(recipe.model)
    set_frames(processor.video_processor, recipe.fit, recipe.frame_sampling)
    return processor


def build_teachers(
    recipe: PretrainingRecipe, frames: VioletVideoProcessor, device: torch.device
) -> dict[str, Teacher]:
    """
    The frozen networks of the recipe's MVM targets, and of its objectives that have one. A target whose values every
    data set has stored needs none, and one that the model makes itself has none.
    """
    stored = [set(dataset.targets) for dataset in recipe.datasets]
    needed = [name for name, options in recipe.mvm_targets.items() if "teacher" in options or has_teacher(name)]
    taught = [name for name in recipe.all_objectives() if name in OBJECTIVES and OBJECTIVES[name].teacher is not None]
    live = [name for name in (*needed, *taught) if not all(name in names for names in stored)]
    return {name: load_teacher(name, target_options(recipe, name), frames).to(device) for name in live}


def new_configuration(
    recipe: PretrainingRecipe, processor: VideoTextProcessor, teachers: Mapping[str, Teacher]
) -> VioletConfig:
    """
    The named configuration, or a BERT's sizes, with the processor's vocabulary, the recipe's MVM heads and its
    objectives; with a BERT embeddings before the fusion, if an objective reads them.
    """
    writes = processor.video_places is not None
    if recipe.from_scratch:
        words = texts_from_scratch(recipe.model, processor.tokenizer) if writes else {}
        configuration = named_configuration(recipe.model, **words)
    else:
        compares = ("vtc", "contrast", "mil_nce", "omnisource")
        contrast = recipe.hard_negatives or any(name in compares for name in recipe.all_objectives())
        projection = {"projection_type": "language_model"} if writes and contrast else {}
        width = PROJECTION_WIDTH if contrast else None
        configuration = configuration_for(recipe.text, projection_dim=width, **projection)
    heads = {
        name: {key: value for key, value in options.items() if key != "teacher"}
        | (dict(teachers[name].head_options) if name in teachers else {})
        for name, options in recipe.mvm_targets.items()
    }
    if not writes:  # else the language model says it
        configuration.vocab_size = max(configuration.vocab_size, len(processor.tokenizer))
        for name, token in special_tokens(processor.tokenizer).items():
            setattr(configuration, name, token)
    configuration.mvm_targets = heads
    if "temporal_contrast" in recipe.all_objectives() and configuration.projection_type == "paragraph":
        configuration.projection_type = "paragraph_and_clips"
    own = [name for name in recipe.all_objectives() if name in OBJECTIVES and name not in BUILT_IN]
    options = {
        name: {key: value for key, value in recipe.objective_options.get(name, {}).items() if key != "teacher"}
        | (dict(teachers[name].head_options) if name in teachers else {})
        for name in own
    }
    configuration.objectives = options or None
    return configuration


def build_model(
    recipe: PretrainingRecipe, processor: VideoTextProcessor, teachers: Mapping[str, Teacher], device: torch.device
) -> VioletForPreTraining:
    """
    The model, on the CPU; what no objective of the recipe trains is frozen.

    Args:
        device: where it will compute, which decides the attention kernel.

    Raises:
        SettingsError: for objectives that the model does not have.
    """
    kernel = preferred_kernel(precision_of(recipe) == "bf16", device)
    if starts_new(recipe):
        configuration = new_configuration(recipe, processor, teachers)
        if recipe.from_scratch:
            model = VioletForPreTraining._from_config(configuration, attn_implementation=kernel)
        else:
            parts = (recipe.model, recipe.text)
            model = model_from_parts(*parts, configuration, VioletForPreTraining, processor, kernel)
    else:
        model = VioletForPreTraining.from_pretrained(recipe.model, attn_implementation=kernel)
    unknown = sorted(set(recipe.all_objectives()) - set(model.objective_names()))
    if unknown:
        raise SettingsError(
            f"`objectives`: the model has no {', '.join(unknown)}; it has {', '.join(model.objective_names())}."
        )
    check_gradient_caching(recipe, model)
    freeze(model, recipe.frozen, "`frozen`")
    for name in set(model.objectives).intersection(teachers):
        try:
            model.objectives[name].check_teacher(teachers[name], model)
        except ValueError as error:
            raise SettingsError(str(error)) from error
    model.freeze_unused(recipe.all_objectives())
    if recipe.gradient_checkpointing:
        checkpoint_activations(model)
    return model


def check_gradient_caching(recipe: PretrainingRecipe, model: VioletForPreTraining) -> None:
    """
    Raises:
        SettingsError: if the batch is to be computed in parts, and something reads more of it than a row.
    """
    if recipe.grad_cache_chunk_size is None:
        return
    others = [name for name in recipe.all_objectives() if not isinstance(model.objectives[name], EmbeddingObjective)]
    if others:
        can = (name for name, one in model.objectives.items() if isinstance(one, EmbeddingObjective))
        raise SettingsError(
            f"`grad_cache_chunk_size`: {', '.join(others)} compares no embeddings, and cannot be computed in parts; "
            f"of this model's objectives {', '.join(can) or 'none'} can. Leave the others out of `objectives`."
        )
    refuse_live_norms("`grad_cache_chunk_size`", model)
    if expert_layers(model):
        raise SettingsError(
            "`grad_cache_chunk_size`: the losses of the model's `experts` are means over a batch, which is not "
            "computed in parts: leave it out."
        )


def check_attended(recipe: PretrainingRecipe, model: VioletForPreTraining) -> None:
    """
    Raises:
        SettingsError: for the mask `attended` with a fusion in which no video token receives attention.
    """
    if recipe.masks.get("attended"):
        try:
            require_states_of("video", model.config, "`masks`: 'attended'")
        except ValueError as error:
            raise SettingsError(str(error)) from error


def check_correlated(recipe: PretrainingRecipe, model: VioletForPreTraining, frames: VioletVideoProcessor) -> None:
    """
    Raises:
        SettingsError: for the mask `correlated` without an objective that makes it in each set that reads masked
            patches, or with groups of more patches than are hidden of a data set's clips.
    """
    if not recipe.masks.get("correlated"):
        return
    makers: list[Any] = []
    for _, _, objectives in recipe.objective_sets():
        named = model.find_objectives(objectives)
        reads = any("bool_masked_pos" in one.needs for one in named)
        own = [one for one in named if "correlated" in one.takes]
        if reads and not own:
            raise SettingsError(
                f"`masks`: 'correlated' is made of features while the model computes, by the objective mvm_mfr, and "
                f"the objectives {', '.join(objectives)} are without it."
            )
        makers += own
    if not makers:
        raise SettingsError("`masks`: 'correlated' needs the objective mvm_mfr, which makes it of features.")
    for dataset in recipe.datasets:
        size = (dataset.num_frames or frames.num_frames, *recipe.frame_size(frames, dataset))
        patches = math.prod(model.violet.vision_encoder.grid(*size))
        try:
            for maker in makers:
                check_group(maker.choice["group"], masked_count(recipe.patch_ratio, patches))
        except ValueError as error:
            raise SettingsError(f"data set {dataset.name!r}: {error}") from error


def check_sizes(recipe: PretrainingRecipe, model: VioletForPreTraining, frames: VioletVideoProcessor) -> None:
    """
    Raises:
        SettingsError: for a data set whose clips the model's vision encoder cannot take.
    """
    for dataset in recipe.datasets:
        try:
            size = recipe.frame_size(frames, dataset)
            check_clip(model.violet.vision_encoder, dataset.num_frames or frames.num_frames, size)
        except WeightsError as error:
            raise SettingsError(f"data set {dataset.name!r}: {error}") from error


def build_optimizer(
    recipe: PretrainingRecipe, model: VioletForPreTraining, sharded: bool = False
) -> torch.optim.Optimizer:
    """AdamW, as VIOLET has it; by torch's fused kernel, unless the weights are to be sharded."""
    groups = parameter_groups(model, recipe.weight_decay)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=not sharded)


def build_collator(
    recipe: PretrainingRecipe, processor: VideoTextProcessor, reader: ClipReader, model: VioletForPreTraining
) -> PretrainingCollator:
    """What makes a batch of rows for that model."""
    return PretrainingCollator(
        processor,
        Masking(recipe.masks, recipe.patch_ratio, recipe.word_ratio),
        num_negatives=recipe.num_negatives,
        group_size=recipe.group_size,
        hard_negatives=recipe.hard_negatives,
        seed=recipe.seed,
        encoder=model.violet.vision_encoder,
        reader=reader,
        skip_bad=recipe.bad_samples == "skip",
        options={name: one.options for name, one in model.objectives.items()},
    )


def build_source(
    recipe: PretrainingRecipe, dataset: DatasetRecipe, rows: Dataset, frames: VioletVideoProcessor, encoder: Encoder
) -> CaptionedVideos:
    """One data set of the mixture, with the MVM targets that are stored for its rows."""
    names = [row_id(row) for row in rows] if dataset.targets else []
    stored = {
        name: open_targets(path, target_settings(recipe, dataset, name, frames, encoder), names)
        for name, path in dataset.targets.items()
    }
    weight = float(len(rows)) if dataset.weight is None else dataset.weight
    intervals, own = recipe.dataset_settings()
    number = next(place for place, one in enumerate(recipe.datasets) if one is dataset)
    return CaptionedVideos(
        dataset.name,
        rows,
        dataset.num_frames or frames.num_frames,
        weight,
        stored,
        recipe.frame_size(frames, dataset),
        intervals[number],
        own[number],
        dataset.regions,
    )


def build_batches(
    recipe: PretrainingRecipe,
    sources: Sequence[CaptionedVideos],
    objectives: Sequence[tuple[float, int, Mapping[str, float]]],
    collator: PretrainingCollator,
    accelerator: Accelerator,
) -> PretrainingBatches:
    """
    This process's share of the batch of every step.

    Args:
        objectives: sets of them, see `PretrainingRecipe.objective_sets`.

    Raises:
        SettingsError: if the processes cannot share the batch in whole groups.
    """
    size = recipe.frame_size(collator.processor.video_processor)
    sizes = [(source.num_frames, *(source.size or size)) for source in sources]
    weights, own = [source.weight for source in sources], [source.objectives for source in sources]
    further: dict[str, Any] = {}
    if any(own) or any(source.interval != 1 for source in sources):  # only of schedules that read them, see the recipe
        further = {"intervals": [source.interval for source in sources], "own": own}
    schedule = SCHEDULES.find(recipe.schedule)(weights, sizes, objectives, recipe.seed, **further)
    share = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    try:
        return PretrainingBatches(sources, schedule, collator, recipe.batch_size, recipe.seed, **share)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def check_regions(recipe: PretrainingRecipe, tables: Sequence[Splits]) -> None:
    """
    Raises:
        SettingsError: for a data set of `regions` with a row without boxes, or with such as are none.
    """
    for dataset, splits in zip(recipe.datasets, tables, strict=True):
        for rows in splits if dataset.regions else ():
            for number, row in enumerate(rows or ()):
                place = f"data set {dataset.name!r}, row {number} ({row_id(row)})"
                if row.get("boxes") is None:
                    raise SettingsError(f"{place}: `regions` needs the column `boxes`, and it is missing or empty.")
                try:
                    check_row_boxes(row["boxes"], place)
                except ValueError as error:
                    raise SettingsError(str(error)) from error


def check_rows(recipe: PretrainingRecipe, tables: Sequence[Splits], options: Mapping[str, Any]) -> None:
    """
    Raises:
        SettingsError: for a row that lacks what an objective needs, naming file, row and column.
    """
    checks = {name: ROW_CHECKS.find(name) for name in recipe.all_objectives() if name in ROW_CHECKS}
    for dataset, splits in zip(recipe.datasets, tables, strict=True) if checks else ():
        for path, rows in zip((dataset.path, dataset.validation_path or dataset.path), splits, strict=True):
            for number, row in enumerate(rows or ()):
                for name, check in checks.items():
                    try:
                        check(row, options.get(name))
                    except ValueError as error:
                        raise SettingsError(
                            f"data set {dataset.name!r}, {path}, row {number} ({row_id(row)}): {error}"
                        ) from error


def build_data(
    recipe: PretrainingRecipe, tables: Sequence[Splits], collator: PretrainingCollator, accelerator: Accelerator
) -> tuple[PretrainingBatches, dict[str, list[PretrainingBatches]]]:
    """
    The mixture for training, and by data set the batches of its validation rows: for each set of objectives once.

    Raises:
        SettingsError: if stored targets do not fit the run, or the processes cannot share a batch.
    """
    frames, encoder = collator.processor.video_processor, collator.encoder
    check_rows(recipe, tables, collator.options)
    check_regions(recipe, tables)
    pairs = list(zip(recipe.datasets, tables, strict=True))
    sources = [build_source(recipe, dataset, rows, frames, encoder) for dataset, (rows, _) in pairs]
    training = build_batches(recipe, sources, recipe.objective_sets(), collator, accelerator)
    run = [objectives for _, _, objectives in recipe.objective_sets()]
    held_out = [
        build_source(recipe, dataset, rows, frames, encoder) for dataset, (_, rows) in pairs if rows is not None
    ]
    validation = {
        source.name: [
            build_batches(recipe, [alone], [(1.0, 0, objectives)], collator, accelerator)
            for objectives in ([source.objectives] if source.objectives else run)
        ]
        for source in held_out
        for alone in (replace(source, interval=1, objectives=None),)
    }
    return training, validation


@torch.no_grad()
def start_heads(
    model: VioletForPreTraining,
    training: PretrainingBatches,
    targets: Callable[[Iterable[str], Mapping[str, Any]], Mapping[str, torch.Tensor]],
    steps: int = 4,
) -> None:
    """
    Lets each MVM head start at its target's best constant, and notes where that lies (`start_at`).

    Args:
        targets: (names, batch) -> the MVM targets of these names.
        steps: number of batches that the targets are taken from.
    """
    data = PretrainingBatches(  # whole batches, so that every process measures the same
        training.sources, training.schedule, training.collator, training.batch_size, training.seed
    )
    found: dict[str, list[torch.Tensor]] = {}
    for step in range(steps):
        batch = data[step]
        for name in filter(has_teacher, model.mvm_heads):
            found.setdefault(name, []).append(targets([name], batch)[name].cpu())
    for name, values in found.items():
        start_at(model.config, name, model.mvm_heads[name], values)
        logger.info("%s: %s", name, model.config.mvm_targets[name])

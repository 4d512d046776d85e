"""A benchmark from its files to a report: check, fine-tune as published, measure, compare."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from ..data import rows_digest
from ..data.benchmarks import Benchmark, check_benchmark
from ..data.loading import ClipReader
from ..evaluation.provenance import weights_hash
from ..evaluation.reporting import Report, write_report
from ..hub import write_model_card
from ..modeling_violet import VioletPreTrainedModel
from .arguments import DataArguments, FinetuningArguments, ModelArguments, SettingsError
from .finetuning import card_facts, finetune, processor_of_weights, run_settings
from .runs import write_metrics
from .starting import starts_from_parts
from .tasks import TASKS, Task

logger = logging.getLogger(__name__)

MASKED = "masked-answer"
"""The task as which questions of every kind can be asked, see `Recipe.by_mask`."""
APART = {
    "dual_softmax_": "By dual softmax, where a text's order depends on all texts that are searched for: not to be "
    "compared with the recalls above"
}
"""How the names of metrics begin that a report shows apart, and its words for them."""


OWN_RECIPES = ("v1", "v2", "default")
"""VIOLET's recipes, by their names in `Benchmark.recipes`; others are those of other systems."""


def recipe_options(benchmark: Benchmark, name: str | None) -> dict[str, Any]:
    """
    The options of `violet finetune` that a recipe stands for. Frames and their size are the model's own (VIOLETs have
    5 of 224 pixels), but for a system's recipe, whose frames are part of it: CLIP-ViP's 12, and 32 on ActivityNet.

    Args:
        name: of the benchmark's recipes; by default VIOLETv2's, else the first.

    Raises:
        SettingsError: for a recipe that the benchmark does not have.
    """
    recipes = benchmark.recipes
    if name is None:
        name = "v2" if "v2" in recipes else next(iter(recipes))
    if name not in recipes:
        raise SettingsError(f"--recipe: {benchmark.name} has {' and '.join(recipes)}, not {name!r}.")
    recipe = recipes[name]
    options = {
        "task": MASKED if recipe.by_mask else benchmark.task,
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": {"linear": 0.1, "cosine": 0.01}.get(recipe.schedule, 0),
        "max_text_length": recipe.text_length,
        "save_strategy": "epoch",
    }
    if name not in OWN_RECIPES:
        options["num_frames"] = recipe.frames
    if recipe.logit_scale_rate != 1.0:
        options["logit_scale_learning_rate"] = recipe.learning_rate * recipe.logit_scale_rate
    if benchmark.num_answers is not None:
        options["max_answers"] = benchmark.num_answers
    return options


def load_benchmark(benchmark: Benchmark, folder: str | Path, task: str | None = None) -> DatasetDict:
    """
    Its splits, as `finetune` takes them; what is not as published is logged.

    Args:
        task: by default the benchmark's own; `MASKED` for the others that ask questions.

    Raises:
        SettingsError: if the folder does not hold it: every problem that `check_benchmark` found; for another task.
    """
    task = task or benchmark.task
    renamed = TASKS[benchmark.task].masked_columns
    if task != benchmark.task and not (task == MASKED and renamed is not None):
        raise SettingsError(f"--task: {benchmark.name} is no benchmark of {task!r}, but of {benchmark.task!r}.")
    found = check_benchmark(benchmark, folder)
    if found.problems:
        raise SettingsError("\n".join(found.problems))
    for note in found.notes:
        logger.warning("%s: %s", benchmark.name, note)
    check, tables = TASKS[task].check, DatasetDict()
    for split, rows in found.tables.items():
        if task != benchmark.task and renamed:
            rows = rows.rename_columns(dict(renamed))
        try:
            tables["validation" if split == "val" else split] = rows if check is None else rows.map(check)
        except ValueError as error:
            raise SettingsError(f"{benchmark.annotations}, split {split!r}: {error}") from error
    return tables


def _load_trained(model: str, task: Task) -> VioletPreTrainedModel:
    """
    The model with all weights that the task needs.

    Raises:
        SettingsError: if it has not all of them.
    """
    if starts_from_parts(model):
        raise SettingsError(f"--measure_only: {model} is no VIOLET. Leave it out to fine-tune one that starts so.")
    loaded, report = task.model_class.from_pretrained(model, output_loading_info=True)
    if report["missing_keys"]:
        raise SettingsError(
            f"--model: {model} has no weights for {sorted(report['missing_keys'])[0]} of {task.model_class.__name__}: "
            "it has to be trained for this task first."
        )
    return loaded


def run_benchmark(
    benchmark: Benchmark,
    folder: str | Path,
    model_arguments: ModelArguments,
    data: DataArguments,
    training: FinetuningArguments,
    train: bool = True,
) -> Report:
    """
    Fine-tunes on the benchmark's training split, unless the model is to be measured as it is, and measures the model
    on its test split: retrieval by dual softmax too, which stands apart. The report goes into `training.output_dir`,
    see `write_report`; `metrics.json` too.

    Raises:
        SettingsError: if the folder does not hold the benchmark, or the model has no weights for its task.
    """
    if training.push_to_hub:
        raise SettingsError("--push_to_hub: a benchmark's model is published once it is measured, by `violet push`.")
    tables = load_benchmark(benchmark, folder, data.task)
    data = dataclasses.replace(data, dual_softmax=data.task == "retrieval")
    test = tables.pop("test")
    task = TASKS[data.task]
    if train:
        result = finetune(model_arguments, data, training, tables)
        model, processor, settings = result.model, result.processor, result.settings
    else:
        model = _load_trained(model_arguments.model, task)
        processor = processor_of_weights(model_arguments)
        settings = run_settings(model_arguments, data, training, DatasetDict())
    evaluation = task.examine(model, processor, test, data, training)
    source, published = next(iter(benchmark.published.items()), ("", {}))
    frames = processor.video_processor
    report = Report(
        title=f"{benchmark.name}: {model_arguments.model}",
        task=data.task,
        evaluation=evaluation,
        settings=settings | {"frames": frames.num_frames, "frame_size": dict(frames.size), "trained": train},
        origin={
            "benchmark": benchmark.name,
            **({"asked by": benchmark.prompt} if data.task == MASKED else {}),
            "checkpoint": model_arguments.model,
            "checkpoint sha256": weights_hash(model),
            "split": f"test, {len(test)} rows",
            "split sha256": rows_digest(test, folders=False),
            "seed": training.seed,
            "published by": source or "nobody known to this project",
            **{
                f"published ({name})": ", ".join(f"{metric} {value:g} %" for metric, value in values.items())
                for name, values in benchmark.published.items()
            },
        },
        published={name: value / 100 for name, value in published.items()},
        headline=[name for name in benchmark.metrics if name in evaluation.metrics],
        apart=APART,
    )
    if training.process_index == 0:
        reader = ClipReader(frames, time_limit=data.decode_time_limit)
        output = Path(str(training.output_dir))
        write_report(output, report, lambda video: reader.read(video).frames)
        facts = card_facts(model_arguments, data, tables) if train else {}
        write_metrics(output, evaluation.metrics, report.settings, {**tables, "test": test}, **facts)
        if train:
            write_model_card(output, license_name=training.license)
    return report

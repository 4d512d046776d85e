"""Pre-training on Accelerate: a mixture of captioned videos and images, all objectives, whole-state checkpoints."""

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, broadcast_object_list, send_to_device, set_seed
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import AutoProcessor, AutoTokenizer

from .._version import __version__
from ..configuration import named_configuration
from ..core.files import save_into, seal, write_json, write_text
from ..core.upstream import PREFIX_CHECKPOINT_DIR, checkpoint_activations
from ..data import moving_shapes, read_original, read_rows
from ..data.loading import ClipReader, FailedSamples, explained_workers
from ..evaluation.pictures import draw_curves
from ..evaluation.provenance import METRICS_FILE, run_provenance
from ..hub import write_model_card
from ..modeling_violet import VioletForPreTraining
from ..modeling_violet.objectives.masked_vision import start_at
from ..modeling_violet.objectives.objective import BUILT_IN, OBJECTIVES
from ..modeling_violet.objectives.teachers import Teacher
from ..processing import VideoTextProcessor, special_tokens, train_wordpiece_tokenizer
from .arguments import SettingsError, set_frames
from .ema import MovingAverage
from .finetuning import begin_run, frames_from_scratch, is_hub_name
from .machine import leave_cores_to_workers, preferred_dtype, preferred_kernel
from .masking import Masking, mask_attended
from .optimization import learning_rate_factor, parameter_groups
from .pretraining_data import CaptionedVideos, PretrainingBatches, PretrainingCollator, row_id
from .recipe import DatasetRecipe, PretrainingRecipe
from .schedule import MixtureSchedule
from .targets import load_teacher, open_targets, target_settings
from .trainer import last_whole_checkpoint

logger = logging.getLogger(__name__)

LOG_FILE = "log.jsonl"
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)
PROGRESS_FILE = "progress.json"


@dataclass
class PretrainingResult:
    """What a run leaves, beside the files in its folder."""

    model: VioletForPreTraining
    processor: VideoTextProcessor
    metrics: dict[str, float]
    settings: dict[str, Any]


def pretrain(recipe: PretrainingRecipe, resume: bool = False) -> PretrainingResult:
    """
    Trains, evaluates and saves. Under `accelerate launch` it is one of several processes.

    Into `recipe.output_dir`: model and processor, for `from_pretrained`; `metrics.json`; `README.md`, the model card;
    `log.jsonl` and `curves.png`; `run.json`, the settings; `failed_samples.jsonl`, where samples were skipped;
    checkpoints.

    Args:
        resume: go on from the last whole checkpoint, where there is one, to the same weights as without a break.

    Raises:
        SettingsError: where settings contradict one another or the run in the output folder.
        FloatingPointError: where a loss is NaN or infinite; it was not applied.
        WorkerDiedError: where a process that loads data was killed.
    """
    run = Pretraining(recipe)
    with explained_workers(run.reader):
        return run.run(resume)


def load_dataset(recipe: DatasetRecipe) -> tuple[Dataset, Dataset | None]:
    """(training rows, validation rows or None), with the columns video and caption."""
    if recipe.source == "moving_shapes":
        split, validation = recipe.split or "pretrain", recipe.validation_split or "validation"
        counts = {"train": 0, "validation": 0, "test": 0, "test_unseen": 0, "test_together": 0, "pretrain": 0}
        counts |= {split: recipe.clips, validation: recipe.validation_clips}
        splits = moving_shapes(recipe.path, seed=recipe.seed, **counts)
        return splits[split], splits.get(validation)
    if recipe.source == "table":
        files = [file for file in (recipe.path, recipe.validation_path) if file is not None]
        tables = [read_rows(file, ("video", "caption"), video_folder=recipe.video_folder) for file in files]
        return tables[0], tables[1] if len(tables) > 1 else None
    captions = recipe.captions or ""  # a recipe without is refused
    train = read_original(captions, recipe.path, recipe.split or "train")
    if recipe.validation_split is None:
        return train, None
    return train, read_original(captions, recipe.validation_path or recipe.path, recipe.validation_split)


def load_teachers(recipe: PretrainingRecipe, processor: VideoTextProcessor) -> dict[str, Teacher]:
    """The frozen networks of the recipe's MVM targets; a target whose values every data set has stored needs none."""
    stored = [set(dataset.targets) for dataset in recipe.datasets]
    live = [name for name in recipe.mvm_targets if not all(name in names for names in stored)]
    return {name: load_teacher(name, recipe.mvm_targets[name], processor.video_processor) for name in live}


def texts_of(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """All words that come with the rows: captions, and the questions and answers of drawn videos."""
    for row in rows:
        yield row["caption"]
        for question in row.get("questions") or ():
            yield question["question"]
            yield question["answer"]


class Pretraining:
    """One run, in one process of one or several."""

    model: Any  # these two as accelerate wraps them
    optimizer: Any

    def __init__(self, recipe: PretrainingRecipe):
        self.recipe = recipe
        self.output_dir = Path(recipe.output_dir)
        precision = recipe.mixed_precision
        if precision == "auto":
            precision = "bf16" if preferred_dtype() == "bfloat16" else "no"
        set_seed(recipe.seed)
        self.accelerator = Accelerator(
            mixed_precision=precision,
            gradient_accumulation_steps=recipe.gradient_accumulation_steps,
            log_with=recipe.trackers or None,
            project_dir=recipe.output_dir,
            cpu=not torch.accelerator.is_available(),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if self.accelerator.num_processes != processes:
            raise SettingsError(
                f"{processes} processes were started, and accelerate made {self.accelerator.num_processes} of them "
                "work together: the others would train models of their own. Start them by one of "
                "examples/accelerate_*.yaml."
            )
        deepspeed = getattr(self.accelerator.state, "deepspeed_plugin", None)
        if deepspeed is not None:  # it cannot see this from a data loader, which it is not given
            deepspeed.deepspeed_config["train_micro_batch_size_per_gpu"] = recipe.batch_size // processes
        if recipe.ema_decay is not None and self.accelerator.distributed_type in SHARDED:
            raise SettingsError("`ema_decay`: no average is kept of weights that are sharded over processes.")
        leave_cores_to_workers(recipe.num_workers)
        self.is_main = self.accelerator.is_main_process
        self.settings = json.loads(json.dumps({"violet": __version__, **dataclasses.asdict(recipe)}))
        for name in ("bad_samples", "decode_time_limit"):  # a run that a bad sample stopped may go on
            del self.settings[name]
        if not recipe.objective_options:  # runs from before there were any may go on
            del self.settings["objective_options"]
        self.failed_samples = FailedSamples(self.output_dir)
        with self.accelerator.main_process_first():  # the others find drawn videos there
            self.tables = [load_dataset(dataset) for dataset in recipe.datasets]
        self.build_model(preferred_kernel(precision == "bf16", self.accelerator.device))
        self.build_data()
        if recipe.from_scratch:
            self.measure_targets()
        self.average = None if recipe.ema_decay is None else MovingAverage(self.model, recipe.ema_decay)
        self.model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)

    def build_model(self, kernel: str | None) -> None:
        """The model and its processor, the teachers, the optimiser."""
        recipe = self.recipe
        if recipe.from_scratch:
            configuration = named_configuration(recipe.model)
            tokenizer = (
                train_wordpiece_tokenizer(
                    (text for train, _ in self.tables for text in texts_of(train)), configuration.vocab_size
                )
                if recipe.tokenizer is None
                else AutoTokenizer.from_pretrained(recipe.tokenizer)
            )
            frames = frames_from_scratch(recipe.model, recipe.image_size)
            self.processor = VideoTextProcessor(tokenizer, frames, max_length=recipe.max_text_length)
            self.teachers = load_teachers(recipe, self.processor)
            set_frames(frames, recipe.fit, recipe.frame_sampling)
            heads = {
                name: {key: value for key, value in options.items() if key != "teacher"}
                | (dict(self.teachers[name].head_options) if name in self.teachers else {})
                for name, options in recipe.mvm_targets.items()
            }
            configuration.vocab_size = max(configuration.vocab_size, len(tokenizer))
            for name, token in special_tokens(tokenizer).items():
                setattr(configuration, name, token)
            configuration.mvm_targets = heads
            own = [name for name in recipe.all_objectives() if name in OBJECTIVES and name not in BUILT_IN]
            configuration.objectives = {name: recipe.objective_options.get(name, {}) for name in own} or None
            model = VioletForPreTraining._from_config(configuration, attn_implementation=kernel)
        else:
            self.processor = AutoProcessor.from_pretrained(recipe.model)
            set_frames(self.processor.video_processor, recipe.fit, recipe.frame_sampling)
            self.teachers = load_teachers(recipe, self.processor)
            model = VioletForPreTraining.from_pretrained(recipe.model, attn_implementation=kernel)
        unknown = sorted(set(recipe.all_objectives()) - set(model.objective_names()))
        if unknown:
            raise SettingsError(
                f"`objectives`: the model has no {', '.join(unknown)}; it has {', '.join(model.objective_names())}."
            )
        model.freeze_unused(recipe.all_objectives())
        if recipe.gradient_checkpointing:
            checkpoint_activations(model)
        for teacher in self.teachers.values():
            teacher.to(self.accelerator.device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.98)
        )
        self.model, self.configuration = model, model.config  # prepared once the heads are set

    def build_data(self) -> None:
        """The mixture for training, and each data set's validation rows."""
        recipe, processor = self.recipe, self.processor
        reduction = self.configuration.vision_config.reduction
        self.masking = Masking(recipe.masks, recipe.patch_ratio, recipe.word_ratio)
        self.reader = ClipReader(processor.video_processor, recipe.frame_cache_mb * 2**20, recipe.decode_time_limit)
        collator = PretrainingCollator(
            processor,
            self.masking,
            num_negatives=recipe.num_negatives,
            group_size=recipe.group_size,
            hard_negatives=recipe.hard_negatives,
            seed=recipe.seed,
            reduction=reduction,
            reader=self.reader,
            skip_bad=recipe.bad_samples == "skip",
            options={name: one.options for name, one in self.model.objectives.items()},
        )
        side = recipe.image_size or processor.video_processor.size.height
        share = {"rank": self.accelerator.process_index, "world_size": self.accelerator.num_processes}

        def source(dataset: DatasetRecipe, rows: Dataset) -> CaptionedVideos:
            frames = dataset.num_frames or processor.video_processor.num_frames
            names = [row_id(row) for row in rows] if dataset.targets else []
            stored = {
                name: open_targets(
                    path, target_settings(recipe, dataset, name, processor.video_processor, reduction), names
                )
                for name, path in dataset.targets.items()
            }
            weight = float(len(rows)) if dataset.weight is None else dataset.weight
            return CaptionedVideos(dataset.name, rows, frames, weight, stored)

        def batches(sources: list[CaptionedVideos], objectives: list) -> PretrainingBatches:
            sizes = [(dataset.num_frames, side) for dataset in sources]
            schedule = MixtureSchedule([dataset.weight for dataset in sources], sizes, objectives, recipe.seed)
            try:
                return PretrainingBatches(sources, schedule, collator, recipe.batch_size, recipe.seed, **share)
            except ValueError as error:
                raise SettingsError(str(error)) from error

        pairs = list(zip(recipe.datasets, self.tables, strict=True))
        self.training = batches([source(dataset, rows) for dataset, (rows, _) in pairs], recipe.objective_sets())
        held_out = [source(dataset, rows) for dataset, (_, rows) in pairs if rows is not None]
        self.validation = {
            one.name: [batches([one], [(1.0, 0, objectives)]) for _, _, objectives in recipe.objective_sets()]
            for one in held_out
        }

    @torch.no_grad()
    def measure_targets(self, steps: int = 4) -> None:
        """Lets each head start at its target's best constant, and notes where that lies (`start_at`)."""
        data = PretrainingBatches(  # whole batches, so that every process measures the same
            self.training.sources,
            self.training.schedule,
            self.training.collator,
            self.recipe.batch_size,
            self.recipe.seed,
        )
        found: dict[str, list[torch.Tensor]] = {}
        for step in range(steps):
            batch = data[step]
            for name in self.model.mvm_heads:
                found.setdefault(name, []).append(self.targets([name], batch)[name].cpu())
        for name, values in found.items():
            start_at(self.configuration, name, self.model.mvm_heads[name], values)
            logger.info("%s: %s", name, self.configuration.mvm_targets[name])

    def targets(self, names: Iterable[str], batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """These MVM targets of a batch, on the device: stored ones, or asked of their teachers."""
        device = self.accelerator.device
        grid = tuple(batch["bool_masked_pos"].shape[1:])
        pixels = self.processor.video_processor.normalize_pixels(batch["pixel_values_videos"].to(device))
        stored = batch["mvm_targets"]
        return {
            name: stored[name].to(device) if name in stored else self.teachers[name](pixels, grid) for name in names
        }

    def batches(self, steps: range, data: PretrainingBatches) -> Iterator[dict[str, Any]]:
        """The batches of these steps, in order, made by the workers."""
        loader = torch.utils.data.DataLoader(
            data,
            batch_size=None,
            sampler=steps,
            num_workers=self.recipe.num_workers,
            generator=torch.Generator().manual_seed(self.recipe.seed),  # workers leave the global one alone
            pin_memory=torch.cuda.is_available(),
        )
        for batch in loader:
            self.failed_samples.add(batch.pop("failed", []))
            yield batch

    def forward(self, batch: dict[str, Any]):
        """Masks what is masked by attention, asks the teachers, and runs the model: (its output, what was masked)."""
        names, objectives = batch.pop("ids"), batch.pop("objectives")
        batch = send_to_device(batch, self.accelerator.device)
        pixels = self.processor.video_processor.normalize_pixels(batch["pixel_values_videos"])
        batch["pixel_values_videos"] = pixels
        inputs = {key: batch[key] for key in ("pixel_values_videos", "attention_mask")}
        changed = {key: batch[key] for key in ("input_ids", "labels", "bool_masked_pos")}
        attends = torch.tensor(float("attended" in batch), device=self.accelerator.device)
        if self.accelerator.reduce(attends, "sum") > 0:  # all processes take the pass, or none
            restored = torch.where(changed["labels"] >= 0, changed["labels"], changed["input_ids"])
            with torch.no_grad(), self.accelerator.autocast():
                output = self.model(**inputs, input_ids=restored, only_received_attention=True)
            if "attended" in batch:
                mask_token = self.processor.tokenizer.mask_token_id
                changed = mask_attended(batch, output.received_attention, self.masking.patch_ratio, mask_token)
        named = self.accelerator.unwrap_model(self.model).find_objectives(objectives)
        read = {name for one in named for name in (*one.needs, *one.takes)}
        wanted = list(dict.fromkeys(target for one in named for target in one.targets))
        masked = changed["bool_masked_pos"]
        if "bool_masked_pos" not in read:
            del changed["bool_masked_pos"]
        if self.recipe.hard_negatives:
            batch["num_hard_negatives"] = self.recipe.num_negatives
        given = {name: batch[name] for name in read.difference(inputs, changed) if name in batch}
        with self.accelerator.autocast():
            output = self.model(
                **inputs, **changed, **given, mvm_targets=self.targets(wanted, batch), objectives=objectives
            )
        if not torch.isfinite(output.loss):
            raise FloatingPointError(
                f"The loss is {output.loss.item()}; it was not applied. Its rows: {', '.join(names)}."
            )
        words = changed["labels"] >= 0
        values = {"loss": output.loss}
        values |= {f"loss_{name}": value for name, value in output.losses.items()}
        values |= {f"accuracy_{name}": value for name, value in output.accuracies.items()}
        values["masked_words"] = words.sum()
        if "bool_masked_pos" in read:
            values |= {"masked_patches": masked.sum(), "patches": torch.tensor(masked.numel())}
        return output, {name: value.detach().float() for name, value in values.items()}

    def run(self, resume: bool) -> PretrainingResult:
        recipe, accelerator = self.recipe, self.accelerator
        done = self.begin(resume)
        log = Log(self)
        log.drop_after(done)
        accelerator.init_trackers(self.output_dir.name)
        micro = recipe.gradient_accumulation_steps
        unscaled = accelerator.scaler is None  # a scaler skips steps whose gradients overflow, by itself
        batches = self.batches(range(done * micro, recipe.max_steps * micro), self.training)
        self.model.train()
        for step in range(done + 1, recipe.max_steps + 1):
            rate = recipe.learning_rate * learning_rate_factor(
                recipe.learning_rate_schedule, step - 1, recipe.max_steps, recipe.warmup
            )
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            names: list[str] = []
            for _ in range(micro):
                with accelerator.accumulate(self.model):
                    batch = next(batches)
                    names += batch["ids"]
                    output, values = self.forward(batch)
                    log.add(values)
                    accelerator.backward(output.loss)
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(self.model.parameters(), recipe.max_grad_norm)
                        if isinstance(norm, DTensor):  # sharded (FSDP): no process has the whole of it
                            norm = norm.full_tensor()
                        if unscaled and not torch.isfinite(norm):
                            raise FloatingPointError(
                                f"The gradient of step {step} is {norm.item()}; it was not applied. Its rows: "
                                f"{', '.join(names)}."
                            )
                        log.add({"gradient_norm": norm.detach().float()})
                    self.optimizer.step()
                    self.optimizer.zero_grad()
            if accelerator.optimizer_step_was_skipped:
                log.add({"skipped_steps": torch.tensor(1.0)})
            elif self.average is not None:
                self.average.update(accelerator.unwrap_model(self.model))
            if step % recipe.logging_steps == 0 or step == recipe.max_steps:
                log.write(step, log.means() | {"learning_rate": rate})
            if step % recipe.eval_steps == 0 and step < recipe.max_steps:
                log.write(step, self.evaluate())
            if step % recipe.save_steps == 0 and step < recipe.max_steps:
                self.save_checkpoint(step)
        return self.finish(log)

    def begin(self, resume: bool) -> int:
        """Compares the run in the output folder with this one and loads its last checkpoint; the steps done."""
        found: list[str | None] = [None]
        if self.is_main:
            begin_run(self.output_dir, self.settings)
            found[0] = last_whole_checkpoint(self.output_dir)
        broadcast_object_list(found)
        if found[0] is None:
            if self.is_main:
                self.failed_samples.forget()
            self.accelerator.wait_for_everyone()
            return 0
        if not resume:
            raise SettingsError(
                f"{self.output_dir} holds checkpoints of this run: give --resume to go on from {found[0]}, or another "
                "output folder."
            )
        self.accelerator.load_state(found[0])
        if self.average is not None:
            self.average.load(Path(found[0]))
        progress = json.loads((Path(found[0]) / PROGRESS_FILE).read_text())
        logger.info("Going on from %s", found[0])
        return progress["step"]

    def save_checkpoint(self, step: int) -> None:
        """The whole state, in a folder that is whole or absent; older ones are deleted after."""
        accelerator = self.accelerator
        folder = self.output_dir / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        partial = folder.with_name(f".{folder.name}.partial")
        if self.is_main:
            for old in (partial, folder):  # what a killed process left
                if old.exists():
                    shutil.rmtree(old)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if self.is_main:
            if self.average is not None:
                self.average.save(partial)
            positions = self.training.schedule.positions(step * self.recipe.gradient_accumulation_steps)
            names = [source.name for source in self.training.sources]
            drawn = dict(zip(names, positions, strict=True))
            write_json(partial / PROGRESS_FILE, {"step": step, "batches_drawn": drawn})
            seal(partial)
            partial.rename(folder)
            numbers = sorted(
                int(path.name.split("-")[-1]) for path in self.output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
            )
            for number in numbers[: -self.recipe.checkpoints_kept]:
                shutil.rmtree(self.output_dir / f"{PREFIX_CHECKPOINT_DIR}-{number}")
        accelerator.wait_for_everyone()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """
        `DATASET/loss_…` and `DATASET/accuracy_…` on validation rows, always the same ones, masked the same way. Where
        several sets of objectives hold one of them, it is measured in the first: without masks, if that has none.
        """
        model = self.accelerator.unwrap_model(self.model)
        metrics: dict[str, float] = {}
        self.model.eval()
        if self.average is not None:
            self.average.swap(model)
        for name, sets in self.validation.items():
            for data in sets:
                totals: dict[str, list[torch.Tensor]] = {}
                for batch in self.batches(range(self.recipe.eval_batches), data):
                    _, values = self.forward(batch)
                    for key, value in values.items():
                        if key.startswith(("loss_", "accuracy_")) and f"{name}/{key}" not in metrics:
                            totals.setdefault(key, []).append(value)
                for key, found in totals.items():
                    metrics[f"{name}/{key}"] = self.accelerator.reduce(torch.stack(found).mean(), "mean").item()
        if self.average is not None:
            self.average.swap(model)
        self.model.train()
        return metrics

    def finish(self, log: "Log") -> PretrainingResult:
        """Evaluates once more and writes model, processor, metrics and curves."""
        accelerator = self.accelerator
        metrics = self.evaluate()
        accelerator.wait_for_everyone()  # the others have written what failed
        metrics |= self.failed_samples.metrics()
        log.write(self.recipe.max_steps, metrics)
        metrics = {"steps": self.recipe.max_steps, **metrics}
        model = accelerator.unwrap_model(self.model)
        if self.average is not None:
            self.average.swap(model)
        weights = accelerator.get_state_dict(self.model)
        if self.is_main:

            def write(folder: Path) -> None:
                model.save_pretrained(folder, state_dict=weights)
                self.processor.save_pretrained(folder)

            save_into(self.output_dir, write)
            curves = [{name: line[name] for name in line if name != "samples_failed"} for line in log.lines()]
            draw_curves(self.output_dir / "curves.png", curves)
            base = self.recipe.model if is_hub_name(self.recipe.model) else None
            provenance = run_provenance(self.rows_by_split(), base_model=base)
            facts = metrics | {"settings": self.settings, "provenance": provenance}
            write_json(self.output_dir / METRICS_FILE, facts)
            write_model_card(self.output_dir)
        accelerator.wait_for_everyone()
        accelerator.end_training()
        return PretrainingResult(model, self.processor, metrics, self.settings)

    def rows_by_split(self) -> dict[str, Dataset]:
        """The rows of each data set, and those for validation under "NAME, validation"."""
        rows = {}
        for dataset, (train, validation) in zip(self.recipe.datasets, self.tables, strict=True):
            rows[dataset.name] = train
            if validation is not None:
                rows[f"{dataset.name}, validation"] = validation
        return rows


class Log:
    """What happens, over all processes: to the console, `log.jsonl` and accelerate's trackers."""

    COUNTS = ("masked_words", "masked_patches", "patches", "skipped_steps")

    def __init__(self, run: Pretraining):
        self.run = run
        self.path = run.output_dir / LOG_FILE
        self.values: dict[str, list[torch.Tensor]] = {}

    def add(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """What was added since the last call: counts summed, the rest averaged."""
        accelerator, found = self.run.accelerator, {}
        for name, values in self.values.items():
            stacked = torch.stack([value.to(accelerator.device) for value in values])
            total = name in self.COUNTS
            reduced = accelerator.reduce(stacked.sum() if total else stacked.mean(), "sum" if total else "mean")
            found[name] = reduced.item()
        self.values = {}
        return found

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line of the log."""
        if self.run.is_main:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            logger.info("step %d  %s", step, "  ".join(f"{name} {value:.4g}" for name, value in values.items()))
        self.run.accelerator.log(values, step=step)

    def lines(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def drop_after(self, step: int) -> None:
        """Leaves out what a killed run wrote beyond the checkpoint from which this one goes on."""
        if self.run.is_main and self.path.exists():
            kept = [json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step]
            write_text(self.path, "".join(kept))

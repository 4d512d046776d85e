"""Pre-training on Accelerate: the loop over the steps of a mixture of captioned videos and images."""

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from datasets import Dataset
from safetensors.torch import load_model
from safetensors.torch import save_model as save_module

from .._version import __version__
from ..core.clip_inputs import BOXES, SOUND, take_named
from ..core.files import write_json
from ..data.lasting import LastingLoader
from ..data.loading import ClipReader, FailedSamples, explained_workers
from ..evaluation.modality_flow import batch_flow
from ..evaluation.pictures import draw_curves
from ..hub.cards import CURVES_FILE
from ..modeling_violet import VioletForPreTraining
from ..modeling_violet.embedding_gradients import EmbeddingGradients
from ..modeling_violet.objectives.objective import Objective
from ..processing import VideoTextProcessor
from .arguments import SettingsError
from .building import (
    build_accelerator,
    build_collator,
    build_data,
    build_model,
    build_optimizer,
    build_processor,
    build_teachers,
    check_attended,
    check_correlated,
    check_sizes,
    start_heads,
    starts_new,
)
from .checkpoints import checkpoint_folder, checkpoint_to_resume, new_checkpoint
from .dataset_sources import load_dataset
from .ema import MovingAverage
from .gradient_caching import SHARDED, backward_in_parts, split_batch
from .guards import StepGuard, check_finite, whole_norm
from .hearing import prepare_hearing
from .learning_rates import learning_rate_factor
from .machine import leave_cores_to_workers
from .masking import mask_attended
from .optimization import give_zero_gradients
from .pretraining_data import PretrainingBatches
from .processes import ProcessWatch
from .recipe import DatasetRecipe, PretrainingRecipe
from .run_state import OPTIMIZER_FILE, generators, load_optimizer, process_file, save_optimizer, set_generators
from .runs import FREE, begin_run, end_run, is_hub_name, only_run_in, save_model
from .starting import processor_from_parts, starts_from_parts
from .stopping import RunStopped, StopRequest, stopped
from .training_log import TrainingLog
from .waiting import DataWaiting

logger = logging.getLogger(__name__)

PROGRESS_FILE = "progress.json"
WEIGHTS_FILE = "model.safetensors"


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
    `log.jsonl` (see `DataWaiting` for its `waiting_share`) and `curves.png`; `run.json`, the settings;
    `failed_samples.jsonl`, if samples were skipped; `bad_steps.jsonl`, if there were steps that were not applied;
    checkpoints.

    Args:
        resume: go on from the last whole checkpoint, if there is one, to the same weights as without a break.

    Raises:
        SettingsError: if settings contradict one another or the run in the output folder.
        FloatingPointError: if loss or gradient were NaN or infinite in `max_bad_steps` steps in a row, none of which
            was applied; or if a loss is in evaluation.
        WorkerDiedError: if processes that load data died or stopped three times over one batch.
        ProcessGoneError: if another process of the run died or stands still.
        TooManyBadSamplesError: if more samples than `max_bad_share` could not be read.
        CheckpointError: if a checkpoint cannot be written.
        RunStopped: if SIGTERM asked the run to end; it is saved.
    """
    run = Pretraining(recipe)
    stop: RunStopped
    with run.watch, explained_workers(run.reader):
        try:
            return run.run(resume)
        except RunStopped as error:  # no fault, which the watch would tell the other processes of
            stop = error
    raise stop


def run_settings(recipe: PretrainingRecipe) -> dict[str, Any]:
    """Everything that decides the result of a run, in JSON's types."""
    settings = {"violet": __version__, **dataclasses.asdict(recipe)}
    for name in FREE:
        del settings[name]
    # runs from before these were may go on
    for name in ("objective_options", "log_flow", "grad_cache_chunk_size", "frozen"):
        if not settings[name]:
            del settings[name]
    if recipe.unused == "skip":
        del settings["unused"]
    if recipe.from_scratch or not starts_from_parts(recipe.model):  # a VIOLET has its own
        del settings["text"]
    for dataset in settings["datasets"]:
        for name in ("clips_per_video", "other_texts", "sound", "image_size", "interval", "objectives", "regions"):
            if dataset[name] == getattr(DatasetRecipe, name):
                del dataset[name]
    return json.loads(json.dumps(settings))


def inputs_read(objectives: Iterable[Objective]) -> set[str]:
    """The arguments that these objectives read."""
    return {name for one in objectives for name in (*one.needs, *one.takes)}


class Pretraining:
    """One run, in one process of one or several."""

    model: Any  # these two as accelerate wraps them
    optimizer: Any

    def __init__(self, recipe: PretrainingRecipe):
        self.recipe = recipe
        self.output_dir = Path(recipe.output_dir)
        set_seed(recipe.seed)
        self.accelerator = build_accelerator(recipe)
        leave_cores_to_workers(recipe.num_workers)
        self.is_main = self.accelerator.is_main_process
        self.settings = run_settings(recipe)
        self.failed_samples = FailedSamples(self.output_dir)
        self.watch = ProcessWatch(self.accelerator, recipe.process_time_limit)
        self.guard = StepGuard(self.output_dir, self.accelerator, recipe.max_bad_steps)
        self.waiting = DataWaiting(self.accelerator)
        if not recipe.from_scratch and starts_from_parts(recipe.model):
            processor_from_parts(recipe.model, recipe.text, image_size=recipe.image_size)  # before clips are drawn
        with self.accelerator.main_process_first():  # the others find drawn videos there
            self.tables = [load_dataset(dataset) for dataset in recipe.datasets]
        self.processor = build_processor(recipe, self.tables)
        frames, device = self.processor.video_processor, self.accelerator.device
        self.teachers = build_teachers(recipe, frames, device)
        self.model = build_model(recipe, self.processor, self.teachers, device)
        check_sizes(recipe, self.model, frames)
        prepare_hearing(self.processor, self.model, [train for train, _ in self.tables])
        check_attended(recipe, self.model)
        check_correlated(recipe, self.model, frames)
        self.optimizer = build_optimizer(recipe, self.model, self.accelerator.distributed_type in SHARDED)
        self.reader = ClipReader(frames, recipe.frame_cache_mb * 2**20, recipe.decode_time_limit)
        collator = build_collator(recipe, self.processor, self.reader, self.model)
        self.training, self.validation = build_data(recipe, self.tables, collator, self.accelerator)
        if starts_new(recipe):
            start_heads(self.model, self.training, self.targets)
        self.average = None if recipe.ema_decay is None else MovingAverage(self.model, recipe.ema_decay)
        self.model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)

    def targets(self, names: Iterable[str], batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """These MVM targets of a batch, on the device: stored ones, or asked of their teachers."""
        grid = (batch["pixel_values_videos"].shape[1], *batch["bool_masked_pos"].shape[2:])  # teachers see every frame
        needed = {key: batch[key] for key in ("pixel_values_videos", "mvm_targets")}
        needed = self.processor.to_device(needed, self.accelerator.device)
        pixels, stored = needed["pixel_values_videos"], needed["mvm_targets"]
        return {name: stored[name] if name in stored else self.teachers[name](pixels, grid) for name in names}

    def batches(self, steps: range, data: PretrainingBatches) -> Iterator[dict[str, Any]]:
        """The batches of these steps, in order, made by the workers."""
        plain: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
            data,
            batch_size=None,
            sampler=steps,
            num_workers=self.recipe.num_workers,
            generator=torch.Generator().manual_seed(self.recipe.seed),  # workers do not use the global one
            pin_memory=torch.cuda.is_available(),
        )
        for batch in LastingLoader(plain, self.reader.held, self.reader.stall_limit):
            failed = batch.pop("failed", [])
            if data is not self.training:
                failed = [dataclasses.replace(sample, rows=f"{sample.rows}, validation") for sample in failed]
            self.failed_samples.add(failed)
            yield batch

    def arguments(self, batch: dict[str, Any]) -> dict[str, Any]:
        """
        What the model takes of a batch without its `ids`: on the device, what is masked by attention masked, targets
        asked of their teachers. `bool_masked_pos` is there whether it is read or not.
        """
        objectives = batch.pop("objectives")
        batch = self.processor.to_device(batch, self.accelerator.device)
        plain = self.accelerator.unwrap_model(self.model)
        pixels = {name: batch[name] for name in plain.violet.vision_encoder.inputs}
        inputs = {**pixels, **take_named(batch.copy(), SOUND), **take_named(batch.copy(), BOXES)}
        inputs["attention_mask"] = batch["attention_mask"]
        changed = {key: batch[key] for key in ("input_ids", "labels", "bool_masked_pos")}
        attends = torch.tensor(float("attended" in batch), device=self.accelerator.device)
        if self.accelerator.reduce(attends, "sum") > 0:  # all processes take the pass, or none
            restored = torch.where(changed["labels"] >= 0, changed["labels"], changed["input_ids"])
            with torch.no_grad(), self.accelerator.autocast():
                output = self.model(**inputs, input_ids=restored, only_received_attention=True)
            if "attended" in batch:
                mask_token = self.processor.tokenizer.mask_token_id
                changed = mask_attended(batch, output.received_attention, self.recipe.patch_ratio, mask_token)
        named = plain.find_objectives(objectives)
        wanted = list(dict.fromkeys(target for one in named for target in one.targets))
        if self.recipe.hard_negatives:
            batch["num_hard_negatives"] = self.recipe.num_negatives
        given = {name: batch[name] for name in inputs_read(named).difference(inputs, changed) if name in batch}
        return {
            **inputs, **changed, **given, "mvm_targets": self.targets(wanted, batch), "objectives": objectives
        }  # fmt: skip

    def forward(
        self, batch: dict[str, Any], backward: bool = False, log_flow: bool = False
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """
        Runs the model on a batch: (its loss, what was measured).

        Args:
            backward: whether to add the gradients, too: by parts, if the recipe says so.
            log_flow: whether the flow between video and text is among what is measured.
        """
        names, arguments = batch.pop("ids"), self.arguments(batch)
        objectives, masked = arguments["objectives"], arguments["bool_masked_pos"]
        named = self.accelerator.unwrap_model(self.model).find_objectives(objectives)
        reads_mask = "bool_masked_pos" in inputs_read(named)
        if not reads_mask:
            del arguments["bool_masked_pos"]
        flow = {}
        if log_flow:
            with self.accelerator.autocast():
                flow = batch_flow(self.accelerator.unwrap_model(self.model), arguments)
        if backward and self.recipe.grad_cache_chunk_size is not None:
            output = self.backward_in_parts(arguments, names)
        else:
            with self.accelerator.autocast():
                output = self.model(**arguments)
            if backward:
                self.guard.add_loss(output.loss, names)
                self.accelerator.backward(output.loss)
        values = {"loss": output.loss}
        values |= {f"loss_{name}": value for name, value in output.losses.items()}
        values |= {f"accuracy_{name}": value for name, value in output.accuracies.items()}
        values |= output.measures | flow
        values["masked_words"] = (arguments["labels"] >= 0).sum()
        masked = masked if output.bool_masked_pos is None else output.bool_masked_pos
        if reads_mask:
            values |= {"masked_patches": masked.sum(), "patches": torch.tensor(masked.numel())}
        return output.loss, {name: value.detach().float() for name, value in values.items()}

    def backward_in_parts(self, arguments: dict[str, Any], names: list[str]) -> Any:
        """The model's output on a batch, whose gradients are added part by part, see `gradient_caching`."""
        size, objectives = self.recipe.grad_cache_chunk_size, arguments.pop("objectives")
        assert size is not None  # it is asked for
        del arguments["mvm_targets"]
        model, plain = self.model, self.accelerator.unwrap_model(self.model)

        def embed(part: dict[str, Any]) -> dict[str, torch.Tensor]:
            with self.accelerator.autocast():
                return plain(**part, objectives=objectives, only_embeddings=True).embeddings

        def compare(embeddings: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Any]:
            output = plain.compare_embeddings(embeddings, objectives, **arguments)
            self.guard.add_loss(output.loss, names)
            return output.loss, output

        def backward(part: dict[str, Any], gradients: EmbeddingGradients, last: bool) -> None:
            # processes meet in the last part only, through the wrapped model: they may have other numbers of parts
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.accelerator.autocast():
                    output = (model if last else plain)(**part, objectives=objectives, embedding_gradients=gradients)
                self.accelerator.backward(output.loss)

        parts = split_batch(arguments, len(names), size)
        shared = plain.shared(plain.find_objectives(objectives))
        return backward_in_parts(parts, embed, compare, backward, shared)

    def run(self, resume: bool) -> PretrainingResult:
        """Takes the steps that are left and finishes; no other run may be in the folder meanwhile."""
        with only_run_in(self.output_dir, self.is_main):
            log = TrainingLog(self.output_dir, self.accelerator)
            with StopRequest() as request:
                self.take_steps(resume, log, request)
            return self.finish(log)

    def take_steps(self, resume: bool, log: TrainingLog, request: StopRequest) -> None:
        """The steps that are left, with a line of the log, an evaluation and a checkpoint from time to time."""
        recipe, accelerator = self.recipe, self.accelerator
        done = self.begin(resume, log)
        log.drop_after(done)
        accelerator.init_trackers(self.output_dir.name)
        micro = recipe.gradient_accumulation_steps
        batches = self.batches(range(done * micro, recipe.max_steps * micro), self.training)
        self.model.train()
        named = accelerator.unwrap_model(self.model).find_objectives(recipe.all_objectives())
        for step in range(done + 1, recipe.max_steps + 1):
            rate = recipe.learning_rate * learning_rate_factor(
                recipe.learning_rate_schedule, step - 1, recipe.max_steps, recipe.warmup
            )
            self.waiting.begin_step()
            self.train_step(step, rate, batches, log)
            self.waiting.end_step()
            if step % recipe.logging_steps == 0 or step == recipe.max_steps:
                means = log.means()
                log.write(step, means | {"learning_rate": rate} | self.waiting.entry())
                for objective in named:
                    log.warn(step, objective.warning(means))
            if step % recipe.eval_steps == 0 and step < recipe.max_steps:
                log.write(step, self.evaluate())
            stops = request.made(accelerator)
            if stops or (step % recipe.save_steps == 0 and step < recipe.max_steps):
                self.save_checkpoint(step, log)
            if stops:
                accelerator.end_training()
                raise stopped(step, recipe.max_steps, checkpoint_folder(self.output_dir, step))

    def train_step(self, step: int, rate: float, batches: Iterator[dict[str, Any]], log: TrainingLog) -> None:
        """One step of the optimiser, at that learning rate, over its share of the batches."""
        accelerator = self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.guard.begin_step(step, self.model)
        found: list[dict[str, torch.Tensor]] = []
        applied = True
        micro, writes = self.recipe.gradient_accumulation_steps, step % self.recipe.logging_steps == 0
        for number in range(micro):
            with accelerator.accumulate(self.model):
                self.watch.beat(step, "waiting for a batch")
                with self.waiting.for_data():
                    batch = next(batches)
                self.watch.beat(step, "computing the loss")
                reports = self.recipe.log_flow and writes and number == micro - 1
                _, values = self.forward(batch, backward=True, log_flow=reports)
                found.append(values)
                self.watch.beat(step, "computing the gradient")
                if accelerator.sync_gradients and self.recipe.unused == "zero":
                    give_zero_gradients(self.model)
                if accelerator.sync_gradients:
                    self.guard.stop(self.bad_samples(step))
                    norm = accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.max_grad_norm)
                    applied = self.guard.may_apply(norm)
                    if not applied:
                        self.optimizer.zero_grad()
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.watch.rest()
        if not applied or accelerator.optimizer_step_was_skipped:
            log.add({"skipped_steps": torch.tensor(1.0 / accelerator.num_processes)})  # it is summed over processes
            return
        for values in found:
            log.add(values)
        log.add({"gradient_norm": whole_norm(norm).detach().float()})
        if self.average is not None:
            self.average.update(accelerator.unwrap_model(self.model))

    def bad_samples(self, step: int) -> str | None:
        """What is to be said if more samples than the recipe bears could not be read up to this step."""
        sources, recipe = self.training.sources, self.recipe
        tried, total = step * recipe.gradient_accumulation_steps * recipe.batch_size, sum(len(s.rows) for s in sources)
        return self.failed_samples.excess({one.name for one in sources}, tried, total, recipe.max_bad_share)

    def begin(self, resume: bool, log: TrainingLog) -> int:
        """Compares the run in the output folder with this one and loads its last checkpoint; the steps done."""
        if self.is_main:
            begin_run(self.output_dir, self.settings)
        checkpoint = checkpoint_to_resume(self.output_dir, self.accelerator, self.failed_samples)
        if checkpoint is None:
            return 0
        if not resume:
            raise SettingsError(
                f"{self.output_dir} holds checkpoints of this run: give --resume to go on from {checkpoint}, or "
                "another output folder."
            )
        folder = Path(checkpoint)
        if (folder / OPTIMIZER_FILE).exists():
            self.load_state(folder, log)
        else:  # sharded weights, whose files are torch's and accelerate's
            self.accelerator.load_state(checkpoint)
        if self.average is not None:
            self.average.load(folder)
        progress = json.loads((folder / PROGRESS_FILE).read_text())
        logger.info("Going on from %s", checkpoint)
        return progress["step"]

    def load_state(self, folder: Path, log: TrainingLog) -> None:
        """What `save_state` wrote."""
        accelerator = self.accelerator
        load_model(accelerator.unwrap_model(self.model), folder / WEIGHTS_FILE)
        optimizer, scaler = load_optimizer(folder)
        self.optimizer.load_state_dict(optimizer)
        if scaler is not None and accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(scaler)
        file = folder / process_file(accelerator.process_index)
        if not file.exists():
            logger.warning(
                "%s was written by fewer processes than go on from it: process %d has no generators there.",
                folder, accelerator.process_index,
            )  # fmt: skip
            set_seed(self.recipe.seed, device_specific=True)
            return
        state = json.loads(file.read_text())
        log.restore(state["log"])
        set_generators(state["generators"])

    def save_state(self, folder: Path, log: TrainingLog) -> None:
        """Weights, optimiser and generators, as safetensors and JSON; by accelerate if processes share the weights."""
        accelerator = self.accelerator
        if accelerator.distributed_type in SHARDED:
            accelerator.save_state(str(folder))
            return
        if self.is_main:
            save_module(accelerator.unwrap_model(self.model), str(folder / WEIGHTS_FILE))
            scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
            save_optimizer(folder, self.optimizer.state_dict(), scaler)
        state = {"generators": generators(), "log": log.pending()}
        write_json(folder / process_file(accelerator.process_index), state)

    def save_checkpoint(self, step: int, log: TrainingLog) -> None:
        """The whole state, in a folder that is whole or absent; older ones are deleted after."""
        self.guard.check_weights(self.model)
        with new_checkpoint(self.output_dir, step, self.accelerator, self.recipe.checkpoints_kept) as folder:
            self.save_state(folder, log)
            if self.is_main:
                if self.average is not None:
                    self.average.save(folder)
                positions = self.training.schedule.positions(step * self.recipe.gradient_accumulation_steps)
                names = [source.name for source in self.training.sources]
                drawn = dict(zip(names, positions, strict=True))
                write_json(folder / PROGRESS_FILE, {"step": step, "batches_drawn": drawn})

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
                broken: list[str] = []
                totals: dict[str, list[torch.Tensor]] = {}
                for batch in self.batches(range(self.recipe.eval_batches), data):
                    names = batch["ids"]
                    loss, values = self.forward(batch)
                    broken += [] if loss.isfinite() else names
                    for key, value in values.items():
                        if key.startswith(("loss_", "accuracy_")) and f"{name}/{key}" not in metrics:
                            totals.setdefault(key, []).append(value)
                for key, found in totals.items():
                    metrics[f"{name}/{key}"] = self.accelerator.reduce(torch.stack(found).mean(), "mean").item()
                    if key.startswith("loss_"):
                        check_finite(f"{key} of {name} in evaluation", metrics[f"{name}/{key}"], broken or ["others"])
        if self.average is not None:
            self.average.swap(model)
        self.model.train()
        return metrics

    def finish(self, log: TrainingLog) -> PretrainingResult:
        """Evaluates once more and writes model, processor, metrics and curves."""
        accelerator = self.accelerator
        self.guard.check_weights(self.model)
        metrics = self.evaluate()
        accelerator.wait_for_everyone()  # the others have written what failed
        metrics |= self.failed_samples.metrics() | self.guard.metrics()
        log.write(self.recipe.max_steps, metrics)
        metrics = {"steps": self.recipe.max_steps, **metrics}
        model = accelerator.unwrap_model(self.model)
        if self.average is not None:
            self.average.swap(model)
        weights = accelerator.get_state_dict(self.model)
        if self.is_main:
            save_model(self.output_dir, model, self.processor, weights)
            curves = [{name: line[name] for name in line if not name.startswith("samples_")} for line in log.lines()]
            draw_curves(self.output_dir / CURVES_FILE, curves)
            base = self.recipe.model if is_hub_name(self.recipe.model) else None
            end_run(self.output_dir, metrics, self.settings, self.rows_by_split(), base_model=base)
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

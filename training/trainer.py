"""The Trainer of transformers, with whole checkpoints, an order that resumes, and no step on a broken loss."""

import json
import logging
import math
import pickle
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import skip_first_batches
from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy

from ..core.files import write_json
from ..core.upstream import PushInProgress
from ..data.lasting import LastingLoader
from ..data.loading import MAX_BAD_SHARE, ClipReader, FailedSamples, explained_workers
from ..data.sources import video_name
from ..evaluation.answers import UNREAD
from ..hub import Push, write_model_card
from ..hub.cards import CARD_FILE, read_card
from ..hub.publishing import explained, send, staged
from ..hub.weight_files import names_asked_for
from ..modeling_violet.embedding_gradients import EmbeddingGradients
from ..processing import VideoTextProcessor
from .arguments import SettingsError
from .checkpoints import CheckpointError, check_whole, checkpoint_folder, last_whole_checkpoint, new_checkpoint
from .collating import VideoTextCollator
from .gradient_caching import backward_in_parts, refuse_sharded, split_pairs
from .guards import MAX_BAD_STEPS, StepGuard
from .optimization import parameter_groups
from .processes import ProcessWatch
from .run_state import from_hex, to_hex
from .sampling import DrawnRows, GroupedSampler, NumberedRows
from .stopping import RunStopped, StopRequest, stopped
from .waiting import DataWaiting

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
HUB = HfApi()
"""Its thread publishes one after another."""


class VioletTrainer(Trainer):
    """
    `transformers.Trainer` for tables of videos and texts. What differs:

    - Rows of one video stay together and their order depends only on (seed, epoch), see `GroupedSampler`; each has a
      number to draw by, see `DrawnRows`.
    - Weight decay spares biases, norms and tables, and the backbone and lower layers may have learning rates of their
      own, see `optimization.parameter_groups`.
    - A checkpoint is written elsewhere, and has its name when it is whole; older ones are deleted only then, see
      `checkpoints.new_checkpoint`. One that is not what its manifest says is refused.
    - A run that goes on from a checkpoint ends as without a break: its log, too, whose lines are means since the line
      before; and one that had ended takes no further step. SIGTERM saves and ends it. Only `waiting_share`, which is a
      time, differs in the log: the share of a step in which the device waits for data, see `DataWaiting`.
    - Samples that the collator could not read (`VideoTextCollator`, `skip_bad`) are counted in `failed_samples`, and
      have no part in the metrics; above a set share of the rows to train on the run stops.
    - A process that dies or stands still (longer than `ddp_timeout`) ends the others, see `ProcessWatch`.
    - Workers that die or stop are replaced, and the order stays, see `LastingLoader`.
    - Several test clips of a row (`test_clips`) are averaged: their logits, before the answer is chosen.
    - A step whose loss or gradient is NaN or infinite is not applied, in any process, and is listed with its videos
      (which the collator passes on with `name_videos=True`); `max_bad_steps` in a row stop the run, see `StepGuard`.
      Weights that are not finite are not saved.
    - What a model measures of itself in training (`measures` of its output, such as the load of experts) is logged
      beside the loss.
    - What `push_to_hub` publishes is what `violet push` does: our card, and no pickles.

    Args:
        rows_per_video: at most this many rows of a video per epoch, drawn in each epoch; all if it is not given.
        rows_apart: whether the rows of a video are spread over an epoch instead of standing together.
        backbone_learning_rate: of the visual backbone; the others' if it is not given.
        logit_scale_learning_rate: of the temperature of the loss before the fusion; the others' if it is not given.
        layer_decay: what the learning rate is multiplied by for each layer further from the heads.
        max_bad_share: the share of rows to train on that may be left out because they cannot be read; above it the
            run stops.
        grad_cache_chunk_size: compute each batch in parts of that many rows, see `gradient_caching`; for a model that
            compares embeddings (`VioletForRetrieval` without a fusion).
    """

    def __init__(
        self,
        *args,
        rows_per_video: int | None = None,
        rows_apart: bool = False,
        backbone_learning_rate: float | None = None,
        logit_scale_learning_rate: float | None = None,
        layer_decay: float = 1.0,
        grad_cache_chunk_size: int | None = None,
        max_bad_share: float = MAX_BAD_SHARE,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.push_in_progress: PushInProgress | None = getattr(self, "push_in_progress", None)
        self.rows_per_video = rows_per_video
        self.rows_apart = rows_apart
        self.backbone_learning_rate = backbone_learning_rate
        self.logit_scale_learning_rate = logit_scale_learning_rate
        self.layer_decay = layer_decay
        self.grad_cache_chunk_size = grad_cache_chunk_size
        self.max_bad_share = max_bad_share
        if grad_cache_chunk_size is not None:
            refuse_sharded("`grad_cache_chunk_size`", self.accelerator.distributed_type)
        limit = getattr(self.args, "max_bad_steps", MAX_BAD_STEPS)
        self.guard = StepGuard(str(self.args.output_dir), self.accelerator, limit)
        self.watch = ProcessWatch(self.accelerator, self.args.ddp_timeout)
        self.waiting = DataWaiting(self.accelerator)
        self._of_epoch: Any = None
        self._batches: Any = None
        self._videos: list[str] = []
        self._measured: dict[str, list[torch.Tensor]] = {}
        self._stop_request = StopRequest()
        self._written_into: str | None = None
        self._goes_on_from: Path | None = None
        self._saved_step: int | None = None
        self._measured_in_step: list[tuple[str, torch.Tensor]] = []
        self.data_seed: int = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.failed_samples = FailedSamples(str(self.args.output_dir))
        rows: Any = self.train_dataset
        self.train_dataset: Any = None if rows is None else DrawnRows(rows, self.data_seed)
        self._processor: VideoTextProcessor | None = None
        if isinstance(self.data_collator, VideoTextCollator):
            self._processor = self.data_collator.processor
            self.data_collator.spare_rows = None if rows is None else NumberedRows(rows)
            self.data_collator.raw_pixels = True

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """
        As the Trainer's. True goes on from the last checkpoint that is whole.

        Raises:
            CheckpointError: for a checkpoint that is not whole, or has a pickle of more than tensors and plain values;
                if one cannot be written.
            RunStopped: if SIGTERM asked the run to end; it is saved.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(super()._get_output_dir(None))
            if resume_from_checkpoint is None:
                raise ValueError(f"{self.args.output_dir} has no whole checkpoint to go on from.")
        elif resume_from_checkpoint:
            check_whole(resume_from_checkpoint)
        self._goes_on_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self._saved_step = None
        stop: RunStopped
        with self.watch, explained_workers(self._reader()), StopRequest() as self._stop_request:
            try:
                return super().train(resume_from_checkpoint or None, *args, **kwargs)
            except RunStopped as error:  # no fault, which the watch would tell the other processes of
                stop = error
        raise stop

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _nothing_run(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _nothing_run(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        if self.accelerator.scaler is None:
            return  # what a run in fp16 has saved is of no use in another precision
        with _nothing_run(checkpoint):
            super()._load_scaler(checkpoint)

    def evaluation_loop(self, *args, **kwargs):
        with explained_workers(self._reader()):
            return super().evaluation_loop(*args, **kwargs)

    def _reader(self) -> ClipReader | None:
        return getattr(self.data_collator, "reader", None)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        self.optimizer: Any
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = parameter_groups(
                model,
                self.args.weight_decay,
                self.args.learning_rate,
                self.backbone_learning_rate,
                self.layer_decay,
                self.logit_scale_learning_rate,
            )
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def _get_train_sampler(self, train_dataset=None) -> torch.utils.data.Sampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        names = (video_name(video) or str(number) for number, video in enumerate(dataset.rows["video"]))
        return GroupedSampler(names, self.data_seed, self.rows_per_video, self.rows_apart)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        return self._lasting(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset=None) -> torch.utils.data.DataLoader:
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        rows = self.eval_dataset[rows] if isinstance(rows, str) else rows
        return self._lasting(super().get_eval_dataloader(NumberedRows(rows)))

    def get_test_dataloader(self, test_dataset) -> torch.utils.data.DataLoader:
        return self._lasting(super().get_test_dataloader(NumberedRows(test_dataset)))

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """
        As the Trainer's. For the rest of the epoch in which a run goes on, the Trainer makes a loader of a plain kind.
        It starts no workers before its first batch is asked for, and here another one is asked.
        """
        self.watch.beat(self.state.global_step + 1, "waiting for a batch")
        if epoch_iterator is not self._of_epoch:
            self._of_epoch, self._batches = epoch_iterator, self._rest_of_epoch() or epoch_iterator
        self.waiting.begin_step()
        with self.waiting.for_data():
            return super().get_batch_samples(self._batches, num_batches, device)

    def _rest_of_epoch(self) -> Iterator[Any] | None:
        loader: Any = self.callback_handler.train_dataloader
        micro = self.args.gradient_accumulation_steps
        epoch, done = divmod(self.state.global_step, max(1, math.ceil(len(loader) / micro)))
        if done == 0 or self.args.ignore_data_skip:
            return None
        rest: Any = self._lasting(skip_first_batches(loader, done * micro))
        rest.set_epoch(epoch)
        return iter(rest)

    def _lasting(self, loader: Any) -> torch.utils.data.DataLoader:
        """
        The loader with workers that are replaced when they die or stop. They are seeded from a generator of its own:
        starting them would otherwise draw from the global one, which a run that starts them again, after a resume,
        would do once more often than one that goes through.
        """
        wrapped = hasattr(loader, "base_dataloader")  # by accelerate
        plain: Any = loader.base_dataloader if wrapped else loader
        plain.generator = torch.Generator().manual_seed(self.args.seed)
        if isinstance(plain, LastingLoader):
            return loader
        reader = self._reader()
        lasting = LastingLoader(plain, *((None, 0.0) if reader is None else (reader.held, reader.stall_limit)))
        if not wrapped:
            return lasting
        loader.base_dataloader = lasting
        return loader

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self._videos = inputs.pop("videos", [])
        self.failed_samples.add(inputs.pop("failed", []))
        inputs = super()._prepare_inputs(inputs)
        return inputs if self._processor is None else self._processor.to_device(inputs, self.args.device)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        unread, clips = inputs.pop("unread", None), inputs.pop("test_clips", 1)
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if logits is None:
            return loss, logits, labels
        logits = logits.unflatten(0, (-1, clips)).mean(1)  # (rows * clips, ...) -> (rows, ...)
        labels = labels[::clips].clone()
        if unread is not None:
            labels[unread[::clips]] = UNREAD
        return loss, logits, labels

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if model.training:
            self.watch.beat(self.state.global_step + 1, "computing the gradient")
            self.guard.add_loss(loss, self._videos)
            for name, value in (getattr(outputs, "measures", None) or {}).items():
                self._measured_in_step.append((name, value.detach().float()))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """
        As the Trainer's, without what is not finite (the gradient of a step that was not applied); a line with the
        loss also has the means of what the model measured since the last one, and the share of the steps' time in
        which the device waited for data (`waiting_share`).
        """
        logs = {name: value for name, value in logs.items() if not isinstance(value, float) or math.isfinite(value)}
        if "loss" in logs:
            found = {name: torch.stack(values).mean() for name, values in self._measured.items()}
            logs = logs | {name: float(self.accelerator.reduce(mean, "mean")) for name, mean in found.items()}
            logs |= self.waiting.entry()
            self._measured = {}
        super().log(logs, *args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        if self.guard.step != self.state.global_step + 1:
            self.guard.begin_step(self.state.global_step + 1, model)
            self._measured_in_step = []
        self.watch.beat(self.state.global_step + 1, "computing the loss")
        if self.grad_cache_chunk_size is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        inputs = self._prepare_inputs(inputs)
        labels, video_ids = inputs.pop("labels"), inputs.pop("video_ids", None)
        plain: Any = self.accelerator.unwrap_model(model)
        steps = self.current_gradient_accumulation_steps

        def embed(part: dict[str, Any]) -> dict[str, torch.Tensor]:
            with self.compute_loss_context_manager():
                return plain(**part, only_embeddings=True).embeddings

        def compare(embeddings: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            loss = plain.compare_embeddings(embeddings, labels, video_ids).loss
            self.guard.add_loss(loss, self._videos)
            return loss, loss.detach()

        def backward(part: dict[str, Any], gradients: EmbeddingGradients, last: bool) -> None:
            # processes meet in the last part only, through the wrapped model: they may have other numbers of parts
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    found = (model if last else plain)(**part, embedding_gradients=gradients).loss
                self.accelerator.backward(found / steps)

        parts = split_pairs(inputs, self.grad_cache_chunk_size)
        return backward_in_parts(parts, embed, compare, backward, plain.shared()) / steps

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        args = self.args
        size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        tried, total = (self.state.global_step + 1) * size, len(self.train_dataset)
        self.guard.stop(self.failed_samples.excess({"train"}, tried, total, self.max_bad_share))
        applied = self.guard.may_apply(norm)
        self.watch.rest()
        if not applied:
            model.zero_grad()
            return norm
        for name, value in self._measured_in_step:
            self._measured.setdefault(name, []).append(value)
        return norm

    # --- publishing ---

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise SettingsError(
                f"--hub_strategy: {self.args.hub_strategy.value} would publish the optimiser's state, which is a "
                "pickle; use end or every_save."
            )
        terms = getattr(self.model.config, "weights_license", None)
        if self.args.push_to_hub and terms is not None:
            raise SettingsError(
                f"--push_to_hub: the model was made of weights that may not be passed on (`weights_license`): {terms} "
                "Leave it out; if you have the right to, `violet push --despite-license` publishes the result."
            )
        if self.args.push_to_hub and self._licence() is None:
            raise SettingsError("--license: missing, though the model is to be published; such as apache-2.0.")
        with explained(self.args.hub_model_id or Path(self.args.output_dir).name, None):
            # transformers 5.22 knows no `private` here.
            super().init_hf_repo(token, **({} if private is None else {"private": private}))

    def _licence(self) -> str | None:
        """The one that was asked for, or that the run's card names already."""
        return getattr(self.args, "license", None) or read_card(Path(self.args.output_dir) / CARD_FILE)[0].license

    def create_model_card(self, license: str | None = None, model_name: str | None = None) -> None:
        """`write_model_card` for the run's folder."""
        if self.is_world_process_zero():
            license = license or self._licence()
            write_model_card(Path(self.args.output_dir), name=model_name, license_name=license)

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        license: str | None = None,
    ) -> "Push | Future[Push] | None":
        """
        Saves the model and publishes the run's folder, as `violet.hub.push` does: with its card, and without pickles.

        Args:
            license: of the weights; by default that of the training arguments, or of the card that is there.

        Returns:
            What was sent; if `blocking` is off, its future. None in processes that do not send.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(license)
        self._finish_current_push()
        job = self._publish(Path(self.args.output_dir), commit_message, token, revision)
        return job.result() if blocking else job

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        card = Path(self.args.output_dir) / CARD_FILE
        if self._written_into is not None:  # it is published when it is whole
            if card.exists():
                shutil.copy(card, checkpoint_folder)
            return
        before = self.push_in_progress
        if before is None or before.is_done():
            before = self.push_in_progress = PushInProgress([])
        elif not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        job = self._publish(Path(checkpoint_folder), f"Training in progress, step {self.state.global_step}")
        job.add_done_callback(_tell_failure)
        before.jobs.append(job)

    def _publish(
        self, folder: Path, message: str, token: str | None = None, revision: str | None = None
    ) -> "Future[Push]":
        """Stages what goes now, so that the folder may change afterwards, and sends it in another thread."""
        stack = ExitStack()
        stage = stack.enter_context(staged(folder, self.hub_model_id, license_name=self._licence()))

        def sending() -> Push:
            with stack:
                return send(
                    stage,
                    self.hub_model_id,
                    private=None,
                    revision=revision or self.args.hub_revision,
                    message=message,
                    token=token or self.args.hub_token,
                )

        return HUB.run_as_future(sending)

    # --- checkpoints ---

    def _get_output_dir(self, trial=None) -> str:
        """The run's folder; while a checkpoint is written, the one that it is written into."""
        return self._written_into or super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial) -> None:
        self.guard.check_weights(model)
        run, step, limit = Path(super()._get_output_dir(trial)), self.state.global_step, self.args.save_total_limit
        best = self.state.best_model_checkpoint
        if self.state.best_global_step:
            folder = checkpoint_folder(run, self.state.best_global_step)
            best = str(folder) if folder.exists() or self.state.best_global_step == step else best
        with new_checkpoint(run, step, self.accelerator, limit, best) as folder:
            self._written_into, self.args.save_total_limit = str(folder.parent), None
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._written_into, self.args.save_total_limit = None, limit
            self._save_log_state(folder)
            self.state.best_model_checkpoint = best  # the Trainer names the folder that it wrote into
            if self.args.should_save:
                self.state.save_to_json(str(folder / STATE_FILE))
        self._saved_step = step
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint_folder(run, step)))

    def _save_log_state(self, folder: Path) -> None:
        """What the next line of the log is a mean of, of each process: a run may end between two lines."""
        measures = to_hex(self._measured)
        state = {"loss": float(self._tr_loss).hex(), "since": self._globalstep_last_logged, "measures": measures}
        write_json(folder / f"log_{self.args.process_index}.json", state)

    def _restore_log_state(self, folder: Path) -> None:
        file = folder / f"log_{self.args.process_index}.json"
        if not file.exists():  # another number of processes, or a run from before there were any
            return
        state = json.loads(file.read_text())
        loss = float.fromhex(state["loss"])
        self._tr_loss.fill_(loss)
        self._total_loss_scalar = -loss  # `train_loss` is of the steps of this process only
        self._globalstep_last_logged = state["since"]
        self._measured = from_hex(state["measures"], self.args.device)

    def _run_epoch(self, *args, **kwargs) -> None:
        """As the Trainer's, which takes a further step in a run that had ended within an epoch."""
        checkpoint, self._goes_on_from = self._goes_on_from, None
        if checkpoint is not None:
            self._restore_log_state(checkpoint)
            # SIGTERM does not set this: what did was the last step, or early stopping
            had_ended = self.state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
            if self.state.global_step >= self.state.max_steps or had_ended.get("should_training_stop"):
                self.control.should_training_stop = True
                return
        super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        self.waiting.end_step()
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self._stop_request.made(self.accelerator):
            step = self.state.global_step
            if self._saved_step != step:
                self._save_checkpoint(self.model, None)
            raise stopped(step, self.state.max_steps, checkpoint_folder(self._get_output_dir(), step))

    def _load_best_model(self) -> None:
        check_whole(str(self.state.best_model_checkpoint))
        super()._load_best_model()


@contextmanager
def _nothing_run(checkpoint: str | None) -> Iterator[None]:
    """Says of a pickle that was refused which it is; torch's own words advise to read it all the same."""
    try:
        yield
    except pickle.UnpicklingError:
        files = sorted(Path(str(checkpoint)).glob("*.pt*"))
        asked = {file.name: names for file in files if (names := names_asked_for(file))}
        said = " and ".join(f"{name} for {', '.join(names)}" for name, names in asked.items()) or "in it"
        raise CheckpointError(
            f"{checkpoint}: refused, and nothing of it was run: a pickle asks for more than tensors and plain values, "
            f"{said}. Start from another checkpoint."
        ) from None


def _tell_failure(job: "Future[Push]") -> None:
    if job.exception() is not None:
        logger.warning("A checkpoint could not be published: %s", job.exception())

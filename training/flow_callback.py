"""A callback of the Trainer that logs the flow between video and text while a model is fine-tuned."""

from typing import Any

from transformers import TrainerCallback

from ..evaluation.modality_flow import task_flow
from .arguments import SettingsError
from .trainer import VioletTrainer


class ModalityFlowCallback(TrainerCallback):
    """
    Logs with each line of the log, of the first batch of validation rows, always the same: the corrected flow in both
    directions, and the loss with each text's own video and with another (`evaluation.modality_flow.task_flow`). No
    weight and no draw of the training changes by it.

    Args:
        trainer: the one that it is added to.

    Raises:
        SettingsError: if the trainer has no validation rows, or a model without a fusion.
    """

    def __init__(self, trainer: VioletTrainer):
        if trainer.eval_dataset is None:
            raise SettingsError("--log_flow: there are no validation rows whose flow could be logged.")
        if not trainer.model.violet.matches_in_fusion:
            raise SettingsError("--log_flow: the model has no fusion, in which video and text could meet.")
        self.trainer = trainer
        self.batch: dict[str, Any] | None = None

    def on_step_end(self, args, state, control, **kwargs):
        """Logs where the Trainer does."""
        if not control.should_log:
            return
        trainer = self.trainer
        if self.batch is None:
            batch = next(iter(trainer.get_eval_dataloader()))
            self.batch = {name: value for name, value in batch.items() if name not in ("unread", "test_clips")}
        inputs = trainer._prepare_inputs(dict(self.batch))
        model = trainer.accelerator.unwrap_model(trainer.model)
        with trainer.compute_loss_context_manager():
            found = task_flow(model, inputs)
        means = {name: trainer.accelerator.reduce(value.detach().float(), "mean") for name, value in found.items()}
        trainer.log({name: float(value) for name, value in means.items()})
        control.should_log = True  # which `log` takes back, and the Trainer's own line is still to come

"""The Trainer of transformers, with whole checkpoints, an order that resumes, and no step on a broken loss."""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from ..files import is_whole, seal
from .sampling import GroupedSampler

logger = logging.getLogger(__name__)


class VioletTrainer(Trainer):
    """
    `transformers.Trainer` for tables of videos and texts. What differs:

    - Rows of one video stay together and their order depends on (seed, epoch) alone, see `GroupedSampler`.
    - A checkpoint is sealed by a manifest when it is whole, and older ones are deleted only then;
      `last_whole_checkpoint` passes over what a killed process left.
    - A loss that is NaN or infinite stops the run before it reaches the weights, naming the step and the videos (which
      the collator passes on with `name_videos=True`).

    Args:
        rows_per_video: at most so many rows of a video in one epoch, drawn anew in each; all where it is not given.
    """

    def __init__(self, *args, rows_per_video: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.rows_per_video = rows_per_video
        self._videos: list[str] = []

    def _get_train_sampler(self, train_dataset=None) -> torch.utils.data.Sampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return GroupedSampler(dataset["video"], seed, self.rows_per_video)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        return self._leave_global_generator(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset=None) -> torch.utils.data.DataLoader:
        return self._leave_global_generator(super().get_eval_dataloader(eval_dataset))

    def _leave_global_generator(self, loader: torch.utils.data.DataLoader) -> torch.utils.data.DataLoader:
        """
        Workers are seeded from a generator of the loader's own. Starting them would otherwise draw from the global
        one, which a run that starts them again, after a resume, would do once more often than one that goes through.
        """
        plain = getattr(loader, "base_dataloader", loader)  # accelerate wraps it
        plain.generator = torch.Generator().manual_seed(self.args.seed)
        return loader

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self._videos = inputs.pop("videos", [])
        return super()._prepare_inputs(inputs)

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if model.training and not torch.isfinite(loss):
            videos = ", ".join(self._videos)
            raise FloatingPointError(
                f"The loss of step {self.state.global_step + 1} is {loss.item()}; it was not applied. "
                f"Its videos: {videos}. Look at them, or lower the learning rate."
            )
        return (loss, outputs) if return_outputs else loss

    def _save_checkpoint(self, model, trial) -> None:
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            folder = self._get_output_dir(trial)
            seal(Path(folder) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
            rotate_checkpoints(
                output_dir=folder,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )


def last_whole_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The newest checkpoint folder that is whole; what is not is named in the log and passed over."""
    folders = [
        folder
        for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-").isdigit()
    ]
    for folder in sorted(folders, key=lambda folder: int(folder.name.split("-")[-1]), reverse=True):
        if is_whole(folder):
            return str(folder)
        logger.warning("%s is not whole (its writing was cut short, or it was changed): not resumed from.", folder)
    return None

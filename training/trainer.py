"""The Trainer of transformers, with checkpoints that are whole, an order that resumes, and no step on a broken loss."""

import logging
import math
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
    - A checkpoint is sealed by a manifest when it is whole; older ones are deleted only then, and
      `last_whole_checkpoint` passes over what a killed process left.
    - A loss that is NaN or infinite stops the run before it reaches the weights, naming the step and the videos.

    Args:
        rows_per_video: at most so many rows of a video in one epoch, drawn anew in each; all where it is not given.
    """

    def __init__(self, *args, rows_per_video: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.rows_per_video = rows_per_video

    def _get_train_sampler(self, train_dataset=None) -> torch.utils.data.Sampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return GroupedSampler(dataset["video"], seed, self.rows_per_video)

    def training_step(self, model, inputs: dict[str, Any], *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(model, inputs, *args, **kwargs)
        return loss

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
                output_dir=folder, save_total_limit=limit, best_model_checkpoint=self.state.best_model_checkpoint
            )

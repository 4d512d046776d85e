"""The rows of a split, batch by batch, each process with its share: what every measure runs over."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from ...core.clip_inputs import take_clip_inputs
from ...data.loading import FailedSamples
from ...evaluation.sharing import own_share
from ..collating import VideoTextCollator
from ..sampling import NumberedRows
from .task import Row


@dataclass
class EvaluationBatch:
    """
    Attributes:
        rows: with their numbers as `row`.
        read: (rows,), whose video could be read; the others' is black.
        clips: how many clips of each row's video there are.
        inputs: what the model takes, (rows * clips, ...) each.
    """

    rows: list[Row]
    read: torch.Tensor
    clips: int
    inputs: dict[str, torch.Tensor]

    def rows_read(self) -> list[Row]:
        return [row for row, read in zip(self.rows, self.read.tolist(), strict=True) if read]


def _collate_with_rows(collator: VideoTextCollator, rows: list[Row]) -> tuple[list[Row], dict[str, Any]]:
    return rows, collator(rows)


def evaluation_batches(
    model, collator: VideoTextCollator, rows: Dataset, training: TrainingArguments
) -> Iterator[EvaluationBatch]:
    """This process's share of the rows, batch by batch; what cannot be read is counted in the run's folder."""
    failed_samples = FailedSamples(str(training.output_dir))
    collator.raw_pixels = True
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(NumberedRows(rows), own_share(len(rows))),
        batch_size=training.per_device_eval_batch_size,
        collate_fn=partial(_collate_with_rows, collator),
        num_workers=training.dataloader_num_workers,
    )
    for of_batch, inputs in loader:
        failed_samples.add(inputs.pop("failed", []))
        clips = inputs.pop("test_clips", 1)
        unread = inputs.pop("unread", torch.zeros(len(of_batch) * clips, dtype=torch.bool))
        inputs = collator.processor.to_device(inputs, model.device)
        yield EvaluationBatch(of_batch, ~unread[::clips], clips, inputs)


def precision(model, training: TrainingArguments) -> torch.autocast:
    return torch.autocast(
        model.device.type, torch.float16 if training.fp16 else torch.bfloat16, enabled=training.bf16 or training.fp16
    )


def encoded_videos(model, collator: VideoTextCollator, rows: Dataset, training: TrainingArguments):
    """
    The videos of this process's share of the rows that can be read, batch by batch: the rows with their numbers,
    `Tokens`.
    """
    for batch in evaluation_batches(model, collator, rows, training):
        if batch.read.any():
            with precision(model, training):
                pixels = take_clip_inputs(dict(batch.inputs))
                tokens = model.violet.encode_videos(**{name: rows[batch.read] for name, rows in pixels.items()})
            yield batch.rows_read(), tokens


def first_of_each(rows: Dataset) -> Dataset:
    """The first row of each video."""
    first: dict[str, int] = {}
    for number, video in enumerate(rows["video"]):
        first.setdefault(video, number)
    return rows.select(list(first.values()))


def need_some(found: Collection[Any], rows: Dataset) -> None:
    """
    Raises:
        ValueError: if none of the rows could be read.
    """
    if not found:
        raise ValueError(f"None of the {len(rows)} rows could be read: there is nothing to measure.")

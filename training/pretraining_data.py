"""Captioned videos and images -> the batch of any pre-training step, as a pure function of the step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..data.loading import SAMPLE_ERRORS, Clip, ClipReader, FailedSample, doubts_of
from ..modeling_violet.encoders import Encoder
from ..processing import VideoTextProcessor
from ..processing.boxes import Boxes, boxes_of_frames
from ..processing.video_processing_violet import RAW_PIXELS
from .collating import rows_after, unreadable
from .masking import Masking, sample_generator
from .preparations.preparation import BatchSettings, Samples, prepare, read_beside
from .sampling import NumberedRows
from .schedule import Schedule, StepPlan
from .targets import StoredTargets

Read = tuple[Clip, dict[str, Any]]
"""What was read of a video: its clip, and by objective what is needed beside it."""


@dataclass
class CaptionedVideos:
    """
    One data set of a mixture.

    Attributes:
        name: stands in logs and metrics.
        rows: with `video`, `caption` and, if they have one, `id` and `wrong_caption`: nearly the caption, but not
            true of the video. Contrast then tells the video apart from it too.
        num_frames: frames taken of each video; an image is one frame.
        weight: its share of the steps, against the other data sets'.
        stored_targets: MVM targets computed in advance, by target.
        size: (height, width) of its frames; None for the run's.
        interval: in every how many sweeps over the data sets it takes a step, under a schedule that has such.
        objectives: its own weights by objective, under such a schedule; None for the run's.
        regions: whether a row's caption is one of its `boxes` (see `processing.boxes.Boxes`), and not of the whole.
    """

    name: str
    rows: Dataset
    num_frames: int
    weight: float
    stored_targets: Mapping[str, StoredTargets] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    interval: int = 1
    objectives: Mapping[str, float] | None = None
    regions: bool = False

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The rows' order in an epoch: a pure function of (seed, epoch)."""
        return np.random.default_rng([seed, epoch]).permutation(len(self.rows))


def row_id(row: Mapping[str, Any]) -> str:
    """What a row is called in messages and stored targets: its `id`, or its video."""
    return str(row.get("id") or row["video"])


class PretrainingCollator:
    """
    Captioned videos -> what `VioletForPreTraining` takes, masked.

    Args:
        processor: makes tensors of videos and captions.
        masking: how they are masked.
        num_negatives: texts that a video is told apart from, drawn without repetition among those of other words in
            its group; fewer if the group has fewer.
        group_size: rows of a group. The groups do not depend on how many processes share a batch.
        hard_negatives: pass all candidates on instead, of which the model chooses those nearest to the video.
        seed: decides masks and negatives.
        encoder: the model's vision encoder, which says the grid of a clip.
        reader: of the videos; by default one that keeps nothing.
        skip_bad: leave out a row whose video cannot be read, instead of raising what is wrong. A batch that loses all
            its rows takes the next one of the data set that can be read.
        options: of the model's objectives, by name, for what is prepared for them.
    """

    def __init__(
        self,
        processor: VideoTextProcessor,
        masking: Masking,
        encoder: Encoder,
        num_negatives: int = 3,
        group_size: int = 4,
        hard_negatives: bool = False,
        seed: int = 0,
        reader: ClipReader | None = None,
        skip_bad: bool = False,
        options: Mapping[str, Any] | None = None,
    ):
        self.encoder = encoder
        self.processor = processor
        self.group_size = group_size
        self.seed = seed
        candidates = group_size - 1 if hard_negatives else num_negatives
        self.options = options or {}
        self.reader = ClipReader(processor.video_processor) if reader is None else reader
        self.settings = BatchSettings(processor, masking, candidates, group_size, seed, self.reader)
        self.skip_bad = skip_bad

    def __call__(
        self, source: CaptionedVideos, rows: Sequence[Mapping[str, Any]], epochs: Sequence[int], plan: StepPlan
    ) -> dict[str, Any]:
        """
        Args:
            rows: one a video; whole groups, with their numbers as `row`.
            epochs: how often each row was seen before, which with the row decides its masks.

        Returns:
            What the step's objectives need (see `preparations`), `pixel_values_videos` (still as uint8, for
            `normalize_pixels` on the device), the sound if the processor `hears`, and `ids` (the rows' names);
            `failed`, a list of `FailedSample`, if rows were left out, or their sound is missing or short.
        """
        draws = [
            int(torch.randint(2**31, (), generator=sample_generator(self.seed, epoch, f"{source.name}/{row_id(row)}")))
            for row, epoch in zip(rows, epochs, strict=True)
        ]
        failed: list[FailedSample] = []
        found = [self._read(source, row, plan, draw, failed) for row, draw in zip(rows, draws, strict=True)]
        kept = [number for number, one in enumerate(found) if one is not None]
        if not kept:
            rows, found = self._spare(source, rows[-1], plan, draws[-1])
            epochs, draws, kept = epochs[-1:], draws[-1:], [0]
        planned = [(row_id(row), row["caption"]) for row in rows]
        rows, epochs = [rows[number] for number in kept], [epochs[number] for number in kept]
        read = [one for one in found if one is not None]
        clips = [clip for clip, _ in read]
        size = {"height": plan.clip.height, "width": plan.clip.width}
        frames, draws = [clip.frames for clip in clips], [draws[number] for number in kept]
        sound = [clip.sound for clip in clips] if self.processor.video_processor.hears else None
        boxed: dict[str, Any] = {}
        if source.regions:
            taken = zip(rows, clips, strict=True)
            boxed["boxes"] = [_taken_boxes(row["boxes"], clip.indices, row_id(row)) for row, clip in taken]
        inputs = self.processor(
            videos=frames, sound=sound, do_sample_frames=False, size=size, draws=draws, **RAW_PIXELS, **boxed
        )
        words = self.processor(text=[row["caption"] for row in rows])
        samples = Samples(
            settings=self.settings,
            plan=plan,
            dataset=source.name,
            rows=rows,
            names=[row_id(row) for row in rows],
            epochs=epochs,
            pixel_values_videos=inputs["pixel_values_videos"],
            input_ids=words["input_ids"],
            attention_mask=words["attention_mask"],
            frame_indices=[clip.indices for clip in clips],
            grid=self.encoder.grid(*plan.clip),
            stored_targets=source.stored_targets,
            planned=planned,
            kept=kept,
            beside=[beside for _, beside in read],
        )
        batch = {"ids": samples.names, **inputs, **prepare(samples, self.options)}
        for row, clip in zip(rows, clips, strict=True):
            failed += doubts_of(source.name, row.get("row"), str(row["video"]), clip)
        if failed:
            batch["failed"] = failed
        return batch

    def _read(
        self,
        source: CaptionedVideos,
        row: Mapping[str, Any],
        plan: StepPlan,
        draw: int,
        failed: list[FailedSample] | None = None,
    ) -> Read | None:
        """What the step needs of a row's video; None if it cannot be read, which is added to `failed`."""
        try:
            clip = self.reader.read(row["video"], plan.clip.frames, draw, row=row.get("row"))
            return clip, read_beside(self.reader, row, plan)
        except SAMPLE_ERRORS as error:
            if not self.skip_bad:
                raise
            if failed is not None:
                failed.append(FailedSample(source.name, row.get("row"), row["video"], str(error)))
            return None

    def _spare(
        self, source: CaptionedVideos, lost: Mapping[str, Any], plan: StepPlan, draw: int
    ) -> tuple[list[Mapping[str, Any]], list[Read | None]]:
        """A row in the place of a batch that could not be read, and what was read of it."""
        for row in rows_after(lost["row"], NumberedRows(source.rows)):
            read = self._read(source, row, plan, draw)
            if read is not None:
                return [row], [read]
        raise unreadable(lost)


def _taken_boxes(boxes: Boxes, indices: Sequence[int], name: str) -> list[list[float] | None]:
    """A row's boxes of the frames that were taken of its video."""
    found, shown = boxes_of_frames(boxes, indices, name)
    return [box if is_shown else None for box, is_shown in zip(found.tolist(), shown.tolist(), strict=True)]


class PretrainingBatches(torch.utils.data.Dataset):
    """
    The batch of step i, as this process sees it: item i. It is a function of the step: a run can resume at any step,
    and any number of processes can share its rows.

    Args:
        batch_size: rows of a step over all processes.
        rank, world_size: this process, and how many there are; each takes its own run of whole groups.

    Raises:
        ValueError: if the processes cannot share the batch in whole groups.
    """

    def __init__(
        self,
        sources: Sequence[CaptionedVideos],
        schedule: Schedule,
        collator: PretrainingCollator,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        if batch_size % (world_size * collator.group_size):
            raise ValueError(
                f"`batch_size` {batch_size} must be a multiple of {world_size} processes times the `group_size` "
                f"{collator.group_size}, in which negatives are drawn."
            )
        self.sources = sources
        self.schedule = schedule
        self.collator = collator
        self.batch_size = batch_size
        self.seed = seed
        self.rows = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def __getitem__(self, step: int) -> dict[str, Any]:
        plan = self.schedule.plan(step)
        source = self.sources[plan.dataset]
        rows, epochs = [], []
        for number in self.rows:
            epoch, place = divmod(plan.position * self.batch_size + number, len(source.rows))
            rows.append(NumberedRows(source.rows)[int(self._order(plan.dataset, epoch)[place])])
            epochs.append(epoch)
        return self.collator(source, rows, epochs, plan) | {"objectives": dict(plan.objectives)}

    def _order(self, dataset: int, epoch: int) -> np.ndarray:
        if self._orders.get(dataset, (None,))[0] != epoch:
            self._orders[dataset] = epoch, self.sources[dataset].order(self.seed, epoch)
        return self._orders[dataset][1]

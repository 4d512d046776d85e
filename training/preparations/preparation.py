"""
The table of what is prepared for each objective, and what it is prepared from.

A preparation is a function of `Samples` and the objective's options, and returns entries of the batch, a row for each
sample. The model's objective reads them if its `needs` or `takes` names them. A further one is one file and
`PREPARATIONS.add("name", function)`, under the name of its objective in `OBJECTIVES`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...core.registry import Registry
from ...data.loading import ClipReader
from ...modeling_violet.objectives.objective import kind_of
from ...processing import VideoTextProcessor
from ..masking import Masking, sample_generator
from ..schedule import StepPlan
from ..targets import StoredTargets


@dataclass(frozen=True)
class BatchSettings:
    """
    How a run makes its batches.

    Attributes:
        processor: makes tensors of videos and captions.
        masking: how samples are masked.
        num_candidates: texts that a video is told apart from, at most.
        group_size: rows of a group, out of which those texts are drawn.
        seed: decides all draws.
        reader: of the videos, for what is read of them beside their clips.
    """

    processor: VideoTextProcessor
    masking: Masking
    num_candidates: int
    group_size: int
    seed: int
    reader: ClipReader


@dataclass(frozen=True)
class Samples:
    """
    The rows of a batch whose videos were read.

    Attributes:
        settings: how the run makes its batches.
        plan: what its step is.
        dataset: the data set's name.
        rows: one for each sample, with `video` and `caption`.
        names: what each row is called in messages and stored targets.
        epochs: how often each row was seen before.
        pixel_values_videos: (batch, frames, 3, height, width), uint8, with no patch masked.
        input_ids, attention_mask: (batch, X), the captions, with no word masked.
        frame_indices: the numbers of the frames taken of each video.
        grid: (frames, rows, columns) of the patches.
        stored_targets: MVM targets computed in advance, by target.
        planned: names of all rows of the step, those left out included, with their captions.
        kept: the places of `rows` among them.
        beside: for each row what was read of its video beside the clip, by objective, see `READINGS`.
    """

    settings: BatchSettings
    plan: StepPlan
    dataset: str
    rows: Sequence[Mapping[str, Any]]
    names: Sequence[str]
    epochs: Sequence[int]
    pixel_values_videos: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    frame_indices: Sequence[Sequence[int]]
    grid: tuple[int, int, int]
    stored_targets: Mapping[str, StoredTargets]
    planned: Sequence[tuple[str, str]]
    kept: Sequence[int]
    beside: Sequence[Mapping[str, Any]]

    def generators(self, purpose: str = "") -> list[torch.Generator]:
        """
        A generator for each sample, which neither workers, processes nor other samples can change.

        Args:
            purpose: what it draws, the objective's name: the draws of two purposes are independent. The built-in masks
                have none.
        """
        end = f"/{purpose}" if purpose else ""
        return [
            sample_generator(self.settings.seed, epoch, f"{self.dataset}/{name}/{row['caption']}{end}")
            for row, name, epoch in zip(self.rows, self.names, self.epochs, strict=True)
        ]


Preparation = Callable[[Samples, Any], dict[str, Any]]
PREPARATIONS: Registry[Preparation] = Registry(
    "preparation",
    __package__,
    {
        "mlm": "prepare_masked_words:prepare_masks",
        "vtm": "prepare_matching:prepare_negatives",
        "vtc": "prepare_contrast:prepare_wrong_captions",
        "mvm": "prepare_masked_vision:prepare_stored_targets",
        "rolled_vtm": "prepare_rolled_videos:prepare_rolled_videos",
        "rolled_mlm": "prepare_rolled_videos:prepare_rolled_videos",
        "mil_nce": "prepare_several_texts:prepare_several_texts",
        "omnisource": "prepare_omnisource:prepare_middle_frames",
        "temporal_contrast": "prepare_temporal_contrast:prepare_temporal_draws",
        "vatt": "prepare_vatt:prepare_vatt",
        "imp": "prepare_imp:prepare_imp",
        "align": "prepare_align:prepare_noise",
    },
)
ROW_CHECKS: Registry[Callable[[Mapping[str, Any], Any], None]] = Registry(
    "check of rows",
    __package__,
    {
        "mil_nce": "prepare_several_texts:check_several_texts",
        "omnisource": "prepare_omnisource:check_frame_caption",
        "temporal_contrast": "prepare_temporal_contrast:check_sentences",
        "vatt": "prepare_vatt:check_vatt_texts",
    },
)
"""
Before a run starts: (row, the objective's options) -> a `ValueError`, naming the column, if the row does not serve it.
"""
READINGS: Registry[Callable[[ClipReader, Mapping[str, Any]], Any]] = Registry(
    "reading of videos", __package__, {"omnisource": "prepare_omnisource:read_middle_frame"}
)
"""
(reader, row) -> what an objective needs of the row's video beside its clip, for its preparation in `Samples.beside`.
If it cannot be read, the row is treated as one whose clip cannot be.
"""
ALWAYS = ("mlm", "vtm", "vtc", "mvm")
"""What every batch holds, whatever its step trains; the others are prepared in the steps that name their objective."""


def kinds_of(plan: StepPlan) -> list[str]:
    """The names, in the tables above, of a step's objectives."""
    return list(dict.fromkeys(kind_of(name) or name for name in plan.objectives))


def read_beside(reader: ClipReader, row: Mapping[str, Any], plan: StepPlan) -> dict[str, Any]:
    """
    What the step's objectives need of a row's video beside its clip, by objective.

    Raises:
        VideoDecodeError, TableError: if it cannot be read.
    """
    return {kind: READINGS.find(kind)(reader, row) for kind in kinds_of(plan) if kind in READINGS}


def prepare(samples: Samples, options: Mapping[str, Any]) -> dict[str, Any]:
    """
    What the objectives of the samples' step need.

    Args:
        options: those of each objective, by name.

    Raises:
        ValueError: if two preparations give the same entry.
    """
    prepared: dict[str, Any] = {}
    done: list[tuple[Preparation, Any]] = []
    for name in dict.fromkeys([*ALWAYS, *(kind for kind in kinds_of(samples.plan) if kind in PREPARATIONS)]):
        preparation = PREPARATIONS.find(name), options.get(name)
        if preparation in done:  # two objectives may read the same
            continue
        done.append(preparation)
        entries = preparation[0](samples, preparation[1])
        taken = sorted(set(entries) & set(prepared))
        if taken:
            raise ValueError(f"The preparation of {name!r} gives {', '.join(taken)}, which the batch has already.")
        prepared |= entries
    return prepared

"""`violet inspect flow`: how much of a text's states comes from its video, and the reverse, in a pre-trained model."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForPreTraining, AutoProcessor

from ..core.clip_inputs import take_clip_inputs
from ..core.files import write_json
from ..core.weights import shipped_or
from ..data import read_rows
from ..evaluation.measures import Evaluation, Measure
from ..evaluation.modality_flow import (
    DIRECTIONS,
    ROWS,
    TEXT_INPUTS,
    ModalityFlow,
    into_rows,
    named_rows,
    record_modality_flow,
)
from ..evaluation.pictures import FlowPicture, draw_flow
from ..modeling_violet import VioletForPreTraining
from ..processing import VideoTextProcessor
from .arguments import SettingsError
from .inspecting import as_pictures, kinds_of, masked_batch, pair_inputs
from .masking import Masking

MOST_DRAWN = 3
"""Pairs of a table that the picture shows."""


@dataclass
class FlowReport:
    """
    The flow of some pairs.

    Attributes:
        evaluation: of each number its mean over the pairs, with the interval that drawing the videos again gives:
            `text_from_video`, `video_from_text`, `imf`, each as it is and `…_corrected`; `layer_1_text_from_video`, …;
            `into_ROWS`; `loss_NAME_own` and `loss_NAME_shuffled`.
        depth: layers of the fusion.
        pairs: how many.
    """

    evaluation: Evaluation
    depth: int
    pairs: int

    def lines(self) -> list[str]:
        """The numbers, a line each."""
        values, between = self.evaluation.metrics, self.evaluation.intervals()

        def said(name: str) -> str:
            low, high = between[name]
            return f"{values[name]:8.3f} [{low:.3f}, {high:.3f}]"

        head = f"{'1: as much as uniform attention':34}" + "".join(
            f"{name.replace('_', ' '):>26}" for name in DIRECTIONS
        )
        rows = [(f"layer {number}", f"layer_{number}_{{}}") for number in range(1, self.depth + 1)]
        rows += [("all layers", "{}_corrected"), ("all layers, as it is (0 to 1)", "{}")]
        pairs = "1 pair" if self.pairs == 1 else f"{self.pairs} pairs"
        lines = [f"{pairs}, {self.depth} layers of the fusion", head]
        lines += [f"{name:34}" + "".join(f"{said(form.format(one)):>26}" for one in DIRECTIONS) for name, form in rows]
        lines += [
            f"{f'into {name}, all layers':34}{said(f'into_{name}'):>26}" for name in ROWS if f"into_{name}" in values
        ]
        losses = [name.removesuffix("_own") for name in values if name.endswith("_own")]
        lines.append(f"{'loss':34}{'own partner':>26}{'another clip’s partner':>26}")
        for name in losses:
            lines.append(
                f"{name.removeprefix('loss_'):34}{said(f'{name}_own'):>26}"
                + (f"{said(f'{name}_shuffled'):>26}" if f"{name}_shuffled" in values else f"{'(needs two pairs)':>26}")
            )
        lines.append("Attention is no proof of use: the losses are.")
        return lines


@torch.no_grad()
def inspect_flow(
    model: str | os.PathLike,
    videos: Sequence[str],
    captions: Sequence[str],
    table: str | os.PathLike | None,
    output: str | os.PathLike,
    rows: Sequence[str] = (),
    masking: Masking | None = None,
    special_tokens: bool = True,
    json_file: str | os.PathLike | None = None,
) -> FlowReport:
    """
    Tells and draws the flow between videos and their captions, masked as in pre-training, so that the losses with
    another clip's partner can stand beside it.

    Args:
        model: a folder or Hub name of a pre-trained `VioletForPreTraining` with its processor.
        videos, captions: the pairs, one caption for each video, or one for all.
        table: their place in a table of pairs, see `data.read_rows`.
        output: the PNG, of the first pairs.
        rows: tokens whose flow from the other modality is told too, of `modality_flow.ROWS`.
        masking: how the pairs are masked; its kind of mask with the largest weight that the model can make is taken.
        special_tokens: whether [CLS], [SEP] and the tokens of frames count, as their modality.
        json_file: where all numbers are written, with intervals.

    Raises:
        SettingsError: for pairs that do not fit, rows that are unknown or not there, a model without a fusion of video
            and text in one sequence, or one of another class.
    """
    unknown = sorted(set(rows) - set(ROWS))
    if unknown:
        raise SettingsError(f"--rows: {', '.join(unknown)} is unknown; use {', '.join(ROWS)}.")
    if "cls" in rows and not special_tokens:
        raise SettingsError("--rows cls: [CLS] is left out with --no_special_tokens.")
    pairs = read_pairs(videos, captions, table)
    model = shipped_or(model)
    config = AutoConfig.from_pretrained(model)
    made_as = (config.architectures or [VioletForPreTraining.__name__])[0]
    if made_as != VioletForPreTraining.__name__:
        raise SettingsError(
            f"--model: {model} is a {made_as}; the flow is told of a pre-trained model, whose losses read a pair "
            "without labels. For a task, `violet finetune --log_flow true` logs it."
        )
    processor = AutoProcessor.from_pretrained(model)
    network = AutoModelForPreTraining.from_pretrained(model).eval()
    kinds = kinds_of(network)
    usual = {"correlated" if "correlated" in kinds else "random": 1.0}
    masking = masking or Masking(usual, patch_ratio=0.3, word_ratio=0.3)
    kind = max(kinds, key=lambda name: masking.kinds.get(name, 0.0))
    batches = [
        pair_inputs(network, masked_batch(network, processor, video, caption, kind, masking))
        for video, caption in pairs
    ]
    asking = Asking(network, processor, special_tokens)
    numbers, pictures = [], []
    try:
        for number, (video, caption) in enumerate(pairs):
            flow, masked, found = asking.ask(batches, number, partner_of(pairs, number), rows)
            numbers.append(found)
            if number < MOST_DRAWN:
                pictures.append(
                    picture_of(flow, batches[number], masked, f"{Path(video).name}: “{caption}”", processor)
                )
    except ValueError as error:
        raise SettingsError(str(error)) from error
    report = FlowReport(evaluation_of(numbers, [video for video, _ in pairs]), flow.depth, len(pairs))
    if json_file is not None:
        intervals = report.evaluation.intervals()
        written = {
            name: {"value": one, "interval": intervals[name]} for name, one in report.evaluation.metrics.items()
        }
        write_json(Path(json_file), {"pairs": report.pairs, "layers": report.depth, "numbers": written})
    draw_flow(output, pictures)
    return report


def read_pairs(
    videos: Sequence[str], captions: Sequence[str], table: str | os.PathLike | None
) -> list[tuple[str, str]]:
    """
    The pairs of video and caption.

    Raises:
        SettingsError: for a table beside videos, captions that do not fit, or a pair without words.
    """
    if table is not None:
        if videos:
            raise SettingsError("--table: give it in place of --video and --caption.")
        found = read_rows(table, ("video", "caption"))
        pairs = [(row["video"], row["caption"]) for row in found]
    elif len(captions) not in (1, len(videos)):
        raise SettingsError(
            f"--caption: {len(captions)} captions for {len(videos)} videos; give one for each, or one."
        )
    else:
        repeated = list(captions) * (len(videos) if len(captions) == 1 else 1)
        pairs = list(zip(map(str, videos), repeated, strict=True))
    for video, caption in pairs:
        if not str(caption).strip():
            raise SettingsError(f"--caption: {video} has none; the flow is that between a clip and its words.")
    return pairs


def partner_of(pairs: Sequence[tuple[str, str]], number: int) -> int | None:
    """The next pair with another video and other words, or None."""
    video, caption = pairs[number]
    around = (*range(number + 1, len(pairs)), *range(number))
    return next((other for other in around if pairs[other][0] != video and pairs[other][1] != caption), None)


class Asking:
    """Asks a pre-trained model about a pair and about the same with another clip's partner."""

    def __init__(self, model: VioletForPreTraining, processor: VideoTextProcessor, special_tokens: bool):
        self.model = model
        self.special_ids = torch.tensor(processor.tokenizer.all_special_ids)
        self.mask_id = processor.tokenizer.mask_token_id
        self.special_tokens = special_tokens
        single = {name: one for name, one in model.objectives.items() if not one.targets}
        self.of_words = [name for name, one in single.items() if "labels" in one.needs]
        self.of_patches = [name for name, one in single.items() if "bool_masked_pos" in one.needs]

    def ask(
        self, batches: Sequence[Mapping[str, Any]], number: int, partner: int | None, rows: Sequence[str]
    ) -> tuple[ModalityFlow, torch.Tensor, dict[str, float]]:
        """
        The flow of a pair, which patches were hidden, and its numbers by name; NaN where nothing is hidden that a
        number is about.
        """
        batch = batches[number]
        ids = batch["input_ids"]
        special = torch.isin(ids, self.special_ids) & (ids != self.mask_id)
        names = dict.fromkeys([*self.of_words, *self.of_patches], 1.0)
        with record_modality_flow(self.model, special_tokens=self.special_tokens, special_words=special) as passes:
            output = self.model(**batch, objectives=names)
        flow = passes[0]
        masked = batch["bool_masked_pos"] if output.bool_masked_pos is None else output.bool_masked_pos
        found = {name: float(value) for name, value in flow.values().items()}
        for direction, layers in flow.layers.items():
            found |= {f"layer_{place}_{direction}": float(value) for place, value in enumerate(layers, start=1)}
        for name in rows:
            tokens = named_rows(flow, name, batch["labels"], masked)
            found[f"into_{name}"] = float(into_rows(flow, name, tokens))
        there = dict.fromkeys(self.of_words, bool((batch["labels"] >= 0).any()))
        there |= dict.fromkeys(self.of_patches, bool(masked.any()))
        for name, hidden in there.items():
            found[f"loss_{name}_own"] = float(output.losses[name]) if hidden else float("nan")
        if partner is not None:
            for name, value in self.shuffled(batch, batches[partner]).items():
                found[f"loss_{name}_shuffled"] = value if there[name] else float("nan")
        return flow, masked, found

    def shuffled(self, batch: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
        """Hidden words beside the other clip, and hidden patches beside the other caption: their losses."""
        texts, others = ({name: one[name] for name in TEXT_INPUTS} for one in (batch, other))
        asked = ((self.of_words, {**other, **texts}), (self.of_patches, {**batch, **others}))
        losses: dict[str, float] = {}
        for names, inputs in asked:
            if names:
                given = self.model(**inputs, objectives=dict.fromkeys(names, 1.0)).losses
                losses |= {name: float(loss) for name, loss in given.items()}
        return losses


def evaluation_of(numbers: Sequence[Mapping[str, float]], videos: Sequence[str]) -> Evaluation:
    """
    The means of the pairs' numbers, with intervals.

    Raises:
        SettingsError: for a number that no pair has.
    """
    measures = {}
    for name in dict.fromkeys(name for found in numbers for name in found):
        values = np.array([found.get(name, float("nan")) for found in numbers])
        there = ~np.isnan(values)
        if name.startswith("into_") and not there.any():
            raise SettingsError(f"--rows {name.removeprefix('into_')}: nothing of that kind is hidden in any pair.")
        if there.any():
            measures[name] = Measure(values[there], units=np.asarray(videos)[there])
    return Evaluation(measures)


def picture_of(
    flow: ModalityFlow, batch: Mapping[str, Any], masked: torch.Tensor, title: str, processor: VideoTextProcessor
) -> FlowPicture:
    """One pair, ready to be drawn; `masked` (1, steps, rows, columns)."""
    assert flow.patches is not None and flow.behind_video is not None  # the pass was recorded
    counted = (flow.video | flow.text).sum()
    uniform = (1 - flow.residual**flow.depth) / counted
    of_patches = (flow.sources(flow.text)[0, flow.patches] / uniform).view(masked.shape[1:])
    ids = batch["input_ids"][0]
    of_words = (flow.sources(flow.video)[0, -len(ids) :] / uniform)[flow.text[0, -len(ids) :]]
    words = processor.tokenizer.convert_ids_to_tokens(ids[flow.text[0, -len(ids) :]].tolist())
    frames = np.stack(as_pictures(next(iter(take_clip_inputs(dict(batch)).values()))[0], processor))
    values = {name: float(value) for name, value in flow.values().items()}
    said = ", ".join(f"{name.replace('_', ' ')} {values[f'{name}_corrected']:.2f}" for name in DIRECTIONS)
    return FlowPicture(
        title,
        frames[:: len(frames) // masked.shape[1]],
        of_patches.numpy(),
        masked[0].numpy(),
        words,
        of_words.numpy(),
        {name.replace("_", " "): [float(value) for value in layers] for name, layers in flow.layers.items()},
        [f"all layers, over uniform attention: {said}"],
    )

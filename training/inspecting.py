"""`violet inspect masking`: what a pre-trained model is asked, what it answers, and what the teachers say."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torchvision.utils import flow_to_image
from transformers import AutoModelForPreTraining, AutoProcessor

from ..evaluation.pictures import MaskedClip, PictureRow, draw_masking
from ..modeling_violet import VioletForPreTraining
from ..modeling_violet.objectives.masked_vision import MVM_TARGETS, mvm_loss
from ..modeling_violet.objectives.teachers import PixelTeacher, Teacher
from ..processing import VideoTextProcessor
from .arguments import SettingsError
from .masking import MASK_KINDS, Masking, mask_attended
from .pretraining_data import CaptionedVideos, PretrainingCollator
from .schedule import ClipSize, StepPlan
from .targets import load_teacher

HIDDEN_COLOUR = np.array([0.85, 0.1, 0.2])
PALE = 0.3
"""How much of the target is left, on white, where nothing was hidden."""


def inspect_masking(
    model: str | os.PathLike,
    videos: Sequence[str],
    captions: Sequence[str],
    output: str | os.PathLike,
    teachers: Mapping[str, str] | None = None,
    masking: Masking | None = None,
    report: Callable[[str], Any] = print,
) -> Path:
    """
    Draws clips under each kind of mask: the frames, what is hidden, each MVM target beside the model's prediction, the
    masked caption and the model's words.

    Args:
        model: a folder or Hub name of a pre-trained `VioletForPreTraining` with its processor.
        captions: one for each video, or one for all.
        output: the PNG.
        teachers: Hub names or folders, by target; those without a network need none.
        masking: the shares that are hidden; its kinds are not looked at, each is drawn.
        report: is told of each target that is left out.

    Raises:
        SettingsError: for captions that do not fit, or a teacher for a target that the model does not have.
    """
    if len(captions) not in (1, len(videos)):
        raise SettingsError(
            f"--caption: {len(captions)} captions for {len(videos)} videos; give one for each, or one."
        )
    captions = list(captions) * len(videos) if len(captions) == 1 else list(captions)
    masking = masking or Masking(patch_ratio=0.3)
    processor = AutoProcessor.from_pretrained(model)
    network = AutoModelForPreTraining.from_pretrained(model).eval()
    live = load_known_teachers(network, processor, teachers or {}, report)
    clips = [
        masked_clip(network, processor, live, video, caption, kind, masking)
        for video, caption in zip(videos, captions, strict=True)
        for kind in kinds_of(network)
    ]
    return draw_masking(output, clips)


def kinds_of(model: VioletForPreTraining) -> list[str]:
    """The kinds of mask that a model can be shown: `correlated` needs an objective that makes it."""
    makes = any("correlated" in objective.takes for objective in model.objectives.values())
    return [kind for kind in MASK_KINDS if makes or kind != "correlated"]


def load_known_teachers(
    model: VioletForPreTraining,
    processor: VideoTextProcessor,
    sources: Mapping[str, str],
    report: Callable[[str], Any],
) -> dict[str, Teacher]:
    """
    The teachers of the model's targets, by target. One that needs weights is loaded if `sources` names them:
    nothing is downloaded unasked. The others are left out and reported.

    Raises:
        SettingsError: for a source of a target that the model does not have.
    """
    unknown = sorted(set(sources) - set(model.mvm_heads))
    if unknown:
        has = ", ".join(model.mvm_heads) or "none"
        raise SettingsError(f"--teacher: the model has no target {', '.join(unknown)}; it has {has}.")
    teachers = {}
    for name in model.mvm_heads:
        teacher = MVM_TARGETS.find(name).teacher
        if teacher is None:
            continue
        source = sources.get(name)
        if source is None and not issubclass(teacher, PixelTeacher):
            usual = teacher.default_source or "FOLDER"
            report(f"{name} is left out: its teacher is not given (--teacher {name}={usual}).")
            continue
        options = {**model.config.mvm_targets[name], "teacher": source}
        try:
            teachers[name] = load_teacher(name, options, processor.video_processor)
        except SettingsError as error:
            report(f"{name} is left out: {error}")
    return teachers


@torch.no_grad()
def masked_clip(
    model: VioletForPreTraining,
    processor: VideoTextProcessor,
    teachers: Mapping[str, Teacher],
    video: str,
    caption: str,
    kind: str,
    masking: Masking,
) -> MaskedClip:
    """One clip under one kind of mask, ready to be drawn."""
    batch = masked_batch(model, processor, video, caption, kind, masking)
    pixels, cell = batch["pixel_values_videos"], model.violet.vision_encoder.cell
    frame_mask = batch["bool_masked_pos"].repeat_interleave(cell[0], dim=1)
    grid = (frame_mask.shape[1], frame_mask.shape[2], frame_mask.shape[3])
    targets = {name: teacher(pixels, grid) for name, teacher in teachers.items()}
    asked = [
        name
        for name, one in model.objectives.items()
        if (one.targets or "correlated" in one.takes) and set(one.targets) <= set(targets)
    ]
    objectives = dict.fromkeys(["mlm", *asked], 1.0)
    output = model(**pair_inputs(model, batch), mvm_targets=targets, objectives=objectives)
    mask = batch["bool_masked_pos"] if output.bool_masked_pos is None else output.bool_masked_pos
    mask = mask.repeat_interleave(cell[0], dim=1)  # by frame

    frames = as_pictures(pixels[0], processor)
    hidden = [enlarged(cells, frame.shape[:2], cell[1]) for cells, frame in zip(mask[0], frames, strict=True)]
    rows = [
        PictureRow(
            "what is seen",
            frames,
            [np.where(where[..., None], HIDDEN_COLOUR, frame) for where, frame in zip(hidden, frames, strict=True)],
            notes=("frames", f"{int(mask.sum())} of {mask.numel()} patches are hidden"),
        )
    ]
    for name, target in targets.items():
        prediction = output.mvm_predictions[name].float()
        left, right = paint(name, target[0], prediction[0], processor)
        places = mask[0, :-1] | mask[0, 1:] if name == "optical_flow" else mask[0]
        shown = []
        for true, guess, cells in zip(left, right, places, strict=True):
            where = enlarged(cells, true.shape[:2], -(-true.shape[0] // cells.shape[0]))[..., None]
            shown.append(np.where(where, guess, 1 - PALE + PALE * true))
        more = " in the hidden patches; elsewhere the target, pale" if len(rows) == 1 else ""
        label = f"{name}\nerror {mvm_loss(name, prediction, target, mask).item():.3g}"
        if name == "vq":
            label += f"\n{right_words(prediction, target, mask)}"
        rows.append(PictureRow(label, left, shown, ("target", f"prediction{more}")))
    title = f"{Path(video).name}: {kind} mask"
    return MaskedClip(title, rows, caption_lines(processor, batch, output.mlm_logits))


def pair_inputs(model: VioletForPreTraining, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a model takes of a masked batch for objectives of single pairs."""
    names = {*model.violet.vision_encoder.inputs, "input_ids", "attention_mask", "labels", "bool_masked_pos"}
    names |= {name for objective in model.objectives.values() for name in objective.takes}
    return {name: batch[name] for name in sorted(names) if name in batch}


@torch.no_grad()
def masked_batch(
    model: VioletForPreTraining,
    processor: VideoTextProcessor,
    video: str,
    caption: str,
    kind: str,
    masking: Masking,
) -> dict[str, torch.Tensor]:
    """A batch of one clip, as a step of pre-training has it, masked in that way."""
    masking = Masking({kind: 1.0}, masking.patch_ratio, masking.word_ratio)
    frames, encoder = processor.video_processor, model.violet.vision_encoder
    collator = PretrainingCollator(processor, masking, encoder, num_negatives=1, group_size=1)
    row = {"video": str(video), "caption": caption}
    source = CaptionedVideos("inspected", Dataset.from_list([row]), frames.num_frames, 1.0)
    batch = collator(
        source, [row], [0], StepPlan(0, 0, {}, ClipSize(frames.num_frames, frames.size.height, frames.size.width))
    )
    batch = processor.to_device(batch, model.device)
    if "attended" in batch:
        names = (*encoder.inputs, "input_ids", "attention_mask")
        received = model(**{name: batch[name] for name in names}, only_received_attention=True).received_attention
        mask_token = processor.tokenizer.mask_token_id
        batch |= mask_attended(batch, received, masking.patch_ratio, mask_token)
    return batch


def caption_lines(processor: VideoTextProcessor, batch: Mapping[str, torch.Tensor], logits: torch.Tensor) -> list[str]:
    """The masked caption, and the model's word for each that is hidden, with the true one if it is another."""
    tokenizer = processor.tokenizer
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    special = set(tokenizer.all_special_ids) - {tokenizer.mask_token_id, tokenizer.unk_token_id}
    words = tokenizer.decode([token for token in ids.tolist() if token not in special])
    if not words:
        return ["no caption"]
    answers = []
    for place in (labels >= 0).nonzero()[:, 0].tolist():
        guess, true = (tokenizer.decode([int(token)]) for token in (logits[0, place].argmax(), labels[place]))
        answers.append(f"“{guess}”" if guess == true else f"“{guess}” (it is “{true}”)")
    said = "the model says " + ", ".join(answers) if answers else "no word is hidden"
    return [f"“{words}”", said]


def as_pictures(pixels: torch.Tensor, processor: VideoTextProcessor) -> list[np.ndarray]:
    """(frames, 3, H, W), normalised -> one picture per frame, (H, W, 3) of 0 to 1"""
    frames = processor.video_processor
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (frames.image_mean, frames.image_std))
    # (frames, 3, H, W) -> (frames, H, W, 3)
    return list((pixels * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy())


def enlarged(cells: torch.Tensor, size: tuple[int, int], side: int) -> np.ndarray:
    """(h, w), one value per patch -> (height, width), cut to `size`"""
    return cells.repeat_interleave(side, 0).repeat_interleave(side, 1)[: size[0], : size[1]].numpy()


def paint(
    name: str, target: torch.Tensor, prediction: torch.Tensor, processor: VideoTextProcessor
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """
    One clip's target and prediction, in the layout of `vision_targets`, as pictures (height, width, 3) of 0 to 1, one
    for each frame (for optical flow: pair of frames). Both are painted alike: by the target's own range, components or
    colours.
    """
    if name == "vq":
        return colour_words(target), colour_words(prediction.argmax(-1))
    if name.endswith("feature"):
        return colour_features(target, target), colour_features(prediction, target)
    prediction = prediction[..., : target.shape[-2], : target.shape[-1]]
    if name == "pixel":
        return as_pictures(target, processor), as_pictures(prediction, processor)
    if name == "optical_flow":
        largest = target.norm(dim=1).max().clamp(min=1.0)
        return colour_flow(target, largest), colour_flow(prediction, largest)
    low, high = target.min(), target.max()
    # (frames, 1, H, W) -> (frames, H, W, 3)
    grey = (
        ((values - low) / (high - low).clamp(min=1e-6)).clamp(0, 1).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
        for values in (target, prediction)
    )
    left, right = (list(values.numpy()) for values in grey)
    return left, right


def colour_flow(flow: torch.Tensor, largest: torch.Tensor) -> list[np.ndarray]:
    """(pairs, 2, H, W) -> pictures: the hue tells the direction, the saturation the speed, `largest` being full."""
    # torchvision divides by the fastest motion in what it is given: one pixel more holds `largest` for all.
    ruler = torch.zeros_like(flow[..., :1])
    ruler[:, 0] = largest
    held = flow * (largest / flow.norm(dim=1, keepdim=True).clamp(min=1e-6)).clamp(max=1)
    # (pairs, 2, H, W + 1) -> (pairs, 3, H, W + 1) -> (pairs, H, W, 3)
    coloured = torch.stack([flow_to_image(pair) for pair in torch.cat([held, ruler], dim=-1)])
    return list(coloured[..., :-1].permute(0, 2, 3, 1).numpy() / 255)


def colour_words(words: torch.Tensor) -> list[np.ndarray]:
    """(frames, h, w), visual words -> pictures: each word has its own colour, always the same."""
    steps = torch.tensor([0.754877666, 0.569840291, 0.430159709])  # spread evenly (the plastic number's powers)
    return list((0.5 + (words.unsqueeze(-1) + 1) * steps).remainder(1).numpy())


def colour_features(features: torch.Tensor, target: torch.Tensor) -> list[np.ndarray]:
    """(frames, h, w, C) -> pictures: red, green and blue are the first three principal components of `target`."""
    flat = target.flatten(0, 2)  # (frames * h * w, C)
    mean = flat.mean(0)
    components = torch.linalg.svd(flat - mean, full_matrices=False).Vh[:3].t()
    seen = (flat - mean) @ components
    low, high = seen.amin(0), seen.amax(0)
    colours = ((features - mean) @ components - low) / (high - low).clamp(min=1e-6)
    return list(nn.functional.pad(colours.clamp(0, 1), (0, 3 - colours.shape[-1])).numpy())


def right_words(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> str:
    """How many of the hidden visual words the model chose: (B, T, h, w, words), (B, T, h, w), (B, T, h', w')."""
    times = target.shape[2] // mask.shape[2]
    hidden = mask.repeat_interleave(times, 2).repeat_interleave(times, 3)
    agree = (prediction.argmax(-1) == target) & hidden
    return f"{int(agree.sum())} of {int(hidden.sum())} right"

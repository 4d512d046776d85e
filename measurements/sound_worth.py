"""What sound is worth on drawn shapes that make tones, and what half of the tokens cost.

    nice -n 19 python measurements/sound_worth.py [--seeds 0 1 2] [--runs ask match] [--json outputs/sound_worth.json]

Everything is read from real mp4 files (H.264 and AAC), on one thread.

ask       questions that need the ear ("what makes the low tone?", two shapes in sight), from models that hear and, as
          the control, from models that were trained and asked with every sound masked. Pictures leave two answers. The
          shipped violet-tiny gets an ear (VATT's waveform encoder); its eye learns more of movements first. In a part
          of the rows that ask for a form the picture is black: else the model looks and does not listen.
match     picture to sound: recall at 1 among 64 unseen clips no two of which sound alike (other forms, colours or
          order), against models whose training sounds were shuffled among the clips; and text to video. With half of
          the tokens dropped in training (DropToken), and with all; the median of the seconds of a step beside each.
          `vatt-tiny`, from nothing.

In both, the encoders learn from labels first: the eye form, colour and direction of the first and the second shape,
the ear what it hears at each moment. What is measured is then learned from questions, or from pairs.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coca_learning import mixed_colours

from violet import (
    VideoTextProcessor,
    VioletConfig,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletVideoProcessor,
    named_configuration,
    pretrained,
)
from violet.core.files import write_json
from violet.data import moving_shapes, open_ended
from violet.data.loading import ClipReader
from violet.data.moving_shapes import COLOURS, DIRECTIONS, HEARD_TYPES, SHAPES, SPLITS
from violet.modeling_violet.losses import IGNORE_INDEX
from violet.processing import train_wordpiece_tokenizer
from violet.processing.video_processing_violet import RAW_PIXELS
from violet.training.scratch import texts_from_scratch

RATE, SAMPLES, FRAMES, SIDE = 8000, 8000, 8, 64
GALLERY, BATCH = 64, 32
SCHEDULES = {"ask": (2500, 1e-3), "match": (2500, 1e-3)}
"""Steps, and the peak of the learning rate."""
CLIPS = {"ask": 2000, "match": 6000}
"""To train on. With 2,000, pairs are learned by heart: recall at 1 of 1.00 among them, and 0.81 among new clips."""
EYE_SCHEDULES = {"ask": (400, 1e-3), "match": (3000, 1e-3)}
SHIFT = 4
EAR_STEPS, EAR_BATCH, EAR_RATE = 2500, 64, 2e-3
BLACK_STEPS, BLACK_SHARE = 100, 0.3
HEARD = {"sampling_rate": RATE, "num_samples": SAMPLES}
PATCH = RATE // 40
"""25 ms, of which a rhythm of 14 Hz still has nearly three a beat: with patches of 10 ms only pitches were learned."""
EAR: dict[str, Any] = {
    **HEARD,
    **{"model_type": "vatt_audio", "patch_size": PATCH, "hidden_size": 128, "projection_dim": 64, "shared": False},
    **{"backbone_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8, "head_dim": 8, "intermediate_size": 128},
    "dropout": 0.0,
}
BEATS = (0.5, 16.0)
"""Hz of the sine waves as which the ear's positions begin."""
ANSWERS = ["none", *SHAPES, *COLOURS, *DIRECTIONS]
FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "ask": {"with sound": {"hears": True}, "without sound": {"hears": False}},
    "match": {
        "half of the tokens": {"keep": 0.5, "shuffled": False},
        "all tokens": {"keep": 1.0, "shuffled": False},
        "sounds shuffled": {"keep": 0.5, "shuffled": True},
    },
}
NONE = dict.fromkeys(SPLITS, 0)


class Clips:
    """Clips of drawn shapes in memory, read from their files."""

    def __init__(self, run: str, rows: Any, processor: VideoTextProcessor):
        reader = ClipReader(processor.video_processor)
        self.run, self.rows, self.processor = run, list(rows), processor
        read = [reader.read(row["video"]) for row in self.rows]
        self.frames, self.sounds = [clip.frames for clip in read], [clip.sound for clip in read]
        self.numbers = {row["video"]: number for number, row in enumerate(self.rows)}

    def inputs(
        self, numbers: Sequence[int], sound_of: Sequence[int] | None, texts: list[str]
    ) -> dict[str, torch.Tensor]:
        """A batch of these clips; `sound_of`: whose sound each has, None for a masked one."""
        sounds = [None] * len(numbers) if sound_of is None else [self.sounds[number] for number in sound_of]
        frames = [self.frames[number] for number in numbers]
        settings: dict[str, Any] = {"do_sample_frames": False, "sound": sounds, **RAW_PIXELS}
        batch = self.processor(videos=frames, text=texts, **settings)
        return self.processor.to_device(batch, "cpu")

    def sound(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """The arguments of `encode_sounds` of these clips."""
        return sound_inputs(self.inputs(numbers, numbers, ["a"] * len(numbers)))


def sound_inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The arguments of `encode_sounds`."""
    return {name: value for name, value in batch.items() if name.startswith("audio_")}


def make_processor(words: list[str]) -> VideoTextProcessor:
    frames = VioletVideoProcessor(
        num_frames=FRAMES,
        size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        **HEARD,
    )
    return VideoTextProcessor(train_wordpiece_tokenizer(words, 400), frames, max_length=32)


def hearing_processor() -> VideoTextProcessor:
    """That of the shipped violet-tiny, which reads sound too, and more frames: each half of a clip has a movement."""
    own = VideoTextProcessor.from_pretrained(pretrained("violet-tiny"))
    for name, value in {**HEARD, "num_frames": FRAMES}.items():
        setattr(own.video_processor, name, value)
    return own


def configure(processor: VideoTextProcessor, **settings: Any) -> Any:
    texts = texts_from_scratch("vatt-tiny", processor.tokenizer)
    return named_configuration("vatt-tiny", **texts, audio_config=EAR, **settings)


def fit(model: Any, steps: int, rate: float, batch_of: Any, loss_of: Any) -> float:
    """Trains with AdamW and one cycle of the learning rate; the median of a step's seconds, without its batch."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    seconds, model = [], model.train()
    for step in range(steps):
        batch = batch_of(step)
        began = time.perf_counter()
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - began)
        schedule.step()
        if step % 100 == 99:
            print(f"    step {step + 1}: {loss.item():.3f}", flush=True)
    model.eval()
    return statistics.median(seconds)


class HeardClips:
    """
    Clips with their questions that need the ear, as a frozen video encoder sees them.

    Attributes:
        videos: their tokens, without sound.
        sounds: the arguments of `encode_sounds`, one row per clip; masked if they are not to be heard.
        asked: rows of questions.
    """

    def __init__(self, clips: Clips, violet: Any, labels: dict[str, int], hears: bool):
        self.clips, self.labels = clips, labels
        self.asked = [row for row in open_ended_rows(clips) if row["question_type"] in HEARD_TYPES]
        tokens, sounds = [], []
        for part in np.array_split(np.arange(len(clips.rows)), len(clips.rows) // 50 + 1):
            batch = clips.inputs(part.tolist(), part.tolist() if hears else None, ["a"] * len(part))
            with torch.no_grad():
                tokens.append(violet.encode_videos(batch["pixel_values_videos"]))
            sounds.append(sound_inputs(batch))
        self.videos = replace(
            tokens[0],
            tokens=torch.cat([one.tokens for one in tokens]),
            mask=torch.cat([one.mask for one in tokens]),
        )
        self.sounds = {name: torch.cat([one[name] for one in sounds]) for name in sounds[0]}

    def sounds_of(self, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: value[numbers] for name, value in self.sounds.items()}

    def ask(self, model: Any, rows: list[dict[str, Any]], black: torch.Tensor, unseen: torch.Tensor) -> Any:
        """The model's output for these rows; where `black` is true it sees `unseen`, a black clip's tokens."""
        numbers = torch.tensor([self.clips.numbers[row["video"]] for row in rows])
        tokens = torch.where(black.view(-1, 1, 1), unseen, self.videos.tokens[numbers])
        video = replace(self.videos, tokens=tokens, mask=self.videos.mask[numbers])
        video = model.violet.with_sound(video, self.sounds_of(numbers))
        texts = self.clips.processor.tokenizer([row["question"] for row in rows], padding=True, return_tensors="pt")
        labels = torch.tensor([self.labels[row["answer"]] for row in rows])
        given = {name: texts[name] for name in ("input_ids", "attention_mask")}
        return model(video_tokens=video, **given, labels=labels)


def with_ear(labels: dict[str, int]) -> VioletForQuestionAnswering:
    """The shipped violet-tiny with an encoder of sound; only that, the fusion and the head learn."""
    config = VioletConfig.from_pretrained(pretrained("violet-tiny")).to_dict() | {"audio_config": EAR}
    config["label2id"] = labels
    config["id2label"] = {number: answer for answer, number in labels.items()}
    model = VioletForQuestionAnswering.from_pretrained(
        pretrained("violet-tiny"), config=VioletConfig(**config), ignore_mismatched_sizes=True
    )
    for parameter in [*model.unread_parameters(), *model.violet.video_encoder.parameters()]:
        parameter.requires_grad_(False)
    return model


def numbers_of(names: Any) -> torch.Tensor:
    """Names of forms, colours and directions as numbers; one that is empty is not asked for."""
    if isinstance(names, str):
        return torch.tensor(ANSWERS.index(names) if names else IGNORE_INDEX)
    return torch.stack([numbers_of(one) for one in names])


def seen(clips: Clips) -> torch.Tensor:
    """(clips, 6): form, colour and direction of the first shape and of the second, which may be none."""
    absent = dict.fromkeys(("shape", "colour", "direction"), "none")
    pairs = [[*row["shapes"], absent][:2] for row in clips.rows]
    return numbers_of([[one[name] for one in pair for name in absent] for pair in pairs])


def heard(clips: Clips) -> torch.Tensor:
    """
    (clips, patches, 2). Of shapes in sight one after the other, form and colour of what is heard then; of shapes
    in sight together, the forms that make the low and the high tone.
    """
    patches, found = SAMPLES // PATCH, []
    for row in clips.rows:
        shapes = row["shapes"]
        if row["kind"] == "together":
            forms = {one["tone"]: one["shape"] for one in shapes}
            found.append([[forms["low"], forms["high"]]] * patches)
        else:
            found.append(
                [[one["shape"], one["colour"]] for one in (shapes[0], shapes[-1]) for _ in range(patches // 2)]
            )
    return numbers_of(found)


def varied(sounds: torch.Tensor, labels: torch.Tensor, draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Sounds (B, samples) at another loudness and sign, up to two patches earlier or later, and what is heard then."""
    shifts = draw.integers(-2 * PATCH, 2 * PATCH + 1, len(sounds)).tolist()
    moved = torch.stack([sound.roll(shift) for sound, shift in zip(sounds, shifts, strict=True)])
    factors = draw.uniform(0.4, 1.6, (len(sounds), 1)) * draw.choice([-1, 1], (len(sounds), 1))
    sounds = moved * torch.from_numpy(factors).float() + 0.01 * torch.randn_like(moved)
    return sounds, torch.stack([one.roll(round(shift / PATCH), 0) for one, shift in zip(labels, shifts, strict=True)])


def renamed(names: dict[str, str]) -> torch.Tensor:
    return torch.tensor([ANSWERS.index(names.get(name, name)) for name in ANSWERS])


TURNS: list[tuple[Any, torch.Tensor]] = [
    (lambda pixels: pixels.flip(-1), renamed({"left": "right", "right": "left"})),
    (lambda pixels: pixels.flip(-2), renamed({"up": "down", "down": "up"})),
    (
        lambda pixels: pixels.transpose(-1, -2),
        renamed({"left": "up", "up": "left", "right": "down", "down": "right"}),
    ),
]
"""Across, over, and along the diagonal; and the number that each answer has then."""


def turned(pixels: torch.Tensor, labels: torch.Tensor, draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips (B, frames, 3, H, W), each mirrored in each of three ways or not, and what they show then."""
    for turn, numbers in TURNS:
        chosen = torch.from_numpy(draw.random(len(pixels)) < 0.5)
        pixels = torch.where(chosen.view(-1, 1, 1, 1, 1), turn(pixels), pixels)
        asked = chosen.view(-1, *[1] * (labels.dim() - 1)) & (labels >= 0)
        labels = torch.where(asked, numbers[labels.clamp_min(0)], labels)
    return pixels, labels


def shifted(pixels: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    """Clips (B, frames, 3, H, W), each up to `SHIFT` pixels higher or lower and to a side; its edge is repeated."""
    # (B, frames, 3, H, W) -> (B, frames * 3, H + 2 * SHIFT, W + 2 * SHIFT)
    wide = torch.nn.functional.pad(pixels.flatten(1, 2), [SHIFT] * 4, mode="replicate")
    rows, columns = draw.integers(2 * SHIFT + 1, size=(2, len(pixels))).tolist()
    height, width = pixels.shape[-2:]
    parts = [one[:, y : y + height, x : x + width] for one, y, x in zip(wide, rows, columns, strict=True)]
    return torch.stack(parts).view(pixels.shape)


def right_of(said: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Of each question the share that is right, of the labels that are there and not "none"."""
    asked = labels > 0
    right = (said.argmax(-1) == labels) & asked
    rows = tuple(range(labels.dim() - 1))
    return [round(share, 3) for share in (right.sum(rows) / asked.sum(rows)).tolist()]


def with_ends(labels: torch.Tensor) -> torch.Tensor:
    """(clips, steps, questions) -> (clips, steps + 2, questions), the first step and the last once more."""
    return torch.cat([labels, labels[:, [0, -1]]], dim=1)


class Told(torch.nn.Module):
    """
    What is told of a clip: of each step by its state; of the first and the last by the clip's vector, too, if there is
    one. That vector is what pairs are compared by: without a label it learns order by heart.
    """

    def __init__(self, questions: int, states: int, vector: int = 0):
        super().__init__()
        self.shape = (questions, len(ANSWERS))
        self.each = torch.nn.Linear(states, questions * len(ANSWERS))
        self.ends = torch.nn.Linear(vector, 2 * questions * len(ANSWERS)) if vector else None

    def forward(self, states: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """(B, steps, D), (B, D') -> (B, steps, questions, answers), or of `with_ends`"""
        each = self.each(states).unflatten(-1, self.shape)
        if self.ends is None:
            return each
        return torch.cat([each, self.ends(vector).unflatten(-1, (2, *self.shape))], dim=1)


def loss_of_answers(said: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(said.flatten(0, -2), labels.flatten(), ignore_index=IGNORE_INDEX)


def teach_eye(violet: Any, train: Clips, test: Clips, seed: int) -> None:
    """
    Of shapes in sight one after the other, form and colour from the states of each step in time, and from the clip's
    vector; in every other clip colours are mixed, and not asked for. Of shapes in sight together what `seen` says,
    from the means of the clips' tokens.
    """
    draw, mixing = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    by_step, mixed = train.run == "match", torch.arange(BATCH) % 2 == 0

    def states(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, steps, D) and (B, D), or (B, 1, D) twice"""
        if by_step:
            output = violet.vision_model(pixel_values_videos=pixels)
            return output.last_hidden_state.mean((2, 3)), output.pooler_output
        means = violet.encode_videos(pixels).tokens.mean(1, keepdim=True)
        return means, means

    def labels_of(clips: Clips, steps: int) -> torch.Tensor:
        if not by_step:
            return seen(clips).unsqueeze(1)
        patches = SAMPLES // PATCH
        return with_ends(heard(clips)[:, (torch.arange(steps) * patches + patches // 2) // steps])

    def pixels_of(clips: Clips, numbers: list[int]) -> torch.Tensor:
        return clips.inputs(numbers, None, ["a"] * len(numbers))["pixel_values_videos"]

    example, vector = states(pixels_of(train, [0]))
    steps = example.shape[1]
    labels = labels_of(train, steps)
    told = Told(labels.shape[-1], example.shape[-1], vector.shape[-1] if by_step else 0)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = draw.integers(len(labels), size=BATCH)
        pixels, right = turned(pixels_of(train, rows.tolist()), labels[rows], draw)
        if by_step:
            pixels = shifted(pixels, draw)
            pixels[mixed] = mixed_colours(pixels[mixed], mixing)
            right[..., 1][mixed] = IGNORE_INDEX
        return pixels, right

    def loss(eye: Any, given: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return loss_of_answers(told(*states(given[0])), given[1])

    print("  eye", flush=True)
    violet.video_encoder.requires_grad_(True)
    fit(torch.nn.ModuleList([violet.video_encoder, told]), *EYE_SCHEDULES[train.run], batch, loss)
    with torch.no_grad():
        parts = np.array_split(np.arange(len(test.rows)), len(test.rows) // 50 + 1)
        said = torch.cat([told(*states(pixels_of(test, part.tolist()))) for part in parts])
    print("  eye, unseen clips:", right_of(said, labels_of(test, steps)), flush=True)


def teach_ear(violet: Any, train: Clips, test: Clips, seed: int) -> None:
    """
    From each state what is heard at its time, and from the vector of the whole what is heard first and last. A
    question for the whole by itself is learned late: each half's rhythm by itself, the second not within 5,000 steps.
    """
    draw, model, labels = np.random.default_rng(seed), violet.audio_encoder.model, heard(train)
    told = Told(labels.shape[-1], EAR["hidden_size"], EAR["hidden_size"])
    parts = np.array_split(np.arange(len(labels)), len(labels) // 50 + 1)
    sounds = torch.cat([train.sound(part.tolist())["audio_values"] for part in parts])
    positions = model.stream.positions.temporal
    seconds = torch.arange(len(positions)) * PATCH / RATE
    angles = 2 * torch.pi * seconds[:, None] * torch.linspace(*BEATS, positions.shape[1] // 2)
    positions.data = torch.cat([angles.sin(), angles.cos()], dim=1)

    def answer(sounds: torch.Tensor) -> torch.Tensor:
        output = model(sounds)
        return told(output.last_hidden_state, output.pooler_output)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.from_numpy(draw.integers(len(labels), size=EAR_BATCH))
        moved, right = varied(sounds[rows], labels[rows], draw)
        return moved, torch.cat([right, labels[rows][:, [0, -1]]], dim=1)

    def loss(ear: Any, given: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return loss_of_answers(answer(given[0]), given[1])

    print("  ear", flush=True)
    fit(torch.nn.ModuleList([model, told]), EAR_STEPS, EAR_RATE, batch, loss)
    with torch.no_grad():
        said = answer(test.sound(range(len(test.rows)))["audio_values"])
    print("  ear, unseen clips:", right_of(said, with_ends(heard(test))), flush=True)


@lru_cache(maxsize=6)
def taught(train: Clips, test: Clips, seed: int) -> dict[str, torch.Tensor]:
    """The weights of both encoders, with which every form of a seed begins."""
    torch.manual_seed(seed)
    if train.run == "ask":
        violet = with_ear({"yes": 0, "no": 1}).violet
    else:
        violet = VioletForPreTraining(configure(train.processor)).violet
    teach_eye(violet, train, test, seed)
    teach_ear(violet, train, test, seed)
    encoders = ("video_encoder.", "audio_encoder.")
    return {name: value for name, value in violet.state_dict().items() if name.startswith(encoders)}


def ask(train: Clips, test: Clips, steps: int, rate: float, seed: int, hears: bool) -> dict[str, float]:
    """Accuracy on unseen clips, of each type of question."""
    weights = taught(train, test, seed)
    torch.manual_seed(seed)
    draw, answers = np.random.default_rng(seed), sorted(row["answer"] for row in open_ended_rows(train))
    labels = {answer: number for number, answer in enumerate(dict.fromkeys(answers))}
    model = with_ear(labels)
    model.violet.load_state_dict(weights, strict=False)  # of the encoders
    learned, tested = (HeardClips(clips, model.violet, labels, hears) for clips in (train, test))
    pixels = train.inputs([0], None, ["a"])["pixel_values_videos"]
    with torch.no_grad():
        unseen = model.violet.encode_videos(torch.zeros_like(pixels)).tokens

    def batch(step: int) -> tuple[list[dict[str, Any]], torch.Tensor]:
        rows = [learned.asked[number] for number in draw.choice(len(learned.asked), BATCH, replace=False)]
        of_form = torch.tensor([row["question_type"] == "heard_shape" for row in rows])
        share = 1.0 if step < BLACK_STEPS else BLACK_SHARE
        return rows, of_form & (torch.rand(BATCH) < share) & hears

    fit(model, steps, rate, batch, lambda model, drawn: learned.ask(model, *drawn, unseen).loss)
    right: dict[str, list[bool]] = {}
    with torch.no_grad():
        for start in range(0, len(tested.asked), 100):
            rows = tested.asked[start : start + 100]
            output = tested.ask(model, rows, torch.zeros(len(rows), dtype=torch.bool), unseen)
            for row, said in zip(rows, output.logits.argmax(-1).tolist(), strict=True):
                right.setdefault(row["question_type"], []).append(said == labels[row["answer"]])
    of_all = [one for several in right.values() for one in several]
    return {"all": float(np.mean(of_all)), **{name: float(np.mean(one)) for name, one in sorted(right.items())}}


def open_ended_rows(clips: Clips) -> list[dict[str, Any]]:
    from datasets import Dataset

    return list(open_ended(Dataset.from_list(clips.rows)))


class Pairs:
    """Batches of clips with their captions and sounds, or with the sounds of others."""

    def __init__(self, clips: Clips, shuffled: bool, seed: int):
        self.clips, self.generator = clips, np.random.default_rng(seed)
        own = np.arange(len(clips.rows))
        self.sound_of = self.generator.permutation(own) if shuffled else own

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        numbers = self.generator.choice(len(self.clips.rows), BATCH, replace=False)
        captions = [self.clips.rows[number]["caption"] for number in numbers]
        batch = self.clips.inputs(numbers.tolist(), self.sound_of[numbers].tolist(), captions)
        return {**batch, "vatt_draws": torch.from_numpy(self.generator.integers(2**62, size=BATCH))}

    def __call__(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return model(**batch, objectives={"vatt": 1.0}).loss


def unlike_sounds(clips: Clips) -> list[int]:
    """The first `GALLERY` clips of which no two have the same forms and colours in the same order."""
    first: dict[tuple, int] = {}
    for number, row in enumerate(clips.rows):
        first.setdefault(tuple((one["shape"], one["colour"]) for one in row["shapes"]), number)
    if len(first) < GALLERY:
        raise ValueError(f"Only {len(first)} of {len(clips.rows)} clips sound unlike: draw more.")
    return list(first.values())[:GALLERY]


def match(
    train: Clips, test: Clips, steps: int, rate: float, seed: int, keep: float, shuffled: bool
) -> dict[str, float]:
    """Recall at 1 of the gallery: video to sound, and text to video; seconds of a step."""
    weights = taught(train, test, seed)
    torch.manual_seed(seed)
    model = VioletForPreTraining(configure(train.processor, objectives={"vatt": {"keep": keep}}))
    model.violet.load_state_dict(weights, strict=False)  # of the encoders
    model.freeze_unused({"vatt": 1.0})
    pairs = Pairs(train, shuffled, seed)
    seconds = fit(model, steps, rate, pairs.batch, pairs)
    numbers = unlike_sounds(test)
    batch = test.inputs(numbers, numbers, [test.rows[number]["caption"] for number in numbers])
    violet, own = model.violet, torch.arange(GALLERY)
    with torch.no_grad():
        inputs = {name: value for name, value in batch.items() if name.startswith(("pixel_values", "audio_"))}
        videos = violet.encode_videos(**inputs)
        sounds = violet.encode_sounds(batch["audio_values"], batch["audio_attention_mask"])
        to_sound = violet.embed_videos_beside_sounds(videos) @ violet.embed_sounds(sounds).T
        to_video = violet.embed_texts(batch["input_ids"], batch["attention_mask"]) @ violet.embed_videos(videos).T
    found = {"video_to_sound": to_sound, "text_to_video": to_video}
    return {name: float((one.argmax(1) == own).float().mean()) for name, one in found.items()} | {"seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", default=["ask", "match"], choices=["ask", "match"])
    parser.add_argument("--folder", type=Path, default=Path("outputs/sound_worth"), help="for the drawn files")
    parser.add_argument("--json", type=Path, default=Path("outputs/sound_worth.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    plan: dict[str, Any] = {}
    for run, split, tested in (("ask", "test_together", "test_heard"), ("match", "validation", "test")):
        if run in args.runs:
            counts = {**NONE, split: CLIPS[run]}, {**NONE, tested: 150 if run == "ask" else 400}
            train = moving_shapes(args.folder / f"{run}-train", **counts[0], seed=1, sound=True)[split]
            test = moving_shapes(args.folder / f"{run}-test", **counts[1], seed=0, sound=True)[tested]
            processor = hearing_processor() if run == "ask" else make_processor(train["caption"])
            clips = Clips(run, train, processor), Clips(run, test, processor)
            for form, settings in FORMS[run].items():
                measure = ask if run == "ask" else match
                plan[f"{run}, {form}"] = partial(measure, *clips, *SCHEDULES[run], **settings)
    results: dict[str, list[dict[str, float]]] = {}
    for name, run_one in plan.items():
        for seed in args.seeds:
            began = time.time()
            results.setdefault(name, []).append(run_one(seed=seed))
            print(name, f"seed {seed}:", json.dumps(results[name][-1]), f"{time.time() - began:.0f} s", flush=True)
        medians = {key: statistics.median(one[key] for one in results[name]) for key in results[name][0]}
        print(name, "median:", json.dumps(medians), flush=True)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, results)


if __name__ == "__main__":
    main()

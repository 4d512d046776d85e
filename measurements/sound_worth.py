"""What sound is worth on drawn shapes that make tones, and what half of the tokens cost.

    nice -n 19 python measurements/sound_worth.py [--seeds 0 1 2] [--runs ask match] [--json outputs/sound_worth.json]

Everything is read from real mp4 files (H.264 and AAC), on one thread.

ask       questions that need the ear ("what makes the low tone?", two shapes in sight), from models that hear and, as
          the control, from models that were trained and asked with every sound masked. Pictures leave two answers. The
          shipped violet-tiny, its video encoder kept, gets an ear (VATT's waveform encoder, 128 wide), which first
          learns from labels what makes the low and the high tone, and in which colour; then it answers questions. In a
          part of the rows whose answer can be heard the picture is black: else the model looks and does not listen.
match     picture to sound: recall at 1 among 64 unseen clips no two of which sound alike (other forms, colours or
          order), against models whose training sounds were shuffled among the clips; and text to video. With half of
          the tokens dropped in training (DropToken), and with all; the median of the seconds of a step beside each.
          `vatt-tiny`, from nothing.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
from violet.data.moving_shapes import HEARD_TYPES, SPLITS
from violet.modeling_violet.losses import IGNORE_INDEX
from violet.processing import train_wordpiece_tokenizer
from violet.processing.video_processing_violet import RAW_PIXELS
from violet.training.scratch import texts_from_scratch

RATE, SAMPLES, FRAMES, SIDE = 8000, 8000, 8, 64
GALLERY, BATCH = 64, 32
TAUGHT = ("heard_shape", "heard_colour")
"""Questions that the ear can answer by itself: what makes a tone is its pitch, and in which colour is its rhythm."""
SCHEDULES = {"ask": (1200, 1e-3), "match": (2500, 4e-3)}
"""Steps, and the peak of the learning rate."""
EAR_STEPS, BLACK_STEPS, BLACK_SHARE = 500, 100, 0.3
NONE = dict.fromkeys(SPLITS, 0)


class Clips:
    """Clips of drawn shapes in memory, read from their files."""

    def __init__(self, rows: Any, processor: VideoTextProcessor):
        reader = ClipReader(processor.video_processor)
        self.rows, self.processor = list(rows), processor
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


HEARD = {"sampling_rate": RATE, "num_samples": SAMPLES}


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
    """That of the shipped violet-tiny, which reads sound too."""
    own = VideoTextProcessor.from_pretrained(pretrained("violet-tiny"))
    for name, value in HEARD.items():
        setattr(own.video_processor, name, value)
    return own


def configure(processor: VideoTextProcessor, **settings: Any) -> Any:
    audio = named_configuration("vatt-tiny").audio_config.to_dict()
    heard = {"audio_config": {**audio, **HEARD}}
    return named_configuration(
        "vatt-tiny", **texts_from_scratch("vatt-tiny", processor.tokenizer), **heard, **settings
    )


def fit(model: Any, steps: int, rate: float, batch_of: Any, loss_of: Any) -> float:
    """Trains with AdamW and one cycle of the learning rate; the median of a step's seconds, without its batch."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=1e-3)
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
        tones: (clips, 4), the labels of what makes the low and the high tone, and of their colours.
    """

    def __init__(self, clips: Clips, violet: Any, labels: dict[str, int], hears: bool):
        self.clips, self.labels = clips, labels
        self.asked = [row for row in open_ended_rows(clips) if row["question_type"] in HEARD_TYPES]
        tokens, sounds = [], []
        for part in np.array_split(np.arange(len(clips.rows)), len(clips.rows) // 50 + 1):
            batch = clips.inputs(part.tolist(), part.tolist() if hears else None, ["a"] * len(part))
            with torch.no_grad():
                tokens.append(violet.encode_videos(batch["pixel_values_videos"]))
            sounds.append({name: value for name, value in batch.items() if name.startswith("audio_")})
        self.videos = replace(
            tokens[0],
            tokens=torch.cat([one.tokens for one in tokens]),
            mask=torch.cat([one.mask for one in tokens]),
        )
        self.sounds = {name: torch.cat([one[name] for one in sounds]) for name in sounds[0]}
        self.tones = torch.full((len(clips.rows), 4), IGNORE_INDEX)
        for row in self.asked:
            if row["question_type"] in TAUGHT:
                place = 2 * TAUGHT.index(row["question_type"]) + ("high" in row["question"])
                self.tones[clips.numbers[row["video"]], place] = labels[row["answer"]]

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
    config = VioletConfig.from_pretrained(pretrained("violet-tiny")).to_dict()
    audio = {**named_configuration("vatt-tiny").audio_config.to_dict(), "shared": False, "hidden_size": 128}
    config |= {"audio_config": {**audio, **HEARD}, "label2id": labels}
    config["id2label"] = {number: answer for answer, number in labels.items()}
    model = VioletForQuestionAnswering.from_pretrained(
        pretrained("violet-tiny"), config=VioletConfig(**config), ignore_mismatched_sizes=True
    )
    for parameter in [*model.unread_parameters(), *model.violet.video_encoder.parameters()]:
        parameter.requires_grad_(False)
    return model


def teach_ear(violet: Any, train: HeardClips, draw: np.random.Generator) -> None:
    """Low and high, what makes them and in which colour, from the means of the sounds' tokens."""
    width = violet.encode_sounds(**train.sounds_of(torch.arange(1))).tokens.shape[-1]
    head = torch.nn.Linear(width, 4 * len(train.labels))
    optimizer = torch.optim.AdamW([*violet.audio_encoder.parameters(), *head.parameters()], lr=1e-3)
    for step in range(EAR_STEPS):
        numbers = torch.from_numpy(draw.integers(len(train.tones), size=BATCH))
        said = head(violet.encode_sounds(**train.sounds_of(numbers)).tokens.mean(1)).view(-1, len(train.labels))
        loss = torch.nn.functional.cross_entropy(said, train.tones[numbers].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            print(f"    ear, step {step + 1}: {loss.item():.3f}", flush=True)


def ask(train: Clips, test: Clips, seed: int, steps: int, rate: float, hears: bool) -> dict[str, float]:
    """Accuracy on unseen clips, of each type of question."""
    torch.manual_seed(seed)
    draw, answers = np.random.default_rng(seed), sorted(row["answer"] for row in open_ended_rows(train))
    labels = {answer: number for number, answer in enumerate(dict.fromkeys(answers))}
    model = with_ear(labels)
    learned, tested = (HeardClips(clips, model.violet, labels, hears) for clips in (train, test))
    pixels = train.inputs([0], None, ["a"])["pixel_values_videos"]
    with torch.no_grad():
        unseen = model.violet.encode_videos(torch.zeros_like(pixels)).tokens
    if hears:
        teach_ear(model.violet, learned, draw)

    def batch(step: int) -> tuple[list[dict[str, Any]], torch.Tensor]:
        rows = [learned.asked[number] for number in draw.choice(len(learned.asked), BATCH, replace=False)]
        heard = torch.tensor([row["question_type"] in TAUGHT for row in rows])
        share = 1.0 if step < BLACK_STEPS else BLACK_SHARE
        return rows, heard & (torch.rand(BATCH) < share) & hears

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
    train: Clips, test: Clips, seed: int, steps: int, rate: float, keep: float, shuffled: bool
) -> dict[str, float]:
    """Recall at 1 of the gallery: video to sound, and text to video; seconds of a step."""
    torch.manual_seed(seed)
    model = VioletForPreTraining(configure(train.processor, objectives={"vatt": {"keep": keep}}))
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
    parser.add_argument("--clips", type=int, default=2000, help="to train on")
    parser.add_argument("--runs", nargs="+", default=["ask", "match"], choices=["ask", "match"])
    parser.add_argument("--folder", type=Path, default=Path("outputs/sound_worth"), help="for the drawn files")
    parser.add_argument("--json", type=Path, default=Path("outputs/sound_worth.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    data: dict[str, tuple[Clips, Clips]] = {}
    for run, split, tested in (("ask", "test_together", "test_heard"), ("match", "validation", "test")):
        if run in args.runs:
            counts = {**NONE, split: args.clips}
            train = moving_shapes(args.folder / f"{run}-train", **counts, seed=1, sound=True)[split]
            test = moving_shapes(
                args.folder / f"{run}-test", **{**NONE, tested: 150 if run == "ask" else 400}, seed=0, sound=True
            )[tested]
            processor = hearing_processor() if run == "ask" else make_processor(train["caption"])
            data[run] = Clips(train, processor), Clips(test, processor)
    plan: dict[str, Any] = {}
    if "ask" in data:
        plan["ask, with sound"] = lambda seed: ask(*data["ask"], seed, *SCHEDULES["ask"], hears=True)
        plan["ask, without sound"] = lambda seed: ask(*data["ask"], seed, *SCHEDULES["ask"], hears=False)
    if "match" in data:
        plan["match, half of the tokens"] = lambda seed: match(
            *data["match"], seed, *SCHEDULES["match"], 0.5, shuffled=False
        )
        plan["match, all tokens"] = lambda seed: match(*data["match"], seed, *SCHEDULES["match"], 1.0, shuffled=False)
        plan["match, sounds shuffled"] = lambda seed: match(
            *data["match"], seed, *SCHEDULES["match"], 0.5, shuffled=True
        )
    results: dict[str, list[dict[str, float]]] = {}
    for name, run_one in plan.items():
        for seed in args.seeds:
            began = time.time()
            results.setdefault(name, []).append(run_one(seed))
            print(name, f"seed {seed}:", json.dumps(results[name][-1]), f"{time.time() - began:.0f} s", flush=True)
        medians = {key: statistics.median(one[key] for one in results[name]) for key in results[name][0]}
        print(name, "median:", json.dumps(medians), flush=True)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, results)


if __name__ == "__main__":
    main()

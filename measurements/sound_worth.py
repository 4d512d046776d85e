"""What sound is worth on drawn shapes that make tones, and what half of the tokens cost.

    nice -n 19 python measurements/sound_worth.py [--seeds 0 1 2] [--steps 600] [--json outputs/sound_worth.json]

Everything is read from real mp4 files (H.264 and AAC). Models are `vatt-tiny`, from nothing, on one thread.

ask       questions that need the ear ("what makes the low tone?", two shapes in sight), from models that hear and, as
          the control, from models that were trained and asked with every sound masked. Pictures leave two answers.
match     picture to sound: recall at 1 among 64 unseen clips no two of which sound alike (other forms, colours or
          order), against models whose training sounds were shuffled among the clips; and text to video. With half of
          the tokens dropped in training (DropToken), and with all; the median of the seconds of a step beside each.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from violet import (
    VideoTextProcessor,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletVideoProcessor,
    named_configuration,
)
from violet.core.files import write_json
from violet.data import moving_shapes, open_ended
from violet.data.loading import ClipReader
from violet.data.moving_shapes import HEARD_TYPES, SPLITS
from violet.processing import train_wordpiece_tokenizer
from violet.training.collating import RAW_PIXELS
from violet.training.scratch import texts_from_scratch

RATE, SAMPLES, FRAMES, SIDE = 8000, 8000, 8, 64
GALLERY, BATCH = 64, 32
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


def make_processor(words: list[str]) -> VideoTextProcessor:
    frames = VioletVideoProcessor(
        num_frames=FRAMES,
        size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        sampling_rate=RATE,
        num_samples=SAMPLES,
    )
    return VideoTextProcessor(train_wordpiece_tokenizer(words, 400), frames, max_length=32)


def configure(processor: VideoTextProcessor, **settings: Any) -> Any:
    audio = named_configuration("vatt-tiny").audio_config.to_dict()
    heard = {"audio_config": {**audio, "sampling_rate": RATE, "num_samples": SAMPLES}}
    return named_configuration(
        "vatt-tiny", **texts_from_scratch("vatt-tiny", processor.tokenizer), **heard, **settings
    )


def fit(model: Any, steps: int, rate: float, loss_of: Any) -> float:
    """Trains with AdamW and one cycle of the learning rate; the median of a step's seconds, without its batch."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    seconds, model = [], model.train()
    for step in range(steps):
        batch = loss_of.batch(step)
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


class Questions:
    """Batches of questions that need the ear."""

    def __init__(self, clips: Clips, asked: list[dict[str, Any]], labels: dict[str, int], hears: bool, seed: int):
        self.clips, self.asked, self.labels, self.hears = clips, asked, labels, hears
        self.generator = np.random.default_rng(seed)

    def of(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        numbers = [self.clips.numbers[row["video"]] for row in rows]
        batch = self.clips.inputs(numbers, numbers if self.hears else None, [row["question"] for row in rows])
        return {**batch, "labels": torch.tensor([self.labels[row["answer"]] for row in rows])}

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        chosen = self.generator.choice(len(self.asked), BATCH, replace=False)
        return self.of([self.asked[number] for number in chosen])

    def __call__(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return model(**batch).loss


def ask(train: Clips, test: Clips, seed: int, steps: int, rate: float, hears: bool) -> dict[str, float]:
    """Accuracy on unseen clips, of each type of question."""
    torch.manual_seed(seed)
    heard = [[row for row in open_ended_rows(clips) if row["question_type"] in HEARD_TYPES] for clips in (train, test)]
    answers = sorted({row["answer"] for row in heard[0]})
    labels = {answer: number for number, answer in enumerate(answers)}
    config = configure(train.processor, id2label=dict(enumerate(answers)), label2id=labels)
    model = VioletForQuestionAnswering(config)
    for parameter in model.unread_parameters():
        parameter.requires_grad_(False)
    fit(model, steps, rate, Questions(train, heard[0], labels, hears, seed))
    questions = Questions(test, heard[1], labels, hears, seed)
    right: dict[str, list[bool]] = {}
    with torch.no_grad():
        for start in range(0, len(heard[1]), BATCH):
            rows = heard[1][start : start + BATCH]
            batch = questions.of(rows)
            wanted = batch.pop("labels")
            found = (model(**batch).logits.argmax(-1) == wanted).tolist()
            for row, one in zip(rows, found, strict=True):
                right.setdefault(row["question_type"], []).append(one)
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
    seconds = fit(model, steps, rate, Pairs(train, shuffled, seed))
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
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
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
            words = [
                text for row in train for text in (row["caption"], *(one["question"] for one in row["questions"]))
            ]
            processor = make_processor(words)
            data[run] = Clips(train, processor), Clips(test, processor)
    common = (args.steps, args.learning_rate)
    plan: dict[str, Any] = {}
    if "ask" in data:
        plan["ask, with sound"] = lambda seed: ask(*data["ask"], seed, *common, hears=True)
        plan["ask, without sound"] = lambda seed: ask(*data["ask"], seed, *common, hears=False)
    if "match" in data:
        plan["match, half of the tokens"] = lambda seed: match(*data["match"], seed, *common, 0.5, shuffled=False)
        plan["match, all tokens"] = lambda seed: match(*data["match"], seed, *common, 1.0, shuffled=False)
        plan["match, sounds shuffled"] = lambda seed: match(*data["match"], seed, *common, 0.5, shuffled=True)
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

"""
What CoCa learns on drawn shapes: captions of pairs of shape and colour that no training clip shows, directions with a
row per frame and without, and search beside contrast only. Medians over the seeds, and the least and most.

    python measurements/coca_learning.py [--seeds 1 2 3] [--only rows] [--steps 3000] [--json rows.json]

- rows: contrast and captions (weights 1 and 2), a learned row per frame;
- no rows: the same, where frames are flattened only;
- contrast: contrast only, with rows.

Each is trained from nothing on the clips of one shape of `moving_shapes` (mp4 files of 4 frames of 32 pixels), turned,
mirrored and reversed with the words of their directions. Contrast tells a clip from a nearly true sentence too. They
are measured on clips of one shape:

- exact: shape and colour of the written caption are right on the pairs of `test_unseen`; "exchanged": those of a
  caption of another clip, and "prior": how often two clips agree by themselves;
- direction: the direction's word on moving clips of `test`. Frames without an order tell whether a shape moves across
  or up and down, so that chance is 0.5;
- R@1: of the 64 sentences of a gallery of `test` clips that all differ.

The status is 1 if a median misses its bar. One run takes some 20 minutes on one core.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from violet import named_configuration
from violet.core.files import write_json
from violet.data.moving_shapes import COLOURS, DIRECTIONS, SHAPES, moving_shapes
from violet.modeling_violet import VioletForCaptioning, VioletForPreTraining
from violet.processing import decode_video, train_wordpiece_tokenizer

FRAMES, SIDE, BATCH, GALLERY, GALLERIES = 4, 32, 64, 64, 8
CLIPS = {"train": 10000, "validation": 0, "test": 1200, "test_unseen": 800, "test_together": 0}
FORMS: dict[str, tuple[dict[str, float], bool]] = {
    "rows": ({"vtc": 1.0, "caption": 2.0}, True),
    "no rows": ({"vtc": 1.0, "caption": 2.0}, False),
    "contrast": ({"vtc": 1.0}, True),
}
MEAN, STD = 0.45, 0.27
TURNED = {"left": "up", "up": "left", "right": "down", "down": "right"}
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


class Clips:
    """The clips of one shape of a split: bytes (clips, frames, 3, side, side), sentences, and what they show."""

    def __init__(self, split: Any):
        rows = [row for row in split if row["kind"] == "single"]
        frames = [np.asarray(decode_video(row["video"]).frames)[:FRAMES] for row in rows]
        # (clips, frames, side, side, 3) -> (clips, frames, 3, side, side)
        self.pixels = torch.from_numpy(np.stack(frames)).permute(0, 1, 4, 2, 3).contiguous()
        self.captions = [row["caption"] for row in rows]
        self.wrong = [row.get("wrong_caption") or row["caption"] for row in rows]

    def __len__(self) -> int:
        return len(self.captions)


def as_floats(clips: torch.Tensor) -> torch.Tensor:
    return (clips.float() / 255 - MEAN) / STD


Changed = tuple[torch.Tensor, list[str]]


def change(clip: torch.Tensor, texts: Sequence[str], draw: np.random.Generator) -> Changed:
    """A clip turned over its diagonal, mirrored both ways and reversed, each by chance, and sentences about it."""
    diagonal, across, over, back = draw.random(4) < 0.5
    become = {word: word for word in (*DIRECTIONS, "grows", "shrinks")}

    def exchange(words: dict[str, str]) -> None:
        for word, now in become.items():
            become[word] = words.get(now, now)

    if diagonal:
        clip = clip.transpose(-1, -2)
        exchange(TURNED)
    if across:
        clip = clip.flip(-1)
        exchange({"left": "right", "right": "left"})
    if over:
        clip = clip.flip(-2)
        exchange({"up": "down", "down": "up"})
    if back:
        clip = clip.flip(0)
        exchange({**OPPOSITE, "grows": "shrinks", "shrinks": "grows"})
    return clip, [" ".join(become.get(word, word) for word in text.split()) for text in texts]


def build(form: str, words: int) -> VioletForPreTraining:
    base = named_configuration("coca-tiny")
    vision = {**base.vision_config.to_dict(), "image_size": SIDE, "patch_size": 8, "num_hidden_layers": 2}
    pooler = {**(base.pooler or {}), "frame_rows": FORMS[form][1]}
    own = {"vision_config": vision, "pooler": pooler, "vocab_size": words, "max_position_embeddings": 16}
    return VioletForPreTraining(named_configuration("coca-tiny", **own))


def train(form: str, seed: int, steps: int, clips: Clips, tokenizer: Any) -> VioletForCaptioning:
    torch.manual_seed(seed)
    draw, weights = np.random.default_rng(seed), FORMS[form][0]
    model = build(form, len(tokenizer)).train()
    model.freeze_unused(list(weights))
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps + 1, pct_start=0.05)
    for step in range(steps):
        chosen = draw.integers(len(clips), size=BATCH)
        changed = [change(clips.pixels[row], (clips.captions[row], clips.wrong[row]), draw) for row in chosen]
        pixels = as_floats(torch.stack([clip for clip, _ in changed]))
        true, wrong = (
            tokenizer([texts[number] for _, texts in changed], padding=True, return_tensors="pt") for number in (0, 1)
        )
        inputs = {"input_ids": true["input_ids"], "attention_mask": true["attention_mask"]}
        inputs |= {"wrong_ids": wrong["input_ids"], "wrong_attention_mask": wrong["attention_mask"]}
        output = model(pixel_values_videos=pixels, objectives=weights, **inputs)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 250 == 0:
            losses = ", ".join(f"{name} {loss.item():.3f}" for name, loss in output.losses.items())
            print(f"  {form} seed {seed} step {step}: {losses}", flush=True)
    writer = VioletForCaptioning(model.config)
    writer.load_state_dict({key: value for key, value in model.state_dict().items() if key in writer.state_dict()})
    return writer.eval()


@torch.no_grad()
def write(model: VioletForCaptioning, clips: Clips, tokenizer: Any) -> list[str]:
    said: list[str] = []
    for part in clips.pixels.split(128):
        ids = model.generate(pixel_values_videos=as_floats(part), max_length=14, do_sample=False)
        said += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return said


def word_of(text: str, words: Sequence[str]) -> str:
    """The first of these words in a sentence, "" for none."""
    return next((word for word in text.split() if word in words), "")


def look(text: str) -> tuple[str, str]:
    """Colour and shape."""
    return word_of(text, tuple(COLOURS)), word_of(text, SHAPES)


def share(said: Sequence[Any], true: Sequence[Any]) -> float:
    return statistics.mean(one == other for one, other in zip(said, true, strict=True))


@torch.no_grad()
def recall_at_1(model: VioletForCaptioning, clips: Clips, tokenizer: Any, draw: np.random.Generator) -> float:
    right: list[bool] = []
    for _ in range(GALLERIES):
        seen: dict[str, int] = {}
        for row in draw.permutation(len(clips)):
            seen.setdefault(clips.captions[row], int(row))
        chosen = list(seen.values())[:GALLERY]
        texts = tokenizer([clips.captions[row] for row in chosen], padding=True, return_tensors="pt")
        videos = model.violet.embed_videos(model.violet.encode_videos(as_floats(clips.pixels[chosen])))
        scores = model.violet.embed_texts(texts["input_ids"], texts["attention_mask"]) @ videos.t()
        right += (scores.argmax(1) == torch.arange(len(chosen))).tolist()
    return statistics.mean(right)


def run(form: str, seed: int, steps: int, splits: dict[str, Clips], tokenizer: Any) -> dict[str, float]:
    """Trains one model and measures it."""
    model = train(form, seed, steps, splits["train"], tokenizer)
    found = {"R@1": recall_at_1(model, splits["test"], tokenizer, np.random.default_rng(seed))}
    if "caption" in FORMS[form][0]:
        unseen, test = splits["test_unseen"], splits["test"]
        said, true = [look(text) for text in write(model, unseen, tokenizer)], [look(text) for text in unseen.captions]
        other = np.random.default_rng(seed).permutation(len(true))
        counts = [true.count(one) / len(true) for one in set(true)]
        found |= {"exact": share(said, true), "exchanged": share([said[row] for row in other], true)}
        found["prior"] = sum(part**2 for part in counts)
        pairs = zip(write(model, test, tokenizer), test.captions, strict=True)
        moving = [(text, one) for text, one in pairs if " moves " in one]
        ways = tuple(DIRECTIONS)
        found["direction"] = statistics.mean(word_of(text, ways) == word_of(one, ways) for text, one in moving)
    return found


def missed_bars(medians: dict[str, dict[str, float]]) -> list[str]:
    """What a person should know of medians on the wrong side of their bars."""
    missed = []
    for form, found in medians.items():
        if "exact" in found and form == "rows":
            if found["exact"] < 0.95:
                missed.append(f"{form}: exact is {found['exact']:.3f}, below 0.95")
            if found["direction"] < 0.90:
                missed.append(f"{form}: direction is {found['direction']:.3f}, below 0.90")
        if "exact" in found and found["exchanged"] > found["prior"] + 0.05:
            missed.append(
                f"{form}: exchanged is {found['exchanged']:.3f}, above the prior {found['prior']:.3f} + 0.05"
            )
    if "no rows" in medians and medians["no rows"]["direction"] > 0.58:
        missed.append(f"no rows: direction is {medians['no rows']['direction']:.3f}, above 0.58")
    if {"rows", "contrast"} <= set(medians) and medians["rows"]["R@1"] < medians["contrast"]["R@1"] - 0.02:
        missed.append("rows: R@1 is more than 2 points below contrast only")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--share", type=float, default=1.0, help="of the clips that are drawn, for a try")
    parser.add_argument("--folder", type=Path, default=Path("outputs/coca_learning"), help="where clips are drawn")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = {name: int(count * options.share) for name, count in CLIPS.items()}
    drawn = moving_shapes(options.folder / f"{counts['train']}", **counts, size=SIDE, num_frames=FRAMES)
    splits = {name: Clips(drawn[name]) for name in ("train", "test", "test_unseen")}
    tokenizer = train_wordpiece_tokenizer(drawn["train"]["caption"], 512)
    results: dict[str, list[dict[str, float]]] = {}
    for form in options.only:
        results[form] = []
        for seed in options.seeds:
            results[form].append(run(form, seed, options.steps, splits, tokenizer))
            if options.json is not None:
                write_json(options.json, {"steps": options.steps, "seeds": options.seeds, "rows": results})
    medians = {
        form: {name: statistics.median(one[name] for one in found) for name in found[0]}
        for form, found in results.items()
    }
    for form, found in results.items():
        for name, median in medians[form].items():
            each = [one[name] for one in found]
            print(f"{form:10}{name:12}{median:.3f}  ({min(each):.3f}–{max(each):.3f})")
    missed = missed_bars(medians)
    print("\n".join(f"MISSED  {line}" for line in missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

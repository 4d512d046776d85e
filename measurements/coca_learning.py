"""
What CoCa learns on drawn shapes: captions of pairs of shape and colour that no training clip shows, directions with a
row per frame and without, and search beside contrast only. Medians over the seeds, and the least and most.

    python measurements/coca_learning.py [--seeds 1 2 3] [--only rows] [--steps 2400] [--json rows.json]

- rows: contrast and captions (weights 1 and 2), a learned row per frame;
- no rows: the same, where frames are flattened only;
- contrast: contrast only, with rows.

The image encoder first learns from single frames what they show and where (4,000 steps), as CoCa's own is trained on
pictures before it sees a video, and then at a twentieth of the others' rate: as fast as they it loses what it knows of
unseen pairs. Then each form is trained on the clips of one shape of `moving_shapes` (mp4 files of 4
frames of 32 pixels), turned, mirrored and reversed with the words of their directions. Every other batch is of all
clips and only for contrast, which tells a clip from a nearly true sentence too; the others are of clips whose
sentences name colour and shape, for contrast and captions, and half of them once more in mixed colours, with captions
that name a random one: else a caption's own colour word says which shape to write. Measured on clips of one shape:

- exact: shape and colour of the written caption are right on the pairs of `test_unseen`; "exchanged": those of a
  caption of another clip, and "prior": how often two clips agree by themselves;
- direction: the direction's word on moving clips of `test`. Frames without an order tell whether a shape moves across
  or up and down, so that chance is 0.5;
- R@1: of the 64 sentences of a gallery of `test` clips that all differ.

The status is 1 if a median misses its bar. One run takes some 20 minutes on one core.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from violet import named_configuration
from violet.core.files import write_json
from violet.data.moving_shapes import COLOURS, DIRECTIONS, PLACES, SHAPES, moving_shapes, plan_clip
from violet.modeling_violet import VioletForCaptioning, VioletForPreTraining
from violet.modeling_violet.losses import IGNORE_INDEX
from violet.processing import decode_video, train_wordpiece_tokenizer

FRAMES, SIDE, PATCH, BATCH, GALLERY, GALLERIES = 4, 32, 8, 64, 64, 8
CLIPS = {"train": 10000, "validation": 0, "test": 1200, "test_unseen": 800, "test_together": 0}
FORMS: dict[str, tuple[dict[str, float], bool]] = {
    "rows": ({"vtc": 1.0, "caption": 2.0}, True),
    "no rows": ({"vtc": 1.0, "caption": 2.0}, False),
    "contrast": ({"vtc": 1.0}, True),
}
LEARNING_RATE, ROWS_RATE, ENCODER_RATE = 1e-3, 20, 1 / 20
"""
The last two by the first. Rows begin at 0 beside states whose numbers are near 1, and one step moves a number by the
learning rate at most.
"""
ENCODER_STEPS, ENCODER_BATCH, CELLS = 4000, 96, 4
MEAN, STD = 0.45, 0.27
LOUDNESS, MIXED_CAPTIONS = 1.2, 32
"""Of mixed colours, and how many captions of clips in them a step learns."""
TURNED = {"left": "up", "up": "left", "right": "down", "down": "right"}
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


class Clips:
    """The clips of one shape of a split: bytes (clips, frames, 3, side, side), sentences, and what they show."""

    def __init__(self, split: Any, name: str):
        rows = [row for row in split if row["kind"] == "single"]
        frames = [np.asarray(decode_video(row["video"]).frames)[:FRAMES] for row in rows]
        # (clips, frames, side, side, 3) -> (clips, frames, 3, side, side)
        self.pixels = torch.from_numpy(np.stack(frames)).permute(0, 1, 4, 2, 3).contiguous()
        self.captions = [row["caption"] for row in rows]
        self.wrong = [row.get("wrong_caption") or row["caption"] for row in rows]
        looks = [look(caption) for caption in self.captions]
        self.described = np.array([number for number, words in enumerate(looks) if all(words)])
        self.colours, self.shapes = (
            torch.tensor([known.index(word) if word else IGNORE_INDEX for word in words])
            for known, words in zip((list(COLOURS), list(SHAPES)), zip(*looks, strict=True), strict=True)
        )
        plans = [plan_clip(0, name, number, FRAMES)[0] for number, row in enumerate(split) if row["kind"] == "single"]
        places = torch.tensor(np.array([[plan.x, plan.y] for plan in plans]))  # (clips, 2, frames)
        share = (places - PLACES[0]) / (PLACES[1] - PLACES[0])
        self.cells = (share * CELLS).long().clamp(0, CELLS - 1)

    def __len__(self) -> int:
        return len(self.captions)


def as_floats(clips: torch.Tensor) -> torch.Tensor:
    return (clips.float() / 255 - MEAN) / STD


def word_of(text: str, words: Sequence[str]) -> str:
    """The first of these words in a sentence, "" for none."""
    return next((word for word in text.split() if word in words), "")


def look(text: str) -> tuple[str, str]:
    """Colour and shape."""
    return word_of(text, tuple(COLOURS)), word_of(text, SHAPES)


class Batches:
    """
    Clips turned over their diagonal, mirrored across and over, and reversed, each by chance, with their sentences and
    wrong sentences, in which the directions' words are changed alike.
    """

    def __init__(self, clips: Clips, tokenizer: Any, seed: int):
        self.clips, self.draw = clips, np.random.default_rng(seed)
        self.texts = [tokenizer(texts, padding=True, return_tensors="pt") for texts in (clips.captions, clips.wrong)]
        tables = [self.changed_words(tokenizer, *change) for change in itertools.product((False, True), repeat=4)]
        self.tables = torch.stack(tables)  # (changes, vocabulary), the word that each word becomes

    @staticmethod
    def changed_words(tokenizer: Any, diagonal: bool, across: bool, over: bool, back: bool) -> torch.Tensor:
        become = {word: word for word in (*DIRECTIONS, "grows", "shrinks")}
        exchanges = (
            (diagonal, TURNED),
            (across, {"left": "right", "right": "left"}),
            (over, {"up": "down", "down": "up"}),
            (back, {**OPPOSITE, "grows": "shrinks", "shrinks": "grows"}),
        )
        for done, words in exchanges:
            become = {word: words.get(now, now) if done else now for word, now in become.items()}
        table = torch.arange(len(tokenizer))
        for word, now in become.items():
            table[tokenizer.convert_tokens_to_ids(word)] = tokenizer.convert_tokens_to_ids(now)
        return table

    def next(self, described: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Pixels and the texts' arguments, of all clips or of those whose sentences name colour and shape."""
        among = self.clips.described if described else np.arange(len(self.clips))
        rows = torch.from_numpy(self.draw.choice(among, BATCH))
        change = torch.from_numpy(self.draw.integers(16, size=BATCH))
        pixels = self.clips.pixels[rows]
        done = (change.unsqueeze(1) // torch.tensor([8, 4, 2, 1]) % 2).bool()  # the order of `changed_words`
        changed = (lambda x: x.transpose(-1, -2), lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.flip(1))
        for number, apply in enumerate(changed):
            pixels = torch.where(done[:, number].view(-1, 1, 1, 1, 1), apply(pixels), pixels)
        true, wrong = self.texts
        table = self.tables[change]
        return as_floats(pixels), {
            "input_ids": table.gather(1, true["input_ids"][rows]),
            "attention_mask": true["attention_mask"][rows],
            "wrong_ids": table.gather(1, wrong["input_ids"][rows]),
            "wrong_attention_mask": wrong["attention_mask"][rows],
        }


def build(form: str, words: int) -> VioletForPreTraining:
    base = named_configuration("coca-tiny")
    vision = {**base.vision_config.to_dict(), "image_size": SIDE, "patch_size": PATCH, "num_hidden_layers": 2}
    pooler = {**(base.pooler or {}), "frame_rows": FORMS[form][1]}
    own = {"vision_config": vision, "pooler": pooler, "vocab_size": words, "max_position_embeddings": 16}
    return VioletForPreTraining(named_configuration("coca-tiny", **own))


def cycle(groups: list[dict[str, Any]], rates: list[float], steps: int) -> Iterator[int]:
    """The numbers of the steps; behind each, groups of parameters take a step, in one cycle of their rates."""
    optimizer = torch.optim.AdamW(groups, lr=rates[0], weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps + 1, pct_start=0.05)
    for step in range(steps):
        yield step
        torch.nn.utils.clip_grad_norm_([one for group in groups for one in group["params"]], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def shape_adjustments(clips: Clips) -> torch.Tensor:
    """
    (colours + 1, shapes): log p(shape | colour) of the training clips, and 0 for a colour without a name (row -1). It
    is added to the logits in training only, so that the encoder does not take the colour for a hint: "Long-tail
    learning via logit adjustment", Menon et al. 2021, equation 10.
    """
    counts = torch.zeros(len(COLOURS), len(SHAPES))
    named = (clips.colours >= 0) & (clips.shapes >= 0)
    counts.index_put_((clips.colours[named], clips.shapes[named]), torch.ones(int(named.sum())), accumulate=True)
    shares = (counts / counts.sum(1, keepdim=True)).log().clamp(min=-30)
    return torch.cat([shares, torch.zeros(1, len(SHAPES))])


def mixed_colours(frames: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """(B, frames, 3, H, W), each clip's channels mixed by a random matrix: its shapes stay, its colours do not."""
    mix = nn.functional.normalize(torch.randn(len(frames), 3, 3, generator=draw), dim=2)
    return torch.einsum("bij,btjhw->btihw", mix * LOUDNESS, frames)


def train_encoder(encoder: Any, clips: Clips, seed: int) -> None:
    """
    From single frames: shape, colour, and the column and row, of four each, of the shape's middle. Colours are mixed
    in every other frame, whose colour is not asked for.
    """
    draw, width = torch.Generator().manual_seed(seed), encoder.config.hidden_size
    heads = (len(SHAPES), len(COLOURS), CELLS, CELLS)
    head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(heads)))
    parameters = [*encoder.parameters(), *head.parameters()]
    adjustments, mixed = shape_adjustments(clips), torch.arange(ENCODER_BATCH) % 2 == 0
    for step in cycle([{"params": parameters}], [LEARNING_RATE], ENCODER_STEPS):
        rows = torch.randint(len(clips), (ENCODER_BATCH,), generator=draw)
        frame = torch.randint(FRAMES, (ENCODER_BATCH,), generator=draw)
        pixels = as_floats(clips.pixels[rows, frame].unsqueeze(1))
        pixels[mixed] = mixed_colours(pixels[mixed], draw)
        said = list(head(encoder(pixels).last_hidden_state.mean((1, 2, 3))).split(heads, dim=1))
        colours = clips.colours[rows]
        said[0] = said[0] + adjustments[colours.clamp(min=-1)]
        colours = colours.masked_fill(mixed, IGNORE_INDEX)
        right = clips.shapes[rows], colours, clips.cells[rows, 0, frame], clips.cells[rows, 1, frame]
        losses = [nn.functional.cross_entropy(one, other) for one, other in zip(said, right, strict=True)]
        torch.stack(losses).sum().backward()
        if step % 250 == 249:
            print(
                f"  encoder seed {seed} step {step + 1}: {', '.join(f'{one.item():.3f}' for one in losses)}",
                flush=True,
            )


def recoloured(
    pixels: torch.Tensor, inputs: dict[str, torch.Tensor], colours: torch.Tensor, draw: torch.Generator
) -> dict[str, torch.Tensor]:
    """
    Clips of mixed colours, with captions that name a random one: neither tells the shape.

    Args:
        pixels: (B, frames, 3, H, W).
        inputs: of these clips and more, the first B are theirs.
        colours: the ids of the colours' words.
    """
    ids = inputs["input_ids"][: len(pixels)]
    others = colours[torch.randint(len(colours), (len(pixels), 1), generator=draw)]
    return {
        "pixel_values_videos": mixed_colours(pixels, draw),
        "input_ids": torch.where(torch.isin(ids, colours), others, ids),
        "attention_mask": inputs["attention_mask"][: len(pixels)],
    }


@lru_cache(maxsize=8)
def taught_encoder(seed: int, clips: Clips, words: int) -> dict[str, torch.Tensor]:
    """The weights of an encoder after `train_encoder`: every form of a seed begins with them."""
    torch.manual_seed(seed)
    encoder = build("rows", words).train().violet.video_encoder.coca_vit
    train_encoder(encoder, clips, seed)
    return encoder.state_dict()


def train(form: str, seed: int, steps: int, clips: Clips, tokenizer: Any) -> VioletForCaptioning:
    weights_of_encoder = taught_encoder(seed, clips, len(tokenizer))
    torch.manual_seed(seed)
    batches, weights = Batches(clips, tokenizer, seed), FORMS[form][0]
    model = build(form, len(tokenizer)).train()
    model.violet.video_encoder.coca_vit.load_state_dict(weights_of_encoder)
    model.freeze_unused(list(weights))
    kinds: dict[str, list[nn.Parameter]] = {"others": [], "encoder": [], "rows": []}
    for name, parameter in model.named_parameters():
        kind = "rows" if name.endswith("frame_rows.rows") else "encoder" if ".coca_vit." in name else "others"
        kinds[kind] += [parameter] if parameter.requires_grad else []
    groups: list[dict[str, Any]] = [{"params": parameters} for parameters in kinds.values()]
    groups[-1]["weight_decay"] = 0.0
    rates = [LEARNING_RATE, ENCODER_RATE * LEARNING_RATE, ROWS_RATE * LEARNING_RATE]
    colours = torch.tensor(tokenizer.convert_tokens_to_ids(list(COLOURS)))
    draw = torch.Generator().manual_seed(seed)
    for step in cycle(groups, rates, steps):
        described = bool(step % 2)
        pixels, inputs = batches.next(described)
        objectives = weights if described else {"vtc": 1.0}
        output = model(pixel_values_videos=pixels, objectives=objectives, **inputs)
        output.loss.backward()
        if described and "caption" in weights:
            captions = recoloured(pixels[:MIXED_CAPTIONS], inputs, colours, draw)
            model(**captions, objectives={"caption": weights["caption"]}).loss.backward()
        if step % 250 == 249:
            losses = ", ".join(f"{name} {loss.item():.3f}" for name, loss in output.losses.items())
            print(f"  {form} seed {seed} step {step + 1}: {losses}", flush=True)
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
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--share", type=float, default=1.0, help="of the clips that are drawn, for a try")
    parser.add_argument("--folder", type=Path, default=Path("outputs/coca_learning"), help="where clips are drawn")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = {name: int(count * options.share) for name, count in CLIPS.items()}
    drawn = moving_shapes(options.folder / f"{counts['train']}", **counts, size=SIDE, num_frames=FRAMES)
    splits = {name: Clips(drawn[name], name) for name in ("train", "test", "test_unseen")}
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

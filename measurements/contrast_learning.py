"""
What contrast of other kinds is worth, each against its own absence and against shuffled pairs: medians over the seeds,
and the least and most.

    python measurements/contrast_learning.py mtc|omnisource|mil_nce [--seeds 1 2 3] [--steps 600] [--json rows.json]

- mtc: videos of four clips, each a square of another colour, with a sentence each. Which of the four does a sentence
  belong to (chance 0.25)? LF-VILA's global loss, with temporal contrast as published and corrected, and corrected with
  each paragraph's sentences in another order.
- omnisource: subtitles three in four of which are another clip's, and captions of middle frames. Recall@1 of true
  texts among 64 clips. Subtitles only, with captions (`vsc_fc`), with captions of other frames.
- mil_nce: four texts a clip, of which one is true. Recall@1 among 64 clips. One of the four at random, MIL-NCE of all
  four, MIL-NCE with texts of which none is.

Drawn in memory: squares of six colours in one of 4 x 4 cells, which step on in one of four directions. AdamW at 1e-3.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch

from violet import named_configuration
from violet.core.files import write_json
from violet.modeling_violet import VioletForPreTraining

BATCH, FRAMES, SIDE, CELLS, GALLERY, TESTED = 32, 4, 32, 4, 64, 512
COLOURS = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=torch.float32)
STEPS = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])
CLS, SEP, COLOUR, ROW, COLUMN, WAY = 2, 3, 5, 11, 15, 19
NOISE = 0.75
TEXTS, CLIPS, WORDS = 4, 4, 6
Batch = dict[str, Any]


def draw_scenes(count: int, generator: torch.Generator, combinations: torch.Tensor | None = None) -> torch.Tensor:
    """(count, 4): colour, row and column of the middle frame, direction."""
    if combinations is None:
        combinations = torch.randint(len(COLOURS) * CELLS**2, (count,), generator=generator)
    way = torch.randint(len(STEPS), (count,), generator=generator)
    return torch.stack([combinations // CELLS**2, combinations // CELLS % CELLS, combinations % CELLS, way], dim=1)


def paint(scenes: torch.Tensor, side: int = SIDE, frames: int = FRAMES) -> torch.Tensor:
    """Scenes -> clips (count, frames, 3, side, side): a square that steps on, round the ring, on black."""
    cell = side // CELLS
    clips = torch.zeros(len(scenes), frames, 3, side, side)
    for number, (colour, row, column, way) in enumerate(scenes.tolist()):
        for frame in range(frames):
            down, right = (STEPS[way] * (frame - frames // 2)).tolist()
            top, left = (row + down) % CELLS * cell, (column + right) % CELLS * cell
            clips[number, frame, :, top : top + cell, left : left + cell] = COLOURS[colour][:, None, None]
    return clips


def tell(scenes: torch.Tensor, with_way: bool = True) -> torch.Tensor:
    """(count, 6): [CLS] colour row column direction [SEP]; of a frame there is no direction but padding (0) behind."""
    first, ends = torch.full((len(scenes),), CLS), torch.full((len(scenes),), SEP)
    words = [first, COLOUR + scenes[:, 0], ROW + scenes[:, 1], COLUMN + scenes[:, 2]]
    last = [WAY + scenes[:, 3], ends] if with_way else [ends, torch.zeros_like(ends)]
    return torch.stack([*words, *last], dim=1)


def as_texts(ids: torch.Tensor, name: str = "") -> Batch:
    return {f"{name}ids" if name else "input_ids": ids, f"{name}attention_mask": (ids > 0).long()}


def two_towers(objectives: Batch) -> VioletForPreTraining:
    base = named_configuration("clip-vip-tiny")
    vision = {**base.vision_config.to_dict(), "image_size": SIDE, "patch_size": SIDE // CELLS}
    own = {"vision_config": vision, "video_grid_size": CELLS, "objectives": objectives}
    return VioletForPreTraining(named_configuration("clip-vip-tiny", **own))


def long_model(objectives: Batch) -> VioletForPreTraining:
    text = {**named_configuration("lf-vila-tiny").text_config.to_dict(), "sentence_length": WORDS}
    own = {"text_config": text, "projection_type": "paragraph_and_clips", "objectives": objectives}
    return VioletForPreTraining(named_configuration("lf-vila-tiny", fusion_model_config={"model_type": "none"}, **own))


def omnisource_batch(form: str, generator: torch.Generator) -> Batch:
    scenes = draw_scenes(BATCH, generator)
    pixels = paint(scenes)
    other = draw_scenes(BATCH, generator)
    wrong = torch.rand(BATCH, 1, generator=generator) < NOISE
    batch = {"pixel_values_videos": pixels, **as_texts(tell(torch.where(wrong, other, scenes)))}
    shown = draw_scenes(BATCH, generator) if form == "captions of other frames" else scenes
    middle = {"pixel_values_middle_frames": pixels[:, FRAMES // 2 : FRAMES // 2 + 1]}
    return batch if form == "subtitles" else batch | middle | as_texts(tell(shown, False), "frame_caption_")


def mil_nce_batch(form: str, generator: torch.Generator) -> Batch:
    scenes = draw_scenes(BATCH, generator)
    texts = torch.stack([tell(draw_scenes(BATCH, generator)) for _ in range(TEXTS)], dim=1)  # (batch, L, X)
    place = torch.randint(TEXTS, (BATCH,), generator=generator)
    if form != "none is true":
        texts[torch.arange(BATCH), place] = tell(scenes)
    one = texts[torch.arange(BATCH), torch.randint(TEXTS, (BATCH,), generator=generator)]
    batch = {"pixel_values_videos": paint(scenes), **as_texts(one)}
    if form == "one at random":
        return batch
    return batch | as_texts(texts, "several_") | {"several_mask": torch.ones(BATCH, TEXTS, dtype=torch.long)}


def long_videos(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Videos of four clips of two frames, all of other colours; and their sentences (count, 4, 6)."""
    scenes = draw_scenes(count * CLIPS, generator).view(count, CLIPS, 4)
    scenes[..., 0] = torch.rand(count, len(COLOURS), generator=generator).argsort(1)[:, :CLIPS]
    clips = paint(scenes.flatten(0, 1), side=64, frames=2).unflatten(0, (count, CLIPS)).flatten(1, 2)
    return clips, tell(scenes.flatten(0, 1), False).unflatten(0, (count, CLIPS))


def mtc_batch(form: str, generator: torch.Generator) -> Batch:
    rows = BATCH // 2
    pixels, sentences = long_videos(rows, generator)
    if form == "sentences in another order":
        order = torch.rand(rows, CLIPS, generator=generator).argsort(1)
        sentences = sentences.gather(1, order[..., None].expand_as(sentences))
    batch = {"pixel_values_videos": pixels, **as_texts(sentences.flatten(1))}
    noise = torch.rand(rows, 3, 8, generator=generator)
    return batch | {"temporal_noise": noise, "temporal_video_ids": torch.arange(rows)}


@torch.no_grad()
def recall_at_1(model: VioletForPreTraining, generator: torch.Generator) -> float:
    """Of true texts among clips that all differ in colour or place."""
    right = []
    for _ in range(TESTED // GALLERY):
        chosen = torch.randperm(len(COLOURS) * CELLS**2, generator=generator)[:GALLERY]
        scenes = draw_scenes(GALLERY, generator, chosen)
        texts = as_texts(tell(scenes))
        videos = model.violet.embed_videos(model.violet.encode_videos(paint(scenes)))
        scores = model.violet.embed_texts(texts["input_ids"], texts["attention_mask"]) @ videos.t()
        right += (scores.argmax(1) == torch.arange(GALLERY)).tolist()
    return statistics.mean(right)


@torch.no_grad()
def own_clip(model: VioletForPreTraining, generator: torch.Generator) -> float:
    """
    How often a sentence is nearest to its own clip of its video's, by the layers for both, or by those for whole
    videos and paragraphs, whichever is more often right: without temporal contrast the former learn nothing.
    """
    projection: Any = model.violet.projection
    pixels, sentences = long_videos(TESTED // CLIPS, generator)
    texts = as_texts(sentences.flatten(1))
    video, text = model.violet.encode_videos(pixels), model.violet.encode_texts(*texts.values())
    whole = (
        projection.video_projection(projection.clip_states(video)),
        projection.text_projection(projection.text_states(text)[:, 1:]),
    )
    shares = []
    for clips, said in ((projection.clips(video), projection.sentences(text)), whole):
        unit = torch.nn.functional.normalize(clips, dim=-1)
        nearest = torch.einsum("bsd,bcd->bsc", said, unit).argmax(-1)
        shares.append((nearest == torch.arange(CLIPS)).float().mean().item())
    return max(shares)


Form = tuple[dict[str, float], Batch]
CONTRAST: Form = ({"contrast": 1.0}, {"contrast": {}})
TEMPORAL = {"contrast": 1.0, "temporal_contrast": 0.25}
QUESTIONS: dict[str, tuple[Callable, Callable, Callable, dict[str, Form]]] = {
    "mtc": (long_model, mtc_batch, own_clip, {
        "global loss": CONTRAST,
        "temporal contrast, as published": (TEMPORAL, {"contrast": {}, "temporal_contrast": {"corrected": False}}),
        "temporal contrast": (TEMPORAL, {"contrast": {}, "temporal_contrast": {}}),
        "sentences in another order": (TEMPORAL, {"contrast": {}, "temporal_contrast": {}}),
    }),
    "omnisource": (two_towers, omnisource_batch, recall_at_1, {
        "subtitles": CONTRAST,
        "captions": ({"omnisource": 1.0}, {"omnisource": {}}),
        "captions of other frames": ({"omnisource": 1.0}, {"omnisource": {}}),
    }),
    "mil_nce": (two_towers, mil_nce_batch, recall_at_1, {
        "one at random": CONTRAST,
        "MIL-NCE": ({"mil_nce": 1.0}, {"mil_nce": {"texts": TEXTS}}),
        "none is true": ({"mil_nce": 1.0}, {"mil_nce": {"texts": TEXTS}}),
    }),
}  # fmt: skip


def run(question: str, form: str, seed: int, steps: int) -> float:
    build, batch_of, measure, forms = QUESTIONS[question]
    weights, objectives = forms[form]
    torch.manual_seed(seed)
    model = build(objectives).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps + 1, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        model(**batch_of(form, generator), objectives=weights).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return measure(model.eval(), torch.Generator().manual_seed(10_000 + seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="a file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = {}
    for form in QUESTIONS[options.question][3]:
        rows[form] = [run(options.question, form, seed, options.steps) for seed in options.seeds]
        found = rows[form]
        print(f"{form:34} {statistics.median(found):.3f}  ({min(found):.3f} to {max(found):.3f})", flush=True)
    if options.json:
        write_json(options.json, {"question": options.question, "steps": options.steps, "shares": rows})


if __name__ == "__main__":
    main()

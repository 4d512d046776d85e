"""
What a text model sees of a clip that it is given as weights only: colour and direction of one moving shape, through
the fusion `low_rank` (VLoRA).

    nice -n 19 python measurements/vlora_learning.py [--seeds 0 1 2] [--steps 400] [--clips 8000] [--json rows.json]

Clips are mp4 files of the drawn shapes (8 frames of 32 pixels), read back. As VLoRA starts from a trained encoder, a
small UniFormerV2 first learns colour and direction from labels, by a linear layer on the means of its frames, pooled
in order (400 steps). Then it, the generator and a text-only fusion (width 64, 4 layers, every second one gets weights
of rank 8) learn to answer two questions about each clip; A is computed once a clip for both.

Measured on 1,000 other clips: as they are; with the clip of another row, which must leave chance (a sixth for colours,
a quarter for directions); and with their frames in mixed order, which must leave direction at chance and keep colour.
Prints the medians over the seeds, and the least and most. The status is 1 if a median misses its bar. Some minutes a
seed on one core.
"""

import argparse
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from violet.configuration import VioletConfig
from violet.core.files import write_json
from violet.data.moving_shapes import COLOURS, DIRECTIONS, _encode, draw_clip, plan_clip
from violet.modeling_violet import VioletForQuestionAnswering
from violet.modeling_violet.projection import NUM_BASES, pool_in_order
from violet.processing import decode_video

FRAMES, SIDE, BATCH, TESTED = 8, 32, 32, 1000
ENCODER_STEPS, LEARNING_RATE = 400, 1e-3
QUESTIONS = {"colour": [2, 5, 6, 7, 8, 3], "direction": [2, 9, 10, 7, 11, 3]}
"""[CLS] what colour is it [SEP]; [CLS] where does it move [SEP]."""
ANSWERS = {"colour": list(COLOURS), "direction": list(DIRECTIONS)}
CONFIG: dict[str, Any] = {
    "vision_config": {
        **{"model_type": "uniformerv2", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4},
        **{"patch_size": 8, "image_size": SIDE, "local_blocks": 2, "global_layers": (1, 2, 3), "global_dropout": 0.0},
    },
    "fusion_model_config": {
        **{"model_type": "low_rank", "generator_size": 64, "generator_blocks": 2, "rank": 8, "skip_layers": 2},
    },
    **{
        "vocab_size": 12,
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 256,
    },
    **{"max_position_embeddings": 8, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    **{"classifier_dropout": 0.0, "initializer_range": 0.08, "fusion_norm": "pre", "hidden_frame_order": False},
    **{"bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4},
    **{
        "num_video_frames": FRAMES,
        "video_grid_size": 4,
        "clip_summary": True,
        "num_labels": sum(map(len, ANSWERS.values())),
    },
}
AT_LEAST = {"colour": 0.90, "direction": 0.90, "mixed colour": 0.90}
AT_MOST = {"exchanged colour": 0.25, "exchanged direction": 0.32, "mixed direction": 0.35}


def draw(folder: Path, split: str, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Clips (number, frames, 3, side, side) of one moving shape whose colour has a name, normalised, as their mp4 files
    hold them; and the answers (number, 2), colour and direction.
    """
    file = folder / f"{split}-{number}.pt"
    if file.exists():
        return tuple(torch.load(file, weights_only=True))
    (folder / split).mkdir(parents=True, exist_ok=True)
    paths, answers, index = [], [], 0
    while len(paths) < number:
        subjects = plan_clip(0, split, index, FRAMES)
        if len(subjects) == 1 and subjects[0].action == "moves" and subjects[0].colour:
            paths.append(folder / split / f"{index}.mp4")
            if not paths[-1].exists():
                _encode(draw_clip(0, split, index, SIDE, FRAMES)[0], paths[-1])
            colour = ANSWERS["colour"].index(subjects[0].colour)
            answers.append([colour, len(COLOURS) + ANSWERS["direction"].index(subjects[0].direction)])
        index += 1
    with ThreadPoolExecutor(8) as readers:
        clips = list(readers.map(lambda path: torch.as_tensor(decode_video(path).frames), paths))
    # (clips, frames, side, side, 3) -> (clips, frames, 3, side, side)
    pixels = torch.stack(clips).permute(0, 1, 4, 2, 3)
    torch.save([pixels, torch.tensor(answers)], file)
    return pixels, torch.tensor(answers)


def asked(clips: int) -> dict[str, torch.Tensor]:
    """Both questions about each of that many clips."""
    ids = torch.tensor(list(QUESTIONS.values())).repeat(clips, 1)
    return {"input_ids": ids, "video_index": torch.arange(clips).repeat_interleave(len(QUESTIONS))}


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels.float() / 255 - 0.45) / 0.225


@torch.no_grad()
def accuracy(model: VioletForQuestionAnswering, pixels: torch.Tensor, answers: torch.Tensor) -> dict[str, float]:
    """By question. What is said is the best answer of all ten, of either question."""
    said = []
    for part in normalised(pixels).split(100):
        said.append(model(part, **asked(len(part))).logits.argmax(-1).view(-1, len(QUESTIONS)))
    right = (torch.cat(said) == answers).float().mean(0)
    return dict(zip(QUESTIONS, right.tolist(), strict=True))


def train_encoder(encoder: nn.Module, pixels: torch.Tensor, answers: torch.Tensor) -> None:
    """Colour and direction from the encoder's frames, see the top of the file."""
    width = NUM_BASES * CONFIG["vision_config"]["hidden_size"]
    head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(map(len, ANSWERS.values()))))
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=LEARNING_RATE)
    colours = len(COLOURS)
    for step in range(ENCODER_STEPS):
        rows = torch.randint(len(pixels), (BATCH,))
        frames = encoder(normalised(pixels[rows])).last_hidden_state.mean((2, 3))  # -> (batch, frames, width)
        said = head(pool_in_order(frames, frames.new_ones(frames.shape[:2]), NUM_BASES))
        colour = nn.functional.cross_entropy(said[:, :colours], answers[rows, 0])
        direction = nn.functional.cross_entropy(said[:, colours:], answers[rows, 1] - colours)
        optimiser.zero_grad()
        (colour + direction).backward()
        optimiser.step()
        if step % 100 == 99:
            print(f"  encoder, step {step + 1}: {colour.item():.3f} and {direction.item():.3f}", flush=True)


def run(seed: int, steps: int, clips: int, folder: Path) -> dict[str, float]:
    """Trains one model and measures it."""
    torch.manual_seed(seed)
    started = time.perf_counter()
    pixels, answers = draw(folder, "train", clips)
    model = VioletForQuestionAnswering(VioletConfig(**CONFIG)).train()
    train_encoder(model.violet.video_encoder.backbone, pixels, answers)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        rows = torch.randint(len(pixels), (BATCH,))
        loss = model(normalised(pixels[rows]), **asked(BATCH), labels=answers[rows].flatten()).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            size = model.violet.fusion.measures["low_rank_size"].item()
            print(f"  seed {seed} step {step}: loss {loss.item():.3f}, low_rank_size {size:.3f}", flush=True)
    model.eval()
    pixels, answers = draw(folder, "test", TESTED)
    mixed = torch.stack([clip[torch.randperm(FRAMES)] for clip in pixels])
    found = accuracy(model, pixels, answers)
    for name, changed in (("exchanged", pixels.roll(1, 0)), ("mixed", mixed)):
        found |= {f"{name} {question}": share for question, share in accuracy(model, changed, answers).items()}
    return {**found, "seconds": round(time.perf_counter() - started)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--clips", type=int, default=8000)
    parser.add_argument("--folder", type=Path, default=Path("outputs/vlora_learning"), help="of the drawn clips")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [run(seed, options.steps, options.clips, options.folder) for seed in options.seeds]
    missed = False
    for name in rows[0]:
        values = [row[name] for row in rows]
        median = statistics.median(values)
        here = median < AT_LEAST.get(name, 0.0) or median > AT_MOST.get(name, float("inf"))
        missed |= here
        print(f"{name:24}{median:.3f} ({min(values):.3f}–{max(values):.3f}){'  MISSED' * here}", flush=True)
    if options.json is not None:
        write_json(options.json, json.loads(json.dumps(dict(zip(map(str, options.seeds), rows, strict=True)))))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

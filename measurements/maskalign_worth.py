"""
What alignment with a trained teacher is worth: an encoder that never saw a label answers which shape and which colour
a drawn picture shows, by a linear layer on its frozen states. The teacher is a small ViT that was trained on both
questions; the student sees 30 % of the patches and learns the teacher's states of them. Three students: aligned;
untrained; and aligned with the teacher's states of another picture. The first must answer better than the two others
for every seed, and the last must not fall below the loss of the best constant.

    python measurements/maskalign_worth.py [--seeds 11 12 13] [--steps 600] [--teacher_steps 600] [--json rows.json]

Pictures of 64 pixels, patches of 8, both ViTs of 4 blocks of width 96, batches of 64, AdamW at 1e-3; one thread,
minutes. Of single pictures, so nothing of movement is to be expected. Status 1 if a bar is missed.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import ViTConfig, ViTModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from violet.core.files import write_json
from violet.data.moving_shapes import WORDS, draw_clip
from violet.modeling_violet.encoders.maskalign_vit import MaskAlignVisionConfig, MaskAlignVisionModel
from violet.modeling_violet.objectives.align import (
    AlignOptions,
    MaskAlignHead,
    distance,
    draw_kept,
    normalised,
    num_kept,
)
from violet.modeling_violet.objectives.align_teacher import MaskAlignTeacher
from violet.modeling_violet.tokens import gather_tokens

SIDE, PATCH, WIDTH, BLOCKS = 64, 8, 96, 4
GRID = (1, SIDE // PATCH, SIDE // PATCH)
CELLS = GRID[1] * GRID[2]
BATCH, LEARNING_RATE = 64, 1e-3
LEARNED, PROBED, TESTED = 3000, 200, 1000
QUESTIONS = ("shape", "colour")
OPTIONS = AlignOptions(layers="top2", teacher_width=WIDTH, teacher_layers=BLOCKS)


def pictures(count: int, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (count, 1, 3, side, side), normalised, and (count, 2) the numbers of their shape and colour."""
    frames, answers, index = [], [], start
    while len(frames) < count:
        clip, annotation = draw_clip(5, "validation", index, SIDE, 2)
        if annotation["kind"] == "single":
            frames.append(torch.from_numpy(clip[0]))
            (told,) = annotation["shapes"]
            answers.append([WORDS[question].index(told[question]) for question in QUESTIONS])
        index += 1
    # (count, side, side, 3) -> (count, 1, 3, side, side)
    pixels = torch.stack(frames).permute(0, 3, 1, 2).unsqueeze(1).float() / 255
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (pixels - mean) / std, torch.tensor(answers)


def batches(count: int, steps: int, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield torch.randint(count, (BATCH,), generator=generator), generator


def trained_teacher(pixels: torch.Tensor, answers: torch.Tensor, steps: int, seed: int) -> MaskAlignTeacher:
    """A ViT that was taught both questions."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": BLOCKS}
    network = ViTModel(
        ViTConfig(**sizes, num_attention_heads=4, image_size=SIDE, patch_size=PATCH), add_pooling_layer=False
    )
    head = nn.Linear(WIDTH, sum(len(WORDS[question]) for question in QUESTIONS))
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=LEARNING_RATE)
    lengths = [len(WORDS[question]) for question in QUESTIONS]
    for rows, _ in batches(len(pixels), steps, seed):
        parts = head(network(pixels[rows, 0]).last_hidden_state[:, 0]).split(lengths, dim=1)
        loss = sum(nn.functional.cross_entropy(part, answers[rows, i]) for i, part in enumerate(parts))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return MaskAlignTeacher(network, layers=OPTIONS.layers)


def aligned(
    teacher: MaskAlignTeacher, pixels: torch.Tensor, steps: int, seed: int, shuffled: bool
) -> tuple[MaskAlignVisionModel, float, float]:
    """The student after that many steps, its mean loss in the last fifty, and that of the best `constant`."""
    torch.manual_seed(seed + 1)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 4}
    student = MaskAlignVisionModel(MaskAlignVisionConfig(**sizes, image_size=SIDE, patch_size=PATCH))
    head = MaskAlignHead(OPTIONS, BLOCKS, WIDTH)
    optimizer = torch.optim.AdamW([*student.parameters(), *head.parameters()], lr=LEARNING_RATE, betas=(0.9, 0.95))
    losses = [0.0]
    for rows, generator in batches(len(pixels), steps, seed + 2):
        kept, wanted = kept_targets(teacher(pixels[rows], GRID), generator, shuffled)
        blocks = student(pixels[rows], kept=kept, output_hidden_states=True).hidden_states[1:]
        pairs = list(zip(head(blocks), wanted, strict=True))
        loss = torch.stack([distance(one, other, OPTIONS.loss) for one, other in pairs]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    last = losses[-50:]
    return student.eval(), sum(last) / len(last), constant(teacher, pixels)


def kept_targets(
    states: torch.Tensor, generator: torch.Generator, shuffled: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """
    The places that a picture keeps, (batch, 1, K), and the teacher's states there, (batch, 1 + K, width) a level,
    its own or those of another picture. Places are drawn by its own importance, which tells nothing of the other.
    """
    noise = torch.empty(len(states), 1, CELLS).exponential_(generator=generator)
    kept = draw_kept(noise, num_kept(CELLS, OPTIONS.ratio), states[:, :, 1:, -1])
    places = torch.cat([torch.zeros_like(kept[..., :1]), kept + 1], dim=-1).flatten(0, 1)
    told = (states.roll(1, 0) if shuffled else states)[..., :-1].flatten(0, 1)
    levels = gather_tokens(told, places).unflatten(-1, (2, WIDTH)).unbind(-2)
    return kept, [normalised(one, OPTIONS.target_norm) for one in levels]


@torch.no_grad()
def constant(teacher: MaskAlignTeacher, pixels: torch.Tensor) -> float:
    """
    The loss of the best answer that knows a kept token's place and not the picture. Of smooth L1 that is the mean over
    pictures in which what lies further off than 1 counts less (Huber's estimate of location).
    """
    states = torch.cat([teacher(part, GRID) for part in pixels[:1024].split(128)])
    kept, wanted = kept_targets(states, torch.Generator().manual_seed(0), shuffled=True)
    places = torch.cat([torch.zeros_like(kept[..., :1]), kept + 1], dim=-1).flatten(0, 1)
    found = []
    for level, other in enumerate(wanted):
        of_all = normalised(states[:, 0, :, :-1].unflatten(-1, (2, WIDTH))[..., level, :], OPTIONS.target_norm)
        centre = of_all.mean(0)
        for _ in range(10):
            weights = 1 / (of_all - centre).abs().clamp(min=1)
            centre = (weights * of_all).sum(0) / weights.sum(0)
        found.append(distance(gather_tokens(centre.expand_as(of_all), places), other, OPTIONS.loss))
    return torch.stack(found).mean().item()


@torch.no_grad()
def probed(student: MaskAlignVisionModel, seen: tuple, unseen: tuple) -> dict[str, float]:
    """The share of new pictures of which a linear layer (ridge) on the mean of the patches answers each question."""
    features = [torch.cat([student(part).pooler_output for part in one.split(250)]) for one, _ in (seen, unseen)]
    mean, spread = features[0].mean(0), features[0].std(0) + 1e-6
    known, new = (torch.cat([(one - mean) / spread, torch.ones(len(one), 1)], 1).double() for one in features)
    shares = {}
    for number, question in enumerate(QUESTIONS):
        goals = nn.functional.one_hot(seen[1][:, number], len(WORDS[question])).double()
        ridge = known.t() @ known + 10 * torch.eye(known.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(ridge, known.t() @ goals)
        shares[question] = float(((new @ weights).argmax(1) == unseen[1][:, number]).float().mean())
    return shares


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--teacher_steps", type=int, default=600)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    learned, seen, unseen = pictures(LEARNED, 0), pictures(PROBED, 20_000), pictures(TESTED, 40_000)
    rows: list[dict[str, Any]] = []
    missed = False
    for seed in options.seeds:
        teacher = trained_teacher(*learned, options.teacher_steps, seed)
        found: dict[str, dict[str, float]] = {}
        for name, steps, shuffled in (
            ("untrained", 0, False),
            ("aligned", options.steps, False),
            ("shuffled targets", options.steps, True),
        ):
            student, loss, constant = aligned(teacher, learned[0], steps, seed, shuffled)
            found[name] = {**probed(student, seen, unseen), "loss": loss, "constant": constant}
            rows.append({"seed": seed, "student": name, **found[name]})
            print(seed, name, {key: round(value, 4) for key, value in found[name].items()}, flush=True)
        for question in QUESTIONS:
            others = max(found[name][question] for name in ("untrained", "shuffled targets"))
            missed |= found["aligned"][question] <= others
        missed |= found["shuffled targets"]["loss"] < 0.98 * found["shuffled targets"]["constant"]
        if options.json is not None:
            write_json(options.json, {"rows": rows})
    for name in ("untrained", "aligned", "shuffled targets"):
        own = [row for row in rows if row["student"] == name]
        told = ", ".join(f"{key} {statistics.median(row[key] for row in own):.3f}" for key in (*QUESTIONS, "loss"))
        print(f"{name:20}{told}")
    print("a bar was MISSED" if missed else "every bar was met")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

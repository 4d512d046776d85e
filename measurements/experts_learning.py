"""
What experts are worth where tasks conflict: one layer that answers four questions about a clip, a dense MLP or experts
at the same cost a token. The median error over the seeds, and the least and most.

    python measurements/experts_learning.py [--seeds 1 2 3] [--steps 800] [--json rows.json]

Real mp4 files of one drawn shape pass violet-tiny, which stays as it is, and whose vector of the clip is the state of
four tokens, one for each task: the number of its colour (of 6), of its shape (of 4), and both counted from the other
end. Two tasks of a pair read the same of a clip and must say the opposite by the same six outputs, so that a layer has
to tell all four apart. The error is the share of wrong answers on clips that were not seen, over all tasks; by chance
0.79.

- dense: an MLP, 3 wide inside: what four tasks need does not fit.
- experts choose: four of them, each 3 wide, capacity factor 1: as many multiplications as the dense layer.
- tokens choose: the same, each token takes one expert, with a balance loss. No bar: for comparison.
- dense, four times as wide: as many parameters as the experts, at four times their cost. No bar: for comparison.

The median of experts that choose must be at most half of the dense layer's: the status is 1 if it is not. One thread,
a few minutes, most of them for drawing and encoding the clips, which are kept.
What a layer of IMP-B's size costs: `violet speed experts`.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForPreTraining, AutoProcessor

import violet
from violet.core.files import write_json
from violet.data import moving_shapes
from violet.data.moving_shapes import COLOURS, SHAPES
from violet.modeling_violet.experts import ExpertOptions, VioletExperts, measures_of, record_experts

WIDTH, INNER, NUMBER, TASKS = 32, 3, 4, 4
BATCH, LEARNING_RATE = 64, 3e-3
CLIPS = {"test": 2400, "validation": 1200}
"""What is drawn; half of it shows one shape. The first is trained on, the second measured."""
FORMS: dict[str, dict[str, Any] | int] = {
    "dense": 1,
    "experts choose": {},
    "tokens choose": {"choice": "tokens", "capacity_factor": 1.25},
    "dense, four times as wide": 4,
}
BARRED = ("experts choose",)
SHARE = 0.5


def vectors(folder: Path, split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """violet-tiny's vectors (clips, width) of the clips that show one shape, and the answers (clips, tasks); kept."""
    file = folder / f"{split}-{count}.pt"
    if not file.exists():
        rows = moving_shapes(str(folder / "clips"), seed=0, **{**dict.fromkeys(SPLITS, 0), **CLIPS})[split]
        rows = rows.filter(lambda kind: kind == "single", input_columns="kind")
        name = violet.pretrained("violet-tiny")
        model, processor = AutoModelForPreTraining.from_pretrained(name).eval(), AutoProcessor.from_pretrained(name)
        found = []
        with torch.no_grad():
            for start in range(0, len(rows), 32):
                clips = processor(videos=list(rows["video"][start : start + 32]))
                tokens = model.violet.encode_videos(clips["pixel_values_videos"])
                found.append(
                    tokens.patches().mean((1, 2, 3))
                )  # (clips, steps, rows, columns, width) -> (clips, width)
        answers = torch.tensor([answers_of(row["shapes"][0]) for row in rows])
        torch.save((torch.cat(found), answers), file)
    clips, answers = torch.load(file, weights_only=True)
    return clips, answers


SPLITS = ("train", "validation", "test", "test_unseen", "test_together", "pretrain", "test_heard")


def answers_of(shape: dict[str, Any]) -> list[int]:
    """Of each task the right output: two pairs of opposites."""
    colour, form = list(COLOURS).index(shape["colour"]), SHAPES.index(shape["shape"])
    return [colour, len(COLOURS) - 1 - colour, form, len(SHAPES) - 1 - form]


class Answers(nn.Module):
    """Four tokens of a clip through one layer, and six outputs for all tasks."""

    def __init__(self, width: int, form: dict[str, Any] | int):
        super().__init__()
        self.clip = nn.Linear(width, WIDTH)
        self.tasks = nn.Parameter(torch.randn(TASKS, WIDTH))
        self.norm, self.last = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        if isinstance(form, int):
            inner = INNER * form
            self.layer: nn.Module = nn.Sequential(
                nn.Linear(WIDTH, inner, bias=False),
                nn.GELU(approximate="tanh"),
                nn.Linear(inner, WIDTH, bias=False),
            )
        else:
            self.layer = VioletExperts(ExpertOptions(number=NUMBER, **form), WIDTH, INNER, "gelu_pytorch_tanh")
            self.layer.start_weights()
        self.head = nn.Linear(WIDTH, len(COLOURS))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """(clips, width) -> (clips, tasks, outputs)"""
        x = self.clip(clips).unsqueeze(1) + self.tasks  # (clips, tasks, WIDTH)
        return self.head(self.last(x + self.layer(self.norm(x))))


def error_of(form: str, seed: int, steps: int, folder: Path) -> dict[str, float]:
    """Trains one layer; the share of wrong answers, and what is measured of experts."""
    torch.manual_seed(seed)
    (clips, answers), (other, right) = (vectors(folder, split, count) for split, count in CLIPS.items())
    mean, deviation = clips.mean(0), clips.std(0) + 1e-6
    clips, other = (clips - mean) / deviation, (other - mean) / deviation
    model = Answers(clips.shape[1], FORMS[form])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(clips), (BATCH,), generator=generator)
        with record_experts() as reports:
            logits = model(clips[rows])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), answers[rows].flatten())
        loss = loss + sum(one.loss() for one in reports)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    model.eval()
    with torch.no_grad(), record_experts() as reports:
        wrong = (model(other).argmax(-1) != right).float()
    found = {"error": float(wrong.mean())}
    found |= {f"error of task {task + 1}": float(wrong[:, task].mean()) for task in range(TASKS)}
    return found | {name: float(value) for name, value in measures_of(reports).items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--folder", type=Path, default=Path("outputs/experts_learning"), help="for the clips")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, float]]] = {}
    for form in FORMS:
        rows[form] = [error_of(form, seed, options.steps, options.folder) for seed in options.seeds]
        errors = [row["error"] for row in rows[form]]
        median = statistics.median(errors)
        print(f"{form:28}{median:.3f} ({min(errors):.3f} to {max(errors):.3f})", flush=True)
        if options.json is not None:
            write_json(options.json, rows)
    medians = {form: statistics.median(row["error"] for row in found) for form, found in rows.items()}
    missed = [form for form in BARRED if medians[form] > SHARE * medians["dense"]]
    for form in missed:
        print(f"MISSED: {form} {medians[form]:.3f} is above half of the dense layer's {medians['dense']:.3f}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())

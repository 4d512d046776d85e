"""
What dropping tokens saves: a step of `align` with MaskAlign's B/16 on pictures of 224 pixels, of which 70 % of the
patches are hidden (59 of 197 tokens), against the same on all patches. Forward and backward, the teacher's states
stored; and beside it the whole step with a live CLIP-B/16. Random weights: a step's time does not depend on them.

    python measurements/maskalign_cost.py [--pictures 4] [--rounds 5] [--threads 2] [--json rows.json]

The rows take turns, and each has its median over the rounds. The status is 1 if the student's share is above 0.40.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from violet.core.files import write_json
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

AT_MOST = 0.40
SIDE, GRID = 224, (1, 14, 14)
CELLS = GRID[1] * GRID[2]


class Step:
    """One step of the student on given pictures."""

    def __init__(self, pictures: int):
        torch.manual_seed(0)
        self.student = MaskAlignVisionModel(MaskAlignVisionConfig()).train()
        self.head = MaskAlignHead(AlignOptions(), 12, 768)
        network = CLIPVisionModel(CLIPVisionConfig(hidden_size=768, intermediate_size=3072, patch_size=16))
        self.teacher = MaskAlignTeacher(network)
        self.pixels = torch.randn(pictures, 1, 3, SIDE, SIDE)
        self.noise = torch.empty(pictures, 1, CELLS).exponential_()
        self.stored = self.teacher(self.pixels, GRID)

    def learn(self, ratio: float, targets: torch.Tensor) -> None:
        """Forward and backward of the student and its head."""
        kept = draw_kept(self.noise, num_kept(CELLS, ratio), targets[:, :, 1:, -1])
        blocks = self.student(self.pixels, kept=kept, output_hidden_states=True).hidden_states[1:]
        places = torch.cat([torch.zeros_like(kept[..., :1]), kept + 1], dim=-1).flatten(0, 1)
        wanted = gather_tokens(targets[..., :-1].flatten(0, 1), places).unflatten(-1, (5, 768)).unbind(-2)
        pairs = zip(self.head(blocks), wanted, strict=True)
        loss = torch.stack([distance(one, normalised(other, "whiten"), "smoothl1") for one, other in pairs]).mean()
        loss.backward()
        self.student.zero_grad()
        self.head.zero_grad()

    def rows(self) -> dict[str, Callable[[], object]]:
        return {
            "all patches": lambda: self.learn(0.0, self.stored),
            "ratio 0.7": lambda: self.learn(0.7, self.stored),
            "ratio 0.7 and a live teacher": lambda: self.learn(0.7, self.teacher(self.pixels, GRID)),
            "the teacher": lambda: self.teacher(self.pixels, GRID),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=4, help="of a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = Step(options.pictures).rows()
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(options.rounds + 1):
        for name, step in rows.items():
            start = time.perf_counter()
            step()
            if number:  # the first round warms up
                taken[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    for name, seconds in medians.items():
        share = seconds / medians["all patches"]
        print(f"{name:32}{seconds:8.3f} s{share:8.2f} ({min(taken[name]):.3f}–{max(taken[name]):.3f})")
    if options.json is not None:
        write_json(options.json, {"seconds": taken, "pictures": options.pictures, "threads": options.threads})
    missed = medians["ratio 0.7"] > AT_MOST * medians["all patches"]
    print(f"asked for: at most {AT_MOST} of all patches{'  MISSED' * missed}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

"""
Which of two squares came first, the red or the blue one? CLIP-ViP's vision tower, small and from random weights, with
its places in time and without them, and each frame by itself with the mean of the frames' vectors. Without places in
time, and in a mean, no order is left: both must stay at chance, 0.5. Prints the medians over the seeds, and the least
and most.

    python measurements/clip_vip_order.py [--seeds 11 12 13] [--steps 600] [--json rows.json]

3 layers of width 96, clips of 4 frames of 32 pixels in patches of 8, 64 clips a step, AdamW at 1e-3; measured on 2,048
new clips. The status is 1 if a median misses its bar.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from violet.core.files import write_json
from violet.modeling_violet.encoders.clip_vip import ClipVipVisionConfig, ClipVipVisionModel

FRAMES, SIDE, PATCH = 4, 32, 8
BATCH, LEARNING_RATE, TESTED = 64, 1e-3, 2048
FORMS: dict[str, dict[str, Any]] = {
    "places in time": {},
    "places in time, copied proxies": {"proxy_init": "class_copies"},
    "no places in time": {"temporal_size": None},
    "mean of frames": {"temporal_size": None, "num_proxies": 1},
}
AT_LEAST = {"places in time": 0.95, "places in time, copied proxies": 0.95}
AT_MOST = {"no places in time": 0.55, "mean of frames": 0.55}


def draw(clips: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Black clips (clips, frames, 3, side, side) from 0 to 1 with a red square in one frame and a blue one in another,
    each in a random cell; and (clips,) whether red came first. Black is 0: at -1 its large embedding, the same in
    every cell, hides the places in time, and nothing is learned in 300 steps.
    """
    pixels = torch.zeros(clips, FRAMES, 3, SIDE, SIDE)
    frames = torch.rand(clips, FRAMES, generator=generator).argsort(1)[:, :2]  # two different ones: of red, of blue
    cells = torch.randint(SIDE // PATCH, (clips, 2, 2), generator=generator) * PATCH
    for clip in range(clips):
        for colour, channel in enumerate((0, 2)):
            row, column = cells[clip, colour].tolist()
            pixels[clip, frames[clip, colour], channel, row : row + PATCH, column : column + PATCH] = 1.0
    return pixels, (frames[:, 0] < frames[:, 1]).long()


class OrderModel(nn.Module):
    """The tower, and a linear layer on the clip's vector, or on the mean of its frames' vectors."""

    def __init__(self, of_frames: bool, **changes: Any):
        super().__init__()
        config: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3}
        config |= {"num_attention_heads": 4, "image_size": SIDE, "patch_size": PATCH, "temporal_size": FRAMES}
        self.tower = ClipVipVisionModel(ClipVipVisionConfig(**{**config, **changes}))
        self.head = nn.Linear(96, 2)
        self.of_frames = of_frames

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if not self.of_frames:
            return self.head(self.tower(pixels).pooler_output)
        # (clips, frames, ...) -> (clips * frames, 1, ...) -> (clips, frames, width)
        vectors = self.tower(pixels.flatten(0, 1).unsqueeze(1)).pooler_output.unflatten(0, (-1, FRAMES))
        return self.head(vectors.mean(1))


def order_accuracy(form: str, seed: int, steps: int) -> float:
    """The share of new clips that are right after training."""
    torch.manual_seed(seed)
    model = OrderModel(form == "mean of frames", **FORMS[form])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        pixels, first = draw(BATCH, generator)
        nn.functional.cross_entropy(model(pixels), first).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    pixels, first = draw(TESTED, torch.Generator().manual_seed(seed + 1_000_000))
    with torch.no_grad():
        return float((model(pixels).argmax(1) == first).float().mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    missed = False
    for form in FORMS:
        found[form] = [order_accuracy(form, seed, options.steps) for seed in options.seeds]
        median = statistics.median(found[form])
        missed_here = median < AT_LEAST.get(form, 0.0) or median > AT_MOST.get(form, 1.0)
        missed |= missed_here
        print(
            f"{form:32}{median:.3f} ({min(found[form]):.3f}–{max(found[form]):.3f}){'  MISSED' * missed_here}",
            flush=True,
        )
        if options.json is not None:
            write_json(options.json, json.loads(json.dumps(found)))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

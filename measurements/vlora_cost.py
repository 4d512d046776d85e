"""
What a clip costs in the fusion as low-rank weights (VLoRA), beside the plain way, its tokens in the sequence:
parameters, FLOPs, time and bytes of a cache, forward only, of BERT-base's fusion with the suggested generator (width
256, 4 blocks, rank 16, every fourth layer), for clips of 4 and of 16 frames of 224 pixels with 25 words.

    python measurements/vlora_cost.py [--rows 8] [--rounds 5] [--json rows.json]

One thread; the ways take turns, and each has its median over the rounds. Weights are random: time does not depend on
them. The status is 1 if fusion and generator together take more than a quarter of the plain way's time at 4 frames, or
the fusion by itself more than 1.15 times as long at 16 frames as at 4.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from violet.configuration import VioletConfig
from violet.core.files import write_json
from violet.modeling_violet.fusions import build_fusion
from violet.modeling_violet.tokens import Tokens

WORDS, CELLS, WIDTH, LAYERS = 25, 7 * 7, 768, 12
AT_MOST, SAME = 0.25, 1.15


def tokens(rows: int, length: int) -> Tokens:
    return Tokens(torch.randn(rows, length, WIDTH), torch.ones(rows, length, dtype=torch.long))


def flops(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counted:
        call()
    return counted.get_total_flops()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = build_fusion(VioletConfig(attn_implementation="sdpa")).eval().requires_grad_(False)
    own = VioletConfig(attn_implementation="sdpa", fusion_model_config={"model_type": "low_rank"})
    weighted: Any = build_fusion(own).eval().requires_grad_(False)
    text, ways, found = tokens(options.rows, WORDS), {}, {}
    parts = {"plain": plain, "generator": weighted.generator, "only the fusion": weighted.layers}
    with torch.no_grad():
        for frames in (4, 16):
            video = tokens(options.rows, frames * (1 + CELLS))
            ready = weighted.prepare(video)
            ways[f"plain, {frames} frames"] = lambda video=video: plain({"video": video, "text": text})
            ways[f"generator, {frames} frames"] = lambda video=video: weighted.prepare(video)
            ways[f"only the fusion, {frames} frames"] = lambda ready=ready: weighted({"video": ready, "text": text})
            kept = {"plain": 2 * LAYERS * video.tokens[0].numel(), "generator": 0}
            kept["only the fusion"] = ready.prepared[0].numel()
            for part, module in parts.items():
                count = sum(one.numel() for one in module.parameters())
                found[f"{part}, {frames} frames"] = {"parameters": count, "bytes a clip": 4 * kept[part]}
        for name, call in ways.items():
            found[name]["flops"] = flops(call)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for round_number in range(options.rounds + 1):
            for name, call in ways.items():
                if name == "plain, 16 frames" and round_number > 1:
                    continue  # no bar is on it, and it takes longer than all others together
                started = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - started)
    for name in ways:
        found[name]["seconds"] = statistics.median(seconds[name][1:])  # the first round warms up
        row = found[name]
        print(
            f"{name:26}{row['parameters'] / 1e6:8.1f} M parameters {row['flops'] / 1e9:8.1f} GFLOP "
            f"{row['seconds']:8.3f} s {row['bytes a clip'] / 1e6:8.2f} MB kept a clip",
            flush=True,
        )

    def took(name: str) -> float:
        return found[name]["seconds"]

    share = (took("only the fusion, 4 frames") + took("generator, 4 frames")) / took("plain, 4 frames")
    growth = took("only the fusion, 16 frames") / took("only the fusion, 4 frames")
    print(f"fusion and generator / plain at 4 frames: {share:.3f} (at most {AT_MOST})")
    print(f"only the fusion at 16 frames / at 4: {growth:.3f} (at most {SAME})")
    if options.json is not None:
        write_json(options.json, {"rows": found, "share": share, "growth": growth})
    return int(share > AT_MOST or growth > SAME)


if __name__ == "__main__":
    sys.exit(main())

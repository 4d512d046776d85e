"""
What gradient caching costs: a contrastive batch of 64 rows in parts of 8, against eight batches of 8 (time) and one
batch of 8 (memory); the whole batch at once beside them.

    python measurements/gradient_caching.py [--rounds 3] [--threads 1] [--json rows.json]

Two towers of width 256 (6 and 4 layers), clips of 8 frames of 96 pixels, captions of 24 words, float32 on the CPU.
Each case has a process of its own. Memory is by how much the first step raises the process's peak; the batch itself,
the weights and the gradients stand before it. The status is 1 if a bar is missed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from violet import named_configuration
from violet.core.files import write_json
from violet.modeling_violet import VioletForPreTraining
from violet.training.gradient_caching import backward_in_parts, split_batch

PART, PARTS, WORDS, FRAMES, SIDE = 8, 8, 24, 8, 96
WEIGHTS = {"vtc": 1.0}
CASES = ("eight batches of 8", "64 in parts of 8", "one batch of 8", "64 at once")
MOST_TIME, MOST_MEMORY = 1.6, 1.2


def build() -> tuple[VioletForPreTraining, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    vision = {"model_type": "clip_vip", "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}
    vision |= {"num_attention_heads": 4, "patch_size": 16, "image_size": SIDE, "temporal_size": FRAMES}
    text = {**named_configuration("clip-vip-tiny").text_config.to_dict(), "hidden_size": 256}
    text |= {"intermediate_size": 1024, "num_hidden_layers": 4}
    config = named_configuration(
        "clip-vip-tiny", vision_config=vision, text_config=text, video_grid_size=SIDE // 16, num_video_frames=FRAMES
    )
    rows = PART * PARTS
    batch = {
        "pixel_values_videos": torch.randn(rows, FRAMES, 3, SIDE, SIDE),
        "input_ids": torch.randint(5, 500, (rows, WORDS)),
        "attention_mask": torch.ones(rows, WORDS, dtype=torch.long),
    }
    return VioletForPreTraining(config).train(), batch


def plain(model: VioletForPreTraining, batch: dict[str, torch.Tensor]) -> None:
    model(**batch, objectives=WEIGHTS).loss.backward()


def in_parts(model: VioletForPreTraining, batch: dict[str, torch.Tensor]) -> None:
    def compare(sets: dict[str, torch.Tensor]) -> tuple[torch.Tensor, None]:
        return model.compare_embeddings(sets, WEIGHTS, **batch).loss, None

    backward_in_parts(
        split_batch(batch, PART * PARTS, PART),
        lambda part: model(**part, objectives=WEIGHTS, only_embeddings=True).embeddings,
        compare,
        lambda part, given, last: model(**part, objectives=WEIGHTS, embedding_gradients=given).loss.backward(),
        model.shared(model.find_objectives(WEIGHTS)),
    )


def step_of(case: str, model: VioletForPreTraining, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    parts = split_batch(batch, PART * PARTS, PART)
    if case == "eight batches of 8":
        return lambda: [plain(model, part) for part in parts] and None
    if case == "one batch of 8":
        return lambda: plain(model, parts[0])
    return (lambda: in_parts(model, batch)) if case == "64 in parts of 8" else (lambda: plain(model, batch))


def memory(name: str) -> int:
    """A line of /proc/self/status, in bytes: VmRSS, what is held, or VmHWM, the most that was."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def measure(case: str, threads: int, steps: int) -> dict[str, float]:
    """Seconds of a step, the median, and by how many bytes the first one raises the peak."""
    torch.set_num_threads(threads)
    model, batch = build()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    plain(model, {name: rows[:1] for name, rows in batch.items()})  # what the libraries take once
    step = step_of(case, model, batch)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory("VmRSS")
    step()
    raised, seconds = memory("VmHWM") - before, []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "raised": raised}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each case, in turn; the median counts")
    parser.add_argument("--steps", type=int, default=3, help="steps of each process that are timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="a file for the rows")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.threads, options.steps)))
        return 0
    found: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for _ in range(options.rounds):
        for case in CASES:
            command = [sys.executable, __file__, "--case", case, f"--threads={options.threads}"]
            said = subprocess.run([*command, f"--steps={options.steps}"], check=True, capture_output=True, text=True)
            found[case].append(json.loads(said.stdout.splitlines()[-1]))
    rows = {
        case: {key: statistics.median(one[key] for one in runs) for key in ("seconds", "raised")}
        for case, runs in found.items()
    }
    for case, row in rows.items():
        print(f"{case:20} {row['seconds']:7.2f} s   {row['raised'] / 2**20:8.1f} MiB")
    eight, cached, one = (rows[case] for case in CASES[:3])
    times, bytes_ = cached["seconds"] / eight["seconds"], cached["raised"] / one["raised"]
    print(
        f"time {times:.2f} of eight batches (at most {MOST_TIME}), memory {bytes_:.2f} of one (at most {MOST_MEMORY})"
    )
    if options.json:
        write_json(options.json, {"cases": rows, "time": times, "memory": bytes_})
    return int(times > MOST_TIME or bytes_ > MOST_MEMORY)


if __name__ == "__main__":
    sys.exit(main())

"""
Times a training step of violet-tiny by attention kernel and precision, in turn and in one process.

    python measurements/training_step.py [--steps 10] [--rounds 3] [--output rows.json]
"""

import argparse
import json
import statistics
import time

import torch

from violet import VioletForQuestionAnswering, named_configuration
from violet.core.files import write_json

CASES = [(kernel, precision) for precision in ("float32", "bfloat16") for kernel in ("sdpa", "eager")]


def seconds_per_step(model, batch, precision: str, steps: int) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    start = time.perf_counter()
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="steps in a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each case; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", help="a JSON file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    clips, texts, words = 32, 96, 12
    config = named_configuration("violet-tiny", num_labels=20)
    lengths = torch.randint(words // 2, words + 1, (texts, 1))
    batch = {
        "pixel_values_videos": torch.randn(clips, 4, 3, 64, 64),
        "input_ids": torch.randint(5, config.vocab_size, (texts, words)),
        "attention_mask": (torch.arange(words) < lengths).long(),
        "video_index": torch.arange(texts) // (texts // clips),
        "labels": torch.randint(0, 20, (texts,)),
        "caption_ids": torch.randint(5, config.vocab_size, (clips, 20)),
    }
    models = {
        kernel: VioletForQuestionAnswering._from_config(config, attn_implementation=kernel) for kernel, _ in CASES
    }
    taken: dict[tuple[str, str], list[float]] = {case: [] for case in CASES}
    for number in range(options.rounds + 1):  # the first round warms up
        for kernel, precision in CASES:
            seconds = seconds_per_step(models[kernel].train(), batch, precision, options.steps)
            if number:
                taken[kernel, precision].append(seconds)

    baseline = statistics.median(taken[CASES[0]])
    rows = []
    for kernel, precision in CASES:
        seconds = statistics.median(taken[kernel, precision])
        settings = {"clips": clips, "texts": texts, "threads": options.threads, "steps": options.steps}
        rows.append(
            {
                "name": f"violet-tiny step, {kernel}, {precision}",
                "seconds": seconds,
                "rate": clips / seconds,
                "share_of_matmul": None,
                "baseline_seconds": baseline,
                "settings": settings,
            }
        )
        print(f"{kernel:6} {precision:9} {1000 * seconds:7.1f} ms a step, {baseline / seconds:.2f} x sdpa in float32")
    if options.output:
        write_json(options.output, rows)
    else:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()

"""
Times captioning at the published size: one encoder pass of two clips, and the decoding of 20 words about them, with a
key-value cache and by recomputing everything at every word.

    python measurements/generation.py [--words 20] [--rounds 3] [--threads 1] [--clock wall] [--json rows.json]

What is compared takes turns, so that it shares whatever else the machine does; medians count. The baseline is the
encoder pass: decoding is to cost at most 0.6 of it. The weights are random, which changes no time. On a machine that
other work keeps busy, `--clock cpu` counts only the time on the processor (with one thread).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from violet import VioletForCaptioning, named_configuration
from violet.core.files import write_json

BAR = 0.6
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds_of(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configuration", default="violet-v2-base", help="a named configuration")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--size", type=int, default=224, help="height and width of a frame, in pixels")
    parser.add_argument("--words", type=int, default=20, help="words that are decoded for each clip")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--json", help="a JSON file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    model = VioletForCaptioning(named_configuration(options.configuration)).eval()
    clips = torch.randn(options.clips, options.frames, 3, options.size, options.size)
    encoded = model.violet.encode_videos(clips)

    def decode(use_cache: bool) -> torch.Tensor:
        return model.generate(
            video_tokens=encoded,
            use_cache=use_cache,
            do_sample=False,
            min_new_tokens=options.words,
            max_new_tokens=options.words,
        )

    with_cache, recomputed = decode(use_cache=True), decode(use_cache=False)  # warms up, too
    assert with_cache.shape == (options.clips, 1 + options.words)
    assert torch.equal(with_cache, recomputed)
    model.violet.encode_videos(clips)
    cases: dict[str, Callable[[], object]] = {
        "encoder pass": lambda: model.violet.encode_videos(clips),
        f"decoding {options.words} words, cached": lambda: decode(use_cache=True),
        f"decoding {options.words} words, recomputed": lambda: decode(use_cache=False),
    }
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, work in cases.items():
            taken[name].append(seconds_of(work, CLOCKS[options.clock]))

    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    baseline = medians["encoder pass"]
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    rows = [
        {
            "name": f"{options.configuration} {name}",
            "seconds": seconds,
            "rate": options.clips * (1 if name == "encoder pass" else options.words) / seconds,
            "share_of_matmul": None,
            "baseline_seconds": baseline,
            "settings": settings | {"unit_of_rate": "clips a second" if name == "encoder pass" else "words a second"},
        }
        for name, seconds in medians.items()
    ]
    print(f"{options.clips} clips of {options.frames} frames, {options.size} pixels, {options.threads} threads")
    print(f"{'':<32}{'seconds':>10}{'x encoder pass':>16}")
    for name, seconds in medians.items():
        print(f"{name:<32}{seconds:>10.3f}{seconds / baseline:>16.2f}")
    share = medians[f"decoding {options.words} words, cached"] / baseline
    print(f"the bar for cached decoding is {BAR}: {'reached' if share <= BAR else 'missed'}")
    if options.json:
        write_json(options.json, rows)


if __name__ == "__main__":
    main()

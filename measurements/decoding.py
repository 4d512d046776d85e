"""Time the video backends on a folder of clips.

    python measurements/decoding.py --clips FOLDER [--frames 5] [--repeats 5] [--output rows.json]

Backends take turns on every clip, in an order that changes from repeat to repeat, so that they share whatever else
the machine does. A row's seconds are for one clip, the median over clips and repeats; the first backend is the
baseline.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from violet.processing.decoding import BACKENDS, VideoDecodeError, decode_video
from violet.processing.video_processing_violet import evenly_spaced_indices


def measure(clips: list[Path], num_frames: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each decode, by backend; a backend that does not itself read every clip is left out."""

    def choose(total_frames: int, fps: float | None):
        return evenly_spaced_indices(total_frames, num_frames)

    backends = [name for name in BACKENDS if name != "auto"]
    used = {name: {decode_video(clip, choose, name).backend for clip in clips} for name in backends}  # also warms up
    backends = [name for name in backends if used[name] == {name}]
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    for repeat in range(repeats):
        turn = repeat % max(len(backends), 1)
        for clip in clips:
            for name in backends[turn:] + backends[:turn]:
                start = time.perf_counter()
                decode_video(clip, choose, name)
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the video backends on a folder of clips.")
    parser.add_argument("--clips", type=Path, required=True, help="folder of video files")
    parser.add_argument("--frames", type=int, default=5, help="frames taken from each clip (default 5)")
    parser.add_argument("--repeats", type=int, default=5, help="times that each clip is decoded (default 5)")
    parser.add_argument("--output", type=Path, help="JSON file to write the rows to")
    arguments = parser.parse_args()

    suffixes = {".avi", ".mkv", ".mov", ".mp4", ".webm"}
    clips = sorted(path for path in arguments.clips.glob("*") if path.suffix.lower() in suffixes)
    if not clips:
        parser.error(f"no video files in {arguments.clips}")
    try:
        seconds = measure(clips, arguments.frames, arguments.repeats)
    except VideoDecodeError as error:
        parser.error(str(error))

    if not seconds:
        parser.error("no backend reads all of these clips itself")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    baseline = next(iter(medians.values()))
    settings = {"clips": len(clips), "frames": arguments.frames, "repeats": arguments.repeats, "cpus": os.cpu_count()}
    rows = [
        {
            "name": f"decode_{name}",
            "seconds": median,
            "rate": 1 / median,
            "share_of_matmul": None,
            "baseline_seconds": baseline,
            "settings": {"backend": name, **settings},
        }
        for name, median in medians.items()
    ]
    print(f"{len(clips)} clips, {arguments.frames} frames of each, {arguments.repeats} repeats")
    print(f"{'backend':<12}{'ms a clip':>12}{'clips a s':>12}{'x baseline':>12}")
    for name, median in medians.items():
        print(f"{name:<12}{median * 1e3:>12.1f}{1 / median:>12.1f}{median / baseline:>12.2f}")
    if arguments.output:
        temporary = arguments.output.with_name(arguments.output.name + ".tmp")
        temporary.write_text(json.dumps(rows, indent=2) + "\n")
        temporary.replace(arguments.output)


if __name__ == "__main__":
    main()

"""What loading costs beside decoding, and what memory it takes as a table grows.

    python measurements/loading.py [--clips FOLDER] [--tsv FILE] [--rows 1000 100000] [--repeats 5]
                                   [--output rows.json]

Speed: batches of ten clips that a data loader's worker hands over, against decoding and resizing in one process, in
turns. The worker decodes files in a process of its own, which can be killed. Pictures are uint8 in both, as in
training, where they are normalised on the device. What torch takes to hand them over, 0.75 MB a clip, counts. The bar
is 0.9 of the bare rate for each worker.

Memory: an epoch over tiny captioned JPEG pictures, in a fresh process for each number of rows: the largest resident
memory of that process and its worker together. They lie in a TSV, with the captions in the original's JSON, or in
shards, which are read by the row and as a stream. The cache is one that the first thousand rows fill. The bar is a
growth below 5 % from the first number of rows to the last.
"""

import argparse
import base64
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from violet.core.files import write_json
from violet.data import ShardStream, TsvVideos, open_video, read_rows
from violet.data.loading import ClipReader
from violet.data.sharding import prepare_shards
from violet.processing import VioletVideoProcessor, decode_video
from violet.training.collating import RAW_PIXELS
from violet.training.sampling import DrawnRows, GroupedSampler

SIDE, FRAMES = 224, 5
SHARE, GROWTH = 0.9, 0.05
PICTURE = 16  # side of a tiny JPEG
CACHE_BYTES = 2**20
BATCH = 10


class Length:
    def __init__(self, total_num_frames: int):
        self.total_num_frames = total_num_frames


def bare(processor: VioletVideoProcessor, videos: list[str]) -> torch.Tensor:
    """A batch without any of it: (videos, frames, 3, side, side)."""
    frames = []
    for video in videos:
        source = open_video(video)
        frames.append(decode_video(source, lambda total, fps: processor.sample_frames(Length(total))).frames)
    return resized(processor, frames)


def resized(processor: VioletVideoProcessor, frames: list[np.ndarray]) -> torch.Tensor:
    return processor(frames, do_sample_frames=False, return_tensors="pt", **RAW_PIXELS)["pixel_values_videos"]


def seconds_of(work: Callable[[], object]) -> tuple[float, float]:
    """What it takes by the clock, and of all processors together: on a busy machine, only the latter says much."""
    start, busy = time.perf_counter(), processor_seconds()
    work()
    return time.perf_counter() - start, processor_seconds() - busy


def processor_seconds() -> float:
    """Of this process and all that it started."""
    times = [process.cpu_times() for process in (psutil.Process(), *psutil.Process().children(recursive=True))]
    return sum(one.user + one.system for one in times)


def measure_speed(name: str, videos: list[str], repeats: int) -> dict:
    """A row: the median seconds a clip of a worker, and of bare decoding."""
    torch.set_num_threads(1)  # as in a worker
    processor = VioletVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=FRAMES)
    reader = ClipReader(processor)

    def collate(videos: list[str]) -> torch.Tensor:
        return resized(processor, [reader.read(video).frames for video in videos])

    loader = torch.utils.data.DataLoader(
        videos, batch_size=BATCH, num_workers=1, persistent_workers=True, collate_fn=collate
    )
    batches = [videos[start : start + BATCH] for start in range(0, len(videos), BATCH)]
    ways = {"bare": lambda: [bare(processor, batch) for batch in batches], "loader": lambda: [None for _ in loader]}
    for work in ways.values():
        work()
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for repeat in range(repeats):
        for way in sorted(ways, reverse=bool(repeat % 2)):
            taken[way].append(seconds_of(ways[way]))
    clock, busy = (
        {way: statistics.median(one[kind] for one in found) / len(videos) for way, found in taken.items()}
        for kind in (0, 1)
    )
    loaded, alone = clock["loader"], clock["bare"]
    return {
        "name": f"load_{name}",
        "seconds": loaded,
        "rate": 1 / loaded,
        "share_of_matmul": None,
        "baseline_seconds": alone,
        "settings": {
            "videos": len(videos),
            "frames": FRAMES,
            "side": SIDE,
            "repeats": repeats,
            "workers": 1,
            "batch": BATCH,
        }
        | {"processor_seconds": busy["loader"], "baseline_processor_seconds": busy["bare"]},
    }


def write_tsv(path: Path, rows: int) -> None:
    """Rows of tiny pictures, no two of the first thousand alike, with their lineidx and a caption each."""
    generator, pictures = np.random.default_rng(0), []
    for _ in range(min(rows, 1000)):
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 255, (PICTURE, PICTURE, 3), dtype=np.uint8)).save(buffer, "jpeg")
        pictures.append(base64.b64encode(buffer.getvalue()))
    place = 0
    with open(path, "wb") as tsv, open(path.with_suffix(".lineidx"), "w") as index:
        for row in range(rows):
            index.write(f"{place}\n")
            place += tsv.write(b"picture%08d\t%s\n" % (row, pictures[row % len(pictures)]))
    captions = [{"video": f"picture{row:08d}", "caption": f"a picture of noise, number {row}"} for row in range(rows)]
    write_json(path.with_suffix(".json"), {"train": captions})


def epoch_of(tsv: Path, kind: str) -> Iterable[torch.Tensor]:
    """The batches of an epoch, by a worker: rows of the TSV or of shards, or the shards as a stream."""
    processor = VioletVideoProcessor(size={"height": PICTURE, "width": PICTURE}, num_frames=1)
    reader = ClipReader(processor, CACHE_BYTES)
    shards = tsv.with_suffix("")

    def read(rows: list[dict]) -> torch.Tensor:
        frames = [reader.read(row["video"], draw=row["video_draw"], row=row["row"]).frames for row in rows]
        return resized(processor, frames)

    def decode(rows: list[dict]) -> torch.Tensor:
        return resized(processor, [decode_video(row["clip"]).frames for row in rows])

    if kind == "stream":
        batches = BatchesOf(ShardStream(shards, batch_size=64), decode)
        return torch.utils.data.DataLoader(batches, batch_size=None, num_workers=1)
    columns = ("video", "caption")
    rows = (
        read_rows(shards, columns)
        if kind == "shards"
        else read_rows(f"{tsv.with_suffix('.json')}@train", columns, tsv)
    )
    return torch.utils.data.DataLoader(
        DrawnRows(rows, seed=0),
        batch_size=64,
        sampler=GroupedSampler(rows["video"], seed=0),
        num_workers=1,
        collate_fn=read,
    )


class BatchesOf(torch.utils.data.IterableDataset):
    def __init__(self, stream: ShardStream, decode: Callable[[list[dict]], torch.Tensor]):
        self.stream, self.decode = stream, decode

    def __iter__(self):
        return map(self.decode, self.stream)


def largest_memory(tsv: Path, kind: str) -> int:
    """The largest resident memory, in bytes, of this process and its worker in an epoch."""
    torch.set_num_threads(1)
    most, seen = 0, 0
    for step, batch in enumerate(epoch_of(tsv, kind)):
        seen += len(batch)
        if step % 8 == 0:
            processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
            most = max(most, sum(process.memory_info().rss for process in processes))
    assert seen == len(TsvVideos(tsv)), f"{seen} rows"
    return most


def measure_memory(counts: list[int]) -> list[dict]:
    """Rows for each kind and number of rows; `seconds` is of the whole epoch, with the start of the processes."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{count}.tsv" for count in counts]
        for count, tsv in zip(counts, files, strict=True):
            write_tsv(tsv, count)
            prepare_shards(f"{tsv.with_suffix('.json')}@train", tsv.with_suffix(""), 8, 2, video_folder=tsv)
        for kind in ("tsv", "shards", "stream"):
            for count, tsv in zip(counts, files, strict=True):
                start = time.perf_counter()
                command = [sys.executable, __file__, "--memory_of", str(tsv), kind]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                seconds = time.perf_counter() - start
                rows.append(
                    {
                        "name": f"memory_{kind}_{count}",
                        "seconds": seconds,
                        "rate": count / seconds,
                        "share_of_matmul": None,
                        "baseline_seconds": None,
                        "settings": {"rows": count, "resident_bytes": int(done.stdout.split()[-1]), "workers": 1},
                    }
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="What loading costs beside decoding, and what memory it takes.")
    shared = Path(__file__).resolve().parents[2] / "shared/data"
    parser.add_argument("--clips", type=Path, default=shared / "msrvtt", help="folder of mp4 files")
    parser.add_argument("--tsv", type=Path, default=shared / "original/msrvtt.tsv", help="frames as the original's")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000], help="numbers of rows for the memory")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way (default 5)")
    parser.add_argument("--output", type=Path, help="JSON file to write the rows to")
    parser.add_argument("--memory_of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(largest_memory(Path(arguments.memory_of[0]), arguments.memory_of[1]))
        return
    clips = sorted(str(path) for path in arguments.clips.glob("*.mp4"))
    sources = {"clips": clips, "tsv": [f"{arguments.tsv}#{name}" for name in TsvVideos(arguments.tsv).ids]}
    rows = [measure_speed(name, 4 * videos, arguments.repeats) for name, videos in sources.items()]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'':<16}{'ms a clip':>12}{'bare':>12}{'share':>8}{'share of processor time':>26}")
    for row in rows:
        share = row["baseline_seconds"] / row["seconds"]
        busy = row["settings"]["baseline_processor_seconds"] / row["settings"]["processor_seconds"]
        said = "" if share >= SHARE else f"  below {SHARE}"
        times = f"{row['seconds'] * 1e3:>12.1f}{row['baseline_seconds'] * 1e3:>12.1f}"
        print(f"{row['name']:<16}{times}{share:>8.2f}{busy:>26.2f}{said}")
    memory = measure_memory(arguments.rows)
    print(f"{'':<20}{'MiB':>10}{'growth':>10}{'rows a s':>12}")
    for number, row in enumerate(memory):
        if number % len(arguments.rows) == 0:
            first = row["settings"]["resident_bytes"]
        growth = row["settings"]["resident_bytes"] / first - 1
        said = "" if growth < GROWTH else f"  not below {GROWTH:.0%}"
        mebibytes = row["settings"]["resident_bytes"] / 2**20
        print(f"{row['name']:<20}{mebibytes:>10.1f}{growth:>10.1%}{row['rate']:>12.0f}{said}")
    if arguments.output:
        write_json(arguments.output, rows + memory)


if __name__ == "__main__":
    main()

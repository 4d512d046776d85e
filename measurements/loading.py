"""What memory loading takes as a table grows; how fast it is: `violet speed loading`.

    python measurements/loading.py [--rows 1000 100000] [--output rows.json]

An epoch over tiny captioned JPEG pictures, in a fresh process for each number of rows: the largest resident
memory of that process and its worker together. They lie in a TSV, with the captions in the original's JSON, or in
shards, which are read by the row and as a stream. The cache is one that the first thousand rows fill. The bar is a
growth below 5 % from the first number of rows to the last.
"""

import argparse
import base64
import io
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
from violet.data import ShardStream, TsvVideos, read_rows
from violet.data.loading import ClipReader
from violet.data.sharding import prepare_shards
from violet.processing import VioletVideoProcessor, decode_video
from violet.processing.video_processing_violet import RAW_PIXELS
from violet.training.sampling import DrawnRows, GroupedSampler

GROWTH = 0.05
PICTURE = 16  # side of a tiny JPEG
CACHE_BYTES = 2**20


def resized(processor: VioletVideoProcessor, frames: list[np.ndarray]) -> torch.Tensor:
    return processor(frames, do_sample_frames=False, return_tensors="pt", **RAW_PIXELS)["pixel_values_videos"]


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
    parser = argparse.ArgumentParser(description="What memory loading takes as a table grows.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000], help="numbers of rows")
    parser.add_argument("--output", type=Path, help="JSON file to write the rows to")
    parser.add_argument("--memory_of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(largest_memory(Path(arguments.memory_of[0]), arguments.memory_of[1]))
        return
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
        write_json(arguments.output, memory)


if __name__ == "__main__":
    main()

"""Shards as a stream, for sets that are larger than the disk: each is read once an epoch, in order, by one reader."""

import copy
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch

from ..processing.decoding import IMAGE_SUFFIXES
from .shards import Sample, TarShard, find_shards
from .tables import TableError


class ShardStream(torch.utils.data.IterableDataset):
    """
    The rows of shards, in batches, for `DataLoader(stream, batch_size=None, num_workers=…)`, which a `LastingLoader`
    makes survive its workers. A batch is a list of rows, those of a clip side by side; a row has `video`, its columns,
    `clip`, which `decode_video` takes, and `draw`, a number that depends only on (seed, epoch, row).

    Clips are handed over as they are stored: a damaged one is an error of its decoding, and the stream goes on.

    An epoch has each clip once over all processes. Its order is a pure function of (seed, epoch): the shards are
    shuffled, and in each the clips of every `block` that stand side by side. It is cut into equal runs, one per
    process, and these into `lanes`, which take turns batch by batch. So any number of workers that divides `lanes`
    gives the same batches in the same order.

    Args:
        source: shards, as `find_shards` takes them. Without a manifest their headers are read once to count clips.
        batch_size: clips of a batch; a lane's last may have fewer.
        seed: decides order and draws.
        rank, world_size: this process, and how many there are.
        lanes: runs of a process that are read side by side; each holds a block in memory.
        block: clips that are shuffled with one another; 1 keeps the order of each shard.
        rows_per_clip: at most this many rows of a clip per epoch, drawn in each epoch; all if it is not given.

    Raises (in reading):
        TableError: for a shard that cannot be read to its end, or has other clips than its manifest says.
        ValueError: if the number of workers does not divide `lanes`.
    """

    def __init__(
        self,
        source: str | os.PathLike,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        lanes: int = 4,
        block: int = 32,
        rows_per_clip: int | None = None,
    ):
        found = find_shards(source)
        self.shards = found.shards
        counts = found.counts or [len(TarShard(shard)) for shard in found.shards]
        self.counts = np.array(counts, np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.world_size = rank, world_size
        self.lanes = lanes
        self.block = block
        self.rows_per_clip = rows_per_clip
        self._place = torch.zeros(2, dtype=torch.int64).share_memory_()  # workers that stay see it change

    def set_epoch(self, epoch: int, position: int = 0) -> None:
        """The next pass is through this epoch, from batch `position` of this process on: as if the first were read."""
        self._place[0], self._place[1] = epoch, position

    def rest(self, done: int) -> "ShardStream":
        """This pass from its batch `done` on, whatever epoch is set afterwards."""
        one = copy.copy(self)
        one._place = (self._place + torch.tensor([0, done])).share_memory_()
        return one

    def __len__(self) -> int:
        """The batches of this process in an epoch."""
        return self._batches(self.rank)

    @property
    def common_length(self) -> int:
        """The batches that every process has; some may have one more."""
        return min(self._batches(rank) for rank in range(self.world_size))

    def _batches(self, rank: int) -> int:
        return sum(-(-(end - start) // self.batch_size) for start, end in self._lanes(rank))

    def _lanes(self, rank: int) -> list[tuple[int, int]]:
        """The places (from, to) in the epoch's order of each lane of a process; longer ones first."""
        start, end = _run(0, int(self.counts.sum()), rank, self.world_size)
        return [_run(start, end, lane, self.lanes) for lane in range(self.lanes)]

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if self.lanes % workers:
            raise ValueError(f"{workers} workers cannot share {self.lanes} lanes: their number must divide it.")
        epoch, position = self._place.tolist()
        ranges = self._lanes(self.rank)
        # Longer lanes come first, so the lane of batch n is n % lanes, up to the end; and the loader asks worker 0
        # for the batch at `position`, worker 1 for the next.
        own = {lane for lane in range(self.lanes) if (lane - position) % self.lanes % workers == worker}
        batches = {}
        for lane in own:
            start, end = ranges[lane]
            done = len(range(lane, position, self.lanes))
            batches[lane] = self._batches_of(epoch, min(end, start + done * self.batch_size), end)
        for number in range(position, len(self)):
            if number % self.lanes in own:
                yield next(batches[number % self.lanes])

    def _batches_of(self, epoch: int, start: int, end: int) -> Iterator[list[dict[str, Any]]]:
        batch: list[dict[str, Any]] = []
        clips = 0
        for shard, place, sample in self._clips(epoch, start, end):
            batch += self._rows(epoch, shard, place, sample)
            clips += 1
            if clips == self.batch_size:
                yield batch
                batch, clips = [], 0
        if clips:
            yield batch

    def _rows(self, epoch: int, shard: int, place: int, sample: Sample) -> Iterator[dict[str, Any]]:
        rows, stored = sample.rows(), sample.clip()
        frames = [content for _, content in stored]
        clip = frames if stored[0][0] in IMAGE_SUFFIXES else frames[0]
        generator = np.random.default_rng([self.seed, epoch, shard, place])
        chosen = list(range(len(rows)))
        if self.rows_per_clip is not None and len(rows) > self.rows_per_clip:
            chosen = sorted(generator.permutation(len(rows))[: self.rows_per_clip].tolist())
        draws = generator.integers(2**32, size=len(rows))
        for number in chosen:
            yield {**rows[number], "clip": clip, "draw": int(draws[number])}

    def _clips(self, epoch: int, start: int, end: int) -> Iterator[tuple[int, int, Sample]]:
        """(shard, place in it, clip) at the places `start` to `end` of the epoch's order."""
        before = 0
        for shard in np.random.default_rng([self.seed, epoch]).permutation(len(self.shards)).tolist():
            count = int(self.counts[shard])
            first, last = max(start - before, 0), min(end - before, count)
            before += count
            if first < last:
                yield from self._clips_of(epoch, shard, first, last)

    def _clips_of(self, epoch: int, shard: int, first: int, last: int) -> Iterator[tuple[int, int, Sample]]:
        count = int(self.counts[shard])
        generator = np.random.default_rng([self.seed, epoch, shard])
        begin = first - first % self.block
        samples = TarShard(self.shards[shard]).samples(begin)
        for block in range(0, last, self.block):
            size = min(self.block, count - block)
            order = generator.permutation(size).tolist() if self.block > 1 else [0]
            if block < begin:
                continue
            held = list(islice(samples, size))
            if len(held) < size or (block + size == count and next(samples, None) is not None):
                raise TableError(f"{self.shards[shard]}: it has not the {count} samples that were counted in it.")
            for place in range(max(first - block, 0), min(last - block, size)):
                yield shard, block + order[place], held[order[place]]


def _run(start: int, end: int, number: int, parts: int) -> tuple[int, int]:
    """Part `number` of a range cut into equal parts; the first ones are longer by one if it does not come out."""
    size, more = divmod(end - start, parts)
    first = start + number * size + min(number, more)
    return first, first + size + (number < more)

"""Order and chance in training: pure functions of (seed, epoch, row), with the rows of one video kept together."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from ..data.hub_rows import without_decoding
from ..data.sources import video_name


class NumberedRows(torch.utils.data.Dataset):
    """
    Rows that know their number: `rows[number]` has an additional `row`, for messages.

    Args:
        rows: a `datasets.Dataset`, or a list of rows. Videos of a column of the type Video come as files.
    """

    def __init__(self, rows: Any):
        self.rows = without_decoding(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> dict[str, Any]:
        return {**self.rows[number], "row": number}


class DrawnRows(NumberedRows):
    """
    Rows with seeds of their own: `rows[epoch, number]` has an additional `draw`, a number that depends only on (seed,
    epoch, number), and `video_draw`, which depends on (seed, epoch, video): a video's rows see the same frames of it.
    So neither workers nor processes nor a resume change what is masked, cropped or sampled.

    Args:
        rows: a `datasets.Dataset`, or a list of rows.
    """

    def __init__(self, rows: Any, seed: int):
        super().__init__(rows)
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, number = key
        row = super().__getitem__(number)
        return {
            **row,
            "draw": self._draw(epoch, number),
            "video_draw": self._draw(epoch, number_of_name(video_name(row["video"]) or str(number))),
        }

    def _draw(self, epoch: int, number: int) -> int:
        return int(np.random.SeedSequence([self.seed, epoch, number]).generate_state(1)[0])


def number_of_name(name: str) -> int:
    """64-bit BLAKE2b hash of the name, equal in every process; collisions are possible but negligible."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest())


class GroupedSampler(torch.utils.data.Sampler[tuple[int, int]]):
    """
    (epoch, row number), as `DrawnRows` takes them: the groups in random order and the rows of a group side by side, so
    that a video is decoded and encoded once for all its rows of a batch. Of each row it keeps only the number.

    Args:
        groups: each row's group, such as its video's path.
        seed: with the epoch, it decides the order. Set the epoch by `set_epoch`, as the Trainer does.
        rows_per_group: at most this many rows of a group per epoch, drawn in each epoch; all if it is not given.
        apart: whether the rows of a group are spread over the epoch instead.
    """

    def __init__(self, groups: Iterable[str], seed: int, rows_per_group: int | None = None, apart: bool = False):
        names = np.fromiter((number_of_name(group) for group in groups), np.uint64)
        _, first, group_of_row = np.unique(names, return_index=True, return_inverse=True)
        group_of_row = first.argsort().argsort()[group_of_row]  # groups are numbered in the order of their first rows
        self.counts = np.bincount(group_of_row)
        self.ends = self.counts.cumsum()
        self.rows = group_of_row.argsort(kind="stable")  # those of one group behind those of the group before
        self.seed = seed
        self.epoch = 0
        self.rows_per_group = rows_per_group
        self.apart = apart

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        most = self.rows_per_group
        return int((self.counts if most is None else self.counts.clip(max=most)).sum())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        rows = self._by_group(generator)
        if self.apart:
            together = np.fromiter(rows, np.int64)
            rows = iter(together[torch.randperm(len(together), generator=generator).numpy()])
        yield from ((self.epoch, int(row)) for row in rows)

    def _by_group(self, generator: torch.Generator) -> Iterator[int]:
        for group in torch.randperm(len(self.counts), generator=generator).numpy():
            count, end = self.counts[group], self.ends[group]
            order = torch.randperm(int(count), generator=generator)[: self.rows_per_group].numpy()
            yield from self.rows[end - count + order]

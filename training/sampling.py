"""Order and chance in training: pure functions of (seed, epoch, row), with the rows of one video kept together."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch


class DrawnRows(torch.utils.data.Dataset):
    """
    Rows that know what to draw by: `rows[epoch, number]` has an additional `draw`, a number that depends on (seed,
    epoch, number) alone. So neither workers nor a resume change what is masked, cropped or sampled.

    Args:
        rows: a `datasets.Dataset`, or a list of rows.
    """

    def __init__(self, rows: Any, seed: int):
        self.rows = rows
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, number = key
        draw = int(np.random.SeedSequence([self.seed, epoch, number]).generate_state(1)[0])
        return {**self.rows[number], "draw": draw}


class GroupedSampler(torch.utils.data.Sampler[tuple[int, int]]):
    """
    (epoch, row number), as `DrawnRows` takes them: the groups in random order and the rows of a group side by side, so
    that a video is decoded and encoded once for all its rows of a batch.

    Args:
        groups: each row's group, such as its video's path.
        seed: with the epoch, it decides the order. Set the epoch by `set_epoch`, as the Trainer does.
        rows_per_group: at most so many rows of a group in one epoch, drawn anew in each; all where it is not given.
    """

    def __init__(self, groups: Sequence[str], seed: int, rows_per_group: int | None = None):
        rows: dict[str, list[int]] = {}
        for row, group in enumerate(groups):
            rows.setdefault(group, []).append(row)
        self.rows = list(rows.values())
        self.seed = seed
        self.epoch = 0
        self.rows_per_group = rows_per_group

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        most = self.rows_per_group
        return sum(len(rows) if most is None else min(len(rows), most) for rows in self.rows)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        for group in torch.randperm(len(self.rows), generator=generator).tolist():
            rows = self.rows[group]
            order = torch.randperm(len(rows), generator=generator).tolist()
            yield from ((self.epoch, rows[place]) for place in order[: self.rows_per_group])

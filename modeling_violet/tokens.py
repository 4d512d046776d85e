"""Tokens and where each of them stands: what goes from the encoders to the fusion, its heads and objectives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

Grid = tuple[int, int, int]


@dataclass
class Tokens:
    """
    The tokens of videos or texts, one row each. Everything behind the encoders reads sizes from here, never from
    pixels.

    Attributes:
        tokens: (batch, L, width). Those of a video stand frame by frame: `num_special_per_frame` special tokens, then
            the grid row by row.
        mask: (batch, L), 1 for a token and 0 for padding.
        grid: (steps in time, rows, columns) of a video's patches; L = steps * (num_special_per_frame + rows *
            columns). None for a text.
        num_special_per_frame: special tokens in front of the patches of each step in time.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    grid: Grid | None = None
    num_special_per_frame: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def patches(self) -> torch.Tensor:
        """The tokens on the grid, without the special ones: (batch, steps, rows, columns, width)."""
        if self.grid is None:
            raise ValueError("These are tokens of texts: only a video has patches.")
        steps, rows, columns = self.grid
        # (batch, L, width) -> (batch, steps, special + rows * columns, width)
        by_step = self.tokens.unflatten(1, (steps, -1))
        return by_step[:, :, self.num_special_per_frame :].unflatten(2, (rows, columns))

    def select(self, index: torch.Tensor) -> "Tokens":
        """The rows of that index (n,), in its order: one may be taken several times, or not at all."""
        return replace(self, tokens=self.tokens[index], mask=self.mask[index])

    def with_tokens(self, tokens: torch.Tensor) -> "Tokens":
        """Other tokens (batch, L, width) in the same places, for example the fusion's states."""
        return replace(self, tokens=tokens)

    def to(self, device: torch.device) -> "Tokens":
        """The same tokens on a device."""
        return replace(self, tokens=self.tokens.to(device), mask=self.mask.to(device))

    @staticmethod
    def join(parts: Sequence["Tokens"]) -> "Tokens":
        """
        Several batches as one.

        Raises:
            ValueError: for videos whose grids differ: they had other sizes or other numbers of frames.
        """
        shapes = sorted({(*(part.grid or ()), part.num_special_per_frame) for part in parts})
        if len(shapes) > 1:
            raise ValueError(
                f"Videos of unequal grids make no one gallery: (frames, rows, columns, special tokens) are {shapes}."
            )
        return replace(
            parts[0],
            tokens=torch.cat([part.tokens for part in parts]),
            mask=torch.cat([part.mask for part in parts]),
        )


# What goes through torch.export, or is moved between devices, must say which of its parts are tensors.
torch.export.register_dataclass(Tokens)

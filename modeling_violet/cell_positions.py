"""Video tokens with a learned place for each cell and each frame, and no token of their own for a frame."""

import torch
from torch import nn

from .embeddings import VioletVideoStates
from .offloading import table_rows


class VioletCellPositions(VioletVideoStates):
    """
    The encoder's states + the embedding of the cell + that of the frame, and a norm, for a grid of exactly
    `video_grid_size` (rows, columns) and at most `num_video_frames` steps: nothing is interpolated.
    """

    def __init__(self, config):
        super().__init__(config)
        size = config.video_grid_size
        self.grid_size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.cell_embeddings = nn.Embedding(self.grid_size[0] * self.grid_size[1], self.width)
        self.frame_embeddings = nn.Embedding(config.num_video_frames, self.width)
        self.norm = nn.LayerNorm(self.width, eps=1e-5)

    def place(
        self, features: torch.Tensor, frame_states: torch.Tensor | None, hidden_frame_order: torch.Tensor | None
    ) -> torch.Tensor:
        """
        See `VioletVideoStates.place`.

        Raises:
            ValueError: for another grid, or more steps than there are places for.
        """
        frames, grid = features.shape[1], tuple(features.shape[2:4])
        if grid != self.grid_size:
            raise ValueError(
                f"`video_grid_size` is {self.grid_size}, and the clip's grid is {grid}: resize its frames."
            )
        if frames > self.frame_embeddings.num_embeddings:
            raise ValueError(
                f"The clip has {frames} steps in time, and `num_video_frames` is "
                f"{self.frame_embeddings.num_embeddings}: there are no places for more."
            )
        tokens = super().place(features, None, hidden_frame_order)  # (batch, frames, rows * columns, width)
        cells, times = table_rows(self.cell_embeddings, 0, None), table_rows(self.frame_embeddings, 0, frames)
        tokens = tokens + cells + times.unsqueeze(1)
        special = None if frame_states is None else self.projection(frame_states)
        return tokens if special is None else torch.cat([special, tokens], dim=2)

    def finish(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm(tokens.to(self.norm.weight.dtype))

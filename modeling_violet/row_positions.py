"""Video tokens with a learned place for each row and each column, and none in time."""

import torch
from torch import nn

from .dropout import VioletDropout
from .embeddings import VioletVideoStates
from .offloading import table_rows


class VioletRowsAndColumns(VioletVideoStates):
    """
    The encoder's states + the embedding of the row + that of the column + that of a video's tokens, a norm and
    dropout, for grids of at most `video_grid_size` rows and columns: nothing is interpolated.
    """

    def __init__(self, config):
        super().__init__(config)
        size = config.video_grid_size
        rows, columns = (size, size) if isinstance(size, int) else size
        self.row_embeddings = nn.Embedding(rows, self.width)
        self.column_embeddings = nn.Embedding(columns, self.width)
        self.type_embeddings = nn.Embedding(1, self.width)
        self.norm = nn.LayerNorm(self.width, eps=config.layer_norm_eps)
        self.dropout = VioletDropout(config.hidden_dropout_prob)

    def place(
        self, features: torch.Tensor, frame_states: torch.Tensor | None, hidden_frame_order: torch.Tensor | None
    ) -> torch.Tensor:
        """
        See `VioletVideoStates.place`.

        Raises:
            ValueError: for more rows or columns than there are places for.
        """
        rows, columns = features.shape[2:4]
        most = self.row_embeddings.num_embeddings, self.column_embeddings.num_embeddings
        if rows > most[0] or columns > most[1]:
            raise ValueError(
                f"The clip's grid has {rows} x {columns} cells, and `video_grid_size` has places for {most[0]} x "
                f"{most[1]}: make the frames smaller."
            )
        places = table_rows(self.row_embeddings, 0, rows).unsqueeze(1)
        places = places + table_rows(self.column_embeddings, 0, columns)
        features = features + places + table_rows(self.type_embeddings, 0, 1)
        return super().place(features, frame_states, hidden_frame_order)

    def finish(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.norm(tokens.to(self.norm.weight.dtype)))

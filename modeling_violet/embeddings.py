"""The video's side of the model: a vision encoder's states, with their places, as the tokens that enter the fusion."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from ..core.registry import Registry
from .encoders import find_encoder
from .projection import NUM_BASES, pool_in_order
from .tokens import Tokens, VisibleStates, VisionStates, gather_tokens


def interpolate_rows(rows: torch.Tensor, length: int) -> torch.Tensor:
    """Position rows (n, width) for `length` places: the first ones, or, beyond n, linearly interpolated."""
    if length <= rows.shape[0]:
        return rows[:length]
    # (n, width) -> (1, width, n) -> (1, width, length) -> (length, width)
    return nn.functional.interpolate(rows.t()[None], size=length, mode="linear", align_corners=True)[0].t()


def interpolate_grid(table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """
    Positions (1 + side * side, width) of a special token and a square grid -> (1 + rows * columns, width): the first
    rows of the table, or, beyond it, its grid interpolated bicubically.
    """
    if rows * columns < table.shape[0]:
        return table[: 1 + rows * columns]
    side = math.isqrt(table.shape[0] - 1)
    # (side * side, width) -> (1, width, side, side) -> (1, width, rows, columns) -> (rows * columns, width)
    grid = table[1:].unflatten(0, (side, side)).permute(2, 0, 1)[None]
    grid = nn.functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([table[:1], grid[0].flatten(1).t()])


VISION_POSITIONS: Registry[type["VioletVideoStates"]] = Registry(
    "layer of positions",
    __package__,
    {
        "violet": "embeddings:VioletVideoEncoder",
        "rows_and_columns": "row_positions:VioletRowsAndColumns",
        "cells": "cell_positions:VioletCellPositions",
        "attentional_pooler": "attentional_pooler:VioletAttentionalPooler",
        "none": "embeddings:VioletVideoStates",
    },
    config_keys=("vision_positions",),
)
"""By the configuration's `vision_positions`: what is added to the vision encoder's states."""


class VioletVideoStates(nn.Module):
    """
    A vision encoder's states as `Tokens`, with nothing added. The encoder's weights have its own name among these:
    `swin` for Video Swin, `backbone` for others.

    Attributes:
        width: of the tokens.
        on_grid: whether the tokens stand on the encoder's grid.
    """

    on_grid = True

    def __init__(self, config):
        super().__init__()
        vision = config.vision_config
        self.width = config.hidden_size if config.has_fusion else vision.hidden_size
        self.encoder = find_encoder(vision)
        self.add_module(self.encoder.key, self.encoder.build())
        self._no_split_modules = self.vision_model._no_split_modules  # transformers collects them from direct children
        same = vision.hidden_size == self.width
        self.projection = nn.Identity() if same else nn.Linear(vision.hidden_size, self.width)
        self.masked_patch_value = nn.Buffer(torch.tensor(config.masked_patch_value), persistent=False)
        self.hidden_order_embedding = None

    @property
    def pooled_size(self) -> int | None:
        """Width of the clip's own vector, `Tokens.pooled`; None if there is none."""
        return self.encoder.pooled_size

    def vector_parameters(self) -> list[nn.Parameter]:
        """Its parameters that only the clip's own vector reads."""
        return []

    @property
    def vision_model(self) -> PreTrainedModel:
        """The vision encoder's model."""
        return self._modules[self.encoder.key]  # type: ignore[return-value]

    def mask_inputs(self, pixels: dict[str, torch.Tensor], masked: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        The same cells in all inputs: of the first as the encoder says, of each other one equal parts of it. An input
        of fewer frames than the grid has steps is hidden where one of the steps that a frame stands for is.
        """
        (first, videos), *others = pixels.items()
        hidden = {first: self.mask_patches(videos, masked)}
        for name, one in others:
            cells = masked.bool()
            if one.shape[1] < cells.shape[1]:
                # (batch, steps, rows, columns) -> (batch, frames, rows, columns)
                cells = cells.unflatten(1, (one.shape[1], -1)).any(2)
            sides = zip((one.shape[1], *one.shape[3:]), cells.shape[1:], strict=True)
            hidden[name] = self._mask_cells(one, cells, [side // parts for side, parts in sides])
        return hidden

    def mask_patches(self, pixels: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """Sets the cells (batch, steps, rows, columns) that are True to the configuration's value."""
        frames, height, width = pixels.shape[1], *pixels.shape[3:]
        expected = (len(pixels), *self.encoder.grid(frames, height, width))
        if masked.shape != expected:
            raise ValueError(f"`bool_masked_pos` has shape {tuple(masked.shape)}; these videos need {expected}.")
        return self._mask_cells(pixels, masked, self.encoder.cell)

    def _mask_cells(self, pixels: torch.Tensor, masked: torch.Tensor, cell: Sequence[int]) -> torch.Tensor:
        frames, height, width = pixels.shape[1], *pixels.shape[3:]
        masked = masked.bool()
        for dim, pixels_of_cell in enumerate(cell, start=1):
            masked = masked.repeat_interleave(pixels_of_cell, dim=dim)
        _, steps, rows, columns = masked.shape  # cut to the video, or up to it if its edge is in no cell
        masked = nn.functional.pad(masked, (0, width - columns, 0, height - rows, 0, frames - steps))
        return torch.where(masked.unsqueeze(2), self.masked_patch_value.to(pixels.dtype).view(-1, 1, 1), pixels)

    def forward(
        self,
        pixels: torch.Tensor | Mapping[str, torch.Tensor],
        bool_masked_pos: torch.Tensor | None = None,
        hidden_frame_order: torch.Tensor | None = None,
    ) -> Tokens:
        """
        Args:
            pixels: (batch, frames, channels, height, width), normalised; or what the encoder's `inputs` names.
            bool_masked_pos: (batch, steps, rows, columns), True where the pixels of a cell of the encoder's grid are
                hidden.
            hidden_frame_order: (batch, steps), True where a step's place in time is hidden.
        """
        return self.arrange(self.encode(pixels, bool_masked_pos), hidden_frame_order)

    def encode(
        self, pixels: torch.Tensor | Mapping[str, torch.Tensor], bool_masked_pos: torch.Tensor | None = None
    ) -> VisionStates:
        """
        The first half of `forward`: the encoder's states, those of its grid projected to the width of the tokens, with
        nothing added to them yet.
        """
        named = pixels if isinstance(pixels, Mapping) else {self.encoder.inputs[0]: pixels}
        named = self.encoder.in_order(named)
        if bool_masked_pos is not None:
            named = self.mask_inputs(named, bool_masked_pos)
        first, *others = named
        states = self.encoder.states(self.vision_model, named[first], **{name: named[name] for name in others})
        features = self.projection(states.last_hidden_state)
        return VisionStates(features, states.frame_states, states.clip_states, states.pooler_output)

    def arrange(self, states: VisionStates, hidden_frame_order: torch.Tensor | None = None) -> Tokens:
        """The second half of `forward`: what `encode` gave, with what this layer adds, as tokens."""
        features = states.last_hidden_state
        assert features is not None  # every encoder has a grid
        grid = (features.shape[1], features.shape[2], features.shape[3])
        tokens = self.place(features, states.frame_states, hidden_frame_order)
        special = tokens.shape[2] - grid[1] * grid[2]
        tokens, in_front = tokens.flatten(1, 2), 0
        if states.clip_states is not None:
            of_clip = self.projection(states.clip_states).to(tokens.dtype)
            tokens, in_front = torch.cat([of_clip, tokens], dim=1), of_clip.shape[1]
        tokens = self.finish(tokens)
        mask = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        return Tokens(tokens, mask, grid, special, in_front, states.pooler_output)

    def visible_states(self, pixels: dict[str, torch.Tensor], kept: torch.Tensor) -> VisibleStates:
        """
        The encoder's states of the kept cells (batch, steps, K): of each block, computed from nothing else; from an
        encoder that can hide pixels only, its last ones, where the pixels of the other cells are hidden.
        """
        named = self.encoder.in_order(pixels)
        first, *others = named
        grid = self.encoder.grid(named[first].shape[1], *named[first].shape[3:])
        if kept.shape[:2] != (len(named[first]), grid[0]):
            raise ValueError(
                f"The kept cells have the shape {tuple(kept.shape)}; these videos need {(len(named[first]), grid[0])} "
                "and a number of cells."
            )
        if "tokens" in self.encoder.hides:
            return self.encoder.visible_states(self.vision_model, named[first], kept)
        hidden = kept.new_ones(*kept.shape[:2], grid[1] * grid[2], dtype=torch.bool).scatter(2, kept, False)
        named = self.mask_inputs(named, hidden.unflatten(2, grid[1:]))
        states = self.encoder.states(self.vision_model, named[first], **{name: named[name] for name in others})
        assert states.last_hidden_state is not None  # every encoder gives it
        cells = states.last_hidden_state.flatten(0, 1).flatten(1, 2)  # -> (batch * steps, rows * columns, width)
        visible = gather_tokens(cells, kept.flatten(0, 1)).unflatten(0, kept.shape[:2])
        return VisibleStates((visible,), 0)

    def place(
        self, features: torch.Tensor, frame_states: torch.Tensor | None, hidden_frame_order: torch.Tensor | None
    ) -> torch.Tensor:
        """
        The tokens of each step in time.

        Args:
            features: (batch, steps, rows, columns, width).
            frame_states: (batch, steps, n, the encoder's width), special tokens of its own.
            hidden_frame_order: (batch, steps).

        Returns:
            (batch, steps, special + rows * columns, width), the special ones first.
        """
        if hidden_frame_order is not None:
            raise ValueError("`hidden_frame_order` needs a model whose configuration has `hidden_frame_order`.")
        grid = features.flatten(2, 3)
        return grid if frame_states is None else torch.cat([self.projection(frame_states), grid], dim=2)

    def finish(self, tokens: torch.Tensor) -> torch.Tensor:
        """What every token passes last: (batch, tokens, width) -> the same shape."""
        return tokens


class VioletVideoEncoder(VioletVideoStates):
    """The states + one special token a step in time + positions in the frame and in time, and a norm: VIOLET's."""

    def __init__(self, config):
        super().__init__(config)
        self.frame_token = nn.Parameter(torch.empty(self.width))
        self.position_embeddings = nn.Parameter(torch.empty(1 + config.video_grid_size**2, self.width))
        self.frame_embeddings = nn.Parameter(torch.empty(config.num_video_frames, self.width))
        self.hidden_order_embedding = nn.Parameter(torch.empty(self.width)) if config.hidden_frame_order else None
        self.clip_summary = nn.Linear(NUM_BASES * self.width, self.width) if config.clip_summary else None
        self.norm = nn.LayerNorm(self.width, eps=1e-5)

    def place(
        self, features: torch.Tensor, frame_states: torch.Tensor | None, hidden_frame_order: torch.Tensor | None
    ) -> torch.Tensor:
        batch, frames, rows, columns, width = features.shape
        in_time = interpolate_rows(self.frame_embeddings, frames).unsqueeze(0)  # (1, frames, width)
        if hidden_frame_order is not None:
            if self.hidden_order_embedding is None:
                raise ValueError("`hidden_frame_order` needs a model whose configuration has `hidden_frame_order`.")
            if hidden_frame_order.shape != (batch, frames):
                raise ValueError(
                    f"`hidden_frame_order` has shape {tuple(hidden_frame_order.shape)}; these videos need "
                    f"{(batch, frames)}."
                )
            in_time = torch.where(hidden_frame_order.unsqueeze(-1), self.hidden_order_embedding, in_time)
        special = self.frame_token.expand(batch, frames, 1, width).to(features.dtype)
        if frame_states is not None:
            special = special + self.projection(frame_states)
        if self.clip_summary is not None:
            means = features.mean((2, 3))  # (batch, frames, width)
            summary = self.clip_summary(pool_in_order(means, means.new_ones(batch, frames), NUM_BASES))
            special = special + summary[:, None, None]  # the same for each frame
        tokens = torch.cat(
            [special, features.flatten(2, 3)], dim=2
        )  # (batch, frames, special + rows * columns, width)
        places = interpolate_grid(self.position_embeddings, rows, columns)  # (1 + rows * columns, width)
        if special.shape[2] > 1:  # each special token of a frame has the place of the first
            places = torch.cat([places[:1].expand(special.shape[2], -1), places[1:]])
        return tokens + places + in_time.unsqueeze(2)

    def finish(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm(tokens.to(self.norm.weight.dtype))

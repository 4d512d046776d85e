"""Tokens and where each of them stands: what goes from the encoders to the fusion, its heads and objectives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers.utils import ModelOutput

Grid = tuple[int, int, int]


@dataclass
class VisionStates(ModelOutput):
    """
    What a vision encoder gives of a batch of clips.

    Attributes:
        last_hidden_state: (batch, steps, rows, columns, width), the states on its grid.
        frame_states: (batch, steps, n, width), n states of each step in time beside those of its grid, such as a class
            token of each frame.
        clip_states: (batch, n, width), n states of the whole clip, such as proxy tokens.
        pooler_output: (batch, any width), what the encoder itself calls the clip's vector.
    """

    last_hidden_state: torch.Tensor | None = None
    frame_states: torch.Tensor | None = None
    clip_states: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None


@dataclass
class VisibleStates:
    """
    What a vision encoder gives of the cells that are kept in each step of a batch of clips.

    Attributes:
        blocks: of each block (batch, steps, num_special + K, width), special tokens first, then the K kept cells in
            their order.
        num_special: special tokens of each step; if there are any, the first is the class token.
    """

    blocks: tuple[torch.Tensor, ...]
    num_special: int


def gather_tokens(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Of the tokens (n, L, width) those at the places (n, K), in their order: (n, K, width)."""
    return tokens.gather(1, places.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


@dataclass
class Tokens:
    """
    The tokens of videos or texts, one row each. Everything behind the encoders reads sizes from here, never from
    pixels.

    Attributes:
        tokens: (batch, L, width). Those of a video: `num_special_per_clip` special tokens, and then frame by frame
            `num_special_per_frame` special tokens and the grid row by row.
        mask: (batch, L), 1 for a token and 0 for padding.
        grid: (steps in time, rows, columns) of a video's patches; L = num_special_per_clip + steps *
            (num_special_per_frame + rows * columns). None for a text, and for pooled tokens.
        num_special_per_frame: special tokens in front of the patches of each step in time.
        num_special_per_clip: special tokens in front of all others.
        pooled: (batch, any width), one vector a row that its encoder gave beside the tokens; None if it gives none.
        audio: the tokens of the same clips' sound, a row each; None if it was not heard. It goes with a video wherever
            that goes, and is a group of its own in the fusion.
        boxes: (batch, steps, 4), the part of each step in time that is meant, (x1, y1, x2, y2) in shares of the frame;
            None for whole frames. The tokens are those of whole frames all the same: what reads them pools the boxes.
        box_mask: (batch, steps), 1 for a step that shows its box, with `boxes`.
        prepared: (batch, ...), what the fusion makes of a video before it meets a text, see `Fusion.prepare`.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    grid: Grid | None = None
    num_special_per_frame: int = 0
    num_special_per_clip: int = 0
    pooled: torch.Tensor | None = None
    audio: "Tokens | None" = None
    boxes: torch.Tensor | None = None
    box_mask: torch.Tensor | None = None
    prepared: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def patches(self) -> torch.Tensor:
        """The tokens on the grid, without the special ones: (batch, steps, rows, columns, width)."""
        if self.grid is None:
            raise ValueError(
                "These tokens stand on no grid: only a video has patches, and none if its states were pooled "
                "(`vision_positions` 'attentional_pooler')."
            )
        steps, rows, columns = self.grid
        # (batch, L, width) -> (batch, steps, special + rows * columns, width)
        by_step = self.tokens[:, self.num_special_per_clip :].unflatten(1, (steps, -1))
        return by_step[:, :, self.num_special_per_frame :].unflatten(2, (rows, columns))

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Tokens":
        """The same places with each tensor changed, for example moved or gathered."""
        audio = None if self.audio is None else self.audio.map(change)
        given = {name: getattr(self, name) for name in ("pooled", "boxes", "box_mask", "prepared")}
        changed: dict[str, Any] = {name: change(value) for name, value in given.items() if value is not None}
        return replace(self, tokens=change(self.tokens), mask=change(self.mask), audio=audio, **changed)

    def select(self, index: torch.Tensor) -> "Tokens":
        """The rows of that index (n,), in its order: one may be taken several times, or not at all."""
        return self.map(lambda rows: rows[index])

    def with_tokens(self, tokens: torch.Tensor) -> "Tokens":
        """Other tokens (batch, L, width) in the same places, for example the fusion's states."""
        return replace(self, tokens=tokens)

    def groups(self) -> "dict[str, Tokens]":
        """A video's groups in the fusion: "video", and "audio" if its sound was heard."""
        video = replace(self, audio=None)
        return {"video": video} if self.audio is None else {"video": video, "audio": self.audio}

    def to(self, device: torch.device) -> "Tokens":
        """The same tokens on a device."""
        return self.map(lambda rows: rows.to(device))

    @staticmethod
    def join(parts: Sequence["Tokens"]) -> "Tokens":
        """
        Several batches as one.

        Raises:
            ValueError: for videos whose grids differ: they had other sizes or other numbers of frames.
        """
        special = [(part.num_special_per_frame, part.num_special_per_clip) for part in parts]
        shapes = sorted({(*(part.grid or ()), *numbers) for part, numbers in zip(parts, special, strict=True)})
        if len(shapes) > 1:
            raise ValueError(
                f"Videos of unequal grids make no one gallery: (frames, rows, columns, special tokens of a "
                f"frame, of the clip) are {shapes}."
            )
        pooled = [part.pooled for part in parts if part.pooled is not None]
        prepared = [part.prepared for part in parts if part.prepared is not None]
        audio = [part.audio for part in parts if part.audio is not None]
        if audio and len(audio) < len(parts):
            raise ValueError("Videos that were heard and videos that were not make no one gallery: hear all, or none.")
        boxed = [(part.boxes, part.box_mask) for part in parts if part.boxes is not None]
        if boxed and len(boxed) < len(parts):
            raise ValueError("Boxes and whole videos make no one batch of tokens: give all a box, or none.")
        boxes, shown = (
            (torch.cat([one for one in of if one is not None]) for of in zip(*boxed, strict=True))
            if boxed
            else (None, None)
        )
        return replace(
            parts[0],
            tokens=torch.cat([part.tokens for part in parts]),
            mask=torch.cat([part.mask for part in parts]),
            pooled=torch.cat(pooled) if pooled else None,
            audio=Tokens.join(audio) if audio else None,
            boxes=boxes,
            box_mask=shown,
            prepared=torch.cat(prepared) if len(prepared) == len(parts) else None,
        )


# What goes through torch.export, or is moved between devices, must say which of its parts are tensors.
torch.export.register_dataclass(Tokens)

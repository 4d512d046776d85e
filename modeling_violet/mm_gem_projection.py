"""MM-GEM's embeddings: a text's by a learned vector behind its words, a video's or region's by equal parts of it."""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .area_pooling import pool_boxes
from .encoders.encoder import accepts
from .losses import at_least_float32
from .projection import NUM_BASES, VioletProjection, pool_in_order
from .tokens import Tokens


def pool_tube(
    states: torch.Tensor, boxes: torch.Tensor | None, frame_mask: torch.Tensor | None, parts: int, num_bases: int
) -> torch.Tensor:
    """
    One vector of a box through the frames: `pool_boxes` in each frame, flattened, and `pool_in_order` over the frames
    that show it.

    Args:
        states, boxes, parts: see `pool_boxes`.
        frame_mask: (batch, steps), 1 for a frame that shows the box; None if all do.
        num_bases: what is kept of the order, see `pool_in_order`.

    Returns:
        (batch, num_bases * parts * parts * width)
    """
    pooled = pool_boxes(states, boxes, parts).flatten(2)  # (batch, steps, parts, parts, width) -> (batch, steps, all)
    mask = pooled.new_ones(pooled.shape[:2]) if frame_mask is None else frame_mask
    return pool_in_order(pooled, mask, num_bases)


class MmGemProjection(VioletProjection):
    """
    Embeddings by the language model that also writes (arXiv:2405.19333). A text is [its tokens; EMB; padding], where
    EMB is a learned vector and no token of the vocabulary: so the language model's matrices stay as published, and it
    can neither be written nor be a target. EMB's state behind the last norm, through a linear layer, is the text's
    vector; it never sees a video. A video's, or that of its box, are the means over `embedding_grid` x
    `embedding_grid` equal parts of each frame, pooled in order (`pool_in_order`), through a linear layer. Neither
    layer has a bias.

    Raises:
        ValueError: for a model whose text side is no language model.
    """

    reads_boxes = True

    def __init__(self, config, video, text):
        nn.Module.__init__(self)
        if not hasattr(text, "language_model"):
            own = config.fusion_model_config
            raise ValueError(
                "`projection_type` 'language_model' reads texts by a language model, and "
                f"`fusion_model_config.model_type` is {own.model_type if own else None!r}: make it 'language_model', "
                "or use the `projection_type` 'in_order'."
            )
        self._text_side = (text,)  # no submodule: its weights are the text side's
        self.parts = config.fusion_model_config.embedding_grid
        self.video_projection = nn.Linear(NUM_BASES * self.parts**2 * video.width, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(text.width, config.projection_dim, bias=False)
        self.end_vector = nn.Parameter(torch.empty(text.width))
        self.logit_scale = nn.Parameter(torch.empty(1))  # FSDP shards no scalars

    @torch.no_grad()
    def start_weights(self) -> None:
        """The temperature; the vector begins as a word's embedding does."""
        super().start_weights()
        std = getattr(self._text_side[0].language_model.config, "initializer_range", 0.02)
        init.normal_(self.end_vector, std=std)

    def video(self, video: Tokens) -> torch.Tensor:
        assert video.grid is not None  # tokens of videos
        if self.parts > min(video.grid[1:]) and video.boxes is None:
            raise ValueError(
                f"`fusion_model_config.embedding_grid` {self.parts} is more than the {video.grid[1]} x "
                f"{video.grid[2]} cells of a frame: there is no more to tell. Take a smaller one, or larger frames."
            )
        pooled = pool_tube(video.patches(), video.boxes, video.box_mask, self.parts, NUM_BASES)
        return nn.functional.normalize(at_least_float32(self.video_projection(pooled)), dim=-1)

    def text(self, text: Tokens) -> torch.Tensor:
        """
        Embedded words (batch, X, width), padded on either side, -> (batch, projection_dim), of length 1.

        Raises:
            ValueError: for more words than the language model has positions.
        """
        model = self._text_side[0].language_model.base_model
        batch, length, width = text.tokens.shape
        most = getattr(model.config, "max_position_embeddings", None)
        if most is not None and length + 1 > most:
            raise ValueError(
                f"A text of {length} tokens and the vector behind it are more than the language model's "
                f"`max_position_embeddings` {most}: shorten it."
            )
        behind = length - text.mask.flip(1).argmax(1)  # (batch,), the place behind the last word
        at_end = torch.arange(length + 1, device=behind.device) == behind[:, None]  # (batch, X + 1)
        words = nn.functional.pad(text.tokens, (0, 0, 0, 1))
        embeds = torch.where(at_end.unsqueeze(-1), self.end_vector.to(words.dtype), words)
        mask = nn.functional.pad(text.mask, (0, 1)).masked_fill(at_end, 1)
        given = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0), "use_cache": False}
        given = {name: value for name, value in given.items() if accepts(model, name)}
        states: Any = model(inputs_embeds=embeds, attention_mask=mask, **given)
        of_end = states.last_hidden_state.gather(1, behind[:, None, None].expand(batch, 1, width))[:, 0]
        return nn.functional.normalize(
            at_least_float32(self.text_projection(of_end.to(self.end_vector.dtype))), dim=-1
        )

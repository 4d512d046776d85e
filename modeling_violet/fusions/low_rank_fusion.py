"""
A fusion whose sequence is the text only: the video becomes low-rank weights of its layers (Ma et al., 2024, "Visual
Perception by Large Language Model's Weights", VLoRA).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoConfig, Cache

from ..low_rank import BERT_PLACES, NAME, LowRankLayers, LowRankWeights
from ..tokens import Tokens
from ..weight_generator import VloraConfig, VloraGenerator
from .bert_fusion import VioletBertFusion


class VloraFusion(VioletBertFusion):
    """
    BERT's encoder over prompt and text, of which every `skip_layers`-th layer gets weights of the text's own video. It
    costs the same whatever the number of frames; the generator runs once a video, see `prepare`.
    """

    hears = False
    outside = ("video",)

    def __init__(self, config):
        super().__init__(config)
        own: Any = config.fusion_model_config
        own.require_fit(config.num_hidden_layers, config.hidden_size, "num_hidden_layers", "hidden_size")
        self.generator = VloraGenerator(own, config.hidden_size, config.hidden_size, config.num_hidden_layers)
        self.low_rank = LowRankLayers(list(self.layers), own.skip_layers, own.types, config.hidden_size, BERT_PLACES)
        self._merged: tuple[torch.Tensor, LowRankWeights] | None = None

    def prepare(self, video: Tokens) -> Tokens:
        """Videos with their A, (videos, kinds, layers, width, rank)."""
        return replace(video, prepared=self.generator(video.tokens, video.mask))

    def forward(
        self,
        groups: dict[str, Tokens],
        rule: str = "bidirectional",
        cache: Cache | None = None,
        past_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> dict[str, torch.Tensor]:
        video = groups["video"]
        a = self.prepare(video).prepared if video.prepared is None else video.prepared
        assert a is not None
        weights = self._left_to_add(a) if self._merged is not None else self.generator.weights(a)
        weights.measured = self.training
        inside = {name: group for name, group in groups.items() if name != "video"}
        states = super().forward(inside, rule, cache, past_mask, **{NAME: weights}, **kwargs)
        self.measures = weights.measures()
        return states

    @contextmanager
    def merged(self, video: Tokens) -> Iterator[None]:
        """
        Within it the weights of one video are part of this fusion's own, in copies: for many or long texts about it.
        Exact; it pays beyond about `hidden_size` / 2 tokens of text. "m" stays apart.

        Args:
            video: one encoded video, as `encode_videos` gives it.

        Raises:
            ValueError: for several videos; and by a pass within it, for another video.
        """
        with torch.no_grad():
            a = self.prepare(video).prepared if video.prepared is None else video.prepared
            assert a is not None
            weights = self.generator.weights(a)
        with self.low_rank.merged(weights) as rest:
            self._merged = (a, rest)
            try:
                yield
            finally:
                self._merged = None

    def _left_to_add(self, a: torch.Tensor) -> LowRankWeights:
        assert self._merged is not None
        merged, rest = self._merged
        if not torch.equal(a, merged.expand_as(a)):
            raise ValueError(
                "The weights of one video are merged into those of the fusion, and this pass has another: leave "
                "`merged`, or ask about that video only."
            )
        return rest.select(torch.zeros(len(a), dtype=torch.long, device=a.device))


AutoConfig.register(VloraConfig.model_type, VloraConfig, exist_ok=True)

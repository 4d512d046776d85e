"""
A language model of transformers of which every `skip_layers`-th layer gets low-rank weights of the text's video, and
whose sequence has no token of it (Ma et al., 2024, "Visual Perception by Large Language Model's Weights", VLoRA).
"""

from dataclasses import replace
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, Cache

from ...core.upstream import CACHE_NAME
from ..low_rank import DECODER_PLACES, NAME, LowRankLayers, LowRankWeights
from ..tokens import Tokens
from ..weight_generator import VloraConfig, VloraGenerator
from .fusion import Fusion
from .language_model import VioletLanguageModelFusion


@strict
class VloraLanguageModelConfig(VloraConfig):
    r"""
    Configuration of a language model (the whole model's `text_config`) that gets weights of videos.

    Args:
        video_token_id (`int`, *optional*): the id of `<video>`, which says which text has a video; see
            `VioletLanguageModelConfig`. Published VLoRA: -200.
        text_side (`str`): the name of the text side in `TEXTS`.

    The other arguments are `VloraConfig`'s.
    """

    model_type = "low_rank_language_model"
    written_by = "text_config"

    video_token_id: int | None = None
    text_side: str = "language_model"


class VloraPlace(nn.Module):
    """The place of a video among words: one, of which nothing is read but that it is there."""

    def forward(self, video: Tokens) -> Tokens:
        mask = video.mask.new_ones((len(video), 1))
        one = replace(video, tokens=video.tokens[:, :1], mask=mask, grid=(1, 0, 0), num_special_per_frame=0)
        return replace(one, num_special_per_clip=1)


class VloraLanguageModelFusion(VioletLanguageModelFusion):
    """
    The layers of a language model, which the text side holds, with weights of each text's own video. `<video>` stands
    once in a text that has one: its place counts, the language model's word 0 is embedded there, and no word sees it.
    """

    outside = ("video",)

    def __init__(self, config):
        Fusion.__init__(self)
        own: Any = config.fusion_model_config
        text = config.text_config
        own.require_fit(
            text.num_hidden_layers, text.hidden_size, "text_config.num_hidden_layers", "text_config.hidden_size"
        )
        if own.video_token_id is None:  # said once: the vocabulary may grow afterwards
            own.video_token_id = text.vocab_size
        self.config = config
        self._text_side: tuple[Any, ...] = ()
        self.connector = VloraPlace()
        self.norm = None
        self.generator = VloraGenerator(own, config.hidden_size, text.hidden_size, text.num_hidden_layers)

    def share(self, text_side) -> None:
        super().share(text_side)
        own, width = self.config.fusion_model_config, self.config.text_config.hidden_size
        self.low_rank = LowRankLayers(self.layers, own.skip_layers, own.types, width, DECODER_PLACES)

    def prepare(self, video: Tokens) -> Tokens:
        """Videos with their A, (videos, kinds, layers, width, rank)."""
        padded = self.config.fusion_model_config.num_positions is None
        return replace(video, prepared=self.generator(video.tokens, video.mask if padded else None))

    def place_videos(
        self, words: torch.Tensor, places: torch.Tensor, video: Tokens, video_index: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The words as they are; every place counts, see `beside`."""
        self._videos_of(places, video, video_index)
        return words, torch.ones_like(places)

    def _videos_of(
        self, places: torch.Tensor, video: Tokens, video_index: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(texts,), whether a text has a video, and (texts with one,), which."""
        counts = places.sum(1)
        if int(counts.max()) > 1:
            text = int(counts.argmax())
            raise ValueError(
                f"Text {text} has `<video>` {int(counts[text])} times: its one video becomes weights of the language "
                "model. Give one `<video>` in a text, or none."
            )
        has = counts > 0
        index = torch.arange(len(video), device=places.device) if video_index is None else video_index
        if len(index) != int(has.sum()):
            raise ValueError(
                f"{int(has.sum())} texts have `<video>` (id {self.video_token_id}), and {len(index)} videos are given "
                "for them: process texts and videos together, with `<video>` once for each clip."
            )
        return has, index

    def beside(
        self, places: torch.Tensor, video: Tokens | None, video_index: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """
        `low_rank` (texts, kinds, layers, width, rank), the A of each text's video, 0 for a text without one, and
        `hidden_places` (texts, X), True where no word may look.
        """
        if video is None:
            return {}
        has, index = self._videos_of(places, video, video_index)
        a = self.prepare(video).prepared if video.prepared is None else video.prepared
        assert a is not None
        rows = a.new_zeros((len(places), *a.shape[1:])).index_put((has.nonzero()[:, 0],), a[index])
        return {"low_rank": rows, "hidden_places": places}

    def arguments(self, attention_mask: torch.Tensor | None, length: int, **beside: torch.Tensor) -> dict[str, Any]:
        """`attention_mask` without the hidden places, and the weights."""
        low_rank, hidden_places = beside.get("low_rank"), beside.get("hidden_places")
        if low_rank is None:
            return {"attention_mask": attention_mask}
        weights = self.generator.weights(low_rank)
        weights.measured = self.training
        if hidden_places is not None and hidden_places.any():
            if attention_mask is None:
                attention_mask = torch.ones((len(low_rank), length), dtype=torch.long, device=low_rank.device)
            behind = attention_mask.shape[1] - hidden_places.shape[1]
            attention_mask = attention_mask.masked_fill(nn.functional.pad(hidden_places, (0, behind)), 0)
        return {"attention_mask": attention_mask, NAME: weights}

    def forward(
        self,
        groups: dict[str, Tokens],
        rule: str = "causal",
        cache: Cache | None = None,
        past_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> dict[str, torch.Tensor]:
        """Prompt and text with the weights of their video; see `Fusion.forward`. States are behind the last norm."""
        video = groups["video"]
        a = self.prepare(video).prepared if video.prepared is None else video.prepared
        assert a is not None
        inside = {name: group for name, group in groups.items() if name != "video"}
        states = torch.cat([group.tokens for group in inside.values()], dim=1)
        mask = torch.cat([group.mask for group in inside.values()], dim=1)
        if past_mask is not None:
            mask = torch.cat([past_mask, mask], dim=1)
        given = self.arguments(mask, mask.shape[1], low_rank=a)
        output = self.language_model.base_model(inputs_embeds=states, **{CACHE_NAME: cache}, **given, **kwargs)
        self.passed(given)
        lengths = [group.tokens.shape[1] for group in inside.values()]
        return dict(zip(inside, output.last_hidden_state.split(lengths, dim=1), strict=True))

    def passed(self, arguments: dict[str, Any]) -> None:
        """
        Notes how large the weights were, in training.

        Raises:
            ValueError: for a language model that does not pass named arguments on to its layers' attention, so that
                not all of them took their weights.
        """
        weights: LowRankWeights | None = arguments.get(NAME)
        if weights is None:
            return
        if weights.taken != set(self.low_rank.numbers):
            raise ValueError(
                f"`text_config.model_type` {self.config.text_config.model_type!r} does not pass named arguments on to "
                "the attention of its layers, by which they are given a video's weights: use another language model."
            )
        self.measures = weights.measures()


AutoConfig.register(VloraLanguageModelConfig.model_type, VloraLanguageModelConfig, exist_ok=True)

"""`VioletForConditionalGeneration`: a language model of transformers that sees videos among its words."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ..configuration.configuration_violet import VioletConfig
from ..core.clip_inputs import take_clip_inputs
from ..core.upstream import CACHE_NAME, can_return_tuple, one_cache
from .encoders.encoder import accepts
from .experts import with_measures
from .losses import IGNORE_INDEX, masked_cross_entropy
from .modeling_captioning import VioletCaptioningOutput
from .modeling_violet import VioletModel, VioletPreTrainedModel
from .tokens import Tokens


@dataclass
class VioletConditionalGenerationOutput(VioletCaptioningOutput):
    """
    Attributes:
        loss, logits, cache: as of `VioletCaptioningOutput`.
        hidden_states, attentions: one per layer of the language model, if asked for.
    """


class VioletForConditionalGeneration(VioletPreTrainedModel, GenerationMixin):
    """
    A language model (`text_config`) whose texts have videos in them: each `<video>` of a text is as many places as the
    video has tokens, and these stand there, in the language model's input space.
    """

    main_input_name = "input_ids"
    reads_under = "causal"

    def __init__(self, config: VioletConfig):
        super().__init__(config)
        self.violet = VioletModel(config)
        self.post_init()

    @property
    def language_model(self) -> PreTrainedModel:
        """The language model with its head, as transformers has it."""
        return self._fusion.language_model

    @property
    def _fusion(self) -> Any:
        return self.violet.fusion

    def unread_parameters(self) -> list[nn.Parameter]:
        """Those of the embeddings before the fusion, of prompts, and of special tokens if only cells are pooled."""
        encoder = self.violet.video_encoder
        unread = [parameter for part in (self.violet.projection, self.violet.task_tokens) for parameter in _of(part)]
        unread += _of(encoder.hidden_order_embedding)
        if self.config.fusion_model_config.pooled_grid is not None:
            unread += [*_of(getattr(encoder, "frame_token", None)), *_of(getattr(encoder, "clip_summary", None))]
        return unread

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module):
        self.language_model.set_output_embeddings(new_embeddings)

    def video_places(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(texts, X), True where a token of a video stands."""
        return input_ids.eq(self._fusion.video_token_id)

    def embed(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        video_tokens: Tokens | None = None,
        video_index: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        What enters the language model.

        Args:
            input_ids, attention_mask: (texts, X).
            video_tokens: encoded videos; None if the texts have none.
            video_index: see `forward`.

        Returns:
            (texts, X, width), words and videos, and their mask (texts, X).
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        places = self.video_places(input_ids)
        words = self.violet.text_embeddings(self.inside_vocabulary(input_ids))
        if video_tokens is None:
            if not torch.compiler.is_compiling() and places.any():
                raise ValueError(
                    f"The texts have {int(places.sum())} places of `<video>`, and there is no video: give "
                    "`pixel_values_videos` or `video_tokens`."
                )
            return words, mask
        embeds, seen = self._fusion.place_videos(words, places, video_tokens, video_index)
        return embeds, mask * seen

    def inside_vocabulary(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The ids with one of the vocabulary in the places of videos."""
        return input_ids.masked_fill(self.video_places(input_ids), 0)

    def encode_given(self, pixels: dict[str, torch.Tensor], video_tokens: Tokens | None) -> Tokens | None:
        """The videos that a call gives in either form, encoded; None if it gives none."""
        if pixels and video_tokens is not None:
            raise ValueError("Give `pixel_values_videos` or `video_tokens`, not both.")
        return self.violet.encode_videos(**pixels) if pixels else video_tokens

    @can_return_tuple
    @with_measures
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        video_index: torch.Tensor | None = None,
        video_tokens: Tokens | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        low_rank: torch.Tensor | None = None,
        hidden_places: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VioletConditionalGenerationOutput:
        r"""
        Args:
            pixel_values_videos: (videos, frames, channels, height, width), normalised by the processor, and others
                that the vision encoder's `inputs` names. None if no text has a video.
            input_ids: (texts, X), with `<video>` in as many places as the video has tokens; padded on either side.
            attention_mask: (texts, X), 1 for a token and 0 for padding; all 1 if it is not given. With a filled cache
                it covers what is in there too.
            labels: (texts, X), the words themselves, as in `input_ids`, −100 for those that are not to be predicted;
                the places of videos never are.
            video_index: (n,), which video each `<video>` is, over all texts in reading order: a video that several
                texts ask about is encoded once. Each one once and in order if it is not given.
            video_tokens: videos encoded earlier, in place of `pixel_values_videos`.
            position_ids: (texts, X); by default those that count tokens and no padding.
            inputs_embeds: (texts, X, width), in place of `input_ids` and videos, see `embed`.
            cache: keys and values of tokens that came before these; those of these are added.
            past_key_values: the older name of `cache`.
            use_cache: whether a cache is made and given back; by default as the language model's configuration says,
                and not with labels.
            logits_to_keep: how many of the last places to give logits for; 0 for all.
            low_rank, hidden_places: what the fusion's `beside` gave of the texts and their videos, if a filled cache
                holds them.

        `logits` are (texts, X, vocabulary). Without a video and with no `<video>` in the texts they are the language
        model's own.
        """
        cache = one_cache(cache, past_key_values)
        use_cache = False if use_cache is None and labels is not None else use_cache
        video = self.encode_given(take_clip_inputs(kwargs, pixel_values_videos), video_tokens)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of `input_ids` and `inputs_embeds`.")
        beside = {"low_rank": low_rank, "hidden_places": hidden_places}
        if input_ids is not None:
            past = 0 if cache is None else int(cache.get_seq_length())
            mask = attention_mask if attention_mask is None or not past else None
            inputs_embeds, seen = self.embed(input_ids, mask, video, video_index)
            attention_mask = attention_mask if past else seen
            if not past:
                beside |= self._fusion.beside(self.video_places(input_ids), video, video_index)
            if labels is not None:
                labels = labels.masked_fill(self.video_places(input_ids), IGNORE_INDEX)
        elif video is not None:
            raise ValueError("Videos are already in `inputs_embeds`: give `input_ids` with them.")
        kwargs |= {name: value for name, value in beside.items() if value is not None}  # type: ignore[assignment]
        assert inputs_embeds is not None  # one of the two was given
        outputs = self.write(inputs_embeds, attention_mask, position_ids, cache, use_cache, logits_to_keep, **kwargs)
        loss = None
        if labels is not None:
            loss = masked_cross_entropy(outputs.logits[:, :-1], labels[:, 1:], self.config.label_smoothing)
        return VioletConditionalGenerationOutput(
            loss=loss,
            logits=outputs.logits,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
        )

    def write(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """The language model's own output for embedded texts, see `forward`."""
        model = self.language_model
        if position_ids is None and isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2:
            position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        given = {"position_ids": position_ids, "logits_to_keep": logits_to_keep, CACHE_NAME: cache}
        given = {name: value for name, value in given.items() if accepts(model, name)}
        beside = {name: kwargs.pop(name) for name in ("low_rank", "hidden_places") if name in kwargs}
        length = inputs_embeds.shape[1] + (0 if cache is None else int(cache.get_seq_length()))
        given |= self._fusion.arguments(attention_mask, length, **beside)
        output = model(inputs_embeds=inputs_embeds, use_cache=use_cache, **given, **kwargs)
        self._fusion.passed(given)
        return output

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor | None = None,
        *,
        pixel_values_videos: torch.Tensor | None = None,
        video_tokens: Tokens | None = None,
        video_index: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ):
        """
        Writes on; everything else is `transformers.GenerationMixin.generate`'s: greedy, beams, sampling, scores,
        streaming.

        Args:
            input_ids, attention_mask: (texts, X), as of `forward`; padding on the right is moved to the left.
            pixel_values_videos, video_tokens, video_index: as of `forward`; videos are encoded once.

        Returns:
            (texts, X + new tokens at most), the texts padded on the left, or a `GenerateOutput` with
            `return_dict_in_generate=True`.
        """
        pixels = take_clip_inputs(kwargs, pixel_values_videos)
        if input_ids is None:
            raise ValueError("`input_ids` is missing: give a text, with `<video>` where the video stands.")
        video = self.encode_given(pixels, video_tokens)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        embeds, mask = self.embed(input_ids, mask, video, video_index)
        input_ids, mask, embeds = pad_on_the_left(attention_mask, input_ids, mask, embeds)
        words = self.inside_vocabulary(input_ids)
        beside = self._fusion.beside(self.video_places(input_ids), video, video_index)
        output = super().generate(words, attention_mask=mask, prompt_embeds=embeds, **beside, **kwargs)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        prompt = input_ids.repeat_interleave(len(sequences) // len(input_ids), dim=0)
        sequences[:, : prompt.shape[1]] = prompt  # `<video>` again where an id of the vocabulary stood in
        return output

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        prompt_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """What the language model itself prepares, with the prompt's embeddings in place of its words."""
        cache = one_cache(cache, past_key_values)
        inputs = self.language_model.prepare_inputs_for_generation(input_ids, **{CACHE_NAME: cache}, **kwargs)
        if prompt_embeds is None:
            return inputs
        ids = inputs.pop("input_ids")
        start = 0 if cache is None else int(cache.get_seq_length())
        prompt = prompt_embeds[:, start : start + ids.shape[1]]
        words = self.violet.text_embeddings(ids[:, prompt.shape[1] :])
        return {**inputs, "inputs_embeds": torch.cat([prompt, words], dim=1)}


def _of(part: nn.Module | nn.Parameter | None) -> list[nn.Parameter]:
    """The parameters of a part, if there is one."""
    return list(part.parameters()) if isinstance(part, nn.Module) else [] if part is None else [part]


def pad_on_the_left(mask: torch.Tensor | None, *rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """
    Texts padded on the right -> the same padded on the left.

    Args:
        mask: (texts, X), 1 for a token and 0 for padding; None if there is no padding.
        rows: (texts, X, ...) each.
    """
    if mask is None:
        return rows
    length = mask.shape[1]
    padding = (mask.flip(1).cumsum(1) == 0).sum(1, keepdim=True)  # (texts, 1), behind the last token
    order = (torch.arange(length, device=mask.device) - padding) % length  # (texts, X)
    texts = torch.arange(len(mask), device=mask.device).unsqueeze(1)
    return tuple(one[texts, order] for one in rows)

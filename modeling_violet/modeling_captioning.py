"""`VioletForCaptioning`: writes texts about videos, word by word."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin
from transformers.generation import GenerationMode
from transformers.processing_utils import Unpack

from ..configuration.configuration_violet import VioletConfig
from ..core.clip_inputs import take_clip_inputs
from ..core.upstream import CACHE_NAME, can_return_tuple, one_cache
from .experts import with_measures
from .heads import build_word_head
from .losses import masked_cross_entropy
from .modeling_violet import VioletInputs, VioletModel, VioletPreTrainedModel, VioletTaskOutput, names_inputs
from .tokens import Tokens


@dataclass
class VioletCaptioningOutput(VioletTaskOutput):
    """
    Attributes:
        loss, logits, hidden_states, attentions: as of `VioletTaskOutput`.
        cache: the one that was given, with the keys and values of what was computed; also under its older name,
            `past_key_values`.
    """

    if CACHE_NAME == "cache":
        cache: Cache | None = None
    else:  # what `generate` reads there; of a field of the new name transformers gives the older name itself
        past_key_values: Cache | None = None

        @property
        def cache(self) -> Cache | None:
            return self.past_key_values


class VioletForCaptioning(VioletPreTrainedModel, GenerationMixin):
    """
    Writes a text about a video under the sequence-to-sequence rule: a caption, or the answer to a question that is
    given as `prompt_ids`.

    The published models predict a word from a [MASK] in its place: `generate` puts one behind the words already said
    and reads the next word there. It never stays in the cache, which holds video, prompt and words. With the
    configuration's `next_word_prediction` a word is predicted from the one before it, without a [MASK].
    """

    main_input_name = "input_ids"
    reads_under = "sequence_to_sequence"

    def __init__(self, config: VioletConfig):
        super().__init__(config)
        self.violet = VioletModel(config)
        self.violet.check_rule("sequence_to_sequence", type(self).__name__)
        self.mlm_head = build_word_head(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.mlm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear):
        self.mlm_head.decoder = new_embeddings

    @names_inputs
    @can_return_tuple
    @with_measures
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        look_ahead: bool = False,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Unpack[VioletInputs],
    ) -> VioletCaptioningOutput:
        r"""
        Args:
            labels: (texts, X). Of masked words: the word at each masked place, −100 elsewhere. With the
                configuration's `next_word_prediction`: the words themselves, as in `input_ids`, −100 for those that
                are not to be predicted.
            look_ahead: whether the last token is a [MASK] that is to leave no trace in `cache`.
            use_cache: nothing here: what is given as `cache` is filled.
            logits_to_keep: how many of the last places to give logits for, without `labels`; 0 for all. `generate`
                reads one.

        The other arguments are `VioletModel.forward`'s. `logits` are (texts, X, vocabulary), at `input_ids`' places.
        """
        cache = one_cache(cache, past_key_values)
        texts, words, mask = None, {"input_ids": input_ids}, attention_mask
        if labels is not None and input_ids is not None and self.config.caption_contrast_weight:
            texts = self.violet.encode_texts(input_ids, attention_mask)  # once for both losses
            words, mask = {"inputs_embeds": texts.tokens}, texts.mask
        outputs = self.violet(
            pixel_values_videos=pixel_values_videos,
            **words,
            attention_mask=mask,
            attention_rule="sequence_to_sequence",
            position_ids=position_ids,
            cache=cache,
            **kwargs,
        )
        if look_ahead and cache is not None:
            cache.crop(-1)
        kept = 0 if labels is not None else logits_to_keep
        logits = self.mlm_head(outputs.text_hidden_state[:, -kept:])
        loss = None
        if labels is not None and self.config.next_word_prediction:
            loss = masked_cross_entropy(logits[:, :-1], labels[:, 1:], self.config.label_smoothing)
        elif labels is not None:
            loss = masked_cross_entropy(logits, labels, self.config.label_smoothing)
        if texts is not None and input_ids is not None:
            contrast = self._contrast(outputs.video_tokens, texts, input_ids, kwargs.get("video_index"))
            loss = loss + self.config.caption_contrast_weight * contrast
        return VioletCaptioningOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE_NAME: cache},
        )

    def unread_parameters(self) -> list[nn.Parameter]:
        """Those of the embeddings, if a fusion that only writes learns without contrast."""
        if self.violet.matches_in_fusion or self.config.caption_contrast_weight:
            return []
        projection = [] if self.violet.projection is None else list(self.violet.projection.parameters())
        vectors = [*self.violet.video_encoder.vector_parameters(), *self.violet.text_embeddings.vector_parameters()]
        return [*projection, *vectors]

    def _contrast(
        self, videos: Tokens, texts: Tokens, input_ids: torch.Tensor, video_index: torch.Tensor | None
    ) -> torch.Tensor:
        """The contrastive loss between texts and their videos; in training, of all processes."""
        of_videos = self.violet.embed_videos(videos)
        if video_index is not None:
            of_videos = of_videos[video_index]
        assert self.violet.projection is not None  # `caption_contrast_weight` needs it
        of_texts = self.violet.projection.text(texts)
        words = input_ids * texts.mask
        return self.violet.contrast(of_videos, of_texts, words, gather=self.training)[0]

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor | None = None,
        *,
        pixel_values_videos: torch.Tensor | None = None,
        video_tokens: Tokens | None = None,
        video_index: torch.Tensor | None = None,
        **kwargs: Any,
    ):
        """
        Writes on; everything else is `transformers.GenerationMixin.generate`'s: greedy, beams, sampling, scores,
        streaming.

        Args:
            input_ids: (texts, X), what is already said, padded on the *left*; [CLS] for each video if not given.
            pixel_values_videos: (videos, frames, channels, height, width); they are encoded once.
            video_tokens: videos encoded earlier, in their place.
            video_index: (texts,), the video of each text; the text's own number if it is not given.
            kwargs: among them `prompt_ids` and `prompt_attention_mask` (texts, P) or (1, P), padded on the right, an
                instruction or a question, with which the text itself begins if the fusion has no place for it (CoCa);
                and `cache`, of an earlier call that is to be gone on from.

        Returns:
            (texts, at most `max_length`), or a `GenerateOutput` with `return_dict_in_generate=True`.
        """
        pixels = take_clip_inputs(kwargs, pixel_values_videos)
        if (not pixels) == (video_tokens is None):
            raise ValueError("Give exactly one of `pixel_values_videos` and `video_tokens`.")
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):  # a checkpoint of another task says none
            if getattr(self.generation_config, name) is None:
                setattr(self.generation_config, name, getattr(self.config, name))
        if pixels:
            video_tokens = self.violet.encode_videos(**pixels)
        assert video_tokens is not None  # one of the two was given
        videos = len(video_tokens.tokens)
        if not self.violet.fusion.joint_sequence:
            texts = videos if video_index is None else len(video_index)
            input_ids = self.begin(input_ids, texts, kwargs)
        if input_ids is None:
            texts = videos if video_index is None else len(video_index)
            input_ids = torch.full((texts, 1), self.generation_config.bos_token_id, device=video_tokens.tokens.device)
        if video_index is None:
            if len(input_ids) != videos:
                raise ValueError(
                    f"{len(input_ids)} texts and {videos} videos: say by `video_index` which belong together."
                )
            video_index = torch.arange(videos, device=input_ids.device)
        cache = one_cache(kwargs.pop("cache", None), kwargs.pop("past_key_values", None))
        wanted = kwargs.get("use_cache") is not False and kwargs.get("cache_implementation") is None
        if cache is None and wanted and self.violet.fusion.cached_layers > self.config.num_hidden_layers:
            cache = DynamicCache()  # `generate`'s own may have only as many places as the configuration has layers
        if cache is not None:
            kwargs[CACHE_NAME] = cache
        for name in ("task_ids", "prompt_ids", "prompt_attention_mask"):
            given = kwargs.get(name)
            if given is not None and len(given) == 1:  # one for all must be repeated for beams like the others
                kwargs[name] = given.repeat_interleave(len(input_ids), dim=0)
        return super().generate(input_ids, video_tokens=video_tokens, video_index=video_index, **kwargs)

    @property
    def begins_with_prompt(self) -> bool:
        """Whether a prompt is the beginning of the text, and not a group in front of it."""
        return not self.violet.fusion.joint_sequence

    def begin(self, input_ids: torch.Tensor | None, texts: int, kwargs: dict[str, Any]) -> torch.Tensor | None:
        """
        What is already said, with its padding on the left; a prompt of `kwargs` becomes it, without its end.

        Raises:
            ValueError: for a prompt and `input_ids`.
        """
        mask, prompt = kwargs.get("attention_mask"), kwargs.pop("prompt_ids", None)
        of_prompt = kwargs.pop("prompt_attention_mask", None)
        if prompt is not None:
            if input_ids is not None:
                raise ValueError("Here a prompt is the beginning of the text: give `prompt_ids` or `input_ids`.")
            input_ids, mask = prompt, torch.ones_like(prompt) if of_prompt is None else of_prompt
            if len(input_ids) == 1:
                input_ids, mask = input_ids.expand(texts, -1), mask.expand(texts, -1)
            ends = self.config.eos_token_id
            is_end = torch.isin(input_ids, torch.as_tensor(ends, device=input_ids.device))
            mask = mask * ~(is_end & (mask.cumsum(1) == mask.sum(1, keepdim=True)))
            longest, most = int(mask.sum(1).max()), self.config.max_position_embeddings
            if longest >= most:
                raise ValueError(
                    f"A prompt of {longest} tokens leaves no place for a word behind it: there are {most} "
                    "(`max_position_embeddings`)."
                )
        if input_ids is None or mask is None:
            return input_ids
        order = mask.argsort(dim=1, stable=True)  # padding first, and the words in their order
        kept = int(mask.sum(1).max())
        kwargs["attention_mask"] = mask.gather(1, order)[:, -kept:]
        return input_ids.gather(1, order)[:, -kept:]

    def _validate_generation_mode(self, generation_mode, generation_config, generation_mode_kwargs):
        if generation_mode == GenerationMode.ASSISTED_GENERATION:
            raise ValueError("Assisted decoding guesses words ahead, which the look-ahead [MASK] does not allow.")
        if "static" in (generation_config.cache_implementation or ""):
            raise ValueError("A static cache cannot drop the look-ahead [MASK]: leave `cache_implementation` out.")
        super()._validate_generation_mode(generation_mode, generation_config, generation_mode_kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        next_sequence_length: int | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The words that are not in the cache, and a [MASK] behind them if the next word is to be read there."""
        cache = one_cache(cache, past_key_values)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        look_ahead = not self.config.next_word_prediction
        if cache is not None and cache.get_seq_length():
            context, fusion = 0, self.violet.fusion
            if fusion.joint_sequence:
                groups = kwargs["video_tokens"].groups()
                context = sum(group.tokens.shape[1] for name, group in groups.items() if name not in fusion.outside)
                context += 0 if kwargs.get("prompt_ids") is None else kwargs["prompt_ids"].shape[1]
                context += 0 if kwargs.get("task_ids") is None else 1
            new = input_ids[:, cache.get_seq_length() - context :]
        else:
            new = input_ids
        if look_ahead:
            new = nn.functional.pad(new, (0, 1), value=self.config.mask_token_id)
            attention_mask = nn.functional.pad(attention_mask, (0, 1), value=1)
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :]
        most = self.config.max_position_embeddings
        if attention_mask.shape[1] > most:
            raise ValueError(
                f"A text of {attention_mask.shape[1]} tokens is longer than `max_position_embeddings` {most}."
            )
        return {
            **kwargs,
            "input_ids": new,
            "attention_mask": attention_mask,
            "position_ids": positions,
            "cache": cache,
            "look_ahead": look_ahead,
        }

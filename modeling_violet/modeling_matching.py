"""Models that score how well texts fit a video: multiple choice and retrieval."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ..configuration.configuration_violet import VioletConfig
from ..core.clip_inputs import take_clip_inputs
from ..core.upstream import can_return_tuple
from .embedding_gradients import EmbeddingGradients
from .experts import as_one_pass, with_measures
from .fusions import fuses_pairs
from .fusions.fusion import require_states_of
from .heads import build_match_head
from .losses import check_labels, first_of_each, gather_rows, masked_cross_entropy, retrieval_loss
from .modeling_violet import (
    PromptInputs,
    VioletModel,
    VioletModelOutput,
    VioletPreTrainedModel,
    VioletTaskOutput,
    names_inputs,
)
from .tokens import Tokens


@dataclass
class VioletMultipleChoiceOutput(VioletTaskOutput):
    """
    Attributes:
        span_logits: (questions, steps, 2), of each step in time "outside" and "inside" of what answers the question,
            the larger of the options' each; if the configuration has a `span_head`.
    """

    span_logits: torch.Tensor | None = None


@dataclass
class VioletRetrievalOutput(VioletTaskOutput):
    """
    Attributes:
        embeddings: `videos` (videos, projection_dim) and `texts` (texts, projection_dim), if only they were asked for.
    """

    embeddings: dict[str, torch.Tensor] | None = None


class VioletForMultipleChoice(VioletPreTrainedModel):
    """Chooses one of several texts beside a video, by the match head's score of each."""

    def __init__(self, config: VioletConfig):
        super().__init__(config)
        self.violet = VioletModel(config)
        if config.span_head:
            require_states_of("video", config, "`span_head`")
        self.match_head = build_match_head(config)
        self.span_head = nn.Linear(config.hidden_size, 2) if config.span_head else None
        self.post_init()

    @can_return_tuple
    @with_measures
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        video_index: torch.Tensor | None = None,
        task_ids: torch.Tensor | None = None,
        prompt_ids: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        video_tokens: Tokens | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VioletMultipleChoiceOutput:
        r"""
        Args:
            input_ids: (questions, options, X), each option with its question before it.
            attention_mask: (questions, options, X); an option that is all padding is none, and scores -inf.
            video_index: (questions,), the video of each question; its own number if it is not given.
            task_ids, prompt_ids, prompt_attention_mask: one row per question (or one prompt for all).
            labels: (questions,), the number of the right option, −100 for "none of them".

        The other arguments are `VioletModel.forward`'s. `logits` are (questions, options).

        Raises:
            ValueError: for texts that are not (questions, options, X), or no option at all.
        """
        if input_ids is None or input_ids.dim() != 3 or not input_ids.shape[1]:
            shape = "missing" if input_ids is None else f"of shape {tuple(input_ids.shape)}"
            raise ValueError(f"`input_ids` is {shape}; options are needed: (questions, options, X).")
        questions, options = input_ids.shape[:2]
        given = pixel_values_videos if video_tokens is None else video_tokens.tokens
        if video_index is None and given is not None and len(given) != questions:
            raise ValueError(
                f"{questions} questions and {len(given)} videos: say by `video_index` which belong together."
            )
        if video_index is None:
            video_index = torch.arange(questions, device=input_ids.device)
        elif video_index.shape != (questions,):
            raise ValueError(f"`video_index` has shape {tuple(video_index.shape)} for {questions} questions.")
        outputs = self.violet(
            pixel_values_videos=pixel_values_videos,
            input_ids=input_ids.flatten(0, 1),
            attention_mask=None if attention_mask is None else attention_mask.flatten(0, 1),
            video_index=video_index.repeat_interleave(options),
            task_ids=_of_each_option("task_ids", task_ids, questions, options),
            prompt_ids=_of_each_option("prompt_ids", prompt_ids, questions, options),
            prompt_attention_mask=_of_each_option("prompt_attention_mask", prompt_attention_mask, questions, options),
            video_tokens=video_tokens,
            only_first_state=self.span_head is None,
            **kwargs,
        )
        # (questions * options, 1) -> (questions, options)
        logits = outputs.read_by(self.match_head).view(questions, options)
        if attention_mask is not None:
            logits = logits.masked_fill(~attention_mask.bool().any(-1), float("-inf"))
        loss = None if labels is None else masked_cross_entropy(logits, labels, self.config.label_smoothing)
        return VioletMultipleChoiceOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            span_logits=None if self.span_head is None else self._spans(outputs, questions, options),
        )

    def _spans(self, outputs: VioletModelOutput, questions: int, options: int) -> torch.Tensor:
        """(questions, steps, 2): from the mean of each step's cells, the larger of the options' logits."""
        assert self.span_head is not None
        assert outputs.video_tokens is not None and outputs.video_hidden_state is not None
        fused = outputs.video_tokens.with_tokens(outputs.video_hidden_state)
        logits = self.span_head(fused.patches().mean((2, 3)))  # (questions * options, steps, 2)
        return logits.unflatten(0, (questions, options)).amax(1)


def _of_each_option(name: str, rows: torch.Tensor | None, questions: int, options: int) -> torch.Tensor | None:
    """Rows of the questions -> rows of their options; one row for all stays as it is."""
    if rows is None or len(rows) == 1:
        return rows
    if len(rows) != questions:
        raise ValueError(f"`{name}` has {len(rows)} rows for {questions} questions: give one each, or one.")
    return rows.repeat_interleave(options, dim=0)


class VioletForRetrieval(VioletPreTrainedModel):
    """
    Scores every text against every video of a batch: text-to-video and video-to-text retrieval.

    A video is encoded once, and so is a text; each pair then passes the fusion, or, in a model without one, is
    compared by its two embeddings. The loss is a cross-entropy over the texts of each video, and with the
    configuration's `retrieval_directions` at 2 (VIOLETv2) also over the videos of each text; see
    `losses.retrieval_loss`.
    """

    needs_fusion = False

    def __init__(self, config: VioletConfig):
        if not fuses_pairs(config) and config.projection_dim is None:
            own: Any = config.fusion_model_config
            raise ValueError(
                f"A model without a fusion of pairs (`fusion_model_config.model_type` is {own.model_type!r}) compares "
                "videos and texts by their embeddings, and `projection_dim` is None: set it."
            )
        super().__init__(config)
        self.violet = VioletModel(config)
        self.match_head = build_match_head(config) if fuses_pairs(config) else None
        self.post_init()

    def score_pairs(
        self, video_tokens: Tokens, texts: Tokens, video_index: torch.Tensor, **kwargs: Unpack[PromptInputs]
    ) -> VioletTaskOutput:
        """
        Scores of pairs of a video and a text, in one pass through the fusion.

        Args:
            video_tokens: encoded videos.
            texts: an encoded text for each pair, see `VioletModel.encode_texts`.
            video_index: (pairs,), each pair's video.
            kwargs: those of `forward` that are one for all pairs.

        Returns:
            `logits` (pairs,): the match head's score divided by the configuration's `match_temperature`; without a
            fusion the inner product of the embeddings times the projection's scale.
        """
        if self.match_head is None:
            assert self.violet.projection is not None
            videos, own = self.violet.embed_videos(video_tokens), self.violet.projection.text(texts)
            # (pairs, videos) -> (pairs,)
            return VioletTaskOutput(logits=self.violet.compare(videos, own).gather(1, video_index[:, None])[:, 0])
        outputs = self.violet(
            inputs_embeds=texts.tokens,
            attention_mask=texts.mask,
            video_index=video_index,
            video_tokens=video_tokens,
            only_first_state=True,
            **kwargs,
        )
        logits = outputs.read_by(self.match_head)[:, 0] / self.config.match_temperature
        return VioletTaskOutput(logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions)

    @names_inputs
    @can_return_tuple
    @with_measures
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        video_tokens: Tokens | None = None,
        labels: torch.Tensor | None = None,
        video_ids: torch.Tensor | None = None,
        pairs_per_pass: int = 256,
        only_embeddings: bool = False,
        embedding_gradients: EmbeddingGradients | None = None,
        **kwargs: Unpack[PromptInputs],
    ) -> VioletRetrievalOutput:
        r"""
        Args:
            input_ids: (texts, X).
            task_ids: (1,), a task token for all pairs.
            prompt_ids, prompt_attention_mask: (1, P), an instruction for all pairs.
            labels: (texts,), the number of each text's video.
            video_ids: (videos,), a number of its own for each video of the data set: if several processes train
                together, it says which of their videos are the same. Not needed elsewhere.
            pairs_per_pass: how many pairs meet in the fusion at a time: less takes less memory.
            only_embeddings: of a model without a fusion: return nothing but `embeddings`, for `compare_embeddings`.
            embedding_gradients: the gradients of a loss of these `embeddings`; `loss` is then a number whose gradient
                is that loss's, see `training.gradient_caching`.

        The other arguments are `VioletModel.forward`'s. `logits` are (texts, videos), as `score_pairs` gives them.
        `hidden_states` and `attentions`, if asked for, have one row per pair, in the order of `logits`.

        If several processes train together, the videos are those of all of them (`logits` have as many columns),
        and the loss is that of the whole batch: it has the same negatives however many processes share it out.
        """
        if input_ids is None:
            raise ValueError("`input_ids` is missing: give the texts to compare with the videos.")
        pixels = take_clip_inputs(kwargs, pixel_values_videos)
        if video_tokens is None and pixels:
            video_tokens = self.violet.encode_videos(**pixels)
        elif video_tokens is None or pixels:
            raise ValueError("Give exactly one of `pixel_values_videos` and `video_tokens`.")
        if self.match_head is None:
            videos, texts = self.violet.embed_videos(video_tokens), self.violet.embed_texts(input_ids, attention_mask)
            sets = {"videos": videos, "texts": texts}
            if only_embeddings:
                return VioletRetrievalOutput(embeddings=sets)
            if embedding_gradients is not None:
                return VioletRetrievalOutput(loss=embedding_gradients.of(sets, self.shared()))
            return self.compare_embeddings(sets, labels, video_ids)
        if only_embeddings or embedding_gradients is not None:
            raise ValueError("Only a model without a fusion compares its embeddings; this one scores pairs.")
        shared, first = self._is_shared(), None
        if shared and labels is not None:
            first, labels = _places_among_all_processes(len(video_tokens), labels, video_ids)
        if first is not None:
            video_tokens = video_tokens.map(gather_rows).select(first)
        encoded = self.violet.encode_texts(input_ids, attention_mask)
        num_texts, num_videos = len(encoded), len(video_tokens)
        pairs = torch.arange(num_texts * num_videos, device=input_ids.device)
        scores: list[Any] = []
        recorded: dict[str, list[tuple[torch.Tensor, ...]]] = {}
        with as_one_pass():
            for part in pairs.split(pairs_per_pass):
                of_pairs, video_index = encoded.select(part // num_videos), part % num_videos
                outputs = self.score_pairs(video_tokens, of_pairs, video_index, **kwargs)
                scores.append(outputs.logits)
                for name in ("hidden_states", "attentions"):
                    if outputs.get(name) is not None:
                        recorded.setdefault(name, []).append(outputs[name])
        recorded_of_pairs = {name: _join(passes) for name, passes in recorded.items()}
        return self._with_loss(torch.cat(scores).view(num_texts, num_videos), labels, shared, **recorded_of_pairs)

    def compare_embeddings(
        self,
        embeddings: Mapping[str, torch.Tensor],
        labels: torch.Tensor | None = None,
        video_ids: torch.Tensor | None = None,
    ) -> VioletRetrievalOutput:
        """
        Scores and, with labels, the loss of a model without a fusion.

        Args:
            embeddings: `videos` (videos, projection_dim) and `texts` (texts, projection_dim), as `forward` gives them
                of a batch, or of its parts one behind the other.
            labels, video_ids: see `forward`.
        """
        shared, videos = self._is_shared(), embeddings["videos"]
        if shared and labels is not None:
            first, labels = _places_among_all_processes(len(videos), labels, video_ids)
            videos = gather_rows(videos)[first]
        return self._with_loss(self.violet.compare(videos, embeddings["texts"]), labels, shared)

    def unread_parameters(self) -> list[nn.Parameter]:
        """Those of a fusion that only writes, see `VioletPreTrainedModel`."""
        return list(self.violet.fusion.parameters()) if self.match_head is None else []

    def shared(self) -> list[nn.Parameter]:
        """The parameters that `compare_embeddings` itself reads."""
        return [] if self.violet.projection is None else self.violet.projection.trained_scale()

    def _is_shared(self) -> bool:
        """Whether several processes train together: each then sees the videos of all."""
        return self.training and dist.is_available() and dist.is_initialized()

    def _with_loss(
        self, logits: torch.Tensor, labels: torch.Tensor | None, shared: bool, **recorded: Any
    ) -> VioletRetrievalOutput:
        """Scores (texts, videos) and, with labels, their loss; `shared`: over the texts of all processes."""
        loss = None
        if labels is not None:
            compared, labels = (gather_rows(logits), gather_rows(labels)) if shared else (logits, labels)
            loss = retrieval_loss(compared, labels, self.config.retrieval_directions, self.config.label_smoothing)
        return VioletRetrievalOutput(loss=loss, logits=logits, **recorded)


def _places_among_all_processes(
    videos: int, labels: torch.Tensor, video_ids: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Which of the gathered rows of all processes' videos to keep so that each is there once, and the number that each
    text's video has among these.
    """
    check_labels(labels, videos, ignored=False)
    ids = video_ids
    if ids is None:  # all videos differ: one number per place
        ids = torch.arange(videos, device=labels.device)
        ids = ids * dist.get_world_size() + dist.get_rank()
    known, first = first_of_each(gather_rows(ids))
    return first, torch.searchsorted(known, ids[labels])


def _join(passes: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    """What each pass recorded, layer by layer -> each layer's rows of all passes."""
    return tuple(torch.cat(layer) for layer in zip(*passes, strict=True))

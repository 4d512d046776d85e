"""The class of a video: which of the configuration's labels it has, without any text."""

from typing import Any

import torch
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ..configuration.configuration_violet import VioletConfig
from ..core.clip_inputs import take_clip_inputs
from ..core.upstream import capture_outputs, name_video_classifier
from .experts import with_measures
from .heads import VioletPooledHead, build_head
from .losses import masked_binary_cross_entropy, masked_cross_entropy
from .modeling_violet import VioletModel, VioletPreTrainedModel, VioletTaskOutput
from .tokens import Tokens

ONE_LABEL, SEVERAL_LABELS = "single_label_classification", "multi_label_classification"


class VioletForVideoClassification(VioletPreTrainedModel):
    """
    Tells which of the configuration's `id2label` a video has.

    The video's tokens pass the fusion by themselves, without a text; a head reads the mean of its patches. In a model
    without a fusion it reads the vision encoder's own vector of the clip, or the mean of its states if there is none;
    with the `head_type` "embedding" it reads the video's embedding before the fusion.
    The configuration's `problem_type` is "single_label_classification", or "multi_label_classification" for videos
    that may have several labels or none; if it is not set, the first labels decide, as in transformers.
    """

    input_modalities = ("video",)
    needs_fusion = False

    def __init__(self, config: VioletConfig):
        super().__init__(config)
        if config.problem_type not in (None, ONE_LABEL, SEVERAL_LABELS):
            raise ValueError(
                f"`problem_type`: {config.problem_type!r} is no classification; use {ONE_LABEL} or {SEVERAL_LABELS}."
            )
        self.violet = VioletModel(config)
        self.reads_embedding = config.head_type == "embedding"
        self.classifier = self.new_label_head()
        self.post_init()

    def new_label_head(self) -> nn.Module:
        """A head with an output for each of the configuration's labels."""
        if self.reads_embedding:
            return nn.Linear(self.config.projection_dim, self.config.num_labels)
        if self.violet.matches_in_fusion:
            return build_head(self.config, self.config.num_labels)
        pooled = self.violet.video_encoder.pooled_size or self.violet.video_encoder.width
        return VioletPooledHead(self.config, self.config.num_labels, pooled)

    def unread_parameters(self) -> list[nn.Parameter]:
        """Those of texts, prompts and the embeddings before the fusion, see `VioletPreTrainedModel`."""
        projection = "projection.text_projection." if self.reads_embedding else "projection."
        of_texts: tuple[str, ...] = ("text_embeddings.", projection, "task_tokens")
        if self.reads_embedding or not self.violet.matches_in_fusion:
            of_texts += ("fusion.",)
        return [parameter for name, parameter in self.violet.named_parameters() if name.startswith(of_texts)]

    @capture_outputs(tie_last_hidden_states=False)
    @with_measures
    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        video_index: torch.Tensor | None = None,
        video_tokens: Tokens | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VioletTaskOutput:
        r"""
        Args:
            pixel_values_videos: (videos, frames, channels, height, width), normalised by the processor.
            labels: (videos,), the label's number, −100 for "none of them"; with several labels (videos, labels), 1 for
                each that the video has and 0 for the others, −100 if that is not known.
            video_index: (rows,), the video of each row of `labels`, if a video has several rows; `logits` then have
                a row for each of them.
            video_tokens: videos encoded earlier, in place of `pixel_values_videos`.

        `logits` are (videos, labels).

        Raises:
            ValueError: for labels of another shape than `problem_type` has.
        """
        pixels = take_clip_inputs(kwargs, pixel_values_videos)
        if video_tokens is None and pixels:
            video = self.violet.encode_videos(**pixels)
        elif video_tokens is not None and not pixels:
            video = video_tokens
        else:
            raise ValueError("Give exactly one of `pixel_values_videos` and `video_tokens`.")
        if self.reads_embedding:
            pooled: Any = self.violet.embed_videos(video)
        elif self.violet.matches_in_fusion:
            video, pooled = video.with_tokens(self.violet.fuse(video.groups(), **kwargs)["video"]), None
        else:
            pooled = video.pooled
        # (videos, frames, rows, columns, width) -> (videos, width)
        logits = self.classifier(video.patches().mean((1, 2, 3)) if pooled is None else pooled)
        if video_index is not None:
            logits = logits[video_index]
        loss = None if labels is None else self._loss(logits, labels)
        return VioletTaskOutput(loss=loss, logits=logits)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.config.problem_type is None:
            self.config.problem_type = ONE_LABEL if labels.dim() == 1 else SEVERAL_LABELS
        several = self.config.problem_type == SEVERAL_LABELS
        wanted = logits.shape if several else logits.shape[:1]
        if labels.shape != wanted:
            raise ValueError(
                f"`labels` has shape {tuple(labels.shape)}; {self.config.problem_type} needs {tuple(wanted)}."
            )
        if several:
            return masked_binary_cross_entropy(logits, labels, self.config.label_smoothing)
        return masked_cross_entropy(logits, labels, self.config.label_smoothing)


name_video_classifier(VioletConfig.model_type, VioletForVideoClassification.__name__)

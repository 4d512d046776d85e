"""
Embeddings of videos and paragraphs, and of their clips and sentences (Sun et al., 2022, "Long-Form Video-Language
Pre-Training with Multimodal Temporal Contrastive Learning", arXiv:2210.06031, section 3.1).
"""

import math

import torch
from torch import nn

from .losses import at_least_float32
from .projection import VioletProjection
from .tokens import Tokens

TEMPERATURE = 0.05


class LfVilaProjection(VioletProjection):
    """
    The mean of a video's clips, and a paragraph's first state, each through a linear layer; the temperature is fixed.

    Raises:
        ValueError: for an encoder that does not pool clips, or a text side without sentences.
    """

    largest_scale = 1 / TEMPERATURE + 1

    def __init__(self, config, video, text):
        nn.Module.__init__(self)
        self.num_clips = getattr(config.vision_config, "num_clips", None)
        if self.num_clips is None:
            raise ValueError(
                f"`projection_type` {config.projection_type!r} needs the vectors of a video's clips, and "
                f"`vision_config.model_type` {config.vision_config.model_type!r} gives none: use 'lf_vila'."
            )
        kind = getattr(config.text_config, "model_type", None)
        if kind not in ("paragraph", "none"):
            raise ValueError(
                f"`projection_type` {config.projection_type!r} needs paragraphs of sentences, and "
                f"`text_config.model_type` is {kind!r}: use 'paragraph'."
            )
        self.clip_width, self.text_width = config.vision_config.hidden_size, config.hidden_size
        self.video_projection = nn.Linear(self.clip_width, config.projection_dim)
        reads = kind == "paragraph"
        self.text_projection = nn.Linear(self.text_width, config.projection_dim) if reads else None
        self.logit_scale = nn.Buffer(torch.empty(1), persistent=False)

    @staticmethod
    def initial_logit_scale() -> float:
        return math.log(1 / TEMPERATURE)

    def clip_states(self, video: Tokens) -> torch.Tensor:
        """The encoder's features of the clips: (batch, clips, width)"""
        assert video.pooled is not None  # the encoder gives them
        return video.pooled.unflatten(1, (self.num_clips, self.clip_width))

    def text_states(self, text: Tokens) -> torch.Tensor:
        """The state of the paragraph, and the first of each sentence read by itself: (batch, 1 + sentences, width)"""
        assert text.pooled is not None  # the text side gives them
        return text.pooled.unflatten(1, (-1, self.text_width))

    def video(self, video: Tokens) -> torch.Tensor:
        return _unit(self.video_projection(self.clip_states(video).mean(1)))

    def text(self, text: Tokens) -> torch.Tensor:
        assert self.text_projection is not None  # no text is encoded without a text side
        return _unit(self.text_projection(self.text_states(text)[:, 0]))


class LfVilaClipProjection(LfVilaProjection):
    """That, and with layers of their own a video's clips and a paragraph's sentences."""

    def __init__(self, config, video, text):
        super().__init__(config, video, text)
        self.clip_projection = nn.Linear(self.clip_width, config.projection_dim)
        self.sentence_projection = nn.Linear(self.text_width, config.projection_dim)

    def clips(self, video: Tokens) -> torch.Tensor:
        """-> (batch, clips, projection_dim), of length 1"""
        return _unit(self.clip_projection(self.clip_states(video)))

    def sentences(self, text: Tokens) -> torch.Tensor:
        """-> (batch, sentences, projection_dim), of length 1; those that are all padding mean nothing"""
        return _unit(self.sentence_projection(self.text_states(text)[:, 1:]))


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(at_least_float32(vectors), dim=-1)

"""The projection of models whose sides each have a vector of their own, as CLIP's."""

import math

import torch
from torch import nn

from .losses import at_least_float32
from .projection import VioletProjection
from .tokens import Tokens


class VioletPooledProjection(VioletProjection):
    """
    The vectors that the vision encoder and the text side themselves give of a clip and of a text (`Tokens.pooled`),
    each through a linear layer without bias (Radford et al., 2021, arXiv:2103.00020).

    Raises:
        ValueError: for an encoder or a text side that gives no such vector.
    """

    bias = False
    largest_scale = 200.0  # of CLIP-ViP (Xue et al., 2023, arXiv:2209.06430), which starts at 4.60, near 100

    def __init__(self, config, video, text):
        nn.Module.__init__(self)
        types = {"vision_config": config.vision_config, "text_config": config.text_config}
        for key, size in (("vision_config", video.pooled_size), ("text_config", text.pooled_size)):
            if size is None:
                kind = getattr(types[key], "model_type", None)
                raise ValueError(
                    f"`projection_type` {config.projection_type!r} needs a vector of each clip and text, "
                    f"and `{key}.model_type` {kind!r} gives none: use the `projection_type` 'in_order'."
                )
        self.video_projection = nn.Linear(video.pooled_size, config.projection_dim, bias=self.bias)
        self.text_projection = nn.Linear(text.pooled_size, config.projection_dim, bias=self.bias)
        self.logit_scale = nn.Parameter(torch.empty(1))  # FSDP shards no scalars

    @staticmethod
    def initial_logit_scale() -> float:
        return 4.6

    def video(self, video: Tokens) -> torch.Tensor:
        return nn.functional.normalize(at_least_float32(self.video_projection(video.pooled)), dim=-1)

    def text(self, text: Tokens) -> torch.Tensor:
        return nn.functional.normalize(at_least_float32(self.text_projection(text.pooled)), dim=-1)


class VioletPooledProjectionWithBias(VioletPooledProjection):
    """The same with a bias, and a temperature that stays 0.05: HD-VILA's (Xue et al., 2022, arXiv:2111.10337)."""

    bias = True

    def __init__(self, config, video, text):
        super().__init__(config, video, text)
        del self.logit_scale
        self.logit_scale = nn.Buffer(torch.empty(1), persistent=False)

    @staticmethod
    def initial_logit_scale() -> float:
        return math.log(1 / 0.05)

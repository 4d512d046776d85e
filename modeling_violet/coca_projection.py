"""CoCa's embeddings (Yu et al., 2022, arXiv:2205.01917): the pooler's vector and the text's CLS, each projected."""

import math

import torch
from torch import nn
from transformers import initialization as init

from .losses import at_least_float32
from .pooled_projection import VioletPooledProjection


class CocaProjection(VioletPooledProjection):
    """The clip's and the text's own vectors through a linear layer each; the inverse temperature stays in 1 … 100."""

    largest_scale = 100.0

    @staticmethod
    def initial_logit_scale() -> float:
        return math.log(1 / 0.07)

    def scale(self) -> torch.Tensor:
        return at_least_float32(self.logarithm()).exp().clamp(min=1.0, max=self.largest_scale)

    def start_weights(self) -> None:
        """The temperature, and layers that are normal with a deviation of the width's inverse root."""
        super().start_weights()
        for layer in (self.video_projection, self.text_projection):
            assert isinstance(layer, nn.Linear)
            init.normal_(layer.weight, std=layer.in_features**-0.5)

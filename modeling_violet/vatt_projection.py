"""
Spaces in which VATT compares videos, sounds and texts (Akbari et al., 2021, arXiv:2104.11178, section 3.4): nested
("fine and coarse"), or one for all.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .losses import at_least_float32, gather_rows
from .projection import VioletProjection
from .tokens import Tokens

TEMPERATURE = 0.07


class VattBatchNorm(nn.BatchNorm1d):
    """
    Normalises each column over the rows of all processes; a row by itself, which has no variance, by the running
    statistics. The running variance is the biased one, as TensorFlow's.
    """

    def __init__(self, width: int):
        super().__init__(width)
        self.num_batches_tracked = None  # nothing reads it

    # Torch's own adds that count to what it loads.
    _load_from_state_dict = nn.Module._load_from_state_dict

    def start_weights(self) -> None:
        """Scale and variance 1, shift and mean 0."""
        for ones in (self.weight, self.running_var):
            init.ones_(ones)
        for zeros in (self.bias, self.running_mean):
            init.zeros_(zeros)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(rows, width) -> the same shape"""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        mean, variance = self.running_mean, self.running_var
        everyone = gather_rows(at_least_float32(rows)) if self.training else rows
        if self.training and len(everyone) > 1:
            mean, variance = everyone.mean(0), everyone.var(0, unbiased=False)
            with torch.no_grad():
                self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_(variance.detach().to(self.running_var.dtype), self.momentum)
        scale = (variance + self.eps).rsqrt() * self.weight
        return ((rows - mean) * scale + self.bias).to(rows.dtype)


class VattProjection(VioletProjection):
    """
    What both kinds have in common: they read the vectors that the encoders give, and the temperature is fixed.

    Raises:
        ValueError: for an encoder or a text side that gives no vector; for a wrong `audio_config`, see the subclasses.
    """

    def __init__(self, config, video, text):
        nn.Module.__init__(self)
        kinds = {"vision_config": config.vision_config, "text_config": config.text_config}
        self.sizes = {"video": video.encoder.pooled_size, "text": text.pooled_size}
        for key, size in zip(kinds, self.sizes.values(), strict=True):
            if size is None:
                raise ValueError(
                    f"`projection_type` {config.projection_type!r} needs a vector of each clip and text, and "
                    f"`{key}.model_type` {getattr(kinds[key], 'model_type', None)!r} gives none: use 'in_order'."
                )
        audio: Any = config.audio_config
        self.sizes["audio"] = None if audio is None else audio.pooled_size
        if audio is not None and audio.pooled_size is None:
            raise ValueError(
                f"`projection_type` {config.projection_type!r} needs a vector of each sound, and "
                f"`audio_config.model_type` {audio.model_type!r} gives none."
            )
        self.logit_scale = nn.Buffer(torch.empty(1), persistent=False)

    @staticmethod
    def initial_logit_scale() -> float:
        return math.log(1 / TEMPERATURE)

    def video_vectors(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of clips -> their places beside sounds and beside texts, of any length."""
        raise NotImplementedError

    def sound_vectors(self, pooled: torch.Tensor) -> torch.Tensor:
        """Vectors of sounds -> their places beside videos, of any length."""
        raise NotImplementedError

    def text_vectors(self, pooled: torch.Tensor) -> torch.Tensor:
        """Vectors of texts -> their places beside videos, of any length."""
        raise NotImplementedError

    def video(self, video: Tokens) -> torch.Tensor:
        return unit(self.video_vectors(need_pooled(video))[1])

    def text(self, text: Tokens) -> torch.Tensor:
        return unit(self.text_vectors(need_pooled(text)))

    def video_beside_sound(self, video: Tokens) -> torch.Tensor:
        """-> (batch, width of that space), of length 1"""
        return unit(self.video_vectors(need_pooled(video))[0])

    def sound(self, sound: Tokens) -> torch.Tensor:
        """-> (batch, width of that space), of length 1"""
        return unit(self.sound_vectors(need_pooled(sound)))


class VattHierarchicalProjection(VattProjection):
    """
    "Fine and coarse": a fine space of videos and sounds, `audio_config.projection_dim` wide, and a coarse one of
    videos and texts, `projection_dim` wide, which a video reaches through the fine one.
    """

    def __init__(self, config, video, text):
        super().__init__(config, video, text)
        if config.audio_config is None:
            raise ValueError(
                f"`projection_type` {config.projection_type!r} has a space of videos and sounds, and `audio_config` "
                "is None: give one, or use 'joint'."
            )
        fine, coarse = getattr(config.audio_config, "projection_dim", None), config.projection_dim
        if fine is None:
            raise ValueError(
                f"`projection_type` {config.projection_type!r} takes the width of its fine space from "
                f"`audio_config.projection_dim`, which `audio_config.model_type` {config.audio_config.model_type!r} "
                "does not have: use 'joint', or the audio encoder 'vatt_audio'."
            )
        self.video_hidden = nn.Linear(self.sizes["video"], fine, bias=False)
        self.hidden_norm = VattBatchNorm(fine)
        self.video_fine = nn.Linear(fine, fine, bias=False)
        self.fine_norm = VattBatchNorm(fine)
        self.video_coarse = nn.Linear(fine, coarse, bias=False)
        self.coarse_norm = VattBatchNorm(coarse)
        self.sound_fine = nn.Linear(self.sizes["audio"], fine)
        self.text_coarse = nn.Linear(self.sizes["text"], coarse)

    def video_vectors(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = nn.functional.relu(self.hidden_norm(self.video_hidden(pooled)))
        fine = self.fine_norm(self.video_fine(hidden))
        return fine, self.coarse_norm(self.video_coarse(nn.functional.relu(fine)))

    def sound_vectors(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.sound_fine(pooled)

    def text_vectors(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.text_coarse(pooled)


class VattJointHead(nn.Module):
    """BN(W ReLU(x)), without bias."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.dense = nn.Linear(size, width, bias=False)
        self.norm = VattBatchNorm(width)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.norm(self.dense(nn.functional.relu(pooled)))


class VattJointProjection(VattProjection):
    """One space of videos, sounds and texts, `projection_dim` wide."""

    def __init__(self, config, video, text):
        super().__init__(config, video, text)
        heads = {name: VattJointHead(size, config.projection_dim) for name, size in self.sizes.items() if size}
        self.heads = nn.ModuleDict(heads)

    def video_vectors(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vectors = self.heads["video"](pooled)
        return vectors, vectors

    def sound_vectors(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.heads["audio"](pooled)

    def text_vectors(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.heads["text"](pooled)


def need_pooled(tokens: Tokens) -> torch.Tensor:
    """The vector beside the tokens, which the parts of a model with such a projection give."""
    assert tokens.pooled is not None
    return tokens.pooled


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """x / √max(Σ x², 1e-12)"""
    return nn.functional.normalize(at_least_float32(vectors), dim=-1, eps=1e-6)

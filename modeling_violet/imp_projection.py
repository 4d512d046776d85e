"""IMP's spaces of videos, sounds and texts, one for each pair of them (Akbari et al., 2023, arXiv:2305.06324)."""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .losses import at_least_float32
from .offloading import read_weights
from .projection import VioletProjection
from .tokens import Tokens

EPS = 1e-6
"""What IMP adds to lengths and temperatures before it divides by them."""


class ImpHead(nn.Module):
    """Vectors of a modality into the space that it shares with another: layer, GELU, layer, norm."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.inner = nn.Linear(size, width)
        self.outer = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """(batch, size) -> (batch, width)"""
        return self.norm(self.outer(nn.functional.gelu(self.inner(pooled), approximate="tanh")))


class ImpDisjointProjection(VioletProjection):
    """
    For every pair of modalities a space of its own, `projection_dim` wide, into which each of the two has a head; and
    a temperature, learned as it is: ReLU(t) + 1e-6, no logarithm. It starts at 1 with experts and at 0.2 without.

    Raises:
        ValueError: for an encoder or a text side that gives no vector.
    """

    def __init__(self, config, video, text):
        nn.Module.__init__(self)
        audio: Any = config.audio_config
        sizes = {
            "video": ("vision_config", config.vision_config, video.encoder.pooled_size),
            "text": ("text_config", config.text_config, text.pooled_size),
        }
        if audio is not None:
            sizes["audio"] = ("audio_config", audio, audio.pooled_size)
        for key, part, size in sizes.values():
            if size is None:
                raise ValueError(
                    f"`projection_type` {config.projection_type!r} needs a vector of each modality, and "
                    f"`{key}.model_type` {getattr(part, 'model_type', None)!r} gives none: use 'in_order'."
                )
        self.heads = nn.ModuleDict(
            {
                f"{one}_to_{other}": ImpHead(size, config.projection_dim)
                for one, (_, _, size) in sizes.items()
                for other in sizes
                if other != one
            }
        )
        pairs = {pair_name(one, other) for one in sizes for other in sizes if other != one}
        self.pairs = tuple(sorted(pairs))
        for name in self.pairs:  # (1,) each: FSDP shards no scalars
            self.register_parameter(f"temperature_{name}", nn.Parameter(torch.empty(1)))
        self.first_temperature = 1.0 if getattr(config.vision_config, "experts", None) else 0.2

    def start_weights(self) -> None:
        """The temperatures; layers start as others do."""
        for one in self.temperatures():
            init.constant_(one, self.first_temperature)

    def temperatures(self) -> list[nn.Parameter]:
        """That of each of `pairs`."""
        return [getattr(self, f"temperature_{name}") for name in self.pairs]

    def pair_scale(self, one: str, other: str) -> torch.Tensor:
        """(1,), the inverse temperature of a pair of modalities."""
        temperature = read_weights(self, lambda: getattr(self, f"temperature_{pair_name(one, other)}"))
        return 1 / (at_least_float32(temperature).relu() + EPS)

    def scale(self) -> torch.Tensor:
        return self.pair_scale("video", "text")

    @property
    def logit_scale(self) -> torch.Tensor:  # type: ignore[override]
        """(1,), the logarithm of `scale`, which losses of other systems read."""
        return self.scale().log()

    temperature_text_video: nn.Parameter

    def trained_scale(self) -> list[nn.Parameter]:
        return [self.temperature_text_video]

    def vectors(self, one: str, other: str, pooled: torch.Tensor) -> torch.Tensor:
        """Vectors (batch, size) of `one` -> their places beside `other` (batch, projection_dim), of any length."""
        return self.heads[f"{one}_to_{other}"](pooled)

    def video(self, video: Tokens) -> torch.Tensor:
        return unit_length(self.vectors("video", "text", _pooled(video)))

    def text(self, text: Tokens) -> torch.Tensor:
        return unit_length(self.vectors("text", "video", _pooled(text)))

    def video_beside_sound(self, video: Tokens) -> torch.Tensor:
        """-> (batch, projection_dim), of length 1"""
        return unit_length(self.vectors("video", "audio", _pooled(video)))

    def sound(self, sound: Tokens) -> torch.Tensor:
        """-> (batch, projection_dim), of length 1"""
        return unit_length(self.vectors("audio", "video", _pooled(sound)))


def pair_name(one: str, other: str) -> str:
    """The name of a pair of modalities, whatever their order."""
    return "_".join(sorted((one, other)))


def unit_length(vectors: torch.Tensor) -> torch.Tensor:
    """x / (‖x‖ + 1e-6)"""
    vectors = at_least_float32(vectors)
    return vectors / (torch.linalg.vector_norm(vectors, dim=-1, keepdim=True) + EPS)


def _pooled(tokens: Tokens) -> torch.Tensor:
    assert tokens.pooled is not None  # the parts of a model with this projection give it
    return tokens.pooled

"""The table of audio encoders, and the sound's side of the model: their states as tokens that enter the fusion."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ...core.registry import Registry
from ..tokens import Tokens

AUDIO_ENCODERS: Registry[type[PreTrainedModel]] = Registry(
    "audio encoder",
    __package__,
    {"vatt_audio": "waveform:VattAudioModel", "imp_audio": "spectrogram:ImpAudioModel"},
    config_keys=("audio_config.model_type",),
)
"""
By the audio configuration's `model_type`: a model whose `forward` takes `audio_values` and `audio_attention_mask`
(batch, samples) and gives `SoundStates`. Its configuration has `sampling_rate` (Hz), `num_samples` (of a clip),
`hidden_size` (of its states), `num_states(samples)`, and `pooled_size`, the width of a sound's vector, or None. If it
has `share`, and its configuration a true `shared`, it is given the vision encoder's model.
"""


@dataclass
class SoundStates(ModelOutput):
    """
    What an audio encoder gives of the sound of a batch of clips.

    Attributes:
        last_hidden_state: (batch, N, width).
        attention_mask: (batch, N), 1 for a state of sound and 0 for padding.
        pooler_output: (batch, any width), its vector of the sound. Of a clip without sound it means nothing.
    """

    last_hidden_state: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None


class VioletSoundSide(nn.Module):
    """
    An audio encoder's states as `Tokens`. For a fusion they pass a linear layer to its width, and get learned places,
    by which it also tells them from a video's, and a norm.
    """

    def __init__(self, config: PreTrainedConfig, vision_model: PreTrainedModel):
        super().__init__()
        audio: Any = config.audio_config
        self.model = AUDIO_ENCODERS.find(audio.model_type)._from_config(audio)
        if getattr(audio, "shared", False):
            self.model.share(vision_model)
        self._no_split_modules = self.model._no_split_modules  # transformers collects them from direct children
        self.config = config
        self.into_fusion = config.has_fusion
        if self.into_fusion:
            places = audio.num_states(audio.num_samples)
            self.projection = nn.Linear(audio.pooled_size, config.hidden_size)
            self.position_embeddings = nn.Parameter(torch.empty(places, config.hidden_size))
            self.norm = nn.LayerNorm(config.hidden_size, eps=1e-5)

    def start_weights(self) -> None:
        """The places as VIOLET's of videos."""
        if self.into_fusion:
            init.trunc_normal_(self.position_embeddings, std=self.config.initializer_range)

    def forward(self, audio_values: torch.Tensor, audio_attention_mask: torch.Tensor | None = None) -> Tokens:
        """
        Args:
            audio_values: (batch, samples), from -1 to 1.
            audio_attention_mask: (batch, samples), 1 for a sample of sound and 0 for none; all 1 if it is not given. A
                row of zeros is a clip without sound.

        Raises:
            ValueError: for another shape of either.
        """
        check_sound(audio_values, audio_attention_mask)
        states = self.model(audio_values, audio_attention_mask)
        tokens = states.last_hidden_state
        if self.into_fusion:
            from ..embeddings import interpolate_rows

            places = interpolate_rows(self.position_embeddings, tokens.shape[1])
            tokens = self.norm((self.projection(tokens) + places).to(self.norm.weight.dtype))
        return Tokens(tokens, states.attention_mask, pooled=states.pooler_output)


def check_sound(values: torch.Tensor, mask: torch.Tensor | None) -> None:
    """
    Raises:
        ValueError: for sound that is not (batch, samples), or a mask of another shape.
    """
    if values.dim() != 2:
        raise ValueError(
            f"`audio_values` has shape {tuple(values.shape)}; (batch, samples) is needed: one channel per clip."
        )
    if mask is not None and mask.shape != values.shape:
        raise ValueError(
            f"`audio_attention_mask` has shape {tuple(mask.shape)}, and `audio_values` {tuple(values.shape)}: they "
            "must be equal."
        )


def build_sound_side(config: PreTrainedConfig, vision_model: PreTrainedModel) -> VioletSoundSide | None:
    """The sound's side of a configuration; None if it has no `audio_config`."""
    return None if config.audio_config is None else VioletSoundSide(config, vision_model)

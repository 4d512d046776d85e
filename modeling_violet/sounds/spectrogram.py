"""IMP's audio encoder (Akbari et al., 2023, arXiv:2305.06324): patches of a spectrogram, and its layers."""

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers import initialization as init
from transformers.audio_utils import mel_filter_bank
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ...configuration.configuration_violet import _refuse, _require_positive
from ...core.upstream import capture_outputs
from ..imp_layers import ImpBackbone, ImpLayersConfig, ImpPreTrainedModel, ImpStream
from .sound_side import SoundStates

FLOOR = 1e-10
"""The power below which all is silence."""


@strict
class ImpAudioConfig(ImpLayersConfig):
    r"""
    Configuration of IMP's audio encoder. How a wave becomes a spectrogram IMP does not say: those settings are ours.
    Sizes of the layers, `qk_norm` and `experts` are as of [`ImpVisionConfig`], and equal to its if they are shared.

    Args:
        sampling_rate (`int`): samples a second of the sound that it hears.
        num_samples (`int`): samples of a clip.
        window_length (`int`), hop_length (`int`): samples that a column of the spectrogram is made of, and between
            two.
        num_mel_bins (`int`): its rows.
        patch_size (`list[int]`): (columns, rows) of the spectrogram of a patch. What is left over at the end of the
            time is not heard.
        position_grid (`list[int]`): learned positions in time and of frequencies; see [`ImpVisionConfig`].
        hidden_size (`int`): width of the states, and of the sound's vector, behind the layers.
        shared (`bool`): whether the layers are the vision encoder's (published) or its own.
    """

    model_type = "imp_audio"
    base_config_key = "audio_config"

    sampling_rate: int = 16000
    num_samples: int = 20480
    window_length: int = 400
    hop_length: int = 160
    num_mel_bins: int = 128
    patch_size: list[int] | tuple[int, ...] = (16, 16)
    position_grid: list[int] | tuple[int, ...] = (8, 8)
    backbone_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_size: int = 768
    qk_norm: bool = False
    experts: dict[str, Any] | None = None
    shared: bool = True
    layer_norm_eps: float = 1e-6

    def spectrogram_grid(self, columns: int) -> tuple[int, int]:
        """
        (steps in time, bands) of the patches of a spectrogram with that many columns.

        Raises:
            ValueError: for fewer columns than a patch has.
        """
        wide, high = self.patch_size
        if columns < wide:
            _refuse("patch_size", f"IMP hears spectrograms of {wide} columns or more, got {columns}.")
        return columns // wide, self.num_mel_bins // high

    def grid(self, samples: int) -> tuple[int, int]:
        """The same of a sound of that many samples."""
        return self.spectrogram_grid(samples // self.hop_length)

    def num_states(self, samples: int) -> int:
        """
        States of a sound of that many samples.

        Raises:
            ValueError: for fewer than a patch.
        """
        steps, bands = self.grid(samples)
        return steps * bands

    def validate_architecture(self):
        super().validate_architecture()
        _require_positive(self, "sampling_rate", "num_samples", "window_length", "hop_length", "num_mel_bins")
        for name in ("patch_size", "position_grid"):
            value = getattr(self, name)
            if len(value) != 2 or min(value) < 1:
                _refuse(name, f"must be two positive numbers (columns, rows), got {list(value)}.")
        if self.num_mel_bins % self.patch_size[1]:
            _refuse(
                "num_mel_bins",
                f"{self.num_mel_bins} is no multiple of the rows of `patch_size`, {self.patch_size[1]}.",
            )
        self.num_states(self.num_samples)


class ImpSpectrogram(nn.Module):
    """Waves -> their log-mel spectrograms: log10 of the power in each mel band, from about -1.5 (silence) to 1."""

    def __init__(self, config: ImpAudioConfig):
        super().__init__()
        self.config = config
        bins = config.window_length // 2 + 1
        self.filters = nn.Buffer(torch.empty(bins, config.num_mel_bins), persistent=False)
        self.window = nn.Buffer(torch.empty(config.window_length), persistent=False)

    def start_weights(self) -> None:
        """The mel bands (Slaney's), and Hann's window."""
        config = self.config
        rate = config.sampling_rate
        filters = mel_filter_bank(
            len(self.filters), config.num_mel_bins, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney"
        )
        init.copy_(self.filters, torch.from_numpy(filters).to(self.filters.dtype))
        init.copy_(self.window, torch.hann_window(config.window_length))

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        """(batch, samples) -> (batch, columns, bands), in float32"""
        hop = self.config.hop_length
        with torch.autocast(waves.device.type, enabled=False):
            spectrum = torch.stft(
                waves.float(),
                self.config.window_length,
                hop,
                window=self.window.float(),
                pad_mode="constant",
                return_complex=True,
            )
            # (batch, bins, 1 + columns) -> (batch, columns, bins) -> (batch, columns, bands)
            power = spectrum.abs().square()[..., : waves.shape[1] // hop].transpose(1, 2) @ self.filters.float()
        return (power.clamp(min=FLOOR).log10() + 4) / 4


@dataclass
class ImpAudioOutput(SoundStates):
    """
    `SoundStates`, with the states of every layer if they are asked for; of the kept places only, in their order, if
    tokens were dropped.
    """

    hidden_states: tuple[torch.Tensor, ...] | None = None


class ImpAudioModel(ImpPreTrainedModel):
    """IMP's audio encoder. By itself it needs a configuration whose `shared` is false, or `share`."""

    config_class = ImpAudioConfig
    base_model_prefix = "imp_audio"
    main_input_name = "audio_values"
    input_modalities = ("audio",)

    def __init__(self, config: ImpAudioConfig):
        super().__init__(config)
        wide, high = config.patch_size
        self.spectrogram = ImpSpectrogram(config)
        self.patches = nn.Conv2d(1, config.backbone_size, (wide, high), stride=(wide, high))
        self.stream = ImpStream(config, tuple(config.position_grid))
        self.backbone = None if config.shared else ImpBackbone(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.patches

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        audio_values: torch.Tensor,
        audio_attention_mask: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImpAudioOutput:
        """
        Args:
            audio_values: (batch, samples), from -1 to 1, not normalised.
            audio_attention_mask: (batch, samples), 1 for a sample of sound and 0 for none; all 1 if it is not given. A
                patch without a sample of sound is padding: no token sees it.
            kept: (batch, K), places on the grid, time first, that are computed (token drop); all if it is None.
        """
        steps, bands = self.config.grid(audio_values.shape[1])
        mask = None
        if audio_attention_mask is not None:
            heard = audio_attention_mask[:, : steps * self.config.patch_size[0] * self.config.hop_length]
            # (batch, samples) -> (batch, steps, samples of a patch) -> (batch, steps) -> (batch, steps * bands)
            mask = heard.unflatten(1, (steps, -1)).bool().any(-1).long().repeat_interleave(bands, dim=1)
        return self.encode_spectrograms(self.spectrogram(audio_values), mask, kept)

    def encode_spectrograms(
        self, spectrograms: torch.Tensor, mask: torch.Tensor | None = None, kept: torch.Tensor | None = None
    ) -> ImpAudioOutput:
        """Spectrograms (batch, columns, rows), and which patches are real (batch, N) -> their states."""
        grid = self.config.spectrogram_grid(spectrograms.shape[1])
        # (batch, columns, rows) -> (batch, 1, columns, rows) -> (batch, D, *grid) -> (batch, N, D)
        embedded = self.patches(spectrograms.unsqueeze(1).to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        states, pooled = self.compute(embedded, grid, mask, kept)
        if mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        elif kept is not None:
            mask = mask.gather(1, kept)
        return ImpAudioOutput(states, mask, pooled)


AutoConfig.register(ImpAudioConfig.model_type, ImpAudioConfig, exist_ok=True)
AutoModel.register(ImpAudioConfig, ImpAudioModel, exist_ok=True)

"""VATT's audio encoder (Akbari et al., 2021, arXiv:2104.11178): patches of the raw wave, and its backbone."""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from ...configuration.configuration_violet import _refuse, _require_positive
from ...core.upstream import capture_outputs
from ..vatt_layers import VattBackbone, VattLayersConfig, VattPreTrainedModel, VattStream
from .sound_side import SoundStates


@strict
class VattAudioConfig(VattLayersConfig):
    r"""
    Configuration of VATT's audio encoder. The defaults are those of the published modality-agnostic Medium. Sizes of
    the backbone and `dropout` are as of [`VattVisionConfig`], and equal to its if it is shared.

    Args:
        sampling_rate (`int`): samples a second of the sound that it hears.
        num_samples (`int`): samples of a clip. There is a learned position for each of their patches; for another
            number of patches a natural cubic spline goes through the table.
        patch_size (`int`): samples of a patch. What is left over at the end is not heard.
        hidden_size (`int`): width of the states, and of the sound's vector, behind the backbone.
        projection_dim (`int`): width of the space in which videos and sounds are compared, if that is another than
            the one of videos and texts.
        shared (`bool`): whether the backbone is the vision encoder's ("modality-agnostic") or its own.
    """

    model_type = "vatt_audio"
    base_config_key = "audio_config"

    sampling_rate: int = 48000
    num_samples: int = 153600
    patch_size: int = 128
    backbone_size: int = 1024
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    head_dim: int = 64
    intermediate_size: int = 4096
    hidden_size: int = 1024
    projection_dim: int = 512
    shared: bool = True
    dropout: float | int = 0.1
    layer_norm_eps: float = 1e-6

    def num_states(self, samples: int) -> int:
        """
        States of a sound of that many samples.

        Raises:
            ValueError: for fewer than a patch.
        """
        if samples < self.patch_size:
            _refuse("patch_size", f"VATT hears sounds of {self.patch_size} samples or more, got {samples}.")
        return samples // self.patch_size

    def validate_architecture(self):
        super().validate_architecture()
        _require_positive(self, "sampling_rate", "num_samples", "patch_size", "projection_dim")
        self.num_states(self.num_samples)


@dataclass
class VattAudioOutput(SoundStates):
    """
    `SoundStates`, with the states of every layer if they are asked for; of the kept places only, in their order, if
    tokens were dropped.
    """

    hidden_states: tuple[torch.Tensor, ...] | None = None


class VattAudioModel(VattPreTrainedModel):
    """VATT's audio encoder. By itself it needs a configuration whose `shared` is false, or `share`."""

    config_class = VattAudioConfig
    base_model_prefix = "vatt_audio"
    main_input_name = "audio_values"
    input_modalities = ("audio",)

    def __init__(self, config: VattAudioConfig):
        super().__init__(config)
        self.patches = nn.Conv1d(1, config.backbone_size, config.patch_size, stride=config.patch_size)
        self.stream = VattStream(config, config.backbone_size, (config.num_states(config.num_samples),))
        self.backbone = None if config.shared else VattBackbone(config)
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
    ) -> VattAudioOutput:
        """
        Args:
            audio_values: (batch, samples), from -1 to 1, not normalised.
            audio_attention_mask: (batch, samples), 1 for a sample of sound and 0 for none; all 1 if it is not given. A
                patch without a sample of sound is padding: no token sees it.
            kept: (batch, K), the patches that are computed (DropToken); all if it is None.
        """
        places = self.config.num_states(audio_values.shape[1])
        # (batch, samples) -> (batch, 1, samples) -> (batch, D, N) -> (batch, N, D)
        embedded = self.patches(audio_values.unsqueeze(1).to(self.patches.weight.dtype)).transpose(1, 2)
        mask = None
        if audio_attention_mask is not None:
            heard = audio_attention_mask[:, : places * self.config.patch_size]
            # (batch, samples) -> (batch, N, patch_size) -> (batch, N)
            mask = heard.unflatten(1, (places, -1)).bool().any(-1).long()
        states, pooled = self.compute(embedded, (places,), mask, kept)
        if mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        elif kept is not None:
            mask = mask.gather(1, kept)
        return VattAudioOutput(states, mask, pooled)


AutoConfig.register(VattAudioConfig.model_type, VattAudioConfig, exist_ok=True)
AutoModel.register(VattAudioConfig, VattAudioModel, exist_ok=True)

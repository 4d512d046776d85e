"""
CoCa's multimodal half (Yu et al., 2022, arXiv:2205.01917): a causal decoder over the words whose layers look at the
video's tokens by cross-attention. The video's tokens are no part of its sequence.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, Cache, PreTrainedConfig

from ...configuration.configuration_violet import _refuse_unknown
from ...core.carried_code import without_code
from ..attention import AttentionLayout, build_attention_mask, kernel_mask
from ..coca_layers import CocaBlock, CocaCrossBlock
from ..tokens import Tokens
from .fusion import Fusion


class CocaFusionConfig(PreTrainedConfig):
    """Configuration of CoCa's multimodal half: its layers are described by the whole model, [`VioletConfig`]."""

    model_type = "coca"
    base_config_key = "fusion_model_config"

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))


class CocaDecoderLayer(nn.Module):
    """A block of the words among themselves, and one of the words beside the video."""

    def __init__(self, config: Any, layer: int):
        super().__init__()
        layers = config.num_hidden_layers
        dropouts = (config.hidden_dropout_prob, config.attention_probs_dropout_prob)
        self.own = CocaBlock(config, layer, layers, *dropouts)
        self.cross = CocaCrossBlock(config, layers + layer, layers, *dropouts)

    def forward(
        self,
        states: torch.Tensor,
        mask: torch.Tensor | None,
        context: torch.Tensor | None,
        context_mask: torch.Tensor,
        cache: Cache | None,
    ) -> torch.Tensor:
        """(batch, words, width) -> the same shape"""
        return self.cross(self.own(states, mask, cache=cache), context, context_mask, cache=cache)


class CocaFusion(Fusion):
    """
    The decoder. It gives states of the words only, each of which knows the video and the words up to itself. A cache
    has the words' keys and values of each layer in its first places, and the video's in those behind them.
    """

    rules = ("sequence_to_sequence",)
    joint_sequence = False

    def __init__(self, config):
        super().__init__()
        self.config = config
        if not config.next_word_prediction:
            raise ValueError(
                "The fusion `fusion_model_config.model_type` 'coca' predicts each word from the one before it, and "
                "`next_word_prediction` is false: set it to true."
            )
        if config.mvm_targets:
            raise ValueError(
                "`mvm_targets` reads the video's states behind the fusion, and video tokens do not pass the fusion "
                "`fusion_model_config.model_type` 'coca': leave `mvm_targets` out."
            )
        self._no_split_modules = ["CocaDecoderLayer"]  # transformers collects them from direct children
        self.layers = nn.ModuleList(CocaDecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    @property
    def cached_layers(self) -> int:
        return 2 * len(self.layers)

    def forward(
        self,
        groups: dict[str, Tokens],
        rule: str = "sequence_to_sequence",
        cache: Cache | None = None,
        past_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        if "prompt" in groups:
            raise ValueError(
                "The fusion `fusion_model_config.model_type` 'coca' has no place between video and text: leave "
                "`task_ids` out, and give a prompt's words as the beginning of `input_ids`."
            )
        if "text" not in groups:
            raise ValueError("The fusion `fusion_model_config.model_type` 'coca' is a decoder of words: give a text.")
        text, video = groups["text"], groups.get("video")
        if video is None:  # its keys and values are in the cache
            assert cache is not None and past_mask is not None
            seen = past_mask[:, : cache.get_seq_length(len(self.layers))]
            key_mask = torch.cat([past_mask[:, seen.shape[1] :], text.mask], dim=1)
        else:
            seen, key_mask = video.mask, text.mask
        states, real = text.tokens, seen.bool()
        layout = AttentionLayout({"past": key_mask.shape[1] - states.shape[1], "text": states.shape[1]})
        mask = build_attention_mask(self.config, states, key_mask, rule, layout, cache)
        context_mask = kernel_mask(
            self.config, states, real.shape[1], lambda batch, head, query, key: real[batch, key] & (query >= 0), 0
        )
        for layer in self.layers:
            states = layer(states, mask, None if video is None else video.tokens, context_mask, cache)
        assert self.norm is not None  # the decoder's last
        return {"text": self.norm(states)}


AutoConfig.register(CocaFusionConfig.model_type, CocaFusionConfig, exist_ok=True)

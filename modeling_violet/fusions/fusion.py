"""The table of fusions: networks over named groups of tokens (video, prompt, text)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from transformers import Cache, PreTrainedConfig

from ...core.registry import Registry
from ..attention import RULES
from ..texts.text_side import TextSide
from ..tokens import Tokens

CLIP_STATES = "clip_states"
"""
The key under which a fusion that joins clips behind itself also gives the first text state beside each of several
clips, (texts, clips, width).
"""


class Fusion(nn.Module):
    """
    What VIOLET asks of a fusion. It is built from the whole model's configuration, whose `fusion_model_config` holds
    its own fields.

    Attributes:
        layers: its layers, from the first to the last.
        norm: what stands behind the last layer, or None.
        rules: the rules of attention that it serves, of `attention.RULES`.
        refused: rules that one of its settings stands against, and why, as the end of a sentence.
        hears: whether it takes the group "audio".
        joint_sequence: whether video, prompt and text are one sequence, all of which a cache counts; else only words
            are, and a prompt is the beginning of the text.
        narrows: whether it takes `first_of`.
        reads_boxes: whether it reads the part of a video that `Tokens.boxes` says, and not the whole.
        outside: groups that it reads but that have no place in its sequence: it gives no states of them, and no keys
            of theirs are in a cache.
        measures: numbers () of its last pass in training, for the log, by name.
    """

    layers: nn.ModuleList
    norm: nn.Module | None
    rules: tuple[str, ...] = ("bidirectional",)
    refused: Mapping[str, str] = MappingProxyType({})
    hears: bool = False
    joint_sequence: bool = True
    narrows: bool = False
    reads_boxes: bool = False

    outside: tuple[str, ...] = ()
    measures: Mapping[str, torch.Tensor] = MappingProxyType({})

    @property
    def cached_layers(self) -> int:
        """How many places it takes in a cache, from the first on."""
        return len(self.layers)

    def prepare(self, video: Tokens) -> Tokens:
        """Encoded videos with what is computed once of each, however many texts it meets (`Tokens.prepared`)."""
        return video

    def forward(
        self,
        groups: dict[str, Tokens],
        rule: str = "bidirectional",
        cache: Cache | None = None,
        past_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            groups: in order: "video", "audio" (if there is one, and it `hears`), "prompt" (if there is one), "text"
                (if there is one).
            rule: who sees whom, one of `rules`.
            cache: the keys and values of tokens that came before these; those of these are added. Only under a causal
                rule.
            past_mask: (batch, tokens that came before), 1 if one may be seen.
            kwargs: for each layer; and, of a fusion that `narrows`, `first_of`: the group whose first state is all
                that is needed, so that the last layer may compute no other.

        Returns:
            Each group's states (batch, tokens, width), by name and in the same order; or, of `first_of`, only that
            group's first (batch, 1, width).
        """
        raise NotImplementedError

    def share(self, text_side: TextSide) -> None:
        """Takes what it has in common with the text side: nothing here."""


FUSIONS: Registry[type[Fusion]] = Registry(
    "fusion",
    __package__,
    {
        "bert": "bert_fusion:VioletBertFusion",
        "coca": "coca_decoder:CocaFusion",
        "bert_with_experts": "expert_fusion:VioletExpertFusion",
        "clip_by_clip": "clip_by_clip:VioletClipByClipFusion",
        "language_model": "language_model:VioletLanguageModelFusion",
        "low_rank": "low_rank_fusion:VloraFusion",
        "low_rank_language_model": "low_rank_language_model:VloraLanguageModelFusion",
        "none": "no_fusion:VioletNoFusion",
    },
    config_keys=("fusion_model_config.model_type",),
)
"""
By the fusion configuration's `model_type`; without a configuration it is BERT's encoder, from VIOLET's own fields.
"""


def find_fusion(config: PreTrainedConfig) -> type[Fusion]:
    """
    The class of a configuration's fusion.

    Raises:
        ValueError: for an unknown `fusion_model_config.model_type`.
    """
    own: Any = getattr(config, "fusion_model_config", None)
    return FUSIONS.find("bert" if own is None else own.model_type)


def fuses_pairs(config: PreTrainedConfig) -> bool:
    """Whether a configuration's fusion joins a video with a whole text, so that it can tell whether they match."""
    return "bidirectional" in find_fusion(config).rules


def writes_by_head(config: PreTrainedConfig) -> bool:
    """Whether words are predicted by a head on the fusion's states, and not by a part that `written_by` names."""
    own: Any = config
    return own.has_fusion and getattr(own.fusion_model_config, "written_by", None) is None


def require_states_of(group: str, config: PreTrainedConfig, reader: str) -> None:
    """
    Refuses a fusion that gives no states of a group which something else reads.

    Args:
        reader: what reads them, for the message.

    Raises:
        ValueError: naming the reader and the fusion.
    """
    if group in find_fusion(config).outside:
        own: Any = getattr(config, "fusion_model_config", None)
        raise ValueError(
            f"{reader} needs the fusion's states of the group {group!r}, and the fusion "
            f"`fusion_model_config.model_type` {own.model_type!r} has none: {group!r} is not in its sequence. Use "
            "another fusion, or leave that out."
        )


def build_fusion(config: PreTrainedConfig) -> Fusion:
    """
    The fusion of a configuration.

    Raises:
        ValueError: for an unknown `fusion_model_config.model_type`, or a fusion that lists an unknown rule of
            attention.
    """
    fusion = find_fusion(config)(config)
    for rule in fusion.rules:
        RULES.find(rule)
    return fusion

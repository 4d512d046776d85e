"""BERT's encoder with experts in the place of its last layers' MLPs."""

from dataclasses import field
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, Cache, PreTrainedConfig

from ...configuration.configuration_violet import _refuse_unknown
from ...core.carried_code import without_code
from ..attention import RULES
from ..experts import ExpertOptions, VioletExperts, refuse_causal
from ..tokens import Tokens
from .bert_fusion import VioletBertFusion, VioletFusionLayer

KEY = "fusion_model_config.experts"


@strict
class VioletExpertFusionConfig(PreTrainedConfig):
    r"""
    Configuration of the fusion with experts. Its layers are described by the whole model, [`VioletConfig`].

    Args:
        experts (`dict`): how many, in which layers, and who chooses whom: see `experts.ExpertOptions`.
    """

    model_type = "bert_with_experts"
    base_config_key = "fusion_model_config"

    experts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))

    @property
    def expert_options(self) -> ExpertOptions:
        return ExpertOptions.of(self.experts, KEY)

    def validate_architecture(self):
        """Refuses what is unknown, naming the field."""
        super().validate_architecture()
        _ = self.expert_options


class VioletExpertFusionLayer(VioletFusionLayer):
    """A layer of the fusion with experts in its MLP's place."""

    def __init__(self, config, layer: int):
        super().__init__(config, layer)
        del self.intermediate, self.output
        options = config.fusion_model_config.expert_options
        sizes = config.hidden_size, config.intermediate_size
        self.experts = VioletExperts(options, *sizes, config.hidden_act, config.initializer_range)

    def feed_forward(self, states: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        return self.dropout(self.experts(states, real))


class VioletExpertFusion(VioletBertFusion):
    """
    The joint sequence of a pair is one sample, whose tokens of video and text share the experts.

    Raises:
        ValueError: for more layers with experts than there are layers.
    """

    narrows = False  # what a token gets of the experts depends on the others

    def __init__(self, config):
        options = config.fusion_model_config.expert_options
        if options.layers > config.num_hidden_layers:
            raise ValueError(
                f"`{KEY}.layers` {options.layers} are more than the fusion's `num_hidden_layers` "
                f"{config.num_hidden_layers}."
            )
        super().__init__(config)
        self._no_split_modules = ["VioletExpertFusionLayer"]  # transformers collects them from direct children
        self.refused = refuse_causal(options, (rule for rule in self.rules if RULES[rule].causal), KEY)
        self.rules = tuple(rule for rule in self.rules if rule not in self.refused)

    def build_layer(self, config, layer: int) -> VioletFusionLayer:
        holds = config.fusion_model_config.expert_options.holds(layer, config.num_hidden_layers)
        return (VioletExpertFusionLayer if holds else VioletFusionLayer)(config, layer)

    def forward(
        self,
        groups: dict[str, Tokens],
        rule: str = "bidirectional",
        cache: Cache | None = None,
        past_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> dict[str, torch.Tensor]:
        """
        See `Fusion.forward`.

        Raises:
            ValueError: for a causal rule, if experts choose their tokens.
        """
        if rule in self.refused:
            raise ValueError(f"The rule of attention {rule!r} is asked for, {self.refused[rule]}.")
        return super().forward(groups, rule, cache, past_mask, **kwargs)


AutoConfig.register(VioletExpertFusionConfig.model_type, VioletExpertFusionConfig, exist_ok=True)

"""Output heads on the fusion's states, shared by several models."""

from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from ..configuration.configuration_violet import VioletConfig
from ..core.registry import Registry
from .clip_pooling import CLIP_POOLING
from .scaled_linear import VioletScaledLinear


class VioletClassificationHead(nn.Sequential):
    """
    Dropout, Linear D -> 2D, ReLU, Linear 2D -> classes: the published models' head of matches, answers, visual words
    and features. D is `width`, the model's own if it is not given.
    """

    def __init__(self, config: VioletConfig, num_classes: int, width: int | None = None):
        width = config.hidden_size if width is None else width
        super().__init__(
            nn.Dropout(config.classifier_dropout),
            nn.Linear(width, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, num_classes),
        )


class VioletPoolerHead(nn.Sequential):
    """
    BERT's pooler (Linear D -> D, tanh), dropout, Linear D -> classes: BERT's head of matches and answers. Of several
    clips that the fusion takes one by one it reads each, and joins them behind the tanh, as HD-VILA's does.
    """

    def __init__(self, config: VioletConfig, num_classes: int):
        width = config.hidden_size
        super().__init__(
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Dropout(config.classifier_dropout),
            nn.Linear(width, num_classes),
        )
        self.clip_pooling: str = getattr(config.fusion_model_config, "clip_pooling", "mean")  # read with clips only

    def read_clips(self, states: torch.Tensor) -> torch.Tensor:
        """(texts, clips, width) -> (texts, classes)"""
        dense, tanh, dropout, classes = self
        return classes(dropout(CLIP_POOLING[self.clip_pooling](tanh(dense(states)))))


class VioletPoolerMlpHead(nn.Sequential):
    """
    BERT's pooler (Linear D -> D, tanh), dropout, Linear D -> 2D, ReLU, Linear 2D -> classes. Of several clips that the
    fusion takes one by one it answers for each, and joins the logits by their logsumexp, as HD-VILA's does.
    """

    def __init__(self, config: VioletConfig, num_classes: int):
        width = config.hidden_size
        super().__init__(
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Dropout(config.classifier_dropout),
            nn.Linear(width, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, num_classes),
        )

    def read_clips(self, states: torch.Tensor) -> torch.Tensor:
        """(texts, clips, width) -> (texts, classes)"""
        return self(states).logsumexp(1)


class VioletTwoClassMatchHead(VioletPoolerHead):
    """
    BERT's match head of two classes, "no match" and "match". Its score is the difference of their logits: a
    cross-entropy over the two is the binary one of the score.
    """

    def __init__(self, config: VioletConfig):
        super().__init__(config, 2)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., width) -> (..., 1)"""
        return self.score(super().forward(states))

    def read_clips(self, states: torch.Tensor) -> torch.Tensor:
        """(texts, clips, width) -> (texts, 1)"""
        return self.score(super().read_clips(states))

    @staticmethod
    def score(classes: torch.Tensor) -> torch.Tensor:
        """(..., 2) -> (..., 1)"""
        return classes[..., 1:] - classes[..., :1]


HEADS: Registry[Any] = Registry(
    "head",
    __package__,
    {
        "mlp": "heads:VioletClassificationHead",
        "pooler": "heads:VioletPoolerHead",
        "pooler_mlp": "heads:VioletPoolerMlpHead",
    },
    config_keys=("head_type",),
)
"""By the configuration's `head_type`: what reads the first text state."""


def build_head(config: VioletConfig, num_classes: int) -> nn.Module:
    """The head of answers of a configuration."""
    return HEADS.find(config.head_type)(config, num_classes)


def build_match_head(config: VioletConfig) -> nn.Module:
    """The head of matches of a configuration: (..., width) -> (..., 1), a score."""
    return VioletTwoClassMatchHead(config) if config.match_classes == 2 else build_head(config, 1)


class VioletPooledHead(nn.Sequential):
    """LayerNorm, dropout, Linear on a video's own vector of that width: the head of models without a fusion."""

    def __init__(self, config: VioletConfig, num_classes: int, width: int):
        super().__init__(
            nn.LayerNorm(width, eps=1e-5), nn.Dropout(config.classifier_dropout), nn.Linear(width, num_classes)
        )


class VioletNextWordHead(nn.Module):
    """One linear layer without bias, not tied to the word embeddings: CoCa's head of words."""

    def __init__(self, config: VioletConfig):
        super().__init__()
        self.decoder = VioletScaledLinear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., width) -> (..., vocabulary)"""
        return self.decoder(states)


WORD_HEADS: Registry[Any] = Registry(
    "head of words",
    __package__,
    {"mlm": "heads:VioletMaskedLMHead", "linear": "heads:VioletNextWordHead"},
    config_keys=("word_head_type",),
)
"""By the configuration's `word_head_type`: what reads a word's state to tell which word it is, or comes next."""


def build_word_head(config: VioletConfig) -> Any:
    """The head of words of a configuration; its last layer is `decoder`."""
    return WORD_HEADS.find(config.word_head_type)(config)


class VioletMaskedLMHead(nn.Module):
    """BERT's masked-language head. Its decoder is *not* tied to the word embeddings in VIOLET."""

    def __init__(self, config: VioletConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., width) -> (..., vocabulary)"""
        return self.decoder(self.norm(self.activation(self.dense(states))))

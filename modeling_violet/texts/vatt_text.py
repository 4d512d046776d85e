"""VATT's text side (Akbari et al., 2021, arXiv:2104.11178): a table of words, and its backbone."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig

from ...configuration.configuration_violet import _refuse, _require_positive
from ..shared_layers import SharedLayersText
from ..vatt_layers import VattBackbone, VattLayersConfig, VattPreTrainedModel, VattStream


@strict
class VattTextConfig(VattLayersConfig):
    r"""
    Configuration of VATT's text side. The defaults are those of the published modality-agnostic Medium; the size of
    the vocabulary is the whole model's. Sizes of the backbone and `dropout` are as of [`VattVisionConfig`], and equal
    to its if it is shared.

    Args:
        word_size (`int`): width of the table of words.
        train_words (`bool`): whether that table is trained. VATT's stays as word2vec gave it.
        max_words (`int`): learned positions. A shorter text has the first ones, as if it were padded up to them.
        interpolate (`bool`): whether longer texts are taken, with positions on a natural cubic spline through those
            learned. What a position is then depends on how far a text is padded: pad all to one length.
        hidden_size (`int`): width of the states, and of the text's vector, behind the backbone.
        shared (`bool`): whether the backbone is the vision encoder's ("modality-agnostic") or its own.
    """

    model_type = "vatt_text"
    base_config_key = "text_config"

    word_size: int = 300
    train_words: bool = False
    max_words: int = 16
    interpolate: bool = False
    backbone_size: int = 1024
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    head_dim: int = 64
    intermediate_size: int = 4096
    hidden_size: int = 1024
    shared: bool = True
    dropout: float | int = 0.1
    layer_norm_eps: float = 1e-6

    def places(self, words: int) -> int:
        """
        Places among which texts of that many words stand.

        Raises:
            ValueError: for more than `max_words`, without `interpolate`.
        """
        if words > self.max_words and not self.interpolate:
            _refuse(
                "max_words",
                f"texts of {words} words are longer than {self.max_words}: cut them (`max_length` of the processor), "
                "or set `text_config.interpolate`, which puts their positions on a spline.",
            )
        return max(words, self.max_words)

    def validate_architecture(self):
        super().validate_architecture()
        _require_positive(self, "word_size", "max_words")


class VattTextModel(VattPreTrainedModel):
    """What VATT has for words, around a backbone."""

    config_class = VattTextConfig
    base_model_prefix = "vatt_text"
    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, config: VattTextConfig, vocab_size: int = 65536):
        super().__init__(config)
        self.words = nn.Embedding(vocab_size, config.word_size)
        self.words.weight.requires_grad_(config.train_words)
        self.stream = VattStream(config, config.word_size, (config.max_words,))
        self.backbone = None if config.shared else VattBackbone(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def set_input_embeddings(self, value: nn.Module) -> None:
        assert isinstance(value, nn.Embedding)
        value.weight.requires_grad_(self.config.train_words)
        self.words = value

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (batch, X) -> states (batch, X, hidden_size), and each text's vector (batch, hidden_size)"""
        places = self.config.places(input_ids.shape[1])
        return self.compute(self.words(input_ids), (places,), attention_mask)


class VattText(SharedLayersText):
    """VATT's words as VIOLET's text side."""

    model_class = VattTextModel


AutoConfig.register(VattTextConfig.model_type, VattTextConfig, exist_ok=True)

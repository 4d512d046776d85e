"""VATT's text side (Akbari et al., 2021, arXiv:2104.11178): a table of words, and its backbone."""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from ...configuration.configuration_violet import _refuse, _require_positive
from ..tokens import Tokens
from ..vatt_layers import VattBackbone, VattLayersConfig, VattPreTrainedModel, VattStream
from .text_side import TextSide


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
        return self.stream(self.find_backbone(), self.words(input_ids), (places,), attention_mask)


class VattText(TextSide):
    """VATT's words as VIOLET's text side; a linear layer to the fusion's width if that is another."""

    contextual = True

    def __init__(self, config):
        super().__init__()
        text = config.text_config
        self.model = VattTextModel._from_config(text, vocab_size=config.vocab_size)
        self._no_split_modules = self.model._no_split_modules  # transformers collects them from direct children
        self.width = config.hidden_size if config.has_fusion else text.hidden_size
        self.pooled_size = text.hidden_size
        same = text.hidden_size == self.width
        self.projection = nn.Identity() if same else nn.Linear(text.hidden_size, self.width)

    def share(self, vision_model: PreTrainedModel) -> None:
        if self.model.config.shared:
            self.model.share(vision_model)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if position_ids is not None:
            raise ValueError("VATT's text side takes no `position_ids`: words stand in their order.")
        return self.encode(input_ids, attention_mask).tokens

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Tokens:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states, pooled = self.model(input_ids, mask)
        return Tokens(self.projection(states), mask, pooled=pooled)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, table: nn.Module) -> None:
        self.model.set_input_embeddings(table)


AutoConfig.register(VattTextConfig.model_type, VattTextConfig, exist_ok=True)

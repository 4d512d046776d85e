"""No text side: of a model of videos only."""

from typing import NoReturn

from torch import nn

from .text_side import TextSide


class VioletNoText(TextSide):
    """What stands in the text side's place in a model that reads no text."""

    def __init__(self, config):
        super().__init__()

    def forward(self, *inputs, **kwargs) -> NoReturn:
        raise ValueError("This model reads no text: its `text_config.model_type` is 'none'.")

    def get_input_embeddings(self) -> nn.Module:
        raise NotImplementedError("A model without a text side has no table of words.")

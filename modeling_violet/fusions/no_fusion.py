"""No fusion: of a model that compares videos and texts by their vectors, or reads no text."""

from typing import NoReturn

from .fusion import Fusion


class VioletNoFusion(Fusion):
    """What stands in the fusion's place in a model whose videos and texts meet only as vectors."""

    rules = ()

    def __init__(self, config):
        super().__init__()
        self.layers, self.norm = [], None

    def forward(self, *inputs, **kwargs) -> NoReturn:
        raise ValueError(
            "This model has no fusion (`fusion_model_config.model_type` is 'none'): it compares videos and texts by "
            "their vectors only."
        )

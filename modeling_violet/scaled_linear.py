"""A linear layer that begins with a deviation of its own."""

from torch import nn
from transformers import initialization as init


class VioletScaledLinear(nn.Linear):
    """
    A linear layer whose weights begin as normal numbers, and whose bias as 0.

    Args:
        std: their deviation; the inverse root of `in_features` if it is not given.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, std: float | None = None):
        super().__init__(in_features, out_features, bias)
        self.std = in_features**-0.5 if std is None else std

    def start_weights(self) -> None:
        """See the class. transformers passes over modules without weights of their own, so that it stands here."""
        init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            init.zeros_(self.bias)

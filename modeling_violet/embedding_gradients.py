"""Gradients of embeddings that were computed without a graph, on their way through the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch


@dataclass
class EmbeddingGradients:
    """
    The gradients of a loss with respect to embeddings, and to the parameters that it reads itself.

    Attributes:
        sets: by the sets' names, each of its set's shape.
        shared: one for each parameter; none if they are not to be passed on with these rows.
    """

    sets: Mapping[str, torch.Tensor]
    shared: Sequence[torch.Tensor] = field(default_factory=tuple)

    def of(self, embeddings: Mapping[str, torch.Tensor], parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        The sum of what is given times its gradient: its own gradient is the loss's.

        Args:
            embeddings: the sets, computed again, with a graph.
            parameters: those that the loss reads itself.
        """
        total = torch.stack([(rows * self.sets[name]).sum() for name, rows in embeddings.items()]).sum()
        for parameter, gradient in zip(
            parameters, self.shared or [torch.zeros_like(one) for one in parameters], strict=True
        ):
            total = total + (parameter * gradient).sum()
        return total

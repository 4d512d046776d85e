"""
Which tokens a model's experts take: how many each of them took of a video, its sound and its text, and how many nobody
took, in every layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from ..modeling_violet.experts import ExpertReports, expert_layers, record_experts
from ..modeling_violet.fusions import Fusion

SOURCES = ("video", "audio", "prompt", "text")


@dataclass
class LayerLoad:
    """
    What the experts of a layer took.

    Attributes:
        name: the layer's, in its model.
        experts: how many there are, E.
        taken: by where the tokens come from, of `SOURCES`: how many each expert took, (E,).
        left: by the same, how many nobody took.
        tokens: by the same, how many there were.
        says: of each pass (E,), the sum of each expert's gates, over the mean of all experts.
    """

    name: str
    experts: int
    taken: dict[str, np.ndarray] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    says: list[np.ndarray] = field(default_factory=list)

    @property
    def says_mean(self) -> np.ndarray:
        """(E,), how much of what is said each expert says: 1 is as much as the others, 0 is nothing."""
        return np.mean(self.says, axis=0)

    def add(self, source: str, taken: torch.Tensor, real: torch.Tensor) -> None:
        """Adds tokens (B, L, E), of which some are real, (B, L)."""
        counted = taken & real.unsqueeze(-1)
        self.taken[source] = self.taken.get(source, np.zeros(self.experts)) + counted.sum((0, 1)).cpu().numpy()
        self.left[source] = self.left.get(source, 0) + int((real & ~counted.any(-1)).sum())
        self.tokens[source] = self.tokens.get(source, 0) + int(real.sum())

    @property
    def total(self) -> np.ndarray:
        """(E,), how many tokens each expert took."""
        return np.sum(list(self.taken.values()), axis=0)

    @property
    def left_behind(self) -> float:
        """The share of tokens that nobody took."""
        return sum(self.left.values()) / max(sum(self.tokens.values()), 1)


class ExpertLoad:
    """The load of every layer of a model, over all passes that were recorded."""

    def __init__(self, model: nn.Module):
        self.layers = {id(one): LayerLoad(name, one.options.number) for name, one in expert_layers(model).items()}

    def named(self) -> list[LayerLoad]:
        """The layers that were passed, in their order."""
        return [one for one in self.layers.values() if one.taken]

    def add(self, reports: ExpertReports, lengths: dict[str, int]) -> None:
        """Adds passes of a sequence that consists of these groups, by name and in order."""
        for report in reports:
            load = self.layers[id(report.experts)]
            assert report.taken is not None and report.real is not None  # recorded in detail
            load.says.append(report.say.cpu().numpy())
            parts = zip(
                report.taken.split(list(lengths.values()), dim=1),
                report.real.split(list(lengths.values()), dim=1),
                strict=True,
            )
            for source, (taken, real) in zip(lengths, parts, strict=True):
                load.add(source, taken, real)
        reports.clear()


@contextmanager
def record_expert_load(model: Any) -> Iterator[ExpertLoad]:
    """
    Within it, every pass through the model's experts is counted. Put the model into evaluation mode: what experts take
    in training may depend on the other rows.

    Args:
        model: a `VioletModel`.

    Raises:
        ValueError: for a model without experts.
    """
    if not expert_layers(model):
        raise ValueError(
            f"{type(model).__name__}: there are no `experts`, neither in the fusion (`fusion_model_config`) nor in an "
            "encoder."
        )
    load = ExpertLoad(model)
    with record_experts(detailed=True) as reports:

        def of_side(source: str) -> Any:
            def add(module: nn.Module, inputs: Any, output: Any) -> None:
                if reports:
                    load.add(reports, {source: reports[0].real.shape[1]})  # type: ignore[union-attr]

            return add

        def of_fusion(module: nn.Module, inputs: tuple, named: dict[str, Any], output: Any) -> None:
            groups = named["groups"] if "groups" in named else inputs[0]
            load.add(reports, {name: group.tokens.shape[1] for name, group in groups.items()})

        hooks = [_side(side).register_forward_hook(of_side(name)) for name, side in model.sides().items()]
        hooks += [
            module.register_forward_hook(of_fusion, with_kwargs=True)
            for module in model.modules()
            if isinstance(module, Fusion)
        ]
        try:
            with torch.no_grad():
                yield load
        finally:
            for hook in hooks:
                hook.remove()


def _side(side: Any) -> nn.Module:
    """A side's own model, which is what is called of it, or the side itself."""
    if hasattr(side, "vision_model"):
        return side.vision_model
    return getattr(side, "model", side)

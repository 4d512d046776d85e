"""What the objectives have in common that compare sets of embeddings by a form of `CONTRASTS`."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ...configuration.configuration_violet import VioletConfig
from ..contrastive_losses import CONTRASTS, ContrastForm, form_arguments, gather_sets
from .objective import EmbeddingObjective, Outcome
from .passes import Passes


class FormObjective(EmbeddingObjective):
    """
    Compares sets of embeddings by the form of contrast that its options name.

    Class attributes:
        available: the sets that it can give.
        given: the form's arguments that it gives itself.
    """

    requirement = "its name among the configuration's `objectives`, and a `projection_dim`"
    available: ClassVar[tuple[str, ...]] = ("videos", "texts")
    given: ClassVar[tuple[str, ...]] = ("scale",)

    @property
    def form(self) -> ContrastForm:
        return CONTRASTS.find(self.options.form)

    @property
    def settings(self) -> dict[str, Any]:
        """Further arguments of the form, by name."""
        return getattr(self.options, "settings", {})

    def check(self, config: VioletConfig) -> None:
        if config.projection_dim is None:
            raise ValueError(f"`objectives`: {self.name!r} compares embeddings, and `projection_dim` is None: set it.")
        lacking = [name for name in self.form.sets if name not in self.available]
        if lacking:
            raise ValueError(
                f"`objectives`: the form {self.options.form!r} compares {', '.join(self.form.sets)}, and "
                f"{self.name!r} has no {', '.join(lacking)}, only {', '.join(self.available)}."
            )
        taken = form_arguments(self.form)
        unknown = sorted(set(self.settings) - (set(taken) - {"scale", "text_mask"}))
        if unknown:
            raise ValueError(
                f"`objectives`: {self.name!r}: the form {self.options.form!r} has no setting {', '.join(unknown)}."
            )

    def trained(self, model: Any):
        return [*super().trained(model), *model.violet.projection.parameters()]

    def scale(self, passes: Passes) -> torch.Tensor:
        """The inverse temperature, held within the projection's bound."""
        return passes.violet.projection.scale()

    def compare(self, sets: Mapping[str, torch.Tensor], passes: Passes) -> Outcome:
        gathered, masks = gather_sets(sets), gather_sets(self.masks(passes))
        arguments = {"scale": self.scale(passes), **masks, **self.settings}
        taken = form_arguments(self.form)
        loss = self.form.loss(
            **{name: gathered[name] for name in self.form.sets},
            **{name: value for name, value in arguments.items() if name in taken},
        )
        return Outcome(loss, nearest_is_own(gathered["videos"].detach(), gathered["texts"].detach(), **masks))

    def masks(self, passes: Passes) -> dict[str, torch.Tensor]:
        """Those of the form's arguments that have a row for each of the batch's."""
        return {}


@torch.no_grad()
def nearest_is_own(videos: torch.Tensor, texts: torch.Tensor, text_mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    The share of videos whose nearest text is theirs, of those that have one.

    Args:
        videos: (B, D).
        texts: (B, D), or (B, L, D) with L of each.
        text_mask: (B, L), 1 for a text and 0 for none.
    """
    several = texts if texts.dim() == 3 else texts[:, None]
    real = torch.ones(several.shape[:2], dtype=torch.bool, device=texts.device) if text_mask is None else text_mask > 0
    scores = (videos @ several.flatten(0, 1).t()).masked_fill(~real.flatten(), float("-inf"))  # (B, B * L)
    nearest = scores.argmax(1) // several.shape[1]
    right = nearest == torch.arange(len(videos), device=videos.device)
    asked = real.any(1)
    return (right & asked).sum() / asked.sum().clamp(min=1)

"""Contrast of videos with one text each (`contrast`), in the forms that published systems have."""

from dataclasses import dataclass, field
from typing import Any

import torch

from .embedding_forms import FormObjective
from .passes import Passes


@dataclass
class PairContrastOptions:
    """
    Attributes:
        form: a name of `contrastive_losses.CONTRASTS` that compares videos and texts: `symmetric`, `symmetric_mean`,
            `dual_softmax`, `hard_negatives`, `triplet`.
        settings: the form's own arguments: `negatives` of `hard_negatives`; `margin`, `hardest`, `order` of `triplet`.
    """

    form: str = "symmetric"
    settings: dict[str, Any] = field(default_factory=dict)


class PairContrast(FormObjective):
    """
    Tells each video's unmasked text from the others' and the reverse. Unlike `vtc` it sums both ways, and texts of
    equal words are each other's negatives, as in CLIP-ViP, HD-VILA and LF-VILA.
    """

    Options = PairContrastOptions

    def check(self, config) -> None:
        super().check(config)
        if self.options.form in ("mil_nce", "asymmetric", "symmetric_with_masks"):
            raise ValueError(
                f"`objectives`: the form {self.options.form!r} is of several texts a video: use the objective "
                "'mil_nce'."
            )
        if self.options.form == "hard_negatives" and "negatives" not in self.settings:
            raise ValueError(f"`objectives`: {self.name!r} with 'hard_negatives' needs `settings: {{negatives: …}}`.")

    def embed(self, passes: Passes) -> dict[str, torch.Tensor]:
        videos, texts = passes.embeddings
        return {"videos": videos, "texts": texts}

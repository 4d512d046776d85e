"""Contrast of videos with several texts each, of which one at least is true (`mil_nce`)."""

from dataclasses import dataclass

import torch

from .embedding_forms import FormObjective
from .passes import Passes

FORMS = ("mil_nce", "asymmetric", "symmetric_with_masks")


@dataclass
class SeveralTextsOptions:
    """
    Attributes:
        form: `mil_nce` (a perfect batch costs 0), `asymmetric` (VATT's: ln 2) or `symmetric_with_masks`.
        texts: of each video; more are drawn from, fewer are masked.
        column: the rows' column with them, a list.
    """

    form: str = "mil_nce"
    texts: int = 4
    column: str = "captions"


class SeveralTexts(FormObjective):
    """
    A video's texts share its probability, so that those which are not true of it may get none (Miech et al., 2020,
    arXiv:1912.06430).
    """

    Options = SeveralTextsOptions
    needs = ("several_ids", "several_attention_mask", "several_mask")

    def check(self, config) -> None:
        super().check(config)
        if self.options.form not in FORMS:
            raise ValueError(
                f"`objectives`: {self.name!r}: the form {self.options.form!r} is not of several texts a video; use "
                f"{', '.join(FORMS)}."
            )
        if self.options.texts < 1:
            raise ValueError(f"`objectives`: {self.name!r}: `texts` must be 1 or more, got {self.options.texts}.")

    def embed(self, passes: Passes) -> dict[str, torch.Tensor]:
        ids, mask = passes.inputs["several_ids"], passes.inputs["several_attention_mask"]
        texts = passes.violet.embed_texts(ids.flatten(0, 1), mask.flatten(0, 1))
        videos = passes.violet.embed_videos(passes.video)
        return {"videos": videos, "texts": texts.unflatten(0, ids.shape[:2])}  # (B * L, D) -> (B, L, D)

    def masks(self, passes: Passes) -> dict[str, torch.Tensor]:
        return {"text_mask": passes.inputs["several_mask"]}

"""Masked words and patches: one draw decides how both are hidden, for all objectives that read a masked pair."""

import math
from typing import Any

import torch

from ...modeling_violet.objectives.masked_features import masked_count
from ..masking import mask_words
from .preparation import Samples


def prepare_masks(samples: Samples, options: None = None) -> dict[str, Any]:
    """
    `input_ids`, `labels`, `attention_mask` (batch, X) and `bool_masked_pos` (batch, frames, rows, columns); also what
    `masking.mask_attended` needs, if a sample is masked by attention; and if one is masked by similarity, `correlated`
    (batch,), which, `correlated_noise` (batch, patches), and `correlated_count`, the patches that are hidden of each.
    """
    masking, ids, grid = samples.settings.masking, samples.input_ids, samples.grid
    tokenizer = samples.settings.processor.tokenizer
    generators = samples.generators()
    maskable = ~torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    kinds = [masking.draw_kind(generator) for generator in generators]
    patches = math.prod(grid)
    similar = {
        number: torch.rand(patches, generator=generators[number])
        for number, kind in enumerate(kinds)
        if kind == "correlated"
    }  # before words are drawn: no noise must depend on the batch's longest text
    masks = [
        (
            masking.draw_patches(kind, grid, own),
            torch.zeros_like(may_hide) if kind == "attended" else masking.draw_words(may_hide, own),
        )
        for kind, own, may_hide in zip(kinds, generators, maskable, strict=True)
    ]
    hidden, mask_token = torch.stack([words for _, words in masks]), tokenizer.mask_token_id
    if mask_token is None:  # CLIP's has none
        if {"mlm", "smtm"} & set(samples.plan.objectives):
            raise ValueError("`objectives`: the processor's tokenizer has no mask token, and mlm and smtm need one.")
        hidden, mask_token = torch.zeros_like(hidden), 0
    masked, labels = mask_words(ids, hidden, mask_token)
    prepared: dict[str, Any] = {
        "input_ids": masked,
        "labels": labels,
        "attention_mask": samples.attention_mask,
        "bool_masked_pos": torch.stack([patches for patches, _ in masks]),
    }
    attended = torch.tensor([kind == "attended" for kind in kinds])
    if attended.any():
        places = patches + ids.shape[1]
        noise = torch.stack([torch.rand(places, generator=generator) for generator in generators])
        prepared |= {"attended": attended, "maskable_words": maskable, "mask_noise": noise.clamp(min=1e-7)}
    if similar:
        none = torch.zeros(patches)
        prepared |= {
            "correlated": torch.tensor([kind == "correlated" for kind in kinds]),
            "correlated_noise": torch.stack([similar.get(number, none) for number in range(len(kinds))]),
            "correlated_count": masked_count(masking.patch_ratio, patches),
        }
    return prepared

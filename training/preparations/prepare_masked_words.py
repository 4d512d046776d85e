"""Masked words and patches: one draw decides how both are hidden, for all objectives that read a masked pair."""

from typing import Any

import torch

from ..masking import mask_words
from .preparation import Samples


def prepare_masks(samples: Samples, options: None = None) -> dict[str, Any]:
    """
    `input_ids`, `labels`, `attention_mask` (batch, X) and `bool_masked_pos` (batch, frames, rows, columns); also what
    `masking.mask_attended` needs, if a sample is masked by attention.
    """
    masking, ids, grid = samples.settings.masking, samples.input_ids, samples.grid
    tokenizer = samples.settings.processor.tokenizer
    generators = samples.generators()
    maskable = ~torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    kinds = [masking.draw_kind(generator) for generator in generators]
    masks = [
        (
            masking.draw_patches(kind, grid, own),
            # a sample by attention draws none: its noise, drawn next, must not depend on the batch's longest text
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
    prepared = {
        "input_ids": masked,
        "labels": labels,
        "attention_mask": samples.attention_mask,
        "bool_masked_pos": torch.stack([patches for patches, _ in masks]),
    }
    attended = torch.tensor([kind == "attended" for kind in kinds])
    if attended.any():
        places = grid[0] * grid[1] * grid[2] + ids.shape[1]
        noise = torch.stack([torch.rand(places, generator=generator) for generator in generators])
        prepared |= {"attended": attended, "maskable_words": maskable, "mask_noise": noise.clamp(min=1e-7)}
    return prepared

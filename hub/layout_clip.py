"""CLIP's and CLIP-ViP's checkpoints: their names for ours."""

import math
import re
from collections.abc import Iterable

import torch
from torch import nn
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling

from .kinds import Form, Kind, Shape, holds, is_grid

CLIP_PICTURES = re.compile(r"(vision_model\.)?pre_layrnorm\.")

CLIP_WORDS = re.compile(r"(text_model\.)?embeddings\.token_embedding\.")

CLIP_TOWER, CLIP_TEXT = "video_encoder.clip_vip.", "text_embeddings.model."


def resize_clip_grid(value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(1 + side², D) -> (1 + our side², D): the grid bicubically, as transformers' CLIP does for larger pictures"""
    sides = [math.isqrt(length - 1) for length in (value.shape[0], shape[0])]
    # (side², D) -> (1, D, side, side) -> (1, D, our side, our side) -> (our side², D)
    grid = value[1:].unflatten(0, (sides[0], sides[0])).permute(2, 0, 1)[None]
    grid = nn.functional.interpolate(grid, size=(sides[1], sides[1]), mode="bicubic", align_corners=False)
    return torch.cat([value[:1], grid[0].flatten(1).t()])


CLIP_FRAMES = {
    "image_mean": OPENAI_CLIP_MEAN,
    "image_std": OPENAI_CLIP_STD,
    "resample": PILImageResampling.BICUBIC,
    "do_pad_to_square": False,
    "do_stretch": True,
    "frame_sampling": "ends",
}
"""As CLIP-ViP was trained."""

CLIP_NAMES = {
    CLIP_TOWER: "vision_model.",
    CLIP_TEXT: "text_model.",
    "projection.video_projection.": "visual_projection.",
    "projection.text_projection.": "text_projection.",
    "projection.logit_scale": "logit_scale",
}
"""Beginnings of our names -> of those of transformers' CLIP; the rest is the same."""

CLIP_INSIDE = r"^(?=(embeddings|encoder|pre_layrnorm|post_layernorm|final_layer_norm)\.)"
"""How names inside a tower begin."""

NEW_IN_CLIP_VIP = tuple(f"{CLIP_TOWER}embeddings.{name}" for name in ("added_cls", "temporal_embedding"))


def _clip(name: str, held: Iterable[str] = CLIP_NAMES, prefix: str = "", tower: str = "") -> Kind:
    """
    A kind with CLIP's names (Radford et al., 2021, arXiv:2103.00020), which has nothing of `NEW_IN_CLIP_VIP`.

    Args:
        held: which of `CLIP_NAMES` it holds.
        prefix: of all its names; CLIP-ViP's own, whose files hold everything.
        tower: what older releases of transformers put before the names of a tower by itself, and newer ones do not.
    """
    own = {} if prefix else dict.fromkeys(NEW_IN_CLIP_VIP)
    return Kind(
        name,
        parts={**own, **{ours: (prefix + CLIP_NAMES[ours], ()) for ours in held}},
        forms={
            r"logit_scale$": Form(lambda shape, window: ()),
            r"vision_model\.embeddings\.position_embedding\.weight$": Form(
                ours=resize_clip_grid, length=0, lengths=is_grid
            ),
        },
        aliases=((CLIP_INSIDE, tower),) if tower else (),
        needs={
            CLIP_TEXT: ("text_config.model_type", "clip_text_model"),
            **{ours: ("projection_type", "pooled") for ours in CLIP_NAMES if ours.startswith("projection.")},
        },
        system="clip_vip",
        published=bool(prefix),
        position_ids=True,
        tokenizer="openai/clip-vit-base-patch32",
        max_length=70,  # of CLIP-ViP's pre-training
        frames=CLIP_FRAMES,
        told={CLIP_TOWER: "vision_config", CLIP_TEXT: "text_config"},
    )


CLIP_VIP = _clip("CLIP-ViP", prefix="clipmodel.")

CLIP = _clip("CLIP")

CLIP_VISION, CLIP_VISION_PROJECTED, CLIP_TEXTS, CLIP_TEXTS_PROJECTED = (
    _clip(f"CLIP's {name}", [part, *projection], tower=CLIP_NAMES[part])
    for name, part, projection in (
        ("vision tower", CLIP_TOWER, ()),
        ("vision tower with its projection", CLIP_TOWER, ("projection.video_projection.",)),
        ("text tower", CLIP_TEXT, ()),
        ("text tower with its projection", CLIP_TEXT, ("projection.text_projection.",)),
    )
)


def clip_kind(names: Iterable[str]) -> Kind | None:
    """Which part of a CLIP these names are of, if they are one's."""
    names = list(names)
    if holds(names, "clipmodel."):
        return CLIP_VIP
    if any(map(CLIP_PICTURES.match, names)):
        if holds(names, "text_model."):
            return CLIP
        return CLIP_VISION_PROJECTED if holds(names, "visual_projection.") else CLIP_VISION
    if holds(names, "vision_model.") or not any(map(CLIP_WORDS.match, names)):
        return None
    return CLIP_TEXTS_PROJECTED if holds(names, "text_projection.") else CLIP_TEXTS

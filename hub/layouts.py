"""
What public checkpoints call the parts of VIOLET, and in which form they keep them.

There is one table, from our names to theirs; the way back is its inverse over the names that a model has. Our names
are those below the base model (`fusion.layers.0.…`); the one head at [CLS] is `answer_head.…`, also if it matches.

What is known of each kind: VIOLET's names come from its key lists; those of torchvision, and of transformers' BERT and
Swin, from the installed packages, which the tests run. The Swin projects', SwinBERT's and `decoder_vq` are written
down from knowledge of that code; no published file was at hand.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial

import torch
from torch import nn

from ..modeling_violet.embeddings import interpolate_grid, interpolate_rows
from .kinds import (
    ANOTHER_HEAD,
    BACKBONE,
    EMBEDDINGS,
    FUSION,
    LAYERS,
    MASKED_WORDS,
    MLM,
    SWIN,
    TEXT,
    Form,
    Kind,
    Numbering,
    Rules,
    Shape,
    holds,
    is_grid,
)
from .layout_clip import (
    CLIP,
    CLIP_TEXTS,
    CLIP_TEXTS_PROJECTED,
    CLIP_VIP,
    CLIP_VISION,
    CLIP_VISION_PROJECTED,
    clip_kind,
)
from .layout_coca import COCA
from .layout_hd_vila import HD_VILA
from .layout_imp import IMP, IMP_ENCODER
from .layout_lf_vila import LF_VILA
from .layout_maskalign import ALIGNED, MASKALIGN, MASKALIGN_TUNED
from .layout_uniformerv2 import CLIP_START, OPENAI_CLIP, UNIFORMERV2, UNIFORMERV2_OPENMMLAB
from .layout_vatt import VATT, VATT_BASE
from .layout_vlora import VLORA, VLORA_JOINT

SWIN_TORCHVISION: Rules = (
    (r"^stages\.(\d+)\.blocks\.", lambda found: f"features.{2 * int(found[1])}."),
    (r"^stages\.(\d+)\.downsample\.", lambda found: f"features.{2 * int(found[1]) + 1}."),
    (r"\.mlp\.2\.", ".mlp.3."),
)

SWIN_TRANSFORMERS_NAMES: Rules = (
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.qkv\.", ".attention.self.{query,key,value}."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
    (r"\.mlp\.0\.", ".intermediate.dense."),
    (r"\.mlp\.2\.", ".output.dense."),
)

VIDEO_TOKENS: Rules = (
    (r"^frame_token$", "emb_cls"),
    (r"^position_embeddings$", "emb_pos"),
    (r"^frame_embeddings$", "emb_len"),
    (r"^hidden_order_embedding$", "emb_odr"),
    (r"^projection\.", "fc."),
)

FEATURES = ("2d_feature", "3d_feature", "2d_clip_feature")
"""MVM targets with the same head: the weights do not tell which of them it predicts."""


def _resize_frames(value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(1, frames, 1, D) -> (our frames, D)"""
    return interpolate_rows(value.reshape(-1, shape[1]), shape[0])


def _resize_grid(value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(1, 1, 1 + side², D) -> (1 + our side², D)"""
    side = math.isqrt(shape[0] - 1)
    return interpolate_grid(value.reshape(-1, shape[1]), side, side)


def _inflate_patches(value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(width, channels, side, side) -> (width, channels, frames, side, side): still frames give what one gave"""
    return value.unsqueeze(2).expand(shape) / shape[2]


def _resize_table(window: Shape, value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """
    (offsets in a frame, heads) -> (offsets in the window, heads): resized bicubically to the window's rows and
    columns, the same for each distance in time
    """
    side, (frames, rows, columns) = math.isqrt(len(value)), (2 * length - 1 for length in window)
    # (offsets, heads) -> (1, heads, side, side) -> (1, heads, rows, columns) -> (rows * columns, heads)
    picture = value.t().unflatten(1, (side, side)).unsqueeze(0)
    picture = nn.functional.interpolate(picture, size=(rows, columns), mode="bicubic", align_corners=False)
    return picture[0].flatten(1).t().repeat(frames, 1)


def _tile_patches(value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(width, channels, side, side) -> larger patches that give the mean of the small ones: tiled, and divided"""
    tiles = shape[3] // value.shape[2]
    return _inflate_patches(value.repeat(1, 1, tiles, tiles) / tiles**2, shape)


def _inflate_table(value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(offsets in a frame, heads) -> (offsets in a window, heads), the same for each distance in time"""
    return value.repeat(shape[0] // value.shape[0], 1)


VIOLET = Kind(
    "VIOLET",
    parts={
        BACKBONE: ("enc_img.swin.", SWIN),
        "video_encoder.clip_summary.": None,
        "video_encoder.": ("enc_img.", VIDEO_TOKENS),
        TEXT: ("enc_txt.emb_txt.", EMBEDDINGS),
        "task_tokens": ("emb_task", ()),
        FUSION: ("trsfr.layer.", LAYERS),
        "answer_head.": ("fc.", ()),
        MLM: ("fc_mtm.predictions.", MASKED_WORDS),
        **{f"mvm_heads.{name}.projection.": (f"decoder_{name}.0.", ()) for name in ("pixel", "hog", "depth")},
        "mvm_heads.optical_flow.projection.": ("decoder_flow.0.", ()),
        "mvm_heads.vq.projection.": ("decoder_vq.0.", ()),
        "mvm_heads.vq.classifier.": ("fc_mvm.", ()),
        **{f"mvm_heads.{name}.": ("fc_mvm.", ()) for name in ("vq", *FEATURES)},
    },
    forms={
        r"^enc_img\.emb_(cls|odr)$": Form(lambda shape, window: (1, 1, 1, *shape)),
        r"^enc_img\.emb_pos$": Form(lambda shape, window: (1, 1, *shape), _resize_grid, length=2, lengths=is_grid),
        r"^enc_img\.emb_len$": Form(lambda shape, window: (1, shape[0], 1, shape[1]), _resize_frames, length=1),
        r"^decoder_\w+\.0\.weight$": Form(lambda shape, window: (*shape, 1, 1)),
    },
    published=True,
)

VIDEO_SWIN = Kind(
    "Video Swin",
    parts={BACKBONE: ("", SWIN)},
    skipped={r"^(cls_head|head)\.": ANOTHER_HEAD},
    aliases=((r"^backbone\.", ""),),
)

# Liu et al., 2022, arXiv:2106.13230, section 3.3: the patch embedding's weights are repeated and divided by their
# number, the table of relative positions is repeated for each distance in time.
INFLATED = {
    r"^(patch_embed\.proj|embeddings\.patch_embeddings\.projection)\.weight$": Form(
        lambda shape, window: (*shape[:2], *shape[3:]), _inflate_patches
    ),
    r"relative_position_bias_table$": Form(
        lambda shape, window: ((2 * window[1] - 1) * (2 * window[2] - 1), *shape[1:]), _inflate_table
    ),
}

SWIN_PATCH = 4
"""Side of a patch of every Swin for pictures, in pixels."""


@cache
def _spread(kind: Kind, model: Numbering, source: Numbering) -> Kind:
    """
    A Swin for pictures, for a model whose stages are others than its own: its blocks in their order onto the model's,
    its mergings in their order onto the model's, its tables resized to each stage's window.
    """
    if not model.depths or (model.depths, model.merges) == (source.depths, source.merges):
        return kind
    places = [f"{stage}.blocks.{block}" for stage, depth in enumerate(source.depths) for block in range(depth)]

    def place(stage: int, block: int) -> str:
        return places[min(sum(model.depths[:stage]) + block, len(places) - 1)]

    def merging(found: re.Match) -> str:
        stage = int(found[1])
        return f"stages.{model.merges.index(stage) if stage in model.merges else stage}.downsample."

    forms = {
        r"^(patch_embed\.proj|embeddings\.patch_embeddings\.projection)\.weight$": Form(
            lambda shape, window: (
                *shape[:2],
                *[SWIN_PATCH if side % SWIN_PATCH == 0 else side for side in shape[3:]],
            ),
            _tile_patches,
        )
    }
    side = 2 * source.windows[0][1] - 1
    for stage, (depth, window) in enumerate(zip(model.depths, model.windows, strict=True)):
        for block in range(depth):
            theirs = re.escape(f"layers.{place(stage, block)}")
            forms[theirs + r"\..*relative_position_bias_table$"] = Form(
                lambda shape, window: (side * side, *shape[1:]), partial(_resize_table, window)
            )
    numbers: Rules = (
        (
            r"stages\.(\d+)\.blocks\.(\d+)\.",
            lambda found: f"stages.{place(int(found[1]), int(found[2]))}.",
        ),
        (r"stages\.(\d+)\.downsample\.", merging),
        (r"(?<=^video_encoder\.swin\.)clip_merging\.", f"stages.{len(source.depths) - 2}.downsample."),
        (r"(?<=^video_encoder\.swin\.)clip_norm\.", "norm."),
    )
    return replace(kind, forms=forms, numbers=numbers, fit=None)


SWIN_2D = Kind(
    "Swin (pictures), inflated in time",
    parts={BACKBONE: ("", SWIN)},
    forms=INFLATED,
    skipped={r"^head\.": ANOTHER_HEAD, r"\.attn_mask$": "computed, for pictures of one size"},
    aliases=((r"^backbone\.", ""),),
    of_pictures=True,
    fit=_spread,
)

SWIN_TRANSFORMERS = Kind(
    "transformers' Swin (pictures), inflated in time",
    parts={
        BACKBONE + "patch_embed.proj.": ("embeddings.patch_embeddings.projection.", ()),
        BACKBONE + "patch_embed.norm.": ("embeddings.norm.", ()),
        BACKBONE + "stages.": ("encoder.layers.", SWIN_TRANSFORMERS_NAMES),
        BACKBONE + "norm.": ("layernorm.", ()),
    },
    forms=INFLATED,
    skipped={
        r"^(classifier|decoder)\.": ANOTHER_HEAD,
        r"^embeddings\.mask_token$": "VIOLET masks pixels",
    },
    aliases=((r"^swin\.", ""),),
    of_pictures=True,
    fit=_spread,
)

TORCHVISION = Kind(
    "torchvision's swin3d",
    parts={BACKBONE: ("", SWIN_TORCHVISION)},
    skipped={r"^head\.": ANOTHER_HEAD},
)


@cache
def _bert_in_three(kind: Kind, model: Numbering, source: Numbering) -> Kind:
    """A BERT for a text side of sentences and paragraphs: its layers in one row, its places for both tables."""
    if not model.text_layers:
        return kind
    first = {"sentence_layers": 0, "paragraph_layers": model.text_layers[0], "fusion": sum(model.text_layers)}
    numbers: Rules = (
        (
            r"^(?:text_embeddings\.(sentence_layers|paragraph_layers)|(fusion)\.layers)\.(\d+)\.",
            lambda found: f"{FUSION}{first[found[1] or found[2]] + int(found[3])}.",
        ),
        (r"^text_embeddings\.embeddings\.", TEXT),
        (r"^text_embeddings\.places\.position_embeddings\.", TEXT + "position_embeddings."),
    )
    parts = {TEXT + "places.": None, **kind.parts, "answer_head.0.": ("pooler.dense.", ())}
    return replace(kind, parts=parts, numbers=numbers, fit=None)


BERT = Kind(
    "BERT",
    parts={
        TEXT: ("embeddings.", EMBEDDINGS),
        FUSION: ("encoder.layer.", LAYERS),
        MLM: ("cls.predictions.", MASKED_WORDS),
    },
    skipped={r"^pooler\.": "VIOLET reads [CLS] without a pooler", r"^cls\.seq_relationship\.": ANOTHER_HEAD},
    aliases=((r"^bert\.", ""), (r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    fit=_bert_in_three,
    told={"": ""},
)

SWINBERT = Kind(
    "SwinBERT",
    parts={
        BACKBONE: ("swin.backbone.", SWIN),
        TEXT: ("trans_encoder.bert.embeddings.", EMBEDDINGS),
        FUSION: ("trans_encoder.bert.encoder.layer.", LAYERS),
        MLM: ("trans_encoder.cls.predictions.", MASKED_WORDS),
    },
    skipped={
        r"^trans_encoder\.bert\.pooler\.": "VIOLET reads [CLS] without a pooler",
        r"^(fc|trans_encoder\.bert\.img_embedding)\.": "VIOLET has one projection here, with a norm behind it",
        r"^trans_encoder\.bert\.LayerNorm\.": "VIOLET has a norm of its own here",
        r"^learn_vid_att\.": "VIOLET learns no mask between video tokens",
        r"^swin\.cls_head\.": ANOTHER_HEAD,
    },
)

KINDS = {
    kind.name: kind
    for kind in (
        *(VIOLET, LF_VILA, HD_VILA, SWINBERT, TORCHVISION, VIDEO_SWIN, SWIN_2D, SWIN_TRANSFORMERS, BERT),
        *(CLIP_VIP, CLIP, CLIP_VISION, CLIP_VISION_PROJECTED, CLIP_TEXTS, CLIP_TEXTS_PROJECTED),
        *(UNIFORMERV2, UNIFORMERV2_OPENMMLAB, OPENAI_CLIP, CLIP_START, VATT),
        *(MASKALIGN, MASKALIGN_TUNED, COCA, IMP, VLORA, VLORA_JOINT),
    )
}

STARTING: Mapping[str, Mapping[str, Kind]] = {
    "uniformerv2": dict.fromkeys((CLIP.name, CLIP_VISION.name, CLIP_VISION_PROJECTED.name), CLIP_START)
}
"""
By the `model_type` of a vision encoder: kinds by whose names it starts, in the place of those of the same weights that
are found without knowing it (by their names).
"""


def find_kind(shapes: Mapping[str, Shape], encoder: str | None = None) -> Kind | None:
    """
    The kind of checkpoint that these names (without wrappers' prefixes) and shapes are of.

    Args:
        encoder: `model_type` of the vision encoder that they are to become, if it is known.
    """
    found = _kind_by_names(shapes)
    return found if found is None else STARTING.get(encoder or "", {}).get(found.name, found)


def _kind_by_names(shapes: Mapping[str, Shape]) -> Kind | None:
    clip = clip_kind(shapes)
    if clip is not None:
        return clip
    if any(re.match(r"blocks\.\d+\.attn\.qkv\.", name) for name in shapes) and "pos_embed" in shapes:
        aligned = any(re.match(ALIGNED, name) for name in shapes)
        if aligned or holds(shapes, "fc_norm."):
            return MASKALIGN if aligned else MASKALIGN_TUNED
    for kind, pattern in (
        (VIOLET, r"(enc_img|enc_txt|trsfr)\."),
        (VLORA, r"model\.mm_projector\.gen\.\d"),
        (VLORA_JOINT, r"model\.mm_projector\.gen\.[a-z]"),
        (VATT, rf".*{VATT_BASE}"),
        (IMP, rf"(params/)?{IMP_ENCODER}"),
        (UNIFORMERV2, r"backbone\.transformer\."),
        (COCA, r"text_decoder\.(cross_attn|text_projection)"),
        (OPENAI_CLIP, r"visual\.(conv1|transformer)\."),
        (LF_VILA, r"(video_encoder\.(patch_embed|layers|norm_local)|video_token_pos|sent_embedding)\."),
        (HD_VILA, r"(cnn_low|grid_encoder|timesformer\.blocks|transformer\.bert)\b"),
        (SWINBERT, r"(swin\.backbone|trans_encoder)\."),
        (TORCHVISION, r"features\.\d"),
        (SWIN_TRANSFORMERS, r"(swin\.)?(embeddings\.patch_embeddings|encoder\.layers\.\d+\.blocks)\."),
        (BERT, r"(bert\.)?(embeddings|encoder\.layer)\."),
        (VIDEO_SWIN, r"(backbone\.)?(patch_embed|layers\.\d)"),
    ):
        if any(re.match(pattern, name) for name in shapes):
            patches = [shape for name, shape in shapes.items() if name.endswith("patch_embed.proj.weight")]
            return SWIN_2D if kind is VIDEO_SWIN and any(len(shape) == 4 for shape in patches) else kind
    return None

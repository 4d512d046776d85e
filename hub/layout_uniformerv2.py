"""UniFormerV2's checkpoints, and CLIP's that start one: their names for ours."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from .kinds import Form, Kind, Rules, Shape, is_grid
from .layout_clip import CLIP_INSIDE, resize_clip_grid

UNIFORMERV2_BLOCK: Rules = (
    (r"\.local_(\d)\.norm\.", r".lmhra\1.pos_embed.0."),
    (r"\.local_(\d)\.reduce\.", r".lmhra\1.pos_embed.1."),
    (r"\.local_(\d)\.mix\.", r".lmhra\1.pos_embed.2."),
    (r"\.local_(\d)\.expand\.", r".lmhra\1.pos_embed.3."),
    (r"\.attention\.qkv\.", ".attn.in_proj_"),
    (r"\.attention\.out\.", ".attn.out_proj."),
    (r"\.attention\.(query_)?norm\.", ".ln_1."),
    (r"\.attention\.memory_norm\.", ".ln_3."),
    (r"\.attention\.in_proj_", ".attn.in_proj_"),
    (r"\.mlp\.norm\.", ".ln_2."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)

UNIFORMERV2_NAMES: Rules = (
    (r"^embeddings\.patch_embedding\.", "conv1."),
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.position_embedding$", "positional_embedding"),
    (r"^embeddings\.norm\.", "ln_pre."),
    (r"^query$", "transformer.temporal_cls_token"),
    (r"^balance$", "transformer.balance"),
    (r"^layers\.", "transformer.resblocks."),
    (r"^global_blocks\.(\d+)\.place\.", r"transformer.dpe.\1."),
    (r"^global_blocks\.", "transformer.dec."),
    *UNIFORMERV2_BLOCK,
)

UNIFORMERV2_CLIP_NAMES: Rules = (
    (r"^embeddings\.position_embedding$", "embeddings.position_embedding.weight"),
    (r"^embeddings\.norm\.", "pre_layrnorm."),
    (r"^layers\.", "encoder.layers."),
    (r"\.attention\.norm\.", ".layer_norm1."),
    (r"\.attention\.qkv\.", ".self_attn.{q_proj,k_proj,v_proj}."),
    (r"\.attention\.out\.", ".self_attn.out_proj."),
    (r"\.mlp\.norm\.", ".layer_norm2."),
)


def _centre_tap(value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(width, channels, side, side) -> (width, channels, frames, side, side): the middle one, and zeros"""
    inflated = value.new_zeros(shape)
    inflated[:, :, shape[2] // 2] = value
    return inflated


UNIFORMERV2_TOWER = "video_encoder.backbone."

UNIFORMERV2_FORMS = {
    r"\.pos_embed\.[13]\.weight$": Form(lambda shape, window: (*shape, 1, 1, 1)),
    r"\.pos_embed\.2\.weight$": Form(lambda shape, window: (*shape, 1)),
    r"\.num_batches_tracked$": Form(whole=True),
}


def _uniformerv2(name: str, parts: Mapping[str, tuple[str, Rules]], **options: Any) -> Kind:
    """A kind whose weights become a UniFormerV2's (Li et al., 2022, arXiv:2211.09552)."""
    frames = {"image_mean": [0.45] * 3, "image_std": [0.225] * 3, "do_pad_to_square": False}
    return Kind(name, parts, system="uniformerv2", tokenizer=None, **{"frames": frames, **options})


UNIFORMERV2, UNIFORMERV2_OPENMMLAB = (
    _uniformerv2(
        name,
        {UNIFORMERV2_TOWER: ("backbone.", UNIFORMERV2_NAMES), **head},
        forms=UNIFORMERV2_FORMS,
        skipped={r"^data_preprocessor\.": "mean and deviation of colours, which the processor has"},
        aliases=(
            (r"^backbone\.transformer\.norm\.", "backbone.transformer.proj.0."),
            (r"^cls_head\.fc_cls\.", "backbone.transformer.proj.2."),
        ),
        assumed=(
            "`num_attention_heads` is the width / 64",
            "`global_layers` are the last ones, as many as there are global blocks",
        ),
        published=True,
        kept={r"\.balance$": "the configuration's features are the query, without the class tokens"},
    )
    for name, head in (
        ("UniFormerV2", {"classifier.": ("backbone.transformer.proj.", ())}),
        (
            "UniFormerV2 (OpenMMLab)",
            {"classifier.0.": ("backbone.transformer.norm.", ()), "classifier.2.": ("cls_head.fc_cls.", ())},
        ),
    )
)
"""The published files and OpenMMLab's are read as the first, and written as either."""

NEW_IN_UNIFORMERV2 = r"backbone\.(query|balance|global_blocks\.|layers\.\d+\.local_)"

NO_SUCH_PART = "a part of CLIP that UniFormerV2 does not have"

OPENAI_CLIP = _uniformerv2(
    "CLIP (OpenAI's names), which starts a UniFormerV2",
    {UNIFORMERV2_TOWER: ("visual.", UNIFORMERV2_NAMES)},
    forms={
        r"^visual\.conv1\.weight$": Form(lambda shape, window: (*shape[:2], *shape[3:]), _centre_tap),
        r"^visual\.positional_embedding$": Form(ours=resize_clip_grid, length=0, lengths=is_grid),
    },
    skipped={
        r"^visual\.(proj$|ln_post\.)": NO_SUCH_PART,
        r"^(transformer|token_embedding|ln_final)\.": NO_SUCH_PART,
        r"^(positional_embedding|text_projection|logit_scale)$": NO_SUCH_PART,
        r"^(input_resolution|context_length|vocab_size)$": "sizes, which shapes tell",
    },
    absent=NEW_IN_UNIFORMERV2,
)

CLIP_START = _uniformerv2(
    "CLIP, which starts a UniFormerV2",
    {UNIFORMERV2_TOWER: ("vision_model.", UNIFORMERV2_CLIP_NAMES)},
    frames={"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD, "do_pad_to_square": False},
    forms={
        r"\.patch_embedding\.weight$": Form(lambda shape, window: (*shape[:2], *shape[3:]), _centre_tap),
        r"\.position_embedding\.weight$": Form(ours=resize_clip_grid, length=0, lengths=is_grid),
    },
    skipped={
        r"^(vision_model\.post_layernorm|visual_projection|text_model|text_projection)\.|^logit_scale$": NO_SUCH_PART
    },
    aliases=((CLIP_INSIDE, "vision_model."),),
    absent=NEW_IN_UNIFORMERV2,
    joined=(r".*self_attn\.", ("q_proj", "k_proj", "v_proj")),
)

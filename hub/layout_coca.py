"""CoCa's checkpoints of open_clip: their names for ours, and what their shapes tell of a model."""

import math
import re
from collections.abc import Mapping
from typing import Any

from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling

from .kinds import MLM, TEXT, Form, Kind, Rules, Shape, is_grid
from .layout_clip import resize_clip_grid
from .weight_files import WeightsError

COCA_TOWER, COCA_POOLER = "video_encoder.coca_vit.", "video_encoder."

COCA_BLOCK: Rules = (
    (r"^layers\.(\d+)\.", r"resblocks.\1."),
    (r"\.attention_norm\.", ".ln_1."),
    (r"\.context_norm\.", ".ln_1_kv."),
    (r"\.mlp_norm\.", ".ln_2."),
    (r"\.attention\.qkv\.", ".attn.in_proj_"),
    (r"\.attention\.out\.", ".attn.out_proj."),
    (r"\.attention\.", ".attn."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)

COCA_TRUNK: Rules = (
    (r"^embeddings\.patch_embedding\.", "conv1."),
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.position_embedding$", "positional_embedding"),
    (r"^embeddings\.norm\.", "ln_pre."),
    (r"^layers\.", "transformer.resblocks."),
    *COCA_BLOCK,
)

COCA_POOLING: Rules = (
    (r"^query_norm\.", "ln_q."),
    (r"^context_norm\.", "ln_k."),
    (r"^attention\.out\.", "attn.out_proj."),
    (r"^attention\.", "attn."),
)

COCA_TEXT: Rules = (
    (r"^word_embeddings\.", "token_embedding."),
    (r"^position_embeddings\.weight$", "positional_embedding"),
    (r"^cls_embedding$", "cls_emb"),
    (r"^norm\.", "ln_final."),
    (r"^layers\.", "transformer.resblocks."),
    *COCA_BLOCK,
)

COCA_DECODER: Rules = (
    (r"^norm\.", "ln_final."),
    (r"^layers\.(\d+)\.own\.", r"resblocks.\1."),
    (r"^layers\.(\d+)\.cross\.", r"cross_attn.\1."),
    *COCA_BLOCK,
)

TRANSPOSED = Form(
    theirs=lambda shape, window: (shape[1], shape[0]),
    ours=lambda value, shape: value.t(),
    back=lambda value, shape: value.t().contiguous(),
)
"""A matrix that the original multiplies from the right."""

COCA = Kind(
    "CoCa (open_clip)",
    parts={
        COCA_TOWER: ("visual.", COCA_TRUNK),
        COCA_POOLER + "frame_rows.": None,
        COCA_POOLER + "pooler.": ("visual.attn_pool.", COCA_POOLING),
        COCA_POOLER + "vector_pooler.": ("visual.attn_pool_contrastive.", COCA_POOLING),
        COCA_POOLER + "norm.": ("visual.ln_post.", ()),
        TEXT: ("text.", COCA_TEXT),
        "fusion.": ("text_decoder.", COCA_DECODER),
        MLM: ("text_decoder.text_projection", ((r"^decoder\.weight$", ""),)),
        "projection.video_projection.weight": ("visual.proj", ()),
        "projection.text_projection.weight": ("text.text_projection", ()),
        "projection.logit_scale": ("logit_scale", ()),
    },
    forms={
        r"^logit_scale$": Form(lambda shape, window: ()),
        r"^(visual\.proj|text\.text_projection|text_decoder\.text_projection)$": TRANSPOSED,
        r"^visual\.positional_embedding$": Form(ours=resize_clip_grid, length=0, lengths=is_grid),
    },
    skipped={r"attn_mask$": "computed"},
    classes=((r"", "VioletForCaptioning"),),
    system="coca_vit",
    published=True,
    left_out=r"^video_encoder\.frame_rows\.",
    tokenizer="openai/clip-vit-base-patch32",
    max_length=76,
    frames={
        "image_mean": OPENAI_CLIP_MEAN,
        "image_std": OPENAI_CLIP_STD,
        "resample": PILImageResampling.BICUBIC,
        "do_pad_to_square": False,
    },
    assumed=(
        "heads are 64 wide (`num_attention_heads`), and each pooler has 8 (`pooler.num_heads`)",
        "CLS sees what it saw in the published training (`text_config.cls_mask` 'legacy')",
        "of two poolers, the one for the vector reads what the other reads (`pooler.kind` 'parallel')",
    ),
)


HEAD_WIDTH, POOLER_HEADS = 64, 8
"""Of both published models. Weights do not tell the number of attention heads."""
NEEDED = {
    "visual.class_embedding": 1,
    "visual.conv1.weight": 4,
    "visual.positional_embedding": 2,
    "visual.attn_pool.query": 2,
    "visual.transformer.resblocks.0.mlp.c_fc.bias": 1,
    "text.token_embedding.weight": 2,
    "text.positional_embedding": 2,
    "text.text_projection": 2,
    "text.transformer.resblocks.0.mlp.c_fc.bias": 1,
    "text_decoder.text_projection": 2,
}
"""What sizes are read from, with the number of axes."""


def _blocks(shapes: Mapping[str, Shape], start: str) -> int:
    """How many blocks stand behind that beginning of their names."""
    pattern = re.compile(re.escape(start) + r"(\d+)\.")
    return 1 + max((int(found[1]) for found in map(pattern.match, shapes) if found), default=-1)


def coca_sizes(shapes: Mapping[str, Shape]) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    The fields of `VioletConfig` but for the vision encoder's, and those of `CocaVisionConfig`.

    Raises:
        WeightsError: for a weight that sizes are read from and that is missing or has another number of axes; for
            widths or numbers of layers that are no CoCa's.
    """
    for needed, axes in NEEDED.items():
        if len(shapes.get(needed, ())) != axes:
            raise WeightsError(f"A CoCa checkpoint has {needed!r} of {axes} axes, and this one does not.")
    width, pooled = shapes["text.token_embedding.weight"][1], shapes["visual.attn_pool.query"][1]
    if pooled != width:
        raise WeightsError(
            f"'visual.attn_pool.query' is {pooled} wide, and 'text.token_embedding.weight' {width}: the decoder reads "
            "what the pooler gives, so they must be equal."
        )
    own, cross = _blocks(shapes, "text_decoder.resblocks."), _blocks(shapes, "text_decoder.cross_attn.")
    if own != cross:
        raise WeightsError(
            f"'text_decoder' has {own} blocks of words and {cross} of cross-attention: as many of each."
        )
    places = shapes["visual.positional_embedding"][0]
    if not is_grid(places):
        raise WeightsError(f"'visual.positional_embedding' has {places} rows, which are no class token and a square.")
    words, places_of_words = shapes["text.token_embedding.weight"][0], shapes["text.positional_embedding"][0]
    kind = "parallel" if "visual.attn_pool_contrastive.query" in shapes else "single"
    queries = shapes["visual.attn_pool.query"][0]
    fields: dict[str, Any] = {
        "text_config": {
            "model_type": "coca_text",
            "num_hidden_layers": _blocks(shapes, "text.transformer.resblocks."),
            "cls_mask": "legacy",
        },
        "pooler": {"kind": kind, "num_queries": queries, "num_heads": POOLER_HEADS},
        "hidden_size": width,
        "num_hidden_layers": own,
        "num_attention_heads": max(width // HEAD_WIDTH, 1),
        "intermediate_size": shapes["text.transformer.resblocks.0.mlp.c_fc.bias"][0],
        "max_position_embeddings": places_of_words - 1,
        "vocab_size": words,
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": words - 1,
        "projection_dim": shapes["text.text_projection"][1],
    }
    _, channels, _, patch = shapes["visual.conv1.weight"]
    tower = shapes["visual.class_embedding"][0]
    return fields, {
        "hidden_size": tower,
        "num_hidden_layers": _blocks(shapes, "visual.transformer.resblocks."),
        "num_attention_heads": max(tower // HEAD_WIDTH, 1),
        "intermediate_size": shapes["visual.transformer.resblocks.0.mlp.c_fc.bias"][0],
        "num_channels": channels,
        "patch_size": patch,
        "image_size": patch * math.isqrt(places - 1),
    }

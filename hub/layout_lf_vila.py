"""LF-VILA's checkpoints: their names for ours, and what their shapes tell of a model."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from .kinds import BACKBONE, EMBEDDINGS, LAYERS, MASKED_WORDS, MLM, SWIN, TEXT, Form, Kind, Numbering, Rules, Shape
from .weight_files import WeightsError


@cache
def _paragraph_layers(kind: Kind, model: Numbering, source: Numbering) -> Kind:
    """BERT's layers in one row: those of sentences, those of paragraphs, the fusion's. And whose the last layer is."""
    first = dict(zip((f"{TEXT}sentence_layers", f"{TEXT}paragraph_layers"), (0, *model.text_layers), strict=False))
    first["fusion.layers"] = sum(model.text_layers)
    row: Rules = (
        (
            r"^(text_embeddings\.sentence_layers|text_embeddings\.paragraph_layers|fusion\.layers)\.(\d+)\.",
            lambda found: f"text_layers.{first[found[1]] + int(found[2])}.",
        ),
    )
    parts = dict(kind.parts)
    if model.model_class in ("VioletForQuestionAnswering", "VioletForMultipleChoice"):
        parts["answer_head.3."] = ("text_encoder.classifier.", ())
    return replace(kind, parts=parts, numbers=row, fit=None)


LF_VILA_HEADS = r"^text_encoder\.(bert\.pooler|cls|seq_relationship|classifier|span_classifier)\."

LF_VILA_TERMS = (
    "LF-VILA's published weights stand under a licence of Microsoft Research "
    "(https://github.com/microsoft/XPretrain): non-commercial use only, and neither the weights nor anything derived "
    "from them may be passed on."
)

LF_VILA = Kind(
    "LF-VILA",
    parts={
        BACKBONE + "clip_merging.": ("video_encoder.local_feat_proj.", ()),
        BACKBONE + "clip_norm.": ("video_encoder.norm_local.", ()),
        BACKBONE: ("video_encoder.", SWIN),
        "video_encoder.cell_embeddings.weight": ("video_token_pos.s_pos_embed", ()),
        "video_encoder.frame_embeddings.weight": ("video_token_pos.t_pos_embed", ()),
        "video_encoder.norm.": ("video_token_pos.norm.", ()),
        TEXT + "embeddings.": ("text_encoder.bert.embeddings.", EMBEDDINGS),
        TEXT + "places.": ("sent_embedding.", ()),
        "text_layers.": ("text_encoder.bert.encoder.layer.", LAYERS),
        "projection.video_projection.": ("video_global_proj.", ()),
        "projection.text_projection.": ("text_global_proj.", ()),
        "projection.clip_projection.": ("video_local_proj.", ()),
        "projection.sentence_projection.": ("text_local_proj.", ()),
        "answer_head.0.": ("text_encoder.bert.pooler.dense.", ()),
        "answer_head.3.": ("text_encoder.seq_relationship.", ()),
        "span_head.": ("text_encoder.span_classifier.", ()),
        "classifier.": ("classifier.", ()),
        MLM: ("text_encoder.cls.predictions.", MASKED_WORDS),
    },
    forms={
        r"^video_token_pos\.s_pos_embed$": Form(lambda shape, window: (1, 1, *shape)),
        r"^video_token_pos\.t_pos_embed$": Form(lambda shape, window: (1, shape[0], 1, shape[1])),
    },
    kept={
        r"^video_encoder\.(local_feat_proj|norm_local)\.": "the original computes it, and reads the last map instead",
        LF_VILA_HEADS: "a head that this class of model does not have",
        r"^(video|text)_(local|global|frame)_proj\.": "a projection that this class of model does not have",
    },
    classes=(
        (r"^text_encoder\.span_classifier\.", "VioletForMultipleChoice"),
        (r"^text_encoder\.classifier\.", "VioletForQuestionAnswering"),
        (r"^classifier\.", "VioletForVideoClassification"),
        (r"^video_token_pos\.", "VioletForPreTraining"),
        (r"", "VioletForRetrieval"),
    ),
    license=LF_VILA_TERMS,
    system="lf_vila",
    published=True,
    position_ids=True,
    frames={"num_frames": 32, "size": {"height": 192, "width": 320}, "do_pad_to_square": False},
    assumed=(
        "`num_attention_heads` is the width / 64",
        "8 layers read sentences and 4 paragraphs",
        "`sentence_length`, `pool_size` and `num_clips` are as published",
    ),
    fit=_paragraph_layers,
)


SENTENCE_LAYERS, PARAGRAPH_LAYERS = 8, 4
HEAD_WIDTH = 64
"""BERT's. Weights do not tell the number of attention heads."""
CELLS = {6: (2, 3)}
"""Cells of a frame -> (rows, columns), at the published size."""
UNTOLD = {
    **{"projection_dim": None, "projection_type": "in_order", "head_type": "mlp", "match_classes": 1},
    **{"video_grid_size": 1, "num_video_frames": 1},
}
"""Of a model without projections, heads and places."""


def lf_vila_sizes(shapes: Mapping[str, Shape]) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    What the shapes of a published checkpoint tell: the fields of `VioletConfig` but for the vision encoder's, and
    those of `LfVilaVisionConfig`. What they do not tell is as published: how many layers read sentences, the places of
    a sentence, the pooling of the map, the clips of a video.

    Raises:
        WeightsError: for a checkpoint of other sizes than the published ones, which a configuration must tell.
    """
    for needed in ("video_encoder.patch_embed.proj.weight", "text_encoder.bert.embeddings.word_embeddings.weight"):
        if needed not in shapes and (needed.startswith("video") or not is_of_videos(shapes)):
            raise WeightsError(f"An LF-VILA checkpoint has {needed!r}, and this one does not.")
    vision = _vision(shapes)
    if is_of_videos(shapes):
        width = shapes["video_encoder.norm.weight"][0]
        fields: dict[str, Any] = {**UNTOLD, "hidden_size": width, "text_config": {"model_type": "none"}}
        fields |= {"head_type": "embedding", "num_labels": shapes["classifier.weight"][0]}
        fields["num_attention_heads"] = max(width // HEAD_WIDTH, 1)
    else:
        fields = {**UNTOLD, **_text(shapes)}
    fused = "video_token_pos.s_pos_embed" in shapes
    if fused:
        cells = shapes["video_token_pos.s_pos_embed"][2]
        fields |= {"vision_positions": "cells", "video_grid_size": CELLS.get(cells, (1, cells))}
        fields["num_video_frames"] = shapes["video_token_pos.t_pos_embed"][1]
    else:
        fields |= {"vision_positions": "none", "fusion_model_config": {"model_type": "none"}}
    if "video_global_proj.weight" in shapes:
        clips = "video_local_proj.weight" in shapes
        fields["projection_dim"] = shapes["video_global_proj.weight"][0]
        fields["projection_type"] = "paragraph_and_clips" if clips else "paragraph"
    return fields, vision


def is_of_videos(shapes: Mapping[str, Shape]) -> bool:
    """Whether it is a classifier of videos, which has no text encoder."""
    return "classifier.weight" in shapes


def _count(shapes: Mapping[str, Shape], pattern: str) -> int:
    """How many numbers, from 0 on, names that begin so have."""
    found = {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
    return len(found) if found == set(range(len(found))) else 0


def _vision(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    layers = _count(shapes, r"video_encoder\.layers\.(\d+)\.")
    depths = [_count(shapes, rf"video_encoder\.layers\.{i}\.blocks\.(\d+)\.") for i in range(layers)]
    heads, windows = [], []
    for i in range(layers):
        rows, count = shapes[f"video_encoder.layers.{i}.blocks.0.attn.relative_position_bias_table"]
        heads.append(count)
        windows.append([(rows // (5 * 9) + 1) // 2, 3, 5])
    patches = shapes["video_encoder.patch_embed.proj.weight"]
    inner = shapes["video_encoder.layers.0.blocks.0.mlp.fc1.bias"][0]
    return {
        "embed_dim": patches[0],
        "num_channels": patches[1],
        "patch_size": patches[-1],
        "depths": depths,
        "num_heads": heads,
        "window_sizes": windows,
        "merge_after": [i for i in range(layers) if f"video_encoder.layers.{i}.downsample.norm.weight" in shapes],
        "mlp_ratio": inner / patches[0],
    }


def _text(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    bert = "text_encoder.bert."
    words, width = shapes[f"{bert}embeddings.word_embeddings.weight"]
    layers = _count(shapes, r"text_encoder\.bert\.encoder\.layer\.(\d+)\.")
    own = SENTENCE_LAYERS + PARAGRAPH_LAYERS
    fused = "video_token_pos.s_pos_embed" in shapes
    if layers < own or (fused and layers == own) or (not fused and layers > own):
        raise WeightsError(
            f"The text encoder has {layers} layers, and the published ones {own} or {2 * own}: how many read "
            "sentences and paragraphs, the weights do not tell; give a configuration (`--config`)."
        )
    fields: dict[str, Any] = {
        "vocab_size": words,
        "hidden_size": width,
        "num_attention_heads": next(n for n in range(max(width // HEAD_WIDTH, 1), 0, -1) if width % n == 0),
        "intermediate_size": shapes[f"{bert}encoder.layer.0.intermediate.dense.bias"][0],
        "num_hidden_layers": max(layers - own, 1),
        "max_position_embeddings": shapes[f"{bert}embeddings.position_embeddings.weight"][0],
        "type_vocab_size": shapes[f"{bert}embeddings.token_type_embeddings.weight"][0],
        "text_config": {
            "model_type": "paragraph",
            "num_sentence_layers": SENTENCE_LAYERS,
            "num_paragraph_layers": PARAGRAPH_LAYERS,
            "max_sentences": shapes["sent_embedding.segment_embeddings.weight"][0],
            "max_places": shapes["sent_embedding.position_embeddings.weight"][0],
        },
    }
    answers = shapes.get("text_encoder.classifier.weight")
    if fused:
        fields |= {"head_type": "pooler", "match_classes": 1 if answers else 2}
    if "text_encoder.span_classifier.weight" in shapes:
        fields["span_head"] = True
    if answers:
        fields["num_labels"] = max(answers[0], 1)
    return fields

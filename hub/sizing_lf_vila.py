"""What the shapes of an LF-VILA checkpoint tell of its model."""

import re
from collections.abc import Mapping
from typing import Any

from .layouts import Shape
from .weight_files import WeightsError

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

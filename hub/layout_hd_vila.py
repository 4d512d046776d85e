"""HD-VILA's checkpoints: their names for ours, and what their shapes tell of a model."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from .kinds import EMBEDDINGS, LAYERS, MASKED_WORDS, MLM, TEXT, Kind, Numbering, Rules, Shape
from .weight_files import WeightsError


@cache
def _upper_layers(kind: Kind, model: Numbering, source: Numbering) -> Kind:
    """BERT's layers in one row: those of the text side, those of the fusion. And whose the head's last layers are."""
    first = model.text_layers[0] if model.text_layers else 0
    row: Rules = (
        (r"^text_embeddings\.layers\.", "text_layers."),
        (r"^fusion\.layers\.(\d+)\.", lambda found: f"text_layers.{first + int(found[1])}."),
    )
    parts = dict(kind.parts)
    if model.model_class in ("VioletForQuestionAnswering", "VioletForMultipleChoice"):
        parts["answer_head.3."] = ("transformer.classifier.0.", ())
        parts["answer_head.5."] = ("transformer.classifier.2.", ())
    return replace(kind, parts=parts, numbers=row, fit=None)


TIMESFORMER: Rules = (
    (r"^position_embeddings$", "pos_embed"),
    (r"^time_embeddings$", "time_embed"),
    (r"\.temporal_norm\.", ".temporal_norm1."),
    (r"\.temporal_attention\.", ".temporal_attn."),
    (r"\.attention\.", ".attn."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.2\.", ".mlp.fc2."),
)

VISUAL = "transformer.bert.visual_embeddings."

HD_VILA_TERMS = (
    "HD-VILA's published weights stand under a licence of Microsoft Research "
    "(https://github.com/microsoft/XPretrain): non-commercial use only, and neither the weights nor anything derived "
    "from them may be passed on."
)

HD_VILA = Kind(
    "HD-VILA",
    parts={
        "video_encoder.two_resolutions.sharp.": ("cnn.", ()),
        "video_encoder.two_resolutions.small.": ("cnn_low.", ()),
        "video_encoder.two_resolutions.sharp_projection.": ("grid_encoder.0.", ()),
        "video_encoder.two_resolutions.small_projection.": ("grid_encoder_low.0.", ()),
        "video_encoder.two_resolutions.join.": ("grid_encoder_combine.0.", ()),
        "video_encoder.two_resolutions.timesformer.": ("timesformer.", TIMESFORMER),
        "video_encoder.row_embeddings.": (VISUAL + "row_position_embeddings.", ()),
        "video_encoder.column_embeddings.": (VISUAL + "col_position_embeddings.", ()),
        "video_encoder.type_embeddings.": (VISUAL + "token_type_embeddings.", ()),
        "video_encoder.norm.": (VISUAL + "LayerNorm.", ()),
        TEXT + "embeddings.": ("transformer.bert.embeddings.", EMBEDDINGS),
        TEXT + "pooler.": ("transformer.bert.pooler1.dense.", ()),
        "text_layers.": ("transformer.bert.encoder.layer.", LAYERS),
        "projection.video_projection.": ("transformer.v_proj.", ()),
        "projection.text_projection.": ("transformer.t_proj.", ()),
        "answer_head.0.": ("transformer.bert.pooler2.dense.", ()),
        "answer_head.3.": ("transformer.cls.seq_relationship.", ()),
        MLM: ("transformer.cls.predictions.", MASKED_WORDS),
    },
    kept={
        r"\.num_batches_tracked$": "it counts batches in training, which never move these norms",
        r"^cnn_low\.layer4\.": "small frames go no further than the third stage",
        r"^timesformer\.norm\.": "the original holds it, and no pass reads it",
        r"^transformer\.bert\.visual_embeddings\.position_embeddings\.": "the original holds it, and no pass reads it",
        r"^transformer\.(bert\.pooler2|cls|classifier)\.": "a head that this class of model does not have",
        r"^transformer\.(bert\.pooler1|[tv]_proj)\.": "a projection that this model does not have",
    },
    classes=(
        (r"^transformer\.classifier\.", "VioletForQuestionAnswering"),
        (r"^transformer\.bert\.visual_embeddings\.", "VioletForPreTraining"),
        (r"", "VioletForRetrieval"),
    ),
    license=HD_VILA_TERMS,
    system="hd_vila",
    published=True,
    assumed=(
        "`num_attention_heads` is the width / 64",
        "beside a fusion the lower half of BERT's layers reads the text by itself",
        "`position_grid` is as published",
    ),
    frames={
        "num_frames": 7,
        "size": {"height": 160, "width": 256},
        "inputs": ["pixel_values_videos", "pixel_values_detail"],
    },
    fit=_upper_layers,
)


HEAD_WIDTH = 64
"""BERT's and the TimeSformer's. Weights do not tell the number of attention heads."""
GRIDS = {160: (10, 16)}
"""Learned positions -> (rows, columns), at the published size."""
NEEDED = (
    "cnn.conv1.weight",
    "cnn_low.conv1.weight",
    "grid_encoder.0.weight",
    "grid_encoder_low.0.weight",
    "timesformer.pos_embed",
    "timesformer.time_embed",
    "timesformer.blocks.0.mlp.fc1.bias",
    "transformer.bert.embeddings.word_embeddings.weight",
    "transformer.bert.embeddings.position_embeddings.weight",
    "transformer.bert.embeddings.token_type_embeddings.weight",
    "transformer.bert.encoder.layer.0.intermediate.dense.bias",
)
"""What sizes are read from."""


def hd_vila_sizes(shapes: Mapping[str, Shape]) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    What the shapes of a published checkpoint tell: the fields of `VioletConfig` but for the vision encoder's, and
    those of `HdVilaVisionConfig`. What they do not tell is as published: heads of 64 channels, and a text side of the
    lower half of BERT's layers if a fusion is there.

    Raises:
        WeightsError: for a layer that is missing, or a grid or number of layers that only a configuration can tell.
    """
    for needed in NEEDED:
        if needed not in shapes:
            raise WeightsError(f"An HD-VILA checkpoint has {needed!r}, and this one does not.")
    bert = "transformer.bert."
    words, width = shapes[f"{bert}embeddings.word_embeddings.weight"]
    layers = _count(shapes, r"transformer\.bert\.encoder\.layer\.(\d+)\.")
    fused = f"{bert}visual_embeddings.row_position_embeddings.weight" in shapes
    if fused and layers % 2:
        raise WeightsError(
            f"BERT has {layers} layers, which make no two halves: give a configuration, which says how many read the "
            "text by itself (`text_config.num_hidden_layers`) and how many with the video (`num_hidden_layers`)."
        )
    fields: dict[str, Any] = {
        "text_config": {"model_type": "hd_vila_text", "num_hidden_layers": layers // 2 if fused else layers},
        "vocab_size": words,
        "hidden_size": width,
        "num_attention_heads": _heads(width),
        "intermediate_size": shapes[f"{bert}encoder.layer.0.intermediate.dense.bias"][0],
        "num_hidden_layers": max(layers // 2, 1),
        "max_position_embeddings": shapes[f"{bert}embeddings.position_embeddings.weight"][0],
        "type_vocab_size": shapes[f"{bert}embeddings.token_type_embeddings.weight"][0],
        "hidden_frame_order": False,
        "vision_positions": "none",
        "fusion_model_config": {"model_type": "none"},
        "projection_dim": None,
        "projection_type": "in_order",
        "head_type": "mlp",
        "match_classes": 1,
    }
    if fused:
        places = shapes[f"{bert}visual_embeddings.row_position_embeddings.weight"][0]
        fields |= {"vision_positions": "rows_and_columns", "video_grid_size": places}
        fields |= {"fusion_model_config": {"model_type": "clip_by_clip"}, "head_type": "pooler", "match_classes": 2}
    answers = shapes.get("transformer.classifier.2.weight")
    if answers:
        fields |= {"head_type": "pooler_mlp", "match_classes": 1, "num_labels": answers[0]}
    projected = shapes.get("transformer.v_proj.weight")
    if projected:
        fields |= {"projection_dim": projected[0], "projection_type": "pooled_with_bias"}
    return fields, _vision(shapes)


def _vision(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    width = shapes["grid_encoder.0.weight"][0]
    places = shapes["timesformer.pos_embed"][1]
    if places not in GRIDS:
        raise WeightsError(
            f"The {places} positions in the frame are those of a grid whose rows and columns the weights do not tell: "
            "give a configuration with `vision_config.position_grid`."
        )
    return {
        "hidden_size": width,
        "num_hidden_layers": _count(shapes, r"timesformer\.blocks\.(\d+)\."),
        "num_attention_heads": _heads(width),
        "mlp_ratio": shapes["timesformer.blocks.0.mlp.fc1.bias"][0] / width,
        "resnet_width": shapes["cnn.conv1.weight"][0],
        "resnet_depths": [_count(shapes, rf"cnn\.layer{stage}\.(\d+)\.") for stage in range(1, 5)],
        "num_channels": shapes["cnn.conv1.weight"][1],
        "num_frames": shapes["timesformer.time_embed"][1],
        "position_grid": GRIDS[places],
    }


def _count(shapes: Mapping[str, Shape], pattern: str) -> int:
    """How many numbers, from 0 on, names that begin so have."""
    found = {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
    return max(found, default=-1) + 1


def _heads(width: int) -> int:
    return next(n for n in range(max(width // HEAD_WIDTH, 1), 0, -1) if width % n == 0)

"""What the shapes of a VATT checkpoint tell of its model."""

import re
from collections.abc import Mapping
from typing import Any

from .layouts import VATT_BASE, VATT_HEAD, Shape
from .weight_files import WeightsError

HEAD_WIDTH = 64
"""`d_kv` of every published model. Weights do not tell the number of attention heads."""
NEEDED = (
    "raw_to_embeddings/video/kernel",
    "raw_to_embeddings/audio/kernel",
    "raw_to_embeddings/text/embeddings",
    "post_proj/video/kernel",
    *(f"pos_embedding_lookup/video/{axis}_position_embeddings/embeddings" for axis in ("vertical", "horizontal")),
    *(f"pos_embedding_lookup/{name}/temporal_position_embeddings/embeddings" for name in ("video", "audio", "text")),
    "tx/layers/0/mha/q/kernel",
    "tx/layers/0/feed_forward/mlp/wi/kernel",
)
"""What sizes are read from."""


def vatt_sizes(shapes: Mapping[str, Shape]) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    What the shapes of a modality-agnostic checkpoint tell: the fields of `VioletConfig` but for the vision encoder's,
    and those of `VattVisionConfig`. What they do not tell is as published: heads of 64 channels, 48 kHz.

    Raises:
        WeightsError: for a weight that is missing, or has another number of axes.
    """
    axes = {"video/kernel": 5, "audio/kernel": 3}
    for needed in NEEDED:
        wanted = next((count for end, count in axes.items() if needed == f"raw_to_embeddings/{end}"), 2)
        if len(shapes.get(VATT_BASE + needed, ())) != wanted:
            raise WeightsError(
                f"A VATT checkpoint has {VATT_BASE + needed!r} of {wanted} axes, and this one does not."
            )

    def shape(name: str) -> Shape:
        return shapes[VATT_BASE + name]

    def places(name: str, axis: str = "temporal") -> int:
        return shape(f"pos_embedding_lookup/{name}/{axis}_position_embeddings/embeddings")[0]

    *patch, _, width = shape("raw_to_embeddings/video/kernel")
    samples = shape("raw_to_embeddings/audio/kernel")[0]
    words, word_size = shape("raw_to_embeddings/text/embeddings")
    inner = shape("tx/layers/0/mha/q/kernel")[1]
    blocks = [int(found[1]) for name in shapes if (found := re.search(r"/tx/layers/(\d+)/", name))]
    common = {
        "backbone_size": width,
        "num_hidden_layers": max(blocks) + 1,
        "num_attention_heads": max(inner // HEAD_WIDTH, 1),
        "head_dim": min(inner, HEAD_WIDTH),
        "intermediate_size": shape("tx/layers/0/feed_forward/mlp/wi/kernel")[1],
        "hidden_size": shape("post_proj/video/kernel")[1],
    }
    fine, coarse = (shapes.get(VATT_HEAD + name) for name in ("aud_to_va/kernel", "txt_to_vat/kernel"))
    joint = shapes.get(VATT_HEAD + "txt_to_vat/dense/kernel")
    fields: dict[str, Any] = {
        "audio_config": {
            "model_type": "vatt_audio",
            **common,
            "patch_size": samples,
            "num_samples": samples * places("audio"),
            "projection_dim": (fine or joint or (0, 512))[1],
        },
        "text_config": {"model_type": "vatt_text", **common, "word_size": word_size, "max_words": places("text")},
        "vocab_size": words,
        "projection_dim": (coarse or joint or (0, None))[1],
        "projection_type": "joint" if joint else "fine_and_coarse",
    }
    grid = [places("video", axis) for axis in ("temporal", "vertical", "horizontal")]
    vision = {**common, "patch_size": patch, "num_channels": shape("raw_to_embeddings/video/kernel")[3]}
    return fields, {**vision, "position_grid": grid}

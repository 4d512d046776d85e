"""Models of the sizes of the goldens' instances."""

from typing import Any

from lf_vila import LfVila

from violet import VioletConfig

FUSED: dict[str, Any] = {"vision_positions": "cells", "head_type": "pooler", "match_classes": 2}
UNFUSED: dict[str, Any] = {"vision_positions": "none", "fusion_model_config": {"model_type": "none"}}
CLIPS: dict[str, Any] = {"projection_dim": 128, "projection_type": "paragraph_and_clips"}
PARTS: dict[str, dict[str, Any]] = {
    "long": UNFUSED | CLIPS,
    "odd": FUSED | CLIPS | {"video_grid_size": [1, 2]},
    "qa_classification": FUSED | {"match_classes": 1, "num_labels": 7, "video_grid_size": [2, 3]},
    "qa_multichoice": FUSED | {"match_classes": 1, "span_head": True, "video_grid_size": [2, 3]},
    "video_classification": UNFUSED
    | {"text_config": {"model_type": "none"}, "head_type": "embedding", "num_labels": 7}
    | {"projection_dim": 128, "projection_type": "paragraph"},
}
INSTANCES = {"long": "long", "odd": "odd"}
"""Key list -> the instance whose sizes and inputs it has; `tasks` for the others."""


def text_config(goldens: LfVila, instance: str, **changes: Any) -> dict[str, Any]:
    return {
        "model_type": "paragraph",
        "num_sentence_layers": 2,
        "num_paragraph_layers": 2,
        "sentence_length": goldens.configs[instance]["length"],
        "max_sentences": 8,
        "max_places": 80,
        "paragraph_token": "all_sentences",
        **changes,
    }


def model_config(goldens: LfVila, keys: str, **changes: Any) -> VioletConfig:
    """The configuration of a key list of lf_vila_keys.json, as published."""
    instance = INSTANCES.get(keys, "tasks")
    sizes: dict[str, Any] = {
        "vision_config": goldens.vision_config(instance).to_dict(),
        "text_config": text_config(goldens, instance),
        "hidden_size": 128,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "vocab_size": 600,
        "max_position_embeddings": 80,
        "num_video_frames": goldens.configs[instance]["time"],
        "hidden_frame_order": False,
    }
    return VioletConfig(**{**sizes, **PARTS[keys], **changes})

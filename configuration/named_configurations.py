"""The named configurations: published sizes, and small ones that train in minutes."""

from typing import Any

from .configuration_violet import IMAGENET_BLACK, VioletConfig

CLIP_TOWERS: dict[str, Any] = {
    "text_config": {"model_type": "clip_text_model"},
    "fusion_model_config": {"model_type": "none"},
    "vision_positions": "none",
    "projection_type": "pooled",
    "projection_dim": 512,
    "vocab_size": 49408,  # of CLIP's tokenizer
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
    "num_video_frames": 12,
    "hidden_frame_order": False,
}
"""What models of CLIP's two towers share: texts are read by CLIP's, and compared with videos as vectors."""
TINY: dict[str, Any] = {
    "initializer_range": 0.08,  # about 1 / sqrt(width); at BERT's 0.02 so narrow a network learns far more slowly
    "vocab_size": 512,
    "bos_token_id": 2,  # of `processing.train_wordpiece_tokenizer`
    "eos_token_id": 3,
    "mask_token_id": 4,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
"""Words and fusion of the small models that train on two CPU cores."""
VIDEOS_ONLY: dict[str, Any] = {
    "text_config": {"model_type": "none"},
    "fusion_model_config": {"model_type": "none"},
    "vision_positions": "none",
    "hidden_frame_order": False,
    "classifier_dropout": 0.5,
}
"""A vision encoder that gives a vector of each clip, and a head on it: no texts, no fusion."""
VATT_TINY: dict[str, Any] = {
    **{"backbone_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16},
    **{"intermediate_size": 256, "hidden_size": 64, "dropout": 0.0},
}
"""The backbone that the three modalities of a small VATT share."""
COCA: dict[str, Any] = {
    "fusion_model_config": {"model_type": "coca"},
    "vision_positions": "attentional_pooler",
    "projection_type": "coca",
    "word_head_type": "linear",
    "next_word_prediction": True,
    "objectives": {"caption": {}, "contrast": {}},
    "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "hidden_frame_order": False,
}
"""What every CoCa has: one pooler, a decoder in two halves, and two losses."""
COCA_WORDS: dict[str, Any] = {
    "text_config": {"model_type": "coca_text"},
    "pooler": {"num_queries": 256, "num_heads": 8},
    "max_position_embeddings": 76,
    "vocab_size": 49408,  # of CLIP's tokenizer
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
    "num_video_frames": 8,
}
"""Texts and pooler of the published CoCas."""


def _imp(width: int, layers: int, experts: int) -> dict[str, Any]:
    """IMP of that size, with experts in the last six layers; heads are 64 wide."""
    sizes: dict[str, Any] = {
        **{"backbone_size": width, "hidden_size": width, "num_hidden_layers": layers},
        **{"num_attention_heads": width // 64, "intermediate_size": 4 * width, "qk_norm": True},
        "experts": {"number": experts, "layers": 6, "groups": "batch"},
    }
    return {
        "vision_config": {"model_type": "imp", **sizes},
        "audio_config": {"model_type": "imp_audio", **sizes},
        "text_config": {"model_type": "imp_text", **sizes},
        "fusion_model_config": {"model_type": "none"},
        "vision_positions": "none",
        "masked_patch_value": (-1.0, -1.0, -1.0),
        "hidden_frame_order": False,
        **{"vocab_size": 32100, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0},  # of T5's tokenizer
        "num_video_frames": 16,
        "projection_dim": 1024,
        "projection_type": "disjoint",
    }


IMP_TINY: dict[str, Any] = {
    **{"backbone_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128},
    **{"hidden_size": 64, "qk_norm": True, "experts": {"number": 4, "layers": 2, "groups": "batch"}},
}
"""The layers that the three modalities of a small IMP share."""

NAMED_CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "violet-v1-base": {
        "vision_config": {"embed_dim": 96, "num_heads": (3, 6, 12, 24)},
        "hidden_frame_order": False,
        "masked_patch_value": IMAGENET_BLACK,
        "retrieval_directions": 1,
    },
    "violet-v2-base": {},
    "uniformerv2-base-16-scene": {"vision_config": {"model_type": "uniformerv2"}, **VIDEOS_ONLY},
    "uniformerv2-base-16-temporal": {
        "vision_config": {
            "model_type": "uniformerv2",
            "temporal_downsampling": True,
            "local_blocks": 2,
            "global_layers": (4, 5, 6, 7, 8, 9, 10, 11),
            "drop_path_rate": 0.2,
            "global_drop_path_rate": 0.4,
        },
        **VIDEOS_ONLY,
    },
    "uniformerv2-tiny": {
        "vision_config": {
            "model_type": "uniformerv2",
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 64,
            "local_blocks": 2,
            "global_layers": (1, 2, 3),
            "global_dropout": 0.0,
        },
        **VIDEOS_ONLY,
        "classifier_dropout": 0.0,
    },
    "maskalign-base-16": {"vision_config": {"model_type": "maskalign_vit"}, **VIDEOS_ONLY},
    "maskalign-large-16": {
        "vision_config": {
            "model_type": "maskalign_vit",
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
        **VIDEOS_ONLY,
    },
    "maskalign-tiny": {
        "vision_config": {
            "model_type": "maskalign_vit",
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "patch_size": 8,
            "image_size": 64,
        },
        "video_grid_size": 8,
        **TINY,
        "num_hidden_layers": 2,
        "hidden_frame_order": False,
        "projection_dim": 128,
    },
    "hd-vila-base": {
        "vision_config": {"model_type": "hd_vila"},
        "text_config": {"model_type": "hd_vila_text"},
        "fusion_model_config": {"model_type": "clip_by_clip"},
        "vision_positions": "rows_and_columns",
        "video_grid_size": 100,
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "hidden_frame_order": False,
        "projection_dim": 1024,
        "projection_type": "pooled_with_bias",
        "head_type": "pooler",
        "match_classes": 2,
    },
    "hd-vila-tiny": {
        "vision_config": {
            "model_type": "hd_vila",
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "resnet_width": 16,
            "resnet_depths": (1, 1, 1, 1),
            "position_grid": (2, 2),
            "drop_path_rate": 0.0,
            "initializer_range": 0.08,
        },
        "text_config": {"model_type": "hd_vila_text", "num_hidden_layers": 1},
        "fusion_model_config": {"model_type": "clip_by_clip"},
        "vision_positions": "rows_and_columns",
        "video_grid_size": 8,
        **TINY,
        "num_hidden_layers": 2,
        "hidden_frame_order": False,
        "projection_dim": 128,
        "projection_type": "pooled_with_bias",
    },
    "lf-vila-base": {
        "vision_config": {"model_type": "lf_vila"},
        "text_config": {"model_type": "paragraph"},
        "vision_positions": "cells",
        "video_grid_size": (2, 3),
        "num_video_frames": 32,
        "hidden_frame_order": False,
        "hidden_size": 1024,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "projection_dim": 1024,
        "projection_type": "paragraph_and_clips",
        "head_type": "pooler",
        "match_classes": 2,
    },
    "lf-vila-tiny": {
        "vision_config": {
            "model_type": "lf_vila",
            "embed_dim": 32,
            "depths": (1, 1, 2, 1),
            "num_heads": (1, 2, 4, 4),
            "window_sizes": ((2, 4, 4), (4, 4, 4), (8, 2, 2), (8, 2, 2)),
            "merge_after": (0, 1),
            "pool_size": (1, 1),
            "drop_path_rate": 0.0,
            "initializer_range": 0.08,
        },
        "text_config": {
            "model_type": "paragraph",
            "num_sentence_layers": 1,
            "num_paragraph_layers": 1,
            "sentence_length": 32,
            "max_sentences": 4,
            "max_places": 129,
        },
        "vision_positions": "cells",
        "video_grid_size": (2, 2),
        "num_video_frames": 8,
        "hidden_frame_order": False,
        **TINY,
        "num_hidden_layers": 2,
        "projection_dim": 128,
        "projection_type": "paragraph",
    },
    "violet-tiny": {
        "vision_config": {
            "embed_dim": 32,
            "depths": (1, 1, 2, 1),
            "num_heads": (1, 2, 4, 8),
            "window_size": (4, 4, 4),
            "drop_path_rate": 0.0,
            "initializer_range": 0.08,
        },
        **TINY,
        "num_hidden_layers": 3,
        "fusion_norm": "pre",
        "hidden_frame_order": False,
        "clip_summary": True,
        "projection_dim": 128,
    },
    "language-model-tiny": {
        "vision_config": {
            "embed_dim": 32,
            "depths": (1, 1, 2, 1),
            "num_heads": (1, 2, 4, 8),
            "window_size": (4, 4, 4),
            "drop_path_rate": 0.0,
            "initializer_range": 0.08,
        },
        "text_config": {
            "model_type": "llama",
            **{"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4},
            **{"num_key_value_heads": 2, "max_position_embeddings": 256, "vocab_size": 512, "initializer_range": 0.08},
            **{"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0},  # of `processing.train_wordpiece_tokenizer`
        },
        "fusion_model_config": {"model_type": "language_model"},
        **TINY,
        "hidden_frame_order": False,
        "clip_summary": True,
    },
    "coca-vit-base-32": {
        "vision_config": {"model_type": "coca_vit"},
        **COCA,
        **COCA_WORDS,
        **{"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048, "projection_dim": 512},
    },
    "coca-vit-large-14": {
        "vision_config": {
            "model_type": "coca_vit",
            **{"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
            "patch_size": 14,
        },
        **COCA,
        **COCA_WORDS,
        **{"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "projection_dim": 768},
    },
    "coca-tiny": {
        "vision_config": {
            "model_type": "coca_vit",
            **{"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512},
            **{"patch_size": 8, "image_size": 64},
        },
        **TINY,
        **COCA,
        "text_config": {"model_type": "coca_text", "num_hidden_layers": 2},
        "pooler": {"num_queries": 17, "num_heads": 4},
        **{"num_hidden_layers": 2, "projection_dim": 128, "num_video_frames": 4},
    },
    "vatt-medium": {
        "vision_config": {"model_type": "vatt"},
        "audio_config": {"model_type": "vatt_audio"},
        "text_config": {"model_type": "vatt_text"},
        "fusion_model_config": {"model_type": "none"},
        "vision_positions": "none",
        "masked_patch_value": (-1.0, -1.0, -1.0),
        "hidden_frame_order": False,
        "vocab_size": 65536,
        "projection_dim": 256,
        "projection_type": "fine_and_coarse",
    },
    "vatt-tiny": {
        "vision_config": {
            "model_type": "vatt",
            **VATT_TINY,
            "patch_size": (2, 16, 16),
            "position_grid": (4, 4, 4),
        },
        "audio_config": {
            "model_type": "vatt_audio",
            **VATT_TINY,
            "patch_size": 80,
            "sampling_rate": 8000,
            "num_samples": 8000,
            "projection_dim": 64,
        },
        "text_config": {
            "model_type": "vatt_text",
            **VATT_TINY,
            **{"word_size": 64, "train_words": True, "max_words": 64},
        },
        "masked_patch_value": (-1.0, -1.0, -1.0),
        **TINY,
        "num_hidden_layers": 2,
        "fusion_norm": "pre",
        "hidden_frame_order": False,
        "num_video_frames": 4,
        "video_grid_size": 4,
        "projection_dim": 64,
        "projection_type": "fine_and_coarse",
    },
    "mm-gem-large": {
        "vision_config": {
            "model_type": "clip_vision_model",
            **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
            **{"patch_size": 14, "projection_dim": 768},
        },
        "text_config": {
            "model_type": "llama",
            **{"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32},
            **{"num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
        },
        "fusion_model_config": {"model_type": "language_model", "pooled_grid": 4, "embedding_grid": 2},
        **{"hidden_size": 1024, "num_attention_heads": 16, "num_video_frames": 4, "video_grid_size": 16},
        **{
            "max_position_embeddings": 2048,
            "hidden_frame_order": False,
            "projection_dim": 256,
            "projection_type": "language_model",
        },
    },
    "mm-gem-tiny": {
        "vision_config": {
            **{"embed_dim": 64, "depths": (1, 2), "num_heads": (2, 4), "window_size": (4, 4, 4)},
            **{"drop_path_rate": 0.0, "initializer_range": 0.08},
        },
        "text_config": {
            "model_type": "llama",
            **{"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4},
            **{"num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 256},
            **{"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0},  # of `processing.train_wordpiece_tokenizer`
            "initializer_range": 0.08,
        },
        "fusion_model_config": {"model_type": "language_model", "pooled_grid": 4, "embedding_grid": 2},
        **TINY,
        **{"num_video_frames": 4, "video_grid_size": 8, "hidden_frame_order": False, "max_position_embeddings": 256},
        **{"projection_dim": 128, "projection_type": "language_model"},
    },
    "vlora-vicuna-7b": {
        "vision_config": {
            "model_type": "clip_vision_model",
            # of 24: the last state but one is read
            **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
            **{"image_size": 336, "patch_size": 14},
        },
        "text_config": {
            "model_type": "llama",
            **{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
            **{"num_attention_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
            **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        },
        "fusion_model_config": {
            "model_type": "low_rank_language_model",
            **{"generator_size": 1024, "generator_blocks": 8, "rank": 64, "alpha": 64, "types": "qkvom"},
            **{"skip_layers": 4, "separate": True, "num_positions": 576},
        },
        "vision_positions": "none",
        **{"hidden_size": 1024, "num_attention_heads": 16, "hidden_frame_order": False},
    },
    "vlora-tiny": {
        "vision_config": {
            **{"embed_dim": 32, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8), "window_size": (4, 4, 4)},
            **{"drop_path_rate": 0.0, "initializer_range": 0.08},
        },
        "fusion_model_config": {
            "model_type": "low_rank",
            **{"generator_size": 128, "generator_blocks": 2, "rank": 8, "skip_layers": 2},
        },
        **TINY,
        "num_hidden_layers": 4,
        "fusion_norm": "pre",
        "hidden_frame_order": False,
        "clip_summary": True,
        "projection_dim": 128,
    },
    "clip-vip-base-16": {"vision_config": {"model_type": "clip_vip"}, **CLIP_TOWERS, "video_grid_size": 14},
    "clip-vip-base-32": {
        "vision_config": {"model_type": "clip_vip", "patch_size": 32},
        **CLIP_TOWERS,
        "video_grid_size": 7,
    },
    "clip-vip-tiny": {
        **CLIP_TOWERS,
        "vision_config": {
            "model_type": "clip_vip",
            **{"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4},
            **{"patch_size": 16, "image_size": 64, "temporal_size": 4, "initializer_range": 0.08},
        },
        "text_config": {
            "model_type": "clip_text_model",
            **{"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4},
            **{"max_position_embeddings": 64, "vocab_size": 512},
            **{"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0},  # of `processing.train_wordpiece_tokenizer`
        },
        **{"vocab_size": 512, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0},
        **{"projection_dim": 128, "num_video_frames": 4, "video_grid_size": 4},
    },
    "violet-tiny-experts": {
        "vision_config": {
            "embed_dim": 32,
            "depths": (1, 1, 2, 1),
            "num_heads": (1, 2, 4, 8),
            "window_size": (4, 4, 4),
            "drop_path_rate": 0.0,
            "initializer_range": 0.08,
        },
        "fusion_model_config": {"model_type": "bert_with_experts", "experts": {"number": 4, "layers": 2}},
        **TINY,
        "num_hidden_layers": 3,
        "fusion_norm": "pre",
        "hidden_frame_order": False,
        "clip_summary": True,
        "projection_dim": 128,
    },
    "imp-small": _imp(384, 12, 4),
    "imp-base": _imp(768, 12, 16),
    "imp-large": _imp(1024, 24, 16),
    "imp-tiny": {
        "vision_config": {"model_type": "imp", **IMP_TINY, "patch_size": (2, 16, 16), "position_grid": (4, 8, 8)},
        "audio_config": {
            "model_type": "imp_audio",
            **IMP_TINY,
            **{"sampling_rate": 8000, "num_samples": 8192, "window_length": 256, "hop_length": 128},
            **{"num_mel_bins": 64, "patch_size": (16, 16), "position_grid": (4, 4)},
        },
        "text_config": {"model_type": "imp_text", **IMP_TINY, "max_words": 64},
        "fusion_model_config": {"model_type": "none"},
        "vision_positions": "none",
        "masked_patch_value": (-1.0, -1.0, -1.0),
        **TINY,
        "hidden_frame_order": False,
        "num_video_frames": 8,
        "video_grid_size": 4,
        "projection_dim": 64,
        "projection_type": "disjoint",
    },
}


def named_configuration(name: str, **overrides) -> VioletConfig:
    """
    The configuration of that name, with `overrides` in place of its fields.

    A name that ends in `-tiny` or `-tiny-experts` is a small model that trains on two CPU cores in minutes; the others
    have the published models' shapes, `mm-gem-large` those of the models that MM-GEM is made of. `imp-small`,
    `imp-base` and `imp-large` have the paper's: no weights of them are published.


    Raises:
        ValueError: for an unknown name or field.
    """
    if name not in NAMED_CONFIGURATIONS:
        raise ValueError(f"No configuration is named {name!r}; there are {', '.join(NAMED_CONFIGURATIONS)}.")
    known = VioletConfig()
    unknown = sorted(field for field in overrides if not hasattr(known, field))
    if unknown:
        raise ValueError(f"VioletConfig has no field {', '.join(unknown)}.")
    return VioletConfig(**{**NAMED_CONFIGURATIONS[name], **overrides})

"""Small random models of transformers that can be vision encoders, and our own."""

from typing import Any

import torch

from violet import VioletConfig

SIDE, FRAMES, PATCH = 32, 4, 16
_SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_VIT = {**_SMALL, "intermediate_size": 64, "image_size": SIDE, "patch_size": PATCH}
ENCODER_CONFIGS: dict[str, dict[str, Any]] = {
    "violet_vision": {
        "embed_dim": 8,
        "depths": (1, 1),
        "num_heads": (1, 2),
        "window_size": (2, 2, 2),
        "patch_size": 8,
        "drop_path_rate": 0.0,
    },
    "coca_vit": _VIT,
    "clip_vip": {**_VIT, "temporal_size": FRAMES},
    "maskalign_vit": {**_SMALL, "image_size": SIDE, "patch_size": PATCH},
    "clip_vision_model": _VIT,
    "siglip_vision_model": _VIT,
    "dinov2": {**_SMALL, "image_size": SIDE, "patch_size": PATCH},
    "vit": _VIT,
    "videomae": {**_VIT, "num_frames": FRAMES, "tubelet_size": 2},
    "vjepa2": {
        **_SMALL,
        "crop_size": SIDE,
        "patch_size": PATCH,
        "frames_per_clip": FRAMES,
        "tubelet_size": 2,
        "pred_hidden_size": 32,
        "pred_num_attention_heads": 4,
        "pred_num_hidden_layers": 1,
    },
    "timesformer": {**_VIT, "num_frames": FRAMES},
    "uniformerv2": {
        **_SMALL,
        "image_size": SIDE,
        "patch_size": PATCH,
        "local_blocks": 2,
        "global_dropout": 0.0,
        "local_norm": "frozen",  # live statistics are those of one process: two then learn something else
        "global_layers": (0, 1),
        "balance": False,
        "summary_token": True,
    },
    "lf_vila": {
        "embed_dim": 8,
        "depths": (1, 1),
        "num_heads": (1, 2),
        "window_sizes": ((2, 2, 2), (4, 2, 2)),
        "merge_after": (0,),
        "pool_size": (1, 1),
        "num_clips": 2,
        "drop_path_rate": 0.0,
    },
    "hd_vila": {
        **_SMALL,
        "num_frames": FRAMES,
        "position_grid": (2, 2),
        "interpolate": True,
        "drop_path_rate": 0.0,
        "resnet_width": 4,
        "resnet_depths": (1, 1, 1, 1),
    },
    "vatt": {
        **{"backbone_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8},
        **{"intermediate_size": 64, "hidden_size": 32, "dropout": 0.0},
        "patch_size": (2, PATCH, PATCH),
        "position_grid": (FRAMES // 2, SIDE // PATCH, SIDE // PATCH),
    },
    "imp": {
        **{"backbone_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
        **{"hidden_size": 32, "qk_norm": True, "experts": {"number": 2, "layers": 1}},
        "patch_size": (2, PATCH, PATCH),
        "position_grid": (FRAMES // 2, SIDE // PATCH, SIDE // PATCH),
    },
}
"""By `model_type`: cells of 16 x 16 pixels, and of 1 or 2 frames; of HD-VILA a cell is all frames."""
PICTURES = ("clip_vision_model", "siglip_vision_model", "dinov2", "vit")
WHOLE_CLIPS = ("videomae", "vjepa2", "timesformer")

TWO_RESOLUTIONS = ("hd_vila",)
"""Those that take a sharp frame beside the others."""
SHARPER = 4


def frame_settings(encoder: str) -> dict[str, Any]:
    """What its video processor is told beside size and number of frames."""
    return {"inputs": ["pixel_values_videos", "pixel_values_detail"]} if encoder in TWO_RESOLUTIONS else {}


def shown(encoder: str, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The pixels (B, T, 3, H, W) by the names that the encoder takes; its sharp frame is the middle one enlarged."""
    given = {"pixel_values_videos": pixels}
    if encoder in TWO_RESOLUTIONS:
        middle = pixels[:, pixels.shape[1] // 2]
        given["pixel_values_detail"] = torch.nn.functional.interpolate(middle, scale_factor=SHARPER)[:, None]
    return given


def model_config(encoder: str, **changes: Any) -> VioletConfig:
    """A small model with that vision encoder, of the vocabulary and sizes of violet-tiny's kind."""
    return VioletConfig(
        vision_config={"model_type": encoder, **ENCODER_CONFIGS.get(encoder, {})},
        **{
            **_SMALL,
            "intermediate_size": 64,
            "vocab_size": 128,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "mask_token_id": 4,
            "num_video_frames": FRAMES,
            "video_grid_size": 2,
            "hidden_frame_order": False,
            "projection_dim": 16,
            "num_labels": 3,
            **changes,
        },
    )

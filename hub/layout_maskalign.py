"""MaskAlign's checkpoints: their names for ours, and what their shapes tell of a model."""

import math
import re
from collections.abc import Mapping
from typing import Any

from transformers.image_utils import PILImageResampling

from ..modeling_violet.encoders.maskalign_vit import sine_positions
from .kinds import ANOTHER_HEAD, Form, Kind, Rules, Shape, is_grid
from .weight_files import WeightsError

MASKALIGN_NAMES: Rules = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
)

ALIGNED = r"^distill_(heads|weights)\b"


def _maskalign(name: str, **options: Any) -> Kind:
    """A kind whose weights are MaskAlign's student's (Xue et al., 2023, arXiv:2211.08887)."""
    return Kind(
        name,
        parts={
            "video_encoder.maskalign_vit.": ("", MASKALIGN_NAMES),
            "objective_heads.align.weights": ("distill_weights", ()),
            "objective_heads.align.heads.": ("distill_heads.", ()),
        },
        forms={r"^cls_token$": Form(lambda shape, window: (1, 1, *shape))},
        classes=((r"", "VioletModel"),),
        kept={
            r"^(clip|dino)_model\.": "the frozen teacher, which has a checkpoint of its own",
            ALIGNED: "it aligns the student with its teacher, and the encoder does without",
            r"^(fc_norm|head)\.": ANOTHER_HEAD,
            r"^pos_embed$": "sines, which are computed for each grid",
        },
        computed={"pos_embed": ("cls_token", sine_positions)},
        system="maskalign_vit",
        tokenizer=None,
        frames={"do_pad_to_square": False, "resample": PILImageResampling.BICUBIC},
        assumed=("`num_attention_heads` is the width / 64",),
        **options,
    )


MASKALIGN = _maskalign("MaskAlign", published=True)

MASKALIGN_TUNED = _maskalign("MaskAlign, fine-tuned", absent=r"^video_encoder\.maskalign_vit\.norm\.")


HEAD_WIDTH = 64
"""Of both published students. Weights do not tell the number of attention heads."""
NEEDED = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.bias")
"""What sizes are read from."""


def maskalign_sizes(shapes: Mapping[str, Shape]) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    The fields of `VioletConfig` but for the vision encoder's (none), and those of `MaskAlignVisionConfig`.

    Raises:
        WeightsError: for a tensor that sizes are read from and that is missing, or positions of no square.
    """
    for needed in NEEDED:
        if needed not in shapes:
            raise WeightsError(f"A MaskAlign checkpoint has {needed!r}, and this one does not.")
    width, patches, places = shapes["cls_token"][-1], shapes["patch_embed.proj.weight"], shapes["pos_embed"]
    if len(patches) != 4 or len(places) != 3 or not is_grid(places[1]):
        raise WeightsError(
            f"'patch_embed.proj.weight' {patches} and 'pos_embed' {places} are not those of square pictures."
        )
    blocks = {int(found[1]) for name in shapes if (found := re.match(r"blocks\.(\d+)\.", name))}
    return {}, {
        "hidden_size": width,
        "num_hidden_layers": max(blocks) + 1,
        "num_attention_heads": next(n for n in range(max(width // HEAD_WIDTH, 1), 0, -1) if width % n == 0),
        "mlp_ratio": shapes["blocks.0.mlp.fc1.bias"][0] / width,
        "num_channels": patches[1],
        "patch_size": patches[-1],
        "image_size": patches[-1] * math.isqrt(places[1] - 1),
    }

"""
IMP's checkpoints: their names for ours, and what their shapes tell of a model. The names are read from the code; no
weights were published. Layers are told one by one: what its recipes scan, with a leading axis, is not read.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .kinds import TEXT, Form, Kind, Rules, Shape
from .weight_files import WeightsError

HEAD_WIDTH = 64
"""Of every size that the paper has."""
IMP_ENCODER = "moe_transformer_encoder/"


@dataclass(frozen=True)
class ImpHeads(Form):
    """A layer into heads, (D, heads, d) there and (heads · d, D) here, or out of them; heads are told by the file."""

    def expected(self, ours: Shape, window: Shape, found: Shape) -> Shape:
        expected = self.theirs(ours, window)
        into = expected[0] == ours[1] and len(expected) == 3 and found[:1] == ours[1:]
        if len(found) == 3 and (into or found[2:] == ours[:1]) and math.prod(found) == math.prod(ours):
            return found
        return expected


def _heads(width: int) -> tuple[int, int]:
    return max(width // HEAD_WIDTH, 1), min(width, HEAD_WIDTH)


IMP_FORMS: Mapping[str, Form] = {
    r"self_attention/[qkv]/kernel$": ImpHeads(
        theirs=lambda shape, window: (shape[1], *_heads(shape[0])),
        ours=lambda value, shape: value.flatten(1).t(),
        back=lambda value, shape: value.t().reshape(shape),
    ),
    r"self_attention/o/kernel$": ImpHeads(
        theirs=lambda shape, window: (*_heads(shape[1]), shape[0]),
        ours=lambda value, shape: value.flatten(0, 1).t(),
        back=lambda value, shape: value.t().reshape(shape),
    ),
    r"rgb_to_embedding/kernel$": Form(  # (frames · rows · columns · channels, D)
        theirs=lambda shape, window: (math.prod(shape[1:]), shape[0]),
        ours=lambda value, shape: value.reshape(*shape[2:], shape[1], shape[0]).permute(4, 3, 0, 1, 2),
        back=lambda value, shape: value.permute(2, 3, 4, 1, 0).reshape(shape),
    ),
    r"spc_to_embedding/kernel$": Form(  # (columns · rows, D)
        theirs=lambda shape, window: (math.prod(shape[1:]), shape[0]),
        ours=lambda value, shape: value.reshape(*shape[2:], 1, shape[0]).permute(3, 2, 0, 1),
        back=lambda value, shape: value.permute(2, 3, 1, 0).reshape(shape),
    ),
    r"experts/w[io]/kernel$": Form(),
    r"/kernel$": Form(
        theirs=lambda shape, window: shape[::-1],
        ours=lambda value, shape: value.t(),
        back=lambda value, shape: value.t().contiguous(),
    ),
    r"^temperature/": Form(theirs=lambda shape, window: (), ours=lambda value, shape: value.reshape(1)),
}

IMP_ENDS: Rules = (
    (r"norm(_[a-z]+)?\.weight$", r"norm\1/scale"),
    (r"\.weight$", "/kernel"),
    (r"\.bias$", "/bias"),
)

IMP_LAYERS: Rules = (
    (r"^layers\.(\d+)\.", r"layer_\1/"),
    (r"^norm\.", "final_layer_norm."),
    (r"attention_norm\.", "layer_norm_sa."),
    (r"attention\.([qk])_norm\.", r"self_attention/layer_norm_\1."),
    (r"attention\.([qkv])_proj\.", r"self_attention/\1."),
    (r"attention\.out_proj\.", "self_attention/o."),
    (r"mlp_norm\.", "layer_norm_ffn."),
    (r"fc1\.", "feed_forward/wi."),
    (r"fc2\.", "feed_forward/wo."),
    (r"experts\.router\.", "feed_forward/router/w."),
    (r"experts\.inner$", "feed_forward/experts/wi/kernel"),
    (r"experts\.outer$", "feed_forward/experts/wo/kernel"),
    *IMP_ENDS,
)

IMP_AXES = {"rgb": ("temporal", "vertical", "horizontal"), "spc": ("temporal", "spectoral"), "txt": ("temporal",)}
"""So spelt there."""
IMP_STREAMS = {"rgb": "vision_token_raw", "spc": "spectrogram_token_raw", "txt": "text_token_id"}


def _stream(short: str) -> Rules:
    """What a modality has of its own."""
    name = IMP_STREAMS[short]
    places = f"{name}_to_embed/{short}_pos_encoding"
    return (
        (r"^words\.weight$", f"{name}_to_embed/{short}_to_embedding/embedding"),
        (r"^patches\.", f"{name}_to_embed/{short}_to_embedding."),
        *(
            (rf"^stream\.positions\.axis_{axis}$", f"{places}/{called}_postition_embeddings/embedding")
            for axis, called in enumerate(IMP_AXES[short])
        ),
        (r"^stream\.positions\.norm\.", f"{places}/layer_norm."),
        (r"^stream\.(pre|post)_projection\.", rf"{name}_\1_encoder_projection."),
        *IMP_ENDS,
    )


IMP_MODALITIES = {"video": ("vision", "rgb"), "audio": ("spectrogram", "spc"), "text": ("text", "txt")}
"""Our modalities -> theirs, and the short name of its stream."""
IMP_HEAD: Rules = ((r"^inner\.", "wi."), (r"^outer\.", "wo."), (r"^norm\.", "layer_norm."), *IMP_ENDS)
IMP_PAIRS = {"audio_text": "spectrogram_text", "audio_video": "spectrogram_vision", "text_video": "text_vision"}

IMP = Kind(
    "IMP",
    parts={
        "video_encoder.imp.backbone.": (IMP_ENCODER, IMP_LAYERS),
        "video_encoder.imp.": ("", _stream("rgb")),
        "audio_encoder.model.": ("", _stream("spc")),
        TEXT + "model.": ("", _stream("txt")),
        **{
            f"projection.heads.{one}_to_{other}.": (
                f"{IMP_STREAMS[IMP_MODALITIES[one][1]]}_disjoint_projection/to_{IMP_MODALITIES[other][0]}/",
                IMP_HEAD,
            )
            for one in IMP_MODALITIES
            for other in IMP_MODALITIES
            if other != one
        },
        **{
            f"projection.temperature_{ours}": (f"temperature/temperature_{theirs}", ())
            for ours, theirs in IMP_PAIRS.items()
        },
    },
    forms=IMP_FORMS,
    aliases=((r"^params/", ""),),
    system="imp",
    published=True,
    tokenizer=None,
    frames={"num_frames": 16, "size": {"height": 256, "width": 256}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    assumed=("patches of video have 3 channels, and 4 frames if they can", "how a wave becomes a spectrogram"),
)

HOP, CHANNELS = 160, 3
NEEDED = {
    "vision_token_raw_to_embed/rgb_to_embedding/kernel": 2,
    "spectrogram_token_raw_to_embed/spc_to_embedding/kernel": 2,
    "text_token_id_to_embed/txt_to_embedding/embedding": 2,
    "vision_token_raw_post_encoder_projection/kernel": 2,
    IMP_ENCODER + "layer_0/self_attention/q/kernel": 3,
    **{
        f"{name}_to_embed/{short}_pos_encoding/{axis}_postition_embeddings/embedding": 2
        for short, name in IMP_STREAMS.items()
        for axis in IMP_AXES[short]
    },
}
"""What sizes are read from, with the number of axes."""


def _square(length: int) -> int | None:
    side = math.isqrt(length)
    return side if side * side == length else None


def _patch_of_video(length: int) -> list[int]:
    """
    (frames, rows, columns) of a patch of that many numbers.

    Raises:
        WeightsError: if there is no such patch with square frames of three channels.
    """
    for frames in (4, 2, 1, 8):
        side = _square(length // (CHANNELS * frames)) if length % (CHANNELS * frames) == 0 else None
        if side is not None:
            return [frames, side, side]
    raise WeightsError(f"A patch of video with {length} numbers is none of 1, 2, 4 or 8 square frames of 3 channels.")


def imp_sizes(shapes: Mapping[str, Shape]) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    What the shapes of a checkpoint tell: the fields of `VioletConfig` but for the vision encoder's, and those of
    `ImpVisionConfig`. How a wave becomes a spectrogram they do not tell.

    Raises:
        WeightsError: for a weight that is missing, or has another number of axes.
    """
    for needed, axes in NEEDED.items():
        if len(shapes.get(needed, ())) != axes:
            raise WeightsError(f"An IMP checkpoint has {needed!r} of {axes} axes, and this one does not.")

    def rows(short: str) -> list[int]:
        places = f"{IMP_STREAMS[short]}_to_embed/{short}_pos_encoding"
        return [shapes[f"{places}/{axis}_postition_embeddings/embedding"][0] for axis in IMP_AXES[short]]

    raw, width = shapes["vision_token_raw_to_embed/rgb_to_embedding/kernel"]
    heads = shapes[IMP_ENCODER + "layer_0/self_attention/q/kernel"][1]
    layers = {int(found[1]) for name in shapes if (found := re.search(r"/layer_(\d+)/", name))}
    dense = [shape for name, shape in shapes.items() if name.endswith("feed_forward/wi/kernel")]
    experts = [shape for name, shape in shapes.items() if name.endswith("feed_forward/experts/wi/kernel")]
    common: dict[str, Any] = {
        "backbone_size": width,
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": heads,
        "intermediate_size": (dense or experts)[0][-1],
        "hidden_size": shapes["vision_token_raw_post_encoder_projection/kernel"][1],
        "qk_norm": IMP_ENCODER + "layer_0/self_attention/layer_norm_q/scale" in shapes,
        "experts": {"number": experts[0][0], "layers": len(experts), "groups": "batch"} if experts else None,
    }
    spectrogram = shapes["spectrogram_token_raw_to_embed/spc_to_embedding/kernel"][0]
    side = _square(spectrogram)
    if side is None:
        raise WeightsError(f"A patch of a spectrogram with {spectrogram} numbers is no square.")
    steps, bands = rows("spc")
    words = shapes["text_token_id_to_embed/txt_to_embedding/embedding"][0]
    space = shapes.get("vision_token_raw_disjoint_projection/to_text/wi/kernel")
    fields: dict[str, Any] = {
        "audio_config": {
            "model_type": "imp_audio",
            **common,
            "patch_size": [side, side],
            "position_grid": [steps, bands],
            "num_mel_bins": bands * side,
            "num_samples": steps * side * HOP,
        },
        "text_config": {"model_type": "imp_text", **common, "max_words": rows("txt")[0]},
        "vocab_size": words,
        "projection_dim": None if space is None else space[1],
    }
    return fields, {**common, "patch_size": _patch_of_video(raw), "position_grid": rows("rgb")}

"""VATT's checkpoints: their names for ours, and what their shapes tell of a model."""

import re
from collections.abc import Mapping
from typing import Any

from .kinds import TEXT, Form, Kind, Rules, Shape
from .weight_files import WeightsError


def _axes(*order: int) -> Form:
    """A tensor of the source whose axes, in this order, are ours."""
    return Form(
        theirs=lambda shape, window: tuple(shape[order.index(axis)] for axis in range(len(order))),
        ours=lambda value, shape: value.permute(order),
        back=lambda value, shape: value.permute(tuple(order.index(axis) for axis in range(len(order)))).contiguous(),
    )


VATT_BASE, VATT_HEAD = "_base_layer/unified_backbone/unified_transformer/", "_head_layer/_bridge_heads/0/"

VATT_ENDS: Rules = (
    (r"norm\.weight$", "norm/gamma"),
    (r"norm\.bias$", "norm/beta"),
    (r"\.weight$", "/kernel"),
    (r"\.bias$", "/bias"),
)
"""TensorFlow's names of a layer's weights."""

VATT_DENSE: Rules = ((r"^weight$", "kernel"),)

VATT_NORM: Rules = (
    (r"^weight$", "gamma"),
    (r"^bias$", "beta"),
    (r"^running_mean$", "moving_mean"),
    (r"^running_var$", "moving_variance"),
)

VATT_BLOCKS: Rules = (
    (r"^layers\.(\d+)\.", r"layers/\1/"),
    (r"attention_norm\.", "layer_norm."),
    (r"attention\.([qkv])_proj\.", r"mha/\1."),
    (r"attention\.out_proj\.", "mha/o."),
    (r"mlp_norm\.", "feed_forward/layer_norm."),
    (r"fc1\.", "feed_forward/mlp/wi."),
    (r"fc2\.", "feed_forward/mlp/wo."),
    (r"^norm\.", "final_layer_norm."),
    *VATT_ENDS,
)


def _vatt_stream(name: str, short: str) -> Rules:
    """What a modality has of its own."""
    places = "pos_embedding_lookup"
    return (
        (r"^words\.weight$", f"raw_to_embeddings/{name}/embeddings"),
        (r"^patches\.", f"raw_to_embeddings/{name}."),
        (r"^stream\.(pre|post)_projection\.", rf"\1_proj/{name}."),
        (r"^stream\.positions\.temporal$", f"{places}/{name}/temporal_position_embeddings/embeddings"),
        (r"^stream\.positions\.vertical$", f"{places}/{name}/vertical_position_embeddings/embeddings"),
        (r"^stream\.positions\.horizontal$", f"{places}/{name}/horizontal_position_embeddings/embeddings"),
        (r"^stream\.positions\.norm\.", f"{places}/{name}/layernorm."),
        (r"^stream\.aggregate$", f"{short}_agg_embedding"),
        *VATT_ENDS,
    )


VATT_PROJECTION: Mapping[str, str] = {
    "video_hidden.": "vid_to_hid/",
    "hidden_norm.": "hid_to_va/pre_bn/",
    "video_fine.": "hid_to_va/dense/",
    "fine_norm.": "hid_to_va/bn/",
    "video_coarse.": "va_to_vat/dense/",
    "coarse_norm.": "va_to_vat/bn/",
    "sound_fine.": "aud_to_va/",
    "text_coarse.": "txt_to_vat/",
    **{
        f"heads.{name}.{ours}.": f"{short}_to_vat/{theirs}/"
        for name, short in (("video", "vid"), ("audio", "aud"), ("text", "txt"))
        for ours, theirs in (("dense", "dense"), ("norm", "bn"))
    },
}
"""Our projections -> the original's heads, of both kinds."""

VATT = Kind(
    "VATT",
    parts={
        "video_encoder.vatt.backbone.": (VATT_BASE + "tx/", VATT_BLOCKS),
        "video_encoder.vatt.": (VATT_BASE, _vatt_stream("video", "vid")),
        "audio_encoder.model.": (VATT_BASE, _vatt_stream("audio", "aud")),
        TEXT + "model.": (VATT_BASE, _vatt_stream("text", "txt")),
        **{
            f"projection.{ours}": (VATT_HEAD + theirs, VATT_NORM if "norm" in ours else VATT_DENSE)
            for ours, theirs in VATT_PROJECTION.items()
        },
    },
    forms={
        r"raw_to_embeddings/video/kernel$": _axes(4, 3, 0, 1, 2),
        r"raw_to_embeddings/audio/kernel$": _axes(2, 1, 0),
        r"/kernel$": _axes(1, 0),
    },
    aliases=((r"^.*?(?=_(base|head)_layer/)", ""), (r"/\.ATTRIBUTES/VARIABLE_VALUE$", "")),
    skipped={
        r"\.OPTIMIZER_SLOT|^optimizer/|^save_counter$|^_CHECKPOINTABLE_OBJECT_GRAPH$": "no weights, but what training "
        "kept beside them",
    },
    system="vatt",
    published=True,
    tokenizer=None,
    frames={"num_frames": 32, "size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    assumed=("heads are 64 wide (`head_dim`)", "sound has 48,000 samples a second"),
)


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

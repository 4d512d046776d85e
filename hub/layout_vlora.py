"""VLoRA's checkpoints: their names for ours, and what their shapes and `config.json` tell of a model."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling

from ..modeling_violet.low_rank import KINDS as LETTERS
from .kinds import Kind, Numbering, Rules, Shape
from .weight_files import WeightsError

VLORA_GENERATOR, VLORA_TOWER = "model.mm_projector.", "model.vision_tower.vision_tower.vision_model."
VLORA_LANGUAGE = "text_embeddings.language_model."

VLORA_BLOCKS: Rules = (
    (r"^generators\.(\d+)\.", r"gen.\1."),
    (r"\.blocks\.(\d+)\.norm\.", r".decoders.\1.norm3."),
    (r"\.blocks\.", ".decoders."),
    (r"\.self_attention\.", ".self_attn."),
    (r"\.cross_attention\.", ".multihead_attn."),
    (r"\.self_norm\.", ".norm1."),
    (r"\.cross_norm\.", ".norm2."),
    (r"\.intermediate\.", ".linear1."),
    (r"\.output\.", ".linear2."),
    (r"\.head\.", ".weights_head."),
    (r"^projection\.", "visual_proj."),
    (r"^positions$", "pos_embed"),
    (r"^b$", "Bs"),
)


@cache
def _behind_what_is_read(kind: Kind, model: Numbering, source: Numbering) -> Kind:
    """CLIP's block behind the state that is read, and its last norm, are kept for the way back only."""
    if not source.vision_layers:
        return kind
    pattern = rf"vision_model\.(encoder\.layers\.{source.vision_layers}\.|post_layernorm\.)"
    return replace(kind, kept={pattern: "behind CLIP's last state but one, which is the one in use"}, fit=None)


VLORA = Kind(
    "VLoRA",
    parts={
        "fusion.generator.": (VLORA_GENERATOR, VLORA_BLOCKS),
        "video_encoder.backbone.": (VLORA_TOWER, ((r"^vision_model\.", ""),)),
        VLORA_LANGUAGE: ("", ()),
    },
    skipped={r"rotary_emb\.inv_freq$": "computed"},
    fit=_behind_what_is_read,
    classes=((r"model\.mm_projector\.", "VioletForConditionalGeneration"),),
    system="clip_vision_model",
    published=True,
    by_shards=True,
    tokenizer="lmsys/vicuna-7b-v1.5",
    frames={
        **{"num_frames": 1, "image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD},
        "resample": PILImageResampling.BICUBIC,
    },
    assumed=(
        "CLIP's heads are 64 wide (`vision_config.num_attention_heads`)",
        "without a config.json: `fusion_model_config.alpha` is the rank, `types` are the first letters of 'qkvom', "
        "and heads of the language model are 128 wide",
    ),
)

VLORA_JOINT = replace(
    VLORA,
    name="VLoRA, one generator for all kinds",
    parts={
        "fusion.generator.": (VLORA_GENERATOR, (*VLORA_BLOCKS, (r"^gen\.0\.", "gen."))),
        **{part: theirs for part, theirs in VLORA.parts.items() if part != "fusion.generator."},
    },
)
"""`weights_sep` off."""

LLAMA_HEAD = 128
LLAMA_FIELDS = (
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act"),
    *("rope_theta", "rope_scaling", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"),
)
"""What a config.json beside the weights tells of the language model and shapes do not."""


def _told(settings: Mapping[str, Any], *words: str) -> Any:
    """The first field of a config.json that is VLoRA's and has one of these words in its name."""
    names = [name for name in settings if name.startswith("vlora_") or name in ("weights_sep", "skip_layers")]
    return next((settings[name] for word in words for name in names if word in name), None)


def vlora_sizes(shapes: Mapping[str, Shape], settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    The fields of `VioletConfig` but for the vision encoder's, and those of CLIP's vision tower.

    Args:
        settings: the config.json beside the weights; empty if there is none.

    Raises:
        WeightsError: for a weight that is missing, or numbers that do not divide one another.
    """

    def shape(name: str, axes: int) -> Shape:
        found = shapes.get(name, ())
        if len(found) != axes:
            raise WeightsError(f"A VLoRA checkpoint has {name!r} of {axes} axes, and this one does not.")
        return found

    def count(pattern: str) -> int:
        return len({found[1] for name in shapes if (found := re.match(pattern, name))})

    language: dict[str, Any] = {
        "vocab_size": shape("model.embed_tokens.weight", 2)[0],
        "hidden_size": shape("model.embed_tokens.weight", 2)[1],
        "intermediate_size": shape("model.layers.0.mlp.gate_proj.weight", 2)[0],
        "num_hidden_layers": count(r"model\.layers\.(\d+)\."),
    }
    width, layers = language["hidden_size"], language["num_hidden_layers"]
    heads = max(width // LLAMA_HEAD, 1)
    language |= {"num_attention_heads": heads, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
    language |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    language |= {name: settings[name] for name in LLAMA_FIELDS if settings.get(name) is not None}

    generators = count(VLORA_GENERATOR.replace(".", r"\.") + r"gen\.(\d+)\.")
    own = f"{VLORA_GENERATOR}gen." + ("0." if generators else "")
    _, groups, per_group = shape(f"{VLORA_GENERATOR}Bs", 3)
    rank = per_group // width
    queries, generator = shape(f"{own}queries", 3)[1:]
    types = _told(settings, "type") or LETTERS[: generators or len(LETTERS)]
    weighted = queries if generators else queries // len(types)
    if weighted < 1 or layers % weighted or per_group % width or groups != len(types) * weighted:
        raise WeightsError(
            f"The generator's shapes fit no model: {groups} matrices of {per_group} numbers for {layers} layers of "
            f"width {width}, and {queries} queries of the kinds {types!r} (`types`)."
        )
    fusion = {
        **{"model_type": "low_rank_language_model", "generator_size": generator, "rank": rank, "types": types},
        "generator_blocks": count(re.escape(own) + r"decoders\.(\d+)\."),
        "alpha": _told(settings, "alpha") or rank,
        **{"skip_layers": layers // weighted, "separate": bool(generators)},
        "num_positions": shape(f"{VLORA_GENERATOR}pos_embed", 3)[1],
    }
    patches = shape(f"{VLORA_TOWER}embeddings.patch_embedding.weight", 4)
    places = shape(f"{VLORA_TOWER}embeddings.position_embedding.weight", 2)[0]
    blocks = count(re.escape(VLORA_TOWER) + r"encoder\.layers\.(\d+)\.")
    vision = {
        **{"hidden_size": patches[0], "num_hidden_layers": blocks - 1},
        "intermediate_size": shape(f"{VLORA_TOWER}encoder.layers.0.mlp.fc1.weight", 2)[0],
        **{"num_attention_heads": max(patches[0] // 64, 1), "patch_size": patches[3]},
        "image_size": round((places - 1) ** 0.5) * patches[3],
    }
    fields = {"text_config": {"model_type": "llama", **language}, "fusion_model_config": fusion}
    return {**fields, "hidden_size": patches[0], "num_attention_heads": vision["num_attention_heads"]}, vision

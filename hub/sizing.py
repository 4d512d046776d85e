"""
What the shapes of a checkpoint tell of its model. A size stands in many shapes: they vote, so that one wrong shape
does not pass as a model of another size.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from transformers import AutoConfig

from ..configuration import VioletConfig, VioletVisionConfig, named_configuration
from .kinds import BACKBONE, FUSION, MLM, TEXT, Kind, Shape, holds, is_grid
from .layout_clip import CLIP_TEXT, CLIP_TOWER
from .layout_coca import coca_sizes
from .layout_hd_vila import hd_vila_sizes
from .layout_imp import imp_sizes
from .layout_lf_vila import lf_vila_sizes
from .layout_maskalign import maskalign_sizes
from .layout_uniformerv2 import UNIFORMERV2_TOWER
from .layout_vatt import vatt_sizes
from .layout_vlora import vlora_sizes
from .layouts import BERT, VIOLET

CODEBOOK = 8192
"""Visual tokens of DALL-E's discrete VAE: a `fc_mvm` with this many outputs predicts them, any other features."""
BASE, BASE_VISION = VioletConfig(), VioletVisionConfig()
HEAD_WIDTH = 64
"""BERT's. Weights do not tell the number of attention heads."""
FEW = 3
"""A block index that occurs in fewer keys is taken for a misnumbered key."""
PUBLISHED = {"max_position_embeddings": 512, "type_vocab_size": 2}
"""Of every VIOLET of BERT-base's size. Only one shape tells each, and it is held to these."""
PUBLISHED_TASK_TOKENS = 10


class Sizes:
    """Reads sizes from shapes, by their names in the table of `layouts`; `conflicts` says which shapes disagree."""

    def __init__(self, kind: Kind, shapes: Mapping[str, Shape]):
        self.kind = kind
        self.shapes = shapes
        self.conflicts: list[str] = []

    def vote(self, what: str, witnesses: Iterable[tuple[str, int]], default: int) -> int:
        """
        The size that most of the witnesses tell.

        Args:
            witnesses: our names, each with the axis counted from the end: -1 is the last.
            default: if nobody tells it.
        """
        told: dict[str, int] = {}
        for ours, axis in witnesses:
            name = self.kind.their_name(ours)
            if name is not None and len(self.shapes.get(name, ())) >= -axis:
                told[name] = self.shapes[name][axis]
        ranking = Counter(told.values()).most_common(2)
        if len(ranking) == 2 and ranking[0][1] == ranking[1][1]:
            said = ", ".join(f"{name!r} {size}" for name, size in told.items())
            self.conflicts.append(f"shapes disagree on {what}: {said}")
        return ranking[0][0] if ranking else default

    def proportion(
        self, witnesses: Iterable[tuple[int, str]], of: Callable[[int, int], float], default: float
    ) -> float:
        """What most of the blocks tell: `of` a block's width and the last side of a tensor of it, by our name."""
        told = Counter(
            of(width, shape[-1])
            for width, ours in witnesses
            if (shape := self.shapes.get(self.kind.their_name(ours) or "")) and shape[-1]
        )
        return told.most_common(1)[0][0] if told else default

    def count(self, start: str) -> int:
        """How many numbers, from 0 on, stand behind that beginning of their names."""
        found = Counter(name[len(start) :].partition(".")[0] for name in self.shapes if name.startswith(start))
        return max(
            (int(number) + 1 for number, keys in found.items() if keys >= FEW and number.isdecimal()), default=0
        )

    def vision(self) -> dict[str, Any]:
        """The fields of `VioletVisionConfig`."""
        kind, base = self.kind, BASE_VISION
        depths: list[int] = []
        while depth := self.count((kind.their_name(f"{BACKBONE}stages.{len(depths)}.blocks.0.") or "")[: -len("0.")]):
            depths.append(depth)
        if not depths:
            return {}
        names = [(i, f"{BACKBONE}stages.{i}.blocks.{j}.") for i, depth in enumerate(depths) for j in range(depth)]
        first = [f"{BACKBONE}patch_embed.{name}" for name in ("proj.bias", "norm.weight", "norm.bias")]
        first += [f"{name}{rest}" for i, name in names if not i for rest in ("norm1.weight", "norm1.bias")]
        width = self.vote("the width of the backbone", [(name, -1) for name in first], base.embed_dim)
        heads = [(width * 2**i, f"{name}attn.relative_position_bias_table") for i, name in names]
        head_width = self.proportion(heads, lambda dim, heads: dim / heads, 32)
        inner = [(width * 2**i, f"{name}mlp.0.bias") for i, name in names]
        sizes: dict[str, Any] = {
            "embed_dim": width,
            "depths": depths,
            "num_heads": [max(int(width * 2**i / head_width), 1) for i in range(len(depths))],
            "window_size": self.window([name for _, name in names], list(base.window_size)),
            "mlp_ratio": self.proportion(inner, lambda dim, inner: inner / dim, base.mlp_ratio),
            "qkv_bias": any(kind.their_name(f"{name}attn.qkv.bias") in self.shapes for _, name in names),
        }
        patches = self.shapes.get(kind.their_name(BACKBONE + "patch_embed.proj.weight") or "", ())
        if kind is not VIOLET and len(patches) in (4, 5):  # VIOLET's patches are all alike
            sizes |= {"num_channels": patches[1], "patch_size": patches[-1]}
            if len(patches) == 5:
                sizes["temporal_patch_size"] = patches[2]
        return sizes

    def window(self, blocks: list[str], default: list[int]) -> list[int]:
        """(frames, side, side) of the attention windows, from the tables' rows (2t - 1)(2s - 1)² and the indices."""
        tables = [(f"{name}attn.relative_position_bias_table", -2) for name in blocks]
        usual = (2 * default[0] - 1) * (2 * default[1] - 1) * (2 * default[2] - 1)
        rows = self.vote("the rows of the tables of relative positions", tables, usual)
        indices = [(f"{name}attn.relative_position_index", -1) for name in blocks]
        tokens = self.vote("the tokens in a window", indices, 0)
        if self.kind.of_pictures:
            side = (math.isqrt(rows) + 1) // 2
            return [default[0], side, side]
        fitting = [
            ((rows // square + 1) // 2, side)
            for side in range(1, 33)
            if rows % (square := (2 * side - 1) ** 2) == 0 and rows // square % 2
        ]
        told = [(frames, side) for frames, side in fitting if frames * side**2 == tokens]
        frames, side = max(
            told or fitting or [(default[0], default[1])], key=lambda window: (window[1] == 7, window[1])
        )
        return [frames, side, side]

    def text(self) -> dict[str, Any]:
        """The fields of `VioletConfig` for the text embeddings, the fusion and the masked-language head."""
        if self.kind.their_name(FUSION) is None:
            return {}
        layers = self.count(self.kind.start(FUSION))
        widths = [f"{TEXT}norm.weight", f"{TEXT}norm.bias"]
        widths += [f"{FUSION}{i}.{name}.bias" for i in range(layers) for name in ("output_norm", "attention.query")]
        width = self.vote("the width", [(name, -1) for name in widths], BASE.hidden_size)
        inner = [(f"{FUSION}{i}.intermediate.bias", -1) for i in range(layers)]
        words = [(f"{TEXT}word_embeddings.weight", -2), (f"{MLM}decoder.weight", -2)]
        words += [(f"{MLM}decoder.bias", -1), (f"{MLM}bias", -1)]
        sizes = {
            "hidden_size": width,
            "num_hidden_layers": layers or BASE.num_hidden_layers,
            "num_attention_heads": next(n for n in range(max(width // HEAD_WIDTH, 1), 0, -1) if width % n == 0),
            "intermediate_size": self.vote("the width inside the layers", inner, BASE.intermediate_size),
            "vocab_size": self.vote("the vocabulary", words, BASE.vocab_size),
        }
        if self.kind is VIOLET and (width, layers) == (BASE.hidden_size, BASE.num_hidden_layers):
            return sizes | PUBLISHED
        for name, part in (("max_position_embeddings", "position"), ("type_vocab_size", "token_type")):
            witness = [(f"{TEXT}{part}_embeddings.weight", -2)]
            sizes[name] = self.vote(f"`{name}`", witness, PUBLISHED[name])
        return sizes

    def original(self, strict: bool) -> tuple[str, dict[str, Any]]:
        """
        The named configuration of a VIOLET and the fields of `VioletConfig` but for the backbone's.

        Args:
            strict: whether what all published models of its sort have is taken to be there, also if it is missing.
        """
        kind, shapes = self.kind, self.shapes
        decoders = [name for name in ("pixel", "hog", "depth", "flow", "vq") if holds(shapes, f"decoder_{name}.")]
        fc_mtm, fc = (holds(shapes, kind.start(part)) for part in (MLM, "answer_head."))
        task = "emb_task" in shapes
        order = "enc_img.emb_odr" in shapes
        version_2 = order or task or holds(shapes, "enc_img.fc.")
        frames = shapes.get("enc_img.emb_len", ())
        places = shapes.get("enc_img.emb_pos", ())
        sizes: dict[str, Any] = {
            **self.text(),
            "num_video_frames": frames[1] if len(frames) == 4 else BASE.num_video_frames,
            "video_grid_size": math.isqrt(places[2] - 1)
            if len(places) == 4 and is_grid(places[2])
            else BASE.video_grid_size,
            "hidden_frame_order": version_2 if strict else order,
            "num_task_tokens": 0,
            "num_labels": 2,
        }
        # VIOLETv2's fine-tuned models with a masked-language head have no other head, and task tokens instead.
        patches = bool(decoders) or holds(shapes, "fc_mvm.")
        if task or (strict and version_2 and fc_mtm and not (fc or patches)):
            rows = shapes.get("emb_task", ())
            published = sizes["hidden_size"] == BASE.hidden_size or len(rows) != 2
            sizes["num_task_tokens"] = PUBLISHED_TASK_TOKENS if published else rows[0]
        if fc:
            last = [("answer_head.3.weight", -2), ("answer_head.3.bias", -1)]
            sizes["num_labels"] = self.vote("the outputs of `fc`", last, 2)
        targets: dict[str, dict[str, int]] = {"optical_flow" if name == "flow" else name: {} for name in decoders}
        if holds(shapes, "fc_mvm."):
            last = [("mvm_heads.vq.3.weight", -2), ("mvm_heads.vq.3.bias", -1)]
            channels = self.vote("the outputs of `fc_mvm`", last, CODEBOOK)
            name = "vq" if channels == CODEBOOK or "vq" in targets else "2d_feature"
            targets[name] = {"channels": channels}
            if "decoder_vq.0.bias" in shapes:
                inner = self.vote("the inputs of `fc_mvm`", [("mvm_heads.vq.1.weight", -1)], 1)
                targets[name]["per_cell"] = math.isqrt(max(shapes["decoder_vq.0.bias"][0] // max(inner, 1), 1))
        sizes["mvm_targets"] = targets or None
        return ("violet-v2-base" if version_2 else "violet-v1-base"), sizes

    def clip(self, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        The fields of `VioletConfig` but for the vision encoder's, and those of `ClipVipVisionConfig`.

        Args:
            settings: the config.json of a CLIP of transformers; else the weights are taken for one of OpenAI's sizes.
        """
        config: Any = AutoConfig.for_model(**settings) if settings else None
        sides = {part: getattr(config, part, config) for part in ("vision_config", "text_config")}
        vision, text = {}, {}
        if self.kind.part(f"{CLIP_TOWER}encoder.") is not None:
            vision = self.clip_tower(CLIP_TOWER, sides["vision_config"]) | self.clip_pictures()
        if self.kind.part(f"{CLIP_TEXT}encoder.") is not None:
            text = self.clip_tower(CLIP_TEXT, sides["text_config"]) | self.clip_words(sides["text_config"])
        tokens = text.get("vocab_size", CLIP_WORDS)
        fields: dict[str, Any] = {"text_config": {"model_type": "clip_text_model", **text}, "vocab_size": tokens}
        fields |= {"bos_token_id": tokens - 2, "eos_token_id": tokens - 1, "pad_token_id": tokens - 1}
        outputs = [("projection.video_projection.weight", -2), ("projection.text_projection.weight", -2)]
        return fields | {"projection_dim": self.vote("the width of the projections", outputs, CLIP_PROJECTION)}, vision

    def clip_tower(self, part: str, own: Any) -> dict[str, Any]:
        """What both towers have: sizes of their layers, and what only `own` tells, a configuration of transformers."""
        layers = f"{part}encoder.layers."
        count = self.count(self.kind.their_name(layers) or "")
        widths = [(f"{layers}{i}.{name}", -1) for i in range(count) for name in ("layer_norm1.weight", "mlp.fc2.bias")]
        inner = [(f"{layers}{i}.mlp.fc1.bias", -1) for i in range(count)]
        width = self.vote(f"the width of {part[:-1]!r}", widths, CLIP_WIDTHS[part])
        sizes = {
            "hidden_size": width,
            "intermediate_size": self.vote(f"the width inside the layers of {part[:-1]!r}", inner, 4 * width),
            # A missing last layer is told from a smaller model by what is published.
            "num_hidden_layers": CLIP_LAYERS[part].get(width, count) or 1,
            "num_attention_heads": max(width // HEAD_WIDTH, 1),
        }
        told = ("num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps")
        return sizes if own is None else sizes | {name: getattr(own, name) for name in told}

    def clip_pictures(self) -> dict[str, Any]:
        """The other fields of the vision tower."""
        at = f"{CLIP_TOWER}embeddings."

        def shape(name: str) -> Shape:
            return self.shapes.get(self.kind.their_name(at + name) or "", ())

        patches, places, times, proxies = map(
            shape, ("patch_embedding.weight", "position_embedding.weight", "temporal_embedding", "added_cls")
        )
        patch = patches[-1] if len(patches) == 4 else 16
        sizes: dict[str, Any] = {"patch_size": patch}
        if places and is_grid(places[0]):
            sizes["image_size"] = patch * math.isqrt(places[0] - 1)
        if len(times) == 3:
            sizes["temporal_size"] = times[1]
        if len(proxies) == 2:
            sizes["num_proxies"] = 1 + proxies[0]
        return sizes

    def clip_words(self, own: Any) -> dict[str, Any]:
        """The other fields of the text tower. The last word of the vocabulary is the end of a text."""
        at = f"{CLIP_TEXT}embeddings."
        words = self.vote("the vocabulary", [(f"{at}token_embedding.weight", -2)], CLIP_WORDS)
        places = self.vote("the places of words", [(f"{at}position_embedding.weight", -2)], CLIP_PLACES)
        tokens = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
        if own is not None:
            tokens = {name: getattr(own, name) for name in tokens}
        return {"vocab_size": words, "max_position_embeddings": places, **tokens}

    def uniformerv2(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        The fields of `VioletConfig` but for the vision encoder's, and those of `UniFormerV2Config`. Shapes do not tell
        the heads (the published models have one for 64 channels) nor which layers have global blocks (the last ones).
        """
        at = UNIFORMERV2_TOWER

        def shape(name: str) -> Shape:
            return self.shapes.get(self.kind.their_name(at + name) or "", ())

        layers = self.count(self.kind.their_name(f"{at}layers.") or "") or 12
        blocks = [f"{at}layers.{i}." for i in range(layers)]
        witnesses = [(f"{block}{name}", -1) for block in blocks for name in ("mlp.norm.weight", "mlp.fc2.bias")]
        width = self.vote("the width", witnesses, 768)
        inner = self.vote("the width of the MLPs", [(f"{block}mlp.fc1.bias", -1) for block in blocks], 4 * width)
        vision: dict[str, Any] = {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": max(width // HEAD_WIDTH, 1),
            "mlp_ratio": max(inner // width, 1),
        }
        patches, places = shape("embeddings.patch_embedding.weight"), shape("embeddings.position_embedding")
        patch = patches[-1] if len(patches) in (4, 5) else 16
        vision |= {"patch_size": patch, "temporal_downsampling": len(patches) == 5 and patches[2] == 3}
        if len(places) == 2 and is_grid(places[0]):
            vision["image_size"] = patch * math.isqrt(places[0] - 1)
        local = [name for name in (1, 2) if any(shape(f"layers.{i}.local_{name}.reduce.bias") for i in range(layers))]
        vision["local_blocks"] = max(local, default=0)
        reduced = [(f"{block}local_{name}.reduce.bias", -1) for block in blocks for name in local]
        usual = int(width / 1.5)
        told = self.vote("the inner width of the local blocks", reduced, usual)
        vision["local_reduction"] = 1.5 if told == usual else width / (told + 0.5)  # int() cuts it to what is told
        count = self.count(self.kind.their_name(f"{at}global_blocks.") or "")
        vision["global_layers"] = list(range(layers - min(count or 4, layers), layers))
        if self.kind.their_name(f"{at}balance") is not None and not shape("balance"):
            vision |= {"frozen": True, "balance": False, "local_norm": "frozen"}
        last = [("classifier.2.weight", -2), ("classifier.2.bias", -1)]
        return {"num_labels": self.vote("the classes", last, 2)}, vision


CLIP_WORDS, CLIP_PLACES, CLIP_PROJECTION = 49408, 77, 512
CLIP_WIDTHS = {CLIP_TOWER: 768, CLIP_TEXT: 512}
CLIP_LAYERS = {CLIP_TOWER: {768: 12, 1024: 24}, CLIP_TEXT: {512: 12, 768: 12}}
"""Layers of OpenAI's CLIPs, by their widths."""


def _violet_sizes(sizes: Sizes, strict: bool, settings: Mapping[str, Any]) -> tuple[str, dict, dict]:
    kind = sizes.kind
    name, fields = sizes.original(strict) if kind is VIOLET else ("violet-v2-base", sizes.text())
    return name, fields, sizes.vision() if kind is not BERT else {}


def _clip_vip_sizes(sizes: Sizes, strict: bool, settings: Mapping[str, Any]) -> tuple[str, dict, dict]:
    return "clip-vip-base-16", *sizes.clip(settings)


def _uniformerv2_sizes(sizes: Sizes, strict: bool, settings: Mapping[str, Any]) -> tuple[str, dict, dict]:
    return "uniformerv2-base-16-scene", *sizes.uniformerv2()


def _lf_vila_sizes(sizes: Sizes, strict: bool, settings: Mapping[str, Any]) -> tuple[str, dict, dict]:
    return "lf-vila-base", *lf_vila_sizes(sizes.shapes)


def _hd_vila_sizes(sizes: Sizes, strict: bool, settings: Mapping[str, Any]) -> tuple[str, dict, dict]:
    return "hd-vila-base", *hd_vila_sizes(sizes.shapes)


def _vatt_sizes(sizes: Sizes, strict: bool, settings: Mapping[str, Any]) -> tuple[str, dict, dict]:
    return "vatt-medium", *vatt_sizes(sizes.shapes)


def _imp_sizes(sizes: Sizes, strict: bool, settings: Mapping[str, Any]) -> tuple[str, dict, dict]:
    return "imp-base", *imp_sizes(sizes.shapes)


def _maskalign_sizes(sizes: Sizes, strict: bool, settings: Mapping[str, Any]) -> tuple[str, dict, dict]:
    return "maskalign-base-16", *maskalign_sizes(sizes.shapes)


def _coca_sizes(sizes: Sizes, strict: bool, settings: Mapping[str, Any]) -> tuple[str, dict, dict]:
    return "coca-vit-base-32", *coca_sizes(sizes.shapes)


def _vlora_sizes(sizes: Sizes, strict: bool, settings: Mapping[str, Any]) -> tuple[str, dict, dict]:
    return "vlora-vicuna-7b", *vlora_sizes(sizes.shapes, settings)


SYSTEMS: Mapping[str, Callable[[Sizes, bool, Mapping[str, Any]], tuple[str, dict, dict]]] = {
    "violet_vision": _violet_sizes,
    "clip_vip": _clip_vip_sizes,
    "uniformerv2": _uniformerv2_sizes,
    "lf_vila": _lf_vila_sizes,
    "hd_vila": _hd_vila_sizes,
    "vatt": _vatt_sizes,
    "imp": _imp_sizes,
    "maskalign_vit": _maskalign_sizes,
    "coca_vit": _coca_sizes,
    "clip_vision_model": _vlora_sizes,
}
"""
By `Kind.system`: (sizes, see `Sizes.original`, the config.json beside the weights) -> the named configuration, the
fields of `VioletConfig` that differ from it, and those of its vision encoder.
"""


def infer_configuration(
    kind: Kind, shapes: Mapping[str, Shape], strict: bool = True, settings: Mapping[str, Any] | None = None
) -> tuple[str, list[str]]:
    """
    The configuration that the shapes tell, as JSON; and which shapes disagree, in words.

    Args:
        shapes: by the kind's names.
        strict: see `Sizes.original`.
        settings: the `config.json` beside the weights, for what shapes do not tell.
    """
    sizes = Sizes(kind, shapes)
    name, fields, vision = SYSTEMS[kind.system](sizes, strict, settings or {})
    return _configured(name, json.dumps(fields), json.dumps(vision)), sizes.conflicts


@lru_cache(maxsize=64)
def _configured(name: str, fields: str, vision: str) -> str:
    base = named_configuration(name).to_dict()["vision_config"]
    config = named_configuration(name, vision_config={**base, **json.loads(vision)}, **json.loads(fields))
    return config.to_json_string(use_diff=False)

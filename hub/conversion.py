"""The one door for the original VIOLET's weights: names, shapes, and a report of what became of every key."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..configuration import VioletConfig, named_configuration
from ..modeling_violet import (
    VioletForMaskedLM,
    VioletForMultipleChoice,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletForRetrieval,
    VioletModel,
    VioletPreTrainedModel,
)

# Original name -> name in our classes, applied in this order. The base model's part is without its prefix `violet.`.
RENAMES = [
    (r"^enc_img\.emb_cls$", "video_encoder.frame_token"),
    (r"^enc_img\.emb_pos$", "video_encoder.position_embeddings"),
    (r"^enc_img\.emb_len$", "video_encoder.frame_embeddings"),
    (r"^enc_img\.emb_odr$", "video_encoder.hidden_order_embedding"),
    (r"^enc_img\.fc\.", "video_encoder.projection."),
    (r"^enc_img\.norm\.", "video_encoder.norm."),
    (r"^enc_img\.swin\.layers\.", "video_encoder.swin.stages."),
    (r"^enc_img\.swin\.", "video_encoder.swin."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"^enc_txt\.emb_txt\.LayerNorm\.", "text_embeddings.norm."),
    (r"^enc_txt\.emb_txt\.(\w+)\.", r"text_embeddings.\1."),
    (r"^emb_task$", "task_tokens"),
    (r"^trsfr\.layer\.", "fusion.layers."),
    (r"\.attention\.self\.", ".attention."),
    (r"\.attention\.output\.dense\.", ".attention.output."),
    (r"\.attention\.output\.LayerNorm\.", ".attention_norm."),
    (r"\.intermediate\.dense\.", ".intermediate."),
    (r"(layers\.\d+)\.output\.dense\.", r"\1.output."),
    (r"(layers\.\d+)\.output\.LayerNorm\.", r"\1.output_norm."),
    (r"^fc\.(\d+)\.", r"answer_head.\1."),
    (r"^fc_mtm\.predictions\.transform\.LayerNorm\.", "mlm_head.norm."),
    (r"^fc_mtm\.predictions\.transform\.dense\.", "mlm_head.dense."),
    (r"^fc_mtm\.predictions\.decoder\.", "mlm_head.decoder."),
    (r"^decoder_flow\.0\.", "mvm_heads.optical_flow.projection."),
    (r"^decoder_(pixel|hog|depth)\.0\.", r"mvm_heads.\1.projection."),
]

DERIVED = [
    (r"\.relative_position_index$", "computed from the window size"),
    (r"^fc_mtm\.predictions\.bias$", "a copy of predictions.decoder.bias, which is the one in use"),
    (r"\.position_ids$", "computed"),
]

HEADS = ("answer_head.", "match_head.", "mlm_head.", "mvm_heads.", "fc_mvm.")
MATCHERS = (VioletForPreTraining, VioletForMultipleChoice, VioletForRetrieval)
"""Classes in which `fc`, the original's one head at [CLS], scores whether a text fits; elsewhere it answers."""
CODEBOOK = 8192
"""Visual tokens of DALL-E's discrete VAE: a `fc_mvm` of so many outputs predicts them, any other one features."""


@dataclass
class ConversionReport:
    """
    What became of every key.

    Attributes:
        used: source key -> target key.
        skipped: source key -> why it is not needed.
        loaded: target keys that were filled.
        new: target keys that the source does not hold; they are freshly initialised.
    """

    used: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


def read_original(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """A state dict from a `.pt` or `.safetensors` file; a pickle with anything but tensors in it is refused unread."""
    path = os.fspath(path)
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def rename_original(state_dict: Mapping[str, torch.Tensor]) -> tuple[dict[str, str], dict[str, str]]:
    """(source key -> our name without the base model's prefix, source key -> why it is derived and not needed)."""
    renamed, derived = {}, {}
    for key in state_dict:
        reason = next((why for pattern, why in DERIVED if re.search(pattern, key)), None)
        if reason is not None:
            derived[key] = reason
            continue
        name = key
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[key] = name
    return renamed, derived


def infer_configuration(state_dict: Mapping[str, torch.Tensor]) -> VioletConfig:
    """The configuration that the original's shapes tell."""

    def size(key: str, axis: int) -> int:
        if key not in state_dict:
            raise KeyError(f"The original weights lack {key!r}: this is not a whole VIOLET checkpoint.")
        return state_dict[key].shape[axis]

    def count(pattern: str) -> int:
        found = [int(match.group(1)) for key in state_dict if (match := re.match(pattern, key))]
        return max(found, default=-1) + 1

    stages = count(r"enc_img\.swin\.layers\.(\d+)\.")
    heads = [size(f"enc_img.swin.layers.{i}.blocks.0.attn.relative_position_bias_table", 1) for i in range(stages)]
    version_2 = "enc_img.emb_odr" in state_dict
    width = size("enc_txt.emb_txt.word_embeddings.weight", 1)
    return named_configuration(
        "violet-v2-base" if version_2 else "violet-v1-base",
        vision_config={
            "embed_dim": size("enc_img.swin.patch_embed.proj.weight", 0),
            "depths": [count(rf"enc_img\.swin\.layers\.{i}\.blocks\.(\d+)\.") for i in range(stages)],
            "num_heads": heads,
        },
        vocab_size=size("enc_txt.emb_txt.word_embeddings.weight", 0),
        max_position_embeddings=size("enc_txt.emb_txt.position_embeddings.weight", 0),
        type_vocab_size=size("enc_txt.emb_txt.token_type_embeddings.weight", 0),
        hidden_size=width,
        num_hidden_layers=count(r"trsfr\.layer\.(\d+)\."),
        num_attention_heads=width // 64,
        intermediate_size=size("trsfr.layer.0.intermediate.dense.weight", 0),
        num_video_frames=size("enc_img.emb_len", 1),
        video_grid_size=round((size("enc_img.emb_pos", 2) - 1) ** 0.5),
        num_task_tokens=size("emb_task", 0) if "emb_task" in state_dict else 0,
        num_labels=size("fc.3.weight", 0) if "fc.3.weight" in state_dict else 2,
        mvm_targets=infer_mvm_targets(state_dict),
    )


def infer_mvm_targets(state_dict: Mapping[str, torch.Tensor]) -> dict[str, dict[str, int]] | None:
    """What the weights' heads for masked patches predict. Features do not tell their teacher: Swin is assumed."""
    targets: dict[str, dict[str, int]] = {}
    if "fc_mvm.3.weight" in state_dict:
        channels = state_dict["fc_mvm.3.weight"].shape[0]
        targets["vq" if channels == CODEBOOK else "2d_feature"] = {"channels": channels}
    for name in ("pixel", "hog", "depth", "flow"):
        if f"decoder_{name}.0.weight" in state_dict:
            targets["optical_flow" if name == "flow" else name] = {}
    return targets or None


def infer_class(state_dict: Mapping[str, torch.Tensor]) -> type[VioletPreTrainedModel]:
    """The class whose heads the weights hold: pre-training's where there is a match head beside masked words."""
    if "fc_mtm.predictions.decoder.weight" in state_dict:
        matches = "fc.3.weight" in state_dict and state_dict["fc.3.weight"].shape[0] == 1
        return VioletForPreTraining if matches else VioletForMaskedLM
    return VioletForQuestionAnswering if "fc.3.weight" in state_dict else VioletModel


def from_original(
    state_dict_or_path: Mapping[str, torch.Tensor] | str | os.PathLike,
    model_class: type[VioletPreTrainedModel] | None = None,
    config: VioletConfig | None = None,
) -> tuple[VioletPreTrainedModel, ConversionReport]:
    """
    A VIOLET model from the original code's weights.

    Args:
        state_dict_or_path: the original's state dict or file: safetensors, or `.pt` (read with `weights_only=True`).
        model_class: what to build; by default the class whose head the weights hold.
        config: by default what the shapes tell.

    Returns:
        The model in evaluation mode, and the report of every source and target key.

    Raises:
        KeyError: where a source key is unknown, or the base model's part is incomplete.
        ValueError: where a shape disagrees with the configuration.
    """
    source = state_dict_or_path if isinstance(state_dict_or_path, Mapping) else read_original(state_dict_or_path)
    config = infer_configuration(source) if config is None else config
    model_class = infer_class(source) if model_class is None else model_class
    model = model_class(config)
    target = model.state_dict()
    prefix = "" if type(model) is VioletModel else model.base_model_prefix + "."

    report = ConversionReport()
    renamed, report.skipped = rename_original(source)
    tensors = {}
    for key, name in renamed.items():
        if issubclass(model_class, MATCHERS):
            name = re.sub(r"^answer_head\.", "match_head.", name)
        if issubclass(model_class, VioletForPreTraining):
            for target_name in ("vq", "2d_feature"):
                if target_name in (config.mvm_targets or {}):
                    name = re.sub(r"^fc_mvm\.", f"mvm_heads.{target_name}.", name)
        name = name if name.startswith(HEADS) else prefix + name
        if name in target:
            value = source[key].reshape(target[name].shape) if _only_ones_differ(source[key], target[name]) else None
            if value is None:
                raise ValueError(
                    f"{key!r} has shape {tuple(source[key].shape)}; {name!r} needs {tuple(target[name].shape)}."
                )
            tensors[name] = value
            report.used[key] = name
        elif name.startswith(HEADS):
            report.skipped[key] = f"{type(model).__name__} has no such head"
        else:
            raise KeyError(f"{key!r} is not a key of VIOLET (it would become {name!r}).")
    report.loaded = sorted(tensors)
    report.new = sorted(set(target) - set(tensors))
    missing = [name for name in report.new if not name.startswith(HEADS)]
    if missing:
        raise KeyError(f"The original weights lack {len(missing)} keys of the model, {missing[0]!r} the first.")
    model.load_state_dict(tensors, strict=False)
    return model.eval(), report


def _only_ones_differ(source: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether two shapes are the same but for sides of length 1: the original keeps its embeddings in 4 dimensions."""
    return [side for side in source.shape if side != 1] == [side for side in target.shape if side != 1]

"""New models that start from public weights: `build_model` and the processor that goes with one, `build_processor`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, AutoVideoProcessor, PreTrainedConfig

from ..configuration import VioletConfig, named_configuration
from ..modeling_violet import VioletForPreTraining, VioletModel, VioletPreTrainedModel
from ..modeling_violet.encoders import Encoder, find_encoder
from ..processing import VideoTextProcessor, VioletVideoProcessor
from .conversion import (
    ConversionReport,
    build,
    check_settings,
    convert_tensors,
    quietly,
    shapes_of,
)
from .layouts import BACKBONE, FUSION, MLM, TEXT
from .planning import ConversionError, plan_conversion
from .weight_files import WeightsError, first_line, read_weights

Source = Mapping[str, Any] | str | os.PathLike

PARTS = {"vision": (BACKBONE,), "text": (TEXT, FUSION, MLM)}
"""What is taken of each source; the masked-language head only if the model has one."""
CONVERTED = ("swin", "violet", "violet_vision")
"""Model types whose weights become those of a Video Swin, key by key; a model of another type is taken as it is."""
FRAMES_OF_PICTURE_MODELS = 8


def build_model(
    configuration: str | VioletConfig,
    vision: Source | None = None,
    text: Source | None = None,
    model_class: type[VioletPreTrainedModel] = VioletForPreTraining,
) -> Any:
    """
    A model to be trained, initialised from public weights. The rest is freshly initialised.

    Args:
        configuration: the name of one, or one.
        vision: weights for the vision encoder: of a Video Swin, or of a Swin for pictures, which is inflated in time
            (a state dict, a file, a folder or a name on the Hub, of any kind that `from_original` reads); or the
            folder or name of another model of pictures or videos of transformers (CLIP, SigLIP, DINOv2, ViT,
            VideoMAE, V-JEPA 2, TimeSformer, …), which then is the encoder in place of the configuration's.
        text: weights of a BERT, for the text embeddings, the fusion (its first layers, as many as there are) and the
            masked-language head, of any kind that `from_original` reads.
        model_class: what to build.

    Returns:
        The model, in evaluation mode. Its `conversion_report` maps `"vision"` and `"text"` to their
        `ConversionReport`s.

    Raises:
        ValueError: for an unknown configuration.
        WeightsError: for weights that cannot be read or do not fit the configuration, naming file and key.
    """
    config = named_configuration(configuration) if isinstance(configuration, str) else configuration
    tensors: dict[str, torch.Tensor] = {}
    reports: dict[str, ConversionReport] = {}
    encoder = vision_configuration(vision)
    if encoder is not None:
        config = with_encoder(config, encoder)
        tensors, reports["vision"] = _encoder_weights(vision, config, model_class)
    for role, source in (("vision", None if encoder is not None else vision), ("text", text)):
        if source is None:
            continue
        weights = read_weights(source)
        try:
            plan = plan_conversion(shapes_of(weights), model_class, config)
        except ConversionError as error:
            raise ConversionError(f"`{role}` ({weights.origin}): {error}") from None
        check_settings(plan, weights)
        found, reports[role] = convert_tensors(plan, weights, PARTS[role])
        if not found:
            raise ConversionError(f"`{role}` ({weights.origin}): {plan.kind.name} holds nothing for it.")
        tensors |= found
    model = build(model_class, config, tensors)
    model.conversion_report = reports
    return model


def vision_configuration(vision: Source | None) -> PreTrainedConfig | None:
    """
    The configuration of a model of transformers that can be a vision encoder as it is: a model's own, or its vision
    part's. None for weights that are converted.
    """
    if not isinstance(vision, str | os.PathLike) or Path(vision).is_file():
        return None
    if Path(vision).is_dir() and not (Path(vision) / "config.json").is_file():
        return None
    try:
        config = AutoConfig.from_pretrained(vision)
    except (OSError, ValueError) as error:
        raise WeightsError(f"`vision` ({vision}): {first_line(error)}") from error
    config = getattr(config, "vision_config", config)
    return None if config.model_type in CONVERTED else config


def with_encoder(config: VioletConfig, vision: PreTrainedConfig) -> VioletConfig:
    """The configuration with another vision encoder, and learned places for as many steps and cells as it has."""
    encoder = find_encoder(vision)
    frames, side = own_clip(encoder, config.num_video_frames)
    steps, rows, _ = encoder.grid(frames, side, side)
    changed = {"vision_config": vision.to_dict(), "num_video_frames": steps, "video_grid_size": rows}
    return VioletConfig(**{**config.to_dict(), **changed})


def own_clip(encoder: Encoder, num_frames: int) -> tuple[int, int]:
    """(frames, pixels of a side) of the clips that a model was made for; `num_frames` for one of pictures."""
    config = encoder.config
    side = config.crop_size if hasattr(config, "crop_size") else config.image_size
    frames = getattr(config, "frames_per_clip", getattr(config, "num_frames", num_frames))
    return frames, side if isinstance(side, int) else side[0]


def _encoder_weights(
    vision: Any, config: VioletConfig, model_class: type[VioletPreTrainedModel]
) -> tuple[dict[str, torch.Tensor], ConversionReport]:
    """The weights of a model of transformers, by their names in ours."""
    encoder = find_encoder(config.vision_config)
    unused = set(encoder.unused)
    with quietly():
        try:
            model, loading = AutoModel.from_pretrained(
                vision, config=config.vision_config, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise WeightsError(f"`vision` ({vision}): {first_line(error)}") from error
    weights = {name: value for name, value in model.state_dict().items() if not set(name.split(".")) & unused}
    missing = sorted(loading["missing_keys"] & weights.keys())
    if missing:
        raise ConversionError(
            f"`vision` ({vision}): the weights of {type(model).__name__} lack {missing[0]} ({len(missing)} in all)."
        )
    prefix = f"{'' if model_class is VioletModel else 'violet.'}video_encoder.{encoder.key}."
    report = ConversionReport(str(vision), type(model).__name__, model_class.__name__)
    report.used = {name: prefix + name for name in weights}
    report.loaded = {target: name for name, target in report.used.items()}
    report.skipped = dict.fromkeys(sorted(loading["unexpected_keys"]), "no part of the vision model")
    report.skipped |= dict.fromkeys(sorted(model.state_dict().keys() - weights.keys()), "not read")
    return {prefix + name: value for name, value in weights.items()}, report


def build_processor(
    vision: str | os.PathLike, text: str | os.PathLike, num_frames: int | None = None
) -> VideoTextProcessor:
    """
    The processor of a model that `build_model` starts from these two: the text model's tokenizer, and frames as the
    vision model takes them: its mean, standard deviation, size and resampling. A frame is padded to its shape.

    Args:
        vision, text: folders or names on the Hub.
        num_frames: frames of a clip; by default a video model's own number, and 8 for a model of pictures.

    Raises:
        WeightsError: for a source without the settings of its pictures, or without a tokenizer.
    """
    config = vision_configuration(vision)
    if config is None:
        raise WeightsError(f"`vision` ({vision}) is no model of transformers that says how it takes its pictures.")
    frames, side = own_clip(find_encoder(config), FRAMES_OF_PICTURE_MODELS)
    try:
        settings = _picture_settings(vision)
    except (OSError, ValueError) as error:
        raise WeightsError(f"`vision` ({vision}): no settings of its pictures: {first_line(error)}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(text)
    except (OSError, ValueError) as error:
        raise WeightsError(f"`text` ({text}): no tokenizer: {first_line(error)}") from error
    size = {"height": side, "width": side}
    return VideoTextProcessor(tokenizer, VioletVideoProcessor(num_frames=num_frames or frames, size=size, **settings))


def _picture_settings(vision: str | os.PathLike) -> dict[str, Any]:
    """What of a model's own processor is taken: how colours are normalised, and how pictures are resized."""
    try:
        processor: Any = AutoVideoProcessor.from_pretrained(vision)
    except (OSError, ValueError):
        processor = AutoImageProcessor.from_pretrained(vision)
    names = ("image_mean", "image_std", "rescale_factor", "resample")
    return {name: getattr(processor, name) for name in names if getattr(processor, name, None) is not None}

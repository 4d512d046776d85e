"""Models of pictures and videos of transformers as starting points: what they are, and which clips they take."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoImageProcessor, AutoVideoProcessor, PreTrainedConfig

from ..modeling_violet.encoders import Encoder, find_encoder
from ..modeling_violet.encoders.whole_clip import WholeClip
from .weight_files import WeightsError, first_line

CONVERTED = ("swin", "violet", "violet_vision")
"""Model types whose weights become those of a Video Swin, key by key; a model of another type is taken as it is."""
STARTS: Mapping[str, tuple[str, ...]] = dict.fromkeys(("clip", "clip_vision_model"), ("clip_vip", "uniformerv2"))
"""
Model types of transformers whose weights become those of encoders of ours, key by key, if the configuration asks for
one of these (their model types); else a model of such a type is taken as it is.
"""
FRAMES_OF_PICTURE_MODELS = 8


def model_type(source: str | os.PathLike) -> str:
    """
    The model type that the configuration of a folder or of a name on the Hub names; "" where it names none.

    Raises:
        WeightsError: if there is no configuration.
    """
    try:
        settings, _ = PreTrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{source}: no model ({first_line(error)}); a folder or a name on the Hub.") from error
    if not settings:  # what transformers makes of a folder or repository without a config.json
        raise WeightsError(f"{source}: no model, for there is no config.json.")
    return str(settings.get("model_type", ""))


def vision_configuration(
    vision: Mapping[str, Any] | str | os.PathLike | None, ours: PreTrainedConfig | None = None
) -> PreTrainedConfig | None:
    """
    The configuration of a model of transformers that can be a vision encoder as it is: a model's own, or its vision
    part's. None for weights that are converted.

    Args:
        ours: that of the encoder which the model is to have; see `STARTS`.
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
    if ours is not None and ours.model_type in STARTS.get(config.model_type, ()):
        return None
    return None if config.model_type in CONVERTED else config


def vision_model_type(settings: Mapping[str, Any]) -> str | None:
    """The model type of the content of a config.json, if it can be a vision encoder as it is; else None."""
    settings = settings.get("vision_config") or settings
    kind = settings.get("model_type")
    if kind is None or kind in CONVERTED or kind not in CONFIG_MAPPING:
        return None
    try:
        find_encoder(AutoConfig.for_model(**settings))
    except ValueError:
        return None
    return str(kind)


def encoder_of(vision: str | os.PathLike, config: PreTrainedConfig) -> Encoder:
    """
    How a model is used as the encoder.

    Raises:
        WeightsError: for a model that is no vision encoder.
    """
    try:
        return find_encoder(config)
    except ValueError as error:
        raise WeightsError(f"`vision` ({vision}): {error}") from error


def own_clip(encoder: Encoder, num_frames: int) -> tuple[int, int]:
    """(frames, pixels of a side) of the clips that a model was made for; `num_frames` for one of pictures."""
    if isinstance(encoder, WholeClip):
        return encoder.num_frames, encoder.size[0]
    side = encoder.config.image_size
    return num_frames, side if isinstance(side, int) else side[0]


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) in pixels; one number is a square's."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def check_clip(encoder: Encoder, num_frames: int, size: int | Sequence[int]) -> tuple[int, int, int]:
    """
    The encoder's grid (steps, rows, columns) for clips of that many frames of that size.

    Raises:
        WeightsError: for clips that it cannot take, with what it can.
    """
    try:
        return encoder.grid(num_frames, *sides(size))
    except ValueError as error:
        raise WeightsError(str(error)) from error


def picture_settings(vision: str | os.PathLike) -> tuple[dict[str, Any], int | None]:
    """
    What of a model's own processor is taken: how colours are normalised and pictures resized; and the side of its
    pictures in pixels, None if it does not say.

    Raises:
        WeightsError: if there is no processor.
    """
    try:
        processor: Any = AutoVideoProcessor.from_pretrained(vision)
    except (OSError, ValueError):
        try:
            processor = AutoImageProcessor.from_pretrained(vision)
        except (OSError, ValueError) as error:
            raise WeightsError(f"`vision` ({vision}): no settings of its pictures: {first_line(error)}") from error
    names = ("image_mean", "image_std", "rescale_factor", "resample")
    settings = {name: getattr(processor, name) for name in names if getattr(processor, name, None) is not None}
    cropped = getattr(processor, "do_center_crop", False)
    size = dict(getattr(processor, "crop_size" if cropped else "size", None) or {})
    return settings, size.get("height", size.get("shortest_edge"))

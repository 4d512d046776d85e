"""
Runs that start from public parts: a model of pictures or videos of transformers, and a BERT or a language model for
the words.
"""

from collections.abc import Sequence
from typing import Any

from ..configuration import NAMED_CONFIGURATIONS, VioletConfig
from ..hub import WeightsError, build_model, build_processor
from ..hub.language_models import language_configuration, with_language_model
from ..hub.starting_points import build_frames, configuration_for, with_places
from ..hub.vision_models import CONVERTED, STARTS, model_type, sides, vision_configuration
from ..modeling_violet import VioletPreTrainedModel
from ..processing import VideoTextProcessor
from .arguments import SettingsError

TEXT = "bert-base-uncased"
SYSTEMS = {"clip-vip": "clip_vip", "uniformerv2": "uniformerv2"}
"""What `--as` names -> the `model_type` of that system's encoder."""


def check_system(model: str, system: str) -> None:
    """
    Raises:
        SettingsError: for an unknown system, or a model that does not become one.
    """
    if system not in SYSTEMS:
        raise SettingsError(f"--as: no system is named {system!r}; use {', '.join(SYSTEMS)}.")
    kind = None if model in NAMED_CONFIGURATIONS else model_type(model)
    if kind is None or SYSTEMS[system] not in STARTS.get(kind, ()):
        known = ", ".join(one for one, becomes in STARTS.items() if SYSTEMS[system] in becomes)
        told = "a configuration" if kind is None else f"a {kind!r}"
        raise SettingsError(
            f"--as {system}: --model {model} is {told}, which does not become one; a model of transformers of type "
            f"{known} is needed. If it is a {system} already, leave --as out."
        )


def starts_from_parts(model: str) -> bool:
    """
    Whether `model` is no VIOLET, but a model of transformers that becomes the vision encoder of a new one.

    Args:
        model: a folder, a name on the Hub, or a named configuration.

    Raises:
        SettingsError: if there is no such model, or its weights must be converted first.
    """
    if model in NAMED_CONFIGURATIONS:
        return False
    try:
        kind = model_type(model)
    except WeightsError as error:
        raise SettingsError(f"`model`: {error}") from error
    if kind == VioletConfig.model_type:
        return False
    if kind in CONVERTED:
        raise SettingsError(
            f"`model`: {model} is a {kind!r}, whose weights become those of a Video Swin: save what "
            f'`violet.build_model("violet-v2-base", vision="{model}", text="{TEXT}")` gives, with a processor, and '
            "name that folder."
        )
    return True


def processor_from_parts(
    model: str, text: str, num_frames: int | None = None, image_size: int | Sequence[int] | None = None
) -> VideoTextProcessor:
    """
    The processor of a run that starts from these parts; see `hub.build_processor`.

    Raises:
        WeightsError: if a part is missing or of another kind, or the encoder cannot take such clips.
    """
    config = configuration_for(text)
    if language_configuration(text) is not None:
        frames = build_frames(model, num_frames, image_size)
        size = frames.size["height"], frames.size["width"]
        encoder = vision_configuration(model)
        config = with_places(config, model, encoder, frames.num_frames, size)
        config = with_language_model(config, text, sides(config.video_grid_size))
    return build_processor(model, text, num_frames, image_size, config)


def model_from_parts(
    model: str,
    text: str,
    config: VioletConfig,
    model_class: type[VioletPreTrainedModel],
    processor: VideoTextProcessor,
    kernel: str | None,
) -> Any:
    """The model that starts from these parts, with learned places for the processor's clips."""
    frames = processor.video_processor
    size = frames.size["height"], frames.size["width"]
    return build_model(
        config,
        model,
        text,
        model_class,
        num_frames=frames.num_frames,
        image_size=size,
        attn_implementation=kernel,
    )

"""The inputs of clips among named arguments: `pixel_values_videos`, others that an encoder names, sound, boxes."""

from collections.abc import MutableMapping
from typing import Any

import torch

PIXELS = "pixel_values"
"""How the names begin of what a vision encoder takes."""
SOUND = "audio_"
"""How the names begin of what an audio encoder takes: `audio_values`, `audio_attention_mask`."""
BOXES = "box"
"""How the names begin of what says which part of a video is meant: `boxes`, `box_mask`."""


def take_clip_inputs(
    arguments: MutableMapping[str, Any], videos: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """
    The inputs of clips (pixels, sound and boxes) among a call's arguments, by name, and out of them; the pixels first.

    Args:
        arguments: the call's `kwargs`, or a batch.
        videos: `pixel_values_videos`, if it is an argument of its own.
    """
    taken: dict[str, torch.Tensor] = {}
    for start in (PIXELS, SOUND, BOXES):
        taken |= take_named(arguments, start)
    given = {"pixel_values_videos": videos} | taken if videos is not None else taken
    return {name: values for name, values in given.items() if values is not None}


def take_named(arguments: MutableMapping[str, Any], start: str) -> dict[str, Any]:
    """The arguments whose names begin so, by name, and out of them."""
    return {name: arguments.pop(name) for name in list(arguments) if name.startswith(start)}

"""The pixels of videos among named arguments: `pixel_values_videos`, and others that a vision encoder names."""

from collections.abc import MutableMapping
from typing import Any

import torch

PIXELS = "pixel_values"
"""How the names begin of what a vision encoder takes."""


def take_pixels(arguments: MutableMapping[str, Any], videos: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """
    The pixels of videos among a call's arguments, by name, and out of them.

    Args:
        arguments: the call's `kwargs`, or a batch.
        videos: `pixel_values_videos`, if it is an argument of its own.
    """
    taken = {name: arguments.pop(name) for name in list(arguments) if name.startswith(PIXELS)}
    given = {"pixel_values_videos": videos} | taken if videos is not None else taken
    return {name: pixels for name, pixels in given.items() if pixels is not None}

"""What a number was made from, in figures that change with it: weights, rows, software."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "transformers", "tokenizers", "datasets", "numpy", "av", "pycocoevalcap")


def weights_hash(model: torch.nn.Module) -> str:
    """The sha256 of a model's weights and buffers, by name, in hexadecimal: of what it computes with."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def settings_hash(settings: Mapping[str, Any]) -> str:
    """The sha256 of settings in JSON's types, in hexadecimal."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def software_versions() -> dict[str, str]:
    """The versions of Python, this package and what it computes with, as far as they are installed."""
    from .._version import __version__

    versions = {"violet": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions

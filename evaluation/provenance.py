"""The provenance of a result: hashes of weights and rows, versions of the software."""

import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data import rows_digest

if TYPE_CHECKING:
    from datasets import Dataset

METRICS_FILE = "metrics.json"
"""In a model's folder: its metrics by name; beside them `settings`, what decided the run, and `provenance`."""
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
    """The versions of Python, this package and the installed ones among what it computes with."""
    from .._version import __version__

    versions = {"violet": __version__, "python": platform.python_version()}
    if commit := source_commit():
        versions["violet commit"] = commit
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def source_commit() -> str | None:
    """
    The git commit of this package's code, with "-dirty" behind it if files differ from it; None if the code is
    no checkout.
    """
    root = Path(__file__).resolve().parents[1]

    def git(*command: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:  # installed somewhere inside another's
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None


def run_provenance(tables: "Mapping[str, Dataset]", **more: Any) -> dict[str, Any]:
    """
    What `metrics.json` holds under `provenance`: of each split the number of rows and their sha256 (wherever their
    videos are), the software, and the entries of `more` that are not None.
    """
    splits = {name: {"rows": len(rows), "sha256": rows_digest(rows, folders=False)} for name, rows in tables.items()}
    known = {name: value for name, value in more.items() if value is not None}
    return {"splits": splits, "software": software_versions(), **known}

"""The weights that come with the package."""

import os
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "pretrained"


def pretrained_names() -> list[str]:
    """What `pretrained` knows."""
    return (
        sorted(path.name for path in FOLDER.iterdir() if (path / "config.json").is_file()) if FOLDER.is_dir() else []
    )


def pretrained(name: str) -> str:
    """
    The folder of weights and processor that come with the package under that name, for `from_pretrained` and
    `pipeline`; nothing is downloaded.

    Raises:
        ValueError: for a name that is not there.
    """
    if name not in pretrained_names():
        raise ValueError(
            f"No weights named {name!r} come with this package; there are {', '.join(pretrained_names()) or 'none'}."
        )
    return str(FOLDER / name)


def shipped_or(model: str | os.PathLike[str]) -> str:
    """Where `from_pretrained` finds a model: the folder of weights that come with the package, else what it says."""
    name = os.fspath(model)
    return pretrained(name) if not os.path.isdir(name) and name in pretrained_names() else name

"""The repository root is the package `violet`: pytest must not import it again under its folder's name."""

from pathlib import Path

import pytest


def pytest_collect_directory(path: Path, parent: pytest.Collector):
    if path == Path(__file__).parent:
        return pytest.Dir.from_parent(parent, path=path)
    return None

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """`../shared`: reference outputs and real clips, which are not part of the project."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder

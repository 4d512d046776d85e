from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """`../shared`: reference outputs and real clips, which are not part of the project."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory) -> Path:
    """A small set of moving shapes: real mp4 files."""
    from violet.data import moving_shapes

    folder = tmp_path_factory.mktemp("data") / "shapes"
    moving_shapes(folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)
    return folder


@pytest.fixture(scope="session")
def questions(shapes_folder):
    """The rows of its splits, one a question."""
    from violet.data import moving_shapes, open_ended

    clips = moving_shapes(shapes_folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)
    return {split: open_ended(rows) for split, rows in clips.items()}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, questions) -> Path:
    """A saved violet-tiny for question answering, randomly initialised, with its processor."""
    import torch

    from violet.training import DataArguments, ModelArguments
    from violet.training.finetuning import build_model_and_processor

    torch.manual_seed(0)
    model, processor = build_model_and_processor(
        ModelArguments(from_scratch=True), questions["train"], DataArguments(), kernel=None
    )
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")

"""One saved model of each kind, small and random, over real clips."""

from pathlib import Path

import pytest
import torch

import violet
from violet import VideoTextProcessor, VioletVideoProcessor, named_configuration
from violet.processing import train_wordpiece_tokenizer

QUESTIONS = ["what moves left?", "which colour comes first?", "what is it?"]
WORDS = [
    "a red disc moves left",
    "a green cross moves right",
    "a blue square grows",
    "the yellow ring turns",
    "answer: it is yes or no",
    "option 0: 1: 2: 3:",
    "write a description about the video.",
]


@pytest.fixture(scope="package")
def save_model(tmp_path_factory):
    """A function: the name of a model class and settings of its configuration -> the folder of a random one."""
    tokenizer = train_wordpiece_tokenizer([*QUESTIONS, *WORDS] * 8, vocab_size=256)
    assert len(tokenizer.tokenize("disc")) == 1, "the words of the texts are whole tokens"
    processor = VideoTextProcessor(tokenizer, VioletVideoProcessor(size={"height": 64, "width": 64}, num_frames=4))
    labels = ["disc", "cross", "square", "ring", "yes", "no"]

    def save(name: str, **settings) -> Path:
        torch.manual_seed(0)
        config = named_configuration(
            "violet-tiny", vocab_size=len(tokenizer), id2label=dict(enumerate(labels)), **settings
        )
        folder = tmp_path_factory.mktemp(name)
        getattr(violet, name)(config).eval().save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="package")
def saved(save_model) -> dict[str, str]:
    """Folders by the name of their model class."""
    names = ("Model", "ForPreTraining", "ForQuestionAnswering", "ForMaskedLM", "ForCaptioning")
    return {
        f"Violet{name}": str(save_model(f"Violet{name}"))
        for name in (*names, "ForMultipleChoice", "ForRetrieval", "ForVideoClassification")
    }


@pytest.fixture(scope="session")
def clips(shapes_folder) -> list[str]:
    """Real mp4 files."""
    return [str(path) for path in sorted(shapes_folder.rglob("*.mp4"))[:5]]


@pytest.fixture
def truncated(clips, tmp_path) -> str:
    """An mp4 file cut off in its middle."""
    whole = Path(clips[0]).read_bytes()
    path = tmp_path / "truncated.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    return str(path)

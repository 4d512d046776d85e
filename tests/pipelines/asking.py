"""
Asks checkpoints that carry their code, each through every pipeline that it has, without naming one class of ours:

    python asking.py FOLDER CLIPS ANSWERS.json [--refuse]

FOLDER holds a checkpoint in a folder for each model class; the answers are written as JSON. The package must not be
importable; `--refuse` sees to that if it is installed.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

QUESTION = "what moves left?"
ASKED: dict[str, dict[str, Callable[[Any, list[str]], Any]]] = {
    "VioletModel": {
        "video-feature-extraction": lambda pipe, clips: [
            pipe(clips[0]).tolist(),
            pipe(clips[1], QUESTION, pool=False).tolist(),
        ]
    },
    "VioletForPreTraining": {
        "video-feature-extraction": lambda pipe, clips: pipe(clips[0]).tolist(),
        "video-fill-mask": lambda pipe, clips: pipe(clips[0], "a red disc moves [MASK]"),
        "video-question-answering": lambda pipe, clips: pipe(clips[1], QUESTION, answers=["disc", "a red disc"]),
        "video-text-retrieval": lambda pipe, clips: pipe("a red disc", videos=clips),
    },
    "VioletForQuestionAnswering": {
        "video-question-answering": lambda pipe, clips: pipe(clips, QUESTION, batch_size=2),
    },
    "VioletForMaskedLM": {
        "video-fill-mask": lambda pipe, clips: pipe(clips[0], "a red [MASK] moves [MASK]"),
        "video-question-answering": lambda pipe, clips: [
            pipe(clips[0], QUESTION),
            pipe(clips[1], QUESTION, answers=["disc", "a red disc"]),
        ],
    },
    "VioletForMultipleChoice": {
        "video-question-answering": lambda pipe, clips: pipe(clips[0], QUESTION, options=["a red disc", "no"]),
    },
    "VioletForCaptioning": {
        "video-captioning": lambda pipe, clips: pipe(clips[:2], num_beams=2, max_new_tokens=6),
        "video-question-answering": lambda pipe, clips: pipe(clips[0], QUESTION, max_new_tokens=4),
    },
    "VioletForConditionalGeneration": {
        "video-text-to-text": lambda pipe, clips: pipe(clips[:2], QUESTION, max_new_tokens=6),
        "video-question-answering": lambda pipe, clips: pipe(clips[0], QUESTION, max_new_tokens=4),
        "image-text-to-text": lambda pipe, clips: pipe(
            text=[{"role": "user", "content": [{"type": "video", "path": clips[0]}, {"type": "text", "text": "?"}]}],
            return_full_text=False,
            generate_kwargs={"max_new_tokens": 6, "num_beams": 2},
        )[0]["generated_text"],
    },
    "VioletForRetrieval": {
        "video-text-retrieval": lambda pipe, clips: pipe(["a red disc", "a blue square grows"], videos=clips),
    },
    "VioletForVideoClassification": {"video-classification": lambda pipe, clips: pipe(clips)},
}
"""
By the class that a checkpoint holds, the name of its folder up to a "-": its tasks, and something to ask for each.
"""


def ask(folder: Path, clips: list[str]) -> dict[str, dict[str, Any]]:
    """What every checkpoint answers, by its folder's name and the task."""
    from transformers import pipeline

    return {
        path.name: {
            task: question(pipeline(task, model=str(path), trust_remote_code=True), clips)
            for task, question in ASKED[path.name.partition("-")[0]].items()
        }
        for path in sorted(folder.glob("Violet*"))
    }


class Refusing:
    """A finder that knows nothing of the package, for `sys.meta_path`."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "violet":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(folder: Path, clips: Path, answers: Path) -> None:
    try:
        import violet
    except ModuleNotFoundError:
        pass
    else:
        raise SystemExit(f"The package is here: {violet.__file__}")
    found: dict[str, Any] = {"answers": ask(folder, sorted(map(str, clips.rglob("*.mp4")))[:3])}
    found["modules"] = sorted(name for name in sys.modules if name.partition(".")[0] == "violet")
    answers.write_text(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[4:5] == ["--refuse"]:
        sys.meta_path.insert(0, Refusing())
    main(*map(Path, sys.argv[1:4]))

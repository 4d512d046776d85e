"""
Fine-tunes the shipped violet-tiny for each task on the built-in data, and measures it on new clips: as they are, with
the frames of each in another order, and after training on videos and texts that do not belong together; beside them,
what the words are worth without a video (`prior`).

    python measurements/tasks.py [--task NAME …] [--seed 0] [--output outputs/tasks] [--json rows.json]

Each run goes into its own folder below `--output`; what is there is not run again. The bars are those of
docs/results.md; a task that misses one is marked, and the status is 1 then.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoProcessor

from violet.core.files import write_json
from violet.data import moving_shapes
from violet.training import TASKS, DataArguments, FinetuningArguments
from violet.training.machine import preferred_dtype

CLIPS = 8000
COMMON = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 0.05,
    "freeze_backbone": "true",
    "bf16": str(preferred_dtype() == "bfloat16").lower(),
    "save_steps": 100000,
    "logging_steps": 100,
}
SETTINGS: dict[str, dict[str, str | float]] = {
    "multiple-choice": {
        "max_steps": 600,
        "per_device_train_batch_size": 48,
        "per_device_eval_batch_size": 96,
        "questions_per_video": 3,
    },
    "fill-in-the-blank": {
        "max_steps": 700,
        "per_device_train_batch_size": 96,
        "per_device_eval_batch_size": 192,
        "questions_per_video": 3,
    },
    "retrieval": {"max_steps": 450, "per_device_train_batch_size": 20, "per_device_eval_batch_size": 64},
    "captioning": {
        "max_steps": 1000,
        "per_device_train_batch_size": 48,
        "per_device_eval_batch_size": 96,
        "word_ratio": 0.5,
    },
}
SHOWN = {
    "multiple-choice": ("accuracy", "accuracy_direction", "accuracy_order"),
    "fill-in-the-blank": ("accuracy", "accuracy_direction", "accuracy_order"),
    "retrieval": ("text_to_video_r1", "video_to_text_r1"),
    "captioning": ("exact", "cider_d"),
}
BARS = {
    "multiple-choice": {"accuracy": 0.90, "accuracy_direction": 0.85, "accuracy_order": 0.85},
    "fill-in-the-blank": {"accuracy": 0.90},
    "retrieval": {"text_to_video_r1": 0.80},
    "captioning": {"exact": 0.80},
}


def finetune(task: str, folder: Path, more: dict[str, object]) -> float:
    """Seconds that `violet finetune` took, data and evaluation and all."""
    if (folder / "metrics.json").exists():
        return float(json.loads((folder / "seconds.json").read_text()))
    options = {**COMMON, **SETTINGS[task], **more, "output_dir": folder, "task": task}
    start = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "violet.cli",
        "finetune",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    write_json(folder / "seconds.json", seconds)
    return seconds


def mismatched(shapes: Path, task: str, seed: int, file: Path) -> Path:
    """A table of the training rows, each with the video of another clip."""
    if not file.exists():
        clips = moving_shapes(shapes, train=CLIPS, seed=seed)["train"]
        videos = clips["video"]
        order = np.random.default_rng(seed).permutation(len(videos))
        other = {video: videos[number] for video, number in zip(videos, order, strict=True)}
        lines = (json.dumps({**row, "video": other[row["video"]]}) for row in TASKS[task].rows(clips))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines))
    return file


def prior(task: str, shapes: Path, seed: int) -> float:
    """
    How often the likeliest answer is right that the words tell without a video: the one that was right most
    often for these words among the training rows; of options, the one that was most often right where it stood. For
    retrieval a draw from the gallery, for captions the most frequent one.
    """
    clips = moving_shapes(shapes, train=CLIPS, seed=seed)
    tested = list(TASKS[task].test_rows(clips["test"]))
    if task == "retrieval":
        return 1 / len({row["video"] for row in tested})
    asked = {"multiple-choice": "question", "fill-in-the-blank": "text"}.get(task)
    told = "caption" if task == "captioning" else "answer"

    def answers(row: dict[str, Any]) -> list[str]:
        return row.get("options") or [row[told]]

    right, seen = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for row in TASKS[task].rows(clips["train"]):
        for number, answer in enumerate(answers(row)):
            key = (row[asked] if asked else "", answer)
            seen[key] += 1
            right[key] += "options" not in row or number == row["answer"]
    best = {words: answer for (words, answer), _ in reversed(right.most_common())}
    found = 0
    for row in tested:
        words = row[asked] if asked else ""
        if "options" in row:
            shares = [right[words, option] / max(seen[words, option], 1) for option in row["options"]]
            found += shares.index(max(shares)) == row["answer"]
        else:
            found += best.get(words) == row[told]
    return found / len(tested)


def measure(task: str, folder: Path, shapes: Path, seed: int, shuffle_frames: bool) -> dict[str, float]:
    """The metrics of a fine-tuned model on the test clips."""
    training = FinetuningArguments(
        output_dir=str(folder / "measured"),
        per_device_eval_batch_size=96,
        bf16=preferred_dtype() == "bfloat16",
        report_to=[],
    )
    model = TASKS[task].model_class.from_pretrained(folder)
    rows = TASKS[task].test_rows(moving_shapes(shapes, train=CLIPS, seed=seed)["test"])
    processor = AutoProcessor.from_pretrained(folder)
    return TASKS[task].evaluate(model, processor, rows, DataArguments(task=task), training, shuffle_frames)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs/tasks"))
    parser.add_argument("--json", help="a JSON file for the rows")
    options = parser.parse_args()
    seed, shapes = options.seed, options.output / "moving_shapes"
    built_in = {"shapes_folder": shapes, "shapes_clips": CLIPS, "shapes_seed": seed, "seed": seed}
    rows, missed = [], []
    for task in options.task:
        folder = options.output / f"{task}-{seed}"
        moving_shapes(shapes, train=CLIPS, seed=seed)
        seconds = finetune(task, folder, built_in)
        table = mismatched(shapes, task, seed, options.output / "mismatched" / f"{task}-{seed}.jsonl")
        apart = options.output / f"{task}-{seed}-mismatched"
        finetune(task, apart, {"train_file": table, "seed": seed})
        found = {
            "as they are": measure(task, folder, shapes, seed, shuffle_frames=False),
            "shuffled": measure(task, folder, shapes, seed, shuffle_frames=True),
            "mismatched": measure(task, apart, shapes, seed, shuffle_frames=False),
        }
        by_words = prior(task, shapes, seed)
        print(f"\n{task}, {seconds / 60:.1f} minutes; the words without a video: {by_words:.3f}")
        for name in SHOWN[task]:
            print(f"  {name:22}" + "".join(f"{kind:>14} {values[name]:.3f}" for kind, values in found.items()))
        for name, bar in BARS[task].items():
            if found["as they are"][name] < bar:
                missed.append(f"{task}: {name} is {found['as they are'][name]:.3f}, below {bar}")
        settings = {"seed": seed, "clips": CLIPS, **COMMON, **SETTINGS[task]}
        rows.append(
            {
                "name": task,
                "seconds": seconds,
                "rate": float(SETTINGS[task]["max_steps"]) / seconds,
                "share_of_matmul": None,
                "baseline_seconds": None,
                "metrics": {**found, "prior": by_words},
                "settings": settings,
            }
        )
    if options.json:
        write_json(options.json, rows)
    for line in missed:
        print(f"MISSED  {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

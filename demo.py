"""`violet demo`: from the weights that come with the package to answers about drawn videos, in minutes on a CPU."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import pipeline

from .data.moving_shapes import QUESTION_TYPES
from .evaluation.pictures import AnsweredClip, draw_answers
from .evaluation.provenance import METRICS_FILE
from .files import write_json
from .hub import write_model_card
from .predicting import example_command
from .processing import decode_video
from .processing.video_processing_violet import evenly_spaced_indices
from .training import DataArguments, FinetuningArguments, ModelArguments, finetune
from .training.machine import cpu_has_bfloat16, leave_cores_to_workers

STEPS = 900
CLIPS = 8000
AT_LEAST = {
    "accuracy": 0.98,
    "accuracy_direction": 0.95,
    "accuracy_order": 0.95,
    "test_unseen_accuracy": 0.90,
    "test_together_accuracy": 0.85,
}
"""What the fine-tuned model reaches: on new clips, on pairs of shape and colour that training never showed, and on the
order of two movements while both shapes are in sight. Below, the demo fails."""
AT_MOST = {"shuffled_accuracy_direction": 0.60, "shuffled_accuracy_order": 0.60}
"""What a model that looks at time cannot tell from shuffled frames; above, the demo fails."""


def demo_settings(output: Path, seed: int) -> tuple[ModelArguments, DataArguments, FinetuningArguments]:
    """The recipe: the shipped violet-tiny, its backbone as it is, 32 clips with three questions each a step."""
    on_gpu = torch.cuda.is_available()
    return (
        ModelArguments(model="violet-tiny", freeze_backbone=True),
        DataArguments(
            shapes_folder=str(output / "moving_shapes"), shapes_clips=CLIPS, shapes_seed=seed, questions_per_video=3
        ),
        FinetuningArguments(
            output_dir=str(output / "model"),
            seed=seed,
            max_steps=STEPS,
            per_device_train_batch_size=96,
            per_device_eval_batch_size=192,
            learning_rate=1e-3,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            weight_decay=0.05,
            bf16=on_gpu or cpu_has_bfloat16(),
            save_steps=300,
            logging_steps=100,
        ),
    )


def run_demo(output: Path, seed: int) -> int:
    """Data, training, evaluation, saving, loading, answers, picture; 0, or 1 where the model did not learn enough."""
    started = time.monotonic()
    print(f"1/4  Drawing videos of moving shapes and fine-tuning violet-tiny on them ({STEPS} steps)")
    settings = demo_settings(output, seed)
    leave_cores_to_workers(settings[2].dataloader_num_workers)
    result = finetune(*settings)

    print("2/4  The test clips again, the frames of each shuffled: what needs time must fail now")
    _, data, training = settings
    shuffled = result.task.evaluate(
        result.model, result.processor, result.tables["test"], data, training, shuffle_frames=True
    )
    folder = output / "model"
    facts = json.loads((folder / METRICS_FILE).read_text())
    facts |= {f"shuffled_{name}": value for name, value in shuffled.items()}
    facts["seconds"] = round(time.monotonic() - started, 1)
    for place in (output, folder):  # every command's numbers are in its output folder, a card's beside it
        write_json(place / METRICS_FILE, facts)
    write_model_card(folder, name="violet-tiny, fine-tuned on moving shapes")

    clips = [first_clip_asked(result.tables["test"], kind) for kind in ("direction", "order")]

    print("3/4  Loading what was saved, and asking about clips that were never seen")
    ask = pipeline("video-question-answering", model=str(folder))
    num_frames = ask.processor.video_processor.num_frames
    panels = []
    for rows in clips:
        video = rows[0]["video"]
        best = [answers[0] for answers in ask(video, [row["question"] for row in rows], top_k=1)]
        told = [
            {"question": row["question"], "truth": row["answer"], **answer}
            for row, answer in zip(rows, best, strict=True)
        ]
        print(f"     {video}: {rows[0]['caption']}")
        for row in told:
            print(f"       {row['question']:34} {row['answer']:8} {row['score']:4.0%}   (it is: {row['truth']})")
        frames = decode_video(video, lambda total, _: evenly_spaced_indices(total, num_frames)).frames
        panels.append(AnsweredClip(frames, told, title=f"What happens: {rows[0]['caption']}"))

    print("4/4  Drawing the picture")
    picture = draw_answers(output / "answers.png", panels)
    return summarise(output, picture, facts, clips[0][-1])


def first_clip_asked(rows: Dataset, question_type: str) -> list[dict[str, Any]]:
    """The rows of the first clip that has a question of that type."""
    clip = next(row["id"] for row in rows if row["question_type"] == question_type)
    return [row for row in rows if row["id"] == clip]


def summarise(output: Path, picture: Path, metrics: Mapping[str, float], row: Mapping[str, Any]) -> int:
    """Prints the results, where everything is and what to type next; returns the exit status."""
    model = output / "model"
    prefixes = {
        "test clips": "",
        "shuffled": "shuffled_",
        "unseen pairs": "test_unseen_",
        "in sight": "test_together_",
    }
    print("\n" + " " * 16 + "".join(f"{title:>14}" for title in prefixes))
    types = [f"accuracy_{asked}" for asked in QUESTION_TYPES if f"accuracy_{asked}" in metrics]
    for name in ["accuracy", *types]:
        values = (metrics.get(prefix + name) for prefix in prefixes.values())
        label = name.removeprefix("accuracy").removeprefix("_") or "all questions"
        print(f"{label:16}" + "".join(f"{'' if value is None else f'{value:.3f}':>14}" for value in values))
    print("In sight: which of two shapes moves first, or last, while both are seen all the time.")
    print("Shuffled: direction and order are lost when the frames of a clip are, so the model looks at time.\n")
    print(f"model, processor and card  {model}")
    print(f"numbers and settings       {output / METRICS_FILE}")
    print(f"picture                    {picture}")
    print(f"videos                     {Path(row['video']).parent}")
    print(f"took {metrics['seconds'] / 60:.1f} minutes\n\nNext:")
    violet = os.path.relpath(sys.argv[0])
    print(f"  {violet} {example_command(str(model), 'open-ended', row)}")
    print(f"  {violet} finetune --help      to train on your own table of videos, questions, answers")

    missed = [
        f"{name} is {metrics[name]:.3f}, below {bound}" for name, bound in AT_LEAST.items() if metrics[name] < bound
    ]
    seen = [
        f"{name} is {metrics[name]:.3f}, above {bound}" for name, bound in AT_MOST.items() if metrics[name] > bound
    ]
    if missed or seen:
        print("\nFAILED: the model did not learn what it should have:")
        for line in missed + seen:
            print(f"  {line}")
        print("The course of the training is in the last checkpoint's trainer_state.json.")
        return 1
    return 0

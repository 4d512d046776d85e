"""`violet demo`: asks the shipped violet-tiny about a video, then fine-tunes it to answer questions, in minutes."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback, get_scheduler, pipeline

from .commands.prediction import example_command
from .core.files import write_json
from .core.quiet import silence_transformers
from .core.weights import pretrained
from .data import moving_shapes
from .data.moving_shapes import QUESTION_TYPES
from .evaluation.pictures import AnsweredClip, draw_answers
from .evaluation.provenance import METRICS_FILE
from .hub import write_model_card
from .hub.cards import CARD_FILE
from .processing import decode_video
from .processing.video_processing_violet import evenly_spaced_indices
from .training import DataArguments, FinetuningArguments, ModelArguments, finetune
from .training.machine import leave_cores_to_workers, preferred_dtype

STEPS = 900
LABEL_SMOOTHING = 0.1
"""Without it the score of an answer that a colour never has only falls, and a blue square is told to be no square."""
CLIPS = 8000
SECONDS = 340
"""Time limit of the whole demo, a little below 6 minutes: a slow machine takes fewer steps."""
LEAST_STEPS = 100
EVALUATED_CLIPS = 2400
"""2,100 clips to evaluate (those of the test split twice: once with their frames shuffled), and a reserve."""


def demo_settings(
    output: Path, seed: int, dtype: str | None = None
) -> tuple[ModelArguments, DataArguments, FinetuningArguments]:
    """The recipe: the shipped violet-tiny, its backbone as it is, 32 clips with three questions each a step."""
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
            label_smoothing_factor=LABEL_SMOOTHING,
            bf16=(dtype or preferred_dtype()) == "bfloat16",
            save_steps=300,
            logging_steps=100,
        ),
    )


class FitInTime(TrainerCallback):
    """
    Measures the speed of the first steps, then lowers `max_steps` (and the learning rate's schedule) to what fits
    before `deadline`, a time of `time.monotonic`. Prints the choice, and every fifty steps the time left.
    """

    SKIPPED, MEASURED = 5, 25

    def __init__(self, deadline: float):
        self.deadline = deadline
        self.first = self.since = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.first = state.global_step + self.SKIPPED

    def on_step_end(self, args, state, control, lr_scheduler=None, **kwargs):
        done, now = state.global_step - self.first, time.monotonic()
        if done == 0:
            self.since = now
        if done <= 0:
            return
        seconds = (now - self.since) / done
        afterwards = 0.5 * seconds * EVALUATED_CLIPS / 32  # a pass forward takes about half of a step
        if done == self.MEASURED:
            possible = state.global_step + int((self.deadline - now - afterwards) / seconds)
            self._take(max(LEAST_STEPS, min(state.max_steps, possible)), seconds, args, state, lr_scheduler)
        if state.global_step % 50 == 0 or done == self.MEASURED:
            left = (state.max_steps - state.global_step) * seconds + afterwards
            step = f"step {state.global_step} of {state.max_steps}"
            print(f"     {step}, about {left / 60:.1f} minutes left", flush=True)

    def _take(self, steps: int, seconds: float, args, state, lr_scheduler) -> None:
        print(f"     A step of 32 clips takes {seconds:.2f} s here: ", end="")
        if steps >= state.max_steps:
            print(f"all {state.max_steps} steps are taken.")
            return
        print(f"{steps} instead of {state.max_steps} steps, so that the demo takes no more than 6 minutes.")
        state.max_steps = steps
        shorter = get_scheduler(
            args.lr_scheduler_type,
            torch.optim.SGD([torch.zeros(1)]),
            num_warmup_steps=args.get_warmup_steps(steps),
            num_training_steps=steps,
        )
        lr_scheduler.lr_lambdas = shorter.lr_lambdas * len(lr_scheduler.lr_lambdas)


def run_demo(output: Path, seed: int, dtype: str | None = None) -> int:
    """Runs the demo; returns 0, or 1 if something is broken: a file is missing, or nothing was learned."""
    started = time.monotonic()
    silence_transformers()  # that the heads of pre-training are not used is no news
    dtype = dtype or preferred_dtype()
    settings = demo_settings(output, seed, dtype)
    leave_cores_to_workers(settings[2].dataloader_num_workers)

    print("1/4  Filling in blanks about a video with violet-tiny, the weights that come with the package", flush=True)
    fill_blanks(output / "clips", seed)

    why = "the fastest on this machine" if dtype == preferred_dtype() else "as asked for"
    print(f"2/4  Drawing {CLIPS:,} videos of moving shapes, and fine-tuning it to answer questions about them")
    print(f"     Number type: {dtype} ({why}); threads: {torch.get_num_threads()}", flush=True)
    deadline = started + SECONDS
    settings[2].disable_tqdm = True  # `FitInTime` tells how far it is
    result = finetune(*settings, callbacks=[FitInTime(deadline)])

    print("3/4  The test clips again, the frames of each shuffled; then what was saved, loaded and asked", flush=True)
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

    print("4/4  Drawing the picture", flush=True)
    picture = draw_answers(output / "answers.png", panels)
    summarise(output, picture, facts, clips[0][-1])
    return tell_problems(output, result.tables["test"], facts)


def fill_blanks(folder: Path, seed: int) -> None:
    """Draws a few test clips and fills the words of a caption in, one at a time."""
    clips = moving_shapes(folder, train=0, validation=0, test=8, test_unseen=0, test_together=0, seed=seed)["test"]
    clip = next(row for row in clips if row["kind"] == "single" and row["shapes"][0]["direction"])
    (shape,) = clip["shapes"]
    fill = pipeline("video-fill-mask", model=str(pretrained("violet-tiny")))
    print(f"     {clip['video']}: {clip['caption']}")
    for name in ("colour", "shape", "direction"):
        text = clip["caption"].replace(shape[name], "[MASK]", 1)
        best = fill(clip["video"], text, top_k=1)[0]
        print(f"       {text:34} {best['token_str']:8} {best['score']:4.0%}   (it is: {shape[name]})")


def first_clip_asked(rows: Dataset, question_type: str) -> list[dict[str, Any]]:
    """The rows of the first clip that has a question of that type."""
    clip = next(row["id"] for row in rows if row["question_type"] == question_type)
    return [row for row in rows if row["id"] == clip]


def summarise(output: Path, picture: Path, metrics: Mapping[str, float], row: Mapping[str, Any]) -> None:
    """Prints the results, the paths of the outputs and the next commands."""
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


def tell_problems(output: Path, rows: Dataset, metrics: Mapping[str, float]) -> int:
    """Prints what is broken, and returns 1 if anything is: a file is missing, or nothing was learned."""
    model = output / "model"
    files = [model / name for name in ("config.json", "model.safetensors", "processor_config.json", CARD_FILE)]
    files += [output / METRICS_FILE, output / "answers.png"]
    problems = [f"{file} was not written." for file in files if not file.is_file() or not file.stat().st_size]
    answers: dict[str, Counter[str]] = {}
    for question, answer in zip(rows["question"], rows["answer"], strict=True):
        answers.setdefault(question, Counter())[answer] += 1
    blind = sum(max(counts.values()) for counts in answers.values()) / len(rows)
    if metrics["accuracy"] <= blind:
        problems.append(
            f"Nothing was learned: {metrics['accuracy']:.3f} of the answers are right, and {blind:.3f} would be "
            "without looking at a video. How the training went is in the last checkpoint's trainer_state.json."
        )
    for line in problems:
        print(f"BROKEN: {line}")
    return int(bool(problems))

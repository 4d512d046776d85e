"""
Measures the value of pre-training and of each objective: fine-tunes on a tenth of the questions from random weights,
from the shipped ones, and from short pre-trainings that each leave one objective out; prints medians over seeds.

    python measurements/pretraining_value.py [--seeds 0 1 2] [--variants scratch shipped all no_mvm …]

Each run goes into its own folder below `--output`; what is there is not run again.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import yaml

from violet.training.machine import preferred_dtype

RECIPE = Path(__file__).parents[1] / "examples" / "violet-tiny.yaml"
LEFT_OUT = {"all": (), "no_mvm": ("mvm_pixel", "mvm_hog"), "no_vtm": ("vtm",), "no_mlm": ("mlm",), "no_vtc": ("vtc",)}
"""Variants that are pre-trained here, and what each leaves out of the recipe."""
FROM_SCRATCH = {"scratch": 200, "scratch_long": 800}
VARIANTS = (*FROM_SCRATCH, "shipped", *LEFT_OUT)
STEPS = {"pretraining": 1000, "fine-tuning": 200}
"""Random weights are also given four times the steps, in which they see the clips as often as they can make use of."""
CLIPS = {"pretraining": 4000, "questions": 800}
"""800 clips with their questions are a tenth of the 8,000 that `violet finetune` draws."""
SHOWN = ("accuracy", "accuracy_direction", "accuracy_order", "test_together_accuracy", "test_unseen_accuracy")
VIOLET = [sys.executable, "-m", "violet.cli"]


def finetuning_options(folder: Path, seed: int, clips_folder: Path, clips: int, steps: int) -> list[str]:
    """The options of `violet finetune`, but for the model that it starts from."""
    return [
        *(f"--output_dir={folder}", f"--seed={seed}", f"--shapes_folder={clips_folder}", f"--shapes_clips={clips}"),
        *(f"--max_steps={steps}", "--learning_rate=5e-4", "--lr_scheduler_type=cosine"),
        *("--questions_per_video=3", "--per_device_train_batch_size=96", "--per_device_eval_batch_size=192"),
        *("--warmup_steps=0.05", "--weight_decay=0.05", "--save_steps=100000"),
        f"--bf16={str(preferred_dtype() == 'bfloat16').lower()}",  # many times slower where the processor lacks it
    ]


def print_medians(
    column: str, names: Sequence[str], seeds: Sequence[int], measure: Callable[[str, int], Mapping[str, float]]
) -> None:
    """Measures each name with each seed; a row per name: medians and, in brackets, the least and the most."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for seed in seeds:
        for name in names:
            found.setdefault(name, []).append(measure(name, seed))
    print(f"| {column} | {' | '.join(SHOWN)} |\n|---|{'---|' * len(SHOWN)}")
    for name, runs in found.items():
        values = [sorted(run[one] for run in runs) for one in SHOWN]
        cells = [f"{statistics.median(one):.3f} ({one[0]:.3f}–{one[-1]:.3f})" for one in values]
        print(f"| {name} | {' | '.join(cells)} |")


def pretrain(output: Path, variant: str, seed: int) -> str:
    """The folder of the variant's weights, trained if it is not there."""
    model = output / f"{variant}-{seed}" / "pretrained"
    if not (model / "metrics.json").exists():
        objectives = yaml.safe_load(RECIPE.read_text())["objectives"]
        left_out = LEFT_OUT[variant]
        kept = [{name: weight for name, weight in one.items() if name not in left_out} for one in objectives]
        data = {"name": "shapes", "source": "moving_shapes", "path": str(output / "captions"), "split": "pretrain"}
        data |= {"clips": CLIPS["pretraining"], "seed": 77}
        settings = {
            "datasets": [data],
            "objectives": [one for one in kept if set(one) - {"share", "start"}],
            "output_dir": str(model),
            "max_steps": STEPS["pretraining"],
            "seed": seed,
            "trackers": [],
        }
        given = [text for name, value in settings.items() for text in (f"--{name}", json.dumps(value))]
        subprocess.run([*VIOLET, "pretrain", str(RECIPE), "--resume", *given], check=True)
    return str(model)


def finetune(output: Path, variant: str, seed: int) -> dict[str, float]:
    """The accuracies after fine-tuning the variant's weights."""
    folder = output / f"{variant}-{seed}" / "fine-tuned"
    if not (folder / "metrics.json").exists():
        model = "violet-tiny" if variant in ("shipped", *FROM_SCRATCH) else pretrain(output, variant, seed)
        steps = FROM_SCRATCH.get(variant, STEPS["fine-tuning"])
        start = (f"--model={model}", f"--from_scratch={str(variant in FROM_SCRATCH).lower()}")
        options = finetuning_options(folder, seed, output / "questions", CLIPS["questions"], steps)
        subprocess.run([*VIOLET, "finetune", *start, *options], check=True)
    return json.loads((folder / "metrics.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/pretraining_value"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    options = parser.parse_args()
    print_medians("pre-training", options.variants, options.seeds, partial(finetune, options.output))


if __name__ == "__main__":
    main()

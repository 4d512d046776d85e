"""
Fine-tunes the shipped violet-tiny as `violet demo` does, at its full number of steps, with several seeds, and measures
it on new clips: as they are, with the frames of each shuffled, on pairs of shape and colour that no training split
shows (`unseen pairs`), and where both shapes are in sight all the time. Prints medians over the seeds, and how far
they lie apart.

    python measurements/unseen_pairs.py [--seeds 11 12 13] [--steps N] [--output outputs/unseen_pairs]
                                        [--json rows.json]

A seed decides both what is drawn and the training; those of the demo (0) and of the shipped weights (2026) are no
test. Each run goes into its own folder below `--output`: what is there is not run again, and a run that was stopped
goes on. The JSON file is written whenever a seed is done. A median that misses its bar is marked, and the status is 1
then.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

from violet.core.files import write_json
from violet.data.moving_shapes import QUESTION_TYPES
from violet.demo import STEPS, demo_settings
from violet.training import finetune
from violet.training.machine import leave_cores_to_workers

SPLITS = {"test": "", "shuffled": "shuffled_", "unseen pairs": "test_unseen_", "in sight": "test_together_"}
"""Each row of the table, and how its measures' names begin."""
MEASURES = ("accuracy", *(f"accuracy_{asked}" for asked in QUESTION_TYPES))
AT_LEAST = {
    "accuracy": 0.98,
    "accuracy_direction": 0.95,
    "accuracy_order": 0.95,
    "test_unseen_accuracy": 0.95,
    "test_unseen_accuracy_shape": 0.90,
    "test_together_accuracy": 0.85,
}
AT_MOST = {"shuffled_accuracy_direction": 0.60, "shuffled_accuracy_order": 0.60}
"""What a model that looks at time cannot tell from shuffled frames."""


def measures_of(output: Path, seed: int, steps: int) -> dict[str, float]:
    """The measures of one seed's run, which is made if it is not there."""
    folder = output / f"{steps}-{seed}"
    file = folder / "measures.json"
    if not file.exists():
        model, data, training = demo_settings(folder, seed)
        training.max_steps = steps
        leave_cores_to_workers(training.dataloader_num_workers)
        result = finetune(model, data, training)
        rows = result.tables["test"]
        shuffled = result.task.evaluate(result.model, result.processor, rows, data, training, shuffle_frames=True)
        measures = result.metrics | {f"shuffled_{name}": value for name, value in shuffled.items()}
        write_json(file, measures)
    return json.loads(file.read_text())


def summary(values: Iterable[float]) -> str:
    """The median, and the least and the most."""
    values = sorted(values)
    return f"{statistics.median(values):.3f} ({values[0]:.3f}–{values[-1]:.3f})"


def missed_bars(runs: list[dict[str, float]]) -> list[str]:
    """What a person should know of medians on the wrong side of their bars."""
    medians = {name: statistics.median(run[name] for run in runs) for name in (*AT_LEAST, *AT_MOST)}
    low = [f"{name} is {medians[name]:.3f}, below {bar}" for name, bar in AT_LEAST.items() if medians[name] < bar]
    high = [f"{name} is {medians[name]:.3f}, above {bar}" for name, bar in AT_MOST.items() if medians[name] > bar]
    return low + high


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--steps", type=int, default=STEPS, help="of fine-tuning; by default the demo's full number")
    parser.add_argument("--output", type=Path, default=Path("outputs/unseen_pairs"))
    parser.add_argument("--json", help="a JSON file for the measures of each seed")
    options = parser.parse_args()
    runs: dict[int, dict[str, float]] = {}
    for seed in options.seeds:
        runs[seed] = measures_of(options.output, seed, options.steps)
        if options.json:
            write_json(options.json, {"steps": options.steps, "runs": runs})
    found = list(runs.values())
    print(f"{options.steps} steps, seeds {', '.join(map(str, runs))}\n")
    print("| split | " + " | ".join(name.removeprefix("accuracy_").replace("_", " ") for name in MEASURES) + " |")
    print(f"|---|{'---|' * len(MEASURES)}")
    for split, prefix in SPLITS.items():
        cells = [
            summary(run[prefix + name] for run in found) if prefix + name in found[0] else "" for name in MEASURES
        ]
        print(f"| {split} | {' | '.join(cells)} |")
    missed = missed_bars(found)
    for line in missed:
        print(f"MISSED  {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

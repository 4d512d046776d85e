"""
Trains violet-tiny's shapes from scratch on questions about drawn clips, with other vision encoders in place of Video
Swin: what each of them learns in 1,000 steps. Prints medians over seeds.

    python measurements/encoders_from_scratch.py [--seeds 0 1 2] [--encoders video_swin clip vit videomae]

The settings are those of pretraining_value.py; the clips are as many as it pre-trains on (4,000). Each run goes into
its own folder below `--output`; what is there is not run again.
"""

import argparse
import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pretraining_value import CLIPS, VIOLET, finetuning_options, print_medians

from violet import VideoTextProcessor, VioletModel, named_configuration, pretrained

STEPS = 1000
SIDE, PATCH, FRAMES = 64, 32, 4
"""A patch is as large as a cell of violet-tiny's Video Swin: the fusion gets as many tokens of a frame."""
LAYERS = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
PICTURE = {**LAYERS, "image_size": SIDE, "patch_size": PATCH}
SPREAD = {"initializer_range": 0.08}  # as violet-tiny's, see its configuration
ENCODERS: dict[str, dict[str, Any]] = {
    "video_swin": {},
    "clip": {"model_type": "clip_vision_model", **PICTURE},
    "vit": {"model_type": "vit", **PICTURE, **SPREAD},
    "videomae": {"model_type": "videomae", **PICTURE, **SPREAD, "num_frames": FRAMES, "tubelet_size": 2},
}
"""What takes the place of violet-tiny's `vision_config`; nothing for its own."""


def untrained(encoder: str, seed: int, folder: Path) -> Path:
    """A model with that encoder, as it starts, in a folder."""
    if not (folder / "config.json").exists():
        own = {"vision_config": ENCODERS[encoder]} if ENCODERS[encoder] else {}
        torch.manual_seed(seed)
        model = VioletModel(named_configuration("violet-tiny", **own))
        VideoTextProcessor.from_pretrained(pretrained("violet-tiny")).save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


def measures_of(output: Path, encoder: str, seed: int) -> dict[str, float]:
    """The accuracies of one run, which is made if it is not there."""
    folder = output / f"{encoder}-{seed}"
    if not (folder / "metrics.json").exists():
        model = untrained(encoder, seed, output / f"{encoder}-{seed}-untrained")
        options = finetuning_options(folder, seed, output / "questions", CLIPS["pretraining"], STEPS)
        subprocess.run([*VIOLET, "finetune", f"--model={model}", *options], check=True)
    return json.loads((folder / "metrics.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/encoders_from_scratch"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), choices=ENCODERS)
    options = parser.parse_args()
    print_medians("encoder", options.encoders, options.seeds, partial(measures_of, options.output))


if __name__ == "__main__":
    main()

"""
What masked visual modelling and matching are worth, each where it has something to add: pre-trains a small model with
and without the objective, fine-tunes both on few clips, and prints medians over seeds.

    python measurements/objectives_worth.py [--seeds 0 1 2] [--variants colour colour_features words words_vtm]

- `colour`, `colour_mvm`: captions that name nothing but the colour ("a red shape"), as captions of real videos leave
  most of what is seen unsaid: only contrast, and with masked pixels and HOG. Then 200 steps of open-ended questions
  of 400 clips: colours, but also shapes, actions and directions, which no caption named.
- `colour_features`: with masked features of a trained teacher, the shipped violet-tiny's video encoder.
- `words`, `words_vtm`: whole captions, contrast and masked words, without and with matching against other clips'
  captions. Then 60 steps of multiple choice on 400 clips, by the match head.

A frame has a grid of 4 x 4 cells (VideoMAE's layers, width 128, patches of 16 pixels and two frames, eight frames), so
that what is hidden can be told from what is left; violet-tiny's 2 x 2 cells hide a whole shape. 0.15 of the patches
are hidden, so most shapes are seen whole; of 0.4, and blocks in half of the clips, 1,000 steps taught no shapes.
Each run goes into its own folder below `--output`; what is there is not run again.
"""

import argparse
import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pretraining_value import CLIPS, VIOLET, finetuning_options, print_medians

from violet import VideoTextProcessor, VioletForPreTraining, VioletModel, named_configuration, pretrained
from violet.core.files import write_json
from violet.data import moving_shapes

STEPS = {"pretraining": 1000, "open-ended": 200, "multiple-choice": 60}
QUESTIONS_OF = 400
FRAMES, SIDE = 8, 64
VISION = {
    "model_type": "videomae",
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "image_size": SIDE,
    "patch_size": 16,
    "num_frames": FRAMES,
    "tubelet_size": 2,
    "initializer_range": 0.08,
}
TARGETS: dict[str, dict[str, Any]] = {"pixel": {}, "hog": {}, "3d_feature": {"channels": 256}}
COLOURS: dict[str, Any] = {
    "caption": "colour",
    "task": "open-ended",
    "settings": {"masks": {"random": 1}, "patch_ratio": 0.15},
}
WORDS: dict[str, Any] = {"caption": "whole", "task": "multiple-choice", "settings": {}}
VARIANTS: dict[str, dict[str, Any]] = {
    "colour": {**COLOURS, "objectives": {"vtc": 0.1}},
    "colour_mvm": {**COLOURS, "objectives": {"vtc": 0.1, "mvm_pixel": 0.1, "mvm_hog": 3}},
    "colour_features": {**COLOURS, "objectives": {"vtc": 0.1, "mvm_3d_feature": 1}},
    "words": {**WORDS, "objectives": {"vtc": 1, "mlm": 0.3}},
    "words_vtm": {**WORDS, "objectives": {"vtc": 1, "mlm": 0.3, "vtm": 0.3}},
}


def captions(folder: Path, kind: str) -> Path:
    """The table of the clips that are pre-trained on, with their whole captions, or with the only the colours."""
    table = folder / f"{kind}.json"
    if not table.exists():
        counts = {"train": 0, "validation": 0, "test": 0, "test_unseen": 0, "test_together": 0}
        clips = moving_shapes(folder / "clips", pretrain=CLIPS["pretraining"], seed=77, **counts)["pretrain"]
        rows = []
        for clip in clips:
            colours = " and ".join(f"a {shape['colour']} shape" for shape in clip["shapes"] if shape["colour"])
            caption = clip["caption"] if kind == "whole" else colours
            if caption:
                rows.append({"video": clip["video"], "caption": caption})
        write_json(table, rows)
    return table


def untrained(seed: int, folder: Path) -> Path:
    """The model as it starts, with its processor, in a folder."""
    if not (folder / "config.json").exists():
        torch.manual_seed(seed)
        config = named_configuration("violet-tiny", vision_config=VISION, mvm_targets=TARGETS)
        config.num_video_frames = FRAMES
        processor = VideoTextProcessor.from_pretrained(pretrained("violet-tiny"))
        processor.video_processor.num_frames = FRAMES
        processor.save_pretrained(folder)
        VioletForPreTraining(config).save_pretrained(folder)
    return folder


def teacher(folder: Path) -> Path:
    """The shipped violet-tiny's video encoder by itself, in a folder."""
    if not (folder / "config.json").exists():
        VioletModel.from_pretrained(pretrained("violet-tiny")).video_encoder.vision_model.save_pretrained(folder)
    return folder


def pretrain(output: Path, name: str, seed: int) -> Path:
    """The folder of the variant's weights, trained if it is not there."""
    model, variant = output / f"{name}-{seed}" / "pretrained", VARIANTS[name]
    if not (model / "metrics.json").exists():
        data = {"name": "shapes", "source": "table", "path": str(captions(output / "captions", variant["caption"]))}
        targets: dict[str, dict[str, Any]] = {name: {} for name in TARGETS if f"mvm_{name}" in variant["objectives"]}
        if "3d_feature" in targets:
            targets["3d_feature"] = {"teacher": str(teacher(output / "teacher"))}
        settings = {
            "model": str(untrained(seed, output / f"untrained-{seed}")),
            "datasets": [data],
            "objectives": [{"share": 1, **variant["objectives"]}],
            "mvm_targets": targets,
            **variant["settings"],
            "word_ratio": 0.5,
            "num_negatives": 1,
            "batch_size": 32,
            "frame_cache_mb": 1024,
            "learning_rate": 1e-3,
            "learning_rate_schedule": "cosine",
            "warmup": 0.03,
            "weight_decay": 0.05,
            "output_dir": str(model),
            "max_steps": STEPS["pretraining"],
            "save_steps": STEPS["pretraining"],
            "seed": seed,
            "trackers": [],
        }
        recipe = output / f"{name}-{seed}.json"
        write_json(recipe, settings)
        subprocess.run([*VIOLET, "pretrain", str(recipe), "--resume"], check=True)
    return model


def finetune(output: Path, name: str, seed: int) -> dict[str, float]:
    """The accuracies after fine-tuning the variant's weights."""
    folder = output / f"{name}-{seed}" / "fine-tuned"
    if not (folder / "metrics.json").exists():
        model = pretrain(output, name, seed)
        options = finetuning_options(folder, seed, output / "questions", QUESTIONS_OF, STEPS[VARIANTS[name]["task"]])
        command = [*VIOLET, "finetune", f"--model={model}", f"--task={VARIANTS[name]['task']}", *options]
        subprocess.run(command, check=True)
    return json.loads((folder / "metrics.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/objectives_worth"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    print_medians("pre-training", options.variants, options.seeds, partial(finetune, options.output))


if __name__ == "__main__":
    main()

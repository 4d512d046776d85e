"""Checkpoints that carry their code, in a virtual environment without this package.

    python measurements/standalone.py [--folder outputs/standalone] [--clips FOLDER]

Makes an environment with transformers, torch, torchvision, av and pillow, of the versions that are installed here
(about three minutes and 7 GB), saves a model of each class with its code, starting from the shipped violet-tiny with
new heads drawn, and asks each through all of its pipelines, there and here (tests/pipelines/asking.py). Fails where
an answer differs, in whatever digit.
"""

import argparse
import importlib.metadata
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import AutoProcessor

import violet
from violet.data import moving_shapes

ASKING = Path(__file__).parents[1] / "tests" / "pipelines" / "asking.py"
NEEDED = ("transformers", "torch", "torchvision", "av", "pillow")
ANSWERS = ["disc", "square", "triangle", "cross", "ring", "yes", "no"]


def make_environment(folder: Path) -> Path:
    """A virtual environment, made if it is not there; its Python."""
    python = folder / "environment" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "environment"], check=True)
        wanted = [f"{name}=={importlib.metadata.version(name)}" for name in NEEDED]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def save_models(folder: Path, asked: dict) -> dict[str, int]:
    """A model of each class with its processor and code, in a folder of its name; the code's bytes."""
    source = violet.pretrained("violet-tiny")
    shutil.rmtree(folder, ignore_errors=True)
    for name in asked:
        torch.manual_seed(0)
        labels = {"id2label": dict(enumerate(ANSWERS)), "label2id": {word: i for i, word in enumerate(ANSWERS)}}
        model = getattr(violet, name).from_pretrained(source, **labels)
        model.save_pretrained(folder / name, with_code=True)
        AutoProcessor.from_pretrained(source).save_pretrained(folder / name, with_code=True)
    return {name: sum(file.stat().st_size for file in (folder / name).glob("*.py")) for name in asked}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/standalone"))
    parser.add_argument("--clips", type=Path, help="mp4 files, three of which are asked about; else drawn ones")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    clips = options.clips
    if clips is None:
        clips = folder / "shapes"
        moving_shapes(clips, train=3, validation=0, test=0, test_unseen=0, test_together=0)
    started = time.perf_counter()
    python = make_environment(folder)
    print(f"environment: {time.perf_counter() - started:.0f} s")
    asking = runpy.run_path(str(ASKING))
    sizes = save_models(folder / "models", asking["ASKED"])
    shutil.rmtree(folder / "modules", ignore_errors=True)
    started = time.perf_counter()
    subprocess.run(
        [python, ASKING, folder / "models", clips.resolve(), folder / "answers.json"],
        cwd=folder / "environment",
        env={**os.environ, "PYTHONPATH": "", "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    print(f"asked there: {time.perf_counter() - started:.0f} s")
    there = json.loads((folder / "answers.json").read_text())["answers"]
    here = json.loads(json.dumps(asking["ask"](folder / "models", sorted(map(str, clips.rglob("*.mp4")))[:3])))
    for name, tasks in here.items():
        for task, answers in tasks.items():
            same = "same" if there[name][task] == answers else "DIFFERENT"
            print(f"{name:28} {task:26} {sizes[name]:,} bytes of code: {same}")
    return int(there != here)


if __name__ == "__main__":
    sys.exit(main())

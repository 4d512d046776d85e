"""The path of `violet speed` of many clips that are asked about: from files to answers."""

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..modeling_violet import VioletForRetrieval
from .judged_paths import FRAMES, config_of, device
from .measuring import Case, Setting, Told

BATCH = 8
FIRST = 2 * BATCH
"""Clips whose time is taken off that of more: what starting the command takes is not told by a rate."""


def serving(setting: Setting) -> Iterator[Case | Told]:
    """Drawn mp4 clips through `violet predict`, and through `add` of video-text-retrieval, beside the bare encoder"""
    from transformers import pipeline

    from ..data.reading_ahead import workers_for

    (side, name), count = (64, "violet-tiny") if setting.quick else (224, "violet-v2-base"), 2 * BATCH
    model = save_model(name, side, setting.folder / "served")
    files = copies(setting.clips, count, setting.folder / "many")
    pipe: Any = pipeline("video-text-retrieval", model=model, device=device())
    pixels = pipe.processor.to_device(dict(pipe.processor(videos=files[:BATCH])), device())
    encoder = pipe.model.violet

    @torch.no_grad()
    def encode() -> None:
        """As many clips as there are, from pixels."""
        for _ in range(count // BATCH):
            encoder.embed_videos(encoder.encode_videos(**pixels))

    workers = workers_for(count, BATCH)
    for number in dict.fromkeys((0, workers)):

        def add(number: int = number) -> None:
            pipe.clear()
            pipe.add(files, batch_size=BATCH, num_workers=number)

        row = f"add, {number} workers"
        yield Case(row, add, count, "clips", encode, "the bare encoder", counted=False, elsewhere=True)
    few, many = setting.folder / "few", setting.folder / "many"
    copies(setting.clips, FIRST, few)
    copies(setting.clips, count + FIRST, many)
    found = []
    by_clock = replace(setting, clock="wall")  # the command is another process
    for _ in range(1 if setting.quick else 3):
        start, whole = (by_clock.time(partial(predict, model, clips)) for clips in (few, many))
        found.append((whole - start, by_clock.time(encode), start))
    seconds, _, start = (statistics.median(one) for one in zip(*found, strict=True))
    ratio = statistics.median(one / bare for one, bare, _ in found)
    numbers = {"ratio_to_the_bare_encoder": ratio, "seconds_of_the_first": start, "workers": workers}
    yield Told("violet predict", seconds, count, "clips", numbers)


def save_model(name: str, side: int, folder: Path) -> str:
    """A model for retrieval with embeddings before the fusion and its processor, of random weights."""
    from ..processing import VideoTextProcessor, VioletVideoProcessor, train_wordpiece_tokenizer

    model = VioletForRetrieval(config_of(name, projection_dim=128)).eval()
    frames = VioletVideoProcessor(size={"height": side, "width": side}, num_frames=FRAMES)
    model.save_pretrained(folder)
    VideoTextProcessor(train_wordpiece_tokenizer(["a clip moves"] * 8, 64), frames).save_pretrained(folder)
    return str(folder)


def copies(clips: tuple[str, ...], count: int, folder: Path) -> list[str]:
    """That many files of these clips, each with a name of its own: none is known to be another's copy."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number:04}.mp4" for number in range(count)]
    for number, file in enumerate(files):
        if not file.exists():
            shutil.copy(clips[number % len(clips)], file)
    return [str(file) for file in files]


def predict(model: str, clips: Path) -> None:
    """The command, over a folder of clips, in a process of its own."""
    command = [sys.executable, "-m", f"{__package__.partition('.')[0]}.cli", "predict", "--model", model]
    command += ["--video", str(clips), "--features", str(clips.parent / "features.npz"), "--batch_size", str(BATCH)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **threads})

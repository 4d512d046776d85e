"""`violet embed` killed at any call that changes the disk, and given again: the files of a call that nobody killed."""

import base64
import functools
import io
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from campaign import BrokenPromise, Promise, inputs
from small_runs import separate_run, start
from traced_process import Plan, traced, watch_from_here

WHEN = ("before", "half", "after")
CLIPS, IN_PART = 7, 2


def _make_clips(folder: Path) -> None:
    """A TSV: its pictures are decoded in the process itself, which is watched. One of them is cut off."""
    import numpy as np
    from PIL import Image

    chance, lines = np.random.default_rng(0), []
    for number in range(CLIPS):
        frames = []
        for _ in range(2):
            file = io.BytesIO()
            Image.fromarray(chance.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "JPEG")
            data = file.getvalue()
            frames.append(base64.b64encode(data[: len(data) // 2] if number == 4 else data).decode())
        lines.append("\t".join([f"clip{number}", *frames]))
    (folder / "clips.tsv").write_text("\n".join(lines) + "\n")


@functools.cache
def _embedder(folder: str) -> Any:
    """Loaded once: the processes are forked from this one."""
    from violet.commands.embedder import Embedder, Wanted
    from violet.evaluation.provenance import source_commit

    source_commit()  # it asks git, which must not be watched
    return Embedder(Wanted(folder, batch_size=2, skip_bad=True, workers=0))


def embed_into(folder: Path, watched: bool = False) -> int:
    """
    `violet embed` into `folder/output`; its status. The path is given from the folder on: too long a path holds no
    sockets, and the calls of the system would depend on where the folder is.
    """
    from violet.commands import embedding

    model, clips = str(start()), inputs("tsv-clips", _make_clips) / "clips.tsv"
    loaded = _embedder(model)
    arguments = embedding.EmbedArguments(
        *(str(clips), "output", model),
        clips_per_part=IN_PART,
        batch_size=2,
        workers=0,
        bad_samples="skip",
        max_bad_share=0.5,
    )
    with chdir(folder), patch.object(embedding, "Embedder", lambda wanted: loaded):
        if watched:
            watch_from_here()
        embedding.embed(arguments)
    return 0


def files_of(folder: Path) -> dict[str, bytes]:
    """All that it holds, by name."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@functools.cache
def _undisturbed() -> tuple[dict[str, bytes], list[str]]:
    """The files of a call that was not killed, and its calls."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, separate_run():
        status, calls = traced(lambda: embed_into(Path(folder), watched=True), Plan())
        expected = files_of(Path(folder) / "output")
    parts = [f"part-{number:06}.parquet" for number in range(-(-CLIPS // IN_PART))]
    if status or sorted(expected) != ["failed_samples.jsonl", "manifest.json", *parts]:
        raise BrokenPromise(f"an undisturbed call ended with {status} and left {', '.join(expected)}")
    return expected, calls


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """A call that is killed before, half way through or after one of its calls of the system, and the next call."""
    import torch

    torch.set_num_threads(1)
    _embedder(str(start()))
    expected, calls = _undisturbed()
    turn, number = divmod(seed, len(calls))
    at, when = (number * 7919 + len(calls) // 3) % len(calls), WHEN[(turn + number) % len(WHEN)]
    where, output = f"killed {when} call {at} of {len(calls)}, {calls[at]}", folder / "output"
    status, _ = traced(lambda: embed_into(folder, watched=True), Plan(at, kill=when))
    if status != -9 and not (at == len(calls) - 1 and when != "before"):
        raise BrokenPromise(f"not {where}: {status}")
    left = files_of(output) if output.exists() else {}
    parts = {name: content for name, content in left.items() if name.startswith("part-")}
    for name, content in parts.items():
        if content != expected[name]:
            raise BrokenPromise(f"{where}: {name} has the name of a part, and is not one")
    embed_into(folder)
    found = files_of(output)
    if found != expected:
        other = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise BrokenPromise(f"{where}, and given again: {', '.join(other)} differ")
    return {"killed": 1, "parts kept": len(parts)}


@contextmanager
def in_place() -> Iterator[None]:
    """Parts are written under their own names, piece by piece."""
    from violet.commands import embedding

    with patch.object(embedding, "new_file", lambda path: open(path, "wb", buffering=0)):
        yield


MUTANTS = {"parts are written in place": in_place}
PROMISE = Promise(
    "killed_embeddings",
    "`violet embed` killed at every call that changes the disk, and given again: the files of an undisturbed call",
    255,
    trial,
    short_seeds=12,
    code=("commands", "core", "data"),
)

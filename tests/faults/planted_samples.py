"""
Bad samples planted in a table, or in shards that two processes read as a stream: the run's list holds these and no
others, each with its file and reason.
"""

import io
import json
import multiprocessing
import random
import shutil
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from campaign import BrokenPromise, Promise
from small_runs import CLIPS, captioned, recipe, separate_run, trainer

WAYS = ("cut", "text", "empty", "gone", "folder")


def plant(folder: Path, chance: random.Random, share: float) -> tuple[list[dict[str, str]], set[int], list[Path]]:
    """Rows of good clips of which this share is spoilt, the spoilt ones' numbers, and files that go in the run."""
    clips, captions = captioned()
    spoilt = set(chance.sample(range(CLIPS), round(CLIPS * share)))
    rows, gone = [], []
    for number, row in enumerate(captions):
        target, content = folder / f"{number:03d}.mp4", Path(row["video"]).read_bytes()
        rows.append({"id": f"clip {number}", "video": str(target), "caption": row["caption"]})
        way = chance.choice(WAYS) if number in spoilt else None
        if way in (None, "gone"):
            shutil.copy(row["video"], target)
            gone += [target] if way else []
        elif way == "folder":
            target.mkdir()
        else:
            cut = content[: chance.randrange(1, 60)]
            target.write_bytes({"cut": cut, "text": b"no clip\n" * 30, "empty": b""}[way])
    return rows, spoilt, gone


def finetune(folder: Path, table: Path, borne: float, workers: int, size: int, gone: list[Path]) -> None:
    """One epoch of the real Trainer."""
    steps = {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": size}
    data = {"bad_samples": "skip", "max_bad_share": borne}
    run = trainer(folder, table, data, dataloader_num_workers=workers, **steps)
    for file in gone:
        file.unlink()
    run.train()


def pretrain(folder: Path, table: Path, borne: float, workers: int, size: int, gone: list[Path]) -> None:
    """One epoch of pre-training."""
    from violet.training.pretraining import Pretraining
    from violet.training.recipe import read_recipe

    changes = {"bad_samples": "skip", "max_bad_share": borne, "num_workers": workers, "eval_batches": 0}
    size = 4 if size < 6 else 8
    data = [{"name": "clips", "source": "table", "path": str(table)}]
    given = recipe(folder / "run", datasets=data, batch_size=size, max_steps=CLIPS // size, **changes)
    run = Pretraining(read_recipe(given))
    for file in gone:
        file.unlink()
    run.run(resume=False)


class Read:
    """In a worker: a batch of a stream -> which of its samples cannot be read, and how many there are."""

    def __init__(self) -> None:
        from violet.data import ClipReader
        from violet.processing import VioletVideoProcessor

        self.reader = ClipReader(VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=2))

    def __call__(self, rows: list[dict[str, Any]]) -> tuple[int, list[Any]]:
        from violet.data.loading import SAMPLE_ERRORS, FailedSample

        failed = []
        for row in rows:
            try:
                self.reader.read(row["clip"], name=row["video"])
            except SAMPLE_ERRORS as error:
                failed.append(FailedSample("stream", None, row["video"], str(error)))
        return len(rows), failed


def stream(shards: Path, folder: Path, rank: int, workers: int, size: int) -> None:
    """What one of two processes does: an epoch of its part of a stream, in a loop of its own."""
    import torch

    from violet.data import LastingLoader, ShardStream
    from violet.data.loading import FailedSamples

    torch.set_num_threads(1)
    work, failed, tried = Read(), FailedSamples(folder), 0
    rows = ShardStream(shards, size, seed=1, rank=rank, world_size=2, lanes=2, block=4)
    plain = torch.utils.data.DataLoader(rows, batch_size=None, num_workers=workers, collate_fn=work)
    for count, bad in LastingLoader(plain, work.reader.held, work.reader.stall_limit):
        tried += count
        failed.add(bad)
    (folder / f"tried_{rank}").write_text(str(tried))


def streams(seed: int, folder: Path) -> dict[str, Any]:
    """Two processes over shards of clips and of frames, with 0 to 30 % bad samples."""
    from violet.data.loading import FailedSamples

    chance = random.Random(seed)
    spoilt = _shards(folder, chance, round(CLIPS * chance.uniform(0, 0.3)))
    context, workers, size = multiprocessing.get_context("fork"), chance.randint(0, 2), chance.randint(2, 8)
    both = [
        context.Process(target=stream, args=(folder / "set" / "*.tar", folder, rank, workers, size)) for rank in (0, 1)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()
    if [one.exitcode for one in both] != [0, 0]:
        raise BrokenPromise(f"the processes ended by {[one.exitcode for one in both]}")
    tried = sum(int((folder / f"tried_{rank}").read_text()) for rank in (0, 1))
    failed = FailedSamples(folder)
    found = failed.all()
    listed = sorted(one.video.rpartition("#")[2] for one in found)
    if listed != sorted(spoilt) or tried != CLIPS:
        raise BrokenPromise(f"{sorted(spoilt)} of {CLIPS} are bad; listed are {listed} of {tried}")
    for one in found:
        if one.video not in one.reason:
            raise BrokenPromise(f"{one.video} is listed with the reason {one.reason}")
    share = len(spoilt) / CLIPS
    borne = chance.uniform(0, share) if share and chance.random() < 0.5 else chance.uniform(share + 1e-6, 1)
    if (failed.excess({"stream"}, tried, CLIPS, borne) is not None) != (share > borne):
        raise BrokenPromise(f"{len(spoilt)} of {CLIPS} are bad, and {borne:.3f} are borne")
    return {"planted": len(spoilt), "listed": len(listed), "in streams": len(listed)}


def _shards(folder: Path, chance: random.Random, bad: int) -> set[str]:
    """Writes shards of files and of single frames; the names of those that are spoilt."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 24), "green").save(file, "jpeg")
    spoilt, picture = set(chance.sample(range(CLIPS), bad)), file.getvalue()
    (folder / "set").mkdir()
    _, captions = captioned()
    for shard in range(3):
        with tarfile.open(folder / "set" / f"{shard}.tar", "w") as tar:
            for number, row in list(enumerate(captions))[shard::3]:
                if number % 2:
                    files = {"mp4": Path(row["video"]).read_bytes()}
                else:
                    files = {f"{place}.jpg": picture for place in range(3)}
                if number in spoilt:
                    for name, content in files.items():
                        files[name] = chance.choice((content[: chance.randrange(1, 60)], b"no clip\n" * 30, b""))
                files["json"] = json.dumps({"caption": row["caption"]}).encode()
                for name, content in files.items():
                    member = tarfile.TarInfo(f"clip {number}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return {f"clip {number}" for number in spoilt}


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """
    An epoch over a table with 0 to 30 % bad samples, by 0 to 2 workers, of which each third bears fewer than there
    are; each third seed is one of streams.
    """
    from violet.training.guards import TooManyBadSamplesError

    if seed % 3 == 2:
        return streams(seed, folder)
    chance = random.Random(seed)
    rows, spoilt, gone = plant(folder, chance, chance.uniform(0, 0.3))
    table = folder / "rows.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    share = len(spoilt) / CLIPS
    borne = chance.uniform(0, share) if share and seed % 9 < 3 else chance.uniform(share + 1e-6, 1)
    about = f"{sorted(spoilt)} of {CLIPS} are bad, {borne:.3f} are borne"
    stopped = None
    with separate_run():
        try:
            run = finetune if seed % 2 else pretrain
            run(folder, table, borne, chance.randint(0, 2), chance.randint(2, 8), gone)
        except TooManyBadSamplesError as error:
            stopped = str(error)
    path = folder / "run/failed_samples.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    listed = sorted(line["row"] for line in found)
    if (stopped is not None) != (share > borne):
        raise BrokenPromise(f"{about}: the run ended by {stopped}")
    if stopped is None and listed != sorted(spoilt):
        raise BrokenPromise(f"{about}: listed are {listed}")
    if stopped is not None and not (spoilt.issuperset(listed) and len(set(listed)) > borne * CLIPS):
        raise BrokenPromise(f"{about}: the run stopped when {listed} were listed")
    for line in found:
        if line["video"] != rows[line["row"]]["video"] or line["video"] not in line["reason"]:
            raise BrokenPromise(f"row {line['row']} is listed as {line}")
    return {"planted": len(spoilt), "listed": len(found), "stopped": int(stopped is not None)}


@contextmanager
def forgets_the_last():
    """A list that loses the last sample of each batch."""
    from violet.data.loading import FailedSamples

    whole = FailedSamples.add
    with patch.object(FailedSamples, "add", lambda self, samples: whole(self, samples[:-1])):
        yield


@contextmanager
def bears_all():
    """A run that bears any share."""
    from violet.data.loading import FailedSamples

    with patch.object(FailedSamples, "excess", lambda *given: None):
        yield


MUTANTS = {"the list loses a sample": forgets_the_last, "every share is borne": bears_all}
PROMISE = Promise(
    "planted_samples",
    "planted bad samples, 0-30 %, in tables and streams: the list equals them, and a run stops above the share borne",
    200,
    trial,
    short_seeds=3,
)

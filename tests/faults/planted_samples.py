"""Bad samples planted in a table: the run's list holds these and no others, each with its file and reason."""

import json
import random
import shutil
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


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """An epoch over a table with 0 to 30 % bad samples, by 0 to 2 workers; each third bears fewer than there are."""
    from violet.training.guards import TooManyBadSamplesError

    chance = random.Random(seed)
    rows, spoilt, gone = plant(folder, chance, chance.uniform(0, 0.3))
    table = folder / "rows.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    share = len(spoilt) / CLIPS
    borne = chance.uniform(0, share) if share and seed % 3 == 0 else chance.uniform(share + 1e-6, 1)
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
    "planted bad samples, 0-30 %: the list equals them, and the run stops above the share that is borne",
    200,
    trial,
)

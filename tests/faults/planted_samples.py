"""Bad samples planted in a table: the run's list holds these and no others, each with its file and reason."""

import json
import random
import shutil
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from campaign import BrokenPromise, Promise, inputs

ROWS = 40
WAYS = ("cut", "text", "empty", "absent", "folder")


def _shapes(folder: Path) -> None:
    from violet.data import moving_shapes

    moving_shapes(folder, train=ROWS, validation=1, test=1, test_unseen=0, test_together=0)


def plant(folder: Path, chance: random.Random, share: float) -> tuple[list[dict], dict[int, str]]:
    """Rows of good clips of which this share is spoilt, and the spoilt ones' numbers with the way."""
    good = sorted(inputs("shapes", _shapes).rglob("*.mp4"))[:ROWS]
    spoilt = {number: chance.choice(WAYS) for number in chance.sample(range(ROWS), round(ROWS * share))}
    rows = []
    for number, clip in enumerate(good):
        target, content = folder / f"{number:03d}.mp4", clip.read_bytes()
        rows.append({"video": str(target), "id": number})
        way = spoilt.get(number)
        if way is None:
            shutil.copy(clip, target)
        elif way == "folder":
            target.mkdir()
        elif way != "absent":
            target.write_bytes(
                {"cut": content[: chance.randrange(1, 60)], "text": b"no clip\n" * 30, "empty": b""}[way]
            )
    return rows, spoilt


def trial(seed: int, folder: Path) -> dict[str, int]:
    """One pass over a table with 0 to 30 % bad samples, with 0 to 2 workers."""
    from violet.core.weights import pretrained
    from violet.data.loading import FailedSamples
    from violet.processing import VideoTextProcessor
    from violet.training.collating import VideoTextCollator
    from violet.training.sampling import DrawnRows, GroupedSampler, NumberedRows

    class Videos(VideoTextCollator):
        def texts(self, rows, videos):
            return {"ids": torch.tensor([row["id"] for row in rows])}

    chance = random.Random(seed)
    rows, spoilt = plant(folder, chance, chance.uniform(0, 0.3))
    collator = Videos(VideoTextProcessor.from_pretrained(pretrained("violet-tiny")), skip_bad=True)
    collator.spare_rows = NumberedRows(rows)
    failed, seen = FailedSamples(folder / "run"), []
    loader = torch.utils.data.DataLoader(
        DrawnRows(rows, seed),
        batch_size=chance.randint(1, 8),
        sampler=GroupedSampler([row["video"] for row in rows], seed),
        num_workers=chance.randint(0, 2),
        collate_fn=collator,
    )
    for batch in loader:
        failed.add(batch.pop("failed", []))
        seen += batch["ids"].tolist()
    path = folder / "run/failed_samples.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if sorted(line["row"] for line in found) != sorted(spoilt):
        raise BrokenPromise(f"planted {sorted(spoilt)}, listed {sorted(line['row'] for line in found)}")
    for line in found:
        if line["video"] != rows[line["row"]]["video"] or line["video"] not in line["reason"]:
            raise BrokenPromise(f"row {line['row']} is listed as {line}")
    if set(seen) != set(range(ROWS)).difference(spoilt):
        raise BrokenPromise(f"planted {sorted(spoilt)}, trained on {sorted(set(seen))}")
    return {"planted": len(spoilt), "listed": len(found)}


@contextmanager
def forgets_the_last():
    """A list that loses the last sample of each batch."""
    from violet.data.loading import FailedSamples

    whole = FailedSamples.add
    with patch.object(FailedSamples, "add", lambda self, samples: whole(self, samples[:-1])):
        yield


MUTANTS = {"the list loses a sample": forgets_the_last}
PROMISE = Promise("planted_samples", "planted bad samples, 0-30 %: the list equals them", 200, trial, short_seeds=2)

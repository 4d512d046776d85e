"""Streams of shards: each clip once, in an order that nothing but seed and epoch decides, and that resumes exactly."""

import json
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader

from violet.data import ShardStream, TableError, prepare_shards
from violet.processing.decoding import decode_video

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def shards(tmp_path_factory, picture, write_tsv):
    """47 clips in shards of unequal sizes."""
    folder = tmp_path_factory.mktemp("stream")
    rows = [[f"clip{number}", *[picture(number)] * (1 + number % 3)] for number in range(47)]
    prepare_shards(write_tsv(folder / "clips.tsv", rows), folder / "set", shard_size=0.012)
    return folder / "set"


def ids(stream, workers=0, **settings):
    return [[row["id"] for row in batch] for batch in DataLoader(stream, None, num_workers=workers, **settings)]


def test_order_is_a_pure_function_of_seed_and_epoch_whatever_the_workers(shards):
    orders = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        stream = ShardStream(shards, 4, seed=seed)
        stream.set_epoch(epoch)
        batches = [ids(stream, workers) for workers in (0, 1, 2, 4)]
        assert batches[0] == batches[1] == batches[2] == batches[3]
        flat = [name for batch in batches[0] for name in batch]
        assert len(batches[0]) == len(stream) and sorted(flat) == sorted(f"clip{number}" for number in range(47))
        orders[seed, epoch] = tuple(flat)
    assert len(set(orders.values())) == 3
    assert orders[0, 0] != tuple(f"clip{number}" for number in range(47))


@pytest.mark.parametrize("workers", [0, 2, 4])
def test_a_stream_goes_on_at_any_batch(shards, workers):
    stream = ShardStream(shards, 3, seed=5)
    stream.set_epoch(2)
    whole = list(DataLoader(stream, None, num_workers=workers))
    positions = range(len(whole) + 1) if workers == 0 else (1, 6, len(whole) - 1)
    for position in positions:
        again = ShardStream(shards, 3, seed=5)
        again.set_epoch(2, position)
        rest = list(DataLoader(again, None, num_workers=workers))
        seen, expected = (
            [(row["video"], row["draw"]) for batch in batches for row in batch] for batches in (rest, whole[position:])
        )
        assert seen == expected


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_share_an_epoch_without_loss_or_repetition(shards, processes):
    streams = [ShardStream(shards, 4, rank=rank, world_size=processes) for rank in range(processes)]
    batches = [ids(stream) for stream in streams]
    flat = [name for own in batches for batch in own for name in batch]
    assert sorted(flat) == sorted(f"clip{number}" for number in range(47))
    assert [len(own) for own in batches] == [len(stream) for stream in streams]
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    assert {stream.common_length for stream in streams} == {min(map(len, batches))}


def test_workers_that_stay_follow_the_epoch(shards):
    stream = ShardStream(shards, 4)
    loader = DataLoader(stream, None, num_workers=2, persistent_workers=True)
    orders = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        orders.append([row["id"] for batch in loader for row in batch])
        alone = ShardStream(shards, 4)
        alone.set_epoch(epoch)
        assert orders[-1] == [name for batch in ids(alone) for name in batch]
    assert orders[0] != orders[1]


def test_a_clip_comes_decodable_with_its_rows(shards, tmp_path, picture):
    stream = ShardStream(shards, 4, lanes=1, block=1)
    for row in next(iter(stream)):
        number = int(row["id"].removeprefix("clip"))
        frames = decode_video(row["clip"]).frames
        assert len(frames) == 1 + number % 3 and abs(frames[..., 0].mean() - number) < 3

    lines = [{"video": "a.jpg", "caption": f"caption {number}"} for number in range(10)]
    (tmp_path / "a.jpg").write_bytes(picture(3))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    prepare_shards(tmp_path / "a.jsonl", tmp_path / "set")
    stream = ShardStream(tmp_path / "set", 4, rows_per_clip=3)
    drawn = []
    for epoch in range(4):
        stream.set_epoch(epoch)
        (batch,) = stream
        drawn.append(tuple(row["caption"] for row in batch))
    assert {len(set(captions)) for captions in drawn} == {3} and len(set(drawn)) > 1
    assert len({row["draw"] for row in batch}) == 3


@pytest.mark.parametrize("in_workers", [False, pytest.param(True, marks=pytest.mark.proof)])
def test_workers_that_cannot_share_the_lanes_are_refused(shards, in_workers, monkeypatch):
    """A proof: in real ones, which torch waits 5 seconds for, each, when it has heard of the error."""
    if not in_workers:
        monkeypatch.setattr("torch.utils.data.get_worker_info", lambda: SimpleNamespace(id=1, num_workers=3))
    with pytest.raises(ValueError, match="3 workers cannot share 4 lanes"):
        ids(ShardStream(shards, 4), workers=3 if in_workers else 0)


def test_shards_that_are_not_as_counted_are_refused(shards, tmp_path):
    copy = tmp_path / "set"
    copy.mkdir()
    for path in shards.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((copy / "manifest.json").read_text())
    for change in (1, -1):
        facts = next(iter(manifest["shards"].values()))
        changed = {**manifest, "shards": {**manifest["shards"]}}
        changed["shards"][next(iter(manifest["shards"]))] = {**facts, "samples": facts["samples"] + change}
        (copy / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(TableError, match=r"shard-000000.tar: it has not the \d+ samples that were counted"):
            ids(ShardStream(copy, 4))

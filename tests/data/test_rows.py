"""One door for everybody's data: tables, folders, the Hub's data sets; the same checks, and errors that say where."""

import json
import os
from pathlib import Path

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from violet.data import TableError, open_video, prepare_shards, read_rows, rows_digest
from violet.training import TASKS

CAPTIONS = ("video", "caption")


@pytest.fixture
def clips(shapes_folder, tmp_path) -> Path:
    """A folder with three real clips, one of them as frames, and texts beside them."""
    from PIL import Image

    from violet.processing.decoding import decode_video

    folder = tmp_path / "clips"
    folder.mkdir()
    for name, path in zip("ab", sorted(shapes_folder.rglob("*.mp4")), strict=False):
        (folder / f"{name}.mp4").write_bytes(path.read_bytes())
    (folder / "c").mkdir()
    for number, frame in enumerate(decode_video(str(folder / "a.mp4")).frames):
        Image.fromarray(frame).save(folder / f"c/{number}.png")
    (folder / "a.txt").write_text("one\n\ntwo\n")
    (folder / "b.txt").write_text("three")
    (folder / "c.txt").write_text("four")
    (folder / "notes.md").write_text("nothing of ours")
    return folder


def test_a_folder_of_clips_has_its_captions_beside_them(clips):
    rows = read_rows(clips, CAPTIONS)
    assert list(zip(rows["id"], rows["caption"], strict=True)) == [
        ("a", "one"), ("a", "two"), ("b", "three"), ("c", "four"),
    ]  # fmt: skip
    assert list(rows["video"]) == [str(clips / name) for name in ("a.mp4", "a.mp4", "b.mp4", "c")]
    (clips / "b.txt").unlink()
    with pytest.raises(TableError, match=r"clips, row 3: column 'caption' is missing or empty \(it has id, video\)"):
        read_rows(clips, CAPTIONS)
    assert len(read_rows(clips, ("video",))) == 4
    (clips / "b.mov").touch()
    with pytest.raises(TableError, match=r"b.mov and b.mp4 are two clips of one name"):
        read_rows(clips, ("video",))


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_a_folder_with_metadata_is_read_by_it(clips, name):
    rows = [{"file_name": "b.mp4", "caption": "x"}, {"file_name": "c", "caption": "y"}]
    if name.endswith("csv"):
        (clips / name).write_text("file_name,caption\nb.mp4,x\nc,y\n")
    elif name.endswith("jsonl"):
        (clips / name).write_text("\n".join(map(json.dumps, rows)))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), clips / name)
    expected = [{"video": str(clips / row["file_name"]), "caption": row["caption"]} for row in rows]
    assert read_rows(clips, CAPTIONS).to_list() == expected


def test_a_parquet_table_is_read_as_the_others_are(clips):
    rows = [{"video": "a.mp4", "question": "what?", "options": ["x", "y"], "answer": 1}] * 2500
    parquet.write_table(pyarrow.Table.from_pylist(rows), clips / "mc.parquet")
    task = TASKS["multiple-choice"]
    found = read_rows(clips / "mc.parquet", task.columns, check=task.check)
    assert len(found) == 2500 and found[2499] == {**rows[0], "video": str(clips / "a.mp4")}
    whole = (clips / "mc.parquet").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"video,caption\n"):
        (clips / "mc.parquet").write_bytes(content)
        with pytest.raises(TableError, match="mc.parquet: not a Parquet file, or a damaged one"):
            read_rows(clips / "mc.parquet", task.columns)


def test_a_table_may_name_clips_in_containers(clips, tsv, tmp_path):
    prepare_shards(clips, tmp_path / "set")
    table = tmp_path / "table.jsonl"

    def write(*videos: str) -> None:
        table.write_text("\n".join(json.dumps({"video": video, "caption": "x"}) for video in videos))

    write("clips.tsv#a", "set/shard-000000.tar#b", "clips/c", "https://host/clip.mp4", f"{tsv}#c#1")
    rows = read_rows(table, CAPTIONS)
    assert list(rows["video"]) == [
        f"{tsv}#a", f"{tmp_path}/set/shard-000000.tar#b", f"{clips}/c", "https://host/clip.mp4", f"{tsv}#c#1",
    ]  # fmt: skip
    assert open_video(rows[1]["video"]) == (clips / "b.mp4").read_bytes()
    for video in ("clips.tsv#z", "none.tsv#a", "set/shard-000000.tar#z"):
        write("clips.tsv#a", video)
        with pytest.raises(TableError, match=rf"table.jsonl, row 2: there is no video .*{video} \(1 of 2 rows"):
            read_rows(table, CAPTIONS)
    (tmp_path / "odd.tsv#a").mkdir()
    assert open_video(str(tmp_path / "odd.tsv#a")) == str(tmp_path / "odd.tsv#a"), "a path that is there is that path"


def test_values_of_several_kinds_in_a_column_are_refused(clips):
    path = clips / "mixed.jsonl"
    path.write_text("\n".join(json.dumps({"video": "a.mp4", "caption": "x", "n": n}) for n in (1, "two")))
    with pytest.raises(TableError, match=r"mixed.jsonl: the values of column 'n' are of several kinds"):
        read_rows(path, CAPTIONS)
    many = [json.dumps({"video": "a.mp4", "caption": "x", **({"n": [1]} if i == 9000 else {})}) for i in range(9001)]
    path.write_text("\n".join(many))
    rows = read_rows(path, CAPTIONS)
    assert len(rows) == 9001 and rows[0]["n"] is None and rows[9000]["n"] == [1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"video,caption\na.mp4,caf\xe9\n", r"a.csv: not UTF-8 text"),
        ("a.jsonl", b'{"video": "a.mp4", "caption": "caf\xe9"}\n', r"a.jsonl: not UTF-8 text"),
        ("a.csv", b"video,caption\n\0", r"a.csv, row 2: column 'caption'|a.csv: not a CSV"),
        ("a.jsonl", b"[" * 100_000, r"a.jsonl, line 1: not JSON"),
        ("a.csv", b"video,caption\na.tsv#x,y\n", r"a.tsv: the file has no lines"),
    ],
)
def test_a_damaged_table_is_refused_by_place(clips, name, content, message):
    (clips / name).write_bytes(content)
    (clips / "a.tsv").touch()
    with pytest.raises(TableError, match=message):
        read_rows(clips / name, CAPTIONS)


def test_what_nobody_can_read_is_said(clips, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "empty", r"empty: no clips"),
        ("https://host/table.csv", r"of what lies behind a URL, shards are read"),
        (f"{tmp_path}/txt.json@train", r"its pictures are needed too"),
    ):
        with pytest.raises(TableError, match=message):
            read_rows(source, CAPTIONS)


def test_the_digest_tells_rows_apart(clips):
    path = clips / "t.jsonl"
    digests = set()
    for caption in ("x", "y", "x"):
        path.write_text(json.dumps({"video": "a.mp4", "caption": caption}))
        digests.add(rows_digest(read_rows(path, CAPTIONS)))
    assert len(digests) == 2


def test_data_sets_of_the_hub_are_read(clips, tmp_path, monkeypatch):
    """A local folder stands in for the Hub: `load_dataset` takes both."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "table"
    folder.mkdir()
    for split in ("train", "test"):
        line = {"video": str(clips / "a.mp4"), "caption": f"of {split}"}
        (folder / f"{split}.jsonl").write_text(json.dumps(line))
    assert read_rows(f"hub:{folder}@test", CAPTIONS).to_list() == [
        {"video": str(clips / "a.mp4"), "caption": "of test"}
    ]
    for source, message in (
        (f"hub:{folder}", r"which split\? Write hub:.*@train; it has train, test"),
        (f"hub:{folder}@val", r"cannot be loaded: .*val"),
        (f"hub:{folder}:other@train", r"cannot be loaded: .*other"),
        (f"hub:{tmp_path}/none", r"none: cannot be loaded"),
    ):
        with pytest.raises(TableError, match=message):
            read_rows(source, CAPTIONS)


def test_videos_inside_of_a_data_set_of_the_hub_are_read(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    embedded = [
        {"video": {"bytes": (clips / f"{name}.mp4").read_bytes(), "path": f"{name}.mp4"}, "caption": name}
        for name in "ab"
    ]
    features = datasets.Features({"video": datasets.Video(decode=False), "caption": datasets.Value("string")})
    folder = tmp_path / "embedded"
    folder.mkdir()
    datasets.Dataset.from_list(embedded, features=features).to_parquet(str(folder / "train.parquet"))
    rows = read_rows(f"hub:{folder}", CAPTIONS)
    assert list(rows["video"]) == [f"hub:{folder}#0", f"hub:{folder}#1"]
    assert open_video(rows[1]["video"]) == (clips / "b.mp4").read_bytes()
    with pytest.raises(TableError, match=r"#2: there is no such row; there are 2"):
        open_video(f"hub:{folder}#2")
    prepare_shards(f"hub:{folder}", tmp_path / "set")
    packed = read_rows(tmp_path / "set", CAPTIONS)
    assert open_video(packed[1]["video"]) == (clips / "b.mp4").read_bytes()
    assert os.listdir(tmp_path / "set") and list(packed["caption"]) == ["a", "b"]

"""`violet prepare shards` and `frames`: any source, the same bytes always, and a killed run goes on."""

import json
import multiprocessing
import os
import signal
import tarfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from violet import pretrained
from violet.cli import main
from violet.core.files import sha256
from violet.data import TableError, open_video, prepare_frames, prepare_shards, read_rows
from violet.processing import VioletVideoProcessor
from violet.processing.decoding import decode_video
from violet.processing.video_processing_violet import evenly_spaced_indices


@pytest.fixture
def table(shapes_folder, tmp_path) -> Path:
    """Twelve drawn clips, real mp4 files, with two captions each; their paths are relative."""
    videos = sorted(shapes_folder.rglob("*.mp4"))[:12]
    lines = [
        json.dumps({"video": os.path.relpath(video, tmp_path), "id": f"{number}.x/y", "caption": f"{number} {word}"})
        for word in ("one", "two")
        for number, video in enumerate(videos)
    ]
    path = tmp_path / "clips.jsonl"
    path.write_text("\n".join(lines))
    return path


def sums(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.glob("*.tar"))}


def test_a_clip_is_stored_once_with_all_its_rows(table, tmp_path):
    manifest = prepare_shards(table, tmp_path / "set")
    assert (manifest["samples"], manifest["rows"], manifest["skipped"]) == (12, 24, 0)
    with tarfile.open(tmp_path / "set/shard-000000.tar") as tar:
        names = tar.getnames()
    assert len(names) == 24 and names[:2] == ["0%2Ex%2Fy.mp4", "0%2Ex%2Fy.json"]
    before, after = read_rows(table, ("video", "caption")), read_rows(tmp_path / "set", ("video", "caption"))
    assert sorted(zip(before["id"], before["caption"], strict=True)) == sorted(
        zip(after["id"], after["caption"], strict=True)
    )
    files = dict(zip(before["id"], before["video"], strict=True))
    for row in after:
        assert open_video(row["video"]) == Path(files[row["id"]]).read_bytes()


def test_the_manifest_tells_what_is_there_and_the_same_rows_give_the_same_bytes(table, tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        prepare_shards(table, tmp_path / name, shard_size=0.02, workers=workers)
    manifest = json.loads((tmp_path / "one/manifest.json").read_text())
    assert sums(tmp_path / "one") == sums(tmp_path / "two") and len(manifest["shards"]) > 2
    assert {name: facts["sha256"] for name, facts in manifest["shards"].items()} == sums(tmp_path / "one")
    for name, facts in manifest["shards"].items():
        path = tmp_path / "one" / name
        assert facts["bytes"] == path.stat().st_size
        with tarfile.open(path) as tar:
            assert facts["samples"] == sum(member.name.endswith(".mp4") for member in tar)
    assert sum(facts["samples"] for facts in manifest["shards"].values()) == manifest["samples"] == 12
    assert sum(facts["rows"] for facts in manifest["shards"].values()) == manifest["rows"] == 24
    assert {path.suffix for path in (tmp_path / "one").iterdir()} == {".tar", ".json"}


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_killed_run_leaves_whole_shards_and_the_same_call_goes_on(tmp_path, write_tsv, picture):
    tsv = write_tsv(tmp_path / "clips.tsv", [[f"clip{number}", picture(number % 100)] for number in range(2000)])
    prepare_shards(tsv, tmp_path / "whole", shard_size=0.02)
    expected = sums(tmp_path / "whole")
    assert len(expected) > 20
    folder = tmp_path / "killed"
    context = multiprocessing.get_context("fork")
    run = context.Process(target=prepare_shards, args=(tsv, folder), kwargs={"shard_size": 0.02, "workers": 2})
    run.start()
    while len(sums(folder)) < 3:
        assert run.is_alive()
        time.sleep(0.01)
    children = psutil.Process(run.pid).children()
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    assert len(children) >= 2 and not psutil.wait_procs(children, timeout=30)[1], "workers end with their parent"
    done = sums(folder)
    assert 3 <= len(done) < len(expected) and done.items() <= expected.items()
    with pytest.raises(TableError, match=r"manifest.json: absent, so the shards beside it are not complete"):
        read_rows(folder, ("video",))
    times = {name: (folder / name).stat().st_mtime_ns for name in done}
    prepare_shards(tsv, folder, shard_size=0.02, workers=2)
    assert sums(folder) == expected
    kept = [name for name in done if (folder / name).stat().st_mtime_ns == times[name]]
    assert len(kept) >= len(done) - 2, "each worker may have been between a shard and the note of it"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_damaged_shard_is_made_again_and_another_call_is_refused(table, tmp_path):
    folder = tmp_path / "set"
    prepare_shards(table, folder, shard_size=0.02)
    expected = sums(folder)
    damaged = bytearray((folder / "shard-000001.tar").read_bytes())
    damaged[700] ^= 1
    (folder / "shard-000001.tar").write_bytes(damaged)
    prepare_shards(table, folder, shard_size=0.02)
    assert sums(folder) == expected
    with pytest.raises(FileExistsError, match="holds what another source, or other settings, gave"):
        prepare_shards(table, folder, shard_size=0.01)
    with pytest.raises(FileExistsError, match="holds something else"):
        prepare_shards(table, tmp_path)
    assert sums(folder) == expected


def test_a_clip_that_cannot_be_read_is_named_or_left_out_and_counted(tmp_path, write_tsv, picture, caplog):
    rows = [["a", picture(1)], ["b", "no base64!"], ["c", b"no picture"], ["d", picture(2)]]
    tsv = write_tsv(tmp_path / "clips.tsv", rows)
    for prepare, settings in ((prepare_shards, {}), (prepare_frames, {"num_frames": 1})):
        for workers in (1, 2):
            with pytest.raises(TableError, match=r"clips.tsv, line 2 \(id 'b'\), frame 1: bad base64"):
                prepare(tsv, tmp_path / f"raised-{prepare.__name__}", workers=workers, **settings)
    manifest = prepare_shards(tsv, tmp_path / "set", bad_samples="skip", workers=2)
    assert (manifest["samples"], manifest["skipped"]) == (2, 2)
    skipped = manifest["shards"]["shard-000000.tar"]["skipped"]
    assert [clip["key"] for clip in skipped] == ["b", "c"] and "no picture" in skipped[1]["reason"]
    assert "2 of 4 clips could not be read and are left out; the first: " in caplog.text
    assert list(read_rows(tmp_path / "set", ("video",))["id"]) == ["a", "d"]
    frames = prepare_frames(tsv, tmp_path / "frames", 1, bad_samples="skip")
    assert (frames.rows, frames.skipped) == (2, 2) and (tmp_path / "frames/skipped.json").is_file()
    with pytest.raises(TableError, match="none of its clips can be read"):
        prepare_shards(write_tsv(tmp_path / "bad.tsv", [["a", "!"]]), tmp_path / "none", bad_samples="skip")


def test_one_id_for_two_clips_is_refused(table, tmp_path, shapes_folder):
    videos = sorted(shapes_folder.rglob("*.mp4"))[:2]
    path = tmp_path / "twice.jsonl"
    path.write_text("\n".join(json.dumps({"video": str(video), "id": "same"}) for video in videos))
    with pytest.raises(TableError, match=r"The id 'same' stands for two clips, .*\.mp4 and .*\.mp4"):
        prepare_shards(path, tmp_path / "set")
    folders = [tmp_path / name for name in "xy"]
    for folder, video in zip(folders, videos, strict=True):
        folder.mkdir()
        (folder / "clip.mp4").write_bytes(video.read_bytes())
    path.write_text("\n".join(json.dumps({"video": str(folder / "clip.mp4")}) for folder in folders))
    prepare_shards(path, tmp_path / "set")
    rows = read_rows(tmp_path / "set", ("video",))
    assert list(rows["id"]) == ["clip", "clip~2"] and open_video(rows[1]["video"]) == videos[1].read_bytes()


def test_the_command_packs_and_extracts(table, tmp_path, capsys):
    assert main(["prepare", "shards", str(table), "--output", str(tmp_path / "set"), "--shard_size", "0.05"]) == 0
    assert "holds 12 clips with 24 rows in" in capsys.readouterr().out
    options = ["--output", str(tmp_path / "frames"), "--num_frames", "3", "--format", "png", "--workers", "2"]
    assert main(["prepare", "frames", str(tmp_path / "set"), *options]) == 0
    assert "the frames of 12 clips (24 rows): 12 were extracted now; 0 clips" in capsys.readouterr().out
    rows = read_rows(tmp_path / "frames", ("video", "caption"))
    before = {row["id"]: row["video"] for row in read_rows(table, ("video", "caption"))}
    assert len(rows) == 24 and set(rows["id"]) == set(before)
    row = rows[5]
    whole = decode_video(before[row["id"]]).frames
    files = sorted(Path(row["video"]).iterdir())
    assert [file.name for file in files] == ["000.png", "001.png", "002.png"]
    for file, index in zip(files, evenly_spaced_indices(len(whole), 3), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), whole[index])
    assert main(["prepare", "shards", str(tmp_path / "none.csv"), "--output", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert "none.csv: there is no such file" in error and "Traceback" not in error and not (tmp_path / "x").exists()


def test_frames_as_a_model_sees_them_give_it_the_pixels_of_the_clip(table, tmp_path):
    processor = VioletVideoProcessor(size={"height": 40, "width": 48}, num_frames=3, frame_sampling="ends")
    prepare_frames(table, tmp_path / "frames", format="png", processor=processor)
    clips = {row["id"]: row["video"] for row in read_rows(table, ("video",))}
    rows = {row["id"]: row["video"] for row in read_rows(tmp_path / "frames", ("video",))}
    assert len(rows) == 12
    for name, folder in rows.items():
        files = sorted(Path(folder).iterdir())
        assert [Image.open(file).size for file in files] == [(48, 40)] * 3
        seen = [processor([video], return_tensors="pt")["pixel_values_videos"] for video in (clips[name], folder)]
        assert seen[0].equal(seen[1])
    with pytest.raises(TableError, match="--num_frames must be 1 or more"):
        prepare_frames(table, tmp_path / "none")
    detailed = VioletVideoProcessor(inputs=["pixel_values_videos", "pixel_values_detail"])
    with pytest.raises(TableError, match="--model: this model takes pixel_values_videos, pixel_values_detail"):
        prepare_frames(table, tmp_path / "none", processor=detailed)


def test_the_command_takes_the_size_and_the_number_of_frames_from_a_model(table, tmp_path, capsys):
    options = ["prepare", "frames", str(table), "--output", str(tmp_path / "frames"), "--model"]
    assert main([*options, "violet-tiny"]) == 0
    folder = read_rows(tmp_path / "frames", ("video",))[0]["video"]
    frames = VioletVideoProcessor.from_pretrained(pretrained("violet-tiny"))
    size = frames.size["width"], frames.size["height"]
    assert [Image.open(file).size for file in sorted(Path(folder).iterdir())] == [size] * frames.num_frames
    assert main([*options, str(tmp_path / "none")]) == 2
    assert "There is no folder" in capsys.readouterr().err


def test_extraction_goes_on_where_it_stopped(table, tmp_path):
    lines = table.read_text().splitlines()
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"no video")
    table.write_text("\n".join([*lines[:12], json.dumps({"video": "damaged.mp4", "id": "z", "caption": "z"})]))
    with pytest.raises(ValueError, match=r"damaged.mp4"):
        prepare_frames(table, tmp_path / "frames", 2)
    with pytest.raises(TableError, match="frames: not complete; go on with the same call"):
        read_rows(tmp_path / "frames", ("video",))
    damaged.write_bytes(Path(read_rows(table, ("video",))[0]["video"]).read_bytes())
    done = prepare_frames(table, tmp_path / "frames", 2)
    assert (done.clips, done.extracted) == (13, 1)

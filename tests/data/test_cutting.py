"""Long videos cut into clips with a sentence each: by subtitles, and by ActivityNet's and DiDeMo's files."""

import json
import shutil

import numpy as np
import pytest

from violet.cli import main
from violet.data import TableError, moving_shapes
from violet.data.cutting import cut_clips
from violet.data.subtitles import read_subtitles
from violet.processing.decoding import decode_video

SRT = """1
00:00:00,000 --> 00:00:00,500
<i>a disc</i>
moves

2
00:00:00,500 --> 00:00:01,000
{\\an8}and stops
"""
VTT = """WEBVTT

NOTE 00:00 is said nothing

STYLE
::cue { color: red }

first
00:00.000 --> 00:00.250 align:start
a <c.red>disc</c>

00:00.250 --> 00:00.500
a disc

00:00:00.500 --> 00:00:01.000
moves

00:00:01.000 --> 00:00:01.100

"""


@pytest.fixture(scope="module")
def clip(shapes_folder) -> str:
    clips = moving_shapes(shapes_folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)
    return clips["train"][0]["video"]


def rows_of(folder):
    return [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]


def test_subtitles_of_both_kinds(tmp_path):
    (tmp_path / "a.srt").write_text("\ufeff" + SRT.replace("\n", "\r\n"))
    assert read_subtitles(tmp_path / "a.srt") == [(0.0, 0.5, "a disc moves"), (0.5, 1.0, "and stops")]
    (tmp_path / "a.vtt").write_text(VTT)
    assert read_subtitles(tmp_path / "a.vtt") == [(0.0, 0.5, "a disc"), (0.5, 1.0, "moves")], "repeats are one"


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.srt", "nothing here", "it has no subtitle"),
        ("a.srt", "1\n00:00:02,000 --> 00:00:01,000\nx\n", "line 2: the subtitle ends at 1 s and starts at 2 s"),
        ("a.txt", SRT, "subtitles are read from .srt and .vtt"),
        ("absent.vtt", None, "there is no such file"),
    ],
)
def test_subtitles_that_cannot_be_used(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(TableError, match=message):
        read_subtitles(tmp_path / name)


def test_a_clip_has_the_frames_of_its_sentence(clip, tmp_path, capsys):
    shutil.copy(clip, tmp_path / "long.mp4")
    (tmp_path / "long.srt").write_text(SRT)
    (tmp_path / "videos.csv").write_text("video,subtitles\nlong.mp4,long.srt\n")
    output = tmp_path / "clips"
    assert main(["prepare", "clips", str(tmp_path / "videos.csv"), f"--output={output}", "--num_frames=2"]) == 0
    assert "2 clips of 1 videos, 2 were cut now" in capsys.readouterr().out
    first, second = rows_of(output)
    assert (first["caption"], first["source"], first["start"], first["end"]) == ("a disc moves", "long", 0.0, 0.5)
    whole = decode_video(clip).frames.astype(float)  # eight frames in a second
    for row, places in ((first, (1, 3)), (second, (5, 7))):
        frames = decode_video(output / row["video"]).frames.astype(float)
        assert len(frames) == 2
        for frame, place in zip(frames, places, strict=True):
            distances = np.abs(whole - frame).mean((1, 2, 3))
            assert distances.argmin() == place and distances[place] < 4, "a JPEG of that frame"
    again = cut_clips(tmp_path / "videos.csv", output, 2)
    assert (again.clips, again.cut) == (2, 0), "what is there is not cut again"
    paragraphs = tmp_path / "rows.jsonl"
    assert main(["prepare", "paragraphs", str(output / "clips.jsonl"), "--num_clips=2", f"--output={paragraphs}"]) == 0
    (row,) = [json.loads(line) for line in paragraphs.read_text().splitlines()]
    assert row["caption"] == ["a disc moves", "and stops"] and len(row["video"]) == 2


def test_the_files_of_activitynet_and_didemo(clip, tmp_path):
    for name in ("abc.mp4", "12_3_4.mp4"):
        shutil.copy(clip, tmp_path / name)
    content = {
        "v_abc": {"duration": 1, "timestamps": [[0.5, 1.0], [0, 0.5]], "sentences": ["then  it stops", "it moves"]}
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    cut_clips(tmp_path / "train.json", tmp_path / "one", 1, tmp_path)
    assert [row["caption"] for row in rows_of(tmp_path / "one")] == ["it moves", "then it stops"]
    described = {"video": "12_3_4.mov", "description": "it moves", "times": [[1, 1], [0, 0], [0, 0]]}
    (tmp_path / "didemo.json").write_text(json.dumps([described]))
    cut_clips(tmp_path / "didemo.json", tmp_path / "two", 1, tmp_path)
    (row,) = rows_of(tmp_path / "two")
    assert (row["start"], row["end"]) == (0.0, 5.0), "what most people say"


def test_what_is_refused_is_named(clip, tmp_path):
    shutil.copy(clip, tmp_path / "long.mp4")
    (tmp_path / "videos.csv").write_text("video,subtitles\nlong.mp4,\n")
    with pytest.raises(TableError, match=r"videos.csv, row 2: column 'subtitles' is missing or empty"):
        cut_clips(tmp_path / "videos.csv", tmp_path / "out", 2)
    (tmp_path / "train.json").write_text(json.dumps({"v_x": {"timestamps": [[0, 1]], "sentences": ["a"]}}))
    with pytest.raises(TableError, match="give --video_folder"):
        cut_clips(tmp_path / "train.json", tmp_path / "out", 2)
    with pytest.raises(TableError, match="'v_x': there is no such video"):
        cut_clips(tmp_path / "train.json", tmp_path / "out", 2, tmp_path)
    (tmp_path / "late.json").write_text(json.dumps({"long": {"timestamps": [[9, 12]], "sentences": ["a"]}}))
    with pytest.raises(TableError, match="a sentence starts at 9 s, and the video ends at 1 s"):
        cut_clips(tmp_path / "late.json", tmp_path / "out", 2, tmp_path)

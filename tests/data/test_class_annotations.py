"""The published annotations of classes, in each data set's own format, joined with clips of every kind."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from violet.data import TableError, moving_shapes
from violet.data.annotations import class_rows
from violet.data.class_annotations import activitynet, kinetics, moments, something_v1, something_v2
from violet.processing.decoding import decode_video


@pytest.fixture(scope="module")
def clip(shapes_folder) -> str:
    clips = moving_shapes(shapes_folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)
    return clips["train"][0]["video"]


def test_each_format_gives_names_and_labels(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("label,youtube_id,time_start,time_end,split\nabseiling,0347ZoDXyP0,95,105,train\n")
    assert list(kinetics(file, "train")) == [(("0347ZoDXyP0_000095_000105", "0347ZoDXyP0"), "abseiling")]
    file.write_text('clapping/a_14.mp4,clapping,4,0\n"adult+male"/b.mp4,singing,3,1\n')
    assert list(moments(file, "train")) == [(("clapping/a_14",), "clapping"), (("adult+male/b",), "singing")]
    file.write_text("100218;Something falling like a feather or paper\n24413;Opening, then closing\n")
    assert [label for _, label in something_v1(file, "train")][1] == "Opening, then closing"
    file = tmp_path / "a.json"
    file.write_text(json.dumps([{"id": "78687", "template": "Holding [something] next to [something]"}]))
    assert list(something_v2(file, "train")) == [(("78687",), "Holding something next to something")]
    video = {"annotations": [{"label": "Fixing bicycle"}, {"label": "Surfing"}]}
    database = {"a": {"subset": "training", **video}, "b": {"subset": "validation", **video}}
    database["c"] = {"subset": "testing", "annotations": []}
    file.write_text(json.dumps({"database": database}))
    assert list(activitynet(file, "test")) == [(("v_b", "b"), "Fixing bicycle")]


@pytest.mark.parametrize(
    ("read", "name", "content", "complaint"),
    [
        (kinetics, "a.csv", "label,youtube_id\nx,y\n", r"a.csv, line 2: 'time_start' is missing"),
        (kinetics, "a.csv", "label,youtube_id,time_start,time_end\nx,y,a,3\n", r"a.csv, line 2: could not convert"),
        (moments, "a.csv", "x.mp4\n", r"a.csv, line 1: 2 fields between ',' are needed"),
        (something_v1, "a.csv", "1;a\n2;\n", r"a.csv, line 2: 2 fields between ';'"),
        (something_v2, "a.json", '[{"id": "1"}]', r"a.json, item 0: 'template' is missing"),
        (something_v2, "a.json", "{}", r"a.json: a list of objects is needed, not dict"),
        (activitynet, "a.json", '{"data": {}}', r'a.json: an object with "database" is needed'),
        (activitynet, "a.json", '{"database": {"x": {}}}', r"a.json, 'x': 'subset' is missing"),
    ],
)
def test_a_file_of_another_form_is_named_with_its_place(read, name, content, complaint, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(TableError, match=complaint):
        list(read(tmp_path / name, "train"))
    with pytest.raises(TableError, match="no such file"):
        list(read(tmp_path / f"absent{Path(name).suffix}", "train"))


def test_clips_are_found_in_folders_of_splits_and_labels_and_those_that_are_absent_are_counted(clip, tmp_path, caplog):
    for place in ("train/run/a_000001_000011.mp4", "val/b.mp4", "val/.hidden.mp4"):
        path = tmp_path / "clips" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, path)
    file = tmp_path / "train.csv"
    file.write_text("label,youtube_id,time_start,time_end\nrun,a,1,11\njump,b,5,15\njump,c,5,15\n")
    rows = class_rows(file, tmp_path / "clips", "train", kinetics).to_list()
    assert [(row["id"], row["label"], Path(row["video"]).name) for row in rows] == [
        ("a_000001_000011", ["run"], "a_000001_000011.mp4"),
        ("b", ["jump"], "b.mp4"),
    ]
    assert "1 of 3 rows have no pictures" in caplog.text and "have no row" not in caplog.text
    assert all(len(decode_video(row["video"], lambda total, fps: range(2)).frames) == 2 for row in rows)
    file.write_text("label,youtube_id,time_start,time_end\nrun,z,1,11\n")
    with pytest.raises(TableError, match="none of its 1 rows has pictures"):
        class_rows(file, tmp_path / "clips", "train", kinetics)


def test_one_name_in_two_folders_is_told_by_its_folder(clip, tmp_path):
    for label in ("clapping", "singing"):
        (tmp_path / "moments" / "training" / label).mkdir(parents=True)
        shutil.copy(clip, tmp_path / "moments" / "training" / label / "a.mp4")
    file = tmp_path / "trainingSet.csv"
    file.write_text("singing/a.mp4,singing,3,1\nclapping/a.mp4,clapping,3,1\n")
    rows = class_rows(file, tmp_path / "moments", "train", moments)
    assert [Path(video).parent.name for video in rows["video"]] == ["singing", "clapping"]


def test_folders_of_frames_are_clips(clip, tmp_path):
    frames = decode_video(clip, lambda total, fps: range(total)).frames
    folder = tmp_path / "20bn" / "7"
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / f"{number:05d}.jpg")
    file = tmp_path / "train.csv"
    file.write_text("7;Pushing something\n")
    (row,) = class_rows(file, tmp_path / "20bn", "train", something_v1).to_list()
    assert row["video"] == str(folder.absolute()) and row["label"] == ["Pushing something"]
    assert len(decode_video(row["video"], lambda total, fps: range(total)).frames) == len(frames)

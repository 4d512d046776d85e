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
    """Rows as they stand in the published files."""
    file = tmp_path / "a.csv"
    file.write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        "abseiling,-3B32lodo2M,59,69,val,0\n"
        '"air drumming",_dbcJuKJQNs,40,50,val,0\n'
    )
    assert [(names[0], names[-1], label) for names, label in kinetics(file, "test")] == [
        ("-3B32lodo2M_000059_000069", "-3B32lodo2M", "abseiling"),
        ("_dbcJuKJQNs_000040_000050", "_dbcJuKJQNs", "air drumming"),
    ]
    file.write_text("label,youtube_id,time_start,time_end,split\nanswering questions,5bGElGxGhbs,2934,2944,val\n")
    ((names, label),) = kinetics(file, "test")
    assert names[0] == "5bGElGxGhbs_002934_002944" and label == "answering questions"
    file.write_text(
        "blocking/getty-karate-video-id635808620_4.mp4,blocking,3,0\n"
        "adult+female+singing/yt-zxQfALnTdfc_56.mp4,adult+female+singing,4,1\n"
    )
    assert list(moments(file, "train")) == [
        (("blocking/getty-karate-video-id635808620_4",), "blocking"),
        (("adult+female+singing/yt-zxQfALnTdfc_56",), "adult+female+singing"),
    ]
    file.write_text("100218;Something falling like a feather or paper\n24413;Unfolding something\n")
    assert list(something_v1(file, "train")) == [
        (("100218",), "Something falling like a feather or paper"),
        (("24413",), "Unfolding something"),
    ]
    file = tmp_path / "a.json"
    file.write_text(
        '[\n{"id":"78687","label":"holding potato next to vicks vaporub bottle",'
        '"template":"Holding [something] next to [something]","placeholders":["potato","vicks vaporub bottle"]},\n'
        '{"id":"36585","label":"plastic falling like a feather or paper",'
        '"template":"[Something] falling like a feather or paper","placeholders":["plastic"]}\n]'
    )
    assert list(something_v2(file, "train")) == [
        (("78687",), "Holding something next to something"),
        (("36585",), "Something falling like a feather or paper"),
    ]


def test_the_files_of_activitynet_and_hacs_are_read(tmp_path):
    file = tmp_path / "activity_net.v1-3.min.json"
    throws = [{"label": "Discus throw", "segment": [24.25018, 38.08036]}]
    throws.append({"label": "Discus throw", "segment": [97.00073, 106.284]})
    video = {"duration": 121.44, "resolution": "320x240", "url": "https://www.youtube.com/watch?v=5n7NCViB5TU"}
    database = {
        "5n7NCViB5TU": {**video, "subset": "training", "annotations": throws},
        "withheld": {**video, "subset": "testing", "annotations": []},
    }
    file.write_text(json.dumps({"database": database, "taxonomy": [], "version": "VERSION 1.3"}))
    ((names, label),) = activitynet(file, "train")
    assert names[:2] == ("v_5n7NCViB5TU", "5n7NCViB5TU") and label == "Discus throw"
    assert not list(activitynet(file, "test"))
    file = tmp_path / "HACS_segments_v1.1.1.json"
    games = [{"label": "Dodgeball", "segment": [5.40, 11.60]}, {"label": "Dodgeball", "segment": [12.60, 88.16]}]
    video = {"annotations": games, "subset": "training", "duration": "92.166667"}
    file.write_text(json.dumps({"database": {"--0edUL8zmA": video}}))
    ((names, label),) = activitynet(file, "train")
    assert names[:2] == ("v_--0edUL8zmA", "--0edUL8zmA") and label == "Dodgeball"


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


def _put(clip: str, *places: Path) -> None:
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, place)


def test_a_video_of_two_classes_lies_in_both_folders_and_has_the_first(clip, tmp_path):
    """As HACS' own `download_videos.py` puts it there."""
    folder = tmp_path / "hacs"
    _put(clip, folder / "Beach_soccer/v_a.mp4", folder / "Playing_beach_volleyball/v_a.mp4")
    database = {"a": {"subset": "training", "annotations": [{"label": "Playing beach volleyball", "segment": [1, 2]}]}}
    database["a"]["annotations"].append({"label": "Beach soccer", "segment": [3, 4]})
    file = tmp_path / "HACS_segments_v1.1.1.json"
    file.write_text(json.dumps({"database": database}))
    (row,) = class_rows(file, folder, "train", activitynet).to_list()
    assert (
        row["label"] == ["Playing beach volleyball"] and Path(row["video"]).parent.name == "Playing_beach_volleyball"
    )


def test_a_damaged_clip_of_kinetics_is_replaced(clip, tmp_path):
    """As CVDF's `k400_extractor.sh` leaves them: a split in one folder, those that replace some in another."""
    folder = tmp_path / "kinetics400"
    replaced = folder / "replacement" / "replacement_for_corrupted_k400" / "-3B32lodo2M_000059_000069.mp4"
    others = [f"train/{name}.mp4" for name in ("-3B32lodo2M_000059_000069", "_dbcJuKJQNs_000040_000050")]
    _put(clip, replaced, *(folder / other for other in others), folder / "train/._-3B32lodo2M_000059_000069.mp4")
    file = tmp_path / "train.csv"
    file.write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        'abseiling,-3B32lodo2M,59,69,train,0\n"air drumming",_dbcJuKJQNs,40,50,train,0\n'
    )
    rows = class_rows(file, folder, "train", kinetics).to_list()
    assert [row["video"] for row in rows] == [str(replaced), str(folder / others[1])]


@pytest.mark.parametrize("folder", ["air drumming", "air_drumming"])
def test_a_clip_in_folders_of_several_classes_is_that_of_its_row(folder, clip, tmp_path):
    _put(clip, tmp_path / "k/abseiling/x_000001_000011.mp4", tmp_path / f"k/{folder}/x_000001_000011.mp4")
    file = tmp_path / "train.csv"
    file.write_text("label,youtube_id,time_start,time_end,split\nair drumming,x,1,11,train\n")
    (row,) = class_rows(file, tmp_path / "k", "train", kinetics).to_list()
    assert Path(row["video"]).parent.name == folder


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

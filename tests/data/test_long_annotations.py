"""The published annotations of long videos, in rows as they stand in the files, joined with clips of every kind."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from violet.data import TableError, moving_shapes
from violet.data.annotations import published_rows
from violet.data.long_annotations import (
    activitynet_captions,
    activitynet_qa,
    condensed_movies,
    didemo,
    how2qa,
    queryd,
)
from violet.training.tasks.task_multiple_choice import check_options

HOW2QA = {
    "a0": "10",
    "a1": "12",
    "a2": "16",
    "a3": "1",
    "answer_idx": 3,
    "q": "how many knife is there?",
    "qid": 7,
    "ts": "7.2-18.0",
    "vid_name": "0",
}


@pytest.fixture(scope="module")
def clip(shapes_folder) -> str:
    clips = moving_shapes(shapes_folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)
    return clips["train"][0]["video"]


def test_activitynet_captions(tmp_path):
    file = tmp_path / "train.json"
    file.write_text(
        '{"v_QOlSCBRmfWY": {"duration": 82.73, "timestamps": [[0.83, 19.86], [17.37, 60.81], [56.26, 79.42]], '
        '"sentences": ["A young woman is seen standing in a room and leads into her dancing.", " The girl dances '
        'around the room while the camera captures her movements.", " She continues dancing around the room and ends '
        'by laying on the floor."]}}'
    )
    ((names, row),) = activitynet_captions(file, "train")
    assert names == ("v_QOlSCBRmfWY", "QOlSCBRmfWY")
    assert [len(sentence.split()) for sentence in row["caption"].split("\n")] == [14, 12, 13]
    assert "\nThe girl" in row["caption"]


def test_didemo(tmp_path):
    file = tmp_path / "train_data.json"
    first = {
        "num_segments": 6,
        "description": "someone kicks the bug towards some rocks.",
        "dl_link": "https://www.flickr.com/video_download.gne?id=4253489686",
        "times": [[4, 4], [4, 4], [0, 0], [4, 4], [0, 0], [0, 0], [4, 4]],
        "video": "26292851@N04_4253489686_265c3c8051.m4v",
        "annotation_id": 1,
    }
    other = {**first, "video": "1@N01_2_a.3gp", "description": "a cat"}
    file.write_text(json.dumps([first, other, {**first, "description": "the bug moves"}]))
    (names, row), (others, _) = didemo(file, "train")
    assert names == ("26292851@N04_4253489686_265c3c8051.m4v", "26292851@N04_4253489686_265c3c8051")
    assert row == {"caption": "someone kicks the bug towards some rocks.\nthe bug moves"}
    assert others == ("1@N01_2_a.3gp", "1@N01_2_a")


@pytest.mark.parametrize("version", ["", "-v2"])
def test_queryd(version, tmp_path):
    file = tmp_path / "val_list.txt"
    file.write_text("video-RXFilHLLqPM\nvideo--rgDvP39Lqw\n")
    captions = {"video-RXFilHLLqPM": [["a", "man"], ["he", "sits"]], "video--rgDvP39Lqw": [["rain"]], "video-x": []}
    (tmp_path / f"raw_captions_combined_filtered{version}.pkl").write_bytes(pickle.dumps(captions))
    (names, row), (others, _) = queryd(file, "val")
    assert names == ("video-RXFilHLLqPM", "RXFilHLLqPM") and others[1] == "-rgDvP39Lqw"
    assert row == {"caption": "a man\nhe sits"}
    file.write_text("video-absent\n")
    with pytest.raises(TableError, match="'video-absent' has no list of sentences in raw_captions"):
        list(queryd(file, "val"))
    (tmp_path / f"raw_captions_combined_filtered{version}.pkl").unlink()
    with pytest.raises(TableError, match=r"raw_captions_combined_filtered.pkl: missing. It belongs to val_list.txt"):
        list(queryd(file, "val"))


def test_condensed_movies_of_the_challenge(tmp_path):
    file = tmp_path / "train_val_challf0.csv"
    file.write_text(
        "imdbid,videoid,caption,split,upload_year\n"
        'tt1707386,Sv-BxH3SVS8,"Jean Valjean (Hugh Jackman) waits. Tomorrow, they fight.",train,2019\n'
        "tt6398184,mycAsRhAr_M,The King dances.,val,2019\n"
    )
    ((names, row),) = condensed_movies(file, "train")
    assert names == ("Sv-BxH3SVS8",) and row["caption"] == "Jean Valjean (Hugh Jackman) waits.\nTomorrow, they fight."
    assert [names for names, _ in condensed_movies(file, "val")] == [("mycAsRhAr_M",)]


def test_condensed_movies_of_the_first_edition(tmp_path):
    (tmp_path / "clips.csv").write_text(
        "videoid,year,clip_idx,clip_tot,upload_year,title,clip_name,imdbid\n"
        "Sv-BxH3SVS8,2012.0,6,10,2019,Les Misérables,One Day More Scene,tt1707386\n"
        'WgMhaDEPGXo,2019.0,5,10,2019,Downton Abbey,"Goodnight, Mr. Branson Scene",tt6398184\n'
        "twice1,2019.0,5,10,2019,Downton Abbey,A,tt6398184\n"
        "twice2,2019.0,5,10,2019,Downton Abbey,B,tt6398184\n"
        "without,2019.0,5,10,2019,Downton Abbey,C,tt6398184\n"
    )
    (tmp_path / "descriptions.csv").write_text(
        "videoid,description\nSv-BxH3SVS8,They sing. All of them.\nWgMhaDEPGXo,Mr. Branson says good night.\n"
        "twice1,The same.\ntwice2,The same.\nwithout,\n"
    )
    (tmp_path / "split.csv").write_text("imdbid,split\ntt1707386,train\ntt6398184,test\n")
    assert [(names, row["caption"]) for names, row in condensed_movies(tmp_path / "clips.csv", "train")] == [
        (("Sv-BxH3SVS8",), "They sing.\nAll of them.")
    ]
    assert [names for names, _ in condensed_movies(tmp_path / "clips.csv", "test")] == [("WgMhaDEPGXo",)]
    (tmp_path / "split.csv").unlink()
    with pytest.raises(TableError, match=r"split.csv: there is no such file"):
        list(condensed_movies(tmp_path / "clips.csv", "train"))


@pytest.mark.parametrize("place", [".", ".."])
def test_how2qa_of_value(place, tmp_path):
    file = tmp_path / "how2qa" / "how2qa_train_release.jsonl"
    file.parent.mkdir()
    nan = {**HOW2QA, "ts": "nan-nan", "vid_name": "1"}
    file.write_text(f"{json.dumps(HOW2QA)}\n{json.dumps(nan)}\n")
    expected = {"question": HOW2QA["q"], "options": ["10", "12", "16", "1"], "answer": 3, "span": [7.2, 18.0]}
    assert next(how2qa(file, "train")) == (("0",), expected)
    lines = [
        {"text": "then cut it ", "start": 5.1, "end": 8.0},
        {"text": " take a knife", "start": 0.862, "end": 1.862},
    ]
    (file.parent / place / "how2_subtitles.jsonl").write_text(json.dumps({"vid_name": "0", "sub": lines}) + "\n")
    (file.parent / place / "how2_vid_mapping.json").write_text('{"0": "inUvyZl_hjA_180_240"}')
    (names, row), (others, silent) = how2qa(file, "train")
    assert names == ("0", "inUvyZl_hjA_180_240") and others == ("1",)
    assert row == {**expected, "subtitles": ["take a knife", "then cut it"]}
    assert silent["subtitles"] == [] and silent["span"] is None
    assert check_options(row)["answer"] == 3


def test_the_first_files_of_how2qa(tmp_path):
    file = tmp_path / "how2QA_val_release.csv"
    file.write_text(
        "NOuQuofjk44,[7.2:18.0],10,12,16,how many knife is there?,1\n"
        "dnUFgR92F8M,[22.21:39.62],lethally poisonous,midly poisonous,the clip provides no information about "
        'poinsettias,"How poisonous are poinsettias, based on the clip?",not poisonous\n'
        "668NBDl9gVM,[121.5:125.7],2,3,4,How many lemon pieces are there?,1\n"
        'DUEyiEnMVj4,[12.6:13.2],"his channel is called ""a""","his channel is called ""b","c","What, then?","d"\n'
    )
    rows = list(how2qa(file, "test"))
    assert [names for names, _ in rows] == [("NOuQuofjk44",), ("dnUFgR92F8M",), ("668NBDl9gVM",), ("DUEyiEnMVj4",)]
    assert [row["options"][row["answer"]] for _, row in rows] == ["1", "not poisonous", "1", "d"]
    assert rows[1][1]["question"] == "How poisonous are poinsettias, based on the clip?"
    assert rows[0][1]["span"] == [7.2, 18.0]
    # A number among options that are numbers is the number of an option.
    assert [check_options(row)["answer"] for _, row in rows] == [row["answer"] for _, row in rows]
    assert list(how2qa(file, "test")) == rows


def test_the_right_option_of_the_first_files_is_in_each_place_about_as_often(tmp_path):
    file = tmp_path / "how2QA_train_release.csv"
    file.write_text("".join(f"v{number},[0.0:1.0],a,b,c,what?,d\n" for number in range(400)))
    places = [row["answer"] for _, row in how2qa(file, "train")]
    assert all(70 < places.count(place) < 130 for place in range(4))


def test_activitynet_qa(tmp_path):
    file = tmp_path / "val_q.json"
    file.write_text(
        '[{"video_name": "TIEzvhv6xaI", "question": "is the no.3 athlete playing indoor", "question_id": '
        '"v_TIEzvhv6xaI_2"}, {"video_name": "7X3wPRKuAsU", "question": "is the athlete wearing long sleeve", '
        '"question_id": "v_7X3wPRKuAsU_3"}]'
    )
    with pytest.raises(TableError, match=r"val_a.json: there is no such file"):
        list(activitynet_qa(file, "val"))
    answer = '{"answer": "yes", "type": 3, "question_id": "v_TIEzvhv6xaI_2"}'
    (tmp_path / "val_a.json").write_text(f"[{answer}]")
    rows = activitynet_qa(file, "val")
    expected = {"question": "is the no.3 athlete playing indoor", "answer": "yes", "question_type": "3"}
    assert next(rows) == (("v_TIEzvhv6xaI", "TIEzvhv6xaI"), expected)
    with pytest.raises(TableError, match=r"val_q.json, item 1: val_a.json has no answer to the question 'v_7X3wPRKu"):
        next(rows)


@pytest.mark.parametrize(
    ("read", "name", "content", "complaint"),
    [
        (activitynet_captions, "a.json", "[]", r"a.json: an object \{\"v_ID\": video\} is needed, not list"),
        (
            activitynet_captions,
            "a.json",
            '{"v_x": {"sentences": "a"}}',
            r"a.json, 'v_x': 'sentences' is missing or no",
        ),
        (activitynet_captions, "a.json", '{"v_x": {"sentences": [" "]}}', r"a.json, 'v_x': it has no sentence"),
        (didemo, "a.json", "{}", r"a.json: a list of objects is needed, not dict"),
        (didemo, "a.json", '[{"video": "x.mp4"}]', r"a.json, item 0: 'description' is missing"),
        (condensed_movies, "a.csv", "videoid,caption\nx,y\n", r"a.csv, line 2: 'split' is missing"),
        (
            condensed_movies,
            "a.csv",
            "videoid,caption,split\nx,,train\n",
            r"a.csv, line 2: 'caption' is missing or empty",
        ),
        (how2qa, "a.jsonl", json.dumps({**HOW2QA, "answer_idx": 4}), r"a.jsonl, line 1: 'answer_idx' is 4, not the"),
        (how2qa, "a.jsonl", json.dumps({**HOW2QA, "a3": None}), r"a.jsonl, line 1: 'a3' is missing"),
        (how2qa, "a.jsonl", json.dumps({**HOW2QA, "ts": "7.2"}), r"a.jsonl, line 1: '7.2' is no start-end in seconds"),
        (how2qa, "a.csv", "x,[1:2],a,b,c,d\n", r"a.csv, line 1: 7 fields between ',' are needed, not 6"),
        (how2qa, "a.csv", "x,1-2,a,b,c,d,e\n", r"a.csv, line 1: '1-2' is no start:end in seconds"),
        (how2qa, "a.csv", "x,[1:2],a,b,c,d,\n", r"a.csv, line 1: the question or its right answer"),
        (activitynet_qa, "a_q.json", "[]", r"a_a.json: there is no such file"),
    ],
)
def test_a_file_of_another_form_is_named_with_its_place(read, name, content, complaint, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(TableError, match=complaint):
        list(read(tmp_path / name, "train"))


def test_videos_are_found_under_each_of_their_names(clip, tmp_path, caplog):
    for place in ("videos/v_a.mp4", "videos/more/b.mkv.mp4", "videos/more/c.mp4"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, tmp_path / place)
    file = tmp_path / "train_data.json"
    rows = [{"video": video, "description": f"about {video}"} for video in ("b.mkv", "c.mov", "d.mp4")]
    file.write_text(json.dumps(rows))
    found = published_rows(file, tmp_path / "videos", "train", didemo).to_list()
    assert [(row["id"], Path(row["video"]).name) for row in found] == [("b.mkv", "b.mkv.mp4"), ("c", "c.mp4")]
    assert found[1]["caption"] == "about c.mov"
    assert "1 of 3 rows have no pictures" in caplog.text

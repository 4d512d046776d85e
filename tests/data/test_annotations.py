"""The original's JSON files and v2's YAML files: every row is there, joined with its pictures."""

import json
import pickle
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest

from violet.data import TableError, open_video, read_annotations, read_original, read_rows
from violet.processing.decoding import decode_video
from violet.processing.video_processing_violet import evenly_spaced_indices
from violet.training import TASKS

COLUMNS = {name: task.columns for name, task in TASKS.items()}


def write_json(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# ---------------------------------------------------------------------------------------------------------------------
# The real files
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["txt_cc3m", "txt_webvid2.5m", "txt_msrvtt-retrieval", "txt_msvd-qa", "txt_tgif-action"]
)
def test_every_row_of_the_real_annotations_is_read(original, name):
    path = original / f"{name}.json"
    splits = json.loads(path.read_text())
    assert len(splits.pop("vocab", range(1000))) == 1000
    for split, content in splits.items():
        rows = [row for _, row in read_annotations(path, split)]
        if isinstance(content, dict):
            assert rows == [{"video": key, "caption": text} for key, texts in content.items() for text in texts]
        else:
            assert rows == content
        assert len(rows) >= 50


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("txt_webvid2.5m", "captioning"),
        ("txt_msrvtt-retrieval", "retrieval"),
        ("txt_msvd-qa", "open-ended"),
        ("txt_tgif-action", "multiple-choice"),
    ],
)
def test_rows_of_each_task_pass_the_check_of_training(original, tmp_path, name, task, picture, write_tsv):
    """The real annotations with drawn pictures, since the videos are not here."""
    path = original / f"{name}.json"
    split, content = next(iter(json.loads(path.read_text()).items()))
    names = sorted({row if isinstance(row, str) else row["video"] for row in content})
    pictures = write_tsv(tmp_path / "clips.tsv", [[name, picture(number % 100)] for number, name in enumerate(names)])
    rows = read_rows(f"{path}@{split}", COLUMNS[task], pictures, TASKS[task].check)
    plain = [row for _, row in read_annotations(path, split)]
    assert len(rows) == len(plain) and list(rows["id"]) == [row["video"] for row in plain]
    assert all(column in rows.column_names for column in COLUMNS[task])
    for row, before in zip(rows, plain, strict=True):
        if task == "multiple-choice":
            assert row["options"] == [before[f"option_{number}"] for number in range(5)]
            assert (row["question"], row["answer"]) == (before["question"], before["answer"])
        elif task == "open-ended":
            assert row["question"] == before["question"]
            assert row["answer"] == json.loads(path.read_text())["vocab"][before["answer"]]
        else:
            assert row["caption"] == before["caption"]
    frame = decode_video(open_video(rows[len(rows) - 1]["video"])).frames
    assert abs(frame.mean(axis=(0, 1, 2))[0] - names.index(plain[-1]["video"]) % 100) < 3, "the picture of its id"


@pytest.mark.shared
@pytest.mark.parametrize("pictures", ["msrvtt.tsv", "msrvtt.pkl", "../msrvtt"])
def test_the_ten_clips_are_found_in_each_form(original, tmp_path, pictures):
    names = [f"video{number}" for number in range(7010, 7020)]
    path = write_json(tmp_path / "txt.json", {"test": [{"video": name, "caption": f"of {name}"} for name in names]})
    rows = read_original(path, original / pictures, "test")
    assert list(rows["id"]) == names
    frames = [decode_video(open_video(video), lambda total, fps: [total // 2]).frames for video in rows["video"]]
    assert {frame.shape for frame in frames} == {(1, 240, 320, 3)}
    assert len({frame.tobytes() for frame in frames}) == 10


@pytest.mark.shared
def test_the_tsv_the_pickle_and_the_mp4_show_the_same(original):
    """The TSV's frames are the five that the processor samples of the clip, but for what JPEG loses."""
    before = None
    for number in range(7010, 7020):
        stored = decode_video(open_video(f"{original}/msrvtt.tsv#video{number}")).frames.astype(np.int16)
        np.testing.assert_array_equal(decode_video(open_video(f"{original}/msrvtt.pkl#video{number}")).frames, stored)
        path = str(original.parent / f"msrvtt/video{number}.mp4")
        sampled = decode_video(path, lambda total, fps: evenly_spaced_indices(total, 5)).frames
        assert np.abs(sampled - stored).mean() < 4
        assert before is None or np.abs(sampled - before).mean() > 30, "other clips differ more"
        before = stored


# ---------------------------------------------------------------------------------------------------------------------
# Layouts
# ---------------------------------------------------------------------------------------------------------------------


def test_answers_that_are_numbers_become_those_of_the_vocabulary(tsv, tmp_path, caplog):
    questions = [{"video": "a", "question": "what?", "answer": 1}, {"video": "b", "question": "who?", "answer": "cat"}]
    path = write_json(tmp_path / "qa.json", {"train": questions})

    def answers(**settings):
        return list(read_original(path, tsv, "train", COLUMNS["open-ended"], **settings)["answer"])

    assert answers() == ["1", "cat"] and "1 answers are numbers" in caplog.text
    for content in (["dog", "man"], {"dog": 0, "man": 1}, {"0": "dog", "1": "man"}):
        assert answers(answers=write_json(tmp_path / "words.json", content)) == ["man", "cat"]
    write_json(tmp_path / "ans2label.json", {"dog": 0, "mouse": 1})
    assert answers() == ["mouse", "cat"]
    write_json(path, {"train": questions, "vocab": ["dog", "horse"]})
    assert answers() == ["horse", "cat"]
    write_json(path, {"train": questions})
    write_json(tmp_path / "ans2label.json", ["dog"])
    with pytest.raises(TableError, match=r"qa.json, split 'train', item 0: the answer 1 is none of the 1"):
        answers()
    write_json(tmp_path / "ans2label.json", {"dog": "0"})
    with pytest.raises(TableError, match=r"ans2label.json: no answers and their numbers"):
        answers()


def test_blanks_are_written_as_masks(tsv, tmp_path):
    rows = [
        {"video": "a", "question": "SOMEONE _____ away", "answer": "walks"},
        {"video": "b", "text": "he [MASK] and <blank>", "answer": "sits"},
    ]
    found = read_original(write_json(tmp_path / "fib.json", {"test": rows}), tsv, "test", COLUMNS["fill-in-the-blank"])
    assert list(found["text"]) == ["SOMEONE [MASK] away", "he [MASK] and [MASK]"]
    with pytest.raises(TableError, match=r"fib.json@test, row 1: column 'text' has 2 \[MASK\] for 1 answers"):
        read_rows(f"{tmp_path}/fib.json@test", COLUMNS["fill-in-the-blank"], tsv, TASKS["fill-in-the-blank"].check)


def test_a_multiple_choice_may_have_no_question(tsv, tmp_path):
    rows = [{"video": "a", "option_0": "x", "option_1": "y", "option_2": "z", "answer": 2}]
    path = write_json(tmp_path / "mc.json", {"test": rows})
    found = read_original(path, tsv, "test", COLUMNS["multiple-choice"])
    assert found[0] == {"id": "a", "question": "", "options": ["x", "y", "z"], "answer": 2, "video": f"{tsv}#a"}


@pytest.mark.parametrize(
    ("content", "task", "message"),
    [
        ("{", "captioning", r"txt.json: not JSON"),
        ("[]", "captioning", r"txt.json: an object with splits is needed, not list"),
        ({"val": []}, "captioning", r"txt.json: there is no split 'train'; it has val"),
        ({"train": []}, "captioning", r"the split 'train' has no rows"),
        ({"train": "a"}, "captioning", r"split 'train': a list or an object is needed, not str"),
        ({"train": {"a": ["x"], "b": 3}}, "captioning", r"id 'b': a list of captions is needed, not 3"),
        ({"train": [{"video": "a", "question": "x"}]}, "captioning", r"item 0: 'caption' is missing .*question"),
        ({"train": [{"video": "a", "caption": "x"}, 5]}, "captioning", r"item 1: an object with 'video' is needed"),
        ({"train": [{"caption": "x"}]}, "captioning", r"item 0: 'video' is missing or no text \(it has caption"),
        ({"train": [{"video": "a", "caption": "x"}]}, "open-ended", r"item 0: 'question' is missing"),
        ({"train": [{"video": "a", "question": "x"}]}, "open-ended", r"item 0: 'answer' is missing or neither"),
        ({"train": [{"video": "a", "option_0": "x", "answer": 0}]}, "multiple-choice", r"two options or more"),
        (
            {"train": [{"video": "a", "option_0": "x", "option_2": "y", "answer": 0}]},
            "multiple-choice",
            r"item 0: two options or more are needed, texts named option_0, option_1",
        ),
        (
            {"train": [{"video": "a", "option_0": "x", "option_1": "y", "answer": 2}]},
            "multiple-choice",
            r"item 0: 'answer' is 2, not the number of one of its 2 options",
        ),
        (
            {"train": {"z": ["lost"]}},
            "captioning",
            r"none of its 1 rows has pictures in .*: ids are like 'z' here and",
        ),
    ],
)
def test_annotations_of_another_layout_are_refused_with_what_was_found(tsv, tmp_path, content, task, message):
    path = write_json(tmp_path / "txt.json", content)
    with pytest.raises(TableError, match=message):
        read_original(path, tsv, "train", COLUMNS[task])


def test_annotations_that_are_not_utf8_are_refused(tsv, tmp_path):
    (tmp_path / "txt.json").write_bytes(b'{"train": {"a": ["caf\xe9"]}}')
    with pytest.raises(TableError, match=r"txt.json: not UTF-8 text \(.* at byte 21\)"):
        read_original(tmp_path / "txt.json", tsv, "train")


def test_rows_and_pictures_are_joined_and_what_is_left_over_is_counted(tsv, tmp_path, caplog, monkeypatch):
    path = write_json(
        tmp_path / "txt.json", {"train": {"z": ["lost", "lost too"], "a": ["one", "two"], "c#1": "three"}}
    )
    monkeypatch.chdir(tmp_path)
    rows = read_original(path, "clips.tsv", "train")
    assert list(zip(rows["id"], rows["caption"], strict=True)) == [("a", "one"), ("a", "two"), ("c#1", "three")]
    assert [len(open_video(reference)) for reference in rows["video"]] == [2, 2, 1]
    assert all(Path(reference).is_absolute() for reference in rows["video"])
    no_pictures, no_row = caplog.messages
    assert "2 of 5 rows have no pictures" in no_pictures and "first id is 'z'" in no_pictures
    assert "1 of 3 have no row" in no_row and "first id is 'b'" in no_row


def test_pickles_with_something_else_in_them_are_refused(tmp_path, picture):
    path = tmp_path / "clips.pkl"
    good = b64encode(picture(1))
    for content, message in (
        ([1], r"clips.pkl: a pickle of clips by their ids"),
        ({"a": []}, r"\(id 'a'\): a list of frames is needed"),
        ({"a": [good, 5]}, r"\(id 'a'\), frame 2: base64 of a picture is needed, not int"),
        ({"a": [good[:-1]]}, r"\(id 'a'\), frame 1: bad base64"),
        ({"a": [b64encode(b"text")]}, r"clips.pkl#a, frame 1: no picture; it starts with b'text'"),
        ({"b": [good]}, r"no clip has the id 'a'; the first of 1 is 'b'"),
    ):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}-clips.pkl"
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(TableError, match=message):
            open_video(f"{path}#a")


# ---------------------------------------------------------------------------------------------------------------------
# v2's YAML
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path, picture, write_tsv) -> Path:
    """Two parts of three and two pictures, each with its captions."""
    for part, names in enumerate((["a", "b", "c"], ["d", "a"])):
        write_tsv(tmp_path / f"{part}.img.tsv", [[name, "0", picture(10 * part + 1)] for name in names])
        captions = [f"{name}\t" + json.dumps([{"caption": f"{name}{part} {i}"} for i in range(2)]) for name in names]
        (tmp_path / f"{part}.caption.tsv").write_text("\n".join(captions) + "\n")
    return tmp_path


def captions_of(path: Path) -> list[str]:
    return list(read_rows(path, COLUMNS["captioning"])["caption"])


def test_a_yaml_names_pictures_and_captions(parts):
    (parts / "one.yaml").write_text("img: 0.img.tsv\nlabel: 0.caption.tsv\nlineidx: 0.img.lineidx\n")
    rows = read_rows(parts / "one.yaml", COLUMNS["captioning"])
    assert rows[1] == {"id": "a", "video": f"{parts}/0.img.tsv#a", "caption": "a0 1"} and len(rows) == 6
    assert len(open_video(rows[1]["video"])) == 1, "the label column is no frame"
    (parts / "rows.tsv").write_text("2\t1\n0\t0\n")
    (parts / "one.yaml").write_text("img: 0.img.tsv\ncaption: 0.caption.tsv\ncaption_linelist: rows.tsv\n")
    assert captions_of(parts / "one.yaml") == ["c0 1", "a0 0"]


def test_a_composite_takes_file_row_and_caption(parts):
    (parts / "rows.tsv").write_text("1 1 0\n0 0 1\n1 0 1\n")
    lists = "img: [0.img.tsv, 1.img.tsv]\ncaption: [0.caption.tsv, 1.caption.tsv]\n"
    (parts / "all.yaml").write_text(lists + "composite: true\ncaption_linelist: rows.tsv\n")
    assert captions_of(parts / "all.yaml") == ["a1 0", "a0 1", "d1 1"], "ids that meet keep their own part's captions"
    (parts / "img.txt").write_text("0.img.tsv\n1.img.tsv\n")
    (parts / "all.yaml").write_text("img: img.txt\ncaption: [0.caption.tsv, 1.caption.tsv]\n")
    assert len(captions_of(parts / "all.yaml")) == 10


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("- 1", r"names of TSV files are needed"),
        ("a: [", r"cannot be read"),
        ("caption: 0.caption.tsv", r"'img' is missing; it has caption"),
        ("{img: 0.img.tsv, caption: none.tsv}", r"'caption' names .*none.tsv, which is absent"),
        ("{img: 5, caption: 0.caption.tsv}", r"'img' must name a file"),
        ("{img: 0.img.tsv, caption: bad.tsv}", r'bad.tsv, line 1: a list of \{"caption"'),
        ("{img: 0.img.tsv, caption: 0.caption.tsv, linelist: words.tsv}", r"words.tsv, line 2: the numbers of row"),
        ("{img: 0.img.tsv, caption: 0.caption.tsv, linelist: far.tsv}", r"far.tsv, line 1: there is no row 7"),
        ("{img: 0.img.tsv, caption: 0.caption.tsv, linelist: more.tsv}", r"asks for caption 2 of 'a', which has 2"),
        ("{img: 0.img.tsv, caption: other.tsv}", r"none of its pictures has a caption; ids are like 'a'"),
    ],
)
def test_a_yaml_that_cannot_be_used_is_refused_by_file_and_line(parts, yaml, message):
    (parts / "bad.tsv").write_text('a\t[{"text": "x"}]\n')
    (parts / "words.tsv").write_text("0\nrow\n")
    (parts / "far.tsv").write_text("7\n")
    (parts / "more.tsv").write_text("0 2\n")
    (parts / "other.tsv").write_text("q\ta caption\n")
    (parts / "set.yaml").write_text(yaml)
    with pytest.raises(TableError, match=message):
        captions_of(parts / "set.yaml")

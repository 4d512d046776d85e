"""Clips of one video that follow one another, as rows."""

import json
import shutil

import pytest

from violet.cli import main
from violet.data import TableError, moving_shapes
from violet.data.grouping import group_clips


@pytest.fixture(scope="module")
def clip(shapes_folder) -> str:
    clips = moving_shapes(shapes_folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)
    return clips["train"][0]["video"]


@pytest.fixture
def table(clip, tmp_path):
    """Clips of 10 s: six of "a" in a mixed order, the last 30 s behind the others, and two of "b"."""
    lines = ["video,caption,source,start,end"]
    for source, starts in (("a", (20, 0, 10, 30, 70, 40)), ("b", (5, 15))):
        for start in starts:
            shutil.copy(clip, tmp_path / f"{source}{start}.mp4")
            lines.append(f"{source}{start}.mp4,it is {start},{source},{start},{start + 10}")
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    return tmp_path / "clips.csv"


def read(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def starts_of(file):
    return [[sentence.split()[-1] for sentence in row["caption"]] for row in read(file)]


def test_rows_have_clips_of_one_video_in_their_order_with_a_sentence_each(table, tmp_path):
    done = group_clips(table, tmp_path / "rows.jsonl", 2)
    assert (done.rows, done.clips, done.left_out) == (4, 8, 0)
    assert starts_of(tmp_path / "rows.jsonl") == [["0", "10"], ["20", "30"], ["40", "70"], ["5", "15"]]
    assert read(tmp_path / "rows.jsonl")[0] == {
        "id": "a@0",
        "video": [str(tmp_path / "a0.mp4"), str(tmp_path / "a10.mp4")],
        "caption": ["it is 0", "it is 10"],
        "source": "a",
        "start": 0.0,
        "end": 20.0,
    }


def test_the_last_clips_of_a_run_are_in_a_row_too(table, tmp_path):
    done = group_clips(table, tmp_path / "rows.jsonl", 4)
    assert starts_of(tmp_path / "rows.jsonl") == [["0", "10", "20", "30"], ["20", "30", "40", "70"]]
    assert (done.rows, done.left_out) == (2, 2)


def test_clips_behind_a_gap_do_not_follow(table, tmp_path):
    done = group_clips(table, tmp_path / "rows.jsonl", 2, max_gap=1)
    assert starts_of(tmp_path / "rows.jsonl") == [["0", "10"], ["20", "30"], ["30", "40"], ["5", "15"]]
    assert done.left_out == 1


def test_the_command_says_what_it_wrote(table, tmp_path, capsys):
    command = ["prepare", "paragraphs", str(table), "--output", str(tmp_path / "rows.jsonl"), "--num_clips", "4"]
    assert main(command) == 0
    assert "holds 2 rows of 4 clips each, of 8 clips; 2 are in none" in capsys.readouterr().out
    assert main(command) == 2
    assert "rows.jsonl is there already" in capsys.readouterr().err


def test_what_cannot_be_grouped_is_named(table, tmp_path):
    output = tmp_path / "rows.jsonl"
    with pytest.raises(TableError, match="no video has 7 clips that follow one another"):
        group_clips(table, output, 7)
    with pytest.raises(TableError, match="--num_clips must be 1 or more"):
        group_clips(table, output, 0)
    text = table.read_text()
    table.write_text(text.replace(",20,30", ",soon,30"))
    with pytest.raises(TableError, match=r"clips.csv, row 1: column 'start' is no number of seconds: 'soon'"):
        group_clips(table, output, 2)
    table.write_text(text.replace(",20,30", ",20,"))
    with pytest.raises(TableError, match="row 1: column 'end' is missing or empty; --max_gap needs it"):
        group_clips(table, output, 2, max_gap=1)
    table.write_text(text.replace(",start,", ",begin,"))
    with pytest.raises(TableError, match="column 'start' is missing or empty"):
        group_clips(table, output, 2)
    assert not output.exists()

import subprocess
import sys
from pathlib import Path

import pytest

from violet.cli import main
from violet.data import TableError, read_rows


@pytest.fixture
def refused(capfd):
    """Runs the command, which must end with status 2, and gives what it said; a traceback would be an error here."""

    def run(*arguments) -> str:
        try:
            assert main([str(one) for one in arguments]) == 2
        except SystemExit as ended:  # argparse's way
            assert ended.code == 2
        return capfd.readouterr().err

    return run


def test_help_names_the_commands_and_loads_nothing_heavy():
    code = (
        "import sys; sys.argv[0] = '/somewhere/bin/violet'\n"
        "from violet.cli import main\n"
        "assert main(['--help']) == 0\n"
        "heavy = {'torch', 'torchvision', 'transformers', 'datasets', 'numpy', 'av'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in ("demo", "finetune", "predict"))


def test_an_unknown_command_is_refused_and_the_known_ones_named():
    command = Path(sys.executable).with_name("violet")
    done = subprocess.run([command, "fine-tune"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "fine-tune" in done.stderr and "finetune" in done.stderr


def test_a_video_that_cannot_be_read_is_a_line_and_no_traceback(model_folder, tmp_path, capfd):
    broken = tmp_path / "holiday.mp4"
    broken.write_text("not a video")
    options = ["--model", str(model_folder), "--video", str(broken), "--question", "what comes first?"]
    assert main(["predict", *options]) == 1
    said = capfd.readouterr()
    assert "holiday.mp4" in said.err and "1 of 1 clips could not be read" in said.err
    assert "Traceback" not in said.err and said.out == ""


def test_a_table_that_cannot_be_used_is_refused_before_training(refused, tmp_path):
    table = tmp_path / "questions.csv"
    table.write_text("video,question,answer\nmissing.mp4,what?,disc\n")
    said = refused("finetune", "--train_file", table, "--output_dir", tmp_path / "run")
    assert "row 2" in said and "missing.mp4" in said


@pytest.mark.parametrize(
    "option, complaint",
    [
        ("--lerning_rate=1", "--lerning_rate=1"),
        ("--task=singing", "singing"),
        ("--num_frames=0", "--num_frames"),
        ("--test_file=a.csv", "--train_file"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(refused, option, complaint, tmp_path):
    assert complaint in refused("finetune", option, "--output_dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name, text, complaint",
    [
        ("a.csv", "video,question\nclip.mp4,what?\n", "row 2: column 'answer'"),
        ("a.csv", "video,question,answer\nclip.mp4,what?,a,b\n", "line 2: more fields"),
        ("a.csv", "video,question,answer\nclip.mp4,,a\n", "row 2: column 'question'"),
        ("a.csv", "video,question,answer\n", "no rows"),
        ("a.jsonl", '{"video": "clip.mp4", "question": "q", "answer": "a"}\n{"video": \n', "line 2: not JSON"),
        ("a.jsonl", "[1]\n", "row 1: an object"),
        ("a.json", '{"train": []}', "a list of objects is needed, not dict; .* as in .*a.json@train"),
        ("a.json", "[1]", "row 1: an object"),
        ("a.xlsx", "x", "not .xlsx"),
        ("a.csv", None, "no such file"),
    ],
)
def test_a_table_names_the_place_of_what_is_wrong(tmp_path, name, text, complaint):
    (tmp_path / "clip.mp4").touch()
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(TableError, match=complaint) as error:
        read_rows(tmp_path / name)
    assert name in str(error.value)


def test_the_three_forms_of_a_table_hold_the_same_rows(tmp_path):
    (tmp_path / "clip.mp4").touch()
    rows = [{"video": "clip.mp4", "question": 'what, "there"?', "answer": "naïve"} for _ in range(2)]
    (tmp_path / "a.csv").write_text("video,question,answer\n" + 'clip.mp4,"what, ""there""?",naïve\n' * 2)
    import json

    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    expected = [row | {"video": str(tmp_path / "clip.mp4")} for row in rows]
    for name in ("a.csv", "a.jsonl", "a.json"):
        assert read_rows(tmp_path / name).to_list() == expected
    elsewhere = tmp_path / "videos"
    elsewhere.mkdir()
    with pytest.raises(TableError, match=r"no video .*videos/clip.mp4 \(2 of 2"):
        read_rows(tmp_path / "a.csv", video_folder=elsewhere)

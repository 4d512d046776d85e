"""Captions of middle frames, written by a captioning model into a table."""

import json

import pytest

from violet.cli import main
from violet.configuration import named_configuration
from violet.data import TableError, moving_shapes
from violet.modeling_violet import VioletForCaptioning
from violet.processing import VideoTextProcessor, VioletVideoProcessor, train_wordpiece_tokenizer
from violet.training import frame_captions
from violet.training.frame_captions import prepare_captions


@pytest.fixture(scope="module")
def table(drawn, tmp_path_factory):
    counts = {"train": 0, "test": 0, "test_unseen": 0, "test_together": 0}
    rows = moving_shapes(drawn, pretrain=24, validation=8, **counts)["pretrain"].select(range(5))
    path = tmp_path_factory.mktemp("table") / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"video": row["video"], "caption": row["caption"]}) for row in rows))
    return path


@pytest.fixture(scope="module")
def model(table, tmp_path_factory) -> str:
    captions = [json.loads(line)["caption"] for line in table.read_text().splitlines()]
    tokenizer = train_wordpiece_tokenizer(captions, 120)
    folder = str(tmp_path_factory.mktemp("captioner"))
    config = named_configuration("violet-tiny", vocab_size=len(tokenizer), num_hidden_layers=1)
    VioletForCaptioning(config).save_pretrained(folder)
    frames = VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=2)
    VideoTextProcessor(tokenizer, frames, max_length=8).save_pretrained(folder)
    return folder


def test_each_row_gets_a_caption_and_a_killed_call_goes_on(table, model, tmp_path, monkeypatch, capsys):
    whole = tmp_path / "whole.jsonl"
    options = ["prepare", "captions", str(table), f"--model={model}", "--batch_size=2"]
    assert main([*options, f"--output={whole}"]) == 0
    assert "5 rows; 5 captions were written now" in capsys.readouterr().out
    rows = [json.loads(line) for line in whole.read_text().splitlines()]
    given = [json.loads(line) for line in table.read_text().splitlines()]
    assert [{name: row[name] for name in ("video", "caption")} for row in rows] == given
    assert all(isinstance(row["frame_caption"], str) for row in rows)

    calls, write = [], frame_captions.write_captions

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*arguments)

    output = tmp_path / "killed.jsonl"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(frame_captions, "write_captions", killed)
        prepare_captions(table, output, model, batch_size=2)
    assert not output.exists()
    with open(tmp_path / ".killed.jsonl.partial", "a") as file:
        file.write('{"video": "half a li')
    done = prepare_captions(table, output, model, batch_size=2)
    assert (done.rows, done.written) == (5, 3) and output.read_text() == whole.read_text()


def test_what_cannot_be_is_refused(table, model, tmp_path):
    with pytest.raises(TableError, match="have a column 'caption' already"):
        prepare_captions(table, tmp_path / "out.jsonl", model, column="caption")
    with pytest.raises(TableError, match="--output must be a .jsonl file"):
        prepare_captions(table, tmp_path / "out.csv", model)
    with pytest.raises(FileExistsError, match="rows.jsonl is there already"):
        prepare_captions(table, table, model)
    (tmp_path / ".out.jsonl.partial").write_text('{"video": "another.mp4"}\n')
    with pytest.raises(TableError, match="what an earlier call began was of other rows"):
        prepare_captions(table, tmp_path / "out.jsonl", model)

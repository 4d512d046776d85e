"""Rows whose videos a `datasets.Dataset` holds: files as dictionaries, or torchcodec's decoders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Video
from torchcodec_here import need_torchcodec
from transformers import AutoProcessor, TrainingArguments

from violet import QuestionCollator, VideoDecodeError, VioletForQuestionAnswering, VioletTrainer, decode_video
from violet.data import TableError, read_rows
from violet.data.loading import ClipReader


@pytest.fixture(scope="module")
def processor(model_folder):
    return AutoProcessor.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def rows(questions) -> Dataset:
    """Rows of four videos, several of each."""
    return questions["train"].select(range(12))


def in_files(rows: Dataset, decode: bool) -> Dataset:
    return rows.cast_column("video", Video(decode=decode))


def in_bytes(rows: Dataset, decode: bool) -> Dataset:
    """The files are in the data set itself, as `push_to_hub` and `to_parquet` leave them: all of one name."""
    content = [{"bytes": Path(video).read_bytes(), "path": "clip.mp4"} for video in rows["video"]]
    return rows.remove_columns("video").add_column("video", content).cast_column("video", Video(decode=decode))


@pytest.mark.parametrize("hold", [in_files, in_bytes])
@pytest.mark.parametrize("decode", [False, True])
def test_a_column_of_videos_makes_the_batch_that_their_paths_make(processor, rows, hold, decode):
    if decode:
        need_torchcodec()
    expected = QuestionCollator(processor)(rows.to_list())
    assert len(expected["pixel_values_videos"]) < len(rows)
    collator = QuestionCollator(processor, reader=ClipReader(processor.video_processor, 10**7), name_videos=True)
    held = hold(rows, decode)
    for _ in range(2):  # decoded, and from the cache
        batch = collator([held[number] for number in range(len(held))])
        for name, value in expected.items():
            assert torch.equal(batch[name], value), name
        assert len(set(batch["videos"])) == len(batch["videos"]) == len(batch["pixel_values_videos"])
    assert len(collator.reader.clips) == len(batch["videos"])


def test_decoders_and_arrays_of_a_users_own_are_told_apart_and_not_kept(processor, rows):
    need_torchcodec()
    from torchcodec.decoders import VideoDecoder

    first, second = list(dict.fromkeys(rows["video"]))[:2]
    own = VideoDecoder(first)
    frames = decode_video(second).frames
    held = [own, frames, second, own, list(frames)]
    collator = QuestionCollator(processor, reader=ClipReader(processor.video_processor, 10**7))
    batch = collator([{"video": video, "question": "what?"} for video in held])
    assert batch["video_index"].tolist() == [0, 1, 2, 0, 3]
    of_paths = QuestionCollator(processor)([{"video": video, "question": "what?"} for video in (first, second)])
    expected = of_paths["pixel_values_videos"][[0, 1, 1, 1]]
    assert torch.equal(batch["pixel_values_videos"], expected)
    assert [key[0] for key in collator.reader.clips] == [second]


def test_a_damaged_video_of_a_column_is_named_or_left_out(processor, rows):
    content = Path(rows[0]["video"]).read_bytes()
    held = [
        {"video": {"path": None, "bytes": content}, "question": "what?", "row": 0},
        {"video": {"path": "half.mp4", "bytes": content[: len(content) // 2]}, "question": "what?", "row": 1},
        {"video": {"path": None, "bytes": None}, "question": "what?", "row": 2},
        {"video": None, "question": "what?", "row": 3},
    ]
    with pytest.raises(VideoDecodeError, match=r"half\.mp4 \(row 1\): the file is truncated"):
        QuestionCollator(processor)(held)
    batch = QuestionCollator(processor, skip_bad=True)(held)
    assert batch["unread"].tolist() == [False, True, True, True]
    assert [sample.row for sample in batch["failed"]] == [1, 2, 3]
    assert batch["failed"][0].video.startswith("half.mp4 (") and "missing" in batch["failed"][1].reason


def train(model_folder: Path, processor, rows: Dataset, output: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of the rows after a step on them, and the weights."""
    model = VioletForQuestionAnswering.from_pretrained(model_folder)
    arguments = TrainingArguments(
        str(output), max_steps=1, per_device_train_batch_size=4, seed=1, report_to="none", save_strategy="no",
        remove_unused_columns=False, dataloader_num_workers=1,
    )  # fmt: skip
    collator = QuestionCollator(processor, model.config.label2id)
    trainer = VioletTrainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows, data_collator=collator)
    trainer.train()
    return trainer.evaluate()["eval_loss"], model.state_dict()


@pytest.fixture(scope="module")
def trained_on_paths(model_folder, processor, rows, tmp_path_factory):
    return train(model_folder, processor, rows, tmp_path_factory.mktemp("paths"))


@pytest.mark.parametrize("hold, decode", [(in_files, True), (in_bytes, False)])
def test_the_trainer_comes_to_the_same_weights(
    processor, rows, model_folder, trained_on_paths, tmp_path, hold, decode
):
    """The trainer takes a column's files, so that no decoder is made: torchcodec is not needed."""
    expected_loss, expected = trained_on_paths
    loss, found = train(model_folder, processor, hold(rows, decode), tmp_path)
    assert loss == expected_loss and np.isfinite(loss)
    assert expected.keys() == found.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_table_that_holds_videos_is_read_where_it_can_be(rows, tmp_path):
    columns = ("video", "question", "answer")
    in_files(rows, decode=False).to_parquet(str(tmp_path / "paths.parquet"))
    assert list(read_rows(tmp_path / "paths.parquet", columns)["video"]) == list(rows["video"])
    in_bytes(rows, decode=False).to_parquet(str(tmp_path / "bytes.parquet"))
    with pytest.raises(TableError, match=rf"row 1: the video's bytes are in the table.*hub:{tmp_path}"):
        read_rows(tmp_path / "bytes.parquet", columns)

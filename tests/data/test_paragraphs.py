"""Rows of several clips and several sentences: read, decoded and tokenised."""

import json

import numpy as np
import pytest
import torch

from violet.data.loading import ClipReader
from violet.data.rows import read_rows
from violet.data.sources import open_video
from violet.data.tables import TableError
from violet.processing import VideoDecodeError, VideoTextProcessor, VioletVideoProcessor, train_wordpiece_tokenizer
from violet.processing.joined_clips import clips_of, join_clips
from violet.processing.processing_violet import join_sentences

SENTENCES = ["a red square moves left", "then it stops", "a blue circle turns"]


@pytest.fixture
def table(tmp_path, shapes_folder):
    clips = sorted((shapes_folder / "train").glob("*.mp4"))[:4]
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"video": [str(clip) for clip in clips], "caption": SENTENCES}) + "\n")
    return file, [str(clip) for clip in clips]


def test_a_row_may_list_clips_and_sentences(table):
    file, clips = table
    row = read_rows(file, ("video", "caption"))[0]
    assert clips_of(row["video"]) == clips and row["caption"].split("\n") == SENTENCES
    reader = ClipReader(VioletVideoProcessor(num_frames=8))
    read = reader.read(row["video"])
    assert len(read.frames) == len(read.indices) == 8
    assert np.array_equal(read.frames[2:4], reader.read(clips[1], 2).frames)


def test_clips_that_cannot_be_one_video_are_refused_by_name(table, tmp_path):
    file, clips = table
    reader = ClipReader(VioletVideoProcessor(num_frames=6))
    with pytest.raises(TableError, match="Row 3: the video has 4 clips, and `num_frames` 6"):
        reader.read(join_clips(clips), row=3)
    with pytest.raises(TableError, match="clips.tsv#a lies in a container"):
        open_video(join_clips([clips[0], "clips.tsv#a"]))
    lost = tmp_path / "lost.jsonl"
    lost.write_text(json.dumps({"video": [clips[0], "gone.mp4"], "caption": SENTENCES}) + "\n")
    with pytest.raises(TableError, match="there is no video .*gone.mp4"):
        read_rows(lost, ("video", "caption"))
    assert clips_of("clip.mp4") is None


def test_the_processor_reads_clips_as_one_video_by_the_same_rule(table):
    _, clips = table
    frames = VioletVideoProcessor(num_frames=8, size={"height": 32, "width": 32}, do_rescale=False, do_normalize=False)
    whole = frames([join_clips(clips), clips[0]], return_tensors="pt", return_metadata=True)
    read = ClipReader(frames).read(join_clips(clips))
    expected = frames([read.frames], do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(whole["pixel_values_videos"][:1], expected)
    assert list(whole["video_metadata"][0].frames_indices) == read.indices
    assert open_video(join_clips(clips)) == join_clips(clips)
    with pytest.raises(VideoDecodeError, match="4 clips, and `num_frames` 6 is no multiple"):
        frames([join_clips(clips)], num_frames=6)
    with pytest.raises(VideoDecodeError, match="gone.mp4"):
        frames([join_clips([clips[0], "gone.mp4"])])


def test_of_too_many_sentences_the_shortest_neighbours_are_joined():
    assert join_sentences(["a a a a", "b", "c", "", "d d d d d"], 3) == ["a a a a", "b c", "d d d d d"]
    assert join_sentences(["a", "b"], 4) == ["a", "b"] and join_sentences(["", " "], 4) == []


def test_a_paragraph_is_padded_sentence_by_sentence(tmp_path):
    tokenizer = train_wordpiece_tokenizer(SENTENCES, 100)
    processor = VideoTextProcessor(tokenizer, VioletVideoProcessor(), max_length=9, max_sentences=3)
    processor.save_pretrained(tmp_path)
    processor = VideoTextProcessor.from_pretrained(tmp_path)
    batch = processor(text=["\n".join(SENTENCES), SENTENCES[1]])
    assert batch["input_ids"].shape == (2, 27) and batch["input_ids"].dtype == torch.int64
    alone = tokenizer(SENTENCES[1], padding="max_length", max_length=9, return_tensors="pt")
    assert torch.equal(batch["input_ids"][0, 9:18], alone["input_ids"][0])
    assert torch.equal(batch["input_ids"][1, :9], alone["input_ids"][0])
    assert not batch["attention_mask"][1, 9:].any() and (batch["input_ids"][1, 9:] == tokenizer.pad_token_id).all()

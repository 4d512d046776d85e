"""Processors found by transformers' Auto classes, in a folder that holds a model too."""

import torch
from transformers import AutoProcessor, AutoTokenizer, AutoVideoProcessor

from violet import VideoTextProcessor, VioletVideoProcessor


def test_auto_classes_load_what_was_saved(model_folder, questions, tmp_path):
    processor = AutoProcessor.from_pretrained(model_folder)
    video_processor = AutoVideoProcessor.from_pretrained(model_folder)
    assert type(processor) is VideoTextProcessor and type(video_processor) is VioletVideoProcessor
    assert video_processor.to_dict() == processor.video_processor.to_dict()
    assert (video_processor.num_frames, video_processor.size.height) == (4, 64)
    assert AutoTokenizer.from_pretrained(model_folder).get_vocab() == processor.tokenizer.get_vocab()

    processor.save_pretrained(tmp_path)
    again = VideoTextProcessor.from_pretrained(tmp_path)
    row = questions["test"][0]
    one, other = (each(text=row["question"], videos=row["video"]) for each in (processor, again))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(video_processor(row["video"])["pixel_values_videos"], one["pixel_values_videos"])

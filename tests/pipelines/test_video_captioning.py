import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from violet import VideoCaptioningPipeline


@pytest.fixture(scope="module")
def describe(saved):
    return pipeline("video-captioning", model=saved["VioletForCaptioning"])


def by_hand(folder, clip, prompt=None, **settings):
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    inputs = {"pixel_values_videos": processor(videos=clip)["pixel_values_videos"]}
    if prompt is not None:
        inputs["prompt_ids"] = processor(text=prompt)["input_ids"]
    return processor.tokenizer.batch_decode(model.generate(**inputs, **settings), skip_special_tokens=True)


def test_it_writes_what_generate_writes(describe, saved, clips):
    assert isinstance(describe, VideoCaptioningPipeline)
    folder = saved["VioletForCaptioning"]
    for settings in ({"max_new_tokens": 5}, {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 2}):
        expected = [{"generated_text": text} for text in by_hand(folder, clips[0], **settings)]
        assert describe(clips[0], **settings) == expected
    prompt = "write a description about the video."
    assert describe(clips[0], prompt=prompt, max_new_tokens=5) == [
        {"generated_text": text} for text in by_hand(folder, clips[0], prompt, max_new_tokens=5)
    ]
    assert describe(clips[0], prompt=prompt, max_new_tokens=5) != describe(clips[0], max_new_tokens=5)


def test_a_text_has_at_most_the_processors_length_where_none_is_asked_for(describe, saved, clips):
    expected = by_hand(saved["VioletForCaptioning"], clips[0], max_length=describe.processor.max_length)
    assert describe(clips[0]) == [{"generated_text": expected[0]}]


def test_settings_given_to_the_pipeline_hold_for_every_call(saved, describe, clips):
    short = pipeline("video-captioning", model=saved["VioletForCaptioning"], max_new_tokens=2)
    assert short(clips[0]) == describe(clips[0], max_new_tokens=2)
    assert short(clips[0], max_new_tokens=4) == describe(clips[0], max_new_tokens=4)


def test_a_setting_that_generate_does_not_know_is_refused(describe, clips):
    with pytest.raises(ValueError, match="num_beems"):
        describe(clips[0], num_beems=3)


def test_a_model_whose_special_tokens_are_not_its_tokenizers_cannot_write(save_model):
    with pytest.raises(ValueError, match="`mask_token_id` is 103, its tokenizer's 4"):
        pipeline("video-captioning", model=str(save_model("VioletForCaptioning", mask_token_id=103)))

"""Text and clips through one call; nothing is dropped, and the settings survive saving."""

import numpy as np
import pytest
import torch
from own_process import run_python
from transformers import AutoTokenizer, AutoVideoProcessor, PreTrainedConfig

from violet.processing.processing_violet import VideoTextProcessor, train_wordpiece_tokenizer
from violet.processing.video_processing_violet import VioletVideoProcessor

TEXTS = [f"The {colour} {shape} moves {way}." for colour in ("red", "blue") for shape in ("disc", "cross", "square")
         for way in ("left", "right", "up", "down")]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece_tokenizer(TEXTS, vocab_size=80)


@pytest.fixture
def processor(tokenizer):
    return VideoTextProcessor(tokenizer, VioletVideoProcessor(num_frames=2, size={"height": 32, "width": 32}))


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)


def test_a_batch_goes_to_the_device_and_raw_pictures_are_normalised_there(processor, frames):
    expected = processor(videos=[frames], text="what moves?")
    raw = processor(videos=[frames], text="what moves?", do_rescale=False, do_normalize=False)
    assert raw["pixel_values_videos"].dtype == torch.uint8
    batch = {**raw, "ids": ["a"], "mvm_targets": {"vq": torch.ones(2)}, "objectives": {"mlm": 1.0}}
    moved = processor.to_device(batch, "meta")
    assert {moved[name].device.type for name in raw} | {moved["mvm_targets"]["vq"].device.type} == {"meta"}
    assert moved["pixel_values_videos"].dtype == torch.float32
    assert moved["ids"] == ["a"] and moved["objectives"] == {"mlm": 1.0}
    here = processor.to_device(batch, "cpu")
    assert all(torch.equal(here[name], expected[name]) for name in expected)
    again = processor.to_device(here, torch.device("cpu"))
    assert again["pixel_values_videos"] is here["pixel_values_videos"], "what is normalised stays as it is"
    assert sorted(processor.to_device({"labels": torch.ones(1)}, "cpu")) == ["labels"]


def test_text_and_videos_give_the_three_inputs_of_the_model(processor, frames):
    inputs = processor(text=["what moves?", "the red disc moves left"], videos=[frames, frames])
    assert sorted(inputs) == ["attention_mask", "input_ids", "pixel_values_videos"]
    assert sorted(inputs) == sorted(processor.model_input_names)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape and len(inputs["input_ids"]) == 2
    assert inputs["pixel_values_videos"].shape == (2, 2, 3, 32, 32)
    assert sorted(processor(text="what?")) == ["attention_mask", "input_ids"]
    assert sorted(processor(videos=frames)) == ["pixel_values_videos"]


@pytest.mark.parametrize("positional", [("what?",), ("what?", "clip.mp4"), (["what?"],)])
def test_positional_arguments_are_refused_rather_than_dropped(processor, positional):
    with pytest.raises(TypeError, match="by name"):
        processor(*positional)
    with pytest.raises(TypeError, match="by name"):
        processor(*positional, videos="clip.mp4")


def test_nothing_at_all_and_unknown_settings_are_refused(processor, frames):
    with pytest.raises(ValueError, match="text="):
        processor()
    with pytest.raises(TypeError, match="audio"):
        processor(text="what?", audio=frames)


def test_settings_reach_the_part_they_belong_to(processor, frames):
    inputs = processor(text="the red disc", videos=frames, padding="max_length", max_length=9, num_frames=3)
    assert inputs["input_ids"].shape == (1, 9) and inputs["pixel_values_videos"].shape[1] == 3
    inputs = processor(
        text="the red disc", videos=frames, text_kwargs={"max_length": 3}, videos_kwargs={"num_frames": 4}
    )
    assert inputs["input_ids"].shape == (1, 3) and inputs["pixel_values_videos"].shape[1] == 4
    assert processor(text="red", return_tensors=None)["input_ids"] == [2, processor.tokenizer.vocab["red"], 3]
    assert isinstance(processor(text="red", videos=frames, return_tensors="np")["pixel_values_videos"], np.ndarray)


def test_long_texts_are_cut_and_short_ones_padded(processor):
    inputs = processor(text=["red " * 100, "red"])
    assert inputs["input_ids"].shape == (2, 32)
    assert inputs["attention_mask"].sum(dim=1).tolist() == [32, 3]
    assert inputs["input_ids"][0, -1] == processor.tokenizer.sep_token_id
    assert (inputs["input_ids"][1, 3:] == processor.tokenizer.pad_token_id).all()


def test_decoding_gives_the_words_back(processor):
    ids = processor(text=["the red disc", "the blue cross moves up"])["input_ids"]
    assert processor.batch_decode(ids, skip_special_tokens=True) == ["the red disc", "the blue cross moves up"]
    assert processor.decode(ids[0], skip_special_tokens=True) == "the red disc"


def test_settings_survive_saving(tokenizer, frames, tmp_path):
    class OwnConfig(PreTrainedConfig):
        model_type = "violet-processing-test"

    # The processor's loader finds its video processor by name among the registered ones.
    AutoVideoProcessor.register(OwnConfig, VioletVideoProcessor)
    video_processor = VioletVideoProcessor(num_frames=3, size={"height": 24, "width": 24}, do_pad_to_square=False)
    saved = VideoTextProcessor(tokenizer, video_processor, max_length=7, padding="max_length")
    texts = ["the red disc moves left and the blue cross moves right", "up"]
    expected = saved(text=texts, videos=[frames, frames])
    assert expected["input_ids"].shape == (2, 7)
    saved.save_pretrained(tmp_path)
    loaded = VideoTextProcessor.from_pretrained(tmp_path)
    assert (loaded.max_length, loaded.padding) == (7, "max_length")
    assert loaded.video_processor.to_dict() == saved.video_processor.to_dict()
    again = loaded(text=texts, videos=[frames, frames])
    for name, value in expected.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


def test_the_trained_tokenizer_behaves_as_berts(tokenizer, tmp_path):
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(tokenizer) <= 80
    ids = tokenizer("The RED disc!")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "the", "red", "disc", "[UNK]", "[SEP]"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the red disc"
    masked = tokenizer("the [MASK] disc")["input_ids"]
    assert masked.count(tokenizer.mask_token_id) == 1 and tokenizer.mask_token_id == 4
    pair = tokenizer("red", "blue")
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"]) == ["[CLS]", "red", "[SEP]", "blue", "[SEP]"]
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "an unseen word: zebra", "the [MASK] disc"]:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_the_same_texts_give_the_same_vocabulary_in_every_process():
    script = (
        "from violet.processing.processing_violet import train_wordpiece_tokenizer as train\n"
        f"print(sorted(train({TEXTS!r}, 45).get_vocab().items()))"
    )
    other = run_python("-c", script)
    assert other.returncode == 0, other.stderr
    assert other.stdout == f"{sorted(train_wordpiece_tokenizer(TEXTS, 45).get_vocab().items())}\n"

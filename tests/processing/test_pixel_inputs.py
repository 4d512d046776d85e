"""Several pixel inputs of one clip: what the processor makes, and how models, collators and pipelines pass it on."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from torchvision.transforms.v2 import functional as tvF
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, pipeline
from transformers.modeling_outputs import BaseModelOutput

from violet import (
    VideoTextProcessor,
    VioletConfig,
    VioletForCaptioning,
    VioletForMaskedLM,
    VioletForMultipleChoice,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletForRetrieval,
    VioletForVideoClassification,
    VioletModel,
)
from violet.evaluation.galleries import encode_gallery
from violet.modeling_violet import ENCODERS
from violet.processing import train_wordpiece_tokenizer
from violet.processing.video_processing_violet import VioletVideoProcessor
from violet.training.collating import VideoTextCollator

BOTH = ["pixel_values_videos", "pixel_values_detail"]


class TwoInputsConfig(PreTrainedConfig):
    """An encoder of frames and of a detail twice as high and wide."""

    model_type = "test_two_inputs"
    hidden_size: int = 16
    cell = (1, 16, 16)
    inputs = ("pixel_values_videos", "pixel_values_detail")

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        return frames, height // 16, width // 16


class TwoInputs(PreTrainedModel):
    config_class = TwoInputsConfig
    base_model_prefix = "two_inputs"
    main_input_name = "pixel_values_videos"

    def __init__(self, config):
        super().__init__(config)
        self.frames = nn.Conv2d(3, 16, 16, 16)
        self.detail = nn.Conv2d(3, 16, 32, 32)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.05)

    def forward(self, pixel_values_videos, pixel_values_detail):
        states = self.frames(pixel_values_videos.flatten(0, 1)).unflatten(0, pixel_values_videos.shape[:2])
        states = states + self.detail(pixel_values_detail[:, 0]).unsqueeze(1)
        return BaseModelOutput(last_hidden_state=states.permute(0, 1, 3, 4, 2))


AutoConfig.register("test_two_inputs", TwoInputsConfig, exist_ok=True)
ENCODERS.add("test_two_inputs", TwoInputs)


def small_model(model_class, **changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    tokens = {"vocab_size": 64, "bos_token_id": 2, "eos_token_id": 3, "mask_token_id": 4, "num_labels": 3}
    config = VioletConfig(
        vision_config={"model_type": "test_two_inputs"}, **sizes, **tokens, projection_dim=8, **changes
    )
    return model_class(config).eval()


def processor() -> VideoTextProcessor:
    frames = VioletVideoProcessor(num_frames=3, size={"height": 32, "width": 32}, inputs=BOTH, detail_scale=2)
    return VideoTextProcessor(train_wordpiece_tokenizer(["a red disc moves left [MASK]"], 64), frames, max_length=8)


def clips(count: int = 2, frames: int = 6) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (frames, 96, 96, 3), dtype=np.uint8) for _ in range(count)]


def inputs(count: int = 2) -> dict[str, torch.Tensor]:
    return dict(processor()(videos=clips(count)))


# --- the processor ---


def test_the_detail_is_the_middle_frame_of_the_same_frames_and_both_are_antialiased():
    frames = VioletVideoProcessor(num_frames=5, size={"height": 32, "width": 48}, inputs=BOTH, do_pad_to_square=False)
    clip = np.random.default_rng(0).integers(0, 256, (20, 256, 384, 3), dtype=np.uint8)
    made = frames([clip], return_metadata=True)
    taken = torch.from_numpy(clip[made["video_metadata"][0].frames_indices]).permute(0, 3, 1, 2)
    expected = frames.normalize_pixels(tvF.resize(taken, [32, 48], antialias=True))
    torch.testing.assert_close(made["pixel_values_videos"][0], expected)
    middle = frames.normalize_pixels(tvF.resize(taken[2:3], [128, 192], antialias=True))
    torch.testing.assert_close(made["pixel_values_detail"][0], middle)
    assert made["pixel_values_detail"].shape == (1, 1, 3, 128, 192)


@pytest.mark.parametrize("settings", [{}, {"do_pad_to_square": False}, {"do_pad_to_square": False, "draw": 5}])
@pytest.mark.parametrize("shape", [(64, 200), (150, 90), (301, 77)])
def test_both_are_cut_at_the_same_place(settings, shape):
    """The detail, made as small, is the small frame but for the two steps of rounding and filtering."""
    settings = dict(settings)
    draws = [settings.pop("draw")] if "draw" in settings else None
    frames = VioletVideoProcessor(
        num_frames=1, size={"height": 32, "width": 32}, inputs=BOTH, do_random_crop=draws is not None, **settings
    )
    ramp = np.linspace(0, 1, shape[0])[:, None, None] + np.linspace(0, 2, shape[1])[None, :, None]
    clip = (ramp * np.ones(3) * 80).astype(np.uint8)[None]
    made = frames([clip], draws=draws, do_normalize=False)
    small = tvF.resize(made["pixel_values_detail"][:, 0], [32, 32], antialias=True)
    inner = (..., slice(2, -2), slice(2, -2))
    seen = made["pixel_values_videos"][0][inner] > 0.02  # black around a padded clip is blurred at its edge
    assert ((small[0] - made["pixel_values_videos"][0, 0])[inner].abs() * seen[0]).max() < 0.05
    assert made["pixel_values_videos"].std() > 0.05


def test_each_of_several_clips_has_its_middle_frame_and_short_videos_repeat_frames():
    frames = VioletVideoProcessor(num_frames=6, num_clips=2, size={"height": 8, "width": 8}, inputs=BOTH)
    clip = np.arange(2, dtype=np.uint8)[:, None, None, None].repeat(32, 1).repeat(32, 2).repeat(3, 3) * 200
    made = frames([clip], do_rescale=False, do_normalize=False)
    assert made["pixel_values_videos"].shape == (1, 6, 3, 8, 8) and made["pixel_values_detail"].shape == (
        1,
        2,
        3,
        32,
        32,
    )
    values = made["pixel_values_videos"][0, :, 0, 0, 0].tolist()
    assert values == [0, 0, 0, 200, 200, 200], "two frames for six places"
    assert made["pixel_values_detail"][0, :, 0, 0, 0].tolist() == [values[1], values[4]]
    with pytest.raises(ValueError, match="`num_clips` 4 does not divide the 6 frames"):
        frames([clip], num_clips=4)


def test_frames_at_a_rate_have_a_detail_too():
    frames = VioletVideoProcessor(fps=2, size={"height": 8, "width": 8}, inputs=BOTH)
    made = frames([clips(1, frames=30)[0]], video_metadata={"fps": 10.0}, do_rescale=False, do_normalize=False)
    assert made["pixel_values_videos"].shape[:2] == (1, 6) and made["pixel_values_detail"].shape == (1, 1, 3, 32, 32)


@pytest.mark.parametrize("inputs", [["pixel_values_videos"], ["pixel_values_detail"], BOTH])
def test_what_is_made_survives_saving(inputs, tmp_path):
    frames = VioletVideoProcessor(num_frames=3, size={"height": 8, "width": 8}, inputs=inputs, detail_scale=3)
    frames.save_pretrained(tmp_path)
    loaded = VioletVideoProcessor.from_pretrained(tmp_path)
    assert list(loaded(clips(1))) == inputs and loaded.detail_scale == 3


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"inputs": ["pixel_values_flow"]}, "`inputs`: .*must be some of pixel_values_videos, pixel_values_detail"),
        ({"inputs": []}, "`inputs`: "),
        ({"detail_scale": 0}, "`detail_scale` must be 1 or more"),
        ({"num_clips": 0}, "`num_clips` must be 1 or more"),
    ],
)
def test_settings_that_make_nothing_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        VioletVideoProcessor(**settings)


def test_a_detail_of_frames_that_keep_their_size_is_refused():
    frames = VioletVideoProcessor(num_frames=3, inputs=BOTH, do_resize=False)
    with pytest.raises(ValueError, match="it needs `do_resize`"):
        frames(clips(1))


# --- on the way to the model ---


class Words(VideoTextCollator):
    def texts(self, rows, first_rows):
        return dict(self.processor(text=[row["text"] for row in rows]))


def test_a_batch_holds_all_of_them_as_bytes_and_all_are_normalised_in_one_place():
    one, clip = processor(), clips()
    rows = [{"video": clip[0], "text": "a red disc"}, {"video": clip[1], "text": "left"}]
    collator = Words(one)
    collator.raw_pixels = True
    batch = collator(rows)
    assert all(batch[name].dtype == torch.uint8 for name in BOTH)
    moved = one.to_device(batch, "cpu")
    for name, expected in inputs().items():
        torch.testing.assert_close(moved[name], expected)


def test_shuffled_frames_are_shuffled_in_all_of_them():
    one = processor()
    rows = [{"video": clips(1)[0], "text": "a red disc"}]
    plain, mixed = Words(one)(rows), Words(one, shuffle_frames=True)(rows)
    order = [
        next(i for i, frame in enumerate(plain["pixel_values_videos"][0]) if torch.equal(frame, other))
        for other in mixed["pixel_values_videos"][0]
    ]
    assert order != [0, 1, 2] and (order[1] == 1) == torch.equal(
        plain["pixel_values_detail"], mixed["pixel_values_detail"]
    )


# --- in the model ---


def changed(given: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return given | {name: given[name] + 1}


TEXTS = {"input_ids": torch.tensor([[2, 9, 4, 3], [2, 8, 4, 3]])}


@pytest.mark.parametrize(
    "model_class",
    [VioletForMaskedLM, VioletForQuestionAnswering, VioletForRetrieval, VioletForMultipleChoice],
)
@torch.no_grad()
def test_every_class_of_models_reads_every_input(model_class):
    model, given = small_model(model_class), inputs()
    texts = (
        TEXTS
        if model_class is not VioletForMultipleChoice
        else {"input_ids": TEXTS["input_ids"][:, None].repeat(1, 2, 1)}
    )
    if model_class is VioletForMultipleChoice:
        texts["input_ids"][:, 1, 1] = 7
    usual = model(**given, **texts).logits
    for name in BOTH:
        assert not torch.allclose(model(**changed(given, name), **texts).logits, usual, atol=1e-6)
    again = model(video_tokens=model.violet.encode_videos(**given), **texts).logits
    torch.testing.assert_close(again, usual)
    with pytest.raises(ValueError, match="exactly one of"):
        model(video_tokens=model.violet.encode_videos(**given), **given, **texts)


@torch.no_grad()
def test_models_without_texts_captions_and_pre_training_read_every_input():
    given = inputs()
    for name in BOTH:
        other = changed(given, name)
        model = small_model(VioletForVideoClassification)
        assert not torch.allclose(model(**given).logits, model(**other).logits, atol=1e-6)
        model = small_model(VioletModel)
        features = [model.get_video_features(**one).pooler_output for one in (given, other)]
        assert not torch.allclose(*features, atol=1e-6)
        model = small_model(VioletForPreTraining)
        words = {**TEXTS, "labels": torch.tensor([[-100, -100, 9, -100]] * 2)}
        losses = [model(**one, **words, objectives={"mlm": 1.0}).loss for one in (given, other)]
        assert not torch.equal(*losses)
        model = small_model(VioletForCaptioning)
        made = [
            model.generate(**one, max_length=4, output_logits=True, return_dict_in_generate=True).logits[0]
            for one in (given, other)
        ]
        assert not torch.allclose(*made, atol=1e-6)


def test_a_masked_cell_is_hidden_in_every_input():
    model = small_model(VioletModel)
    masked = torch.zeros(2, 3, 2, 2, dtype=torch.bool)
    masked[0, :, 0, 1] = True
    given = {name: torch.ones_like(pixels) for name, pixels in inputs().items()}
    hidden = model.video_encoder.mask_inputs(given, masked)
    assert (hidden["pixel_values_videos"][0, :, :, :16, 16:] == 0).all()
    assert (hidden["pixel_values_detail"][0, :, :, :32, 32:] == 0).all()
    for name, side in (("pixel_values_videos", 16), ("pixel_values_detail", 32)):
        cells = given[name].shape[1] * 3 * side**2  # the one detail stands for all three steps
        assert (hidden[name] == 0).sum() == cells, name


def test_inputs_that_the_encoder_does_not_name_or_that_are_missing_are_refused():
    model, given = small_model(VioletModel), inputs()
    with pytest.raises(
        ValueError, match="takes pixel_values_videos and pixel_values_detail, got pixel_values_videos: the"
    ):
        model.encode_videos(given["pixel_values_videos"])
    with pytest.raises(ValueError, match="got pixel_values_videos and pixel_values_detail and pixel_values_flow"):
        model.encode_videos(**given, pixel_values_flow=given["pixel_values_videos"])
    torch.manual_seed(0)
    plain = VioletModel(
        VioletConfig(vision_config={"embed_dim": 8, "depths": (1,), "num_heads": (1,)}, num_hidden_layers=1)
    )
    with pytest.raises(ValueError, match="'violet_vision' takes pixel_values_videos, got"):
        plain.encode_videos(**given)


# --- pipelines and galleries ---


def test_pipelines_and_galleries_pass_every_input(tmp_path):
    one, videos = processor(), clips(3)
    ask = pipeline("video-fill-mask", model=small_model(VioletForMaskedLM), processor=one)
    assert len(ask(videos[0], "a red [MASK]")) == 5
    search = pipeline("video-text-retrieval", model=small_model(VioletForRetrieval), processor=one)
    search.add(videos)
    found = search("a red disc")
    assert len(found) == 3
    gallery = encode_gallery(search.model, one, videos, tmp_path / "gallery", ["a", "b", "c"], batch_size=2)
    torch.testing.assert_close(gallery.select(torch.arange(3)).tokens, search._gallery.video_tokens.tokens)
    features = pipeline("video-feature-extraction", model=small_model(VioletModel), processor=one)
    assert len(features(videos)) == 3
    write = pipeline("video-captioning", model=small_model(VioletForCaptioning), processor=one)
    assert "generated_text" in write(videos[0], max_length=4)[0]


def test_rows_of_a_table_train(tmp_path):
    from transformers import TrainingArguments

    from violet.training.trainer import VioletTrainer

    rows = Dataset.from_list([{"video": "clip", "text": "a red disc"}] * 2)
    given = inputs()

    def collate(batch):
        return {**given, **TEXTS, "labels": torch.tensor([0, 1])}

    model = small_model(VioletForQuestionAnswering).train()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=1,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        remove_unused_columns=False,
    )
    before = model.violet.vision_model.detail.weight.clone()
    VioletTrainer(model=model, args=arguments, data_collator=collate, train_dataset=rows).train()
    assert not torch.equal(model.violet.vision_model.detail.weight, before)

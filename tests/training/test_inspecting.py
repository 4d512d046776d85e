"""What `violet inspect masking` draws: the pictures of known predictions, and a whole PNG of a small model."""

import numpy as np
import pytest
import torch

from violet import VideoTextProcessor, VioletForPreTraining, VioletVideoProcessor, named_configuration
from violet.evaluation.pictures import MaskedClip, PictureRow, draw_masking
from violet.modeling_violet.objectives.masked_vision import MVM_TARGETS
from violet.processing import train_wordpiece_tokenizer
from violet.training import SettingsError
from violet.training.inspecting import (
    HIDDEN_COLOUR,
    caption_lines,
    inspect_masking,
    kinds_of,
    load_known_teachers,
    masked_batch,
    masked_clip,
    paint,
    right_words,
)
from violet.training.masking import MASK_KINDS, Masking

TARGETS = {"pixel": {}, "hog": {}, "vq": {"channels": 8}, "2d_feature": {"channels": 5}, "optical_flow": {}}
CAPTION = "a small red disc moves left"


@pytest.fixture(scope="module")
def processor():
    tokenizer = train_wordpiece_tokenizer([CAPTION], 200)
    return VideoTextProcessor(tokenizer, VioletVideoProcessor(size={"height": 64, "width": 64}))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return VioletForPreTraining(named_configuration("violet-tiny", mvm_targets=TARGETS)).eval()


@pytest.fixture(scope="module")
def video(questions):
    return questions["test"][0]["video"]


@pytest.mark.parametrize("kind", [kind for kind in MASK_KINDS if kind != "correlated"])
def test_each_kind_hides_patches_and_shows_them(model, processor, video, kind):
    masking = Masking(patch_ratio=0.4)
    mask = masked_batch(model, processor, video, CAPTION, kind, masking)["bool_masked_pos"]
    assert 0 < mask.sum() < mask.numel()
    clip = masked_clip(model, processor, {"pixel": MVM_TARGETS["pixel"].teacher()}, video, CAPTION, kind, masking)
    assert f"{kind} mask" in clip.title
    frames, pixel = clip.rows
    assert f"{int(mask.sum())} of 16 patches are hidden" in frames.notes[1]
    red = np.stack([(frame == HIDDEN_COLOUR).all(-1) for frame in frames.right])
    assert red.sum() == mask.sum() * 32 * 32
    # elsewhere the target shines through, where it is hidden it does not
    pale = np.stack(pixel.right) == 0.7 + 0.3 * np.stack(pixel.left)
    assert pale.all(-1)[~red].all() and not pale.all(-1)[red].any()


@pytest.mark.parametrize("name", ["pixel", "hog", "depth", "optical_flow", "vq", "3d_feature"])
def test_a_perfect_prediction_looks_like_the_target(processor, name):
    torch.manual_seed(0)
    channels = {"pixel": 3, "optical_flow": 2}.get(name, 1)
    target = torch.randn(4, channels, 64, 64)
    prediction = target
    if name == "vq":
        target = torch.randint(0, 8, (4, 2, 2))
        prediction = torch.nn.functional.one_hot(target, 8).float()
    if name == "3d_feature":
        target = prediction = torch.randn(4, 2, 2, 7)
    left, right = paint(name, target, prediction, processor)
    assert len(left) == len(right) == 4
    for true, guess in zip(left, right, strict=True):
        assert true.ndim == 3 and true.shape[-1] == 3 and true.min() >= 0 and true.max() <= 1 and true.std() > 0
        np.testing.assert_allclose(guess, true, atol=1e-6)
    other = paint(name, target, prediction.flip(0), processor)[1]
    assert np.abs(np.stack(other) - np.stack(left)).max() > 0.1


def test_flow_has_one_colour_a_direction_and_is_white_where_nothing_moves(processor):
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, 0, :4], flow[:, 0, 4:, :4] = 5, -5
    (picture,), (still,) = paint("optical_flow", flow, torch.zeros_like(flow), processor)
    right, left, nothing = picture[0, 0], picture[7, 0], picture[7, 7]
    assert np.abs(right - left).max() > 0.5 and (nothing == 1).all() and (still == 1).all()
    (_,), (faster,) = paint("optical_flow", flow, 3 * flow, processor)
    np.testing.assert_allclose(faster, picture, atol=0.01)  # as fast as can be shown, in the same direction


def test_right_words_counts_hidden_ones_alone():
    target = torch.arange(8).view(1, 2, 2, 2)
    prediction = torch.nn.functional.one_hot(target, 8).float()
    prediction[0, 0, 0, 1] = prediction[0, 1] = 0  # which chooses word 0
    mask = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    mask[0, 0] = True
    assert right_words(prediction, target, mask) == "3 of 4 right"


def test_the_words_of_the_model_stand_beside_the_true_ones(processor):
    ids = processor(text=[CAPTION])["input_ids"]
    labels = torch.full_like(ids, -100)
    labels[0, [3, 4]] = ids[0, [3, 4]]
    red, disc = (processor.tokenizer.decode([int(ids[0, place])]) for place in (3, 4))
    logits = torch.zeros(*ids.shape, 200)
    logits[0, 3, ids[0, 3]] = logits[0, 4, ids[0, 2]] = 1
    masked = ids.masked_fill(labels >= 0, processor.tokenizer.mask_token_id)
    lines = caption_lines(processor, {"input_ids": masked, "labels": labels}, logits)
    assert lines == ["“a small [MASK] [MASK] moves left”", f"the model says “{red}”, “small” (it is “{disc}”)"]


def test_a_picture_is_written_and_targets_without_teacher_are_named(model, processor, video, tmp_path, capsys):
    assert "correlated" not in kinds_of(model), "which the model could not make"
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    path = inspect_masking(tmp_path / "model", [video], [CAPTION], tmp_path / "a" / "masking.png")
    from PIL import Image

    width, height = Image.open(path).size
    assert path.exists() and width > 1000 and height > 3 * 300
    assert not list(path.parent.glob(".*")), "no temporary file is left"
    said = capsys.readouterr().out
    for name in ("vq", "2d_feature", "optical_flow"):
        assert f"{name} is left out" in said
    assert "hog" not in said and "pixel" not in said
    teachers = load_known_teachers(model, processor, {"vq": str(tmp_path / "nowhere")}, print)
    assert set(teachers) == {"pixel", "hog"}
    assert "vq is left out: The teacher of 'vq' cannot be loaded" in capsys.readouterr().out
    with pytest.raises(SettingsError, match="no target depth; it has 2d_feature, hog"):
        inspect_masking(tmp_path / "model", [video], [CAPTION], path, {"depth": "x"})
    with pytest.raises(SettingsError, match="2 captions for 3 videos"):
        inspect_masking(tmp_path / "model", [video] * 3, [CAPTION] * 2, path)


def test_rows_of_fewer_frames_and_many_clips_are_drawn(tmp_path):
    grey, few = [np.full((8, 8, 3), 0.5)] * 3, [np.zeros((4, 4, 3))] * 2
    clips = [MaskedClip("one", [PictureRow("frames", grey, grey), PictureRow("flow", few, few)], ["words"])] * 2
    assert draw_masking(tmp_path / "masking.png", clips).stat().st_size > 1000

"""Boxes beside a clip: a bright rectangle is where its box says, in the frames taken and in the picture of them."""

import numpy as np
import pytest
import torch

from violet.processing import VioletVideoProcessor

SETTINGS = {
    "padded": {},
    "stretched": {"do_pad_to_square": False, "do_stretch": True},
    "cut in the middle": {"do_pad_to_square": False},
    "cut at a drawn place": {"do_pad_to_square": False, "do_random_crop": True, "draws": [7]},
}


def clip_with(boxes: list[list[float] | None], height: int = 60, width: int = 120) -> np.ndarray:
    """Black frames (frames, height, width, 3), white inside of each frame's box."""
    frames = np.zeros((len(boxes), height, width, 3), np.uint8)
    for frame, box in zip(frames, boxes, strict=True):
        if box is not None:
            x1, y1, x2, y2 = box
            frame[round(y1 * height) : round(y2 * height), round(x1 * width) : round(x2 * width)] = 255
    return frames


TUBE: list[list[float] | None] = [[0.3, 0.2, 0.5, 0.6], [0.4, 0.2, 0.6, 0.7], None, [0.45, 0.1, 0.65, 0.5]]


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_box_of_a_frame_is_where_the_picture_shows_what_was_in_it(kind):
    processor = VioletVideoProcessor(size={"height": 60, "width": 60}, do_normalize=False)
    found = processor([clip_with(TUBE)], boxes=[TUBE], do_sample_frames=False, return_tensors="pt", **SETTINGS[kind])
    pictures, boxes, shown = found["pixel_values_videos"][0, :, 0], found["boxes"][0], found["box_mask"][0]
    assert boxes.shape == (4, 4) and shown.tolist() == [1, 1, 0, 1]
    for number in (0, 1, 3):
        bright = (pictures[number] > 0.5).nonzero()
        (top, left), (bottom, right) = bright.min(0).values, bright.max(0).values + 1
        seen = torch.stack([left, top, right, bottom]) / 60
        assert float((seen - boxes[number]).abs().max()) <= 1.01 / 60, kind


def test_boxes_are_those_of_the_frames_that_are_taken():
    boxes = [[0.0, 0.0, 0.1 + 0.1 * number, 0.5] for number in range(8)]
    processor = VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=3)
    found = processor([clip_with(boxes, 32, 32)], boxes=[boxes], return_metadata=True, return_tensors="pt")
    taken = found["video_metadata"][0]["frames_indices"]
    assert taken == [2, 4, 6]
    torch.testing.assert_close(found["boxes"][0, :, 2], torch.tensor([0.1 + 0.1 * number for number in taken]))
    one_for_all = processor([clip_with(boxes, 32, 32)] * 2, boxes=[(0.1, 0.2, 0.3, 0.4), None], return_tensors="pt")
    assert one_for_all["boxes"][0].tolist() == [pytest.approx([0.1, 0.2, 0.3, 0.4])] * 3
    assert one_for_all["boxes"][1].tolist() == [[0.0, 0.0, 1.0, 1.0]] * 3
    assert one_for_all["box_mask"].tolist() == [[1, 1, 1]] * 2
    assert "boxes" not in processor([clip_with(boxes, 32, 32)], return_tensors="pt")


WRONG = {
    "in pixels": ([10, 12, 40, 30], r": `boxes`: the box \(10, 12, 40, 30\) is in pixels"),
    "upside down": ([0.1, 0.6, 0.4, 0.2], "y1 0.6 and y2 0.2"),
    "outside": ([0.1, 0.6, 1.4, 0.8], r"\(0.1, 0.6, 1.4, 0.8\) lies outside of the frame"),
    "too few": ([[0.1, 0.1, 0.2, 0.2]] * 2, "there are 2 boxes, and the frame 3 is taken"),
    "not seen": ([[0.1, 0.1, 0.2, 0.2], None, None, None, None], r"none of the frames that are taken \(\[1, 2, 3\]\)"),
    "empty": ([], "give \\(x1, y1, x2, y2\\), or one of them for each frame"),
    "a word": ("0.1 0.2 0.3 0.4", "give \\(x1, y1, x2, y2\\)"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_boxes_are_named_with_their_numbers(kind):
    boxes, message = WRONG[kind]
    processor = VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=3)
    with pytest.raises(ValueError, match=message):
        processor([clip_with([None] * 5)], boxes=[boxes])


def test_a_box_in_what_is_cut_off_and_other_numbers_of_boxes_are_refused():
    processor = VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=2, do_pad_to_square=False)
    clip = clip_with([None] * 4)
    with pytest.raises(ValueError, match=r"the box \(0.0, 0.2, 0.2, 0.6\) lies in what is cut off"):
        processor([clip], boxes=[[0.0, 0.2, 0.2, 0.6]])
    with pytest.raises(ValueError, match="2 for 1 clips"):
        processor([clip], boxes=[None, None])

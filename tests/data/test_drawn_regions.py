"""Boxes of the drawn shapes: what is inside of one in the decoded video has the colour that its words say."""

import av
import numpy as np
import pytest
from datasets import Dataset

from violet.data import moving_shapes, regions
from violet.data.moving_shapes import COLOURS, SPLITS


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    counts = dict.fromkeys(SPLITS, 0) | {"test": 16, "test_together": 12}
    return moving_shapes(tmp_path_factory.mktemp("data") / "shapes", seed=3, **counts)


def decode(path: str) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def coloured(frame: np.ndarray) -> np.ndarray:
    """(height, width): the name of the nearest colour where a shape is, "" elsewhere."""
    names = np.array(list(COLOURS))
    distance = np.linalg.norm(frame[:, :, None] - np.array(list(COLOURS.values())), axis=-1)
    return np.where(frame.max(-1) > 125, names[distance.argmin(-1)], "")


def test_a_box_holds_its_shape_and_the_clips_words_are_those_of_its_regions(splits):
    for split in splits.values():
        rows = regions(split)
        for clip in split:
            own = [row for row in rows if row["video"] == clip["video"]]
            assert ", then ".join(row["caption"] for row in own) == clip["caption"]
            assert len({row["id"] for row in own}) == len(own) == len(clip["shapes"])
            frames = decode(clip["video"])
            for row, shape in zip(own, clip["shapes"], strict=True):
                assert len(row["boxes"]) == len(frames)
                for frame, box in zip(frames, row["boxes"], strict=True):
                    pixels = coloured(frame) == shape["colour"]
                    if box is None:
                        assert pixels.mean() < 0.01
                        continue
                    x1, y1, x2, y2 = (round(64 * number) for number in box)
                    inside = pixels[y1:y2, x1:x2].sum()
                    assert inside > 0.75 * pixels.sum() and inside > 0.2 * (x2 - x1) * (y2 - y1)


def test_a_shape_of_one_half_has_boxes_in_that_half_only_and_all_lie_in_the_frame(splits):
    kinds = set()
    for row in (*regions(splits["test"]), *regions(splits["test_together"])):
        shown = [box is not None for box in row["boxes"]]
        kinds.add((row["kind"], tuple(shown)))
        boxes = np.array([box for box in row["boxes"] if box is not None])
        assert (boxes[:, 0] < boxes[:, 2]).all() and (boxes[:, 1] < boxes[:, 3]).all()
        assert boxes.min() >= 0 and boxes.max() <= 1
    halves = (True,) * 4 + (False,) * 4
    assert kinds == {
        ("single", (True,) * 8), ("together", (True,) * 8), ("sequence", halves), ("sequence", halves[::-1])
    }  # fmt: skip


def test_other_videos_have_no_planned_boxes(tmp_path):
    rows = Dataset.from_list([{"video": str(tmp_path / "a" / "b.mp4"), "id": "b-0", "kind": "single"}])
    with pytest.raises(ValueError, match="holds no drawn videos"):
        regions(rows)

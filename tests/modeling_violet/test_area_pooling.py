"""Area pooling of boxes: MM-GEM's goldens, what it leaves equal, and boxes as people give them."""

import numpy as np
import pytest
import torch
from torch import nn

from violet.modeling_violet.area_pooling import check_boxes, pool_boxes
from violet.modeling_violet.contrastive_losses import symmetric_contrast
from violet.modeling_violet.losses import IGNORE_INDEX, masked_cross_entropy
from violet.modeling_violet.mm_gem_projection import pool_tube

shared = pytest.mark.shared


class Goldens:
    """The archive, and its inputs drawn again in their order."""

    def __init__(self, folder):
        self.arrays = np.load(folder / "goldens" / "mm_gem_public.npz")
        batch, steps, rows, columns, width = self.arrays["case"]
        generator = np.random.default_rng(4300)
        self.states = self._tensor(generator.standard_normal((batch, steps, rows, columns, width), np.float32))
        for _ in range(2):
            generator.random((batch, steps, 2))
        for _ in range(2):  # of the contrast's rows, which stand in the archive
            generator.standard_normal((6, width), np.float32)
        self.logits = self._tensor(2 * generator.standard_normal((3, 7, 11), np.float32))

    @staticmethod
    def _tensor(values) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values)).float()

    def get(self, name: str) -> torch.Tensor:
        return self._tensor(self.arrays[name])


@pytest.fixture(scope="module")
def goldens(shared_folder) -> Goldens:
    return Goldens(shared_folder)


def assert_near(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert got.shape == wanted.shape
    assert float((got - wanted).abs().max()) <= tolerance


@shared
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_whole_frames_and_boxes_are_the_goldens(goldens, parts):
    assert_near(pool_boxes(goldens.states, None, parts), goldens.get(f"whole_{parts}"))
    assert_near(pool_boxes(goldens.states, goldens.get("boxes"), parts), goldens.get(f"boxes_{parts}"))


@shared
def test_thin_boxes_and_a_box_of_one_cell_are_the_goldens(goldens):
    thin = goldens.get("boxes").clone()
    thin[..., 2] = thin[..., 0] + 0.001
    assert_near(pool_boxes(goldens.states, thin, 2), goldens.get("thin_boxes_2"), 1e-3)
    rows, columns = goldens.states.shape[2:4]
    cell = torch.tensor([1 / columns, 0, 2 / columns, 1 / rows]).expand(len(goldens.states), 4)
    assert_near(pool_boxes(goldens.states, cell, 2), goldens.get("box_of_one_cell_2"))


@shared
def test_the_vectors_of_videos_and_tubes_are_the_goldens(goldens):
    assert_near(pool_tube(goldens.states, None, None, 1, 4), goldens.get("video_summary"))
    mask = torch.from_numpy(goldens.arrays["frame_mask"])
    assert_near(pool_tube(goldens.states, goldens.get("boxes"), mask, 1, 4), goldens.get("tube_summary"))


@shared
def test_the_losses_are_the_goldens(goldens):
    rows = (goldens.get(f"contrast/{name}") for name in ("video", "text"))
    videos, texts = (nn.functional.normalize(one.double(), dim=-1) for one in rows)
    for name, scale in (("14.29", 1 / 0.07), ("1", 1.0), ("100", 100.0)):
        both = sum(float(goldens.arrays[f"loss/{way}_{name}"]) for way in ("video_to_text", "text_to_video"))
        assert float(symmetric_contrast(videos=videos, texts=texts, scale=scale)) == pytest.approx(both, rel=1e-6)
    found = {
        "embedding": symmetric_contrast(videos=videos, texts=texts, scale=1 / 0.07),
        "embedding_one_pair": symmetric_contrast(videos=videos[:1], texts=texts[:1], scale=1 / 0.07),
        "embedding_all_equal": symmetric_contrast(
            videos=videos[:1].expand(6, -1), texts=texts[:1].expand(6, -1), scale=1 / 0.07
        ),
    }
    labels = torch.from_numpy(goldens.arrays["generation/labels"])
    found["generation"] = masked_cross_entropy(goldens.logits, labels)
    found["generation_none"] = masked_cross_entropy(goldens.logits, torch.full_like(labels, IGNORE_INDEX))
    for name, loss in found.items():
        assert float(loss) == pytest.approx(float(goldens.arrays[f"loss/{name}"]), rel=1e-6, abs=1e-12), name


def random_map(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape))


BOXES = torch.tensor([[0.11, 0.23, 0.67, 0.91], [0.5, 0.0, 1.0, 0.3]], dtype=torch.float64)


def test_the_mean_of_the_parts_does_not_depend_on_how_many_there_are():
    states = random_map(2, 3, 5, 7, 4)
    means = [pool_boxes(states, BOXES, parts).mean((2, 3)) for parts in (1, 2, 3, 5)]
    for mean in means[1:]:
        torch.testing.assert_close(mean, means[0], atol=1e-14, rtol=0)


def test_a_box_of_one_cell_is_that_cell_and_parts_that_divide_the_map_are_adaptive_pooling():
    states = random_map(2, 3, 4, 8, 5)
    cell = torch.tensor([3 / 8, 2 / 4, 4 / 8, 3 / 4], dtype=torch.float64).expand(2, 4)
    torch.testing.assert_close(pool_boxes(states, cell, 1)[:, :, 0, 0], states[:, :, 2, 3], atol=1e-14, rtol=0)
    # (2, 3, rows, columns, 5) -> (6, 5, rows, columns) and back
    adaptive = nn.functional.adaptive_avg_pool2d(states.flatten(0, 1).movedim(-1, 1), 4)
    wanted = adaptive.movedim(1, -1).unflatten(0, (2, 3))
    torch.testing.assert_close(pool_boxes(states, None, 4), wanted, atol=1e-6, rtol=0)


def test_a_ramp_has_its_middle_as_the_mean_of_a_box():
    """The box ends at the borders of cells; the middle of cell k is k + 0.5."""
    columns = torch.arange(8, dtype=torch.float64) + 0.5
    states = columns.expand(1, 1, 6, 8).unsqueeze(-1)
    box = torch.tensor([[2 / 8, 1 / 6, 7 / 8, 3 / 6]], dtype=torch.float64)
    assert pool_boxes(states, box, 1).item() == pytest.approx((2 + 7) / 2, abs=1e-13)


def test_parts_stand_row_by_row_and_a_tube_has_a_box_for_each_frame():
    states = torch.arange(2 * 4, dtype=torch.float32).view(1, 2, 2, 2, 1)
    assert pool_boxes(states, None, 2).flatten().tolist() == list(range(8))
    tube = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]])
    assert pool_boxes(states, tube, 1).flatten().tolist() == [0.0, 7.0]


def test_frames_that_do_not_show_a_box_change_nothing():
    states, tube = random_map(1, 3, 4, 4, 2), BOXES[:1, None].repeat(1, 3, 1)
    mask = torch.tensor([[1, 0, 1]])
    found = pool_tube(states, tube, mask, 2, 4)
    states[:, 1] = 99.0
    torch.testing.assert_close(pool_tube(states, tube, mask, 2, 4), found, atol=0, rtol=0)
    torch.testing.assert_close(pool_tube(states[:, ::2], tube[:, ::2], None, 2, 4), found, atol=1e-6, rtol=0)


def test_gradients_reach_the_cells_of_the_box_and_no_others():
    states = random_map(1, 1, 4, 4, 1).requires_grad_()
    pool_boxes(states, torch.tensor([[0.25, 0.0, 0.75, 0.5]]), 3).sum().backward()
    touched = states.grad[0, 0, :, :, 0].abs() > 1e-6
    assert touched.nonzero().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]


WRONG = {
    "in pixels": ([12, 30, 48, 60], r"\(12, 30, 48, 60\) is in pixels"),
    "outside": ([0.5, 0.2, 1.1, 0.4], r"\(0.5, 0.2, 1.1, 0.4\) lies outside of the frame"),
    "before the edge": ([-0.1, 0.2, 0.4, 0.4], r"\(-0.1, 0.2, 0.4, 0.4\) lies outside of the frame"),
    "upside down": ([0.1, 0.8, 0.4, 0.2], r"y1 0.8 and y2 0.2"),
    "mirrored": ([0.6, 0.1, 0.4, 0.2], r"x1 0.6 and x2 0.4"),
    "x, y, width, height": ([0.5, 0.1, 0.2, 0.6], r"x1 0.5 and x2 0.2.*width, height"),
    "without an area": ([0.5, 0.1, 0.5, 0.6], r"x1 0.5 and x2 0.5"),
    "not a number": ([0.5, float("nan"), 0.7, 0.6], r"\(0.5, nan, 0.7, 0.6\)"),
    "three numbers": ([0.1, 0.2, 0.3], r"a box is 4 numbers.*\(3,\)"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_box_is_named_with_its_numbers(kind):
    box, message = WRONG[kind]
    with pytest.raises(ValueError, match=message):
        check_boxes(box)
    if len(box) == 4:  # among right ones too
        with pytest.raises(ValueError, match=message):
            check_boxes([[[0.0, 0.0, 1.0, 1.0], box]])


def test_what_stands_in_frames_without_the_box_is_not_read():
    boxes, mask = [[[0.1, 0.1, 0.3, 0.4], [0.0, 0.0, 0.0, 0.0]]], torch.tensor([[1, 0]])
    found = check_boxes(boxes, mask)
    torch.testing.assert_close(found[0], torch.tensor([[0.1, 0.1, 0.3, 0.4], [0.0, 0.0, 1.0, 1.0]]))
    with pytest.raises(ValueError, match="0 for all frames"):
        check_boxes(boxes, torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"the shape \(1, 3\) for boxes of \(1, 2, 4\)"):
        check_boxes(boxes, torch.ones(1, 3))

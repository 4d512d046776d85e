"""Which videos `rolled_vtm` shows with which texts."""

from types import SimpleNamespace

import pytest
import torch

from violet import VioletForPreTraining, named_configuration
from violet.training.preparations.prepare_rolled_videos import prepare_rolled_videos


def prepared(captions: str, group_size: int, lost: tuple[int, ...] = ()) -> tuple[list[int], list[bool]]:
    kept = [row for row in range(len(captions)) if row not in lost]
    planned = [(str(row), words) for row, words in enumerate(captions)]
    samples = SimpleNamespace(settings=SimpleNamespace(group_size=group_size), planned=planned, kept=kept)
    found = prepare_rolled_videos(samples)
    return found["rolled_video_index"].tolist(), found["rolled_match"].tolist()


def test_half_of_each_group_is_rolled_within_it():
    assert prepared("abcdefgh", 8) == ([3, 0, 1, 2, 4, 5, 6, 7], [False] * 4 + [True] * 4)
    assert prepared("abcdefgh", 4) == ([1, 0, 2, 3, 5, 4, 6, 7], [False, False, True, True] * 2)


def test_a_group_of_three_has_no_wrong_pair():
    assert prepared("abc", 3) == ([0, 1, 2], [True, True, True])


def test_rows_that_could_not_be_read_leave_the_other_groups_as_they_are():
    assert prepared("abcdefgh", 4, lost=(1,)) == ([0, 1, 2, 4, 3, 5, 6], [True, True, True, False, False, True, True])


def test_a_video_with_the_same_words_is_a_match():
    assert prepared("aacd", 4) == ([1, 0, 2, 3], [True, True, True, True])


def test_a_model_without_a_fusion_has_no_such_pairs():
    config = named_configuration("clip-vip-tiny", objectives={"rolled_vtm": {}})
    with pytest.raises(ValueError, match=r"'rolled_vtm' needs a fusion"):
        VioletForPreTraining(config)


def test_words_beside_another_video_are_not_asked():
    config = named_configuration("violet-tiny", objectives={"rolled_mlm": {}})
    torch.manual_seed(0)
    model = VioletForPreTraining(config).eval()
    inputs = {
        "pixel_values_videos": torch.randn(4, 4, 3, 64, 64),
        "input_ids": torch.randint(5, 100, (4, 6)),
        "labels": torch.full((4, 6), -100),
        "objectives": {"rolled_mlm": 1.0},
    }
    index, match = torch.tensor([1, 0, 2, 3]), torch.tensor([False, False, True, True])
    inputs |= {"rolled_video_index": index, "rolled_match": match}
    inputs["labels"][:2] = 7  # masked words of wrong pairs only
    assert model(**inputs).losses["rolled_mlm"] == 0
    inputs["labels"][2, 1] = 7
    assert model(**inputs).losses["rolled_mlm"] > 0

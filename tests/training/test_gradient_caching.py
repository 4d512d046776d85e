"""Gradient caching: a batch computed in parts has the loss and the gradients of the whole."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from violet.configuration import named_configuration
from violet.modeling_violet import VioletForPreTraining, VioletForRetrieval
from violet.training.arguments import SettingsError
from violet.training.gradient_caching import (
    RandomState,
    backward_in_parts,
    refuse_live_norms,
    split_batch,
    split_pairs,
)

ROWS, SIDE, WORDS = 10, 32, 7
SMALL = {
    "vision_config": {
        "embed_dim": 8, "depths": (1, 1, 1), "num_heads": (1, 2, 2), "window_size": (2, 2, 2), "patch_size": 4,
    },
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 60,
    "initializer_range": 0.1, "projection_dim": 16,
}  # fmt: skip
OBJECTIVES = {"contrast": {}, "mil_nce": {"texts": 3}, "omnisource": {}}
WEIGHTS = {"vtc": 1.0, "contrast": 0.5, "mil_nce": 1.0, "omnisource": 0.25}
BOUND = {torch.float32: 1e-5, torch.float64: 1e-10}


def small_config(dropout: float, **changes):
    drops = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    vision = SMALL["vision_config"] | {"drop_path_rate": dropout}
    rest = SMALL | {"vision_config": vision, "objectives": OBJECTIVES} | dict.fromkeys(drops, dropout)
    return named_configuration("violet-tiny", **rest | changes)


def batch_of(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(5)

    def ids(*shape: int) -> torch.Tensor:
        return torch.randint(5, 60, shape, generator=g)

    return {
        "pixel_values_videos": torch.randn(ROWS, 2, 3, SIDE, SIDE, generator=g, dtype=dtype),
        "pixel_values_middle_frames": torch.randn(ROWS, 1, 3, SIDE, SIDE, generator=g, dtype=dtype),
        "input_ids": ids(ROWS, WORDS),
        "attention_mask": torch.ones(ROWS, WORDS, dtype=torch.long),
        "several_ids": ids(ROWS, 3, WORDS),
        "several_attention_mask": torch.ones(ROWS, 3, WORDS, dtype=torch.long),
        "several_mask": (torch.rand(ROWS, 3, generator=g) < 0.8).long(),
        "frame_caption_ids": ids(ROWS, WORDS),
        "frame_caption_attention_mask": torch.ones(ROWS, WORDS, dtype=torch.long),
        "wrong_ids": ids(ROWS, WORDS),
        "wrong_attention_mask": torch.ones(ROWS, WORDS, dtype=torch.long),
    }


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def assert_equal_gradients(found, expected, dtype):
    assert found.keys() == expected.keys() and len(found) > 20
    assert max(one.abs().max() for one in expected.values()) > 1e-3
    for name, gradient in expected.items():
        difference = (found[name] - gradient).abs().max()
        assert difference <= BOUND[dtype] * gradient.abs().max() + 1e-3 * BOUND[dtype], (name, difference)


def in_parts(model: VioletForPreTraining, batch, size: int, keep_graph: bool = False) -> torch.Tensor:
    """The loss; its gradients are added. `keep_graph`: of all parts at once, which is what it must equal."""
    parts = split_batch(batch, ROWS, size)
    if keep_graph:
        found = [model(**part, objectives=WEIGHTS, only_embeddings=True).embeddings for part in parts]
        sets = {name: torch.cat([one[name] for one in found]) for name in found[0]}
        loss = model.compare_embeddings(sets, WEIGHTS, **batch).loss
        loss.backward()
        return loss.detach()

    def compare(sets):
        loss = model.compare_embeddings(sets, WEIGHTS, **batch).loss
        return loss, loss.detach()

    return backward_in_parts(
        parts,
        lambda part: model(**part, objectives=WEIGHTS, only_embeddings=True).embeddings,
        compare,
        lambda part, given, last: model(**part, objectives=WEIGHTS, embedding_gradients=given).loss.backward(),
        model.shared(model.find_objectives(WEIGHTS)),
    )


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request) -> torch.dtype:
    return request.param


@pytest.mark.parametrize("size", [4, 1, 10])
def test_loss_and_gradients_are_those_of_the_whole_batch(dtype, size):
    torch.manual_seed(0)
    model = VioletForPreTraining(small_config(dropout=0.0)).to(dtype).train()
    batch, other = batch_of(dtype), copy.deepcopy(model)
    whole = model(**batch, objectives=WEIGHTS)
    assert len(whole.losses) == 4 and min(whole.losses.values()) > 0.1
    whole.loss.backward()
    loss = in_parts(other, batch, size)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss, whole.loss.detach(), rtol=BOUND[dtype], atol=0)
    expected = gradients(model)
    assert expected["violet.projection.logit_scale"].abs() > 1e-4, "the temperature is in no part"
    assert_equal_gradients(gradients(other), expected, dtype)


def test_with_dropout_each_part_is_computed_twice_with_the_same_draws(dtype):
    torch.manual_seed(0)
    model = VioletForPreTraining(small_config(dropout=0.3)).to(dtype).train()
    batch, other = batch_of(dtype), copy.deepcopy(model)
    torch.manual_seed(1)
    expected = in_parts(model, batch, 4, keep_graph=True)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    loss = in_parts(other, batch, 4)
    assert torch.equal(torch.get_rng_state(), after), "the second pass draws nothing that counts"
    torch.testing.assert_close(loss, expected, rtol=BOUND[dtype], atol=0)
    assert_equal_gradients(gradients(other), gradients(model), dtype)
    torch.manual_seed(2)
    assert abs(in_parts(other, batch, 4) - expected) > 1e-3, "there is dropout"


def test_a_retrieval_model_without_a_fusion_with_several_texts_of_a_video(dtype):
    torch.manual_seed(0)
    config = small_config(dropout=0.0, fusion_model_config={"model_type": "none"}, objectives=None)
    model = VioletForRetrieval(config).to(dtype).train()
    other, g = copy.deepcopy(model), torch.Generator().manual_seed(2)
    batch = {
        "pixel_values_videos": torch.randn(5, 2, 3, SIDE, SIDE, generator=g, dtype=dtype),
        "input_ids": torch.randint(5, 60, (8, WORDS), generator=g),
        "attention_mask": torch.ones(8, WORDS, dtype=torch.long),
    }
    labels = torch.tensor([0, 1, 1, 2, 3, 4, 4, 0])
    whole = model(**batch, labels=labels).loss
    whole.backward()
    parts = split_pairs(batch, 3)
    assert [len(part["input_ids"]) for part in parts] == [3, 3, 2]

    def compare(sets):
        loss = other.compare_embeddings(sets, labels).loss
        return loss, loss.detach()

    loss = backward_in_parts(
        parts,
        lambda part: other(**part, only_embeddings=True).embeddings,
        compare,
        lambda part, given, last: other(**part, embedding_gradients=given).loss.backward(),
        other.shared(),
    )
    torch.testing.assert_close(loss, whole.detach(), rtol=BOUND[dtype], atol=0)
    assert_equal_gradients(gradients(other), gradients(model), dtype)


def test_random_numbers_go_on_where_they_stood():
    state = RandomState.now()
    first = torch.rand(3)
    before = torch.get_rng_state()
    with state.restored():
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_parts_are_as_equal_as_they_can_be():
    batch = {"rows": torch.arange(10), "name": "whatever"}
    parts = split_batch(batch, 10, 4)
    assert [part["rows"].tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert all(part["name"] == "whatever" for part in parts)
    with pytest.raises(ValueError, match="`rows` has 10 rows in a batch of 9"):
        split_batch(batch, 9, 4)
    many = {"pixel_values_videos": torch.zeros(2, 1), "input_ids": torch.zeros(20, 4)}
    assert [len(part["input_ids"]) for part in split_pairs(many, 8)] == [10, 10], "each part has a video"


def test_what_cannot_be_computed_in_parts_is_refused():
    model = VioletForPreTraining(small_config(dropout=0.0))
    with pytest.raises(ValueError, match="'mlm' compares no embeddings"):
        model(
            torch.zeros(1, 2, 3, SIDE, SIDE), torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]]),
            objectives={"mlm": 1.0}, only_embeddings=True,
        )  # fmt: skip
    with pytest.raises(SettingsError, match="norm takes its mean over the batch"):
        refuse_live_norms("--grad_cache_chunk_size", nn.Sequential(*[nn.Linear(2, 2)], WithNorm()))
    refuse_live_norms("--grad_cache_chunk_size", model)


class WithNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)


def test_an_embedding_depends_on_no_other_row():
    """What all of this rests on."""
    model = VioletForPreTraining(small_config(dropout=0.0)).double().eval()
    batch = batch_of(torch.float64)
    whole = model(**batch, objectives=WEIGHTS, only_embeddings=True).embeddings
    assert len(whole) == 3 + 2 + 2 + 4
    for number, part in enumerate(split_batch(batch, ROWS, 1)):
        for name, rows in model(**part, objectives=WEIGHTS, only_embeddings=True).embeddings.items():
            np.testing.assert_allclose(rows[0].detach(), whole[name][number].detach(), atol=1e-12)

"""Dropout with cheap draws: the share that it drops, the scale of what is left, its gradient, its generator."""

import pytest
import torch

from violet.modeling_violet.dropout import VioletDropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_p_and_the_mean_stays(p):
    torch.manual_seed(0)
    dropped = dropout(torch.ones(1001, 999), p, training=True)
    assert (dropped == 0).float().mean().item() == pytest.approx(p, abs=0.003)
    assert dropped.unique().numel() == 2
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    across = (dropped[:, 1:] == 0) & (dropped[:, :-1] == 0)  # neighbours come of the same draw
    assert across.float().mean().item() == pytest.approx(p * p, abs=0.003)


def test_the_gradient_is_that_of_what_was_kept():
    torch.manual_seed(0)
    x = torch.randn(7, 33, requires_grad=True)
    dropped = dropout(x, 0.3, training=True)
    (gradient,) = torch.autograd.grad(dropped.sum(), x)
    torch.testing.assert_close(gradient * x.detach(), dropped.detach())


def test_draws_follow_the_global_generator_and_evaluation_changes_nothing():
    module, x = VioletDropout(0.2), torch.randn(5, 13)
    torch.manual_seed(3)
    first, second = module(x), module(x)
    torch.manual_seed(3)
    assert torch.equal(module(x), first) and not torch.equal(first, second)
    assert torch.equal(module.eval()(x), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_type_of_the_states_stays(dtype):
    assert dropout(torch.ones(3, 5, dtype=dtype), 0.5, training=True).dtype == dtype
    assert not dropout(torch.ones(0, 5, dtype=dtype), 0.5, training=True).numel()


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_and_everything_is_dropped_as_torch_does(p):
    assert torch.equal(dropout(torch.ones(4), p, training=True), torch.full((4,), 1 - p))

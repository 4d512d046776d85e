"""The share of a step in which the device waits for data; test_trainer.py and test_pretraining.py have whole runs."""

from types import SimpleNamespace

import pytest
import torch
from slow_clock import BETWEEN, COMPUTING, LOADING, SlowClock

from violet.training.waiting import WAITING_SHARE, DataWaiting

CPU = torch.device("cpu")


def test_a_step_waits_as_long_as_the_process_that_waits_longest_in_it(monkeypatch):
    """This process waits 6 of the 8 seconds of the first step, another 4 of the 5 of the second."""
    other = torch.tensor([[(1.0, 8.0), (4.0, 5.0)]])
    clock = SlowClock(monkeypatch)
    waits = DataWaiting(SimpleNamespace(device=CPU, gather=lambda own: torch.cat([own, other])))
    for of_batches, computing in (((4.0, 2.0), 2.0), ((1.0,), 3.0)):
        waits.begin_step()
        for seconds in of_batches:
            with waits.for_data():
                clock.now += seconds
        clock.now += computing
        waits.end_step()
        clock.now += BETWEEN
        waits.end_step()  # none was begun
    assert waits.entry() == {WAITING_SHARE: pytest.approx((6 + 4) / (8 + 5))}
    assert waits.entry() == {}, "a line is of the steps since the line before"


def test_a_step_that_was_not_taken_does_not_count(monkeypatch):
    """Such as at the end of an epoch, where one more batch is asked for than there is."""
    clock = SlowClock(monkeypatch)
    waits = DataWaiting(SimpleNamespace(device=CPU, gather=lambda own: own))
    for seconds in (BETWEEN, LOADING):
        waits.begin_step()
        with waits.for_data():
            clock.now += seconds
    clock.now += COMPUTING
    waits.end_step()
    assert waits.entry() == {WAITING_SHARE: pytest.approx(LOADING / (LOADING + COMPUTING))}


@pytest.mark.gpu
def test_on_a_gpu_what_it_still_computes_while_a_batch_is_asked_for_is_no_waiting():
    """It hardly waits for a batch that comes while it still multiplies, but for one that comes late."""
    x = torch.randn(8192, 8192, device="cuda")
    x @ x
    torch.cuda.synchronize()
    shares = []
    for comes_late in (False, True):
        waits = DataWaiting(SimpleNamespace(device=x.device, gather=lambda own: own))
        waits.begin_step()
        for _ in range(8):
            x @ x
        with waits.for_data():
            if comes_late:
                torch.cuda.synchronize()
                sum(range(20_000_000))
        (x @ x).sum().item()
        waits.end_step()
        shares.append(waits.entry()[WAITING_SHARE])
    assert shares[0] < 0.05 < 0.5 < shares[1]

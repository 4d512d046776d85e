"""What a guard keeps, counts and refuses; whole runs with planted faults are in tests/faults."""

import json

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from violet.data.loading import FailedSample, FailedSamples
from violet.training.guards import StepGuard

pytestmark = pytest.mark.usefixtures("separate_runs")
NAN = float("nan")


def judge(guard: StepGuard, model: nn.Module, step: int, loss: float = 1.0, norm: float = 1.0) -> bool:
    guard.begin_step(step, model)
    guard.add_loss(torch.tensor(loss), [f"clip {step}"])
    return guard.may_apply(torch.tensor(norm))


def test_the_running_means_of_batch_norms_stay_as_they_were_before_a_bad_step(tmp_path):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    guard = StepGuard(tmp_path, Accelerator(cpu=True), limit=3)
    guard.begin_step(1, model)
    guard.add_loss(model(torch.rand(8, 3)).sum(), ["good"])
    assert guard.may_apply(1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    guard.begin_step(2, model)
    guard.add_loss(model(torch.full((8, 3), NAN)).sum(), ["bad"])
    assert model[0].running_mean.isnan().all()
    assert not guard.may_apply(NAN)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].num_batches_tracked == 1


def test_bad_steps_in_a_row_are_counted_over_a_resume_and_what_was_not_kept_is_forgotten(tmp_path):
    model = nn.Linear(2, 1)
    killed = StepGuard(tmp_path, Accelerator(cpu=True), limit=3)
    assert [judge(killed, model, step, loss) for step, loss in ((1, NAN), (2, 1.0), (3, NAN), (4, NAN))] == [
        False, True, False, False
    ]  # fmt: skip
    with open(killed.path, "a") as file:
        file.write('{"step": 5, "proc')  # it was killed while it wrote
    resumed = StepGuard(tmp_path, Accelerator(cpu=True), limit=3)  # from the checkpoint of step 3
    assert not judge(resumed, model, 4, norm=float("inf"))
    assert [(line["step"], line["what"], line["value"]) for line in resumed.lines()] == [
        (1, "loss", "nan"), (3, "loss", "nan"), (4, "gradient", "inf")
    ]  # fmt: skip
    with pytest.raises(FloatingPointError, match=r"Step 5: the loss is nan\. .*clip 5\. .*number 3 in a row"):
        judge(resumed, model, 5, NAN)
    assert resumed.metrics() == {"steps_not_applied": 4}
    again = StepGuard(tmp_path, Accelerator(cpu=True), limit=3)
    assert judge(again, model, 1) and again.lines() == [] and again.metrics() == {}


def test_a_scaler_that_looks_for_its_scale_does_not_stop_the_run(tmp_path):
    accelerator, model = Accelerator(cpu=True), nn.Linear(2, 1)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    guard = StepGuard(tmp_path, accelerator, limit=2)
    accelerator.scaler.scale(torch.ones(()))  # it begins when it is first used
    assert [judge(guard, model, step, norm=float("inf")) for step in (1, 2, 3)] == [False] * 3
    assert [line["counts"] for line in guard.lines()] == [False] * 3
    assert not judge(guard, model, 4, loss=NAN), "a loss has not overflowed by the scale"
    accelerator.scaler.update(1.0)
    with pytest.raises(FloatingPointError, match="Step 5: the gradient is inf"):
        judge(guard, model, 5, norm=float("inf"))


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    guard = StepGuard(tmp_path, Accelerator(cpu=True), limit=3)
    guard.check_weights(model)
    model[1].bias.data.fill_(float("-inf"))
    with pytest.raises(FloatingPointError, match=r"1\.bias are NaN or infinite: they were not saved"):
        guard.check_weights(model)


@pytest.mark.parametrize(
    ("bad", "tried", "total", "most", "stops"),
    [
        (10, 50, 100_000, 0.01, False),  # of the first thousand ten are borne, however early
        (11, 50, 100_000, 0.01, True),
        (30, 3000, 100_000, 0.01, False),
        (31, 3000, 100_000, 0.01, True),
        (1, 8, 40, 0.01, True),  # of a small table it is the share of all
        (4, 8, 40, 0.1, False),
        (31, 9000, 3000, 0.01, True),  # in the third epoch: a bad row is one row
        (1, 8, 40, 0.0, True),
        (0, 8, 40, 0.0, False),
        (40, 40, 40, 1.0, False),
    ],
)
def test_the_share_of_bad_samples_that_is_borne(bad, tried, total, most, stops, tmp_path):
    failed = FailedSamples(tmp_path)
    failed.add([FailedSample("train", row, f"{row}.mp4", "It is damaged.") for row in range(bad)])
    failed.add([FailedSample("evaluation", row, f"{row}.mp4", "It is damaged.") for row in range(50)])
    said = failed.excess({"train"}, tried, total, most)
    assert (said is not None) == stops
    if said is not None:
        assert f"{bad} of the {min(tried, total)} samples" in said and "0.mp4 (train row 0)" in said
    assert len(json.loads(f"[{','.join(failed.path.read_text().splitlines())}]")) == bad + 50

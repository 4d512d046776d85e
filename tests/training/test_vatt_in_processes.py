"""The objective `vatt`: two processes, with uneven rows and masks, have the loss, gradients and statistics of one."""

import copy

import pytest
import torch
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from violet.configuration import named_configuration
from violet.modeling_violet import VioletForPreTraining

pytestmark = pytest.mark.proof

ROWS, OF_FIRST = 6, 4
OPTIONS = {
    "fine_and_coarse": {"texts": 2},
    "joint": {"form": "symmetric", "audio_text_weight": 0.5},
}


def build(kind: str) -> VioletForPreTraining:
    torch.manual_seed(0)
    config = named_configuration("vatt-tiny", projection_type=kind, objectives={"vatt": OPTIONS[kind]}, vocab_size=60)
    return VioletForPreTraining(config).double().train()


def batch(kind: str) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(5)
    heard = torch.ones(ROWS, 800, dtype=torch.long)
    heard[1], heard[3, 300:] = 0, 0
    ids = torch.randint(5, 60, (ROWS, 2, 7), generator=g)
    found = {
        "pixel_values_videos": torch.randn(ROWS, 4, 3, 32, 32, generator=g, dtype=torch.float64),
        "audio_values": (torch.rand(ROWS, 800, generator=g, dtype=torch.float64) * 2 - 1) * heard,
        "audio_attention_mask": heard,
        "input_ids": ids[:, 0],
        "attention_mask": torch.ones(ROWS, 7, dtype=torch.long),
        "vatt_draws": torch.arange(ROWS),
        "vatt_text_mask": torch.tensor([0, 0, 1, 1, 1, 1]),
    }
    return found | ({"vatt_ids": ids, "vatt_attention_mask": torch.ones_like(ids)} if "texts" in OPTIONS[kind] else {})


def step(model, kind: str, rows: slice) -> torch.Tensor:
    loss = model(**{name: value[rows] for name, value in batch(kind).items()}, objectives={"vatt": 1.0}).loss
    loss.backward()
    return loss.detach()


def state(model) -> dict[str, torch.Tensor]:
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return found | {name: one for name, one in model.named_buffers() if "running" in name}


def run_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {}
    for kind in OPTIONS:
        plain = build(kind)
        model = DistributedDataParallel(plain, find_unused_parameters=True)
        loss = step(model, kind, slice(0, OF_FIRST) if rank == 0 else slice(OF_FIRST, None))
        found[kind] = loss, copy.deepcopy(state(plain))
    torch.save(found, f"{folder}/found_{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_loss_gradients_and_statistics_of_one(tmp_path):
    multiprocessing.spawn(run_process, (str(tmp_path),), nprocs=2)
    both = [torch.load(tmp_path / f"found_{rank}.pt") for rank in range(2)]
    for kind in OPTIONS:
        model = build(kind)
        loss, expected = step(model, kind, slice(None)), state(model)
        assert loss > 0.1 and len(expected) > 40
        for found_loss, found in (one[kind] for one in both):
            torch.testing.assert_close(found_loss, loss, rtol=1e-10, atol=0)
            for name, value in expected.items():
                assert (found[name] - value).abs().max() <= 1e-10 * value.abs().max() + 1e-13, (kind, name)

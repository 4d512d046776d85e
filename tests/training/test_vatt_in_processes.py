"""The objective `vatt`: two processes, with uneven rows and masks, have the loss, gradients and statistics of one."""

from typing import Any

import pytest
import torch
from in_processes import Step, compare_with_one

from violet.configuration import named_configuration
from violet.modeling_violet import VioletForPreTraining

pytestmark = pytest.mark.proof

ROWS, OF_FIRST = 6, 4
OPTIONS = {
    "fine_and_coarse": {"texts": 2},
    "joint": {"form": "symmetric", "audio_text_weight": 0.5},
}


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


def build(kind: str, dtype: torch.dtype) -> tuple[VioletForPreTraining, Any, Step]:
    torch.manual_seed(0)
    config = named_configuration("vatt-tiny", projection_type=kind, objectives={"vatt": OPTIONS[kind]}, vocab_size=60)
    return VioletForPreTraining(config).to(dtype).train(), batch(kind), step


def step(wrapped, model, rows: dict[str, torch.Tensor], size: None) -> torch.Tensor:
    loss = wrapped(**rows, objectives={"vatt": 1.0}).loss
    loss.backward()
    return loss.detach()


def test_two_processes_have_the_loss_gradients_and_statistics_of_one(tmp_path):
    compare_with_one(tmp_path, build, OPTIONS, OF_FIRST, dtypes=[torch.float64], least=41)

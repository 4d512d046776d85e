"""The objective `align`: two processes, with other numbers of rows, have the loss and the gradients of one."""

import pytest
import torch
from encoder_configs import FRAMES, PATCH, SIDE, model_config
from in_processes import compare_with_one

from violet.modeling_violet import VioletForPreTraining

pytestmark = pytest.mark.proof

ROWS, OF_FIRST = 8, 5
WIDTH, LAYERS = 32, 2
CASES = {
    "attention": ("maskalign_vit", {}),
    "tube_of_dinov2": ("dinov2", {"draw": "tube", "loss": "l2", "target_norm": "none", "head": "mlp2"}),
    "random_simple": ("vit", {"mask": "random", "alignment": "simple", "loss": "l1", "layers": "mean"}),
    "pixels": ("violet_vision", {"alignment": "sum"}),
}


def build(case: str, dtype: torch.dtype):
    encoder, options = CASES[case]
    torch.manual_seed(0)
    known = {"teacher_width": WIDTH, "teacher_layers": LAYERS, "layers": "top2", "ratio": 0.5}
    model = VioletForPreTraining(model_config(encoder, objectives={"align": known | options})).to(dtype).train()
    layers, cells = len(model.objectives["align"].layer_weights), (SIDE // PATCH) ** 2
    g = torch.Generator().manual_seed(3)
    targets = torch.randn(ROWS, FRAMES, 1 + cells, layers * WIDTH + 1, generator=g, dtype=dtype)
    targets[..., -1] = torch.rand(targets.shape[:-1], generator=g, dtype=dtype)  # where the teacher looks
    frames = 1 if options.get("draw") == "tube" else FRAMES
    batch = {
        "pixel_values_videos": torch.randn(ROWS, FRAMES, 3, SIDE, SIDE, generator=g, dtype=dtype),
        "input_ids": torch.tensor([[2, 5, 3]] * ROWS),
        "mvm_targets": {"align": targets},
        "align_noise": torch.empty(ROWS, frames, cells, dtype=dtype).exponential_(generator=g),
    }
    return model, batch, step


def step(model, plain, batch, size: None) -> torch.Tensor:
    loss = model(**batch, objectives={"align": 1.0}).loss
    loss.backward()
    return loss.detach()


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path):
    compare_with_one(tmp_path, build, CASES, OF_FIRST, each_loss=False)

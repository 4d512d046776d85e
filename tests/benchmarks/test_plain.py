"""The yardstick of `violet speed` computes what the package computes."""

import pytest
import torch

from violet import VioletForPreTraining, named_configuration
from violet.benchmarks.plain import PlainEncoder, PlainFusion, PlainPreTraining, plain_of, pretraining_weights
from violet.modeling_violet import VioletVisionModel
from violet.modeling_violet.fusions import build_fusion
from violet.modeling_violet.tokens import Tokens

CHANNELS = 16


def tiny_model(kernel: str) -> VioletForPreTraining:
    config = named_configuration("violet-tiny", clip_summary=False, mvm_targets={"2d_feature": {"channels": CHANNELS}})
    config.classifier_dropout = 0.0
    torch.manual_seed(0)
    return VioletForPreTraining._from_config(config, attn_implementation=kernel).eval()


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("size", [(4, 64, 64), (3, 72, 100)], ids=str)
def test_the_plain_encoder_is_the_packages(kernel, size):
    config = named_configuration("violet-tiny").vision_config
    torch.manual_seed(0)
    model = VioletVisionModel._from_config(config, attn_implementation=kernel).eval()
    plain = plain_of(PlainEncoder(model.config), model.state_dict()).eval()
    frames, height, width = size
    clips = torch.randn(2, frames, 3, height, width)
    with torch.no_grad():
        ours = model(clips).last_hidden_state
        assert ours.std() > 0.1
        torch.testing.assert_close(ours, plain(clips), rtol=1e-4, atol=1e-5)


def test_the_plain_fusion_is_the_packages():
    config = named_configuration("violet-tiny")
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    fusion = build_fusion(config).eval()
    plain = plain_of(PlainFusion(config), fusion.state_dict()).eval()
    states, real = torch.randn(3, 20, config.hidden_size), torch.ones(3, 20, dtype=torch.long)
    real[1, 15:] = 0
    with torch.no_grad():
        ours = fusion({"all": Tokens(states, real)})["all"]
        torch.testing.assert_close(ours, plain(states, real), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_the_plain_step_has_the_packages_loss_and_gradients(kernel):
    model = tiny_model(kernel)
    plain = PlainPreTraining(model.config, CHANNELS)
    plain_of(plain, pretraining_weights(model.state_dict(), "2d_feature")).eval()
    torch.manual_seed(1)
    batch, frames, side, words = 3, 4, 64, 9
    grid = (batch, frames, 2, 2)
    assert model.violet.vision_encoder.grid(frames, side, side) == grid[1:]
    ids = torch.randint(5, model.config.vocab_size, (batch, words))
    real = torch.ones_like(ids)
    real[1, 6:] = 0
    labels = torch.full_like(ids, -100)
    labels[:, 2:4] = ids[:, 2:4]
    inputs = {
        "pixels": torch.randn(batch, frames, 3, side, side),
        "ids": ids.masked_fill(labels != -100, model.config.mask_token_id),
        "real": real,
        "labels": labels,
        "masked": torch.rand(grid) < 0.4,
        "negatives": torch.tensor([[1, 2], [0, 2], [0, 1]]),
        "features": torch.randn(*grid, CHANNELS),
    }
    ours = model(
        pixel_values_videos=inputs["pixels"],
        input_ids=inputs["ids"],
        attention_mask=real,
        labels=labels,
        bool_masked_pos=inputs["masked"],
        negative_index=inputs["negatives"],
        mvm_targets={"2d_feature": inputs["features"]},
        objectives={"vtm": 1.0, "mlm": 1.0, "mvm_2d_feature": 1.0},
    ).loss
    theirs = plain(**inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    ours.backward()
    theirs.backward()
    gradients = pretraining_weights({name: one.grad for name, one in model.named_parameters()}, "2d_feature")
    for name, parameter in plain.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4)

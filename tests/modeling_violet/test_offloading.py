"""Models whose weights accelerate keeps elsewhere until a module runs (`device_map` with `cpu` or `disk`)."""

import copy

import pytest
import torch
from accelerate import cpu_offload
from encoder_configs import ENCODER_CONFIGS, FRAMES, SIDE, model_config, shown

from violet import named_configuration
from violet.modeling_violet import (
    VioletForCaptioning,
    VioletForConditionalGeneration,
    VioletForMaskedLM,
    VioletForQuestionAnswering,
    VioletForRetrieval,
)


def started(model_class, config):
    """Of random weights, none of which is 0 or equal to another."""
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


def offloaded(model):
    other = cpu_offload(copy.deepcopy(model), execution_device="cpu")
    assert all(parameter.is_meta for parameter in other.parameters())
    return other


def clips(side: int, frames: int = 4) -> torch.Tensor:
    return torch.randn(2, frames, 3, side, side, generator=torch.Generator().manual_seed(1))


IDS = torch.tensor([[5, 9, 7, 6], [8, 5, 11, 9]])


@torch.no_grad()
@pytest.mark.parametrize("encoder", ENCODER_CONFIGS)
def test_every_encoder(encoder):
    model = started(VioletForMaskedLM, model_config(encoder))
    given = {**shown(encoder, clips(SIDE, FRAMES)), "input_ids": IDS}
    assert torch.equal(offloaded(model)(**given).logits, model(**given).logits)


@torch.no_grad()
@pytest.mark.parametrize("name", ["violet-tiny", "clip-vip-tiny", "coca-tiny", "vatt-tiny", "vlora-tiny", "imp-tiny"])
def test_every_kind_of_search(name):
    config = named_configuration(name)
    model = started(VioletForRetrieval, config)
    other, pixels = offloaded(model), clips(64)
    assert torch.equal(other(pixels, input_ids=IDS).logits, model(pixels, input_ids=IDS).logits)
    if config.projection_dim:
        found = [one.violet.embed_videos(one.violet.encode_videos(pixels)) for one in (other, model)]
        assert torch.equal(*found)
        assert torch.equal(other.violet.embed_texts(IDS), model.violet.embed_texts(IDS))


@torch.no_grad()
@pytest.mark.parametrize("name", ["vatt-tiny", "imp-tiny"])
def test_sounds(name):
    config = named_configuration(name)
    model = started(VioletForRetrieval, config)
    waves = torch.randn(2, config.audio_config.num_samples, generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(waves, dtype=torch.long)
    found = [one.violet.embed_sounds(one.violet.encode_sounds(waves, mask)) for one in (offloaded(model), model)]
    assert torch.equal(*found)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vlora-tiny", "violet-tiny-experts", "lf-vila-tiny"])
def test_every_kind_of_fusion(name):
    model = started(VioletForQuestionAnswering, named_configuration(name, num_labels=5))
    given = {"pixel_values_videos": clips(64, 8), "input_ids": IDS}
    assert torch.equal(offloaded(model)(**given).logits, model(**given).logits)


@torch.no_grad()
@pytest.mark.parametrize("name", ["violet-tiny", "coca-tiny", "vlora-tiny"])
def test_captions(name):
    model = started(VioletForCaptioning, named_configuration(name))
    written = {"pixel_values_videos": clips(64), "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(offloaded(model).generate(**written), model.generate(**written))


@torch.no_grad()
@pytest.mark.parametrize(("name", "places"), [("language-model-tiny", 20), ("mm-gem-tiny", 64)])
def test_answers_of_a_language_model(name, places):
    model = started(VioletForConditionalGeneration, named_configuration(name))
    ids = torch.cat([IDS[:, :1], torch.full((2, places), model.violet.fusion.video_token_id), IDS], dim=1)
    written = {"input_ids": ids, "pixel_values_videos": clips(64), "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(offloaded(model).generate(**written), model.generate(**written))

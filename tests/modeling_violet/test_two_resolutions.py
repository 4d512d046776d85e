"""HD-VILA's video encoder: outputs of the original code, what a toy would get wrong, and what is refused."""

import hd_vila
import pytest
import torch
import torchvision
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoModel

from violet.core.upstream import checkpoint_activations
from violet.modeling_violet.encoders.two_resolutions import HdVilaResNet, HdVilaVisionConfig, HdVilaVisionModel

shared = pytest.mark.shared
cases = pytest.mark.parametrize("case", ["hybrid", "odd"])


def small_config(**fields) -> HdVilaVisionConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "resnet_width": 8}
    return HdVilaVisionConfig(**sizes | {"position_grid": (2, 3), "resnet_depths": (1, 1, 2, 1)} | fields)


def small_inputs(clips: int = 1, frames: int = 7, rows: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values_videos": torch.randn(rows, clips * frames, 3, 32, 48, generator=generator),
        "pixel_values_detail": torch.randn(rows, clips, 3, 128, 192, generator=generator),
    }


def moving(model: HdVilaVisionModel) -> HdVilaVisionModel:
    """The model with a start that is not nothing in time."""
    torch.manual_seed(1)
    for name, one in model.named_parameters():
        if "temporal_fc" in name or "time_embeddings" in name:
            nn.init.normal_(one, std=0.2)
    return model


# --- the original's outputs ---


def run(case: str, resolutions: str) -> dict[str, torch.Tensor]:
    """All intermediate states of an instance, as the archive names and shapes them."""
    model = hd_vila.encoder(case, resolutions=resolutions)
    found: dict[str, torch.Tensor] = {}

    def keep(name, change=lambda x: x):
        return lambda module, inputs, output: found.__setitem__(name, change(output))

    if model.sharp is not None:
        for stage, name in ((1, "hr_c2"), (3, "hr_c4"), (4, "hr_c5")):
            model.sharp.get_submodule(f"layer{stage}").register_forward_hook(keep(name))
        model.sharp_projection.register_forward_hook(
            keep("hr_map", lambda x: nn.functional.gelu(nn.functional.max_pool2d(x, 2)))
        )
    if model.timesformer is not None:
        model.timesformer.register_forward_pre_hook(lambda module, inputs: found.__setitem__("stack", inputs[0]))
        model.timesformer.register_forward_hook(keep("stack_after_time"))
        for number, block in enumerate(model.timesformer.blocks):
            # (clips, T, h * w, D) -> (clips, h * w * T, D)
            block.register_forward_hook(keep(f"time_block_{number}", lambda x: x.transpose(1, 2).flatten(1, 2)))
    with torch.no_grad():
        states = model(**hd_vila.model_inputs(case, resolutions))
    # (B, N, h, w, D) -> (B * N, D, h, w)
    found["map"] = states.last_hidden_state.flatten(0, 1).permute(0, 3, 1, 2)
    assert torch.equal(states.pooler_output, states.last_hidden_state.mean((1, 2, 3)))
    return found


@shared
@cases
@pytest.mark.parametrize("resolutions, prefix", [("both", ""), ("small", "only_low/"), ("sharp", "only_high/")])
def test_every_state_is_the_original_code_s(shared_folder, case, resolutions, prefix):
    names = {
        "both": ["hr_c2", "hr_c4", "hr_c5", "hr_map", "stack", "time_block_0", "time_block_1", "stack_after_time"],
        "small": ["stack", "time_block_0", "time_block_1", "stack_after_time"],
        "sharp": ["hr_c2", "hr_c4", "hr_c5", "hr_map"],
    }[resolutions]
    found = run(case, resolutions)
    for name in [*names, "map"]:
        hd_vila.expect(f"{case}/{prefix}{name}", found[name])


@shared
def test_the_full_width_resnet_is_the_original_code_s_and_torchvision_s(shared_folder):
    """In float64, and to 6e-6: torchvision's own float32 is 9e-6 away on another CPU than the reference's."""
    net = HdVilaResNet(HdVilaVisionConfig(), 4).eval()
    hd_vila.fill(net, ())
    other = torchvision.models.resnet50().eval()
    missing, unknown = other.load_state_dict(net.state_dict(), strict=False)
    assert set(missing) == {"fc.weight", "fc.bias"} and not unknown
    picture = hd_vila.normalised(255 * hd_vila.inputs_module().clip(6600, 1, 1, 64, 96)[:, 0])
    with torch.no_grad():
        stages, x = net(picture, 4), other.maxpool(other.relu(other.bn1(other.conv1(picture))))
        for ours, layer in zip(stages, (other.layer1, other.layer2, other.layer3, other.layer4), strict=True):
            x = layer(x)
            assert torch.equal(ours, x)
        stages = net.double()(picture.double(), 4)
    for name, stage in (("c4", 2), ("c5", 3)):
        hd_vila.expect(f"resnet50/{name}", stages[stage], 6e-6)


# --- what a toy would get wrong ---


def with_changes(**changes):
    """The map of an instance, 256 x 384, with some of the encoder's steps done otherwise."""
    torch.manual_seed(0)
    model = hd_vila.encoder("odd", num_clips=1)
    for name, change in changes.items():
        change(model) if name == "model" else setattr(model, name, change)
    generator = torch.Generator().manual_seed(3)
    inputs = {
        "pixel_values_videos": torch.randn(1, 7, 3, 64, 96, generator=generator),
        "pixel_values_detail": torch.randn(1, 1, 3, 256, 384, generator=generator),
    }
    with torch.no_grad():
        return model(**inputs).last_hidden_state


def other_steps() -> dict[str, dict]:
    """Faults that the specification lists, each as a change of the model."""

    def one_resnet(model):
        model.small.load_state_dict({n: v for n, v in model.sharp.state_dict().items() if "layer4" not in n})

    def averaged(model):
        stack = model.stack
        model.stack = lambda small, middle: stack(
            small, nn.functional.avg_pool2d(middle, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
        )

    def wrong_slot(model):
        stack = model.stack
        model.stack = lambda small, middle: stack(small, middle).roll(1, dims=1)

    def no_fc(model):
        for block in model.timesformer.blocks:
            block.temporal_fc = nn.Identity()

    def final_norm(model):
        norm, timesformer = nn.LayerNorm(64, eps=1e-6), model.timesformer
        forward = timesformer.forward
        timesformer.forward = lambda stack: norm(forward(stack).transpose(2, 4)).transpose(2, 4)

    def join_order(model):
        weight = model.join.weight
        weight.data = torch.cat([weight.data[:, 64:], weight.data[:, :64]], dim=1)

    named = locals()
    return {name: {"model": change} for name, change in named.items()}


@shared
@pytest.mark.parametrize("fault", ["one_resnet", "averaged", "wrong_slot", "no_fc", "final_norm", "join_order"])
def test_a_fault_moves_the_map_far_more_than_the_bound(shared_folder, fault):
    moved = (with_changes(**other_steps()[fault]) - with_changes()).abs().max()
    assert moved > 0.5, f"{fault} moves the map by {moved:.2g}"


def test_time_starts_as_nothing():
    """Zero `temporal_fc` and zero places in time: small frames change nothing at the start, in all blocks."""
    model = HdVilaVisionModel(small_config()).eval()
    inputs = small_inputs()
    other = inputs | {"pixel_values_videos": inputs["pixel_values_videos"].flip(0)}
    with torch.no_grad():
        before = model(**inputs).last_hidden_state
        assert torch.equal(model(**other).last_hidden_state, before)
        moving(model)
        assert not torch.allclose(model(**other).last_hidden_state, model(**inputs).last_hidden_state, atol=1e-5)


def test_a_clip_depends_on_nothing_but_itself():
    """Neither on its batch nor on the other clips of its video; its place in the row is its step on the grid."""
    model, inputs = moving(HdVilaVisionModel(small_config()).eval()), small_inputs(rows=3)
    with torch.no_grad():
        together = model(**inputs).last_hidden_state
        for row in range(3):
            alone = model(**{name: pixels[row : row + 1] for name, pixels in inputs.items()}).last_hidden_state
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-6)
        model.config.num_clips = 3  # the same three clips as one video's
        joined = model(**{name: pixels.flatten(0, 1)[None] for name, pixels in inputs.items()})
        assert joined.last_hidden_state.shape == (1, 3, 2, 3, 32)
        torch.testing.assert_close(joined.last_hidden_state[0], together[:, 0], rtol=0, atol=1e-6)


def test_the_order_of_small_frames_and_the_texture_of_the_sharp_one_are_seen():
    model, inputs = moving(HdVilaVisionModel(small_config()).eval()), small_inputs()
    order = [6, 1, 2, 3, 4, 5, 0]
    swapped = inputs | {"pixel_values_videos": inputs["pixel_values_videos"][:, order]}
    middle = inputs["pixel_values_videos"].clone()
    middle[:, 3] = 0
    stripes = torch.zeros_like(inputs["pixel_values_detail"])
    rows, columns = stripes.clone(), stripes.clone()
    rows[..., ::2, :] = 1
    columns[..., ::2] = 1
    with torch.no_grad():
        usual = model(**inputs).last_hidden_state
        assert not torch.allclose(model(**swapped).last_hidden_state, usual, atol=1e-5)
        assert torch.equal(model(**inputs | {"pixel_values_videos": middle}).last_hidden_state, usual)
        textures = [
            model(**inputs | {"pixel_values_detail": each}).last_hidden_state for each in (rows, columns)
        ]  # a quarter of their size both are grey
    assert (textures[0] - textures[1]).abs().max() > 1e-4


def test_training_leaves_the_running_numbers_where_they_are_and_reaches_every_weight():
    model = moving(HdVilaVisionModel(small_config(drop_path_rate=0.1)).train())
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(**small_inputs()).last_hidden_state.square().sum().backward()
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in model.parameters())
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def test_gradient_checkpointing_gives_the_same_gradients():
    model, gradients = moving(HdVilaVisionModel(small_config(drop_path_rate=0.0)).train()), []
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_activations(model)
        model.zero_grad()
        model(**small_inputs()).last_hidden_state.square().sum().backward()
        gradients.append([one.grad.clone() for one in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_stochastic_depth_is_drawn_per_place_frame_and_clip_in_front_of_the_temporal_linear():
    config = small_config(drop_path_rate=0.5, num_hidden_layers=2)
    block = moving(HdVilaVisionModel(config)).timesformer.blocks[1].train()
    assert block.drop_path.rate == 0.5
    rows = []
    block.drop_path.forward = lambda x: (rows.append(tuple(x.shape)), 0 * x)[1]
    x = torch.randn(2, 7, 6, 32)
    out = block(x)
    assert rows == [(2 * 6, 7, 32), (2 * 7, 6, 32), (2, 7, 6, 32)]
    torch.testing.assert_close(out, x + block.temporal_fc.bias)


# --- files, and what is refused ---


@pytest.mark.parametrize("resolutions", ["both", "small", "sharp"])
def test_a_saved_encoder_is_the_same_by_the_auto_class(resolutions, tmp_path):
    model = moving(HdVilaVisionModel(small_config(resolutions=resolutions)).eval())
    inputs = {name: pixels for name, pixels in small_inputs().items() if name in model.config.inputs}
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, HdVilaVisionModel) and loaded.config.to_diff_dict() == model.config.to_diff_dict()
    states = loaded(**inputs, output_hidden_states=True)
    assert torch.equal(states.last_hidden_state, model(**inputs).last_hidden_state)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"resolutions": "tiny"}, "`resolutions`: 'tiny' is unknown; use both, small, sharp"),
        ({"num_frames": 1}, "`num_frames` 1 leaves `resolutions` 'both' no small frames"),
        ({"num_attention_heads": 5}, "`num_attention_heads`: 5 does not divide `hidden_size` 32"),
        ({"resnet_depths": (3, 4)}, "`resnet_depths`: must be four"),
        ({"position_grid": (0, 4)}, "`position_grid`: must be"),
        ({"live_batch_norm": True}, "no field live_batch_norm"),
    ],
)
def test_contradictory_settings_are_refused_when_the_configuration_is_built(fields, says):
    with pytest.raises((ValueError, StrictDataclassError), match=says):
        small_config(**fields)


@pytest.mark.parametrize(
    ("fields", "shapes", "says"),
    [
        ({}, {"videos": (7, 32, 40), "detail": (1, 128, 160)}, "32 x 40 pixels, and `resolutions` 'both' needs mult"),
        (
            {},
            {"videos": (7, 32, 48), "detail": (1, 128, 128)},
            "`pixel_values_detail` has shape .*, 4 times as",
        ),
        ({}, {"videos": (1, 32, 48), "detail": (1, 128, 192)}, "`resolutions` 'both' needs 2 or more"),
        ({}, {"videos": (5, 32, 48), "detail": (1, 128, 192)}, "5 frames a clip, and `num_frames` 7.*`interpolate`"),
        ({}, {"videos": (9, 32, 48), "detail": (1, 128, 192)}, "9 frames a clip, and `num_frames` 7.*`interpolate`"),
        ({}, {"videos": (7, 48, 48), "detail": (1, 192, 192)}, "grid of 3 x 3 cells, and `position_grid`"),
        ({"num_clips": 2}, {"videos": (7, 32, 48), "detail": (2, 128, 192)}, "7 frames, which `num_clips` 2"),
        ({"num_clips": 2}, {"videos": (14, 32, 48), "detail": (1, 128, 192)}, "`num_clips` 2 it must have"),
        ({}, {"videos": (7, 32, 48)}, "`pixel_values_detail` is missing, and `resolutions` is 'both'"),
        ({"resolutions": "small"}, {"videos": (7, 32, 48), "detail": (1, 128, 192)}, "`pixel_values_detail` is given"),
        ({"resolutions": "sharp"}, {"videos": (7, 32, 48)}, "`pixel_values_videos` is given, and `resolutions`"),
        ({"resolutions": "sharp"}, {}, "`pixel_values_detail` is missing, and `resolutions` is 'sharp'"),
        ({"resolutions": "sharp"}, {"detail": (1, 128, 100)}, "128 x 100 pixels.*multiples of 64"),
    ],
)
def test_pixels_that_do_not_belong_to_the_settings_are_refused(fields, shapes, says):
    model = HdVilaVisionModel(small_config(**fields)).eval()
    given = {f"pixel_values_{name}": torch.zeros(1, size[0], 3, *size[1:]) for name, size in shapes.items()}
    with pytest.raises(ValueError, match=says):
        model(**given)


def test_bytes_are_refused():
    model = HdVilaVisionModel(small_config()).eval()
    with pytest.raises(ValueError, match="uint8: pixels must be normalised"):
        model(**{name: pixels.to(torch.uint8) for name, pixels in small_inputs().items()})

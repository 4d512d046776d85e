"""Any picture or video model of transformers as the vision encoder, and models of one's own."""

import pytest
import torch
from encoder_configs import (
    ENCODER_CONFIGS,
    FRAMES,
    PATCH,
    PICTURES,
    SIDE,
    TWO_RESOLUTIONS,
    WHOLE_CLIPS,
    model_config,
    shown,
)
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from violet import VioletConfig
from violet.core.upstream import checkpoint_activations
from violet.modeling_violet import (
    ENCODERS,
    VioletForCaptioning,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletModel,
)
from violet.modeling_violet.encoders import find_encoder
from violet.training.optimization import layer_depths, parameter_groups

encoders = pytest.mark.parametrize("encoder", ENCODER_CONFIGS)


def clips(*size: int) -> torch.Tensor:
    frames, height, width = size or (FRAMES, SIDE, SIDE)
    return torch.randn(2, frames, 3, height, width, generator=torch.Generator().manual_seed(0))


def words() -> torch.Tensor:
    return torch.tensor([[2, 9, 8, 7, 3], [2, 5, 6, 7, 3]])


@encoders
def test_a_model_with_any_encoder_trains_and_is_the_same_when_loaded(encoder, tmp_path):
    torch.manual_seed(0)
    model = VioletForQuestionAnswering(model_config(encoder))
    for one in model.parameters():
        if one.dim() > 1 and not one.any():  # what starts at zero hides what stands in front of it
            nn.init.normal_(one, std=0.1)
    given = {**shown(encoder, clips()), "input_ids": words()}
    model(**given, labels=torch.tensor([0, 2]), caption_ids=words()).loss.backward()
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for name, one in trained.items() if ".k" not in name)
    key = model.violet.vision_encoder.key
    assert sum(f".video_encoder.{key}." in name for name in trained) > 5
    model.eval().save_pretrained(tmp_path)
    loaded = VioletForQuestionAnswering.from_pretrained(tmp_path).eval()
    assert type(loaded.config.vision_config) is type(model.config.vision_config)
    assert torch.equal(loaded(**given).logits, model(**given).logits)


@pytest.mark.parametrize("encoder", PICTURES)
def test_a_picture_model_gives_each_frame_what_it_gives_the_picture(encoder):
    torch.manual_seed(0)
    video = VioletModel(model_config(encoder)).eval().video_encoder
    states = video.encoder.states(video.vision_model, clips()).last_hidden_state
    for clip, of_clip in zip(clips(), states, strict=True):
        pictures = video.vision_model(pixel_values=clip).last_hidden_state
        torch.testing.assert_close(of_clip.flatten(1, 2), pictures[:, -4:])


@pytest.mark.parametrize(
    ("encoder", "size", "grid"),
    [(encoder, (3, 48, 64), (3, 3, 4)) for encoder in PICTURES]
    + [(encoder, (1, 40, 33), (1, 2, 2)) for encoder in PICTURES]
    + [("vjepa2", (8, 32, 32), (4, 2, 2)), ("violet_vision", (3, 40, 33), (3, 3, 3))],
)
def test_frames_and_sizes_that_an_encoder_can_take_run(encoder, size, grid):
    tokens = VioletModel(model_config(encoder)).eval().encode_videos(clips(*size))
    assert tokens.grid == grid
    assert tokens.tokens.shape[1] == grid[0] * (1 + grid[1] * grid[2])


@pytest.mark.parametrize(
    ("encoder", "size", "says"),
    [
        ("videomae", (5, 32, 32), "'videomae' takes clips of 4 frames, got 5"),
        ("timesformer", (8, 32, 32), "'timesformer' takes clips of 4 frames, got 8"),
        ("videomae", (4, 48, 32), "'videomae' takes frames of 32 x 32 pixels, got 48 x 32"),
        ("vjepa2", (5, 32, 32), "'vjepa2' takes clips whose number of frames is a multiple of 2, got 5"),
        ("vit", (4, 8, 32), "'vit' needs frames of at least 16 x 16 pixels, got 8 x 32"),
    ],
)
def test_what_an_encoder_cannot_take_is_refused_with_what_it_can(encoder, size, says):
    with pytest.raises(ValueError, match=says):
        VioletModel(model_config(encoder)).encode_videos(clips(*size))


def test_the_cells_of_a_model_that_keeps_time_innermost_are_in_their_places():
    """TimeSformer's tokens stand place by place; a change of one corner in one frame moves that cell most."""
    torch.manual_seed(0)
    video = VioletModel(model_config("timesformer")).eval().video_encoder
    before, changed = clips(), clips()
    changed[:, 2, :, :PATCH, PATCH:] += 5
    features = [video.encoder.states(video.vision_model, pixels).last_hidden_state for pixels in (before, changed)]
    moved = (features[0] - features[1]).norm(dim=-1)[0]
    assert moved.flatten().argmax() == torch.tensor([2 * 4 + 0 * 2 + 1])


@pytest.mark.parametrize("encoder", WHOLE_CLIPS)
def test_a_video_model_gives_what_it_gives_by_itself(encoder):
    torch.manual_seed(0)
    video = VioletModel(model_config(encoder)).eval().video_encoder
    alone = video.vision_model(clips(), **({"skip_predictor": True} if encoder == "vjepa2" else {})).last_hidden_state
    states = video.encoder.states(video.vision_model, clips()).last_hidden_state
    assert states.shape[1:4] == video.encoder.grid(FRAMES, SIDE, SIDE)
    same = torch.sort(states.flatten(1, 3).sum(-1)).values
    torch.testing.assert_close(same, torch.sort(alone[:, -states[0, ..., 0].numel() :].sum(-1)).values)


@encoders
def test_masked_cells_hide_their_pixels_and_no_others(encoder):
    model = VioletModel(model_config(encoder)).eval()
    video = model.video_encoder
    frames, rows, columns = video.encoder.cell
    mask = torch.zeros(2, *video.encoder.grid(FRAMES, SIDE, SIDE), dtype=torch.bool)
    step = min(1, mask.shape[1] - 1)
    mask[0, step, 0, 1] = True
    pixels = video.mask_patches(clips(), mask)
    hidden = (pixels != clips()).any(2)
    assert hidden.sum() == frames * rows * columns
    assert hidden[0, step * frames : (step + 1) * frames, :rows, columns : 2 * columns].all()
    with pytest.raises(ValueError, match="`bool_masked_pos` has shape"):
        video.mask_patches(clips(), mask[:, :, :1])


def test_pixels_beyond_the_last_whole_cell_are_never_masked():
    video = VioletModel(model_config("vit")).video_encoder
    pixels = torch.ones(1, 1, 3, 40, 33)
    masked = video.mask_patches(pixels, torch.ones(1, 1, 2, 2, dtype=torch.bool))
    assert (masked[..., :32, :32] == 0).all() and (masked[..., 32:, :] == 1).all() and (masked[..., 32:] == 1).all()


@encoders
def test_gradient_checkpointing_and_half_precision_work_with_any_encoder(encoder):
    torch.manual_seed(0)
    model = VioletForQuestionAnswering(model_config(encoder, hidden_dropout_prob=0.0)).train()
    inputs = {**shown(encoder, clips()), "input_ids": words(), "labels": torch.tensor([0, 2])}
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_activations(model)
        model.zero_grad()
        torch.manual_seed(1)
        model(**inputs).loss.backward()
        gradients.append([one.grad.clone() for one in model.parameters() if one.grad is not None])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))
    half = model.to(torch.bfloat16)(**inputs | shown(encoder, clips().bfloat16())).loss
    assert torch.isfinite(half)


@encoders
def test_inputs_get_gradients_while_the_weights_are_frozen(encoder):
    """As PEFT needs it with gradient checkpointing, and captioning without: TimeSformer's embeddings give a tuple."""
    model = VioletForCaptioning(model_config(encoder)).train().requires_grad_(False)
    model.mlm_head.requires_grad_(True)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    inputs = {**shown(encoder, clips()), "input_ids": words(), "labels": words()}
    model(**inputs).loss.backward()
    assert model.mlm_head.dense.weight.grad.abs().sum() > 0
    assert model(**inputs).logits.requires_grad
    model.disable_input_require_grads()


@encoders
def test_layers_are_found_from_the_first_to_the_last(encoder):
    model = VioletForQuestionAnswering(model_config(encoder))
    depths = layer_depths(model)
    named = {name: depths[id(one)] for name, one in model.named_parameters() if "video_encoder" in name}
    deepest = {name for name, depth in named.items() if depth == max(named.values())}
    assert any("patch" in name or ".conv1." in name for name in deepest)
    behind = [name for name in named if name.endswith(("backbone.layernorm.weight", "swin.norm.weight"))]
    assert all(named[name] == min(named.values()) for name in behind)
    groups = parameter_groups(model, 0.1, learning_rate=1.0, backbone_learning_rate=0.1)
    slow = {id(one) for group in groups if group["lr"] == 0.1 for one in group["params"]}
    assert slow == {id(one) for one in model.violet.video_encoder.vision_model.parameters() if one.requires_grad}


def test_a_model_without_patches_of_one_size_is_refused():
    with pytest.raises(ValueError, match="'convnext' cannot be used: its configuration has no `patch_size`"):
        VioletModel(VioletConfig(vision_config={"model_type": "convnext"}))


class ConvNetConfig(PreTrainedConfig):
    model_type = "test_convnet"
    hidden_size: int = 24
    num_channels: int = 3

    @property
    def cell(self):
        return 1, 8, 8

    def grid(self, frames, height, width):
        return frames, height // 8, width // 8


class ConvNet(PreTrainedModel):
    """An encoder that is not transformers': two convolutions on each frame, and a mean over neighbours in time."""

    config_class = ConvNetConfig
    main_input_name = "pixel_values_videos"

    def __init__(self, config):
        super().__init__(config)
        self.near = nn.Conv3d(config.num_channels, 12, (3, 4, 4), (1, 4, 4), (1, 0, 0))
        self.far = nn.Conv3d(12, config.hidden_size, (1, 2, 2), (1, 2, 2))
        self.post_init()

    def forward(self, pixel_values_videos, **kwargs):
        states = self.far(self.near(pixel_values_videos.transpose(1, 2)).relu())
        return BaseModelOutput(last_hidden_state=states.permute(0, 2, 3, 4, 1))


AutoConfig.register("test_convnet", ConvNetConfig, exist_ok=True)

ENCODERS.add("test_convnet", ConvNet)


def test_an_encoder_of_ones_own_needs_nothing_but_a_line_of_the_table(tmp_path):
    config = model_config("vit")
    config = VioletConfig(**{**config.to_dict(), "vision_config": {"model_type": "test_convnet"}, "mvm_targets": {}})
    model = VioletForPreTraining(config)
    assert model.violet.video_encoder.encoder.grid(FRAMES, SIDE, SIDE) == (4, 4, 4)
    mask = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
    mask[:, 1] = True
    output = model(
        pixel_values_videos=clips(),
        input_ids=words(),
        labels=words(),
        bool_masked_pos=mask,
        negative_index=torch.tensor([[1], [0]]),
    )
    output.loss.backward()
    assert model.violet.video_encoder.vision_model.near.weight.grad.abs().sum() > 0
    model.eval().save_pretrained(tmp_path)
    loaded = VioletForPreTraining.from_pretrained(tmp_path).eval()
    one, other = (m.violet.encode_videos(clips()).tokens for m in (model, loaded))
    assert torch.equal(one, other)


def test_a_configuration_says_which_encoder_it_has():
    assert find_encoder(model_config("violet_vision").vision_config).key == "swin"
    assert find_encoder(model_config("vit").vision_config).key == "backbone"
    config = model_config("clip_vision_model")
    assert VioletConfig(**config.to_dict()).to_dict() == config.to_dict()


TARGETS = {"pixel": {}, "hog": {}, "optical_flow": {}, "2d_feature": {"channels": 5}, "vq": {"channels": 7}}


@encoders
def test_masked_visual_modelling_works_with_the_cells_and_steps_of_any_encoder(encoder):
    """What is predicted is what each frame shows, however many frames a cell of the encoder has."""
    torch.manual_seed(0)
    names = [name for name in TARGETS if name != "optical_flow" or encoder not in TWO_RESOLUTIONS]  # one step in time
    model = VioletForPreTraining(model_config(encoder, mvm_targets={name: TARGETS[name] for name in names}))
    grid = model.violet.video_encoder.encoder.grid(FRAMES, SIDE, SIDE)
    pixels = clips()
    targets = {
        "pixel": pixels,
        "hog": pixels[:, :, :1],
        "optical_flow": pixels[:, 1:, :2],
        "2d_feature": torch.randn(2, FRAMES, *grid[1:], 5),
        "vq": torch.randint(7, (2, FRAMES, *grid[1:])),
    }
    mask = torch.zeros(2, *grid, dtype=torch.bool)
    mask[:, 0, 0, 0] = True
    inputs = {**shown(encoder, pixels), "input_ids": words(), "bool_masked_pos": mask}
    output = model(**inputs, mvm_targets=targets, objectives={f"mvm_{name}": 1.0 for name in names})
    assert output.mvm_predictions["pixel"].shape == pixels.shape
    if "optical_flow" in names:
        assert output.mvm_predictions["optical_flow"].shape == (2, FRAMES - 1, 2, SIDE, SIDE)
    output.loss.backward()
    assert all(one.grad is not None for one in model.mvm_heads.parameters())
    step, side, _ = model.violet.video_encoder.encoder.cell
    changed = {name: target.clone() for name, target in targets.items()}
    changed["pixel"][:, :step, :, :side, :side] += 1  # the masked cell, in all its frames
    elsewhere = {name: target.clone() for name, target in targets.items()}
    elsewhere["pixel"][:, step:] += 1  # nothing, if a cell is all frames
    elsewhere["pixel"][:, :, :, side:] += 1
    model.eval()
    losses = [
        model(**inputs, mvm_targets=given, objectives={"mvm_pixel": 1.0}).loss
        for given in (targets, changed, elsewhere)
    ]
    first, other, same = losses
    assert first != other and first == same


@pytest.mark.parametrize("clips_of_a_video", [1, 2])
def test_a_target_between_steps_in_time_is_refused_for_an_encoder_that_gives_one(clips_of_a_video):
    config = model_config("hd_vila", mvm_targets={"optical_flow": {}})
    config.vision_config.num_clips = clips_of_a_video
    if clips_of_a_video == 1:
        with pytest.raises(
            ValueError, match="'hd_vila' gives a clip 1 step in time .*'optical_flow' among `mvm_targets`"
        ):
            VioletForPreTraining(config)
    else:
        assert list(VioletForPreTraining(config).mvm_heads) == ["optical_flow"]


def test_a_target_may_have_pixels_that_lie_in_no_cell():
    model = VioletForPreTraining(model_config("vit", mvm_targets={"pixel": {}}))
    shown = clips(FRAMES, 40, 33)
    mask = torch.ones(2, FRAMES, 2, 2, dtype=torch.bool)
    changed = shown.clone()
    changed[..., 32:, :] += 1
    losses = [
        model.eval()(
            pixel_values_videos=shown,
            input_ids=words(),
            bool_masked_pos=mask,
            mvm_targets={"pixel": target},
            objectives={"mvm_pixel": 1.0},
        ).loss
        for target in (shown, changed)
    ]
    assert losses[0] == losses[1] and losses[0] > 0

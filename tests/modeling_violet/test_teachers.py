"""Frozen teachers: small instances of the real classes, saved and loaded, against the network called by hand."""

import numpy as np
import pytest
import torch
from skimage.feature import hog
from torch import nn
from torchvision.models.optical_flow import raft_large
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    DPTConfig,
    DPTForDepthEstimation,
    FlavaImageCodebook,
    FlavaImageCodebookConfig,
    SwinConfig,
    SwinModel,
)

from violet.configuration import VioletConfig, VioletVisionConfig
from violet.modeling_violet.encoders.video_swin import VioletVisionModel
from violet.modeling_violet.objectives.hog import hog_picture
from violet.modeling_violet.objectives.masked_vision import MVM_TARGETS, build_mvm_heads, mvm_loss

GRID = (3, 2, 2)
IMAGENET = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
CLIP = (
    torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1),
    torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1),
)


def raw_clip(batch=2, frames=3, height=64, width=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, frames, 3, height, width, generator=generator)


def as_student(clip):
    return (clip - IMAGENET[0]) / IMAGENET[1]


def make_network(name):
    """A small, randomly initialised instance of the class that holds the published weights."""
    torch.manual_seed(0)
    if name == "depth":
        return DPTForDepthEstimation(
            DPTConfig(
                hidden_size=16,
                num_hidden_layers=4,
                num_attention_heads=2,
                intermediate_size=32,
                image_size=64,
                backbone_out_indices=[0, 1, 2, 3],
                neck_hidden_sizes=[8, 8, 8, 8],
                fusion_hidden_size=8,
            )
        )
    if name == "optical_flow":
        return raft_large()
    if name == "vq":
        network = FlavaImageCodebook(FlavaImageCodebookConfig(hidden_size=8, num_blocks_per_group=1, vocab_size=32))
        for parameter in network.parameters():  # as it is made, it gives every picture the same word
            nn.init.normal_(parameter, std=0.3)
        return network
    if name == "3d_feature":
        vision = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "drop_path_rate": 0.5}
        return VioletVisionModel(VioletVisionConfig(**vision, initializer_range=0.2))
    if name == "2d_feature":
        config = SwinConfig(image_size=64, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4)
        return SwinModel(config, add_pooling_layer=False)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=48, patch_size=12
    )
    return CLIPVisionModel(config)


NETWORKS = ("depth", "optical_flow", "vq", "3d_feature", "2d_feature", "2d_clip_feature")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of saved weights for each network, by target."""
    root = tmp_path_factory.mktemp("teachers")
    for name in NETWORKS:
        network = make_network(name)
        if name == "optical_flow":
            from safetensors.torch import save_file

            (root / name).mkdir()
            save_file(network.state_dict(), root / name / "model.safetensors")
        else:
            network.save_pretrained(root / name)
    return root


def load(folders, name, **options):
    return MVM_TARGETS[name].teacher.load(folders / name if name in NETWORKS else None, **options)


SHAPES = {
    "pixel": (2, 3, 3, 64, 64),
    "hog": (2, 3, 1, 64, 64),
    "depth": (2, 3, 1, 64, 64),
    "optical_flow": (2, 2, 2, 64, 64),
    "vq": (2, 3, 2, 2),
    "3d_feature": (2, 3, 2, 2, 64),
    "2d_feature": (2, 3, 2, 2, 16),
    "2d_clip_feature": (2, 3, 2, 2, 16),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_target_fits_its_head_and_takes_no_gradient(folders, name):
    teacher = load(folders, name).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    clip = as_student(raw_clip()).requires_grad_()
    target = teacher(clip, GRID)
    assert target.shape == SHAPES[name] and not target.requires_grad
    assert target.dtype == (torch.int64 if name == "vq" else torch.float32)
    assert target.float().std() > 0, "a constant target teaches nothing"
    assert torch.equal(target, teacher(clip, GRID)), "the same frames have the same target"
    config = VioletConfig(hidden_size=16, num_attention_heads=2, mvm_targets={name: teacher.head_options})
    head = build_mvm_heads(config)[name]
    mask = torch.ones(2, *GRID, dtype=torch.bool)
    assert mvm_loss(name, head(torch.randn(2, *GRID, 16)), target, mask).isfinite()


def test_pixel_target_is_the_students_frame(folders):
    clip = as_student(raw_clip())
    assert torch.equal(load(folders, "pixel")(clip, GRID), clip)


def test_teachers_without_a_network_refuse_a_source(tmp_path):
    with pytest.raises(ValueError, match="no network"):
        MVM_TARGETS["hog"].teacher.load(tmp_path)


def test_a_video_teacher_has_no_default_weights():
    with pytest.raises(ValueError, match="give `source`"):
        MVM_TARGETS["3d_feature"].teacher.load()


def test_a_grid_of_other_frames_is_refused(folders):
    with pytest.raises(ValueError, match="2 frames"):
        load(folders, "pixel")(as_student(raw_clip()), (2, 2, 2))


@torch.no_grad()
def test_depth_sees_its_own_normalisation_and_is_never_negative(folders):
    clip = raw_clip()
    network = DPTForDepthEstimation.from_pretrained(folders / "depth")
    expected = network(clip.flatten(0, 1) * 2 - 1).predicted_depth.clamp(min=0)
    got = load(folders, "depth")(as_student(clip), GRID)
    torch.testing.assert_close(got[:, :, 0].flatten(0, 1), expected, atol=1e-4, rtol=1e-4)
    larger = load(folders, "depth")(as_student(raw_clip(height=96, width=80)), GRID)
    assert larger.shape == (2, 3, 1, 96, 80) and larger.min() >= 0


@torch.no_grad()
def test_features_see_their_own_normalisation(folders):
    clip = raw_clip()
    flat = clip.flatten(0, 1)
    network = SwinModel.from_pretrained(folders / "2d_feature", add_pooling_layer=False)
    tokens = network((flat - IMAGENET[0]) / IMAGENET[1]).last_hidden_state.view(6, 8, 8, 16)
    # (n, 8, 8, C) -> means of 4 x 4 tokens, (n, 2, 2, C)
    expected = tokens.unflatten(1, (2, 4)).unflatten(3, (2, 4)).mean((2, 4))
    torch.testing.assert_close(load(folders, "2d_feature")(as_student(clip), GRID).flatten(0, 1), expected)

    clip = raw_clip(height=48, width=48)
    network = CLIPVisionModel.from_pretrained(folders / "2d_clip_feature")
    tokens = network((clip.flatten(0, 1) - CLIP[0]) / CLIP[1]).last_hidden_state[:, 1:].view(6, 4, 4, 16)
    got = load(folders, "2d_clip_feature")(as_student(clip), (3, 4, 4))
    torch.testing.assert_close(got.flatten(0, 1), tokens)

    clip = raw_clip(frames=4)
    network = VioletVisionModel.from_pretrained(folders / "3d_feature")
    expected = network(as_student(clip)).last_hidden_state
    torch.testing.assert_close(load(folders, "3d_feature")(as_student(clip), (4, 2, 2)), expected)


@torch.no_grad()
@pytest.mark.parametrize("per_cell, side", [(1, 16), (4, 64)])
def test_visual_words_stand_for_eight_pixels(folders, per_cell, side):
    clip = raw_clip(height=side, width=side)
    network = FlavaImageCodebook.from_pretrained(folders / "vq")
    expected = network.get_codebook_indices(0.8 * clip.flatten(0, 1) + 0.1)
    teacher = load(folders, "vq", per_cell=per_cell)
    assert teacher.head_options == {"channels": 32, "per_cell": per_cell}
    got = teacher(as_student(clip), GRID)
    assert got.shape == (2, 3, 2 * per_cell, 2 * per_cell)
    assert len(got.unique()) > 1
    # a word may change if two are as likely but for the rounding of the normalisation
    assert (got.flatten(0, 1) == expected).float().mean() > 0.99
    assert teacher(as_student(raw_clip()), GRID).shape == got.shape, "frames of another size are resized"


@torch.no_grad()
def test_flow_sees_its_own_normalisation_and_is_measured_in_the_students_pixels(folders):
    network = make_network("optical_flow").eval()
    clip = raw_clip(batch=1, frames=2, height=128, width=128)
    expected = network(clip[:, 0] * 2 - 1, clip[:, 1] * 2 - 1)[-1]
    teacher = load(folders, "optical_flow")
    got = teacher(as_student(clip), (2, 4, 4))
    torch.testing.assert_close(got[:, 0], expected, atol=1e-3, rtol=1e-3)

    class OnePixelEach(nn.Module):
        """Says one pixel to the right and one down, everywhere, in the pixels that it is shown."""

        def forward(self, first, second):
            assert min(first.shape[2:]) >= 128 and not any(side % 8 for side in first.shape[2:])
            return [torch.ones(len(first), 2, *first.shape[2:])]

    teacher.network = OnePixelEach()
    flow = teacher(as_student(raw_clip(height=64, width=100)), (3, 2, 4))
    assert flow.shape == (2, 2, 2, 64, 100)
    torch.testing.assert_close(flow[:, :, 0], torch.full((2, 2, 64, 100), 100 / 128))
    torch.testing.assert_close(flow[:, :, 1], torch.full((2, 2, 64, 100), 64 / 128))
    assert teacher(as_student(raw_clip(frames=1)), (1, 2, 2)).shape == (2, 0, 2, 64, 64)


def test_another_students_normalisation_gives_the_same_target(folders):
    clip = raw_clip()
    ours = load(folders, "2d_feature")(as_student(clip), GRID)
    other = load(folders, "2d_feature", student_mean=(0.5, 0.5, 0.5), student_std=(0.5, 0.5, 0.5))
    torch.testing.assert_close(other(clip * 2 - 1, GRID), ours, atol=1e-4, rtol=1e-4)


def skimage_picture(frame):
    _, picture = hog(
        frame, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(2, 2), visualize=True, channel_axis=-1
    )
    return picture


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (48, 80), (67, 53)])
@pytest.mark.parametrize("kind", ["noise", "black and white", "grey", "flat"])
def test_hog_is_the_picture_that_skimage_draws(size, kind):
    frame = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    if kind == "black and white":
        frame = (frame > 0.5).astype(np.float32)
    elif kind == "grey":
        frame = np.repeat(frame[..., :1], 3, axis=-1)
    elif kind == "flat":
        frame = np.full_like(frame, 0.5)
    # (H, W, 3) -> (1, 3, H, W)
    got = hog_picture(torch.from_numpy(frame).permute(2, 0, 1)[None])
    np.testing.assert_allclose(got[0, 0].numpy(), skimage_picture(frame), rtol=0, atol=1e-5)


@pytest.mark.shared
def test_hog_of_the_reference_and_of_a_real_clip(shared_folder):
    archive = np.load(shared_folder / "goldens" / "mvm_public.npz")
    first = np.random.default_rng(700).random(archive["case"][[0, 1]].tolist() + [3, 224, 224], dtype=np.float32)[
        0, :1
    ]
    got = hog_picture(torch.from_numpy(first))[0, 0, :48, :48].numpy()
    np.testing.assert_allclose(got, archive["hog_of_raw_first_frame_corner"], rtol=0, atol=1e-5)

    import av

    with av.open(str(shared_folder / "data" / "msrvtt" / "video7010.mp4")) as container:
        frames = [
            frame.to_ndarray(format="rgb24") for frame, _ in zip(container.decode(video=0), range(2), strict=False)
        ]
    frames = np.stack(frames).astype(np.float32) / 255
    # (T, H, W, 3) -> (T, 3, H, W)
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    expected = np.stack([skimage_picture(frame) for frame in frames])
    assert expected.max() > 0.1
    np.testing.assert_allclose(hog_picture(clip)[:, 0].numpy(), expected, rtol=0, atol=1e-5)
    teacher = MVM_TARGETS["hog"].teacher.load()
    target = teacher(as_student(clip)[None], (len(frames), 1, 1))
    assert np.abs(target[0, :, 0].numpy() - expected).mean() < 1e-3 * expected.mean()

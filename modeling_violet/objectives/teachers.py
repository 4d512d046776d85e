"""
Teachers: frozen networks that make the targets of masked visual modelling.

A teacher sees the *whole* frames, as they were before masking. Shapes: (B, T) videos and frames, (h, w) the student's
grid of patches, (H, W) pixels.
"""

from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from .hog import hog_picture

Colour = tuple[float, ...] | list[float]
Grid = tuple[int, int, int]


class Teacher(nn.Module):
    """
    A frozen network beside the model: no parameter takes a gradient, and it stays in evaluation mode.

    Keep it out of the student, whose saved weights are not to hold it.

    Attributes:
        image_mean, image_std: how it takes a frame's channels, from [0, 1]; (0, 0, 0) and (1, 1, 1) for [0, 1] itself.
        size: the side, in pixels, that it takes frames of (they are resized to a square), the network's own once there
            is one; `None` for any size.
        default_source: the weights on the Hub that `load` takes if no source is given; `None` for no such weights.
        options: of its target's options, those that `load` takes.

    Args:
        student_mean, student_std: how the frames given to `forward` are normalised.
    """

    image_mean: Colour = (0.0, 0.0, 0.0)
    image_std: Colour = (1.0, 1.0, 1.0)
    size: int | None = None
    default_source: str | None = None
    options: tuple[str, ...] = ()

    def __init__(self, network: Any = None, student_mean: Colour | None = None, student_std: Colour | None = None):
        super().__init__()
        self.network: Any = network  # each teacher knows its own class
        if network is not None and self.size is not None:
            self.size = network.config.image_size
        mean = IMAGENET_DEFAULT_MEAN if student_mean is None else student_mean
        std = IMAGENET_DEFAULT_STD if student_std is None else student_std
        self.student_mean = nn.Buffer(torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.student_std = nn.Buffer(torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.own_mean = nn.Buffer(torch.tensor(self.image_mean).view(-1, 1, 1), persistent=False)
        self.own_std = nn.Buffer(torch.tensor(self.image_std).view(-1, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, source: str | PathLike | None = None, **normalisation: Any) -> Self:
        """
        The teacher with its published weights.

        Args:
            source: a name on the Hub or a folder; `default_source` if it is not given.
            normalisation: `student_mean` and `student_std`, ImageNet's if they are not given.

        Raises:
            ValueError: if there is neither a source nor a default.
            OSError: if the weights are not found.
        """
        if source is None:
            source = cls.default_source
        if source is None:
            raise ValueError(f"{cls.__name__} has no weights of its own choice: give `source`.")
        return cls(cls.load_network(source), **normalisation)

    @classmethod
    def load_network(cls, source: str | PathLike) -> nn.Module:
        """The network that `load` wraps."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """Leaves the teacher as it is: in evaluation mode."""
        return super().train(False)

    @property
    def head_options(self) -> dict[str, int]:
        """The options that a head needs in `VioletConfig.mvm_targets` to fit this teacher."""
        return {}

    def pictures(self, pixel_values_videos: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
        """
        Frames (B, T, 3, H, W) as the student takes them -> (B * T, 3, *size), float32, as this teacher takes them.
        They are resized bicubically to `size` (the teacher's own if it is not given), and held within [0, 1]
        before they are normalised.
        """
        if size is None:
            rows, columns = pixel_values_videos.shape[3:]
            size = (rows, columns) if self.size is None else (self.size, self.size)
        # (B, T, 3, H, W) -> (B * T, 3, H, W)
        x = pixel_values_videos.flatten(0, 1).float() * self.student_std + self.student_mean
        if x.shape[2:] != size:
            x = nn.functional.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)
        return (x.clamp(0, 1) - self.own_mean) / self.own_std

    def target(self, pixel_values_videos: torch.Tensor, grid: Grid) -> torch.Tensor:
        """What `forward` gives, written by each teacher."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, pixel_values_videos: torch.Tensor, grid: Grid) -> torch.Tensor:
        """
        Args:
            pixel_values_videos: (B, T, 3, H, W), unmasked, normalised as the student takes them.
            grid: (T, h, w), the student's patches.

        Returns:
            the target in the layout of its loss (see `vision_targets`), float32 (int64 for visual words).
        """
        if grid[0] != pixel_values_videos.shape[1]:
            raise ValueError(f"`grid` has {grid[0]} frames and the videos {pixel_values_videos.shape[1]}.")
        with torch.autocast(pixel_values_videos.device.type, enabled=False):
            return self.target(pixel_values_videos, grid)


def pooled_to(features: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(B * T, rows, columns, C) -> (B, T, h, w, C), averaged if the grids differ."""
    frames, rows, columns = grid
    if features.shape[1:3] != (rows, columns):
        # (B * T, rows, columns, C) -> (B * T, C, rows, columns) -> (B * T, C, h, w) -> (B * T, h, w, C)
        pooled = nn.functional.adaptive_avg_pool2d(features.permute(0, 3, 1, 2), (rows, columns))
        features = pooled.permute(0, 2, 3, 1)
    return features.unflatten(0, (-1, frames)).float()  # -> (B, T, h, w, C)


def square_grid(tokens: torch.Tensor) -> torch.Tensor:
    """(n, side * side, C) -> (n, side, side, C)"""
    side = int(tokens.shape[1] ** 0.5)
    return tokens.unflatten(1, (side, side))


def resized(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(n, C, rows, columns) -> (n, C, *size), bilinearly."""
    if maps.shape[2:] == size:
        return maps
    return nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=True)


class PixelTeacher(Teacher):
    """The frame itself, normalised as the student takes it: (B, T, 3, H, W). It has no network and needs no source."""

    @classmethod
    def load(cls, source: str | PathLike | None = None, **normalisation: Any) -> Self:
        if source is not None:
            raise ValueError(f"{cls.__name__} has no network: `source` {str(source)!r} would be ignored.")
        return cls(**normalisation)

    def target(self, pixel_values_videos: torch.Tensor, grid: Grid) -> torch.Tensor:
        return pixel_values_videos.detach().float()


class HogTeacher(PixelTeacher):
    """`hog_picture` of the frame in [0, 1]: (B, T, 1, H, W). It has no network and needs no source."""

    def target(self, pixel_values_videos: torch.Tensor, grid: Grid) -> torch.Tensor:
        return hog_picture(self.pictures(pixel_values_videos)).unflatten(0, (-1, grid[0]))


class DepthTeacher(Teacher):
    """
    DPT's inverse depth, relative and 0 or more: (B, T, 1, H, W). Frames of 384 x 384 with mean and standard deviation
    0.5 (Ranftl et al., 2021, arXiv:2103.13413).
    """

    image_mean = tuple(IMAGENET_STANDARD_MEAN)
    image_std = tuple(IMAGENET_STANDARD_STD)
    size = 384
    default_source = "Intel/dpt-large"

    @classmethod
    def load_network(cls, source: str | PathLike) -> nn.Module:
        from transformers import DPTForDepthEstimation

        return DPTForDepthEstimation.from_pretrained(source, dtype=torch.float32)

    def target(self, pixel_values_videos: torch.Tensor, grid: Grid) -> torch.Tensor:
        depth = self.network(self.pictures(pixel_values_videos)).predicted_depth  # (B * T, rows, columns)
        rows, columns = pixel_values_videos.shape[3:]
        depth = resized(depth.unsqueeze(1).float(), (rows, columns))
        return depth.clamp(min=0).unflatten(0, (-1, grid[0]))


class OpticalFlowTeacher(Teacher):
    """
    RAFT-Large's last iterate, from each frame to the next, in pixels of the student's frames, x before y:
    (B, T - 1, 2, H, W). Frames in [-1, 1] (mean and standard deviation 0.5); sides are resized to the nearest multiple
    of 8, and to 128 or more (Teed and Deng, 2020, arXiv:2003.12039).

    Its source is a safetensors file of torchvision's `raft_large` state dict, or a folder with that file as
    `model.safetensors`; torchvision's own weights if none is given.
    """

    image_mean = tuple(IMAGENET_STANDARD_MEAN)
    image_std = tuple(IMAGENET_STANDARD_STD)
    smallest_side = 128
    default_source = "torchvision"

    @classmethod
    def load_network(cls, source: str | PathLike) -> nn.Module:
        from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

        if source == cls.default_source:
            return raft_large(weights=Raft_Large_Weights.DEFAULT)
        from safetensors.torch import load_file

        path = Path(source)
        network = raft_large()
        network.load_state_dict(load_file(path / "model.safetensors" if path.is_dir() else path))
        return network

    def target(self, pixel_values_videos: torch.Tensor, grid: Grid) -> torch.Tensor:
        batch, frames, _, H, W = pixel_values_videos.shape
        if frames == 1:
            return pixel_values_videos.new_zeros(batch, 0, 2, H, W, dtype=torch.float32)
        rows, columns = (max(self.smallest_side, 8 * round(side / 8)) for side in (H, W))
        # (B * T, 3, rows, columns) -> (B, T, 3, rows, columns)
        x = self.pictures(pixel_values_videos, (rows, columns)).unflatten(0, (batch, frames))
        flow = self.network(x[:, :-1].flatten(0, 1), x[:, 1:].flatten(0, 1))[-1]  # (B * (T - 1), 2, rows, columns)
        flow = resized(flow, (H, W)) * flow.new_tensor([W / columns, H / rows]).view(2, 1, 1)
        return flow.unflatten(0, (batch, frames - 1))


class TokenTeacher(Teacher):
    """
    DALL-E's visual words, `per_cell` x `per_cell` of them per patch: (B, T, h * per_cell, w * per_cell), int64. A word
    stands for 8 x 8 pixels: frames are resized to 8 pixels per word (for 7 x 7 patches, VIOLETv2: 4 x 4 words per
    patch, 224 pixels; VIOLET: one word per patch, 56 pixels). Values in [0, 1] are mapped to [0.1, 0.9], which mean
    and standard deviation state here (Ramesh et al., 2021, arXiv:2102.12092, appendix A.3).

    Args:
        per_cell: 1 fits the head's default; 4 is VIOLETv2's live tokenizer.
    """

    image_mean = (-0.125, -0.125, -0.125)
    image_std = (1.25, 1.25, 1.25)
    pixels_per_word = 8
    options = ("per_cell",)
    default_source = "facebook/flava-image-codebook"

    def __init__(self, network: Any, per_cell: int = 1, **normalisation: Any):
        super().__init__(network, **normalisation)
        self.per_cell = per_cell

    @classmethod
    def load(cls, source: str | PathLike | None = None, per_cell: int = 1, **normalisation: Any) -> Self:
        network = cls.load_network(cls.default_source if source is None else source)
        return cls(network, per_cell=per_cell, **normalisation)

    @classmethod
    def load_network(cls, source: str | PathLike) -> nn.Module:
        from transformers import FlavaImageCodebook

        return FlavaImageCodebook.from_pretrained(source, dtype=torch.float32)

    @property
    def head_options(self) -> dict[str, int]:
        return {"channels": self.network.config.vocab_size, "per_cell": self.per_cell}

    def target(self, pixel_values_videos: torch.Tensor, grid: Grid) -> torch.Tensor:
        frames, *sides = grid
        rows, columns = (self.pixels_per_word * self.per_cell * side for side in sides)
        words = self.network.get_codebook_indices(self.pictures(pixel_values_videos, (rows, columns)))
        return words.unflatten(0, (-1, frames))


class FeatureTeacher(Teacher):
    """A network whose last map is to be predicted: (B, T, h, w, C), averaged if its grid differs."""

    @property
    def head_options(self) -> dict[str, int]:
        return {"channels": self.network.config.hidden_size}


class VideoTeacher(FeatureTeacher):
    """
    The last map of a Video Swin Transformer, `VioletVisionModel` (VIOLETv2: Swin-Base after Kinetics-600). Frames of
    any size with ImageNet's mean and standard deviation. There are no such weights on the Hub: give `source`.
    """

    image_mean = tuple(IMAGENET_DEFAULT_MEAN)
    image_std = tuple(IMAGENET_DEFAULT_STD)

    @classmethod
    def load_network(cls, source: str | PathLike) -> nn.Module:
        from ..encoders.video_swin import VioletVisionModel

        return VioletVisionModel.from_pretrained(source, dtype=torch.float32)

    def target(self, pixel_values_videos: torch.Tensor, grid: Grid) -> torch.Tensor:
        x = self.pictures(pixel_values_videos).unflatten(0, (-1, grid[0]))
        features = self.network(x).last_hidden_state
        if features.shape[1] != grid[0]:
            raise ValueError(
                f"The teacher gives {features.shape[1]} frames for {grid[0]}: its temporal stride is not 1."
            )
        return pooled_to(features.flatten(0, 1), grid)


class ImageTeacher(FeatureTeacher):
    """
    The last map of a Swin Transformer (ImageNet-22k), frame by frame. Frames of the network's size (224 pixels) with
    ImageNet's mean and standard deviation (Liu et al., 2021, arXiv:2103.14030).
    """

    image_mean = tuple(IMAGENET_DEFAULT_MEAN)
    image_std = tuple(IMAGENET_DEFAULT_STD)
    size = 224
    default_source = "microsoft/swin-base-patch4-window7-224-in22k"

    @classmethod
    def load_network(cls, source: str | PathLike) -> nn.Module:
        from transformers import SwinModel

        return SwinModel.from_pretrained(source, dtype=torch.float32, add_pooling_layer=False)

    def target(self, pixel_values_videos: torch.Tensor, grid: Grid) -> torch.Tensor:
        tokens = self.network(self.pictures(pixel_values_videos)).last_hidden_state
        return pooled_to(square_grid(tokens), grid)


class ClipTeacher(FeatureTeacher):
    """
    The patch tokens of CLIP's vision tower, without its [CLS], frame by frame. Frames of the network's size (224
    pixels) with CLIP's mean and standard deviation (Radford et al., 2021, arXiv:2103.00020).
    """

    image_mean = tuple(OPENAI_CLIP_MEAN)
    image_std = tuple(OPENAI_CLIP_STD)
    size = 224
    default_source = "openai/clip-vit-large-patch14"

    @classmethod
    def load_network(cls, source: str | PathLike) -> nn.Module:
        from transformers import CLIPVisionModel

        return CLIPVisionModel.from_pretrained(source, dtype=torch.float32)

    def target(self, pixel_values_videos: torch.Tensor, grid: Grid) -> torch.Tensor:
        tokens = self.network(self.pictures(pixel_values_videos)).last_hidden_state[:, 1:]
        return pooled_to(square_grid(tokens), grid)

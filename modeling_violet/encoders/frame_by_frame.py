"""Picture models of transformers (CLIP, SigLIP, DINOv2, ViT, …) as vision encoders: each frame is a picture."""

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..tokens import Grid, VisionStates
from .encoder import Encoder, accepts


class FrameByFrame(Encoder):
    """
    A model that gives `last_hidden_state` (pictures, special tokens + patches, hidden_size), the patches row by row
    and last. What it has in front of them (a class token, registers) is dropped. Its positions are interpolated for
    pictures of another size than its own.
    """

    attends_in_frames = True
    unused = ("head", "pooler", "post_layernorm")

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        if not isinstance(getattr(config, "patch_size", None), int) or not hasattr(config, "hidden_size"):
            raise self.refuse(
                "cannot be used: its configuration has no `patch_size` and `hidden_size`. Frame by frame any model of "
                "pictures can be used that makes square patches of one size, such as CLIP's, SigLIP's, DINOv2 or ViT."
            )
        if getattr(config, "use_mask_token", False):
            config.use_mask_token = False  # of DINOv2: a weight that nothing here reads

    @property
    def cell(self) -> Grid:
        return 1, self.config.patch_size, self.config.patch_size

    def grid(self, frames: int, height: int, width: int) -> Grid:
        side = self.config.patch_size
        if min(height, width) < side:
            raise self.refuse(f"needs frames of at least {side} x {side} pixels, got {height} x {width}.")
        return frames, height // side, width // side  # what is left at the lower and right edge is not seen

    def states(self, model: PreTrainedModel, pixels: torch.Tensor, **others: torch.Tensor) -> VisionStates:
        grid = self.grid(pixels.shape[1], *pixels.shape[3:])
        options = {"interpolate_pos_encoding": True} if accepts(model, "interpolate_pos_encoding") else {}
        states = model(pixels.flatten(0, 1).to(model.dtype), **options).last_hidden_state
        patches = states[:, -grid[1] * grid[2] :]  # (batch * frames, rows * columns, width)
        return VisionStates(patches.unflatten(1, grid[1:]).unflatten(0, (-1, grid[0])))

"""Picture models of transformers (CLIP, SigLIP, DINOv2, ViT, …) as vision encoders: each frame is a picture."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..tokens import Grid, VisibleStates, VisionStates, gather_tokens
from .encoder import Encoder, accepts


class FrameByFrame(Encoder):
    """
    A model that gives `last_hidden_state` (pictures, special tokens + patches, hidden_size), the patches row by row
    and last. What it has in front of them (a class token, registers) is dropped. Its positions are interpolated for
    pictures of another size than its own.
    """

    attends_in_frames = True
    unused = ("head", "pooler", "post_layernorm")
    TOKENS = ("clip_vision_model", "deit", "dinov2", "dinov2_with_registers", "siglip_vision_model", "vit")
    """
    Models that can drop tokens: all that they know of a patch's place is added to it in `embeddings`, and each block
    takes any number of tokens.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        if config.model_type in self.TOKENS:
            self.hides = ("pixels", "tokens")
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
        states = model(pixels.flatten(0, 1).to(model.dtype), **any_size(model)).last_hidden_state
        patches = states[:, -grid[1] * grid[2] :]  # (batch * frames, rows * columns, width)
        return VisionStates(patches.unflatten(1, grid[1:]).unflatten(0, (-1, grid[0])))

    def visible_states(self, model: PreTrainedModel, pixels: torch.Tensor, kept: torch.Tensor) -> VisibleStates:
        if "tokens" not in self.hides:
            return super().visible_states(model, pixels, kept)
        _, rows, columns = self.grid(pixels.shape[1], *pixels.shape[3:])
        places = kept.flatten(0, 1)

        def drop(module: nn.Module, inputs: tuple, tokens: torch.Tensor) -> torch.Tensor:
            """(batch * frames, special + rows * columns, width) -> (batch * frames, special + K, width)"""
            special = tokens.shape[1] - rows * columns
            return torch.cat([tokens[:, :special], gather_tokens(tokens[:, special:], places)], dim=1)

        dropping = model.get_submodule("embeddings").register_forward_hook(drop)
        try:
            blocks = blocks_of(model)
            with recorded(blocks, range(len(blocks))) as states:
                model(pixels.flatten(0, 1).to(model.dtype), **any_size(model))
        finally:
            dropping.remove()
        found = tuple(states[number].unflatten(0, kept.shape[:2]) for number in sorted(states))
        return VisibleStates(found, found[0].shape[2] - kept.shape[2])


def any_size(model: nn.Module) -> dict[str, Any]:
    """The argument with which a model of transformers takes pictures of another size than its own, if it needs one."""
    return {"interpolate_pos_encoding": True} if accepts(model, "interpolate_pos_encoding") else {}


def blocks_of(model: PreTrainedModel) -> list[nn.Module]:
    """
    The blocks of a ViT of transformers, from the first to the last: its list of `num_hidden_layers` modules.

    Raises:
        ValueError: for a model without one.
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return list(module)
    raise ValueError(f"{type(model).__name__} has no list of `num_hidden_layers` blocks: it is no ViT.")


@contextmanager
def recorded(blocks: list[nn.Module], wanted: Collection[int]) -> Iterator[dict[int, torch.Tensor]]:
    """What these blocks, by their numbers, give while the model runs: each one's output, before any norm behind it."""
    found: dict[int, torch.Tensor] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            found[number] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [blocks[number].register_forward_hook(keep(number)) for number in wanted]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()

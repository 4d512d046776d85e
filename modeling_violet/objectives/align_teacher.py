"""
The teacher of `align`: what a frozen ViT of transformers sees in whole frames, block by block, and where it looks.

Shapes: (B, T) videos and frames, (h, w) the student's grid, C the teacher's width.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any, Self

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedConfig
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ..encoders.frame_by_frame import any_size, blocks_of, recorded
from .teachers import Colour, Grid, Teacher, pooled_to

LAYERS = "topK, mean, out, midI or linear_decay"


def layer_weights(layers: str, count: int) -> list[float]:
    """
    What each of a teacher's `count` blocks weighs in the loss: `topK` 1/K for the last K, `mean` all the same, `out`
    the last only, `midI` only block I, from 0, and `linear_decay` in proportion to the block's number, from 0.

    Raises:
        ValueError: for another word, a K or I that the teacher has not, or weights that are all 0.
    """
    found = re.fullmatch(r"(top|mid)(\d+)", layers)
    number = int(found[2]) if found else 0
    if found and found[1] == "top" and 1 <= number <= count:
        return [0.0] * (count - number) + [1 / number] * number
    if found and found[1] == "mid" and number < count:
        return [float(block == number) for block in range(count)]
    if layers == "mean":
        return [1 / count] * count
    if layers == "out":
        return [0.0] * (count - 1) + [1.0]
    if layers == "linear_decay" and count > 1:
        return [block / sum(range(count)) for block in range(count)]
    if found or layers == "linear_decay":
        raise ValueError(f"`layers` {layers!r} cannot be of a teacher of {count} blocks (`teacher_layers`).")
    raise ValueError(f"`layers` {layers!r} is unknown; use {LAYERS}.")


def weighed(weights: Sequence[float]) -> list[int]:
    """The numbers of the blocks whose weight is not 0."""
    return [block for block, weight in enumerate(weights) if weight]


class MaskAlignTeacher(Teacher):
    """
    A ViT of transformers (CLIP, DINO, DINOv2, ViT): of each token of each frame the states of some blocks, before any
    norm behind them, and the last block's attention from [CLS], mean over heads.

    The target is (B, T, 1 + h * w, blocks * C + 1): [CLS] and then the patches, each with its states block by block
    and then the attention. Without a class token the first row is not there, and the attention is 0.

    Args:
        layers: which blocks, see `layer_weights`.
        teacher_size: side of the pictures that the network sees, or [height, width]: the student's are resized to it
            bicubically, and the network's positions interpolated. CLIP-L/14 sees 196 pixels beside a student of 224
            with patches of 16, so that both grids are 14 x 14.
        pool: whether states are averaged, and attention summed, over the teacher's patches in each of the student's
            cells; without it the grids must be equal.
        mask: `attention` needs a class token and its attention.
        image_mean, image_std: how the network takes colours; by default as its kind was trained.
    """

    options = ("layers", "teacher_size", "pool", "mask")

    def __init__(
        self,
        network: Any,
        layers: str = "top5",
        teacher_size: int | Sequence[int] | None = None,
        pool: bool = False,
        mask: str = "attention",
        image_mean: Colour | None = None,
        image_std: Colour | None = None,
        **normalisation: Any,
    ):
        mean, std = colours_of(network.config.model_type)
        self.image_mean = mean if image_mean is None else tuple(image_mean)
        self.image_std = std if image_std is None else tuple(image_std)
        super().__init__(network, **normalisation)
        self.blocks = weighed(layer_weights(layers, len(blocks_of(network))))
        sides = (teacher_size, teacher_size) if isinstance(teacher_size, int) else teacher_size
        self.teacher_size = None if sides is None else (sides[0], sides[1])
        self.pool = pool
        self.has_class_token = any(
            name.rpartition(".")[2] in ("cls_token", "class_embedding") for name, _ in network.named_parameters()
        )
        if mask == "attention" and not self.has_class_token:
            raise ValueError(
                f"{type(network).__name__} has no class token whose attention says which patches to keep: set `mask` "
                "to random."
            )
        self.attends = self.has_class_token
        self.needs_attention = mask == "attention"
        if self.attends:
            make_eager(blocks_of(network)[-1])

    @classmethod
    def load(cls, source: str | PathLike | None = None, **options: Any) -> Self:
        if source is None:
            raise ValueError(
                "there is none. Give its folder or name on the Hub, such as openai/clip-vit-base-patch16, as "
                "`teacher` of `objective_options`' align."
            )
        return cls(cls.load_network(source), **{**own_colours(source), **options})

    @classmethod
    def load_network(cls, source: str | PathLike) -> nn.Module:
        config = AutoConfig.from_pretrained(source)
        config = getattr(config, "vision_config", config)
        network = AutoModel.from_pretrained(source, config=config, dtype=torch.float32)
        blocks_of(network)  # a ValueError for what is no ViT
        return network

    @property
    def head_options(self) -> dict[str, int]:
        config = self.network.config
        return {"teacher_width": config.hidden_size, "teacher_layers": config.num_hidden_layers}

    def pictures(self, pixel_values_videos: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
        """
        Frames (B, T, 3, H, W) as the student takes them -> (B * T, 3, *size), float32, as this teacher takes them:
        resized first, without antialiasing, and not held within [0, 1], as published.
        """
        x, size = pixel_values_videos.flatten(0, 1).float(), size or self.teacher_size
        if size is not None and x.shape[2:] != size:
            x = nn.functional.interpolate(x, size=size, mode="bicubic", align_corners=False)
        return (x * self.student_std + self.student_mean - self.own_mean) / self.own_std

    def target(self, pixel_values_videos: torch.Tensor, grid: Grid) -> torch.Tensor:
        x, blocks = self.pictures(pixel_values_videos), blocks_of(self.network)
        with recorded(blocks, self.blocks) as states, recorded_attention(blocks[-1]) as weights:
            self.network(x, **any_size(self.network))
        tokens = torch.cat([states[block] for block in self.blocks], dim=-1).float()  # (B * T, tokens, blocks * C)
        rows, columns = self.own_grid(x.shape[2:])
        special = tokens.shape[1] - rows * columns
        importance = tokens.new_zeros(tokens.shape[:2])
        if self.attends and "weights" in weights:
            importance = weights["weights"][:, :, 0].float().mean(1)  # (B * T, heads, tokens, tokens) -> [CLS]'s row
        elif self.needs_attention:
            raise ValueError(
                f"{type(self.network).__name__} gives no attention, not even by its eager kernel: set `mask` to "
                "random."
            )
        if not importance.isfinite().all():
            row = int((~importance.isfinite()).any(1).nonzero()[0]) // grid[0]
            raise ValueError(
                f"The teacher's attention in video {row} of the batch is not finite: its weights, or the video's "
                "pixels, are damaged."
            )
        whole = torch.cat([tokens, importance.unsqueeze(-1)], dim=-1)
        patches = self.on_grid(whole[:, special:].unflatten(1, (rows, columns)), grid)
        first = whole[:, : int(self.has_class_token)].unflatten(0, (-1, grid[0]))
        return torch.cat([first, patches.flatten(2, 3)], dim=2)

    def own_grid(self, sides: Sequence[int]) -> tuple[int, int]:
        """(rows, columns) of its patches in pictures of these sides."""
        patch = self.network.config.patch_size
        if sides[0] % patch or sides[1] % patch:
            raise ValueError(
                f"The teacher's patches of {patch} pixels do not fill pictures of {sides[0]} x {sides[1]}: set "
                "`teacher_size` to multiples of them, for equal grids to the student's rows and columns times them."
            )
        return sides[0] // patch, sides[1] // patch

    def on_grid(self, tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
        """(B * T, rows, columns, channels), the last of them the attention -> (B, T, h, w, channels)"""
        _, h, w = grid
        rows, columns = tokens.shape[1:3]
        if (rows, columns) == (h, w):
            return tokens.unflatten(0, (-1, grid[0]))
        if not self.pool or rows % h or columns % w:
            patch = self.network.config.patch_size
            raise ValueError(
                f"The teacher's grid is {rows} x {columns} and the student's {h} x {w}. Set `teacher_size` so that "
                f"they are equal ({h * patch} x {w * patch} pixels), "
                "or to whole multiples and `pool` to true."
            )
        pooled = pooled_to(tokens, grid)
        cells = pooled.new_tensor(rows * columns / (h * w))
        return torch.cat([pooled[..., :-1], pooled[..., -1:] * cells], dim=-1)


def colours_of(model_type: str) -> tuple[Colour, Colour]:
    """The mean and deviation with which models of that type were trained: CLIP's own, and ImageNet's."""
    if model_type.startswith("clip"):
        return tuple(OPENAI_CLIP_MEAN), tuple(OPENAI_CLIP_STD)
    return tuple(IMAGENET_DEFAULT_MEAN), tuple(IMAGENET_DEFAULT_STD)


def own_colours(source: str | PathLike) -> Mapping[str, Any]:
    """`image_mean` and `image_std` of the processor beside the weights; nothing if there is none."""
    try:
        processor: Any = AutoImageProcessor.from_pretrained(source)
    except (OSError, ValueError):
        return {}
    return {name: getattr(processor, name) for name in ("image_mean", "image_std") if getattr(processor, name, None)}


def make_eager(block: nn.Module) -> None:
    """Lets one block's attention be computed by the kernel that gives its weights; the others keep theirs."""
    for module in block.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            own = copy.copy(config)
            own._attn_implementation = "eager"
            module.config = own  # type: ignore[assignment]  # no module, and no tensor


@contextmanager
def recorded_attention(block: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """`weights` (n, heads, tokens, tokens) of a block while it runs, if its attention gives them."""
    found: dict[str, torch.Tensor] = {}

    def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
        for one in output if isinstance(output, tuple) else ():
            if isinstance(one, torch.Tensor) and one.dim() == 4 and one.shape[2] == one.shape[3]:
                found["weights"] = one

    handles = [module.register_forward_hook(hook) for module in block.modules()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()

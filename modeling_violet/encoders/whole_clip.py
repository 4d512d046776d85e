"""Video models of transformers (VideoMAE, V-JEPA 2, TimeSformer, ViViT) as vision encoders: they see whole clips."""

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..tokens import Grid, VisionStates
from .encoder import Encoder, accepts


class WholeClip(Encoder):
    """
    A model that gives `last_hidden_state` (batch, special tokens + patches, hidden_size), the patches last and step by
    step, or, for `TIME_INNERMOST`, place by place. What it has in front of them is dropped.
    """

    TIME_INNERMOST = ("timesformer",)
    ANY_LENGTH = ("vjepa2",)
    """Whose positions are no table, so that a clip may have more or fewer frames than the configuration says."""
    unused = ("pooler", "predictor")

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        size = config.crop_size if hasattr(config, "crop_size") else config.image_size
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.num_frames = config.frames_per_clip if hasattr(config, "frames_per_clip") else config.num_frames
        tubelet = getattr(config, "tubelet_size", 1)
        if isinstance(tubelet, int):
            tubelet = (tubelet, config.patch_size, config.patch_size)
        self._cell = (tubelet[0], tubelet[1], tubelet[2])

    @property
    def cell(self) -> Grid:
        return self._cell

    def grid(self, frames: int, height: int, width: int) -> Grid:
        if (height, width) != self.size:
            raise self.refuse(f"takes frames of {self.size[0]} x {self.size[1]} pixels, got {height} x {width}.")
        step = self.cell[0]
        if self.config.model_type in self.ANY_LENGTH:
            if frames % step:
                raise self.refuse(f"takes clips whose number of frames is a multiple of {step}, got {frames}.")
        elif frames != self.num_frames:
            raise self.refuse(f"takes clips of {self.num_frames} frames, got {frames}.")
        return frames // step, height // self.cell[1], width // self.cell[2]

    def states(self, model: PreTrainedModel, pixels: torch.Tensor, **others: torch.Tensor) -> VisionStates:
        steps, rows, columns = self.grid(pixels.shape[1], *pixels.shape[3:])
        options = {"skip_predictor": True} if accepts(model, "skip_predictor") else {}
        states = model(pixels.to(model.dtype), **options).last_hidden_state[:, -steps * rows * columns :]
        if self.config.model_type in self.TIME_INNERMOST:
            # (batch, rows * columns * steps, width) -> (batch, steps, rows, columns, width)
            return VisionStates(states.unflatten(1, (rows, columns, steps)).permute(0, 3, 1, 2, 4))
        return VisionStates(states.unflatten(1, (steps, rows, columns)))

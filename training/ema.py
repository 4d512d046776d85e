"""A moving average of a model's weights."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

FILE = "moving_average.safetensors"


class MovingAverage:
    """
    Exponential moving average of the parameters, in float32: average = decay * average + (1 - decay) * weights after
    each step; in the first steps the decay is at most (1 + steps) / (10 + steps), so that it does not lag behind.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.steps = 0
        self.values = {name: parameter.detach().float().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, parameter in model.named_parameters():
            value = self.values[name].to(parameter.device)
            self.values[name] = value.lerp_(parameter.detach().float(), 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchanges the model's weights and the average; again, to have both back."""
        for name, parameter in model.named_parameters():
            average = self.values[name]
            self.values[name] = parameter.detach().float().clone()
            parameter.copy_(average)

    def save(self, folder: Path) -> None:
        save_file(
            {name: value.cpu() for name, value in self.values.items()} | {"steps": torch.tensor(self.steps)},
            folder / FILE,
        )

    def load(self, folder: Path) -> None:
        self.values = load_file(folder / FILE)
        self.steps = int(self.values.pop("steps"))

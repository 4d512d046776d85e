"""A pre-training objective of your own: does a video play backwards? It pre-trains violet-tiny for two steps."""

from dataclasses import dataclass

import torch
from torch import nn

from violet.modeling_violet.losses import masked_accuracy, masked_cross_entropy
from violet.modeling_violet.objectives.objective import OBJECTIVES, Objective, Outcome
from violet.training.preparations.preparation import PREPARATIONS
from violet.training.pretraining import pretrain
from violet.training.recipe import read_recipe


@dataclass
class ReversalOptions:
    share: float = 0.5


class Reversal(Objective):
    Options = ReversalOptions  # set in a recipe by objective_options: {reversal: {share: 0.3}}
    needs = ("is_reversed",)

    def build_head(self, config):
        return nn.Linear(config.hidden_size, 2)  # becomes the model's objective_heads.reversal

    def loss(self, passes):
        pixels, is_reversed = passes.inputs["pixel_values_videos"], passes.inputs["is_reversed"]
        shown = torch.where(is_reversed[:, None, None, None, None], pixels.flip(1), pixels)
        logits = passes.model.objective_heads[self.name](passes.violet.encode_videos(shown).tokens.mean(1))
        labels = is_reversed.long()
        return Outcome(masked_cross_entropy(logits, labels), masked_accuracy(logits, labels))


def prepare_reversal(samples, options):
    """What a batch needs beyond videos and captions; the same whichever worker or process makes it."""
    draws = [torch.rand((), generator=generator) for generator in samples.generators("reversal")]
    return {"is_reversed": torch.stack(draws) < (options or ReversalOptions()).share}


OBJECTIVES.add("reversal", Reversal)
PREPARATIONS.add("reversal", prepare_reversal)

if __name__ == "__main__":
    shapes = {"name": "shapes", "source": "moving_shapes", "path": "outputs/few_shapes", "clips": 16}
    settings = {
        "model": "violet-tiny",
        "output_dir": "outputs/own_objective",
        "datasets": [{**shapes, "validation_clips": 8}],
        "objectives": {"mlm": 1.0, "reversal": 1.0},
        "max_steps": 2,
        "batch_size": 8,
        "num_workers": 0,
        "logging_steps": 1,
        "trackers": [],
    }
    result = pretrain(read_recipe(settings))
    print({name: value for name, value in result.metrics.items() if "reversal" in name})

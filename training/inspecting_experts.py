"""`violet inspect experts`: which tokens the experts of a model take, layer by layer."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoProcessor

from ..core.catalogue import MODELS
from ..core.files import write_json
from ..core.weights import shipped_or
from ..evaluation.expert_load import SOURCES, LayerLoad, record_expert_load
from ..evaluation.pictures import ExpertPicture, draw_experts
from ..modeling_violet import VioletModel
from ..processing.video_processing_violet import match_sound
from .arguments import SettingsError
from .inspecting_flow import read_pairs


@dataclass
class ExpertLoadReport:
    """The load of each layer, of that many pairs of a video and a text."""

    layers: list[LayerLoad]
    pairs: int

    def lines(self) -> list[str]:
        """The numbers, a line for each expert."""
        said = ["1 pair" if self.pairs == 1 else f"{self.pairs} pairs"]
        for layer in self.layers:
            sources = [name for name in SOURCES if name in layer.taken]
            said.append(
                f"{layer.name}: {sum(layer.tokens.values())} tokens, {layer.left_behind:.1%} of them taken by nobody"
            )
            said.append(
                f"{'expert':>10}{'tokens':>10}" + "".join(f"{'of ' + name:>12}" for name in sources) + f"{'says':>8}"
            )
            for number in range(layer.experts):
                parts = "".join(f"{layer.taken[name][number]:12.0f}" for name in sources)
                said.append(f"{number + 1:>10}{layer.total[number]:10.0f}{parts}{layer.says_mean[number]:8.2f}")
        said.append("says: the sum of its gates, over the mean of all experts; 0 is an expert that says nothing.")
        return said

    def numbers(self) -> dict[str, dict]:
        """All of it, by layer."""
        return {
            layer.name: {
                "taken": {name: values.tolist() for name, values in layer.taken.items()},
                "left": layer.left,
                "tokens": layer.tokens,
                "says": layer.says_mean.tolist(),
            }
            for layer in self.layers
        }


@torch.no_grad()
def inspect_experts(
    model: str | os.PathLike,
    videos: Sequence[str],
    captions: Sequence[str],
    table: str | os.PathLike | None,
    output: str | os.PathLike,
    json_file: str | os.PathLike | None = None,
) -> ExpertLoadReport:
    """
    Tells and draws which tokens of videos, their sounds and their texts the experts of a model take.

    Args:
        model: a folder or Hub name of a model with experts, in its fusion or in an encoder, with its processor.
        videos, captions: the pairs, one text for each video, or one for all.
        table: their place in a table of pairs, see `data.read_rows`.
        output: the PNG.
        json_file: where all numbers are written.

    Raises:
        SettingsError: for pairs that do not fit, or a model without experts.
    """
    pairs = read_pairs(videos, captions, table)
    model = shipped_or(model)
    processor = AutoProcessor.from_pretrained(model)
    made_as = AutoConfig.from_pretrained(model).architectures or [VioletModel.__name__]
    network = MODELS.find(made_as[0]).from_pretrained(model).eval().base_model
    match_sound(processor.video_processor, network.config)
    try:
        with record_expert_load(network) as load:
            for video, caption in pairs:
                sound = {"sound": True} if processor.video_processor.hears else {}
                inputs = processor.to_device(processor(videos=[video], text=[caption], **sound), network.device)
                if network.matches_in_fusion:
                    network(**inputs)
                else:
                    words = {name: inputs.pop(name) for name in ("input_ids", "attention_mask")}
                    network.encode_videos(**inputs)
                    network.encode_texts(**words)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    report = ExpertLoadReport(load.named(), len(pairs))
    if json_file is not None:
        write_json(Path(json_file), {"pairs": report.pairs, "layers": report.numbers()})
    draw_experts(output, [picture_of_layer(layer) for layer in report.layers])
    return report


def picture_of_layer(layer: LayerLoad) -> ExpertPicture:
    """One layer, ready to be drawn."""
    even = sum(layer.tokens.values()) / layer.experts
    sources = [name for name in SOURCES if name in layer.taken]
    load = {name: np.append(layer.taken[name], layer.left[name]) / even for name in sources}
    says = (
        ", ".join(f"{one:.2f}" for one in layer.says_mean)
        if layer.experts <= 8
        else f"{layer.says_mean.min():.2f} or more"
    )
    return ExpertPicture(layer.name, load, [f"{layer.left_behind:.1%} of the tokens taken by nobody; say {says}"])

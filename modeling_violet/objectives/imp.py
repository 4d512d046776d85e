"""
Contrast of every pair of modalities, each in a space of its own and with a temperature of its own (`imp`), before any
fusion (Akbari et al., 2023, "Alternating Gradient Descent and Mixture-of-Experts for Integrated Multimodal
Perception", arXiv:2305.06324).
"""

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...configuration.configuration_violet import VioletConfig
from ...core.clip_inputs import SOUND, take_clip_inputs, take_named
from ..contrastive_losses import gather_sets, one_way_contrasts
from ..encoders.encoder import ENCODERS
from ..projection import PROJECTIONS
from ..sounds.sound_side import AUDIO_ENCODERS
from .embedding_forms import nearest_is_own
from .objective import EmbeddingObjective, Outcome
from .passes import Passes

SPACES = (("video", "text"), ("video", "audio"), ("audio", "text"))


@dataclass
class ImpOptions:
    """
    Attributes:
        video_text, video_audio, audio_text: weights of the pairs' losses, whose mean over pairs is the loss; 0 leaves
            a pair out.
        drop, audio_drop: the share of each clip's tokens, and of its sound's, that is not computed in training.
        margin: what a row's own must be nearer by.
    """

    video_text: float = 1.0
    video_audio: float = 1.0
    audio_text: float = 1.0
    drop: float = 0.0
    audio_drop: float = 0.0
    margin: float = 0.0


class ImpContrast(EmbeddingObjective):
    """Videos against texts, videos against sounds, sounds against texts; a clip without sound has the first only."""

    Options = ImpOptions
    requirement = "its name among the configuration's `objectives`, and the `projection_type` 'disjoint'"
    takes = ("imp_draws", "audio_values", "audio_attention_mask")

    def check(self, config: VioletConfig) -> None:
        options, name = self.options, f"`objectives`: {self.name!r}"
        kind = config.projection_type
        if config.projection_dim is None or not hasattr(PROJECTIONS.find(kind), "pair_scale"):
            raise ValueError(
                f"{name} needs a space for each pair of modalities: set `projection_dim`, and `projection_type` to "
                f"'disjoint'; it is {kind!r}."
            )
        weights = (options.video_text, options.video_audio, options.audio_text)
        if min(weights) < 0 or not sum(weights[: None if config.audio_config is not None else 1]):
            raise ValueError(
                f"{name}: weights must be 0 or more, and that of a pair that the model has above 0; got {weights}"
                + (", and `audio_config` is None." if config.audio_config is None else ".")
            )
        drops = {"drop": ("vision_config", ENCODERS), "audio_drop": ("audio_config", AUDIO_ENCODERS)}
        for option, (key, table) in drops.items():
            share, part = getattr(options, option), getattr(config, key)
            if not 0 <= share < 1:
                raise ValueError(f"{name}: `{option}` must be 0 or more and below 1, got {share}.")
            if share and part is None:
                raise ValueError(f"{name}: `{option}` {share} drops tokens of a sound, and `{key}` is None.")
            if share and not takes_kept(table.find(part.model_type)):
                raise ValueError(
                    f"{name}: `{option}` {share} drops tokens, and `{key}.model_type` {part.model_type!r} computes "
                    "all: set it to 0, or use IMP's encoders."
                )

    def trained(self, model: Any) -> Iterable[nn.Parameter]:
        return model.violet.projection.parameters()

    def spaces(self, config: VioletConfig) -> list[tuple[str, str]]:
        """The pairs of modalities that are compared."""
        there = SPACES if config.audio_config is not None else SPACES[:1]
        return [pair for pair in there if getattr(self.options, "_".join(pair))]

    def embed(self, passes: Passes) -> dict[str, torch.Tensor]:
        pooled, sets = self.pooled(passes), {}
        for one, other in self.spaces(passes.model.config):
            for first, second in ((one, other), (other, one)):
                projection = passes.violet.projection
                sets[f"{first}_to_{second}"] = projection.vectors(first, second, pooled[first])
        return sets

    def compare(self, sets: Mapping[str, torch.Tensor], passes: Passes) -> Outcome:
        mask = passes.inputs.get("audio_attention_mask")
        rows = len(next(iter(sets.values())))
        device = next(iter(sets.values())).device
        heard = torch.ones(rows, dtype=torch.long, device=device) if mask is None else mask.bool().any(1).long()
        found = gather_sets({**sets, "heard": heard})
        losses, weights, accuracy = {}, {}, None
        for one, other in self.spaces(passes.model.config):
            first, second = found[f"{one}_to_{other}"], found[f"{other}_to_{one}"]
            if "audio" in (one, other):  # a clip without sound is no row of these pairs
                first, second = first[found["heard"].bool()], second[found["heard"].bool()]
            name = f"{one}_{other}"
            weights[name] = getattr(self.options, name)
            if not len(first):
                losses[name] = (found[f"{one}_to_{other}"].sum() + found[f"{other}_to_{one}"].sum()) * 0.0
                continue
            temperature = passes.violet.projection.pair_scale(one, other).reciprocal()
            there, back = one_way_contrasts(first[:, None], second[:, None], temperature, self.options.margin)
            losses[name] = (there + back) / 2
            if accuracy is None:
                unit = (nn.functional.normalize(rows.detach(), dim=-1) for rows in (first, second))
                accuracy = nearest_is_own(*unit)
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).mean()
        return Outcome(total, accuracy, {"predictions": {self.name: losses}}, self.measured(passes))

    def measured(self, passes: Passes) -> dict[str, torch.Tensor]:
        """The temperatures, for the log."""
        projection = passes.violet.projection
        return {
            f"temperature_{one}_{other}": projection.pair_scale(one, other).reciprocal().detach().mean()
            for one, other in self.spaces(passes.model.config)
        }

    def shared(self, model: Any) -> Iterable[nn.Parameter]:
        return model.violet.projection.temperatures()

    def pooled(self, passes: Passes) -> dict[str, torch.Tensor]:
        """
        The vectors of the batch, (batch, width), by modality. With dropped tokens those of videos and sounds come from
        passes of their own: other objectives of the step see whole clips.
        """
        config, options = passes.model.config, self.options
        needed = {name for pair in self.spaces(config) for name in pair}
        found: dict[str, Any] = {"text": passes.text.pooled} if "text" in needed else {}
        draws = passes.inputs.get("imp_draws")
        if draws is None or not passes.model.training or not (options.drop or options.audio_drop):
            video = passes.video
            if "audio" in needed:
                if video.audio is None:
                    raise ValueError(f"The objective {self.name!r} needs `audio_values`.")
                found["audio"] = video.audio.pooled
            return found | {"video": video.pooled}
        inputs = take_clip_inputs(dict(passes.inputs))
        sound, violet = take_named(inputs, SOUND), passes.violet
        generators = [torch.Generator().manual_seed(seed) for seed in draws.tolist()]
        pixels = {name: inputs[name] for name in violet.vision_encoder.inputs}
        first = next(iter(pixels.values()))
        cells = math.prod(violet.vision_encoder.grid(first.shape[1], *first.shape[3:]))
        kept = kept_in_order(generators, cells, options.drop).to(draws.device)
        found["video"] = violet.vision_model(**pixels, **({"kept": kept} if options.drop else {})).pooler_output
        if "audio" in needed:
            if sound.get("audio_values") is None:
                raise ValueError(f"The objective {self.name!r} needs `audio_values`.")
            patches = config.audio_config.num_states(sound["audio_values"].shape[1])
            kept = kept_in_order(generators, patches, options.audio_drop).to(draws.device)
            given = {"kept": kept} if options.audio_drop else {}
            found["audio"] = violet.audio_encoder.model(**sound, **given).pooler_output
        return found


def takes_kept(part: Any) -> bool:
    """Whether an encoder computes the tokens only that it is told."""
    return issubclass(part, nn.Module) and "kept" in inspect.signature(part.forward).parameters


def number_kept(drop: float, tokens: int) -> int:
    """How many of that many tokens are left when that share is dropped: the whole number below, at least 1."""
    return max(1, math.floor((1 - drop) * tokens + 1e-6))  # 0.1 · 100 is 9.999… in floating point


def kept_in_order(generators: Iterable[torch.Generator], tokens: int, drop: float) -> torch.Tensor:
    """(batch, K), of each row the tokens that are computed, drawn from the row's own generator, in their order."""
    count = number_kept(drop, tokens)
    drawn = [torch.randperm(tokens, generator=one)[:count].sort().values for one in generators]
    return torch.stack(drawn)

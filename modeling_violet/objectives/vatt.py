"""
Contrast of videos with their sound and with their words (`vatt`), before any fusion (Akbari et al., 2021, "VATT:
Transformers for Multimodal Self-Supervised Learning from Raw Video, Audio and Text", arXiv:2104.11178).
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...configuration.configuration_violet import VioletConfig
from ...core.clip_inputs import SOUND, take_clip_inputs, take_named
from ..contrastive_losses import asymmetric_contrast, gather_sets, symmetric_contrast_with_masks
from ..encoders.encoder import ENCODERS
from ..projection import PROJECTIONS
from ..sounds.sound_side import AUDIO_ENCODERS
from .embedding_forms import nearest_is_own
from .objective import Objective, Outcome
from .passes import Passes

FORMS = ("asymmetric", "symmetric")


@dataclass
class VattOptions:
    """
    Attributes:
        form: `asymmetric` (the published models'; its lowest value is ln 2) or `symmetric`.
        text_weight, audio_weight: of a video's texts and of its sound. Their mean, so weighted, is the loss.
        audio_text_weight: of a sound's texts. Only one space for all (`joint`) has such pairs.
        keep: the share of each clip's tokens, and of its sound's, that is computed in training (DropToken); 1 for all.
        texts: of each video; 1 is its caption. Of more, one at least is true: more are drawn from, fewer repeated.
        column: the rows' column with them, a list.
    """

    form: str = "asymmetric"
    text_weight: float = 1.0
    audio_weight: float = 1.0
    audio_text_weight: float = 0.0
    keep: float = 0.5
    texts: int = 1
    column: str = "captions"


class VattContrast(Objective):
    """Videos against sounds in one space and against texts in another; what is absent is masked."""

    Options = VattOptions
    rule = None
    requirement = "its name among the configuration's `objectives`, and an `audio_config`"
    needs = ("audio_values", "audio_attention_mask")
    takes = ("vatt_ids", "vatt_attention_mask", "vatt_text_mask", "vatt_draws")

    def check(self, config: VioletConfig) -> None:
        options, name = self.options, f"`objectives`: {self.name!r}"
        if config.audio_config is None:
            raise ValueError(f"{name} compares videos with their sound, and `audio_config` is None: give one.")
        kind = config.projection_type
        if config.projection_dim is None or not hasattr(PROJECTIONS.find(kind), "sound_vectors"):
            raise ValueError(
                f"{name} needs a space of videos and sounds: set `projection_dim`, and `projection_type` to "
                f"'fine_and_coarse' or 'joint'; it is {kind!r}."
            )
        if options.form not in FORMS:
            raise ValueError(f"{name}: the form {options.form!r} is unknown; known are {', '.join(FORMS)}.")
        weights = (options.text_weight, options.audio_weight, options.audio_text_weight)
        if min(weights) < 0 or not sum(weights):
            raise ValueError(f"{name}: weights must be 0 or more, and one above 0; got {weights}.")
        if options.audio_text_weight and kind != "joint":
            raise ValueError(
                f"{name}: `audio_text_weight` {options.audio_text_weight} needs a space of sounds and texts, which "
                f"the `projection_type` {kind!r} does not have: set it to 0, or use 'joint'."
            )
        if options.texts < 1:
            raise ValueError(f"{name}: `texts` must be 1 or more, got {options.texts}.")
        if not 0 < options.keep <= 1:
            raise ValueError(f"{name}: `keep` must lie above 0 and be at most 1, got {options.keep}.")
        for key, table in (("vision_config", ENCODERS), ("audio_config", AUDIO_ENCODERS)):
            type_of = getattr(config, key).model_type
            part: Any = table.find(type_of)
            drops = issubclass(part, nn.Module) and "kept" in inspect.signature(part.forward).parameters
            if options.keep < 1 and not drops:
                raise ValueError(
                    f"{name}: `keep` {options.keep} drops tokens (DropToken), and `{key}.model_type` {type_of!r} "
                    "computes all: set `keep` to 1, or use VATT's encoders."
                )

    def trained(self, model: Any) -> Iterable[nn.Parameter]:
        return model.violet.projection.parameters()

    def loss(self, passes: Passes) -> Outcome:
        projection = passes.violet.projection
        videos, sounds = self.pooled(passes)
        texts, real_texts = self.texts(passes)
        beside_sounds, beside_texts = projection.video_vectors(videos)
        found = gather_sets(
            {
                "beside_sounds": beside_sounds,
                "beside_texts": beside_texts,
                "sounds": projection.sound_vectors(sounds).unsqueeze(1),  # (batch, D) -> (batch, 1, D)
                "texts": projection.text_vectors(texts.flatten(0, 1)).unflatten(0, texts.shape[:2]),
                "heard": passes.inputs["audio_attention_mask"].bool().any(1).long(),
                "real_texts": real_texts,
            }
        )
        if passes.model.training and len(found["heard"]) < 2:
            raise ValueError(
                f"The objective {self.name!r} normalises over the rows of a batch, and this batch has one: give two "
                "or more."
            )
        losses = pair_losses(found, self.options, 1 / float(projection.scale()))
        total = sum(weight * loss for weight, loss in losses.values()) / sum(weight for weight, _ in losses.values())
        assert isinstance(total, torch.Tensor)
        right = nearest_is_own(
            nn.functional.normalize(found["beside_sounds"].detach(), dim=-1),
            nn.functional.normalize(found["sounds"].detach(), dim=-1),
            found["heard"].unsqueeze(1),
        )
        return Outcome(total, right, {"predictions": {self.name: {name: loss for name, (_, loss) in losses.items()}}})

    def pooled(self, passes: Passes) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The vectors of videos and of their sounds, (batch, width) each. With DropToken they come from passes of their
        own: other objectives of the step see whole clips.
        """
        draws = passes.inputs.get("vatt_draws")
        if self.options.keep == 1 or not passes.model.training or draws is None:
            video = passes.video
            assert video.pooled is not None and video.audio is not None and video.audio.pooled is not None
            return video.pooled, video.audio.pooled
        inputs = take_clip_inputs(dict(passes.inputs))
        sound, violet = take_named(inputs, SOUND), passes.violet
        pixels = {name: inputs[name] for name in violet.vision_encoder.inputs}
        first = next(iter(pixels.values()))
        cells = torch.Size(violet.vision_encoder.grid(first.shape[1], *first.shape[3:])).numel()
        patches = violet.config.audio_config.num_states(sound["audio_values"].shape[1])
        kept = kept_places(draws, (cells, patches), self.options.keep)
        video = violet.vision_model(**pixels, kept=kept[0])
        return video.pooler_output, violet.audio_encoder.model(**sound, kept=kept[1]).pooler_output

    def texts(self, passes: Passes) -> tuple[torch.Tensor, torch.Tensor]:
        """The vectors of the texts of each video, (batch, L, width), and (batch,), 1 where they are real."""
        ids, mask, real = (passes.inputs.get(name) for name in ("vatt_ids", "vatt_attention_mask", "vatt_text_mask"))
        if ids is None:
            vectors = passes.text.pooled
            assert vectors is not None
            texts = vectors.unsqueeze(1)
        else:
            assert mask is not None  # prepared with the ids
            encoded = passes.violet.encode_texts(ids.flatten(0, 1), mask.flatten(0, 1))
            assert encoded.pooled is not None  # the projection needs it
            texts = encoded.pooled.unflatten(0, ids.shape[:2])  # (batch * L, width) -> (batch, L, width)
        return texts, torch.ones(len(texts), dtype=torch.long, device=texts.device) if real is None else real


def pair_losses(
    found: Mapping[str, torch.Tensor], options: VattOptions, temperature: float
) -> dict[str, tuple[float, torch.Tensor]]:
    """Of each pair of modalities whose weight is above 0, that weight and the loss, over the rows of all processes."""
    one: Callable[..., torch.Tensor] = asymmetric_contrast if options.form == "asymmetric" else _symmetric
    pairs = {
        "video_text": (options.text_weight, found["beside_texts"], found["texts"], found["real_texts"]),
        "video_audio": (options.audio_weight, found["beside_sounds"], found["sounds"], found["heard"]),
    }
    if options.audio_text_weight:
        heard = found["heard"].bool()  # what has no sound is no negative
        both = found["sounds"][heard, 0], found["texts"][heard], found["real_texts"][heard]
        pairs["audio_text"] = (options.audio_text_weight, *both)
    return {
        name: (weight, one(first, second, mask, temperature))
        for name, (weight, first, second, mask) in pairs.items()
        if weight
    }


def _symmetric(videos: torch.Tensor, others: torch.Tensor, mask: torch.Tensor, temperature: float) -> torch.Tensor:
    return symmetric_contrast_with_masks(others, videos, mask, None, temperature)


def kept_places(draws: torch.Tensor, sizes: Iterable[int], keep: float) -> list[torch.Tensor]:
    """
    DropToken: of each row of each modality the places that are computed, drawn from the row's own generator.

    Args:
        draws: (batch,), a seed for each row.
        sizes: how many tokens a row of each modality has, N.
        keep: the share that is kept: K = int(keep * N), at least 1.

    Returns:
        For each modality (batch, K).
    """
    generators = [torch.Generator().manual_seed(seed) for seed in draws.tolist()]
    return [
        torch.stack([torch.randperm(size, generator=one)[: max(1, int(keep * size))] for one in generators]).to(
            draws.device
        )
        for size in sizes
    ]

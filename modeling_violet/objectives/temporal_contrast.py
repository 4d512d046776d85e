"""Contrast of a long video's clips with its paragraph's sentences (`temporal_contrast`), LF-VILA's MTC."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...configuration.configuration_violet import VioletConfig
from ..contrastive_losses import gather_sets
from ..contrastive_losses import temporal_contrast as temporal_contrast_loss
from ..projection import PROJECTIONS
from .objective import EmbeddingObjective, Outcome
from .passes import Passes


@dataclass
class TemporalContrastOptions:
    """
    Attributes:
        keys, candidates: places that are drawn of each video: what is asked about, and what is chosen from.
        negatives: other videos that each key is told apart from.
        corrected: no video is its own negative, and any tie for the nearest candidate drops the key; off as published.
    """

    keys: int = 2
    candidates: int = 2
    negatives: int = 3
    corrected: bool = True


class TemporalContrast(EmbeddingObjective):
    """
    Each drawn sentence is told apart from other videos' clips and, by time, from farther ones of its own video; and
    the reverse (Sun et al., 2022, arXiv:2210.06031, section 3.2). Published with the weight 0.25, beside `contrast`.
    """

    Options = TemporalContrastOptions
    requirement = "its name among the configuration's `objectives`, and a projection of clips and sentences"
    needs = ("temporal_noise", "temporal_video_ids")

    def __init__(self, name: str, config: VioletConfig):
        super().__init__(name, config)
        self.num_clips = getattr(config.vision_config, "num_clips", None)

    def check(self, config: VioletConfig) -> None:
        options, clips = self.options, self.num_clips
        if config.projection_dim is None or not hasattr(PROJECTIONS.find(config.projection_type), "clips"):
            raise ValueError(
                f"`objectives`: {self.name!r} compares clips with sentences, and `projection_type` "
                f"{config.projection_type!r} (`projection_dim` {config.projection_dim}) has neither: use "
                "'paragraph_and_clips'."
            )
        if not isinstance(clips, int) or clips < 2:
            raise ValueError(
                f"`objectives`: {self.name!r} needs several clips of a video; `vision_config.num_clips` is {clips}."
            )
        for field in ("keys", "candidates"):
            if not 1 <= getattr(options, field) <= clips:
                raise ValueError(
                    f"`objectives`: {self.name!r}: `{field}` {getattr(options, field)} must be from 1 to "
                    f"`vision_config.num_clips` {clips}."
                )
        if options.negatives < 0 or (options.candidates == 1 and not options.negatives):
            raise ValueError(
                f"`objectives`: {self.name!r}: `candidates` {options.candidates} and `negatives` {options.negatives} "
                "leave nothing to choose from."
            )

    def trained(self, model: Any) -> list[nn.Parameter]:
        projection = model.violet.projection
        layers = (projection.clip_projection, projection.sentence_projection)
        return [parameter for layer in layers for parameter in layer.parameters()]

    def embed(self, passes: Passes) -> dict[str, torch.Tensor]:
        projection = passes.violet.projection
        clips, sentences = projection.clips(passes.video), projection.sentences(passes.text)
        if sentences.shape[1] > clips.shape[1]:
            raise ValueError(
                f"A paragraph has {sentences.shape[1]} sentences for {clips.shape[1]} clips "
                "(`vision_config.num_clips`): the processor's `max_sentences` joins the shortest neighbours."
            )
        missing = clips.shape[1] - sentences.shape[1]
        return {"clips": clips, "sentences": nn.functional.pad(sentences, (0, 0, 0, missing))}  # (B, M, D) both

    def compare(self, sets: Mapping[str, torch.Tensor], passes: Passes) -> Outcome:
        options, clips = self.options, sets["clips"].shape[1]
        real = passes.violet.text_embeddings.split(passes.attention_mask).any(-1)  # (B, M')
        # (B, 3, steps) -> (B, 3, M), each row a permutation of its places
        places = passes.inputs["temporal_noise"][..., :clips].argsort(-1)
        given = {
            "keys": places[:, 0, : options.keys],
            "candidates": places[:, 1, : options.candidates],
            "negatives": places[:, 2, 0],
            "sentence_mask": nn.functional.pad(real.long(), (0, clips - real.shape[1])),
            "video_ids": passes.inputs["temporal_video_ids"],
        }
        loss = temporal_contrast_loss(
            **gather_sets(sets),
            **gather_sets(given),
            scale=passes.violet.projection.scale(),
            num_negatives=options.negatives,
            corrected=options.corrected,
        )
        return Outcome(loss)

"""Video-text contrast (`vtc`): embeddings before the fusion, over the videos and texts of all processes."""

from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import nn

from ...configuration.configuration_violet import VioletConfig
from .objective import EmbeddingObjective, Outcome
from .passes import Passes


class Contrast(EmbeddingObjective):
    """Tells each video's unmasked text from the others' and from texts that are true of no video, and the reverse."""

    requirement = "the configuration's `projection_dim`"
    takes = ("wrong_ids", "wrong_attention_mask")

    @classmethod
    def of(cls, name: str, config: VioletConfig) -> Iterator[Self]:
        if config.projection_dim is not None:
            yield cls(name, config)

    def trained(self, model: Any) -> Iterator[nn.Parameter]:
        return model.violet.projection.parameters()

    def embed(self, passes: Passes) -> dict[str, torch.Tensor]:
        videos, texts = passes.embeddings
        wrong = passes.inputs["wrong_ids"]
        if wrong is None:
            return {"videos": videos, "texts": texts}
        others = passes.violet.embed_texts(wrong, passes.inputs["wrong_attention_mask"])
        return {"videos": videos, "texts": texts, "wrong": others}

    def compare(self, sets: Mapping[str, torch.Tensor], passes: Passes) -> Outcome:
        videos, texts, others = sets["videos"], sets["texts"], sets.get("wrong")
        loss, accuracy = passes.violet.contrast(videos, texts, passes.words, gather=True, others=others)
        return Outcome(loss, accuracy)

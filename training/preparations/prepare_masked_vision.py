"""MVM targets that were computed in advance; those of the others are asked of their teachers, beside the model."""

from typing import Any

import torch

from .preparation import Samples


def prepare_stored_targets(samples: Samples, options: None = None) -> dict[str, Any]:
    """`mvm_targets`: by target, what is stored for each row and the frames that were taken, (batch, frames, …)."""
    read = list(zip(samples.names, samples.frame_indices, strict=True))
    stored = samples.stored_targets.items()
    return {"mvm_targets": {target: torch.stack([one.read(*where) for where in read]) for target, one in stored}}

"""What the contrast of every pair of modalities (`imp`) needs beside clips and captions."""

from typing import Any

import torch

from .preparation import Samples


def prepare_imp(samples: Samples, options: Any) -> dict[str, Any]:
    """`imp_draws` (batch,), a seed for each row, by which its tokens are dropped."""
    draws = [int(torch.randint(2**62, (), generator=one)) for one in samples.generators("imp")]
    return {"imp_draws": torch.tensor(draws)}

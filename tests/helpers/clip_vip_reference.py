"""The instance of CLIP-ViP that the reference was run with, and what it gave (../shared/goldens/clip_vip.md)."""

import importlib.util
import json
import zlib
from pathlib import Path

import numpy as np
import torch

PREFIX = "clipmodel."
VISION = {
    "hidden_size": 384,
    "intermediate_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "image_size": 96,
    "patch_size": 16,
    "temporal_size": 6,
}
TEXT = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "max_position_embeddings": 24,
    "eos_token_id": 999,
}
SEED, BATCH, FRAMES, SIDE, WORDS = 2100, 2, 6, 96, 16
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def drawn(name: str, shape: list[int]) -> torch.Tensor:
    """A weight by its name, see ../shared/goldens/README.md; the scale and the counters are what they are."""
    if name.endswith("logit_scale"):
        return torch.tensor(4.60)
    if name.endswith("position_ids"):
        return torch.arange(shape[-1])[None]
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return torch.from_numpy(1 + 0.1 * x if name.endswith("weight") else 0.02 * x)
    return torch.from_numpy(0.03 * x)


class ClipVipReference:
    """
    Attributes:
        weights: by the original's names.
        archive: what the original gave, by name.
    """

    def __init__(self, shared: Path):
        self.goldens = shared / "goldens"
        spec = importlib.util.spec_from_file_location("golden_inputs", self.goldens / "inputs.py")
        self.inputs = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.inputs)
        self.archive = dict(np.load(self.goldens / "clip_vip_public.npz"))
        self.weights = {name: drawn(name, shape) for name, shape in self.read_keys("clip_vip_keys.json").items()}

    def read_keys(self, name: str) -> dict[str, list[int]]:
        return json.loads((self.goldens / name).read_text())

    def part(self, start: str) -> dict[str, torch.Tensor]:
        """The weights whose names begin so, without it, and without counters."""
        return {
            name.removeprefix(PREFIX + start): value
            for name, value in self.weights.items()
            if name.startswith(PREFIX + start) and not name.endswith("position_ids")
        }

    def clip(self, seed: int = SEED, frames: int = FRAMES) -> torch.Tensor:
        return (self.inputs.clip(seed, BATCH, frames, SIDE, SIDE) - MEAN) / STD

    @staticmethod
    def text(seed: int, vocab: int = TEXT["vocab_size"]) -> tuple[torch.Tensor, torch.Tensor]:
        generator = np.random.default_rng(seed)
        ids = generator.integers(1, vocab - 2, (BATCH, WORDS))
        ids[:, 0] = vocab - 2
        mask = np.ones_like(ids)
        for row in range(BATCH):
            length = int(generator.integers(max(4, WORDS // 3), WORDS + 1)) if row else WORDS
            ids[row, length - 1 :] = vocab - 1
            mask[row, length:] = 0
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def difference(self, name: str, got: torch.Tensor) -> float:
        """The largest difference from what the original gave, of the part of a large array that the archive keeps."""
        expected = self.archive[name]
        got = got.detach()
        if got.dim() == 3:
            got = got[:, ::7, ::16] if got.shape[1] > 30 else got[:, :, ::16] if got.shape != expected.shape else got
        assert expected.shape == tuple(got.shape), name
        assert expected.std() > 1e-3, "a constant array would agree with anything"
        return float(np.abs(got.numpy() - expected).max())

"""The outputs of LF-VILA's own code (../shared/goldens/lf_vila.md): its weights by formula, inputs, and comparison."""

import importlib.util
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from violet.modeling_violet.encoders.temporal_windows import LfVilaVisionConfig
from violet.modeling_violet.encoders.video_swin import relative_position_index

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
TOLERANCE = 5e-6


def drawn(name: str, shape: list[int]) -> torch.Tensor:
    """A weight by its original name."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) < 2:
        x = 1 + 0.1 * x if name.endswith("weight") else 0.02 * x
    else:
        x = x / np.sqrt(np.prod(shape[1:])).astype(np.float32)
    return torch.from_numpy(x.astype(np.float32))


class LfVila:
    """The archive: `configs` of its instances, inputs, and `difference` from its arrays."""

    def __init__(self, shared_folder: Path):
        self.folder = shared_folder / "goldens"
        spec = importlib.util.spec_from_file_location("golden_inputs", self.folder / "inputs.py")
        self.inputs = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.inputs)
        self.archive = dict(np.load(self.folder / "lf_vila_public.npz"))
        self.configs = json.loads(str(self.archive["configs"]))
        self.arrays = json.loads(str(self.archive["arrays"]))
        self.keys = json.loads((self.folder / "lf_vila_keys.json").read_text())

    def weights(self, keys: dict[str, list[int]], windows: list[list[int]] | None = None) -> dict[str, torch.Tensor]:
        """A state dict under the original's names; the bias of the masked-word head is one tensor with two names."""
        values: dict[str, torch.Tensor] = {}
        for name, shape in keys.items():
            if name.endswith("relative_position_index"):
                stage = int(name.split(".")[-5])
                values[name] = relative_position_index(tuple(windows[stage]))
            elif name.endswith("position_ids"):
                values[name] = torch.arange(shape[1])[None]
            elif name.endswith("cls.predictions.bias"):
                values[name] = drawn(name.replace("predictions.bias", "predictions.decoder.bias"), shape)
            else:
                values[name] = drawn(name, shape)
        return values

    def vision_config(self, instance: str, **changes: Any) -> LfVilaVisionConfig:
        c = self.configs[instance]
        return LfVilaVisionConfig(
            **{
                "embed_dim": c["embed"],
                "depths": c["depths"],
                "num_heads": c["heads"],
                "window_sizes": c["windows"],
                "merge_after": c["merge_after"],
                "num_clips": c["clips"],
                **changes,
            }
        )

    def clip(self, instance: str) -> torch.Tensor:
        c = self.configs[instance]
        shown = self.inputs.clip(c["seed"], c["batch"], c["time"], c["height"], c["width"])
        return (torch.as_tensor(shown) - MEAN) / STD

    def paragraph(
        self, instance: str, seed: int | None = None, rows: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (B, M, L)."""
        c = self.configs[instance]
        sentences, (b, m, length) = c.get("sentences"), (rows or c["batch"], c["clips"], c["length"])
        g = np.random.default_rng(c["seed"] + 1 if seed is None else seed)
        ids = g.integers(200, c["vocab"], (b, m, length))
        mask = np.ones_like(ids)
        for i in range(b):
            for j in range(m):
                n = int(g.integers(max(4, length // 3), length + 1))
                ids[i, j, 0], ids[i, j, n - 1] = 101, 102
                ids[i, j, n:], mask[i, j, n:] = 0, 0
                if sentences is not None and j >= sentences[i]:
                    ids[i, j], mask[i, j] = 0, 0
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def masked_words(self, instance: str, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The input of the masked-word objective, and its labels (B, M, L)."""
        drawn_at = np.random.default_rng(self.configs[instance]["seed"] + 3).random(tuple(ids.shape))
        chosen = (torch.from_numpy(drawn_at) < 0.3) & (ids > 199)
        return ids.masked_fill(chosen, 103), ids.masked_fill(~chosen, -100)

    def options(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (B, options, M * L) of the instance `tasks`."""
        c = self.configs["tasks"]
        ids, mask = self.paragraph("tasks", c["seed"] + 5, c["batch"] * c["choices"])
        shape = (c["batch"], c["choices"])
        return ids.unflatten(0, shape).flatten(2), mask.unflatten(0, shape).flatten(2)

    def difference(self, name: str, got: torch.Tensor) -> float:
        """The largest difference from an array of the archive, which keeps every n-th number of it."""
        shape, step = self.arrays[name]
        assert list(got.shape) == shape, f"{name} has shape {list(got.shape)}, not {shape}"
        expected = self.archive[name]
        assert expected.size < 2 or expected.std() > 100 * TOLERANCE, "a constant array would agree with anything"
        return float(np.abs(got.detach().numpy().reshape(-1)[::step] - expected).max())

    def expect(self, name: str, got: torch.Tensor, tolerance: float = TOLERANCE) -> None:
        difference = self.difference(name, got)
        assert difference <= tolerance, f"{name} differs by {difference}"

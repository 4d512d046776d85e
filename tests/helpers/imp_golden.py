"""The instance of IMP whose outputs are in the goldens, with our names for its weights."""

import json
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from violet.configuration import VioletConfig
from violet.modeling_violet import VioletModel

GOLDENS = Path(__file__).parents[2].parent / "shared" / "goldens"
EXPERTS = {"number": 4, "layers": 2, "groups": "batch", "group_size": 40, "as_published": True}
SIZES: dict[str, Any] = {"backbone_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "hidden_size": 40, "qk_norm": True}


def imp_config(experts: dict[str, Any] | None = None, **changes: Any) -> VioletConfig:
    """The goldens' instance, without a fusion; `experts` are changes of its own, or None for none."""
    sizes = {**SIZES, "experts": experts}
    fields = {
        "vision_config": {"model_type": "imp", **sizes, "patch_size": [2, 4, 4], "position_grid": [4, 8, 8]},
        "audio_config": {
            **{"model_type": "imp_audio", **sizes, "patch_size": [4, 4], "position_grid": [6, 8]},
            **{"num_mel_bins": 16, "sampling_rate": 1000, "num_samples": 120, "hop_length": 10, "window_length": 80},
        },
        "text_config": {"model_type": "imp_text", **sizes, "max_words": 16},
        "fusion_model_config": {"model_type": "none"},
        "vision_positions": "none",
        "vocab_size": 50,
        **{"bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3},
        "hidden_size": 32,
        "num_attention_heads": 4,
        "projection_dim": 24,
        "projection_type": "disjoint",
        "hidden_frame_order": False,
    }
    return VioletConfig(**{**fields, **changes})


def formula(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The goldens' weight of that name."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    last = name.rpartition("/")[2]
    if last == "scale":
        x = 1 + 0.1 * x
    elif last == "bias":
        x = 0.1 * x
    elif last == "embedding":
        x = 0.5 * x
    elif last == "kernel":
        fan_in = shape[1] if "/experts/" in name else shape[0] * shape[1] if "/o/" in name else shape[0]
        x = 1.4 * x / np.sqrt(fan_in)
    else:
        x = np.ones(shape)
    return torch.from_numpy(np.asarray(x, np.float32))


class ImpGoldens:
    """The archive, its inputs by formula, and the instance."""

    @cached_property
    def arrays(self):
        return np.load(GOLDENS / "imp_public.npz")

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(shape) for name, shape in json.loads((GOLDENS / "imp_keys.json").read_text()).items()}

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        return {name: formula(name, shape) for name, shape in self.shapes.items()}

    @cached_property
    def model(self) -> VioletModel:
        return self.build()

    @cached_property
    def by_sample(self) -> VioletModel:
        """The same weights, one group a sample; padding takes places still, as in the archive."""
        return self.build(groups="sample")

    def build(self, **changes: Any) -> VioletModel:
        """The instance, with other experts; the goldens' weights by the original's names."""
        from violet.hub.layout_imp import IMP

        model = VioletModel(imp_config({**EXPERTS, **changes}))
        state = {}
        for ours, value in model.state_dict().items():
            theirs = IMP.their_name(ours)
            assert theirs is not None, ours
            state[ours] = IMP.form(theirs).ours(self.weights[theirs], tuple(value.shape))
        model.load_state_dict(state)
        return model.eval()

    @cached_property
    def inputs(self) -> dict[str, torch.Tensor]:
        """`pixels`, `spectrogram`, `ids`, `mask`, and `small`, the pixels of low resolution."""

        def clip(seed: int, *size: int) -> torch.Tensor:
            return torch.from_numpy(2 * np.random.default_rng(seed).random((6, *size), dtype=np.float32) - 1)

        words = np.random.default_rng(3726)
        ids = words.integers(1, 50, (6, 10))
        for row in range(6):
            ids[row, 10 if row == 0 else int(words.integers(1, 11)) :] = 0
        spectrogram = np.random.default_rng(3725).random((6, 12, 16, 1), dtype=np.float32)[..., 0]
        return {
            "pixels": clip(3724, 4, 3, 16, 16),
            "spectrogram": torch.from_numpy(spectrogram),
            "ids": torch.from_numpy(ids),
            "mask": torch.from_numpy((ids != 0).astype(np.int64)),
            "small": clip(3730, 4, 3, 8, 8),
        }

    def get(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.arrays[name]))

"""The instance of VATT whose outputs are in the goldens, with our names for its weights."""

import json
import zlib
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from violet.configuration import VioletConfig
from violet.modeling_violet import VioletModel

GOLDENS = Path(__file__).parents[2].parent / "shared" / "goldens"
SIZES = {
    "backbone_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "head_dim": 12,
    "intermediate_size": 96,
}
SIZES |= {"hidden_size": 40, "dropout": 0.0}
EQUAL = {"t": 6, "h": 32, "w": 32, "n": 160, "x": 6}
OTHER = {"t": 10, "h": 40, "w": 24, "n": 117, "x": 9}


def vatt_config(**changes) -> VioletConfig:
    """The goldens' instance, without a fusion."""
    fields = {
        "vision_config": {"model_type": "vatt", **SIZES, "patch_size": [2, 8, 8], "position_grid": [3, 4, 4]},
        "audio_config": {
            **{"model_type": "vatt_audio", **SIZES, "patch_size": 16, "num_samples": 160, "sampling_rate": 800},
            "projection_dim": 32,
        },
        "text_config": {"model_type": "vatt_text", **SIZES, "word_size": 20, "max_words": 6, "interpolate": True},
        "fusion_model_config": {"model_type": "none"},
        "vision_positions": "none",
        "vocab_size": 64,
        "hidden_size": 48,
        "num_attention_heads": 4,
        "projection_dim": 24,
        "projection_type": "fine_and_coarse",
        "hidden_frame_order": False,
    }
    return VioletConfig(**{**fields, **changes})


def formula(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The goldens' weight of that name."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    last = name.rpartition("/")[2]
    if last == "gamma":
        x = 1 + 0.1 * x
    elif last in ("beta", "bias", "moving_mean"):
        x = 0.1 * x
    elif last == "moving_variance":
        x = 0.5 + 0.5 * x**2
    elif last == "kernel":
        x = 1.4 * x / np.sqrt(np.prod(shape[:-1]))
    else:
        x = 0.5 * x
    return torch.from_numpy(np.asarray(x, np.float32))


class VattGoldens:
    """The archive, its inputs by formula, and the instance."""

    @cached_property
    def arrays(self):
        return np.load(GOLDENS / "vatt_public.npz")

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        keys = json.loads((GOLDENS / "vatt_keys.json").read_text())
        return {name: formula(name, tuple(shape)) for name, shape in keys.items()}

    @cached_property
    def model(self) -> VioletModel:
        return self.build()

    def build(self, **changes) -> VioletModel:
        """The instance, or one that differs from it, with the goldens' weights by the original's names."""
        from violet.hub.layout_vatt import VATT

        model = VioletModel(vatt_config(**changes))
        state = {}
        for ours, value in model.state_dict().items():
            theirs = VATT.their_name(ours)
            assert theirs is not None, ours
            form = VATT.form(theirs)
            state[ours] = form.ours(formula(theirs, tuple(form.theirs(tuple(value.shape), ()))), tuple(value.shape))
        model.load_state_dict(state)
        return model.eval()

    def inputs(self, size: dict[str, int], seed: int = 3300, videos: int = 3) -> dict[str, torch.Tensor]:
        shape = (videos, size["t"], 3, size["h"], size["w"])
        clip = np.random.default_rng(seed).random(shape, dtype=np.float32)
        sound = np.random.default_rng(seed + 1).uniform(-1, 1, (videos, size["n"])).astype(np.float32)
        words = np.random.default_rng(seed + 2)
        ids = words.integers(1, 64, (2 * videos, size["x"]))
        for row in range(len(ids)):
            length = {0: size["x"], 1: 0}.get(row)
            length = int(words.integers(1, size["x"] + 1)) if length is None else length
            ids[row, length:] = 0
        return {
            "pixel_values_videos": torch.from_numpy(2 * clip - 1),
            "audio_values": torch.from_numpy(sound),
            "input_ids": torch.from_numpy(ids),
        }

    def get(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.arrays[name]))

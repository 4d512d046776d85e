"""HD-VILA's reference outputs: how the archive lies, and the weights and inputs that it was made with."""

import importlib.util
import json
import re
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch

from violet.modeling_violet.encoders.two_resolutions import HdVilaVisionConfig, HdVilaVisionModel

MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "goldens"

VIDEO_NAMES = (
    (r"^sharp\.", "cnn."),
    (r"^small\.", "cnn_low."),
    (r"^sharp_projection\.", "grid_encoder.0."),
    (r"^small_projection\.", "grid_encoder_low.0."),
    (r"^join\.", "grid_encoder_combine.0."),
    (r"\.position_embeddings$", ".pos_embed"),
    (r"\.time_embeddings$", ".time_embed"),
    (r"\.temporal_norm\.", ".temporal_norm1."),
    (r"\.temporal_attention\.", ".temporal_attn."),
    (r"\.attention\.", ".attn."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.2\.", ".mlp.fc2."),
)
"""Written down again here: `hub/layouts.py` is tested by it."""


def value(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight of the original's name, by the formula."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.long)
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith(("pos_embed", "time_embed")):
        x = 0.3 * x
    elif len(shape) < 2:
        x = 1 + 0.1 * x if name.endswith(("weight", "running_var")) else 0.02 * x
    else:
        x = x / np.sqrt(np.prod(shape[1:])).astype(np.float32)
    return torch.from_numpy(np.asarray(x, np.float32))


def fill(module: torch.nn.Module, names: tuple[tuple[str, str], ...], prefix: str = "") -> None:
    """Sets every weight of a module by its original name."""
    state = {}
    for ours, tensor in module.state_dict().items():
        name = ours
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        state[ours] = value(prefix + name, tuple(tensor.shape))
    module.load_state_dict(state)


@cache
def archive() -> tuple[dict, dict, dict]:
    """(arrays, by name (full shape, step), by instance its sizes)"""
    stored = dict(np.load(SHARED / "hd_vila_public.npz"))
    return stored, json.loads(str(stored["arrays"])), json.loads(str(stored["configs"]))


@cache
def inputs_module():
    spec = importlib.util.spec_from_file_location("golden_inputs", SHARED / "inputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - MEAN) / STD


def expect(name: str, got: torch.Tensor, tolerance: float = 5e-6) -> float:
    """Compares with the archive's array of that name; the largest difference."""
    stored, arrays, _ = archive()
    shape, step = arrays[name]
    assert list(got.shape) == shape, f"{name}: {tuple(got.shape)}, expected {shape}"
    expected = stored[name]
    assert expected.size == 1 or expected.std() > 1e-3, "a constant array would agree with anything"
    got = got.detach().double().numpy().reshape(-1)[::step]
    expected = expected.astype(float).reshape(-1)
    difference = np.abs(got - expected)
    bound = tolerance + 2.0**-23 * np.abs(expected)  # one step of float32: convolutions of another CPU sum otherwise
    assert (difference <= bound).all(), f"{name}: largest difference {difference.max():.2e}"
    return float(difference.max())


def config(case: str, **fields) -> HdVilaVisionConfig:
    """The vision configuration of an instance."""
    own = archive()[2][case]
    return HdVilaVisionConfig(
        **{
            "hidden_size": own["width"],
            "num_hidden_layers": own["time_layers"],
            "num_attention_heads": own["time_heads"],
            "resnet_width": own["base_channels"],
            "num_clips": own["clips"],
            "interpolate": case != "hybrid",
        }
        | fields
    )


def pixels(case: str) -> dict[str, torch.Tensor]:
    """
    What the instance was run with: `detail` (B, N, 3, H, W), `others` (B, N, T - 1, 3, H / 4, W / 4) and `middle`
    (B, N, 1, 3, H / 4, W / 4), normalised.
    """
    own, clip = archive()[2][case], inputs_module().clip
    seed, rows, clips, frames = own["seed"], own["batch"], own["clips"], own["time"]
    height, width = own["height"], own["width_px"]
    detail = clip(seed, rows, clips, height, width)
    others = clip(seed + 1, rows * clips, frames - 1, height // 4, width // 4)
    middle = clip(seed + 5, rows * clips, 1, height // 4, width // 4)
    return {
        "detail": normalised(255 * detail),
        "others": normalised(255 * others).unflatten(0, (rows, clips)),
        "middle": normalised(255 * middle).unflatten(0, (rows, clips)),
    }


def model_inputs(case: str, resolutions: str = "both") -> dict[str, torch.Tensor]:
    """The same as the model takes it: `pixel_values_videos` (B, N * T, …) and `pixel_values_detail`."""
    made = pixels(case)
    half = archive()[2][case]["time"] // 2
    frames = torch.cat([made["others"][:, :, :half], made["middle"], made["others"][:, :, half:]], dim=2)
    given = {}
    if resolutions != "sharp":
        given["pixel_values_videos"] = frames.flatten(1, 2)
    if resolutions != "small":
        given["pixel_values_detail"] = made["detail"]
    return given


def encoder(case: str, **fields) -> HdVilaVisionModel:
    """The encoder of an instance, filled."""
    model = HdVilaVisionModel(config(case, **fields)).eval()
    fill(model, VIDEO_NAMES)
    return model

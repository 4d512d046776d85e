"""The state of a run beside its weights, as safetensors and JSON: the optimiser, and each process's generators."""

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from ..core.files import write_json, write_tensors

OPTIMIZER_FILE = "optimizer.safetensors"
OPTIMIZER_SETTINGS_FILE = "optimizer.json"


def save_optimizer(folder: Path, state: Mapping[str, Any], scaler: Mapping[str, Any] | None = None) -> None:
    """
    Writes an optimiser's `state_dict()`: its tensors, and its settings beside them.

    Args:
        scaler: the `state_dict()` of the gradients' scaler (fp16), if there is one.
    """
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, Any] = {}
    for number, of_parameter in state["state"].items():
        for name, value in of_parameter.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}.{name}"] = value.detach().cpu().contiguous()
            else:
                values[f"{number}.{name}"] = value
    write_tensors(folder / OPTIMIZER_FILE, tensors)
    settings = {
        "param_groups": state["param_groups"],
        "state": values,
        "scaler": None if scaler is None else dict(scaler),
    }
    write_json(folder / OPTIMIZER_SETTINGS_FILE, settings)


def load_optimizer(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What `save_optimizer` was given: (the optimiser's state, the scaler's or None)."""
    settings = json.loads((folder / OPTIMIZER_SETTINGS_FILE).read_text())
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**load_file(folder / OPTIMIZER_FILE), **settings["state"]}.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    return {"state": state, "param_groups": settings["param_groups"]}, settings["scaler"]


def process_file(rank: int) -> str:
    """The name of the file with one process's own state."""
    return f"process_{rank}.json"


def to_hex(values: Mapping[str, Iterable[Any]]) -> dict[str, list[str]]:
    """Lists of numbers to the bit, in JSON's types (which have no NaN)."""
    return {name: [float(value).hex() for value in listed] for name, listed in values.items()}


def from_hex(texts: Mapping[str, Iterable[str]], device: Any = None) -> dict[str, list[torch.Tensor]]:
    """What `to_hex` was given, as tensors ()."""
    return {
        name: [torch.tensor(float.fromhex(one), device=device) for one in listed] for name, listed in texts.items()
    }


def generators() -> dict[str, Any]:
    """The states of this process's global generators, which dropout draws from, in JSON's types."""
    version, integers, gauss = random.getstate()
    state: Any = np.random.get_state()  # noqa: NPY002
    kind, keys, *rest = state
    found = {
        "python": [version, list(integers), gauss],
        "numpy": [kind, keys.tolist(), *rest],
        "torch": _text(torch.get_rng_state()),
    }
    if torch.cuda.is_available():
        found["cuda"] = [_text(state) for state in torch.cuda.get_rng_state_all()]
    return found


def set_generators(states: Mapping[str, Any]) -> None:
    """Sets this process's global generators to what `generators` returned."""
    version, integers, gauss = states["python"]
    random.setstate((version, tuple(integers), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(_bytes(states["torch"]))
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([_bytes(state) for state in states["cuda"]])


def _text(state: torch.Tensor) -> str:
    return bytes(state.tolist()).hex()


def _bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)

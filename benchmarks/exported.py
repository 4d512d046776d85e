"""The path of `violet speed` that compares a model with its compiled and exported forms."""

import importlib.util
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from ..modeling_violet import VioletModel
from .judged_paths import BASE, FRAMES, SIDE, config_of
from .measuring import Case, Setting

SIZES: dict[str, tuple[int, int, int]] = {"violet-tiny": (8, 4, 64), BASE: (2, FRAMES, SIDE)}
"""Clips, frames and pixels a side."""


def export(setting: Setting) -> Iterator[Case]:
    """Embeddings of videos: eager, compiled, as a torch.export program and as ONNX (CPU only)"""
    from ..hub.exporting import OPENERS, PARTS, export_part
    from ..pipelines.compiling import compile_parts
    from ..processing import VioletVideoProcessor

    part = "video_embedding"
    for name in ("violet-tiny",) if setting.quick else SIZES:
        clips, frames, side = SIZES[name]
        config = config_of(name, projection_dim=128)
        model = VioletModel(config).eval()
        pixels = torch.randn(clips, frames, 3, side, side)
        videos = VioletVideoProcessor(size={"height": side, "width": side}, num_frames=frames)
        processor = SimpleNamespace(video_processor=videos)
        onnx = importlib.util.find_spec("onnxruntime") and not setting.quick
        forms = ["pt2", *(["onnx"] if onnx else [])]
        folder = setting.folder / name
        folder.mkdir()
        made = export_part(model, part, processor, forms, folder)
        graph = PARTS[part].graph(model).eval()
        given = {"pixel_values_videos": pixels}
        eager = torch.no_grad()(lambda graph=graph, given=given: graph(**given))
        yield Case(f"{name}, eager", eager, clips, "clips")
        for form in forms:
            runs: Any = OPENERS[form](folder / made["files"][form], PARTS[part].output)
            run = torch.no_grad()(lambda runs=runs, given=given: runs(given))
            numbers = {"largest_difference": made["largest_difference"][form]}
            yield Case(f"{name}, {form}", run, clips, "clips", eager, "eager", counted=False, numbers=numbers)
        other = VioletModel(config).eval()
        other.load_state_dict(model.state_dict())
        compile_parts(other)
        compiled = PARTS[part].graph(other).eval()
        run = torch.no_grad()(lambda compiled=compiled, given=given: compiled(**given))
        apart = (run() - eager()).abs().max().item()
        numbers = {"largest_difference": apart}
        yield Case(f"{name}, compiled", run, clips, "clips", eager, "eager", counted=False, numbers=numbers)

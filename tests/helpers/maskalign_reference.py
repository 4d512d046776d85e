"""The instance of MaskAlign that the reference was run with, and what it gave (../shared/goldens/maskalign.md)."""

import importlib.util
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, ViTConfig, ViTModel

STUDENT: dict[str, Any] = {"hidden_size": 256, "num_hidden_layers": 12, "num_attention_heads": 4, "image_size": 80}
TEACHER: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 80,
    "patch_size": 16,
}
SEED, BATCH, SIDE = 3100, 2, 80
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
STUDENT_NAMES = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.patch_embedding.", "patch_embed.proj."),
)
DINO_NAMES = (
    ("layers.", "encoder.layer."),
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
    ("embeddings.patch_embeddings.", "embeddings.patch_embeddings."),
)


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight by its name, see ../shared/goldens/README.md."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return torch.from_numpy(1 + 0.1 * x if name.endswith("weight") else 0.02 * x)
    return torch.from_numpy(0.03 * x)


def fill(module: torch.nn.Module, name_of: Any) -> None:
    """Fills a module's parameters by the original's name of each, in the original's shape."""
    with torch.no_grad():
        for ours, parameter in module.named_parameters():
            theirs, shape = name_of(ours), tuple(parameter.shape)
            if theirs == "cls_token":
                shape = (1, 1, *shape)
            parameter.copy_(drawn(theirs, shape).view(parameter.shape))


def renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    for ours, theirs in names:
        name = name.replace(ours, theirs)
    return name


class MaskAlignReference:
    """
    Attributes:
        archive: what the original gave, by name.
    """

    def __init__(self, shared: Path):
        self.goldens = shared / "goldens"
        spec = importlib.util.spec_from_file_location("golden_inputs", self.goldens / "inputs.py")
        self.inputs = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.inputs)
        self.archive = dict(np.load(self.goldens / "maskalign_public.npz"))

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.archive[name]))

    def read_keys(self, name: str) -> dict[str, list[int]]:
        return json.loads((self.goldens / name).read_text())

    def pictures(self, seed: int = SEED, batch: int = BATCH, side: int = SIDE) -> torch.Tensor:
        """(batch, 1, 3, side, side), with ImageNet's mean and deviation."""
        return (self.inputs.clip(seed, batch, 1, side, side) - MEAN) / STD

    def student(self, **changes: Any) -> Any:
        from violet.modeling_violet.encoders.maskalign_vit import MaskAlignVisionConfig, MaskAlignVisionModel

        model = MaskAlignVisionModel(MaskAlignVisionConfig(**{**STUDENT, **changes})).eval()
        fill(model, lambda name: renamed(name, STUDENT_NAMES))
        return model

    def clip(self, **changes: Any) -> CLIPVisionModel:
        network = CLIPVisionModel(CLIPVisionConfig(**{**TEACHER, **changes})).eval()
        fill(network, lambda name: f"clip_model.vision_model.{name}")
        return network

    def dino(self) -> ViTModel:
        network = ViTModel(ViTConfig(**TEACHER, layer_norm_eps=1e-12), add_pooling_layer=False).eval()
        fill(network, lambda name: f"dino_model.{renamed(name, DINO_NAMES)}")
        return network

    def difference(self, name: str, got: torch.Tensor, thinned: bool = False) -> float:
        """The largest difference from what the original gave; `thinned`: of the part that the archive keeps."""
        expected = self.archive[name]
        if thinned:
            got = got[:, ::3, ::16]
        assert expected.shape == tuple(got.shape), (name, expected.shape, tuple(got.shape))
        return float(np.abs(got.detach().numpy() - expected).max())

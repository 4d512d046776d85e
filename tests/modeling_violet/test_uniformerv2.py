"""UniFormerV2 against outputs of its published code (../shared/goldens/uniformerv2.md), and what it must not do."""

import importlib.util
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel, CLIPVisionConfig, CLIPVisionModel

from violet.core.upstream import checkpoint_activations
from violet.hub.layouts import CLIP_AS_UNIFORMERV2, UNIFORMERV2
from violet.modeling_violet.encoders.uniformerv2 import UniFormerV2Config, UniFormerV2Model

INSTANCES = ("temporal", "single", "scene", "frozen")
FROM_CLIP = ("clip_scene", "clip_temporal", "clip_frozen")
BACKBONE = "video_encoder.backbone."


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weight of that original name, by the goldens' formula."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 0:
        return torch.tensor(0)
    if len(shape) > 1:
        x = x / np.float32(np.sqrt(np.prod(shape[1:])))
    elif name.endswith(("weight", "running_var")):
        x = 1 + np.float32(0.1) * x
    elif not name.endswith("balance"):
        x = np.float32(0.02) * x
    return torch.from_numpy(np.asarray(x, np.float32))


class Classifier(nn.Module):
    """The encoder and the published head."""

    def __init__(self, config: UniFormerV2Config, classes: int):
        super().__init__()
        self.backbone = UniFormerV2Model(config)
        width = config.hidden_size
        self.classifier = nn.Sequential(nn.LayerNorm(width), nn.Dropout(0.0), nn.Linear(width, classes))

    def forward(self, pixels: torch.Tensor):
        output = self.backbone(pixels)
        return output, self.classifier(output.pooler_output)

    def name(self, name: str) -> str:
        """A parameter's name in the table of layouts."""
        return name if name.startswith("classifier.") else BACKBONE + name.removeprefix("backbone.")


def configuration(about: Mapping[str, Any]) -> UniFormerV2Config:
    """Ours of an instance's settings."""
    return UniFormerV2Config(
        hidden_size=about["width"],
        num_hidden_layers=about["layers"],
        num_attention_heads=about["heads"],
        patch_size=about["patch"],
        image_size=about["resolution"],
        temporal_downsampling=about["temporal_downsample"],
        local_blocks=0 if about["no_lmhra"] else 2 if about["double_lmhra"] else 1,
        global_layers=about["return_list"],
        global_dropout=0.0,
        frozen=about["frozen"],
    )


class Goldens:
    """The archive, and a model of each instance with the weights by formula."""

    def __init__(self, folder):
        spec = importlib.util.spec_from_file_location("golden_inputs", folder / "inputs.py")
        self.inputs = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.inputs)
        self.archive = np.load(folder / "uniformerv2_public.npz")
        self.about = json.loads(str(self.archive["configs"]))
        listed = json.loads((folder / "uniformerv2_keys.json").read_text())
        self.keys, self.order = listed["keys"], listed["grad_norms_order"]
        self.ran: dict[str, dict[str, torch.Tensor]] = {}

    def pixels(self, instance: str) -> torch.Tensor:
        about = self.about[instance]
        size = about["resolution"]
        return (self.inputs.clip(about["seed"], about["batch"], about["frames"], size, size) - 0.45) / 0.225

    def labels(self, instance: str) -> torch.Tensor:
        about = self.about[instance]
        return torch.from_numpy(np.random.default_rng(about["seed"] + 1).integers(0, about["classes"], about["batch"]))

    def model(self, instance: str) -> Classifier:
        about = self.about[instance]
        model = Classifier(configuration(about), about["classes"]).eval()
        for name, value in model.state_dict().items():
            ours = model.name(name)
            kind = CLIP_AS_UNIFORMERV2 if instance in FROM_CLIP and not ours.startswith("classifier.") else UNIFORMERV2
            theirs = kind.their_name(ours)
            if theirs is None or (instance in FROM_CLIP and "proj.0." in theirs):
                continue  # as it starts
            form = kind.form(theirs)
            shape = form.theirs(tuple(value.shape), ())
            value.copy_(form.ours(drawn(theirs, shape), tuple(value.shape)))
        return model

    def run(self, instance: str) -> dict[str, torch.Tensor]:
        """Every array of an instance that a pass in eval mode gives, by its name in the archive."""
        if instance in self.ran:
            return self.ran[instance]
        model = self.model(instance)
        got: dict[str, torch.Tensor] = {}

        def keep(name, change=lambda x: x):
            def hook(module, inputs, output):
                got[name] = change(output[0] if isinstance(output, tuple) else output).detach()

            return hook

        backbone = model.backbone
        flat = lambda x: x.permute(0, 2, 3, 4, 1).flatten(2, 3)  # noqa: E731  # (B, D, T, h, w) -> (B, T, h * w, D)
        backbone.embeddings.patch_embedding.register_forward_hook(keep("patches", flat))
        backbone.embeddings.register_forward_hook(keep("tokens_0"))
        for i, layer in enumerate(backbone.layers):
            layer.register_forward_hook(keep(f"tokens_{i + 1}"))
        for i, name in enumerate(("local_1", "local_2"), start=1):
            block = getattr(backbone.layers[0], name)
            if block is not None:
                block.register_forward_hook(keep(f"lmhra{i}_0"))
        backbone.global_blocks[0].place.register_forward_hook(keep("dpe_0", flat))
        for j, block in enumerate(backbone.global_blocks):
            block.register_forward_hook(keep(f"q_{j}", lambda q: q[:, 0]))
        with_gradients = f"{instance}/grad_norms" in self.archive
        with torch.set_grad_enabled(with_gradients):
            output, logits = model(self.pixels(instance))
            if with_gradients:
                loss = nn.functional.cross_entropy(logits, self.labels(instance))
                loss.backward()
                got["loss"] = loss.detach()
                norms = {UNIFORMERV2.their_name(model.name(n)): p.grad for n, p in model.named_parameters()}
                found = [norms[name] for name in self.order[instance]]
                got["grad_norms"] = torch.tensor(
                    [torch.nan if one is None else one.double().norm() for one in found], dtype=torch.float64
                )
        got |= {"features": output.pooler_output.detach(), "logits": logits.detach()}
        got["conv1_weight"] = backbone.embeddings.patch_embedding.weight.detach()[::8, :, :, ::2, ::2]
        if f"{instance}/train_logits" in self.archive:
            got |= self.train(instance)
        self.ran[instance] = got
        return got

    def train(self, instance: str) -> dict[str, torch.Tensor]:
        model = self.model(instance).train()
        _, logits = model(self.pixels(instance))
        norm = model.backbone.layers[0].local_1.norm
        return {
            "train_logits": logits.detach(),
            "train_running_mean": norm.running_mean,
            "train_running_var": norm.running_var,
        }


@pytest.fixture(scope="module")
def goldens(shared_folder):
    return Goldens(shared_folder / "goldens")


def thin(x: torch.Tensor) -> torch.Tensor:
    """The part of an array that the archive keeps."""
    if x.dim() == 4:
        x = x[..., :: 16 if x.shape[-1] > 128 else 2]
        if x.shape[2] > 30:
            x = x[:, :, ::7]
        elif x.numel() > 6000:
            x = x[:, :, ::3]
    return x


SMALL_ARRAYS = {
    "temporal": ["patches", *(f"tokens_{i}" for i in range(5)), "lmhra1_0", "lmhra2_0", "dpe_0", "q_0", "q_1", "q_2"],
    "single": ["patches", *(f"tokens_{i}" for i in range(5)), "lmhra1_0", "dpe_0", "q_0", "q_1"],
    "scene": ["patches", *(f"tokens_{i}" for i in range(5)), "dpe_0", "q_0", "q_1"],
    "frozen": ["patches", *(f"tokens_{i}" for i in range(5)), "dpe_0", "q_0", "q_1"],
}
TRAINED = ["train_logits", "train_running_mean", "train_running_var"]
ARRAYS = [
    *((one, name) for one in INSTANCES for name in [*SMALL_ARRAYS[one], "features", "logits", "loss", "grad_norms"]),
    *((one, name) for one in ("temporal", "single") for name in TRAINED),
    *((one, name) for one in FROM_CLIP for name in ("patches", "tokens_4", "features", "logits", "conv1_weight")),
    *(
        ("k400_b16_8x224", name)
        for name in ("tokens_0", "tokens_1", "q_0", "q_1", "q_2", "tokens_12", "q_3", "features", "logits")
    ),
]


@pytest.mark.shared
@pytest.mark.parametrize(("instance", "name"), ARRAYS)
def test_every_array_of_the_published_code(goldens, instance, name):
    expected = torch.from_numpy(goldens.archive[f"{instance}/{name}"])
    got = thin(goldens.run(instance)[name])
    assert got.shape == expected.shape and expected.isfinite().any()
    if name == "grad_norms":
        assert torch.equal(got.isnan(), expected.isnan())  # no gradient at all: frozen
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6, equal_nan=True)
        return
    if name.startswith(("patches", "tokens", "lmhra", "dpe")):
        tolerance = 2e-6 * expected.abs().max().item()
    else:
        tolerance = 0.0 if name == "conv1_weight" else 2e-5
    torch.testing.assert_close(got, expected.to(got.dtype), rtol=0, atol=tolerance)


@pytest.mark.shared
def test_all_arrays_are_compared(goldens):
    assert {f"{instance}/{name}" for instance, name in ARRAYS} | {"configs"} == set(goldens.archive)

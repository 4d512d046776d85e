"""UniFormerV2 against outputs of its published code (../shared/goldens/uniformerv2.md), and what it must not do."""

import importlib.util
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel

from violet import VioletConfig, VioletForVideoClassification, VioletModel, build_model, from_original
from violet.configuration import named_configuration
from violet.core.upstream import checkpoint_activations
from violet.hub.layout_uniformerv2 import UNIFORMERV2
from violet.modeling_violet.encoders.uniformerv2 import UniFormerV2Config, UniFormerV2Model

INSTANCES = ("temporal", "single", "scene", "frozen")
FROM_CLIP = ("clip_scene", "clip_temporal", "clip_frozen")


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


def configuration(about: Mapping[str, Any]) -> VioletConfig:
    """Ours of an instance's settings."""
    vision = UniFormerV2Config(
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
    return named_configuration(
        "uniformerv2-base-16-scene", vision_config=vision, num_labels=about["classes"], classifier_dropout=0.0
    )


def is_of_clip(name: str) -> bool:
    """Whether a published key is one of the picture encoder's."""
    return not re.search(r"\.(dpe|dec|proj|temporal_cls_token|balance)\b", name) and "lmhra" not in name


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
        self.base = json.loads((folder / "uniformerv2_base_keys.json").read_text())
        self.ran: dict[str, dict[str, torch.Tensor]] = {}

    def pixels(self, instance: str) -> torch.Tensor:
        about = self.about[instance]
        size = about["resolution"]
        return (self.inputs.clip(about["seed"], about["batch"], about["frames"], size, size) - 0.45) / 0.225

    def labels(self, instance: str) -> torch.Tensor:
        about = self.about[instance]
        return torch.from_numpy(np.random.default_rng(about["seed"] + 1).integers(0, about["classes"], about["batch"]))

    def model(self, instance: str) -> VioletForVideoClassification:
        about = self.about[instance]
        config = configuration(about)
        if instance in FROM_CLIP:
            # the names of CLIP's keys are the published ones of its part
            of_scene = self.keys["scene"].items()
            shapes = {name.replace("backbone.", "visual."): shape for name, shape in of_scene if is_of_clip(name)}
            shapes["visual.conv1.weight"] = [64, 3, 8, 8]
            weights = {name: drawn(name, tuple(shape)) for name, shape in shapes.items()}
            model = build_model(config, vision=weights, model_class=VioletForVideoClassification)
            assert set(model.conversion_report["vision"].used) == set(shapes)
            for name, value in model.classifier[2].named_parameters():
                value.data.copy_(drawn(f"backbone.transformer.proj.2.{name}", tuple(value.shape)))
            return model
        keys = self.keys.get(instance) or self.base[instance]
        weights = {name: drawn(name, tuple(shape)) for name, shape in keys.items()}
        model, report = from_original(weights, config=config)
        assert set(report.used) == set(keys) and not report.new and not report.skipped
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

        backbone = model.violet.vision_model
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
            features = model.violet.encode_videos(self.pixels(instance)).pooled
            logits = model.classifier(features)
            if with_gradients:
                loss = nn.functional.cross_entropy(logits, self.labels(instance))
                loss.backward()
                got["loss"] = loss.detach()
                norms = {
                    UNIFORMERV2.their_name(name.removeprefix("violet.")): one.grad
                    for name, one in model.named_parameters()
                }
                found = [norms[name] for name in self.order[instance]]
                got["grad_norms"] = torch.tensor(
                    [torch.nan if one is None else one.double().norm() for one in found], dtype=torch.float64
                )
        got |= {"features": features.detach(), "logits": logits.detach()}
        got["conv1_weight"] = backbone.embeddings.patch_embedding.weight.detach()[::8, :, :, ::2, ::2]
        if f"{instance}/train_logits" in self.archive:
            got |= self.train(instance)
        self.ran[instance] = got
        return got

    def train(self, instance: str) -> dict[str, torch.Tensor]:
        model = self.model(instance).train()
        logits = model(self.pixels(instance)).logits
        norm = model.violet.vision_model.layers[0].local_1.norm
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
        pytest.param("k400_b16_8x224", name, marks=pytest.mark.proof)
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
    compared = [getattr(one, "values", one) for one in ARRAYS]
    assert {f"{instance}/{name}" for instance, name in compared} | {"configs"} == set(goldens.archive)


# --- small models of random weights ---

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 8,
    "image_size": 16,
    "global_layers": [0, 1],
    "global_dropout": 0.0,
}


def small(seed: int = 0, **changes: Any) -> UniFormerV2Model:
    """A model in which no part is zero, in evaluation mode."""
    torch.manual_seed(seed)
    model = UniFormerV2Model(UniFormerV2Config(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(std=0.5 if name == "balance" else 0.02)
        for name, value in model.named_buffers():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                value.normal_(std=0.1)
    return model


def clips(*size: int, batch: int = 2, seed: int = 0) -> torch.Tensor:
    frames, height, width = size or (4, 16, 16)
    return torch.randn(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


def moved(model: UniFormerV2Model, frame: int, frames: int, layers: int) -> tuple[list[int], list[int]]:
    """The slots whose patches, and whose class token, behind that many layers depend on a frame."""
    pixels, other = clips(frames, 16, 16, batch=1), clips(frames, 16, 16, batch=1)
    other[:, frame] += 1
    with torch.no_grad():
        one, two = (model(x, output_hidden_states=True).hidden_states[layers] for x in (pixels, other))
    change = (one - two).abs().amax(-1)[0]  # (slots, tokens)
    patches, tokens = change[:, 1:].amax(1), change[:, 0]
    return patches.nonzero().flatten().tolist(), tokens.nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("local_blocks", "layers", "patches", "class_token"), [(1, 1, 1, 1), (2, 1, 2, 1), (2, 2, 4, 3), (0, 2, 0, 0)]
)
def test_how_far_a_frame_reaches_in_time(local_blocks, layers, patches, class_token):
    """The second block of a layer stands behind its attention: a class token learns of it in the next layer."""
    reached = moved(small(local_blocks=local_blocks), frame=6, frames=13, layers=layers)
    expected = [list(range(6 - reach, 7 + reach)) for reach in (patches, class_token)]
    assert list(reached) == expected


def test_a_slot_of_downsampled_frames_sees_three():
    """Frame 2t is the centre of slot t; an odd frame reaches two slots, and the last one only one."""
    model = small(temporal_downsampling=True)
    slots = [moved(model, frame, frames=6, layers=0)[0] for frame in range(6)]
    assert slots == [[0], [0, 1], [1], [1, 2], [2], [2]]


@torch.no_grad()
def test_without_local_blocks_only_the_convolutions_over_places_see_the_order_of_frames():
    pixels, order = clips(6, 16, 16), torch.tensor([3, 0, 5, 1, 4, 2])
    still = clips(1, 16, 16).expand(-1, 6, -1, -1, -1)
    blind, scene, local = small(), small(), small(local_blocks=2)
    for model in (blind, local):
        for block in model.global_blocks:
            block.place.weight.zero_()

    def change(model, one, other):
        return (model(one).pooler_output - model(other).pooler_output).abs().max()

    assert change(blind, pixels, pixels[:, order]) < 2e-6
    assert change(blind, still, still[:, :1]) < 2e-6
    assert change(scene, pixels, pixels[:, order]) > 0.02
    assert change(local, pixels, pixels[:, order]) > 0.02


@torch.no_grad()
@pytest.mark.parametrize("local_blocks", [0, 2])
def test_a_clip_does_not_depend_on_those_beside_it(local_blocks):
    model = small(local_blocks=local_blocks)
    together = model(clips(batch=3)).pooler_output
    alone = torch.cat([model(clip[None]).pooler_output for clip in clips(batch=3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)


@torch.no_grad()
@pytest.mark.parametrize(("frames", "slots"), [(1, 1), (2, 1), (3, 2), (7, 4), (8, 4)])
@pytest.mark.parametrize("size", [(16, 16), (24, 40), (8, 64)])
def test_any_number_of_frames_and_any_size_of_whole_patches(frames, slots, size):
    for model, expected in ((small(local_blocks=1), frames), (small(temporal_downsampling=True), slots)):
        output = model(clips(frames, *size, batch=3))
        rows, columns = size[0] // 8, size[1] // 8
        assert model.config.grid(frames, *size) == (expected, rows, columns)
        assert output.last_hidden_state.shape == (3, expected, rows, columns, 32)
        assert output.frame_states.shape == (3, expected, 1, 32)
        assert output.pooler_output.shape == (3, 32) and output.clip_states is None


@torch.no_grad()
def test_cells_of_a_wide_clip_stand_in_their_places():
    """16 x 64 pixels have as many patches as 32 x 32: the convolution over places must not take one for the other."""
    model, pixels, changed = small(), clips(1, 16, 64, batch=1), clips(1, 16, 64, batch=1)
    changed[..., 8:, 40:48] += 5
    states = [model.embeddings(x)[0, 0, 1:].unflatten(0, (2, 8)) for x in (pixels, changed)]
    where = (states[0] - states[1]).norm(dim=-1)
    assert where.nonzero().tolist() == [[1, 5]]
    for axis in (-1, -2):  # a clip mirrored, with mirrored weights, gives the same
        mirrored = small()
        mirrored.embeddings.patch_embedding.weight.copy_(mirrored.embeddings.patch_embedding.weight.flip(axis))
        grid = mirrored.embeddings.position_embedding[1:].unflatten(0, (2, 2)).flip(0 if axis == -2 else 1)
        mirrored.embeddings.position_embedding[1:] = grid.flatten(0, 1)
        for block in mirrored.global_blocks:
            block.place.weight.copy_(block.place.weight.flip(axis))
        torch.testing.assert_close(mirrored(pixels.flip(axis)).query, model(pixels).query, rtol=0, atol=2e-5)


@torch.no_grad()
def test_positions_are_interpolated_only_for_another_grid():
    embeddings = small().embeddings
    assert embeddings.positions(2, 2) is embeddings.position_embedding
    with torch.no_grad():
        embeddings.position_embedding[1:] = torch.arange(4.0)[:, None]
    rows = embeddings.positions(2, 4)
    assert torch.equal(rows[0], embeddings.position_embedding[0]) and rows.shape == (9, 32)
    values = rows[1:, 0].view(2, 4)
    assert (values[:, 1:] > values[:, :-1]).all() and (values[1] > values[0]).all()


@torch.no_grad()
def test_the_summary_token_is_the_last_query():
    output = small(summary_token=True)(clips())
    assert torch.equal(output.clip_states[:, 0], output.query)
    share = small().balance.sigmoid()
    mixed = (1 - share) * output.query + share * output.frame_states[:, :, 0].mean(1)
    torch.testing.assert_close(output.pooler_output, mixed)
    query_only = small(balance=False)(clips())
    assert torch.equal(query_only.pooler_output, query_only.query)


@torch.no_grad()
@pytest.mark.shared
@pytest.mark.parametrize(
    ("fault", "moves"),
    [("the mix turned round", 1.0), ("another activation", 0.02), ("no class tokens of slots", 0.05)],
)
def test_a_fault_moves_the_logits(goldens, fault, moves, monkeypatch):
    model, pixels = goldens.model("temporal"), goldens.pixels("temporal")
    if fault == "the mix turned round":
        model.violet.vision_model.balance.neg_()
    elif fault == "another activation":
        monkeypatch.setattr("violet.modeling_violet.encoders.uniformerv2.quick_gelu", nn.functional.gelu)
    else:
        attend = type(model.violet.vision_model.global_blocks[0].attention).forward
        tokens = 17

        def without(self, query, memory):
            return attend(self, query, memory.unflatten(1, (-1, tokens))[:, :, 1:].flatten(1, 2))

        monkeypatch.setattr(type(model.violet.vision_model.global_blocks[0].attention), "forward", without)
    assert (model(pixels).logits - torch.from_numpy(goldens.archive["temporal/logits"])).abs().max() > moves


# --- training ---


def gradients(model: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(pixels).pooler_output.pow(2).mean().backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def test_a_new_model_is_its_picture_encoder_and_what_learns_first():
    """q = 0 and z = mean of class tokens / 2; what stands in front of what is zero has a gradient of exactly zero."""
    torch.manual_seed(0)
    model = UniFormerV2Model(UniFormerV2Config(**SMALL, local_blocks=2))
    output = model(clips())
    assert (output.query == 0).all()
    assert torch.equal(output.pooler_output, output.frame_states[:, :, 0].mean(1) / 2)
    found = gradients(model, clips())
    new = {name for name in found if "local_" in name or name.startswith(("global_", "query", "balance"))}
    ends = ("query", "balance", "expand.weight", "expand.bias")
    ends += tuple(f"{part}.{one}" for part in ("attention.out", "mlp.fc2") for one in ("weight", "bias"))
    last = {f"layers.1.local_2.expand.{one}" for one in ("weight", "bias")}  # only the last global block reads it
    assert {name for name in new if found[name].abs().sum() > 0} == {one for one in new if one.endswith(ends)} - last


def test_gradient_checkpointing_gives_the_same_and_counts_a_batch_once():
    results = []
    for checkpointing in (False, True):
        model = small(local_blocks=2).train()
        if checkpointing:
            checkpoint_activations(model)
        found = gradients(model, clips())
        results.append((found, {name: one.clone() for name, one in model.named_buffers()}))
    (one, numbers), (other, again) = results
    assert len(one) == len(dict(small(local_blocks=2).named_parameters()))
    assert all(torch.allclose(one[name], other[name], atol=1e-7) for name in one)
    assert all(torch.equal(numbers[name], again[name]) for name in numbers)
    assert numbers["layers.0.local_1.norm.num_batches_tracked"] == 1


def test_frozen_statistics_make_halves_of_a_batch_one_batch():
    """What two processes, or two accumulated steps, compute is what one computes; live statistics break that."""
    for norm, same in (("frozen", True), ("live", False)):
        model = small(local_blocks=2, local_norm=norm).train()
        before = {name: one.clone() for name, one in model.named_buffers()}
        whole = gradients(model, clips(batch=4))
        halves = [gradients(model, part) for part in clips(batch=4).split(2)]
        apart = max((whole[n] - (halves[0][n] + halves[1][n]) / 2).abs().max() for n in whole)
        assert (apart < 1e-6) == same
        assert all(torch.equal(one, before[name]) for name, one in model.named_buffers()) == same
        assert whole["layers.0.local_1.norm.weight"].abs().sum() > 0


def test_a_frozen_encoder_changes_only_its_global_blocks():
    changes = {"frozen": True, "local_blocks": 2, "local_norm": "frozen", "temporal_downsampling": True}
    model = small(**changes).train()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model(clips()).pooler_output.pow(2).mean().backward()
    with_gradient = {name for name, one in model.named_parameters() if one.grad is not None}
    assert with_gradient == {name for name in before if name.startswith(("query", "global_blocks."))}
    assert {name for name, one in model.named_parameters() if one.requires_grad} == with_gradient
    optimiser.step()
    changed = {name for name, one in model.state_dict().items() if not torch.equal(one, before[name])}
    assert changed == with_gradient


def test_a_frozen_encoder_stays_so_when_it_is_loaded(tmp_path):
    model = small(frozen=True)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is UniFormerV2Model and loaded.balance is None
    assert [one.requires_grad for one in loaded.parameters()] == [one.requires_grad for one in model.parameters()]
    assert torch.equal(loaded.eval()(clips()).pooler_output, model(clips()).pooler_output)


def test_stochastic_depth_drops_branches_of_a_clip():
    """All slots and tokens of one clip, and no other clip's: never a place in all clips."""
    torch.manual_seed(0)
    model = small(drop_path_rate=0.5, global_drop_path_rate=0.5, local_blocks=2, local_norm="frozen")
    assert [layer.drop_path.rate for layer in model.layers] == [0, 0.5]
    assert [block.drop_path.rate for block in model.global_blocks] == [0, 0.5]
    layer, x = model.layers[1].train(), clips(4, 5, 32, batch=40)[:, :, 0]
    x = torch.randn(40, 4, 5, 32)
    drop = layer.drop_path(torch.ones_like(x))
    assert set(drop.unique().tolist()) == {0.0, 2.0}
    assert (drop == drop[:, :1, :1, :1]).all()
    query, memory = torch.randn(40, 1, 32), torch.randn(40, 4, 5, 32)
    after = model.global_blocks[1].train()(query, memory, (4, 2, 2))
    same = (after == query).all(-1).flatten()  # both branches of that clip dropped
    assert 2 <= same.sum() <= 20


def test_half_precision_keeps_the_norms_of_the_picture_encoder_in_float32():
    model, seen = small(local_blocks=1).to(torch.bfloat16), []
    original = nn.functional.layer_norm

    def spy(x, *rest):
        seen.append(x.dtype)
        return original(x, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "layer_norm", spy)
        output = model(clips())
    assert output.pooler_output.dtype == torch.bfloat16 and output.pooler_output.isfinite().all()
    assert seen.count(torch.float32) == 1 + 2 * 2 and seen.count(torch.bfloat16) == 3 * 2


@torch.no_grad()
def test_kernels_agree():
    model = small(local_blocks=1)
    one = model(clips()).pooler_output
    model.set_attn_implementation("eager")
    output = model(clips(), output_attentions=True)
    torch.testing.assert_close(output.pooler_output, one, rtol=0, atol=1e-6)
    assert [weights.shape for weights in output.attentions] == [(2 * 4, 4, 5, 5)] * 2


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"global_layers": []}, "`global_layers`.*`num_hidden_layers` 2"),
        ({"global_layers": [1, 2]}, "`global_layers`.*`num_hidden_layers` 2"),
        ({"global_layers": [-1]}, "`global_layers`.*`num_hidden_layers` 2"),
        ({"global_layers": [1, 0]}, "`global_layers`: must be increasing"),
        ({"global_layers": [1, 1]}, "`global_layers`: must be increasing"),
        ({"local_blocks": 3}, "`local_blocks`: a layer has 0, 1 or 2, got 3"),
        ({"local_reduction": 64, "local_blocks": 1}, "`local_reduction`.*`hidden_size`"),
        ({"local_norm": "synchronised"}, "`local_norm`: 'synchronised' is unknown"),
        ({"frozen": True, "local_blocks": 2}, "`local_norm`: 'live' moves.*`local_blocks`.*`frozen`"),
        ({"frozen": True, "drop_path_rate": 0.1}, "`drop_path_rate`.*`frozen`"),
        ({"frozen": True, "balance": True}, "`balance`.*`frozen`"),
        ({"num_attention_heads": 5}, "`num_attention_heads`.*`hidden_size`"),
        ({"image_size": 20}, "`image_size`.*`patch_size`"),
        ({"drop_path_rate": 1.0}, "`drop_path_rate`: must lie in"),
        ({"window_size": [8, 7, 7]}, "UniFormerV2Config has no field window_size"),
        ({"shift": True}, "UniFormerV2Config has no field shift"),
        ({"double_lmhra": True}, "UniFormerV2Config has no field double_lmhra"),
    ],
)
def test_a_contradiction_is_refused_when_the_configuration_is_made(changes, says):
    with pytest.raises(Exception, match=says):
        UniFormerV2Config(**{**SMALL, **changes})


@pytest.mark.parametrize("size", [(20, 16), (16, 20), (4, 16)])
def test_a_clip_that_is_no_whole_number_of_patches_is_refused(size):
    with pytest.raises(ValueError, match=f"`patch_size`: .* multiples of 8 pixels, got {size[0]} x {size[1]}"):
        small()(clips(2, *size))


# --- in a VIOLET ---


def in_violet(**changes: Any) -> VioletConfig:
    vision = {"model_type": "uniformerv2", **SMALL, "temporal_downsampling": True, **changes}
    return VioletConfig(
        vision_config=vision, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )


def test_hidden_order_is_one_of_slots_and_the_tokens_have_class_tokens_and_summary():
    model = VioletModel(in_violet(summary_token=True)).eval()
    pixels = clips(8, 16, 16)
    tokens = model.encode_videos(pixels, hidden_frame_order=torch.ones(2, 4, dtype=torch.bool))
    assert tokens.grid == (4, 2, 2) and tokens.num_special_per_clip == 1 and tokens.num_special_per_frame == 1
    assert tokens.pooled.shape == (2, 32)
    with pytest.raises(ValueError, match=r"`hidden_frame_order` has shape \(2, 8\); these videos need \(2, 4\)"):
        model.encode_videos(pixels, hidden_frame_order=torch.ones(2, 8, dtype=torch.bool))


def test_the_published_head_reads_the_features():
    model = VioletForVideoClassification(
        named_configuration("uniformerv2-tiny", num_labels=3, vision_config={"model_type": "uniformerv2", **SMALL})
    ).eval()
    head = [type(layer) for layer in model.classifier]
    assert head == [nn.LayerNorm, nn.Dropout, nn.Linear] and model.classifier[0].eps == 1e-5
    assert named_configuration("uniformerv2-base-16-scene").classifier_dropout == 0.5
    features = model.violet.vision_model(clips()).pooler_output
    torch.testing.assert_close(model(clips()).logits, model.classifier(features))

"""LF-VILA's video encoder: the outputs of its own code, its reach in time, its cost, and what it refuses."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from lf_vila import LfVila

from violet.core.upstream import checkpoint_activations
from violet.hub import from_original
from violet.modeling_violet.encoders import video_swin
from violet.modeling_violet.encoders.temporal_windows import LfVilaVisionConfig, LfVilaVisionModel, pool_cells

SMALL = {"embed_dim": 8, "depths": (2,) * 6, "num_heads": (1, 2, 4, 4, 4, 8), "drop_path_rate": 0.0}
LAYERS = range(6)


@pytest.fixture(scope="module")
def goldens(shared_folder) -> LfVila:
    return LfVila(shared_folder)


def build(goldens: LfVila, instance: str, **changes) -> LfVilaVisionModel:
    model = LfVilaVisionModel(goldens.vision_config(instance, **changes)).eval()
    keys = goldens.keys["keys"][instance]
    names = {name: ours for name in keys if (ours := our_name(name)) in model.state_dict()}
    weights = goldens.weights({name: keys[name] for name in names})
    model.load_state_dict({names[name]: value for name, value in weights.items()})
    return model


def our_name(theirs: str) -> str:
    for old, new in (
        ("video_encoder.", ""),
        ("layers.", "stages."),
        ("mlp.fc1", "mlp.0"),
        ("mlp.fc2", "mlp.2"),
        ("local_feat_proj", "clip_merging"),
        ("norm_local", "clip_norm"),
    ):
        theirs = theirs.replace(old, new)
    return theirs


@pytest.fixture(scope="module", params=["odd", "long"])
def states(goldens, request):
    """Every state of an instance that the archive has an array of, by one pass."""
    model = build(goldens, request.param, clip_features="intermediate")
    model.clip_layer = None  # as published, and with the weights of what the paper describes
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda module, inputs, output: kept.update({name: output}))

    keep("patches", model.patch_embed)
    for i, stage in enumerate(model.stages):
        keep(f"layer_{i}", stage)
        for j, block in enumerate(stage.blocks):
            keep(f"layer_{i}_block_{j}", block)
    with torch.no_grad():
        output = model(goldens.clip(request.param))
        kept["intended_local_map"] = model.clip_norm(model.clip_merging(kept["layer_2"]))
    kept |= {"map": output.feature_map, "tokens": output.last_hidden_state.flatten(2, 3)}
    kept["clip_features"] = output.pooler_output.unflatten(1, (4, -1))
    return request.param, kept


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [
        *("patches", *(f"layer_{i}" for i in LAYERS), *(f"layer_{i}_block_{j}" for i in (0, 3) for j in (0, 1))),
        *("map", "tokens", "intended_local_map", "clip_features"),
    ],
)
def test_states_are_those_of_the_original(goldens, states, name):
    instance, kept = states
    goldens.expect(f"{instance}/{name}", kept[name])


@pytest.mark.shared
@torch.no_grad()
@pytest.mark.parametrize("fault", ["shift in time", "no shift", "merging", "patch norm", "scale", "border", "windows"])
def test_a_fault_would_show(goldens, monkeypatch, fault):
    """Each moves the map far beyond the tolerance, so that the arrays can tell them."""
    model, pixels = build(goldens, "odd"), goldens.clip("odd")[:1]
    right = model(pixels).feature_map
    if fault == "windows":
        wide = LfVilaVisionModel(goldens.vision_config("odd", window_sizes=((32, 3, 5),) * 6)).eval()
        tables = {name: 0 * value for name, value in wide.state_dict().items() if name.endswith("bias_table")}
        wide.load_state_dict(model.state_dict() | tables)
        model = wide
    for block in (block for stage in model.stages for block in stage.blocks):
        block.shifts_in_time = fault == "shift in time"
        block.shifted = block.shifted and fault != "no shift"
        block.attn.scaling = 1 / 16 if fault == "scale" else block.attn.scaling
    if fault == "merging":
        merge = video_swin.VioletPatchMerging.forward
        turned = lambda self, x: merge(self, x.transpose(2, 3)).transpose(2, 3)  # noqa: E731
        monkeypatch.setattr(video_swin.VioletPatchMerging, "forward", turned)
    if fault == "patch norm":
        model.patch_embed.norm = torch.nn.Identity()
    if fault == "border":
        monkeypatch.setattr(video_swin, "shift_mask", lambda *given: None)
    assert (model(pixels).feature_map - right).abs().max() > 0.1


def random_model(**changes) -> LfVilaVisionModel:
    torch.manual_seed(0)
    return LfVilaVisionModel(LfVilaVisionConfig(**{**SMALL, "initializer_range": 0.2, **changes})).eval()


def noise(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_the_first_frame_reaches_as_far_as_the_longest_window_and_no_farther():
    """Differences are exactly 0 beyond it; a window that were shifted in time would reach farther."""
    model = random_model()
    shown = noise(1, 32, 3, 48, 80)
    changed = shown.clone()
    changed[:, 0] += 1
    states = [model.patch_embed(pixels) for pixels in (shown, changed)]
    reached = []
    for stage in model.stages:
        states = [stage(x) for x in states]
        moved = (states[0] != states[1]).any(-1).any(-1).any(-1)[0]
        reached.append(int(moved.nonzero().max()) + 1)
    assert reached == [2, 4, 8, 16, 16, 32]


@torch.no_grad()
def test_the_first_layer_on_pairs_of_frames_is_the_first_layer_on_the_clip():
    model = random_model()
    x = model.patch_embed(noise(1, 8, 3, 48, 80))
    pairs = x.unflatten(1, (4, 2)).flatten(0, 1)  # (1, 8, H, W, C) -> (4, 2, H, W, C)
    assert torch.equal(model.stages[0](pairs).flatten(0, 1), model.stages[0](x)[0])


@torch.no_grad()
def test_a_video_does_not_depend_on_its_batch_and_the_order_of_frames_matters():
    model = random_model()
    videos = noise(3, 8, 3, 72, 136)
    together = model(videos).feature_map
    torch.testing.assert_close(together[1:2], model(videos[1:2]).feature_map, atol=1e-6, rtol=0)
    turned = videos[:, [1, 0, *range(2, 8)]]
    assert (model(turned).feature_map[:, [1, 0, *range(2, 8)]] - together).abs().max() > 0.1


def test_tokens_are_the_maxima_of_two_rows_and_three_columns():
    states = noise(1, 2, 3, 5, 4)
    tokens = pool_cells(states, (2, 3))
    assert tokens.shape == (1, 2, 2, 3, 4)
    assert torch.equal(tokens[0, 1, 1, 2], states[0, 1, 1:3, 2:5].flatten(0, 1).amax(0))


@torch.no_grad()
def test_a_clips_feature_is_the_mean_of_its_own_frames():
    model = random_model(num_clips=2)
    output = model(noise(1, 8, 3, 72, 136))
    clips = output.pooler_output.unflatten(1, (2, -1))
    torch.testing.assert_close(clips[:, 1], output.last_hidden_state[:, 4:].mean((1, 2, 3)))
    assert model.config.pooled_size == output.pooler_output.shape[1]


def test_growing_windows_pair_a_seventh_of_the_tokens():
    growing, full = LfVilaVisionConfig(), LfVilaVisionConfig(window_sizes=((32, 3, 5),) * 6)
    assert growing.attention_pairs(32, 192, 320) / 1e6 == pytest.approx(8.3, rel=0.01)
    assert full.attention_pairs(32, 192, 320) / 1e6 == pytest.approx(53.9, rel=0.01)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"window_sizes": ((4, 3, 5), (2, 3, 5), *((8, 3, 5),) * 4)}, "window_sizes.*must not get shorter.*depths"),
        ({"window_sizes": ((2, 3, 5),)}, "window_sizes.*depths"),
        ({"num_heads": (3, *SMALL["num_heads"][1:])}, "num_heads.*embed_dim"),
        ({"merge_after": (0, 1, 5)}, "merge_after.*depths"),
        ({"clip_features": "intermediate", "clip_window": 2}, "clip_features.*clip_window"),
        ({"clip_features": "intermediate", "clip_window": 32}, "clip_window.*window_sizes"),
        ({"clip_features": "middle"}, "clip_features.*final, intermediate"),
        ({"pool_size": (2,)}, "pool_size"),
        ({"window": 3}, "no field window"),
    ],
)
def test_contradictions_are_refused_with_both_names(changes, says):
    with pytest.raises((StrictDataclassError, ValueError), match=f"(?s){says}"):
        LfVilaVisionConfig(**{**SMALL, **changes})


@pytest.mark.parametrize(
    "size, says",
    [
        ((6, 72, 136), "multiple of `num_clips` 4, got 6"),
        ((8, 190, 320), "`patch_size` is 8.*190 x 320"),
        ((8, 192, 321), "`patch_size` is 8.*192 x 321"),
        ((8, 64, 256), r"`pool_size` \(2, 3\) is larger than the map \(1, 4\).*64 x 256"),
    ],
)
def test_clips_that_it_cannot_take_whole_are_refused(size, says):
    frames, height, width = size
    with pytest.raises(ValueError, match=says):
        random_model()(noise(1, frames, 3, height, width))


def test_it_trains_with_checkpointing_and_in_half_precision_and_loads_again(tmp_path):
    model = random_model(clip_features="intermediate").train()
    pixels = noise(2, 8, 3, 72, 136)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_activations(model)
        model.zero_grad()
        output = model(pixels)
        (output.last_hidden_state.square().mean() + output.pooler_output.square().mean()).backward()
        gradients.append([one.grad.clone() for one in model.parameters()])
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))
    model.eval().save_pretrained(tmp_path)
    loaded = LfVilaVisionModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(pixels).pooler_output, model(pixels).pooler_output)
        assert torch.isfinite(model.bfloat16()(pixels.bfloat16()).pooler_output).all()


# --- the start from a Swin for pictures ---


def swin_2d(embed: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int) -> dict[str, list[int]]:
    """Names and shapes of a Swin for pictures."""
    keys = {"patch_embed.proj.weight": [embed, 3, 4, 4], "patch_embed.proj.bias": [embed]}
    norms = {"patch_embed.norm": embed, "norm": embed * 2 ** (len(depths) - 1)}
    for i, depth in enumerate(depths):
        width = embed * 2**i
        for block in (f"layers.{i}.blocks.{j}." for j in range(depth)):
            norms |= {block + "norm1": width, block + "norm2": width}
            keys[block + "attn.relative_position_bias_table"] = [(2 * window - 1) ** 2, heads[i]]
            linear = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
            for name, (outputs, inputs) in linear.items():
                keys[f"{block}{name}.weight"] = [outputs * width, inputs * width]
                keys[f"{block}{name}.bias"] = [outputs * width]
        if i < len(depths) - 1:
            norms[f"layers.{i}.downsample.norm"] = 4 * width
            keys[f"layers.{i}.downsample.reduction.weight"] = [2 * width, 4 * width]
    return keys | {f"{norm}.{name}": [width] for norm, width in norms.items() for name in ("weight", "bias")}


@pytest.mark.shared
@torch.no_grad()
def test_it_starts_from_a_swin_for_pictures_as_the_original_does(goldens):
    keys = swin_2d(16, (2, 2, 4, 2), (1, 2, 4, 8), 4)
    weights = {
        name.removeprefix("swin2d."): value
        for name, value in goldens.weights({f"swin2d.{name}": shape for name, shape in keys.items()}).items()
    }
    config = goldens.vision_config("swin", clip_features="intermediate")
    model, report = from_original(weights, config=config)
    assert isinstance(model, LfVilaVisionModel) and not report.new and not report.skipped
    came_from = goldens.keys["from_swin"]
    assert {our_name(name) for name in came_from} == set(report.loaded)
    for theirs, source in came_from.items():
        assert source in ("resized", report.loaded[our_name(theirs)]), theirs
    state = model.state_dict()
    goldens.expect("swin/patch_weight", state["patch_embed.proj.weight"])
    for block in ("0.blocks.1", "2.blocks.0", "5.blocks.1"):
        table = state[f"stages.{block}.attn.relative_position_bias_table"]
        goldens.expect(f"swin/layers.{block}.attn.relative_position_bias_table", table)
    goldens.expect("swin/map", model(goldens.clip("swin")).feature_map)

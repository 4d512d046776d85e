"""Windows, shifts, paddings and stochastic depth of the Video Swin Transformer, against naive definitions."""

import itertools

import pytest
import torch
from torch import nn

from violet.configuration import VioletVisionConfig, named_configuration
from violet.modeling_violet import VioletVisionModel, window_kernel
from violet.modeling_violet.attention import eager_attention_forward
from violet.modeling_violet.encoders import video_swin
from violet.modeling_violet.encoders.video_swin import (
    SHIFT_PENALTY,
    VioletDropPath,
    VioletPatchMerging,
    VioletVideoSwinBlock,
    VioletVideoSwinPatchEmbedding,
    effective_window,
    gather_rows,
    places_of_rows,
    relative_position_index,
    shift_mask,
    window_layout,
    window_partition,
)
from violet.modeling_violet.window_kernel import biased_attention

GRIDS = [((4, 4, 4), (2, 2, 2)), ((8, 14, 7), (8, 7, 7)), ((3, 6, 10), (1, 3, 5)), ((2, 4, 8), (2, 4, 4))]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vision_configuration(**overrides) -> VioletVisionConfig:
    return VioletVisionConfig(**{**named_configuration("violet-tiny").vision_config.to_dict(), **overrides})


def build_block(shifted: bool, window=(2, 2, 2)) -> VioletVideoSwinBlock:
    config = vision_configuration(window_size=window)
    torch.manual_seed(0)
    block = VioletVideoSwinBlock(config, 8, 2, tuple(config.window_size), shifted=shifted, drop_path=0.0).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block


@pytest.mark.parametrize("by_mask", [False, True])
@pytest.mark.parametrize("shift", [(0, 0, 0), (0, 2, 1), (1, 1, 1)])
@pytest.mark.parametrize("grid, window", [*GRIDS, ((3, 5, 6), (2, 3, 4))])
def test_a_layout_holds_the_windows_behind_the_shift_and_gives_the_grid_back(grid, window, shift, by_mask):
    x = noise(2, *grid, 3)
    layout = window_layout(grid, window, shift, by_mask, torch.device("cpu"))
    rows, tokens = torch.cat(layout.rows(2)), x.flatten(0, 3)
    gathered = gather_rows(tokens, rows, layout.padded)
    assert torch.equal(gathered.index_select(0, places_of_rows(rows, len(tokens))), tokens)
    missing = [-side % of for side, of in zip(grid, window, strict=True)]
    padded = nn.functional.pad(x, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0]))
    expected = window_partition(torch.roll(padded, [-moved for moved in shift], dims=(1, 2, 3)), window)
    windows = gathered.view(-1, layout.tokens, 3)
    if not by_mask:
        assert torch.equal(windows, expected)
        return
    masks = shift_mask(tuple(padded.shape[1:4]), window, shift, torch.device("cpu"), torch.float32)
    per_clip, first = len(expected) // 2, 0
    seen = []
    for run in layout.runs:
        for clip in range(2):
            for window_of_run in windows[first : first + run.windows]:
                same = [i for i in range(per_clip) if torch.equal(expected[clip * per_clip + i], window_of_run)]
                assert len(same) == 1
                seen.append((clip, same[0]))
                if masks is not None:
                    assert torch.equal(masks[same[0]], masks[run.example])
            first += run.windows
    assert sorted(seen) == list(itertools.product(range(2), range(per_clip)))


@pytest.mark.parametrize("grid, window", GRIDS)
def test_a_window_holds_neighbours_in_order(grid, window):
    places = torch.tensor(list(itertools.product(*map(range, grid)))).view(1, *grid, 3)
    windows = window_partition(places, window)
    starts = itertools.product(*(range(0, side, step) for side, step in zip(grid, window, strict=True)))
    for start, held in zip(starts, windows, strict=True):
        expected = [
            [s + o for s, o in zip(start, offset, strict=True)] for offset in itertools.product(*map(range, window))
        ]
        assert held.tolist() == expected


@pytest.mark.parametrize("window", [(1, 1, 1), (2, 3, 4), (3, 2, 2)])
def test_relative_position_index_numbers_every_offset_once(window):
    t, h, w = window
    offsets = list(itertools.product(range(1 - t, t), range(1 - h, h), range(1 - w, w)))
    row = {offset: number for number, offset in enumerate(offsets)}
    places = list(itertools.product(range(t), range(h), range(w)))
    expected = [[row[tuple(a - b for a, b in zip(query, key, strict=True))] for key in places] for query in places]
    index = relative_position_index(window)
    assert index.tolist() == expected
    assert index.unique().numel() == len(offsets)


@pytest.mark.parametrize(
    "grid, window, shift",
    [
        ((4, 4, 4), (2, 2, 2), (1, 1, 1)),
        ((4, 6, 4), (4, 3, 4), (0, 1, 0)),
        ((2, 7, 14), (2, 7, 7), (0, 0, 3)),
        ((6, 4, 8), (3, 2, 4), (1, 1, 2)),
    ],
)
def test_shift_mask_parts_tokens_from_different_sides_of_the_roll(grid, window, shift):
    # what was at place p stands at p - shift now; two tokens of a window may meet if their distance is what it was
    places = torch.tensor(list(itertools.product(*map(range, grid)))).view(1, *grid, 3)
    came_from = torch.roll(places, [-s for s in shift], dims=(1, 2, 3))
    now, before = window_partition(places, window), window_partition(came_from, window)
    mask = shift_mask(grid, window, shift, torch.device("cpu"), torch.float32)
    count, tokens = now.shape[:2]
    assert mask.shape == (count, 1, tokens, tokens)
    distance = now[:, :, None] - now[:, None, :]
    apart = (before[:, :, None] - before[:, None, :] != distance).any(-1)
    assert apart.any() and not apart.all()
    assert torch.equal(mask.squeeze(1), apart * SHIFT_PENALTY)


def test_no_shift_needs_no_mask():
    assert shift_mask((4, 4, 4), (2, 2, 2), (0, 0, 0), torch.device("cpu"), torch.float32) is None


def test_a_mask_made_in_inference_mode_can_be_trained_with():
    block = build_block(shifted=True)
    x = noise(1, 4, 6, 10, 8)  # a grid that no other test has
    with torch.inference_mode():
        block(x)
    block(x).square().sum().backward()
    assert block.attn.qkv.weight.grad.abs().max() > 0


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(4, 6, 8), (3, 5, 7), (1, 2, 9)])
def test_windows_in_parts_are_the_whole_pass(size, shifted, monkeypatch):
    """With and without a gradient, by each kernel, and with parts that end inside of a run of windows."""
    block, x = build_block(shifted), noise(3, *size, 8)
    expected = block(x)
    assert expected.requires_grad and expected.std() > 0.1
    for kernel, largest in itertools.product(("eager", "sdpa"), (1, 3 * 32 * 8 * 4, video_swin.PART_BYTES)):
        block.attn.config._attn_implementation = kernel
        monkeypatch.setattr(video_swin, "PART_BYTES", largest)
        for gradient in (True, False):
            with torch.set_grad_enabled(gradient):
                torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("largest", [1, 3 * 2 * 32 * 32 * 4, window_kernel.LOGIT_BYTES])
def test_attention_with_a_learned_bias_has_the_plain_steps_gradients(largest, monkeypatch):
    """Outputs and all gradients, the bias's too, whatever number of windows the backward pass takes at a time."""
    monkeypatch.setattr(window_kernel, "LOGIT_BYTES", largest)
    weights = noise(5, 32, 2, 4, seed=1)

    def passed(attention):
        qkv, bias = noise(5, 32, 3, 2, 4).requires_grad_(), noise(1, 2, 32, 32, seed=2).requires_grad_()
        output = attention(*qkv.permute(2, 0, 3, 1, 4), bias)  # (n, N, 3, heads, d) -> (3, n, heads, N, d)
        (output * weights).sum().backward()
        return output, qkv.grad, bias.grad

    module = nn.Module().train()
    plain = passed(lambda q, k, v, bias: eager_attention_forward(module, q, k, v, bias, scaling=0.7)[0])
    for ours, theirs in zip(passed(lambda *given: biased_attention(*given, 0.7)), plain, strict=True):
        assert theirs.abs().max() > 0.1
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shifted", [False, True])
def test_a_block_has_the_same_gradients_by_both_kernels(shifted):
    def gradients(kernel):
        block = build_block(shifted)
        block.attn.config._attn_implementation = kernel
        block(noise(3, 3, 5, 7, 8)).square().sum().backward()
        return {name: parameter.grad for name, parameter in block.named_parameters()}

    eager, ours = gradients("eager"), gradients("sdpa")
    for name, gradient in eager.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(ours[name], gradient, atol=1e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    "grid, shifted, window, shift",
    [
        ((8, 14, 14), True, (8, 7, 7), (0, 3, 3)),  # no longer than the window: nothing to shift along frames
        ((9, 14, 14), True, (8, 7, 7), (4, 3, 3)),
        ((9, 14, 14), False, (8, 7, 7), (0, 0, 0)),
        ((4, 2, 10), True, (4, 2, 7), (0, 0, 3)),
        ((1, 7, 7), True, (1, 7, 7), (0, 0, 0)),
    ],
)
def test_effective_window_shrinks_to_the_grid_and_is_shifted_only_beyond_it(grid, shifted, window, shift):
    assert effective_window(grid, (8, 7, 7), shifted) == (window, shift)
    assert effective_window(grid, (8, 7, 7), shifted, in_time=False) == (window, (0, *shift[1:]))


@torch.no_grad()
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("place", [(0, 0, 0), (1, 2, 3), (3, 3, 0)])
def test_attention_reaches_exactly_the_tokens_of_the_shifted_window(shifted, place):
    block, grid = build_block(shifted), (4, 4, 4)
    x = noise(1, *grid, 8)
    changed = x.clone()
    changed[0][place] += 1.0
    reached = (block.attend(changed) - block.attend(x)).abs().amax(-1)[0] > 1e-6
    moved = 1 if shifted else 0  # half the window

    def same_window(a, b):
        return all((i - moved) // 2 == (j - moved) // 2 for i, j in zip(a, b, strict=True))

    expected = torch.tensor([same_window(place, other) for other in itertools.product(*map(range, grid))]).view(grid)
    assert torch.equal(reached, expected)


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_sample_does_not_depend_on_its_batch(kernel):
    block = build_block(shifted=True)
    block.attn.config._attn_implementation = kernel
    x = noise(3, 4, 5, 6, 8)
    together = block(x)
    assert together.std() > 0.1
    torch.testing.assert_close(together, torch.cat([block(sample[None]) for sample in x]), atol=1e-5, rtol=0)


@torch.no_grad()
def test_merging_an_odd_grid_pads_it_with_zeros():
    torch.manual_seed(0)
    merging = VioletPatchMerging(vision_configuration(), 4)
    x = noise(2, 3, 5, 7, 4)
    merged = merging(x)
    assert merged.shape == (2, 3, 3, 4, 8)
    assert torch.equal(merged, merging(nn.functional.pad(x, (0, 0, 0, 1, 0, 1))))
    assert merged.std() > 0.01


@torch.no_grad()
def test_merging_reads_the_four_corners_down_before_across():
    merging = VioletPatchMerging(vision_configuration(), 1)
    merging.norm = nn.Identity()
    merging.reduction = nn.Identity()
    corners = merging(torch.arange(4.0).view(1, 1, 2, 2, 1))  # 0 1 above 2 3
    assert corners.flatten().tolist() == [0, 2, 1, 3]


@torch.no_grad()
@pytest.mark.parametrize("stride, frames, expected", [(1, 4, 4), (1, 1, 1), (2, 4, 2), (2, 5, 3), (2, 1, 1)])
def test_patches_of_any_size_are_completed_by_zeros(stride, frames, expected):
    torch.manual_seed(0)
    embed = VioletVideoSwinPatchEmbedding(vision_configuration(temporal_stride=stride))
    pixels = noise(2, frames, 3, 10, 13)
    patches = embed(pixels)
    assert patches.shape == (2, expected, 3, 4, 32)
    completed = nn.functional.pad(pixels, (0, 3, 0, 2, 0, 0, 0, 1))
    assert torch.equal(patches, embed(completed)[:, :expected])
    assert patches.std() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("size, grid", [((70, 54), (3, 2)), ((33, 32), (2, 1)), ((1, 1), (1, 1)), ((96, 130), (3, 5))])
def test_odd_sizes_give_a_grid_rounded_up(size, grid):
    torch.manual_seed(0)
    model = VioletVisionModel(vision_configuration()).eval()
    pixels = noise(1, 3, 3, *size)
    features = model(pixels).last_hidden_state
    assert features.shape == (1, 3, *grid, 256)
    assert features.isfinite().all() and features.std() > 0.1
    completed = nn.functional.pad(pixels, (0, -size[1] % 4, 0, -size[0] % 4))
    torch.testing.assert_close(features, model(completed).last_hidden_state)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop, x = VioletDropPath(0.3).train(), torch.ones(20000, 2, 3)
    dropped = drop(x)
    first = dropped[:, :1, :1]
    assert torch.equal(dropped, first.expand_as(dropped))
    torch.testing.assert_close(first.unique(), torch.tensor([0, 1 / 0.7]))
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)


def test_stochastic_depth_is_off_in_evaluation():
    x = noise(50, 4)
    assert torch.equal(VioletDropPath(0.9).eval()(x), x)
    assert torch.equal(VioletDropPath(0.0).train()(x), x)


def test_stochastic_depth_grows_linearly_over_all_blocks():
    model = VioletVisionModel(vision_configuration(drop_path_rate=0.4))
    rates = [block.drop_path.rate for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_a_dropped_block_is_the_identity():
    config = vision_configuration(window_size=(2, 2, 2))
    torch.manual_seed(0)
    block = VioletVideoSwinBlock(config, 8, 2, tuple(config.window_size), shifted=False, drop_path=0.999999).train()
    torch.nn.init.zeros_(block.attn.relative_position_bias_table)  # a block on its own leaves it as the memory was
    x = noise(4, 2, 4, 4, 8)
    assert torch.equal(block(x), x)
    assert not torch.equal(block.eval()(x), x)

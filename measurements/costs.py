"""What one clip costs in each system's vision encoder, counted; and the time of CLIP-ViP's attention.

    python measurements/costs.py [NAME ...] [--clock] [--json FILE]

Builds each encoder on the meta device, which holds no numbers, passes one clip, and counts multiply-accumulates (a
MAC is two of the operations that torch's FlopCounterMode counts): those of linear layers and convolutions, and those
of attention's two products (queries with keys, weights with values), which some published counts leave out.
Elementwise operations and norms are not counted. Beside it stands what the specification counts, and the difference.

With `--clock` a layer of CLIP-ViP is timed too, on one thread: its attention in two parts as it is, against the same
weights in one attention over all tokens, under the mask that gives the same numbers.

To add a system: a line of `SYSTEMS`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from violet.core.files import write_json
from violet.modeling_violet.encoders.clip_vip import ClipVipLayer, ClipVipVisionConfig, ClipVipVisionModel
from violet.modeling_violet.encoders.temporal_windows import LfVilaVisionConfig, LfVilaVisionModel
from violet.modeling_violet.encoders.two_resolutions import SCALE, HdVilaVisionConfig, HdVilaVisionModel
from violet.modeling_violet.encoders.uniformerv2 import UniFormerV2Config, UniFormerV2Model

ATTENTION = ("bmm", "baddbmm", "scaled_dot_product")
"""Parts of the names of the operations that are attention's products."""


@dataclass(frozen=True)
class System:
    """
    A model and a clip.

    Attributes:
        name: of the row.
        build: makes the model, on the device that is the default one.
        clip: (frames, height, width).
        expected: GMAC of one clip by the specification; None if it gives none.
        with_attention: whether that number has attention's products in it.
        run: passes a clip (1, frames, 3, height, width) through the model; by default it is called with it.
    """

    name: str
    build: Callable[[], nn.Module]
    clip: tuple[int, int, int]
    expected: float | None = None
    with_attention: bool = True
    run: Callable[[Any, torch.Tensor], Any] = lambda model, pixels: model(pixels)


def uniformerv2(**changes: Any) -> Callable[[], nn.Module]:
    return lambda: UniFormerV2Model(UniFormerV2Config(**changes))


def clip_vip(**changes: Any) -> Callable[[], nn.Module]:
    return lambda: ClipVipVisionModel(ClipVipVisionConfig(**changes))


def lf_vila(**changes: Any) -> Callable[[], nn.Module]:
    return lambda: LfVilaVisionModel(LfVilaVisionConfig(**changes))


def hd_vila(**changes: Any) -> Callable[[], nn.Module]:
    return lambda: HdVilaVisionModel(HdVilaVisionConfig(**changes))


def sharp_and_small(model: HdVilaVisionModel, pixels: torch.Tensor) -> Any:
    """The middle frame as it is, and all of them at a quarter of the height and width."""
    middle = pixels.shape[1] // 2
    made = {
        "pixel_values_videos": pixels[..., ::SCALE, ::SCALE],
        "pixel_values_detail": pixels[:, middle : middle + 1],
    }
    return model(**{name: made[name] for name in model.config.inputs})


TEMPORAL = {"temporal_downsampling": True, "local_blocks": 2, "global_layers": list(range(4, 12))}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14}
SYSTEMS: Sequence[System] = (
    System("UniFormerV2 B/16 scene", uniformerv2(), (8, 224, 224), 142.4, with_attention=False),
    System("UniFormerV2 B/16 temporal", uniformerv2(**TEMPORAL), (16, 224, 224), 181.5, with_attention=False),
    System(
        "UniFormerV2 L/14 336 px",
        uniformerv2(**LARGE, image_size=336, global_layers=list(range(20, 24))),
        (8, 336, 336),
    ),
    System("CLIP-ViP B/32", clip_vip(patch_size=32), (12, 224, 224)),
    System("CLIP-ViP B/16", clip_vip(), (12, 224, 224)),
    System("LF-VILA", lf_vila(), (32, 192, 320)),
    # The original computes the intermediate map, and drops it: the specification counts it.
    System("LF-VILA, intermediate map", lf_vila(clip_features="intermediate"), (32, 192, 320), 156.8),
    System("LF-VILA, intermediate map, 8 frames", lf_vila(clip_features="intermediate"), (8, 192, 320), 38.8),
    System("LF-VILA, 32 frames in each window", lf_vila(window_sizes=((32, 3, 5),) * 6), (32, 192, 320), 178.0),
    System("HD-VILA", hd_vila(), (7, 640, 1024), 153.7, run=sharp_and_small),
    System("HD-VILA, small", hd_vila(resolutions="small"), (7, 640, 1024), 101.3, run=sharp_and_small),
    System("HD-VILA, sharp", hd_vila(resolutions="sharp"), (7, 640, 1024), run=sharp_and_small),
)


@dataclass(frozen=True)
class Cost:
    """
    Counted: `parameters`, and multiply-accumulates of `layers` (linear, convolutions), of `attention`, and of both in
    each of the model's `parts`.
    """

    parameters: int
    layers: int
    attention: int
    parts: Mapping[str, int]

    def gmac(self, with_attention: bool = True) -> float:
        return (self.layers + (self.attention if with_attention else 0)) / 1e9


def count(system: System) -> Cost:
    """The cost of one clip of a system."""
    with torch.device("meta"):
        model = system.build().eval().requires_grad_(False)
        frames, height, width = system.clip
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            system.run(model, torch.empty(1, frames, 3, height, width))
    counts = counter.get_flop_counts()
    macs = {str(name): operations // 2 for name, operations in counts["Global"].items()}
    attention = sum(number for name, number in macs.items() if any(part in name for part in ATTENTION))
    within = {name: counts.get(f"{type(model).__name__}.{name}", {}) for name, _ in model.named_children()}
    parts = {name: sum(operations.values()) // 2 for name, operations in within.items()}
    return Cost(sum(one.numel() for one in model.parameters()), sum(macs.values()) - attention, attention, parts)


def row(system: System) -> dict[str, Any]:
    """A system's line of the table."""
    cost = count(system)
    counted = cost.gmac(system.with_attention)
    return {
        "name": system.name,
        "clip": " x ".join(map(str, system.clip)),
        "million_parameters": cost.parameters / 1e6,
        "gmac_layers": cost.layers / 1e9,
        "gmac_attention": cost.attention / 1e9,
        "gmac": cost.gmac(),
        "specification": system.expected,
        "with_attention": system.with_attention,
        "difference": None if system.expected is None else counted / system.expected - 1,
    }


class DenseLayer(nn.Module):
    """A layer of CLIP-ViP whose attention is one over all tokens: what is hidden from a query is computed as well."""

    def __init__(self, layer: ClipVipLayer, frames: int, patches: int):
        super().__init__()
        self.layer = layer
        attention = layer.self_attn
        proxies = torch.full((attention.num_proxies,), -1)
        frame = torch.cat([proxies, torch.arange(frames).repeat_interleave(patches)])  # of each token
        is_proxy = frame < 0
        self.mask = is_proxy[:, None] | is_proxy[None] | (frame[:, None] == frame[None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer, attention = self.layer, self.layer.self_attn
        states = layer.layer_norm1(x)
        # (B, N, D) -> (B, N, heads, d) -> (B, heads, N, d)
        query, key, value = (
            project(states).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        output = nn.functional.scaled_dot_product_attention(query, key, value, self.mask)
        x = x + attention.out_proj(output.transpose(1, 2).flatten(2))  # (B, heads, N, d) -> (B, N, D)
        return x + layer.mlp(layer.layer_norm2(x))


@torch.no_grad()
def clock(patch_size: int, frames: int = 12, side: int = 224, repeats: int = 9) -> dict[str, Any]:
    """
    One layer of a CLIP-ViP B for one clip: pairs of query and key a head, and milliseconds (medians of runs in turn).

    Raises:
        ArithmeticError: if the two give other numbers.
    """
    torch.manual_seed(0)
    config = ClipVipVisionConfig(patch_size=patch_size)
    config._attn_implementation = "sdpa"
    layer = ClipVipLayer(config).eval()
    patches = (side // patch_size) ** 2
    x = torch.randn(1, config.num_proxies + frames * patches, config.hidden_size)
    dense = DenseLayer(layer, frames, patches)
    ways = {"two_part": lambda: layer(x, frames), "dense": lambda: dense(x)}
    if not torch.allclose(ways["two_part"](), ways["dense"](), atol=1e-4):
        raise ArithmeticError("Attention in two parts and under the mask give other numbers.")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    pairs = dict(zip(ways, config.attention_pairs(frames, side, side), strict=True))
    times = {f"milliseconds_{name}": 1000 * statistics.median(of_way) for name, of_way in seconds.items()}
    return {"name": f"CLIP-ViP B/{patch_size}, {frames} frames", **pairs, **times}


def print_clock() -> list[dict[str, Any]]:
    """The table of `--clock`."""
    torch.set_num_threads(1)
    print("\n| one layer | pairs, in two parts | pairs, dense | ms, in two parts | ms, dense |\n|---|---|---|---|---|")
    timed = []
    for patch_size in (32, 16):
        one = clock(patch_size)
        timed.append(one)
        times = f"{one['milliseconds_two_part']:.1f} | {one['milliseconds_dense']:.1f}"
        print(f"| {one['name']} | {one['two_part']:,} | {one['dense']:,} | {times} |", flush=True)
    return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of the rows' names; all by default")
    parser.add_argument("--clock", action="store_true", help="time a layer of CLIP-ViP too")
    parser.add_argument("--json", type=Path, help="also writes the rows there")
    options = parser.parse_args()
    wanted = [one for one in SYSTEMS if not options.names or one.name.startswith(tuple(options.names))]
    if not wanted:
        parser.error(f"no system begins so; there are {', '.join(one.name for one in SYSTEMS)}")
    print("| system | clip | parameters, M | layers, GMAC | attention's products | together | specification |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for system in wanted:
        one = row(system)
        rows.append(one)
        numbers = [f"{one[name]:.2f}" for name in ("million_parameters", "gmac_layers", "gmac_attention", "gmac")]
        told = "-"
        if system.expected is not None:
            of = "together" if system.with_attention else "layers"
            told = f"{system.expected} ({of}; {one['difference']:+.2%})"
        print(f"| {one['name']} | {one['clip']} | {' | '.join(numbers)} | {told} |", flush=True)
    if options.clock:
        rows += print_clock()
    if options.json:
        write_json(options.json, json.loads(json.dumps(rows)))


if __name__ == "__main__":
    main()

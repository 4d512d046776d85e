"""
The paths of `violet speed` that tell what each system costs beside the plain way: parameters, multiply-accumulates,
time, memory, and bytes that are kept of a clip.

Encoders are counted on the meta device, which holds no numbers: multiply-accumulates (a MAC is two of the operations
that torch's FlopCounterMode counts) of linear layers and convolutions, and of attention's two products (queries with
keys, weights with values), which some published counts leave out. Elementwise operations and norms are not counted.
Beside it stands what the specification counts, and the difference. To add an encoder: a line of `SYSTEMS`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..configuration import VioletConfig, named_configuration
from ..modeling_violet import VioletForCaptioning, VioletForPreTraining
from ..modeling_violet.encoders.clip_vip import ClipVipLayer, ClipVipVisionConfig, ClipVipVisionModel
from ..modeling_violet.encoders.maskalign_vit import MaskAlignVisionConfig, MaskAlignVisionModel
from ..modeling_violet.encoders.temporal_windows import LfVilaVisionConfig, LfVilaVisionModel
from ..modeling_violet.encoders.two_resolutions import SCALE, HdVilaVisionConfig, HdVilaVisionModel
from ..modeling_violet.encoders.uniformerv2 import UniFormerV2Config, UniFormerV2Model
from ..modeling_violet.experts import ExpertOptions, VioletExperts
from ..modeling_violet.fusions import build_fusion
from ..modeling_violet.objectives.align import (
    AlignOptions,
    MaskAlignHead,
    distance,
    draw_kept,
    normalised,
    num_kept,
)
from ..modeling_violet.tokens import Tokens, gather_tokens
from .judged_paths import device
from .measuring import Bar, Case, Setting, peak_bytes

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


def costs_of(system: System) -> dict[str, Any]:
    """A system's numbers in the table."""
    cost = count(system)
    counted = cost.gmac(system.with_attention)
    numbers = {
        "million_parameters": cost.parameters / 1e6,
        "gmac_layers": cost.layers / 1e9,
        "gmac_attention": cost.attention / 1e9,
        "gmac": cost.gmac(),
    }
    if system.expected is None:
        return numbers
    return numbers | {"specification": system.expected, "difference": counted / system.expected - 1}


def encoders(setting: Setting) -> Iterator[Case]:
    """A clip in the vision encoder of each system: parameters and multiply-accumulates, beside the specification"""
    for system in SYSTEMS[3:4] if setting.quick else SYSTEMS:
        with torch.device(device()):
            model = system.build().eval().requires_grad_(False)
            pixels = torch.randn(1, system.clip[0], 3, *system.clip[1:])
        run = torch.no_grad()(lambda model=model, pixels=pixels, system=system: system.run(model, pixels))
        yield Case(system.name, run, 1, "clips", counted=True, numbers=costs_of(system))


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
def two_part_attention(patch_size: int, frames: int, side: int) -> Case:
    """
    A layer of CLIP-ViP-B in two parts, beside the same weights in one attention over all tokens.

    Raises:
        ArithmeticError: if the two give other numbers.
    """
    torch.manual_seed(0)
    config = ClipVipVisionConfig(patch_size=patch_size)
    config._attn_implementation = "sdpa"
    layer = ClipVipLayer(config).eval().to(device())
    patches = (side // patch_size) ** 2
    x = torch.randn(1, config.num_proxies + frames * patches, config.hidden_size, device=device())
    dense = DenseLayer(layer, frames, patches).to(device())
    run, beside = torch.no_grad()(lambda: layer(x, frames)), torch.no_grad()(lambda: dense(x))
    if not torch.allclose(run(), beside(), atol=1e-4):
        raise ArithmeticError("Attention in two parts and under the mask give other numbers.")
    pairs = dict(zip(("pairs_two_part", "pairs_dense"), config.attention_pairs(frames, side, side), strict=True))
    return Case(f"CLIP-ViP B/{patch_size}, a layer", run, 1, "clips", beside, "a dense mask", numbers=pairs)


def clip_vip_layers(setting: Setting) -> Iterator[Case]:
    """A layer of CLIP-ViP, twelve frames: attention in two parts beside one attention under a dense mask"""
    for patch_size in (32, 16):
        yield two_part_attention(patch_size, *((4, 128) if setting.quick else (12, 224)))


VLORA_WORDS, CELLS, WIDTH, LAYERS = 25, 7 * 7, 768, 12


def low_rank(setting: Setting) -> Iterator[Case]:
    """A clip as low-rank weights of the fusion (VLoRA), beside its tokens in the sequence"""
    plain: Any = build_fusion(VioletConfig(attn_implementation="sdpa")).eval().requires_grad_(False).to(device())
    own = VioletConfig(attn_implementation="sdpa", fusion_model_config={"model_type": "low_rank"})
    weighted: Any = build_fusion(own).eval().requires_grad_(False).to(device())
    rows = 1 if setting.quick else 8

    def tokens(length: int) -> Tokens:
        states = torch.randn(rows, length, WIDTH, device=device())
        return Tokens(states, torch.ones(states.shape[:2], dtype=torch.long, device=device()))

    def parameters(module: nn.Module) -> float:
        return sum(one.numel() for one in module.parameters()) / 1e6

    text, seconds = tokens(VLORA_WORDS), {}
    for frames in (4, 16):
        video = tokens(frames * (1 + CELLS))
        with torch.no_grad():
            ready = weighted.prepare(video)
        long = torch.no_grad()(lambda video=video: plain({"video": video, "text": text}))

        def whole(video: Tokens = video) -> Any:
            return weighted({"video": weighted.prepare(video), "text": text})

        kept = {"million_parameters": parameters(weighted), "plain_million_parameters": parameters(plain)}
        kept |= {"bytes_a_clip": 4 * ready.prepared[0].numel()}
        kept["plain_bytes_a_clip"] = 4 * 2 * LAYERS * video.tokens[0].numel()
        bars = [Bar("ratio", most=0.25)] if frames == 4 else []
        name, unit = f"VLoRA, {frames} frames", "pairs"
        yield Case(name, torch.no_grad()(whole), rows, unit, long, "tokens in the sequence", numbers=kept, bars=bars)
        only = torch.no_grad()(lambda ready=ready: weighted({"video": ready, "text": text}))
        seconds[frames] = only
    bars = [Bar("ratio", most=1.15)]
    yield Case("VLoRA, only the fusion, 16 frames", seconds[16], rows, "pairs", seconds[4], "4 frames", bars=bars)


COCA_PLAIN: dict[str, Any] = {
    "text_config": None,
    "fusion_model_config": None,
    "vision_positions": "none",
    "pooler": None,
    "projection_dim": None,
    "objectives": None,
}
"""What of a CoCa's configuration goes, so that its video's tokens stand in one sequence with the words."""


def writing_costs(config: Any, frames: int, words: int) -> dict[str, float]:
    """What writing about a clip costs, counted on the meta device: GMAC, and bytes of keys and values in float32."""
    from transformers import DynamicCache

    with torch.device("meta"), torch.no_grad():
        model = VioletForCaptioning(config).eval()
        side = config.vision_config.image_size
        with FlopCounterMode(display=False) as of_clip:
            video = model.violet.encode_videos(torch.empty(1, frames, 3, side, side))
        cache: Any = DynamicCache()
        with FlopCounterMode(display=False) as of_words:
            for word in range(words):
                ids, mask = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, word + 1, dtype=torch.long)
                places = torch.full((1, 1), word, dtype=torch.long)
                model(video_tokens=video, input_ids=ids, attention_mask=mask, position_ids=places, cache=cache)
    length, of_video = video.tokens.shape[1], 0
    for keys in (layer.keys for layer in cache.layers):
        own = length if keys.shape[2] == length else max(keys.shape[2] - words, 0)
        of_video += 4 * 2 * own * keys.shape[1] * keys.shape[3]
    return {
        "million_parameters": sum(one.numel() for one in model.parameters()) / 1e6,
        "gmac_clip": of_clip.get_total_flops() / 2e9,
        "gmac_words": of_words.get_total_flops() / 2e9,
        "cache_bytes_video": of_video,
        "cache_bytes_all": sum(4 * (layer.keys.numel() + layer.values.numel()) for layer in cache.layers),
    }


def coca(setting: Setting) -> Iterator[Case]:
    """Writing 30 words about a clip with CoCa, beside its tokens in one sequence with the words"""
    (name, words), frames = ("coca-tiny", 4) if setting.quick else ("coca-vit-base-32", 30), 8
    models = []
    for changes in ({}, COCA_PLAIN):
        model = VioletForCaptioning(named_configuration(name, **changes)).eval().to(device())
        side = model.config.vision_config.image_size
        clip = torch.randn(1, frames, 3, side, side, device=device())
        video = model.violet.encode_videos(clip)

        def write(model: Any = model, video: Any = video) -> Any:
            return model.generate(video_tokens=video, do_sample=False, min_new_tokens=words, max_new_tokens=words)

        models.append(write)
    ours, plain = (writing_costs(named_configuration(name, **some), frames, words) for some in ({}, COCA_PLAIN))
    numbers = ours | {f"plain_{key}": value for key, value in plain.items()}
    yield Case("CoCa, decode", models[0], words, "words", models[1], "one sequence", numbers=numbers)


class AlignStep:
    """A step of MaskAlign's student on pictures of 224 pixels; its teacher's states are stored."""

    def __init__(self, pictures: int):
        self.cells = 14 * 14
        self.student = MaskAlignVisionModel(MaskAlignVisionConfig()).train().to(device())
        self.head = MaskAlignHead(AlignOptions(), 12, 768).to(device())
        self.pixels = torch.randn(pictures, 1, 3, 224, 224, device=device())
        self.noise = torch.empty(pictures, 1, self.cells, device=device()).exponential_()
        # of each layer of the teacher's last five (width 768), and the weight that its class token gives each cell
        self.stored = torch.randn(pictures, 1, 1 + self.cells, 5 * 768 + 1, device=device())

    def learn(self, ratio: float) -> None:
        """Forward and backward of the student and its head."""
        kept = draw_kept(self.noise, num_kept(self.cells, ratio), self.stored[:, :, 1:, -1].sigmoid())
        blocks = self.student(self.pixels, kept=kept, output_hidden_states=True).hidden_states[1:]
        places = torch.cat([torch.zeros_like(kept[..., :1]), kept + 1], dim=-1).flatten(0, 1)
        wanted = gather_tokens(self.stored[..., :-1].flatten(0, 1), places).unflatten(-1, (5, 768)).unbind(-2)
        pairs = zip(self.head(blocks), wanted, strict=True)
        loss = torch.stack([distance(one, normalised(other, "whiten"), "smoothl1") for one, other in pairs]).mean()
        loss.backward()
        self.student.zero_grad()
        self.head.zero_grad()


def maskalign(setting: Setting) -> Iterator[Case]:
    """A step of MaskAlign's student on 30 % of the patches, beside one on all of them"""
    pictures = 1 if setting.quick else 4
    step = AlignStep(pictures)
    bars = [Bar("ratio", most=0.40)]
    run, beside = lambda: step.learn(0.7), lambda: step.learn(0.0)
    yield Case("MaskAlign, ratio 0.7", run, pictures, "pictures", beside, "all patches", bars=bars)


def experts(setting: Setting) -> Iterator[Case]:
    """A layer of IMP-B with 16 experts, beside a dense one of the same cost a token"""
    clips = 2 if setting.quick else 8
    x = torch.randn(clips, 256, 768, device=device())
    dense = nn.Sequential(
        nn.Linear(768, 3072, bias=False), nn.GELU(approximate="tanh"), nn.Linear(3072, 768, bias=False)
    )
    dense.eval().to(device())
    for choice in ("experts", "tokens"):
        layer: Any = VioletExperts(ExpertOptions(16, choice=choice), 768, 3072, "gelu_pytorch_tanh")
        layer.start_weights()
        layer.eval().to(device())
        numbers = {"million_parameters": sum(one.numel() for one in layer.parameters()) / 1e6}
        run, beside = torch.no_grad()(lambda layer=layer: layer(x)), torch.no_grad()(lambda: dense(x))
        yield Case(f"{choice} choose", run, clips, "clips", beside, "a dense layer", numbers=numbers)


PART, PARTS = 8, 8
CONTRAST = {"vtc": 1.0}


def caching_model(side: int, frames: int) -> VioletForPreTraining:
    """Two towers of width 256, of 6 and 4 layers."""
    vision = {"model_type": "clip_vip", "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}
    vision |= {"num_attention_heads": 4, "patch_size": 16, "image_size": side, "temporal_size": frames}
    tiny: Any = named_configuration("clip-vip-tiny")
    text = {**tiny.text_config.to_dict(), "hidden_size": 256}
    text |= {"intermediate_size": 1024, "num_hidden_layers": 4}
    sizes = {"video_grid_size": side // 16, "num_video_frames": frames}
    config = named_configuration("clip-vip-tiny", vision_config=vision, text_config=text, **sizes)
    return VioletForPreTraining(config).to(device()).train()


def gradient_caching(setting: Setting) -> Iterator[Case]:
    """A contrastive batch of 64 rows in parts of 8, beside eight batches of 8"""
    from ..training.gradient_caching import backward_in_parts, split_batch

    (side, frames), parts = ((48, 4), 2) if setting.quick else ((96, 8), PARTS)
    model, rows = caching_model(side, frames), PART * parts
    batch = {
        "pixel_values_videos": torch.randn(rows, frames, 3, side, side, device=device()),
        "input_ids": torch.randint(5, 500, (rows, 24), device=device()),
        "attention_mask": torch.ones(rows, 24, dtype=torch.long, device=device()),
    }
    each = split_batch(batch, rows, PART)

    def compare(sets: dict[str, torch.Tensor]) -> tuple[Any, None]:
        return model.compare_embeddings(sets, CONTRAST, **batch).loss, None

    def cached() -> None:
        backward_in_parts(
            each,
            lambda part: model(**part, objectives=CONTRAST, only_embeddings=True).embeddings,
            compare,
            lambda part, given, last: model(**part, objectives=CONTRAST, embedding_gradients=given).loss.backward(),
            model.shared(model.find_objectives(CONTRAST)),
        )

    def learn(part: Mapping[str, Any]) -> None:
        model(**part, objectives=CONTRAST).loss.backward()

    def separate() -> None:
        for part in each:
            learn(part)

    separate()  # from here on the gradients have their memory

    def memory(row: Mapping[str, Any]) -> dict[str, float]:
        of_one = peak_bytes(lambda: learn(each[0]))
        return {"peak_of_one_batch": row["peak_bytes"] / of_one} if row["peak_bytes"] and of_one else {}

    bars = [Bar("ratio", most=1.6), Bar("peak_of_one_batch", most=1.2)]
    name, beside = f"gradient caching, {rows} rows", f"{parts} batches of {PART}"
    yield Case(name, cached, rows, "clips", separate, beside, numbers=memory, bars=bars)

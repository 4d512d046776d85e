"""
What writing about a clip costs with CoCa, beside the plain way: the same trunk, whose tokens all stand in one sequence
with the words in a fusion of as many layers, heads and width. Counted on the meta device, which holds no numbers.

    python measurements/coca_cost.py [--configuration coca-vit-base-32] [--frames 8] [--words 30] [--json rows.json]

A row: weights (millions), multiply-accumulates of the clip's side and of writing the words with a cache (GMAC; linear
layers, convolutions and attention's products), and the bytes of keys and values of a clip in float32 at the last
word: of the video, and of the words. Time: `python measurements/generation.py --configuration coca-vit-base-32
--frames 8 --words 30 --clock cpu`.
"""

import argparse
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from violet import named_configuration
from violet.core.files import write_json
from violet.modeling_violet import VioletForCaptioning

PLAIN: dict[str, Any] = {
    "text_config": None,
    "fusion_model_config": None,
    "vision_positions": "none",
    "pooler": None,
    "projection_dim": None,
    "objectives": None,
}


def row(name: str, config: Any, frames: int, words: int) -> dict[str, Any]:
    """The counts of one clip."""
    with torch.device("meta"):
        model = VioletForCaptioning(config).eval().requires_grad_(False)
        side = config.vision_config.image_size
        with FlopCounterMode(display=False) as of_clip, torch.no_grad():
            video = model.violet.encode_videos(torch.empty(1, frames, 3, side, side))
        cache = DynamicCache()
        with FlopCounterMode(display=False) as of_words, torch.no_grad():
            for word in range(words):
                ids = torch.zeros(1, 1, dtype=torch.long)
                places = torch.full((1, 1), word, dtype=torch.long)
                mask = torch.ones(1, word + 1, dtype=torch.long)
                model(video_tokens=video, input_ids=ids, attention_mask=mask, position_ids=places, cache=cache)
    of_video = 0
    total = sum(4 * (layer.keys.numel() + layer.values.numel()) for layer in cache.layers)
    for layer in cache.layers:
        others = layer.keys.shape[2] - words if layer.keys.shape[2] > words else 0
        own = layer.keys.shape[2] if layer.keys.shape[2] == video.tokens.shape[1] else others
        of_video += 4 * 2 * own * layer.keys.shape[1] * layer.keys.shape[3]
    return {
        "name": name,
        "million_parameters": sum(one.numel() for one in model.parameters()) / 1e6,
        "video_tokens": video.tokens.shape[1],
        "gmac_clip": of_clip.get_total_flops() / 2e9,
        "gmac_words": of_words.get_total_flops() / 2e9,
        "cache_bytes_video": of_video,
        "cache_bytes_words": total - of_video,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configuration", default="coca-vit-base-32")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--words", type=int, default=30)
    parser.add_argument("--json", help="a JSON file for the rows")
    options = parser.parse_args()
    name, sizes = options.configuration, (options.frames, options.words)
    rows = [
        row(name, named_configuration(name), *sizes),
        row("one sequence", named_configuration(name, **PLAIN), *sizes),
    ]
    for one in rows:
        print(
            ", ".join(
                f"{key} {value:,.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in one.items()
            )
        )
    if options.json:
        write_json(options.json, {"frames": options.frames, "words": options.words, "rows": rows})


if __name__ == "__main__":
    main()

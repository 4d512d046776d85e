"""What a clip costs HD-VILA's video encoder, in multiply-accumulates, counted on the meta device.

python measurements/hd_vila_cost.py [--height 640 --width 1024]
"""

import argparse

import torch
from torch.utils.flop_counter import FlopCounterMode

from violet.modeling_violet.encoders.two_resolutions import HdVilaVisionConfig, HdVilaVisionModel


def costs(config: HdVilaVisionConfig, height: int, width: int) -> dict[str, float]:
    """
    Multiply-accumulates of one row of clips whose sharp frames have that size: "all", and of its parts "sharp" and
    "small" (the ResNets), "timesformer", and "rest" (the 1x1 convolutions).
    """
    with torch.device("meta"):
        model = HdVilaVisionModel(config).eval()
        inputs = {
            "pixel_values_videos": torch.empty(1, config.num_clips * config.num_frames, 3, height // 4, width // 4),
            "pixel_values_detail": torch.empty(1, config.num_clips, 3, height, width),
        }
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(**{name: pixels for name, pixels in inputs.items() if name in config.inputs})
    counted = counter.get_flop_counts()
    found = {"all": counter.get_total_flops() / 2}
    for part in ("sharp", "small", "timesformer"):
        found[part] = sum(counted.get(f"{type(model).__name__}.{part}", {}).values()) / 2
    return found | {"rest": found["all"] - sum(found[part] for part in ("sharp", "small", "timesformer"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=640)
    parser.add_argument("--width", type=int, default=1024)
    args = parser.parse_args()
    for resolutions in ("both", "small", "sharp"):
        config = HdVilaVisionConfig(resolutions=resolutions, interpolate=True)
        counted = costs(config, args.height, args.width)
        print(resolutions, ", ".join(f"{part} {macs / 1e9:.1f} GMAC" for part, macs in counted.items()))


if __name__ == "__main__":
    main()

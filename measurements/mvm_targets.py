"""
Learns each target of masked visual modelling by itself, and says how far the error on hidden patches falls.

    python measurements/mvm_targets.py [--target NAME] [--seconds 150 | --steps 600] [--json rows.json]

For each target a violet-tiny is trained from scratch on drawn clips, by the training code that `violet pretrain` uses,
and measured on the hidden patches of clips that it never saw. `constant` is the error of the best prediction that is
the same everywhere: the median of each channel, for visual words their frequencies. `cut off` is the same training, as
many steps, with the visual encoder left at its random start: the fusion still sees its tokens, but no gradient comes
back to it. The bar: the error falls by 30 % or more below `constant`, and by clearly more than when cut off.

Teachers are analytic, or small networks at a random start. Those are convolutions without norms, on blurred frames:
what a small random Swin, Video Swin or CLIP gives for a patch is hardly foreseeable. The mean of the same patch in the
frames before and after it has an error only 4 to 20 % below the best constant's for those.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import torch
from torch import nn

from violet import VideoTextProcessor, VioletForPreTraining, VioletVideoProcessor, named_configuration
from violet.core.files import write_json
from violet.data.loading import ClipReader
from violet.data.moving_shapes import draw_clip, moving_shapes
from violet.modeling_violet.encoders import find_encoder
from violet.modeling_violet.objectives.masked_vision import MVM_TARGETS, mvm_loss, start_at
from violet.modeling_violet.objectives.teachers import Teacher
from violet.modeling_violet.objectives.vision_targets import LARGEST_FLOW
from violet.processing import train_wordpiece_tokenizer
from violet.training.learning_rates import learning_rate_factor
from violet.training.machine import cpu_has_bfloat16, preferred_kernel
from violet.training.masking import Masking
from violet.training.mixture import MixtureSchedule
from violet.training.optimization import parameter_groups
from violet.training.pretraining_data import CaptionedVideos, PretrainingBatches, PretrainingCollator

SIDE, FRAMES = 64, 4
BATCH = 32
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 5e-4, 0.05, 0.05
PATCH_RATIO = 0.15
CHANNELS, WORDS = 32, 16
SEED = 20
BAR = 0.3


class Brightness(Teacher):
    """In the place of depth: what is bright is near, and edges are soft."""

    def target(self, pixel_values_videos: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        brightest = self.pictures(pixel_values_videos).amax(1, keepdim=True)  # (B * T, 3, H, W) -> (B * T, 1, H, W)
        return nn.functional.avg_pool2d(brightest, 9, stride=1, padding=4).unflatten(0, (-1, grid[0]))


class Convolutions(Teacher):
    """
    Features of a random network, (B, T, h, w, CHANNELS), averaged over each patch: two convolutions of 3 x 3, over
    three frames too if it is `in_time`, or one of whole squares of `square` pixels.
    """

    def __init__(self, square: int = 0, in_time: bool = False):
        if square:
            kernel = (1, square // 4, square // 4)
            layers = [nn.Conv3d(3, 2 * CHANNELS, kernel, stride=kernel), nn.GELU()]
        else:
            sizes = {"kernel_size": (3 if in_time else 1, 3, 3), "padding": (int(in_time), 1, 1)}
            layers = [
                nn.Conv3d(3, CHANNELS, **sizes, padding_mode="replicate"),
                nn.ReLU(),
                nn.Conv3d(CHANNELS, 2 * CHANNELS, **sizes, padding_mode="replicate"),
                nn.ReLU(),
            ]
        layers += [nn.Conv3d(2 * CHANNELS, CHANNELS, 1)]
        super().__init__(nn.Sequential(nn.AvgPool3d((1, 4, 4)), *layers))
        for layer in self.network:
            if isinstance(layer, nn.Conv3d):
                nn.init.normal_(layer.weight, std=(2 / layer.weight[0].numel()) ** 0.5)
                nn.init.normal_(layer.bias, std=0.3)

    @property
    def head_options(self) -> dict[str, int]:
        return {"channels": CHANNELS}

    def target(self, pixel_values_videos: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        frames = self.pictures(pixel_values_videos).unflatten(0, (-1, grid[0])).transpose(1, 2)  # (B, 3, T, H, W)
        features = self.network(frames)  # (B, CHANNELS, T, rows, columns)
        return nn.functional.adaptive_avg_pool3d(features, grid).movedim(1, -1)


class PairConvolutions(Teacher):
    """
    In the place of flow: two numbers a pixel, some pixels large, that a random network tells from two frames in a row.

    The true motion of the drawn shapes is no target for a few minutes: it is 0 nearly everywhere, and 0 everywhere is
    the best guess for who is not sure of an outline to the pixel. After 800 steps of 32 clips the fall was 0 %; with
    each pixel going the way of the shape nearest to it, 24 % after 900, cut off or not.
    """

    def __init__(self):
        super().__init__(
            nn.Sequential(
                nn.AvgPool2d(4),
                nn.Conv2d(6, CHANNELS, 3, padding=1, padding_mode="replicate"),
                nn.ReLU(),
                nn.Conv2d(CHANNELS, 2, 3, padding=1, padding_mode="replicate"),
            )
        )
        for layer in (self.network[1], self.network[3]):
            nn.init.normal_(layer.weight, std=(2 / layer.weight[0].numel()) ** 0.5)
            nn.init.normal_(layer.bias, std=0.3)

    def target(self, pixel_values_videos: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        frames = self.pictures(pixel_values_videos).unflatten(0, (-1, grid[0]))  # (B, T, 3, H, W)
        pairs = torch.cat([frames[:, :-1], frames[:, 1:]], dim=2)  # (B, T - 1, 6, H, W)
        flow = self.network(pairs.flatten(0, 1))
        flow = nn.functional.interpolate(flow, size=pairs.shape[3:], mode="bilinear", align_corners=False)
        return 5 * flow.unflatten(0, (-1, grid[0] - 1))


class NearestPatches(Teacher):
    """Visual words, (B, T, h, w): which of WORDS patches of drawn clips, as 4 x 4 colours, is most like this one."""

    def __init__(self):
        super().__init__()
        clips = np.stack([draw_clip(SEED + 1, "pretrain", index, SIDE, FRAMES)[0] for index in range(4 * WORDS)])
        # (clips, T, H, W, 3) -> (clips, 3, H, W), one frame of each
        frames = torch.from_numpy(clips[:, 0]).movedim(-1, 1) / 255
        patches = self.thumbnails(frames, SIDE // 32, SIDE // 32).flatten(0, 2)
        chosen = torch.randperm(len(patches), generator=torch.Generator().manual_seed(SEED))[:WORDS]
        self.words = nn.Buffer(patches[chosen], persistent=False)

    @staticmethod
    def thumbnails(frames: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """(n, 3, H, W) -> (n, rows, columns, 48)"""
        x = nn.functional.adaptive_avg_pool2d(frames, (4 * rows, 4 * columns))
        # (n, 3, rows * 4, columns * 4) -> (n, 3, rows, 4, columns, 4) -> (n, rows, columns, 3, 4, 4)
        return x.unflatten(3, (columns, 4)).unflatten(2, (rows, 4)).permute(0, 2, 4, 1, 3, 5).flatten(3)

    @property
    def head_options(self) -> dict[str, int]:
        return {"channels": WORDS, "per_cell": 1}

    def target(self, pixel_values_videos: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        patches = self.thumbnails(self.pictures(pixel_values_videos), *grid[1:])
        return torch.cdist(patches, self.words).argmin(-1).unflatten(0, (-1, grid[0]))


def build_teacher(name: str) -> tuple[Teacher, str]:
    """What makes a target, and what to call it."""
    torch.manual_seed(SEED)
    if name in ("pixel", "hog"):
        return MVM_TARGETS[name].teacher(), "none needed"
    if name == "optical_flow":
        return PairConvolutions(), "random conv of two frames"
    if name == "depth":
        return Brightness(), "brightness, blurred"
    if name == "vq":
        return NearestPatches(), "nearest of 16 patches"
    if name == "3d_feature":
        return Convolutions(in_time=True), "random 3D conv"
    if name == "2d_feature":
        return Convolutions(), "random 2D conv"
    return Convolutions(square=16), "random 16 x 16 conv"


class Benchmark:
    """Clips, words and masks that all targets share; the clips are drawn once, and decoded once."""

    def __init__(self, folder: Path, clips: int, held_out: int):
        counts = {"train": 0, "validation": held_out, "test": 0, "test_unseen": 0, "test_together": 0}
        self.splits = moving_shapes(folder, **counts, pretrain=clips, seed=SEED)
        tokenizer = train_wordpiece_tokenizer(self.splits["pretrain"]["caption"], 512)
        frames = VioletVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=FRAMES)
        self.processor = VideoTextProcessor(tokenizer, frames)
        masking = Masking({"random": 1.0}, patch_ratio=PATCH_RATIO)
        encoder = find_encoder(named_configuration("violet-tiny").vision_config)
        self.collator = PretrainingCollator(
            self.processor, masking, encoder, reader=ClipReader(self.processor.video_processor, 2**30)
        )
        for rows in self.splits.values():
            for video in rows["video"]:
                self.collator.reader.read(video, FRAMES)

    def batches(self, split: str, target: str) -> PretrainingBatches:
        source = CaptionedVideos(split, self.splits[split], FRAMES, 1.0)
        schedule = MixtureSchedule([1.0], [(FRAMES, SIDE, SIDE)], [(1.0, 0, {f"mvm_{target}": 1.0})], SEED)
        return PretrainingBatches([source], schedule, self.collator, BATCH, SEED)


class Run:
    """One target, learned by one model."""

    def __init__(self, benchmark: Benchmark, target: str, teacher: Teacher, cut_off: bool):
        torch.manual_seed(SEED)
        self.bfloat16 = cpu_has_bfloat16()
        self.target, self.teacher = target, teacher
        self.training, self.held_out = benchmark.batches("pretrain", target), benchmark.batches("validation", target)
        options = dict(teacher.head_options)
        config = named_configuration("violet-tiny", mvm_targets={target: options}, projection_dim=None)
        kernel = preferred_kernel(self.bfloat16, torch.device("cpu"))
        self.model = VioletForPreTraining._from_config(config, attn_implementation=kernel)
        first = [self.target_of(self.training[step]) for step in range(4)]
        start_at(config, target, self.model.mvm_heads[target], first)
        if cut_off:
            self.model.violet.video_encoder.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, WEIGHT_DECAY), betas=(0.9, 0.98))

    def target_of(self, batch: dict) -> torch.Tensor:
        return self.teacher(batch["pixel_values_videos"], tuple(batch["bool_masked_pos"].shape[1:]))

    def forward(self, batch: dict):
        """The model's output, the target, and what was hidden."""
        mask = batch["bool_masked_pos"]
        batch["mvm_targets"] = {self.target: self.target_of(batch)}
        names = ("pixel_values_videos", "input_ids", "attention_mask", "bool_masked_pos", "mvm_targets", "objectives")
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            output = self.model(**{name: batch[name] for name in names})
        return output, batch["mvm_targets"][self.target], mask

    def train(self, steps: int) -> float:
        """Trains for this many steps and gives the seconds that they took."""
        self.model.train()
        start = time.perf_counter()
        for step in range(steps):
            rate = LEARNING_RATE * learning_rate_factor("cosine", step, steps, WARMUP)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            output, _, _ = self.forward(self.training[step])
            output.loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return time.perf_counter() - start

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """(the model's error, the best constant's), on the hidden patches of all held-out clips."""
        self.model.eval()
        steps = len(self.held_out.sources[0].rows) // BATCH
        outputs = [self.forward(self.held_out[step]) for step in range(steps)]
        prediction = torch.cat([output.mvm_predictions[self.target] for output, _, _ in outputs]).float()
        target, mask = (torch.cat([entry[i] for entry in outputs]) for i in (1, 2))
        constant = best_constant(self.target, prediction, target, mask)
        errors = (mvm_loss(self.target, guess, target, mask).item() for guess in (prediction, constant))
        return tuple(errors)


def best_constant(name: str, prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The prediction (of that shape) whose loss is least among those that are the same at every place."""
    if name == "vq":
        counts = target[mask].bincount(minlength=prediction.shape[-1]).float()
        return (counts / counts.sum()).log().clamp(min=-30).expand_as(prediction)
    if name.endswith("feature"):
        return target[mask].median(dim=0).values.expand_as(prediction)
    if name == "optical_flow":
        mask = mask[:, :-1] | mask[:, 1:]
        mask = mask & (target.abs() < LARGEST_FLOW).flatten(2).all(-1)[:, :, None, None]
    side = target.shape[-1] // mask.shape[-1]
    pixels = mask.repeat_interleave(side, 2).repeat_interleave(side, 3)
    # (B, T, C, H, W) -> (B, T, H, W, C) -> (hidden pixels, C) -> (C,)
    medians = target.movedim(2, -1)[pixels].median(dim=0).values
    return medians.view(-1, 1, 1).expand_as(prediction)


def measure_learning(benchmark: Benchmark, name: str, seconds: float, steps: int | None) -> dict:
    """The row of one target; without `steps`, as many of them as take `seconds`."""
    teacher, called = build_teacher(name)
    if steps is None:
        trial = 12
        Run(benchmark, name, teacher, cut_off=False).train(2)  # warms up
        steps = max(trial, round(seconds / Run(benchmark, name, teacher, cut_off=False).train(trial) * trial))
    learned, cut_off = (Run(benchmark, name, teacher, cut_off=cut) for cut in (False, True))
    taken = learned.train(steps)
    error, constant = learned.evaluate()
    cut_off.train(steps)
    cut_off_error, _ = cut_off.evaluate()
    settings = {"steps": steps, "batch": BATCH, "patch_ratio": PATCH_RATIO, "threads": torch.get_num_threads()}
    return {
        "name": f"mvm_{name}",
        "seconds": taken,
        "rate": steps * BATCH / taken,
        "share_of_matmul": None,
        "baseline_seconds": None,
        "error": error,
        "constant_error": constant,
        "fall": 1 - error / constant,
        "cut_off_error": cut_off_error,
        "cut_off_fall": 1 - cut_off_error / constant,
        "settings": {"teacher": called, **settings},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=list(MVM_TARGETS), nargs="+", default=list(MVM_TARGETS))
    parser.add_argument("--seconds", type=float, default=150, help="of training, for each target (default 150)")
    parser.add_argument("--steps", type=int, help="of training, instead of `--seconds`: on a busy machine")
    parser.add_argument("--clips", type=int, default=3000, help="training clips (default 3000)")
    parser.add_argument("--data", type=Path, default=Path(gettempdir()) / "violet_mvm_targets", help="their folder")
    parser.add_argument("--json", help="a JSON file for the rows")
    options = parser.parse_args()
    benchmark = Benchmark(options.data, options.clips, held_out=256)

    print(f"{'target':16}{'teacher':26}{'error':>9}{'constant':>10}{'fall':>7}{'cut off':>9}{'fall':>7}{'seconds':>9}")
    rows = []
    for name in options.target:
        row = measure_learning(benchmark, name, options.seconds, options.steps)
        rows.append(row)
        errors = f"{row['error']:9.4f}{row['constant_error']:10.4f}{row['fall']:7.0%}"
        cut_off = f"{row['cut_off_error']:9.4f}{row['cut_off_fall']:7.0%}"
        below = "" if row["fall"] >= BAR else f"  below {BAR:.0%}"
        print(f"{name:16}{row['settings']['teacher']:26}{errors}{cut_off}{row['seconds']:9.0f}{below}", flush=True)
    if options.json:
        write_json(options.json, rows)
    else:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()

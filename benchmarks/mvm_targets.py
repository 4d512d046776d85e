"""
Learns each target of masked visual modelling alone, and says how far the error on hidden patches falls.

    python benchmarks/mvm_targets.py [--target NAME] [--seconds 150] [--json rows.json]

For each target a violet-tiny is trained from scratch on drawn clips, by the training code that `violet pretrain` uses,
and measured on the hidden patches of clips that it never saw. `constant` is the error of the best prediction that is
the same everywhere: the median of each channel, for visual words their frequencies. `cut off` is the same training, as
many steps, with the visual encoder left at its random start: the fusion still sees its tokens, but no gradient comes
back to it. The bar: the error falls by 30 % or more below `constant`, and by clearly more than when cut off.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import torch
from torch import nn

from violet import VideoTextProcessor, VioletForPreTraining, VioletVideoProcessor, named_configuration
from violet.configuration import VioletVisionConfig
from violet.data.moving_shapes import Subject, _signed_distance, moving_shapes, plan_clip
from violet.files import write_json
from violet.modeling_violet import VioletVisionModel
from violet.modeling_violet.mvm import LARGEST_FLOW, MVM_TARGETS, mvm_loss, start_at
from violet.modeling_violet.teachers import Teacher
from violet.processing import train_wordpiece_tokenizer
from violet.training.machine import cpu_has_bfloat16, preferred_kernel
from violet.training.masking import Masking
from violet.training.optimization import learning_rate_factor, parameter_groups
from violet.training.pretraining_data import CaptionedVideos, PretrainingBatches, PretrainingCollator
from violet.training.schedule import MixtureSchedule

SIDE, FRAMES = 64, 4
BATCH = 32
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 1e-3, 0.05, 0.05
PATCH_RATIO = 0.2
SEED = 20
BAR = 0.3


class TrueMotion:
    """Optical flow of the drawn shapes, known from what drew them, in the place of stored targets."""

    teacher = "the true motion"

    def __init__(self, split: str):
        self.split = split

    def __contains__(self, name: str) -> bool:
        return name.startswith(self.split)

    def read(self, name: str, frame_indices: Sequence[int]) -> torch.Tensor:
        """(frames - 1, 2, SIDE, SIDE), pixels, x before y; 0 beside the shapes, and for one not seen next."""
        subjects = plan_clip(SEED, self.split, int(name.rsplit("-", 1)[1]))
        flow = np.zeros((len(frame_indices) - 1, 2, SIDE, SIDE), np.float32)
        for pair, (now, then) in enumerate(zip(frame_indices, frame_indices[1:], strict=False)):
            for subject in subjects:
                if now in subject.frames and then in subject.frames:
                    motion, inside = self.motion(subject, now - subject.frames.start, then - subject.frames.start)
                    flow[pair] = np.where(inside, motion, flow[pair])
        return torch.from_numpy(flow)

    @staticmethod
    def motion(subject: Subject, now: int, then: int) -> tuple[np.ndarray, np.ndarray]:
        """(2, SIDE, SIDE), where each pixel would go; (SIDE, SIDE), whether it is the shape's."""
        grid = (np.arange(SIDE) + 0.5) / SIDE
        dx, dy = np.broadcast_arrays(grid[None, :] - subject.x[now], grid[:, None] - subject.y[now])
        cos, sin = np.cos(subject.angle[now]), np.sin(subject.angle[now])
        inside = _signed_distance(subject.shape, dx * cos + dy * sin, dy * cos - dx * sin, subject.radius[now]) < 0
        scale, turn = subject.radius[then] / subject.radius[now], subject.angle[then] - subject.angle[now]
        cos, sin = scale * np.cos(turn), scale * np.sin(turn)
        x = subject.x[then] - subject.x[now] + dx * cos - dy * sin - dx
        y = subject.y[then] - subject.y[now] + dx * sin + dy * cos - dy
        return SIDE * np.stack([x, y]), inside


class Brightness(Teacher):
    """In the place of depth, of which a DPT at a random start gives 0 nearly everywhere: what is bright is near."""

    def target(self, pixel_values_videos: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        brightest = self.pictures(pixel_values_videos).amax(1, keepdim=True)  # (B * T, 3, H, W) -> (B * T, 1, H, W)
        return nn.functional.avg_pool2d(brightest, 9, stride=1, padding=4).unflatten(0, (-1, grid[0]))


def build_teacher(name: str) -> tuple[Teacher | None, str]:
    """The frozen network of a target and what to call it: a small one of the real class, at a random start."""
    torch.manual_seed(SEED)
    teacher = MVM_TARGETS[name].teacher
    if name in ("pixel", "hog"):
        return teacher(), "none needed"
    if name == "optical_flow":
        return None, TrueMotion.teacher
    if name == "depth":
        return Brightness(), "brightness, blurred"
    if name == "vq":
        from transformers import FlavaImageCodebook, FlavaImageCodebookConfig

        network = FlavaImageCodebook(FlavaImageCodebookConfig(hidden_size=16, num_blocks_per_group=1, vocab_size=64))
        for parameter in network.parameters():  # as it is made, it gives every picture the same word
            nn.init.normal_(parameter, std=0.3)
        return teacher(network), "dVAE, random"
    if name == "3d_feature":
        sizes = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": (4, 4, 4)}
        network = VioletVisionModel(VioletVisionConfig(**sizes, drop_path_rate=0.0, initializer_range=0.2))
        return teacher(network), "Video Swin, random"
    if name == "2d_feature":
        from transformers import SwinConfig, SwinModel

        sizes = {"image_size": SIDE, "embed_dim": 16, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "window_size": 4}
        network = SwinModel(SwinConfig(**sizes, initializer_range=0.1), add_pooling_layer=False)
        return teacher(network), "Swin, random"
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    return teacher(CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=16))), "CLIP, random"


class Benchmark:
    """Clips, words and masks that all targets share; the clips are drawn once, and decoded once."""

    def __init__(self, folder: Path, clips: int, held_out: int):
        counts = {"train": 0, "validation": held_out, "test": 0, "test_unseen": 0, "test_together": 0}
        self.splits = moving_shapes(folder, **counts, pretrain=clips, seed=SEED)
        tokenizer = train_wordpiece_tokenizer(self.splits["pretrain"]["caption"], 512)
        frames = VioletVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=FRAMES)
        self.processor = VideoTextProcessor(tokenizer, frames)
        masking = Masking({"random": 1.0}, patch_ratio=PATCH_RATIO)
        self.collator = PretrainingCollator(self.processor, masking, cache_bytes=2**30)
        for rows in self.splits.values():
            for video in rows["video"]:
                self.collator.cache.read(video, FRAMES)

    def batches(self, split: str, target: str) -> PretrainingBatches:
        stored = {target: TrueMotion(split)} if target == "optical_flow" else {}
        source = CaptionedVideos(split, self.splits[split], FRAMES, 1.0, stored)
        schedule = MixtureSchedule([1.0], [(FRAMES, SIDE)], [(1.0, 0, {f"mvm_{target}": 1.0})], SEED)
        return PretrainingBatches([source], schedule, self.collator, BATCH, SEED)


class Run:
    """One target, learned by one model."""

    def __init__(self, benchmark: Benchmark, target: str, teacher: Teacher | None, cut_off: bool):
        torch.manual_seed(SEED)
        self.bfloat16 = cpu_has_bfloat16()
        self.target, self.teacher = target, teacher
        self.training, self.held_out = benchmark.batches("pretrain", target), benchmark.batches("validation", target)
        options = {} if teacher is None else dict(teacher.head_options)
        config = named_configuration("violet-tiny", mvm_targets={target: options}, projection_dim=None)
        kernel = preferred_kernel(self.bfloat16, torch.device("cpu"))
        self.model = VioletForPreTraining._from_config(config, attn_implementation=kernel)
        first = [self.targets_of(self.training[step]) for step in range(4)]
        start_at(config, target, self.model.mvm_heads[target], first)
        if cut_off:
            self.model.violet.video_encoder.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, WEIGHT_DECAY), betas=(0.9, 0.98))

    def targets_of(self, batch: dict) -> torch.Tensor:
        """The target of a batch: stored, or asked of the teacher."""
        if self.teacher is None:
            return batch["mvm_targets"][self.target]
        return self.teacher(batch["pixel_values_videos"], tuple(batch["bool_masked_pos"].shape[1:]))

    def forward(self, batch: dict):
        """The model's output, the target (from its teacher where it is not stored), and what was hidden."""
        mask = batch["bool_masked_pos"]
        batch["mvm_targets"] = {self.target: self.targets_of(batch)}
        names = ("pixel_values_videos", "input_ids", "attention_mask", "bool_masked_pos", "mvm_targets", "objectives")
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            output = self.model(**{name: batch[name] for name in names})
        return output, batch["mvm_targets"][self.target], mask

    def train(self, steps: int) -> float:
        """Seconds that so many steps took."""
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


def measure_learning(benchmark: Benchmark, name: str, seconds: float) -> dict:
    """The row of one target."""
    teacher, called = build_teacher(name)
    trial = 6
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
    parser.add_argument("--clips", type=int, default=3000, help="training clips (default 3000)")
    parser.add_argument("--data", type=Path, default=Path(gettempdir()) / "violet_mvm_targets", help="their folder")
    parser.add_argument("--json", help="a JSON file for the rows")
    options = parser.parse_args()
    benchmark = Benchmark(options.data, options.clips, held_out=256)

    print(f"{'target':16}{'teacher':20}{'error':>9}{'constant':>10}{'fall':>7}{'cut off':>9}{'fall':>7}{'seconds':>9}")
    rows = []
    for name in options.target:
        row = measure_learning(benchmark, name, options.seconds)
        rows.append(row)
        errors = f"{row['error']:9.4f}{row['constant_error']:10.4f}{row['fall']:7.0%}"
        cut_off = f"{row['cut_off_error']:9.4f}{row['cut_off_fall']:7.0%}"
        below = "" if row["fall"] >= BAR else f"  below {BAR:.0%}"
        print(f"{name:16}{row['settings']['teacher']:20}{errors}{cut_off}{row['seconds']:9.0f}{below}", flush=True)
    if options.json:
        write_json(options.json, rows)
    else:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()

"""
What one language model costs when it embeds and writes at once (MM-GEM), on real mp4 files of the drawn shapes:

- search and captions of whole clips by both losses in one step, at twice the steps of either one;
- captions of a shape's box, of the same box with the other shape's words, and search for boxes;
- whether a clip's vector knows which shape is on the left: told by 2 x 2 parts of each frame (`embedding_grid` 2), and
  by the plain mean of a frame (1), which cannot; and which came first, which the order-keeping pooling tells both.

Clips of two frames show two shapes side by side ("red disc beside blue cross", from the left) or one after the other
("red disc then blue cross"). The encoder is three convolutions a frame that see 17 pixels across, with circular edges
and no places: nothing but the parts can tell left from right. Half of the steps are whole clips, half boxes. Prints
the medians over the seeds, and the least and most; the status is 1 if one misses its bar.

    python measurements/mm_gem_learning.py [--seeds 0 1 2] [--steps 600] [--clips 2000] [--json rows.json]
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from violet import VideoTextProcessor, VioletConfig, VioletForPreTraining
from violet.core.files import write_json
from violet.data import moving_shapes, regions
from violet.data.moving_shapes import COLOURS, SHAPES, SPLITS
from violet.hub.language_models import language_processor
from violet.modeling_violet import ENCODERS, Tokens
from violet.modeling_violet.modeling_conditional_generation import VioletForConditionalGeneration
from violet.processing import VioletVideoProcessor, decode_video, train_wordpiece_tokenizer, without_end
from violet.training.learning_rates import learning_rate_factor

FRAMES, SIDE, WIDTH = 2, 64, 64
BATCH, LEARNING_RATE, WARM_UP, GALLERY = 32, 2e-3, 0.05, 64
APART = 0.25
"""How far two shapes side by side are apart from left to right at least, as a share of the width, in every frame."""
FORMS: dict[str, dict[str, Any]] = {
    "both losses": {"objectives": ("contrast", "generation"), "parts": 2, "times": 2},
    "only contrast": {"objectives": ("contrast",), "parts": 2, "times": 1},
    "only generation": {"objectives": ("generation",), "parts": 2, "times": 1},
    "only contrast, plain mean": {"objectives": ("contrast",), "parts": 1, "times": 1},
}
AT_LEAST = {"region captions": 0.95, "right order preferred": 0.95, "right order in time preferred": 0.95}
AT_MOST = {"region captions, boxes exchanged": 0.1, "caption of another clip": 0.1}
MOST_BEHIND, AT_CHANCE = 0.05, (0.4, 0.6)


class LocalConvNetConfig(PreTrainedConfig):
    """Configuration of `LocalConvNet`."""

    model_type = "local_convnet"
    hidden_size: int = WIDTH
    cell = (1, 8, 8)

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(frames, rows, columns) of cells."""
        return frames, height // 8, width // 8


class LocalConvNet(PreTrainedModel):
    """Three convolutions of each frame, circular at its edges: a state knows 17 x 17 pixels, not where they are."""

    config_class = LocalConvNetConfig
    main_input_name = "pixel_values_videos"

    def __init__(self, config: LocalConvNetConfig):
        super().__init__(config)
        widths, layers = (3, config.hidden_size // 2, config.hidden_size, config.hidden_size), []
        for number, size in enumerate((5, 3, 3)):
            layers += [
                nn.Conv2d(*widths[number : number + 2], size, 2, size // 2, padding_mode="circular"),
                nn.GroupNorm(1, widths[number + 1]),
                nn.GELU(),
            ]
        self.layers = nn.Sequential(*layers)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)

    def forward(self, pixel_values_videos: torch.Tensor) -> BaseModelOutput:
        states = self.layers(pixel_values_videos.flatten(0, 1)).unflatten(0, (-1, pixel_values_videos.shape[1]))
        return BaseModelOutput(last_hidden_state=states.movedim(2, -1))


AutoConfig.register("local_convnet", LocalConvNetConfig, exist_ok=True)
ENCODERS.add("local_convnet", LocalConvNet)


def configuration(parts: int, words: int) -> VioletConfig:
    """Three convolutions, and a Llama 64 wide with two layers that knows that many words."""
    llama: dict[str, Any] = {
        **{"model_type": "llama", "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": words, "max_position_embeddings": 64},
        **{"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "initializer_range": 0.08},
    }
    return VioletConfig(
        vision_config={"model_type": "local_convnet"},
        text_config=llama,
        fusion_model_config={"model_type": "language_model", "pooled_grid": 4, "embedding_grid": parts},
        vision_positions="none",
        hidden_size=WIDTH,
        num_attention_heads=4,
        hidden_frame_order=False,
        initializer_range=0.08,
        projection_dim=64,
        projection_type="language_model",
        objectives={"contrast": {}, "generation": {}},
    )


def named(row: dict[str, Any]) -> str:
    """ "red disc", of a region's "a small red disc moves left"."""
    words = row["caption"].split()
    return f"{next(word for word in words if word in COLOURS)} {next(word for word in words if word in SHAPES)}"


class Clips:
    """
    Whole clips with `captions`, and of each both shapes as `regions` with `region_captions`.

    Args:
        folder: where they are drawn, or were.
        count: how many are drawn of each kind; those whose shapes are not clearly side by side are left out.
        seed: what they show.
    """

    def __init__(self, folder: Path, count: int, seed: int):
        counts = dict.fromkeys(SPLITS, 0) | {"test_together": count, "test": count}
        splits = moving_shapes(folder, seed=seed, size=SIDE, **counts)
        frames = VioletVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=FRAMES)
        raw = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        self.captions, self.swapped, self.region_captions = [], [], []
        self.in_time: list[bool] = []
        videos, tubes = [], []
        for split in ("test_together", "test"):
            rows = list(regions(splits[split].filter(lambda row: row["kind"] != "single")))
            for pair in zip(rows[::2], rows[1::2], strict=True):
                follows = pair[0]["kind"] == "sequence"
                ordered = list(pair) if follows else side_by_side(pair)
                if not ordered:
                    continue
                names = [named(row) for row in ordered]
                word = " then " if follows else " beside "
                self.captions.append(word.join(names))
                self.swapped.append(word.join(names[::-1]))
                self.region_captions += names
                self.in_time.append(follows)
                videos.append(ordered[0]["video"])
                tubes += [row["boxes"] for row in ordered]
        decoded = [decode_video(video).frames for video in videos]
        read = [frames([clip] * 2, boxes=tubes[2 * number :][:2], **raw) for number, clip in enumerate(decoded)]
        self.pixels = torch.cat([one["pixel_values_videos"][:1] for one in read])
        self.boxes = torch.cat([one["boxes"] for one in read])
        self.box_mask = torch.cat([one["box_mask"] for one in read])
        self.frames = frames

    def __len__(self) -> int:
        return len(self.captions)


def side_by_side(pair: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The two from left to right; none if they are not so in every frame."""
    middles = [[(box[0] + box[2]) / 2 for box in row["boxes"]] for row in pair]
    steps = [second - first for first, second in zip(*middles, strict=True)]
    if min(steps) >= APART:
        return list(pair)
    return list(pair[::-1]) if max(steps) <= -APART else []


def parts_of(form: dict[str, Any], clips: Clips) -> tuple[VioletConfig, VideoTextProcessor]:
    """The configuration and the processor of a form of the model, with the words of the captions."""
    tokenizer = without_end(train_wordpiece_tokenizer([*clips.captions, *clips.region_captions], 128))
    config = configuration(form["parts"], len(tokenizer))
    return config, language_processor(config, tokenizer, clips.frames)


def batch_of(clips: Clips, rows: torch.Tensor, boxed: bool, processor: VideoTextProcessor) -> dict[str, Any]:
    """Rows of whole clips, or of boxes, as the model takes them."""
    captions = clips.region_captions if boxed else clips.captions
    batch = dict(processor(text=[captions[row] for row in rows.tolist()]))
    batch["pixel_values_videos"] = clips.pixels[rows // 2 if boxed else rows]
    if boxed:
        batch |= {"boxes": clips.boxes[rows], "box_mask": clips.box_mask[rows]}
    return processor.to_device(batch, "cpu")


def train(form: dict[str, Any], clips: Clips, seed: int, steps: int) -> tuple[VioletForPreTraining, Any]:
    """A new model after that many steps, in turn of whole clips and of boxes."""
    torch.manual_seed(seed)
    config, processor = parts_of(form, clips)
    model = VioletForPreTraining(config).train()
    weights = dict.fromkeys(form["objectives"], 1.0)
    model.freeze_unused(weights)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor("cosine", step, steps, WARM_UP)
    )
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        boxed = step % 2 == 1
        rows = torch.randint(len(clips) * (2 if boxed else 1), (BATCH,), generator=generator)
        model(**batch_of(clips, rows, boxed, processor), objectives=weights).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval(), processor


@torch.no_grad()
def encode(model: Any, clips: Clips, processor: VideoTextProcessor) -> Tokens:
    """All clips."""
    pixels = processor.to_device({"pixel_values_videos": clips.pixels}, "cpu")["pixel_values_videos"]
    return Tokens.join([model.violet.encode_videos(part) for part in pixels.split(64)])


@torch.no_grad()
def written(writer: VioletForConditionalGeneration, video: Tokens, processor: VideoTextProcessor) -> list[str]:
    """A caption of each video, or of its box."""
    prompt = dict(processor.texts_with_videos("<video>", 1, FRAMES))["input_ids"]
    texts: list[str] = []
    for rows in torch.arange(len(video)).split(128):
        ids = writer.generate(
            prompt.expand(len(rows), -1), video_tokens=video.select(rows), max_new_tokens=8, do_sample=False
        )
        texts += processor.tokenizer.batch_decode(ids[:, prompt.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def share(found: Sequence[str], wanted: Sequence[str]) -> float:
    """How many are equal."""
    return sum(one == other for one, other in zip(found, wanted, strict=True)) / len(wanted)


def writing(model: VioletForPreTraining, clips: Clips, processor: VideoTextProcessor) -> dict[str, float]:
    """Captions of wholes and of boxes, exactly."""
    writer = VioletForConditionalGeneration(model.config).eval()
    writer.violet.load_state_dict(model.violet.state_dict())
    video = encode(model, clips, processor)
    texts = written(writer, video, processor)
    twice = video.select(torch.arange(len(clips)).repeat_interleave(2))
    boxed = written(writer, model.violet.with_boxes(twice, clips.boxes, clips.box_mask), processor)
    other = clips.region_captions
    exchanged = [other[number ^ 1] for number in range(len(other))]
    beside = [number for number in range(len(other)) if not clips.in_time[number // 2]]
    return {
        "captions": share(texts, clips.captions),
        "caption of another clip": share(texts[1:] + texts[:1], clips.captions),
        "region captions": share(boxed, other),
        "region captions, boxes exchanged": share([boxed[i] for i in beside], [exchanged[i] for i in beside]),
    }


@torch.no_grad()
def searching(model: VioletForPreTraining, clips: Clips, processor: VideoTextProcessor) -> dict[str, float]:
    """R@1 among 64 by text, where clips of the same words are right too; and which order of the words is nearer."""
    violet, video = model.violet, encode(model, clips, processor)
    boxed = violet.with_boxes(video.select(torch.arange(len(clips)).repeat_interleave(2)), clips.boxes, clips.box_mask)

    def embed(texts: Sequence[str]) -> torch.Tensor:
        return violet.embed_texts(**processor(text=list(texts)))

    def recall(videos: torch.Tensor, captions: Sequence[str]) -> float:
        texts, right = embed(captions), []
        for start in range(0, len(captions) - GALLERY + 1, GALLERY):
            part = slice(start, start + GALLERY)
            nearest = (texts[part] @ videos[part].t()).argmax(1)
            own = captions[part]
            right += [own[best] == caption for best, caption in zip(nearest.tolist(), own, strict=True)]
        return sum(right) / len(right)

    vectors = violet.embed_videos(video)
    prefers = (vectors * embed(clips.captions)).sum(1) > (vectors * embed(clips.swapped)).sum(1)
    in_time = torch.tensor(clips.in_time)
    return {
        "search R@1": recall(vectors, clips.captions),
        "region search R@1": recall(violet.embed_videos(boxed), clips.region_captions),
        "right order preferred": float(prefers[~in_time].float().mean()),
        "right order in time preferred": float(prefers[in_time].float().mean()),
    }


def bars(medians: dict[str, dict[str, float]]) -> list[str]:
    """What misses."""
    both, mean = medians["both losses"], medians["only contrast, plain mean"]
    missed = [f"both losses: {name} < {bar}" for name, bar in AT_LEAST.items() if both[name] < bar]
    missed += [f"both losses: {name} > {bar}" for name, bar in AT_MOST.items() if both[name] > bar]
    for form, name in (("only contrast", "search R@1"), ("only generation", "captions")):
        if both[name] < medians[form][name] - MOST_BEHIND:
            missed.append(f"both losses: {name} more than {MOST_BEHIND} behind {form}")
    if not AT_CHANCE[0] <= mean["right order preferred"] <= AT_CHANCE[1]:
        missed.append("plain mean: right order preferred is not at chance")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600, help="of either loss; both together take twice as many")
    parser.add_argument("--clips", type=int, default=2000, help="drawn of each kind, for training")
    parser.add_argument("--folder", type=Path, help="where clips are drawn, or were; a temporary one by default")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        clips = Clips(folder / "train", options.clips, seed=0)
        unseen = Clips(folder / "test", 256, seed=1)
        print(f"{len(clips)} clips to learn from, {len(unseen)} unseen ones", flush=True)
        found: dict[str, dict[str, list[float]]] = {}
        for name, form in FORMS.items():
            for seed in options.seeds:
                model, processor = train(form, clips, seed, options.steps * form["times"])
                values = searching(model, unseen, processor) if "contrast" in form["objectives"] else {}
                values |= writing(model, unseen, processor) if "generation" in form["objectives"] else {}
                for measure, value in values.items():
                    found.setdefault(name, {}).setdefault(measure, []).append(value)
                if options.json is not None:
                    write_json(options.json, json.loads(json.dumps(found)))
            for measure, numbers in found[name].items():
                spread = f"{statistics.median(numbers):.3f} ({min(numbers):.3f}–{max(numbers):.3f})"
                print(f"{name:28}{measure:36}{spread}", flush=True)
    medians = {
        name: {measure: statistics.median(numbers) for measure, numbers in of.items()} for name, of in found.items()
    }
    missed = bars(medians)
    print("\n".join(f"MISSED {one}" for one in missed))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())

"""
What int8 costs: the shipped violet-tiny in float32 beside forms of dynamic quantization on a CPU, about drawn clips
that it was not trained on. Prints accuracies, megabytes and milliseconds of processor time for a batch of 16.

    OMP_NUM_THREADS=1 python measurements/int8.py [--clips 128] [--json rows.json]

The whole model fills a blank, a word of each clip's caption drawn by chance; its embeddings find each clip by its
caption among all clips (recall at 1). Forms: torch's own `quantize_dynamic`, which is deprecated; torchao's
`Int8DynamicActivationInt8WeightConfig`, if it is installed, compiled, since its kernels are made by the compiler; and
ONNX Runtime's `quantize_dynamic` of what `violet export` writes.
"""

import argparse
import copy
import importlib.util
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoProcessor

import violet
from violet.core.files import write_json
from violet.data import captioned, moving_shapes
from violet.evaluation.retrieval import retrieval_metrics
from violet.hub.exporting import OPENERS, PARTS, export_graphs
from violet.pipelines.compiling import compile_parts

BATCH, ROUNDS = 16, 5
TINY = "violet-tiny"


def seconds(work: Callable[[], Any]) -> float:
    """The median of some rounds."""
    work()
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return statistics.median(found)


def megabytes(model: nn.Module, folder: Path) -> float:
    """Of the model's weights in a file."""
    file = folder / "weights"
    torch.save(model.state_dict(), file)
    return file.stat().st_size / 1e6


def by_torch(model: nn.Module) -> nn.Module:
    """Linear layers in int8 by torch's own function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)


def by_torchao(model: nn.Module) -> nn.Module:
    """Linear layers in int8 by torchao, compiled."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    made = copy.deepcopy(model)
    quantize_(made, Int8DynamicActivationInt8WeightConfig())
    compile_parts(made)
    return made


FORMS: dict[str, Callable[[nn.Module], nn.Module]] = {"float32": lambda model: model, "torch int8": by_torch}
if importlib.util.find_spec("torchao") is not None:
    FORMS["torchao int8, compiled"] = by_torchao


class Clips:
    """Drawn clips, decoded once, with their captions and blanks."""

    def __init__(self, count: int, folder: Path):
        none: dict[str, Any] = dict.fromkeys(("train", "validation", "test_unseen", "test_together"), 0)
        drawn = moving_shapes(folder / "shapes", seed=77, test=count, **none)["test"]
        self.processor = AutoProcessor.from_pretrained(violet.pretrained(TINY))
        rows = captioned(drawn)
        videos = list(rows["video"])
        self.pixels = self.processor(videos=videos, return_tensors="pt")["pixel_values_videos"]
        captions = list(dict.fromkeys(rows["caption"]))
        self.captions = self.processor(text=captions)
        self.video_of_caption = [list(rows["caption"]).index(one) for one in captions]
        self.blanks = self.processor(text=list(rows["caption"]))
        ids, tokenizer = self.blanks["input_ids"], self.processor.tokenizer
        draws = torch.Generator().manual_seed(0)
        lengths = self.blanks["attention_mask"].sum(1) - 2  # without [CLS] and [SEP]
        places = 1 + (torch.rand(len(ids), generator=draws) * lengths).long()
        self.answers = ids.gather(1, places[:, None]).squeeze(1)
        self.blanks["input_ids"] = ids.scatter(1, places[:, None], tokenizer.mask_token_id)

    @torch.no_grad()
    def filled(self, model: Any) -> float:
        """The share of blanks whose word is the likeliest."""
        right, mask = 0, self.processor.tokenizer.mask_token_id
        for some in torch.arange(len(self.answers)).split(4 * BATCH):
            ids, seen = (self.blanks[name][some] for name in ("input_ids", "attention_mask"))
            logits = model(pixel_values_videos=self.pixels[some], input_ids=ids, attention_mask=seen).logits
            rows, places = (ids == mask).nonzero(as_tuple=True)
            right += int((logits[rows, places].argmax(-1) == self.answers[some][rows]).sum())
        return right / len(self.answers)

    @torch.no_grad()
    def found(self, embed_videos: Callable, embed_texts: Callable) -> float:
        """Recall at 1 of clips by their captions."""
        videos = torch.cat([embed_videos(some) for some in self.pixels.split(BATCH)])
        texts = embed_texts(self.captions["input_ids"], self.captions["attention_mask"])
        return retrieval_metrics(texts @ videos.t(), self.video_of_caption)["text_to_video_r1"]


def of_torch(clips: Clips, folder: Path) -> list[dict[str, Any]]:
    """A row for each form in torch."""
    rows = []
    whole = violet.VioletForMaskedLM.from_pretrained(violet.pretrained(TINY)).eval()
    towers = violet.VioletForRetrieval.from_pretrained(violet.pretrained(TINY)).eval()
    for name, form in FORMS.items():
        fills, finds = form(whole), form(towers).violet

        def embed(pixels: torch.Tensor, finds: Any = finds) -> torch.Tensor:
            return finds.embed_videos(finds.encode_videos(pixels))

        took = seconds(torch.no_grad()(lambda embed=embed: embed(clips.pixels[:BATCH])))
        ids, seen = (clips.blanks[key][:BATCH] for key in ("input_ids", "attention_mask"))
        given = {"pixel_values_videos": clips.pixels[:BATCH], "input_ids": ids, "attention_mask": seen}
        asked = seconds(torch.no_grad()(lambda fills=fills, given=given: fills(**given)))
        row = {"form": name, "blanks": clips.filled(fills), "recall_at_1": clips.found(embed, finds.embed_texts)}
        rows.append(row | {"megabytes": megabytes(fills, folder), "embed_ms": 1e3 * took, "fill_ms": 1e3 * asked})
        print(rows[-1], flush=True)
    return rows


def of_onnx(clips: Clips, folder: Path) -> list[dict[str, Any]]:
    """A row for the exported towers, and for each way to quantize them."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    export_graphs(violet.pretrained(TINY), folder / "float32", ["video_embedding", "text_embedding"])
    ways: dict[str, dict[str, Any] | None] = {
        "float32": None,
        "int8": {},
        "int8, per channel": {"per_channel": True},
        "int8, only products": {"op_types_to_quantize": ["MatMul", "Gemm"]},
        "int8, per channel, 7 bits": {"per_channel": True, "reduce_range": True},
    }
    rows = []
    for name, settings in ways.items():
        made = folder / name
        for part in ("video_embedding", "text_embedding"):
            made.mkdir(exist_ok=True)
            if settings is not None:
                from_file, to_file = folder / "float32" / f"{part}.onnx", made / f"{part}.onnx"
                quantize_dynamic(from_file, to_file, weight_type=QuantType.QInt8, **settings)
        runs = {part: OPENERS["onnx"](made / f"{part}.onnx", PARTS[part].output) for part in PARTS if part[0] != "v"}
        runs["video_embedding"] = OPENERS["onnx"](made / "video_embedding.onnx", PARTS["video_embedding"].output)

        def videos(pixels: torch.Tensor, runs: Any = runs) -> torch.Tensor:
            return runs["video_embedding"]({"pixel_values_videos": pixels})

        def texts(ids: torch.Tensor, mask: torch.Tensor, runs: Any = runs) -> torch.Tensor:
            return runs["text_embedding"]({"input_ids": ids, "attention_mask": mask})

        took = seconds(lambda videos=videos: videos(clips.pixels[:BATCH]))
        row = {"form": f"ONNX, {name}", "recall_at_1": clips.found(videos, texts), "embed_ms": 1e3 * took}
        rows.append(row | {"megabytes": (made / "video_embedding.onnx").stat().st_size / 1e6})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--json", help="a JSON file for the rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        clips = Clips(options.clips, Path(made))
        rows = of_torch(clips, Path(made)) + of_onnx(clips, Path(made))
    if options.json:
        write_json(options.json, rows)


if __name__ == "__main__":
    main()

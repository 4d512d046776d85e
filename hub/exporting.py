"""`violet export`: a model's encoders as graphs that run without this package, each checked against the model."""

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoProcessor

from .._version import __version__
from ..core.files import new_folder, write_json, write_text
from ..core.quiet import quietly
from ..core.weights import shipped_or
from ..modeling_violet import VioletModel, VioletPreTrainedModel
from .conversion import load_model
from .exported_page import page_of
from .weight_files import WeightsError, first_line

FORMATS = ("onnx", "pt2")
TOLERANCE = 1e-5
"""How far a graph's output may lie from the model's, in parts of the output's largest value, or of 1."""
CHECKED_BATCHES = (1, 3)
DESCRIPTION = "export.json"
EXTRA = 'pip install "violet-video[onnx]"'


class ExportError(WeightsError):
    """A model, or a part of it, that cannot be exported; the message names it."""


class VisionGraph(nn.Module):
    """Pixels -> the vision encoder's states on their grid, (batch, steps, rows, columns, width)."""

    def __init__(self, model: VioletModel):
        super().__init__()
        self.encoder = model.vision_encoder
        self.vision_model = model.vision_model

    def forward(self, **pixels: torch.Tensor) -> torch.Tensor:
        first, *others = self.encoder.inputs
        states = self.encoder.states(self.vision_model, pixels[first], **{name: pixels[name] for name in others})
        assert states.last_hidden_state is not None  # every encoder has a grid
        return states.last_hidden_state


class VideoGraph(nn.Module):
    """Pixels -> videos' embeddings, (batch, projection_dim)."""

    def __init__(self, model: VioletModel):
        super().__init__()
        self.video_encoder = model.video_encoder
        self.projection: Any = model.projection

    def forward(self, **pixels: torch.Tensor) -> torch.Tensor:
        return self.projection.video(self.video_encoder(pixels))


class TextGraph(nn.Module):
    """Words -> texts' embeddings, (batch, projection_dim)."""

    def __init__(self, model: VioletModel):
        super().__init__()
        self.text_embeddings = model.text_embeddings
        self.projection: Any = model.projection

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.projection.text(self.text_embeddings.encode(input_ids, attention_mask))


@dataclass(frozen=True)
class Part:
    """
    A part of a model that becomes a graph.

    Attributes:
        graph: makes it of the model.
        output: the name of what it gives.
        reads: "pixels" or "words".
        says: what it gives, for people.
    """

    graph: Callable[[VioletModel], nn.Module]
    output: str
    reads: str
    says: str


PARTS: Mapping[str, Part] = {
    "vision_encoder": Part(
        VisionGraph, "states", "pixels", "the vision encoder's states (batch, steps, rows, columns, width)"
    ),
    "video_embedding": Part(
        VideoGraph, "video_embeds", "pixels", "a vector of length 1 for each video (batch, width)"
    ),
    "text_embedding": Part(TextGraph, "text_embeds", "words", "a vector of length 1 for each text (batch, width)"),
}
"""By the name that chooses it, which is also that of its files."""


def export_graphs(
    model: str | os.PathLike,
    output: str | os.PathLike,
    parts: Sequence[str] | None = None,
    formats: Sequence[str] = ("onnx",),
) -> dict[str, Any]:
    """
    Writes the folder `output`, whole or not at all: a graph of each part in each format, the model's processor with
    its code, `export.json`, and a README.md that says how to run them. Batches may have any size, texts any length up
    to the longest; frames and their size are those of the processor. Float32, whatever the weights are.

    Args:
        model: a folder or a name on the Hub, with its processor.
        parts: names of `PARTS`; by default all that the model has.
        formats: of `FORMATS`: "onnx" for ONNX Runtime and others, "pt2" for `torch.export.load`.

    Returns:
        What stands in `export.json`.

    Raises:
        FileExistsError: if there is an `output` already.
        WeightsError: for a model that cannot be had.
        ExportError: for a part that the model does not have or that does not become a graph, for a graph whose outputs
            are not the model's (see `TOLERANCE`), and if what a format needs is not installed.
    """
    if Path(output).exists():
        raise FileExistsError(f"{output} exists already: name another folder.")
    require(formats)
    source = shipped_or(model)
    loaded = load_model(source)
    if not isinstance(loaded, VioletPreTrainedModel):
        raise ExportError(f"{model} holds {type(loaded).__name__}: parts of models with a text side are exported.")
    violet: Any = loaded.base_model.eval().float()
    processor = read_processor(source)
    chosen = parts_of(violet, parts, str(model))
    with new_folder(output) as folder, quietly():
        processor.save_pretrained(folder, with_code=True)
        made = [export_part(violet, name, processor, formats, folder) for name in chosen]
        described = describe(str(model), violet, processor, made)
        write_json(folder / DESCRIPTION, described)
        write_text(folder / "README.md", page_of(described))
    return described


def require(formats: Sequence[str]) -> None:
    """Refuses formats that are unknown, or whose packages are not installed."""
    for one in formats:
        if one not in FORMATS:
            raise ExportError(f"There is no format {one!r}; there are {' and '.join(FORMATS)}.")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if "onnx" in formats and missing:
        raise ExportError(f"The format 'onnx' needs {', '.join(missing)}: {EXTRA}, or use the format 'pt2'.")


def read_processor(model: str | os.PathLike) -> Any:
    """
    A model's processor.

    Raises:
        ExportError: if there is none, or it takes as many frames as a video is long.
    """
    try:
        processor: Any = AutoProcessor.from_pretrained(model)
        frames = processor.video_processor
    except (OSError, ValueError, AttributeError) as error:
        raise ExportError(f"{model}: no processor of videos and texts ({first_line(error)}).") from error
    if frames.fps is not None or frames.num_frames is None:
        raise ExportError(
            f"{model}: a graph has one number of frames, and this processor takes as many as a video is long (`fps` "
            f"{frames.fps}): set `num_frames` in place of `fps`."
        )
    return processor


def parts_of(model: Any, wanted: Sequence[str] | None, source: str) -> list[str]:
    """The names of the parts to export."""
    there = [name for name in PARTS if name == "vision_encoder" or model.has_embeddings]
    for name in wanted or ():
        if name not in PARTS:
            raise ExportError(f"There is no part {name!r}; there are {', '.join(PARTS)}.")
        if name not in there:
            raise ExportError(f"{source} has no {name}: its configuration has no projection_dim.")
    return [name for name in there if wanted is None or name in wanted]


def export_part(model: Any, name: str, processor: Any, formats: Sequence[str], folder: Path) -> dict[str, Any]:
    """
    Writes a part's files into the folder, checked.

    Returns:
        Its entry in `export.json`.
    """
    part = PARTS[name]
    graph = part.graph(model).eval()
    inputs = Examples(model, processor, part.reads)
    example = inputs.draw(2)
    try:
        with torch.no_grad():
            expected = graph(**example)
        with torch.no_grad(), plainly():
            # Strict: by dynamo, to which `len(tensor)` is a side that may change, and not a number.
            program = torch.export.export(graph, (), example, dynamic_shapes=inputs.dynamic(), strict=True)
    except Exception as error:
        raise refused(name, "a graph of torch.export", error) from error
    files, differences = {}, {}
    for one in formats:
        file = folder / f"{name}.{one}"
        try:
            with plainly():
                WRITERS[one](program, file, list(example), part.output)
                runs = OPENERS[one](file, part.output)
        except Exception as error:
            raise refused(name, f"a file of the format {one!r}", error) from error
        files[one] = file.name
        differences[one] = max(
            difference(name, one, graph, runs, given)
            for given in (example, *(inputs.draw(batch, seed) for seed, batch in enumerate(CHECKED_BATCHES, 1)))
        )
    shapes = {key: inputs.shape(key, value) for key, value in example.items()}
    return {
        "name": name,
        "says": part.says,
        "files": files,
        "inputs": {key: {"shape": shapes[key], "dtype": dtype_of(value)} for key, value in example.items()},
        "output": {"name": part.output, "shape": ["batch", *expected.shape[1:]], "dtype": dtype_of(expected)},
        "largest_difference": differences,
        "checked_batches": [2, *CHECKED_BATCHES],
    }


class Examples:
    """What a part is called with: clips as the processor makes them, or texts."""

    def __init__(self, model: Any, processor: Any, reads: str):
        self.reads, self.vocabulary = reads, model.config.vocab_size
        most = model.config.max_position_embeddings
        self.longest = min(getattr(processor, "max_length", None) or most, most)
        self.pixels = {} if reads == "words" else pixels_of(processor.video_processor)

    def draw(self, batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
        """A batch; texts of another length for another seed, unequally padded."""
        random = torch.Generator().manual_seed(seed)
        if self.reads == "pixels":
            return {name: torch.randn(batch, *one.shape[1:], generator=random) for name, one in self.pixels.items()}
        length = max(self.longest // 2 - seed, 3)
        ids = torch.randint(1, self.vocabulary, (batch, length), generator=random)
        lengths = torch.linspace(length, max(length // 2, 2), batch).long()
        mask = (torch.arange(length) < lengths[:, None]).long()
        return {"input_ids": ids * mask, "attention_mask": mask}

    def dynamic(self) -> dict[str, Any]:
        """`dynamic_shapes` of `torch.export.export`, for a `forward` of keywords."""
        batch = Dim("batch")
        if self.reads == "pixels":
            return {"pixels": {name: {0: batch} for name in self.pixels}}
        return dict.fromkeys(("input_ids", "attention_mask"), {0: batch, 1: Dim("words", max=self.longest)})

    def shape(self, name: str, value: torch.Tensor) -> list[int | str]:
        """An input's shape, with the names of sides that may change."""
        return ["batch", "words"] if self.reads == "words" else ["batch", *value.shape[1:]]


def pixels_of(frames: Any) -> dict[str, torch.Tensor]:
    """What the processor makes of one black clip of `num_frames` frames."""
    height, width = (frames.size[name] for name in ("height", "width"))
    clip = np.zeros((frames.num_frames, height, width, 3), np.uint8)
    made = frames([clip], do_sample_frames=False, return_tensors="pt")
    return {name: made[name] for name in frames.inputs}


def dtype_of(value: torch.Tensor) -> str:
    """The name of a tensor's type, as numpy has it."""
    return str(value.dtype).removeprefix("torch.")


@contextmanager
def plainly() -> Iterator[None]:
    """
    Attention is laid out as its plain steps are: the CPU's fused kernel lays its output out otherwise, a copy that it
    does not need would be missing in the graph, and no other kernel could run it. And without what the exporters say
    of their own code.
    """
    exporters = logging.getLogger("torch.onnx")
    level = exporters.level
    exporters.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")
            yield
    finally:
        exporters.setLevel(level)


Runs = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


def write_onnx(program: ExportedProgram, file: Path, inputs: list[str], output: str) -> None:
    """Writes an ONNX file; weights beyond 2 GB go into a file beside it."""
    made = torch.onnx.export(program, input_names=inputs, output_names=[output], dynamo=True, verbose=False)
    assert made is not None  # with `dynamo`
    made.save(file)


def write_program(program: ExportedProgram, file: Path, inputs: list[str], output: str) -> None:
    """Writes a file for `torch.export.load`."""
    torch.export.save(program, file)


def open_onnx(file: Path, output: str) -> Runs:
    """What runs an ONNX file on the CPU, with as many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.from_numpy(session.run([output], {key: value.numpy() for key, value in given.items()})[0])

    return run


def open_program(file: Path, output: str) -> Runs:
    """What runs a program of torch.export."""
    graph = torch.export.load(file).module()
    return lambda given: graph(**given)


WRITERS: Mapping[str, Callable[[ExportedProgram, Path, list[str], str], None]] = {
    "onnx": write_onnx,
    "pt2": write_program,
}
OPENERS: Mapping[str, Callable[[Path, str], Runs]] = {"onnx": open_onnx, "pt2": open_program}


@torch.no_grad()
def difference(name: str, form: str, graph: nn.Module, run: Runs, given: dict[str, torch.Tensor]) -> float:
    """
    How far the file's output lies from the model's, in parts of the largest value, or of 1.

    Raises:
        ExportError: if it is more than `TOLERANCE`, or the file cannot be run.
    """
    expected = graph(**given)
    try:
        got = run(given)
    except Exception as error:
        raise refused(name, f"a file of the format {form!r} that runs", error) from error
    if got.shape != expected.shape:
        raise ExportError(f"{name}: the {form} file gives {tuple(got.shape)}, the model {tuple(expected.shape)}.")
    apart = ((got - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
    if not apart <= TOLERANCE:
        raise ExportError(
            f"{name}: the {form} file differs from the model by {apart:.1e} of the largest value, more than "
            f"{TOLERANCE:g}: nothing was written."
        )
    return apart


def refused(name: str, what: str, error: Exception) -> ExportError:
    """The error for a part that does not become what it should."""
    return ExportError(f"{name} does not become {what}: {type(error).__name__}: {first_line(error)}")


def describe(source: str, model: Any, processor: Any, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What stands in `export.json`."""
    frames = processor.video_processor
    scale = model.projection.scale().item() if model.has_embeddings else None
    return {
        "model": source,
        "violet": __version__,
        "torch": torch.__version__,
        "parts": parts,
        "scale": scale,
        "frames": {
            "num_frames": frames.num_frames,
            "frame_sampling": frames.frame_sampling,
            "size": dict(frames.size),
            "fit": "stretch" if frames.do_stretch else "pad" if frames.do_pad_to_square else "center_crop",
            "rescale_factor": frames.rescale_factor,
            "image_mean": list(frames.image_mean),
            "image_std": list(frames.image_std),
        },
        "longest_text": Examples(model, processor, "words").longest if model.has_embeddings else None,
        "tolerance": TOLERANCE,
    }

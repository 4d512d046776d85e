"""The paths of `violet speed` that have no bar: tasks, loading, named configurations, growth."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ..configuration.named_configurations import NAMED_CONFIGURATIONS
from ..modeling_violet import Tokens, VioletModel
from ..modeling_violet.encoders.two_resolutions import SMALL_SIDE, HdVilaVisionConfig
from .judged_paths import FRAMES, WORDS, Step, config_of, device, words
from .measuring import Case, Setting, Told, exponent

LOADED_FRAMES, LOADED_SIDE, BATCH = 5, 224, 8


def configurations(setting: Setting) -> Iterator[Case]:
    """A clip in the vision encoder of each named configuration, whose sizes fit this machine"""
    for name in NAMED_CONFIGURATIONS:
        if ("tiny" not in name and setting.quick) or "7b" in name:
            continue
        config = config_of(name)
        with torch.device("meta"):
            model: Any = VioletModel(config)
        del model.fusion, model.text_embeddings
        model = model.to_empty(device=device()).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.02)
        for buffer in model.buffers():  # a variance is positive, and a place lies in its table
            buffer.fill_(1 if buffer.is_floating_point() else 0)
        pixels = example_pixels(config, model)
        run = torch.no_grad()(lambda model=model, pixels=pixels: model.video_encoder.encode(pixels))
        numbers = {"million_parameters": sum(one.numel() for one in model.video_encoder.parameters()) / 1e6}
        yield Case(name, run, 1, "clips", numbers=numbers)


def example_pixels(config: Any, model: Any) -> dict[str, torch.Tensor]:
    """One clip of the size that a configuration is made for, by the names that its encoder takes."""
    from ..processing import VioletVideoProcessor

    vision = config.vision_config
    side = getattr(vision, "image_size", None) or (64 if config.hidden_size <= 128 else 224)
    height = width = side if isinstance(side, int) else max(side)
    if isinstance(vision, HdVilaVisionConfig):
        height, width = (SMALL_SIDE * places for places in vision.position_grid)
    frames = getattr(vision, "num_frames", config.num_video_frames)
    inputs = list(model.vision_encoder.inputs)
    processor = VioletVideoProcessor(size={"height": height, "width": width}, num_frames=frames, inputs=inputs)
    clip = np.random.default_rng(0).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)
    made = processor([clip], do_sample_frames=False, return_tensors="pt")
    return {name: made[name].to(device()) for name in inputs}


def tasks(setting: Setting) -> Iterator[Case]:
    """A step of fine-tuning violet-tiny for each task, of drawn clips"""
    from ..data import moving_shapes
    from ..data.loading import ClipReader
    from ..training import TASKS, DataArguments, ModelArguments
    from ..training.finetuning import build_model_and_processor
    from ..training.sampling import DrawnRows

    counts: dict[str, Any] = dict.fromkeys(("test", "validation", "test_unseen", "test_together"), 0)
    clips = moving_shapes(setting.folder / "shapes", train=32, **counts)["train"]
    for name, task in TASKS.items():
        rows, data = task.rows(clips), DataArguments(task=name)
        model, processor = build_model_and_processor(ModelArguments(), rows, data, None)
        model = model.to(device()).train()
        reader = ClipReader(processor.video_processor)
        collator = task.of(model.config).collate(processor, model, data, training=True, reader=reader)
        drawn = DrawnRows(rows, seed=0)
        batch = collator([drawn[0, number] for number in range(min(BATCH, len(rows)))])
        given = {key: value for key, value in batch.items() if key not in ("failed", "ids")}
        inputs = processor.to_device(given, device())
        step = Step(model)
        run = lambda model=model, inputs=inputs, step=step: step.take(model(**inputs).loss)  # noqa: E731
        yield Case(f"fine-tuning, {name}", run, BATCH, "rows")


def precision(setting: Setting) -> Iterator[Case]:
    """A step of fine-tuning violet-tiny by attention kernel and precision, beside the fused kernel in float32"""
    from ..modeling_violet import VioletForQuestionAnswering

    clips, texts = (4, 12) if setting.quick else (32, 96)
    config = config_of("violet-tiny", num_labels=20)
    batch = {
        "pixel_values_videos": torch.randn(clips, FRAMES, 3, 64, 64, device=device()),
        **words(config, texts, 12),
        "video_index": (torch.arange(texts) // (texts // clips)).to(device()),
        "labels": torch.randint(0, 20, (texts,), device=device()),
        "caption_ids": torch.randint(5, config.vocab_size, (clips, 20), device=device()),
    }

    def step_of(kernel: str, bfloat16: bool) -> Callable[[], Any]:
        step = Step(VioletForQuestionAnswering(config_of("violet-tiny", kernel, num_labels=20)).to(device()).train())

        def take() -> None:
            with torch.autocast(device().type, torch.bfloat16, enabled=bfloat16):
                loss = step.model(**batch).loss
            step.take(loss)

        return take

    fused = step_of("sdpa", False)
    for kernel, bfloat16 in (("sdpa", False), ("eager", False), ("sdpa", True), ("eager", True)):
        name = f"step, {kernel}, {'bfloat16' if bfloat16 else 'float32'}"
        yield Case(name, step_of(kernel, bfloat16), clips, "clips", fused, "sdpa in float32")


def loading(setting: Setting) -> Iterator[Case]:
    """Decoding by each backend, and loading by one worker from files of each kind beside bare decoding"""
    from ..data.loading import ClipReader
    from ..processing import VioletVideoProcessor, decode_video
    from ..processing.decoding import BACKENDS

    processor = VioletVideoProcessor(size={"height": LOADED_SIDE, "width": LOADED_SIDE}, num_frames=LOADED_FRAMES)

    def choose(total: int, fps: float | None) -> np.ndarray:
        return np.linspace(0, total - 1, LOADED_FRAMES).round().astype(int)

    clips = setting.clips
    for backend in BACKENDS[1:]:
        if all(decode_video(clip, choose, backend).backend == backend for clip in clips[:1]):
            work = lambda backend=backend: [decode_video(clip, choose, backend) for clip in clips]  # noqa: E731
            yield Case(f"decoding, {backend}", work, len(clips), "clips", counted=False)
    frames = [decode_video(clip, choose).frames for clip in clips]
    yield Case("resizing", lambda: resized(processor, frames), len(clips), "clips", counted=False)
    reader = ClipReader(processor)

    def collate(videos: list[Any]) -> torch.Tensor:
        return resized(processor, [reader.read(video).frames for video in videos])

    for name, videos in sources(setting, processor).items():
        options: dict[str, Any] = {"num_workers": 1, "persistent_workers": True, "collate_fn": collate}
        listed: Any = videos
        loader: Any = torch.utils.data.DataLoader(listed, batch_size=BATCH, **options)
        load = lambda loader=loader: [None for _ in loader]  # noqa: E731
        bare = lambda videos=videos: resized(processor, [bare_frames(one, choose) for one in videos])  # noqa: E731
        yield Case(
            f"loading, {name}", load, len(videos), "clips", bare, "bare decoding", counted=False, elsewhere=True
        )


def resized(processor: Any, frames: list[Any]) -> torch.Tensor:
    """What a worker hands over: pictures as they are to be, in bytes."""
    from ..processing.video_processing_violet import RAW_PIXELS

    return processor(frames, do_sample_frames=False, return_tensors="pt", **RAW_PIXELS)["pixel_values_videos"]


def bare_frames(video: Any, choose: Callable) -> Any:
    """The frames of a video wherever it lies, decoded in this process."""
    from ..data import open_video
    from ..processing import decode_video

    return decode_video(open_video(video), choose).frames


def sources(setting: Setting, processor: Any) -> dict[str, list[Any]]:
    """The clips as files, as the original's TSV of five frames each, as shards, and as frames of the model's size."""
    from ..core.files import write_json
    from ..data import prepare_frames, prepare_shards, read_rows

    files = list(setting.clips) * (1 if setting.quick else 4)
    table = write_json(
        setting.folder / "loaded.json", [{"video": clip, "caption": f"clip {i}"} for i, clip in enumerate(files)]
    )
    prepare_shards(table, setting.folder / "shards")
    shards = read_rows(setting.folder / "shards", ("video", "caption"))
    prepare_frames(table, setting.folder / "seen", format="png", processor=processor)
    seen = read_rows(setting.folder / "seen", ("video",))
    return {
        "mp4": files,
        "TSV": tsv_of(files, setting),
        "shards": list(shards["video"]),
        "frames of its size": list(seen["video"]),
    }


def tsv_of(files: list[str], setting: Setting) -> list[str]:
    """A TSV of frames as base64 of JPEG, with its lineidx: the names of its videos."""
    import base64
    import io

    from PIL import Image

    from ..processing import decode_video

    path, places, names = setting.folder / "frames.tsv", [], []
    with open(path, "wb") as file:
        for number, clip in enumerate(files):
            pictures = []
            for frame in decode_video(clip, lambda total, fps: np.linspace(0, total - 1, 5).astype(int)).frames:
                made = io.BytesIO()
                Image.fromarray(np.asarray(frame)).save(made, "jpeg")
                pictures.append(base64.b64encode(made.getvalue()))
            places.append(file.tell())
            file.write(b"\t".join([b"clip%d" % number, *pictures]) + b"\n")
            names.append(f"{path}#clip{number}")
    path.with_suffix(".lineidx").write_text("".join(f"{place}\n" for place in places))
    return names


def growth(setting: Setting) -> Iterator[Told]:
    """How time grows with frames, size, batch, words and gallery: p of size ** p"""
    from ..evaluation.searching import nearest

    name = "violet-tiny" if setting.quick else "violet-v2-base"
    model = VioletModel(config_of(name)).eval().to(device())
    side = 64 if setting.quick else 112
    width, length = model.config.hidden_size, FRAMES * 10

    def encode(batch: int = 1, frames: int = FRAMES, side: int = side) -> Callable[[], Any]:
        clips = torch.randn(batch, frames, 3, side, side, device=device())
        return lambda: model.video_encoder.encode(clips)

    def fuse(words: int) -> Callable[[], Any]:
        states = {"video": length, "text": words}
        made = {key: torch.randn(2, size, width, device=device()) for key, size in states.items()}
        groups = {key: Tokens(one, one.new_ones(one.shape[:2])) for key, one in made.items()}
        return lambda: model.fusion(groups)

    def search(videos: int) -> Callable[[], Any]:
        vectors = torch.randn(videos, 256)
        return lambda: nearest(vectors, vectors[:1], 10)

    axes: dict[str, tuple[list[int], Callable[[int], Callable[[], Any]]]] = {
        "encoder, batch": ([1, 2, 4], lambda size: encode(batch=size)),
        "encoder, frames": ([2, 4, 8], lambda size: encode(frames=size)),
        "encoder, pixels a side": ([side, 2 * side, 3 * side], lambda size: encode(side=size)),
        "fusion, words": ([WORDS, 4 * WORDS, 16 * WORDS], fuse),
        "search, videos": ([10_000, 100_000, 400_000], search),
    }
    for axis, (sizes, build) in axes.items():
        works = [torch.no_grad()(build(size)) for size in sizes]
        for work in works:
            work()
        rounds = range(1 if setting.quick else 3)
        seconds = [min(setting.time(work) for _ in rounds) for work in works]
        numbers = {"exponent": exponent(sizes, seconds), "sizes": sizes, "seconds_of_sizes": seconds}
        yield Told(f"growth, {axis}", seconds[-1], numbers=numbers)

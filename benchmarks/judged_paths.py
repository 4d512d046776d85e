"""The paths of `violet speed` that have a bar: violet-v2-base's encoder, fusion, training, captions and retrieval."""

import copy
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..configuration import named_configuration
from ..core.upstream import checkpoint_activations
from ..modeling_violet import (
    Tokens,
    VioletForCaptioning,
    VioletForPreTraining,
    VioletForRetrieval,
    VioletModel,
    VioletVisionModel,
)
from .measuring import Bar, Case, Setting, Told
from .plain import (
    PlainBertLayer,
    PlainEncoder,
    PlainFusion,
    PlainPreTraining,
    PlainWordHead,
    plain_of,
    pretraining_weights,
)

BASE = "violet-v2-base"
FRAMES, SIDE, WORDS = 4, 224, 25
SMALLER: dict[str, Any] = {
    "vision_config": {"depths": (1, 1, 3, 1), "embed_dim": 64, "num_heads": (2, 4, 8, 16)},
    "hidden_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
}
"""Of violet-v2-base, quickly done: a few of its layers, of half its width."""
CHANNELS = 1024
PLAIN = "as at b952e70"


def device() -> torch.device:
    """Where the table is made."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def random_clips(count: int, setting: Setting, frames: int = FRAMES) -> torch.Tensor:
    """Clips of the published size; quickly done, two frames of half its height and width."""
    frames, side = (2, SIDE // 2) if setting.quick else (frames, SIDE)
    return torch.randn(count, frames, 3, side, side, device=device())


def config_of(name: str, kernel: str = "sdpa", **changes: Any) -> Any:
    """A named configuration with that attention kernel, whatever a model would choose."""
    config: Any = named_configuration(name, **changes)
    config._attn_implementation = kernel
    config.vision_config._attn_implementation = kernel
    return config


def base_config(setting: Setting, kernel: str = "sdpa", **changes: Any) -> Any:
    """violet-v2-base; quickly done, a smaller one."""
    return config_of(BASE, kernel, **(SMALLER if setting.quick else {}), **changes)


def words(config: Any, texts: int, length: int = WORDS) -> dict[str, torch.Tensor]:
    """Texts of unequal lengths, the first as long as all: `input_ids` and `attention_mask`."""
    lengths = torch.linspace(length, length // 2, texts).long()
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids = torch.randint(config.vocab_size // 2, config.vocab_size, (texts, length))
    return {"input_ids": (ids * mask).to(device()), "attention_mask": mask.to(device())}


def encoder(setting: Setting) -> Iterator[Case]:
    """The vision encoder, two clips of four frames of 224 x 224"""
    config = base_config(setting).vision_config
    model = VioletVisionModel(config).eval().to(device())
    plain = plain_of(PlainEncoder(model.config), model.state_dict()).eval().to(device())
    clips = random_clips(2, setting)
    run, beside = torch.no_grad()(lambda: model(clips)), torch.no_grad()(lambda: plain(clips))
    yield Case("encoder", run, 2, "clips", beside, PLAIN, bars=[Bar("share", least=0.75), Bar("ratio", most=1 / 1.1)])


def fusion(setting: Setting) -> Iterator[Case]:
    """The fusion of two clips' tokens with a text each"""
    model = VioletModel(base_config(setting)).eval().to(device())
    plain = plain_of(PlainFusion(model.config), model.fusion.state_dict()).eval().to(device())
    video = torch.randn(2, FRAMES * 50, model.config.hidden_size, device=device())
    given = words(model.config, 2)
    text = torch.randn(2, WORDS, model.config.hidden_size, device=device())
    groups = {"video": Tokens(video, video.new_ones(video.shape[:2])), "text": Tokens(text, given["attention_mask"])}
    states = torch.cat([video, text], dim=1)
    real = torch.cat([given["attention_mask"].new_ones(video.shape[:2]), given["attention_mask"]], dim=1)
    run, beside = torch.no_grad()(lambda: model.fusion(groups)), torch.no_grad()(lambda: plain(states, real))
    yield Case("fusion", run, 2, "pairs", beside, PLAIN, bars=[Bar("share", least=0.85)])


def pretraining_model(setting: Setting) -> VioletForPreTraining:
    """violet-v2-base with masked features, to be trained."""
    config = base_config(setting, mvm_targets={"2d_feature": {"channels": CHANNELS}})
    return VioletForPreTraining(config).to(device()).train()


def pretraining_batch(setting: Setting, config: Any) -> dict[str, Any]:
    """Clips with a caption each, masked words and patches, features, and other texts to tell a clip apart from."""
    clips = 2 if setting.quick else 4
    pixels = random_clips(clips, setting, frames=2)
    grid = (clips, pixels.shape[1], *(-(-side // 32) for side in pixels.shape[-2:]))
    given = words(config, clips)
    hidden = torch.zeros_like(given["input_ids"], dtype=torch.bool)
    hidden[:, 2:5] = True
    labels = torch.where(hidden, given["input_ids"], -100)
    others = torch.tensor([[j for j in range(clips) if j != i] for i in range(clips)])
    batch = {
        "pixel_values_videos": pixels,
        "input_ids": given["input_ids"].masked_fill(hidden, config.mask_token_id),
        "attention_mask": given["attention_mask"],
        "labels": labels,
        "bool_masked_pos": torch.rand(grid) < 0.3,
        "negative_index": others,
    }
    batch = {name: value.to(device()) for name, value in batch.items()}
    return batch | {"mvm_targets": {"2d_feature": torch.randn(*grid, CHANNELS, device=device())}}


WEIGHTS = {"vtm": 1.0, "mlm": 1.0, "mvm_2d_feature": 1.0}


class Step:
    """A step of the optimiser, for a loss; as runs take it, by torch's fused kernel."""

    def __init__(self, model: nn.Module, fused: bool = True):
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.98), fused=fused)

    def take(self, loss: torch.Tensor) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def plain_step(setting: Setting, model: VioletForPreTraining, batch: Mapping[str, Any]) -> Any:
    """The step in the original's formulation, with the same weights."""
    plain = PlainPreTraining(base_config(setting, "eager"), CHANNELS).to(device()).train()
    plain_of(plain, pretraining_weights(model.state_dict(), "2d_feature"))
    step = Step(plain, fused=False)
    names = {"pixel_values_videos": "pixels", "input_ids": "ids", "attention_mask": "real", "labels": "labels"}
    names |= {"bool_masked_pos": "masked", "negative_index": "negatives"}
    given = {names[name]: batch[name] for name in names} | {"features": batch["mvm_targets"]["2d_feature"]}
    return lambda: step.take(plain(**given))


def pretraining(setting: Setting) -> Iterator[Case]:
    """A step of pre-training: matching, masked words, masked features; each by itself, all, and by attention"""
    model = pretraining_model(setting)
    batch = pretraining_batch(setting, model.config)
    step, clips = Step(model), len(batch["input_ids"])

    def of(weights: Mapping[str, float]) -> Any:
        return lambda: step.take(model(**batch, objectives=weights).loss)

    whole = of(WEIGHTS)
    bar = [Bar("ratio", most=0.80)]
    yield Case(
        "pre-training step", whole, clips, "clips", plain_step(setting, model, batch), "plain, pair twice", bars=bar
    )
    given = {name: batch[name] for name in ("pixel_values_videos", "input_ids", "attention_mask")}

    def attended() -> None:
        with torch.no_grad():
            model(**given, only_received_attention=True)
        whole()

    bar = [Bar("ratio", most=1.25)]
    yield Case("attended masking", attended, clips, "clips", whole, "the step without", bars=bar)
    if not setting.quick:
        for name in WEIGHTS:
            yield Case(f"pre-training step, {name}", of({name: 1.0}), clips, "clips", whole, "all three")


def checkpointing(setting: Setting) -> Iterator[Case]:
    """A step with gradient checkpointing, beside one without"""
    model = pretraining_model(setting)
    batch, checkpointed = pretraining_batch(setting, model.config), copy.deepcopy(model)
    checkpoint_activations(checkpointed)

    def loss(of: VioletForPreTraining) -> None:
        of(**batch, objectives=WEIGHTS).loss.backward()

    for one in (model, checkpointed):
        loss(one)  # from here on the gradients have their memory: what is measured is kept for them

    def memory(row: Mapping[str, Any]) -> dict[str, Any]:
        peaks = row["peak_bytes"], row["beside_peak_bytes"]
        return {"peak_ratio": peaks[0] / peaks[1]} if all(peaks) else {}

    clips, bars = len(batch["input_ids"]), [Bar("ratio", most=1.35), Bar("peak_ratio", most=0.5)]
    yield Case(
        "checkpointing",
        lambda: loss(checkpointed),
        clips,
        "clips",
        lambda: loss(model),
        "without",
        numbers=memory,
        bars=bars,
    )


class BareLoop(nn.Module):
    """Twelve layers and the vocabulary, a word and a [MASK] at a time, beside keys and values of earlier words."""

    def __init__(self, config: Any):
        super().__init__()
        self.layers = nn.ModuleList(PlainBertLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.head, self.first_word = PlainWordHead(config), config.bos_token_id
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)

    @torch.no_grad()
    def forward(self, video: torch.Tensor, length: int, mask_token: int) -> torch.Tensor:
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        states, ids, past = video, [torch.full((len(video),), self.first_word, device=video.device)], 0
        for layer in self.layers:
            states = layer(states, None, cache=cache)
        past = cache.get_seq_length()
        for _ in range(length):
            pair = torch.stack([ids[-1], torch.full_like(ids[-1], mask_token)], dim=1)
            states = self.words(pair)
            visible = torch.ones(2, past + 2, dtype=torch.bool, device=video.device).tril(past)[None, None]
            for layer in self.layers:
                states = layer(states, visible, cache=cache)
            ids.append(self.head(states[:, -1]).argmax(-1))
            past += 1
            cache.crop(-1)  # the [MASK]'s
        return torch.stack(ids, dim=1)


def captions(setting: Setting) -> Iterator[Case]:
    """Captions: two clips encoded, and 20 words written about each, with a cache and without"""
    model = VioletForCaptioning(base_config(setting)).eval().to(device())
    length = 5 if setting.quick else 20
    clips = random_clips(2, setting)
    encode = torch.no_grad()(lambda: model.violet.encode_videos(clips))
    encoded = encode()

    def write(use_cache: bool) -> torch.Tensor:
        lengths = {"min_new_tokens": length, "max_new_tokens": length}
        return model.generate(video_tokens=encoded, use_cache=use_cache, do_sample=False, **lengths)

    bare = BareLoop(model.config).eval().to(device())
    mask_token = model.config.mask_token_id
    both = 2 * length
    yield Case("captions, encode", encode, 2, "clips")

    def share(row: Mapping[str, Any]) -> dict[str, float]:
        return {"of_encoder_pass": row["seconds"] / min(setting.time(encode) for _ in range(2))}

    yield Case(
        "captions, decode",
        lambda: write(True),
        both,
        "words",
        lambda: bare(encoded.tokens, length, mask_token),
        "bare loop",
        numbers=share,
        bars=[Bar("ratio", most=1.15)],
    )
    if not setting.quick:
        yield Case("captions, decode, uncached", lambda: write(False), both, "words", lambda: write(True), "cached")


def retrieval(setting: Setting) -> Iterator[Case]:
    """Retrieval: N x N scores, the shortlist of a gallery of 100,000, and the fusion of a shortlist"""
    from ..evaluation.searching import MemoryGallery, nearest, score_pairs

    model = VioletForRetrieval(base_config(setting)).eval().to(device())
    count = 3 if setting.quick else 4
    clips = random_clips(count, setting)
    texts = words(model.config, count)
    passes = 0

    def counts(*_: Any) -> None:
        nonlocal passes
        passes += len(clips)

    encode = torch.no_grad()(lambda: model.violet.encode_videos(clips))
    hook = model.violet.vision_model.register_forward_hook(counts)
    score = torch.no_grad()(lambda: model(pixel_values_videos=clips, **texts))
    score()
    encoded_clips = passes / count
    hook.remove()
    numbers = {"encoder_passes_per_clip": encoded_clips}
    bars = [Bar("encoder_passes_per_clip", most=1.0)]
    pairs = count**2
    yield Case(
        "retrieval, N x N scores", score, pairs, "pairs", encode, f"{count} clips encoded", numbers=numbers, bars=bars
    )
    tokens = encode()
    scored = torch.no_grad()(lambda: model(video_tokens=tokens, **texts))
    fused = [Bar("share", least=0.80)]
    yield Case("retrieval, N x N scores, fusion", scored, pairs, "pairs", bars=fused)
    vectors = nn.functional.normalize(torch.randn(100_000, 256), dim=-1)
    query = vectors[:1] + 0.1
    limit = [Bar("seconds", most=0.020)]
    yield Case("search, ten nearest of 100,000", lambda: nearest(vectors, query, 10), 1, "queries", bars=limit)
    gallery = MemoryGallery(tuple(map(str, range(count))), tokens)
    shortlist = torch.arange(count).repeat(1, 4)[:, :10]
    one: dict[str, Any] = {name: value[:1] for name, value in texts.items()}
    second = torch.no_grad()(lambda: score_pairs(model, gallery, **one, candidates=shortlist))
    yield Case("search, second stage", second, shortlist.numel(), "pairs", bars=fused)


def starting(setting: Setting) -> Iterator[Told]:
    """`violet --help` and `import violet`"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def call(code: str) -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, text=True).stdout

    rounds = range(1 if setting.quick else 5)
    command = "import sys; sys.argv = ['violet', '--help']; from violet.cli import main; sys.exit(main())"
    call(command)  # compiles the files
    helped = min(replace(setting, clock="wall").time(lambda: call(command)) for _ in rounds)
    yield Told("violet --help", helped, unit="starts", bars=[Bar("seconds", most=0.3)])
    use = "import violet; violet.VioletForRetrieval, violet.VideoTextProcessor"
    others = call(
        f"{use}; import sys; print(*(name for name in sys.modules if name.split('.')[0] != 'violet'))"
    ).split()
    ours = f"""
import contextlib, gc, importlib, time
for name in {others!r}:
    with contextlib.suppress(ImportError):  # some modules are there under a name that cannot be imported
        importlib.import_module(name)
gc.collect()  # else the next full collection falls into ours: 0.2 s, of a million objects of the others
begun = time.perf_counter()
{use}
print(time.perf_counter() - begun)
"""
    beyond = min(float(call(ours)) for _ in rounds)
    yield Told("import violet, beyond others' modules", beyond, unit="starts", bars=[Bar("seconds", most=0.2)])


def weights(setting: Setting) -> Iterator[Case]:
    """`from_pretrained` and `save_pretrained` beside safetensors' bare read and write"""
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertModel

    folder = setting.folder / BASE
    VioletForRetrieval(base_config(setting)).save_pretrained(folder)
    file = folder / "model.safetensors"

    def bare() -> None:
        for tensor in load_file(file).values():
            tensor.sum()  # a mapped file is read when it is looked at

    def load() -> None:
        for parameter in VioletForRetrieval.from_pretrained(folder).parameters():
            parameter.sum()

    size = file.stat().st_size / 1e6
    limit = [Bar("ratio", most=1.5)]
    yield Case("from_pretrained", load, size, "MB", bare, "safetensors' read", counted=False, bars=limit)
    others = setting.folder / "bert"
    theirs = BertModel(BertConfig(num_hidden_layers=len(load_file(file)) // 16, hidden_size=768))
    theirs.save_pretrained(others)
    yield Case(
        "from_pretrained, transformers' BERT with as many tensors",
        lambda: BertModel.from_pretrained(others),
        (others / file.name).stat().st_size / 1e6,
        "MB",
        lambda: VioletForRetrieval.from_pretrained(folder),
        "violet-v2-base",
        counted=False,
    )
    model = VioletForRetrieval.from_pretrained(folder)
    saved = lambda: model.save_pretrained(setting.folder / "saved")  # noqa: E731
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    write = lambda: save_file(tensors, setting.folder / "bare.safetensors")  # noqa: E731
    yield Case("save_pretrained", saved, size, "MB", write, "safetensors' write", counted=False)


def training(setting: Setting) -> Iterator[Told]:
    """Pre-training on mp4 files by one worker: how a step is split into decoding, computing and waiting"""
    from ..core.files import write_json
    from ..training.pretraining import Pretraining
    from ..training.recipe import DatasetRecipe, PretrainingRecipe

    steps, size = (4, 8) if setting.quick else (12, 8)
    rows = [{"video": clip, "caption": f"clip number {number}"} for number, clip in enumerate(setting.clips)]
    table = write_json(setting.folder / "clips.json", rows)
    data = DatasetRecipe("clips", "table", str(table), captions=None)
    recipe = PretrainingRecipe(
        [data],
        output_dir=str(setting.folder / "run"),
        objectives={"vtm": 1.0, "mlm": 1.0},
        batch_size=size,
        frame_cache_mb=0,
        num_workers=1,
        trackers=[],
    )
    run = Pretraining(recipe)
    alone = run.batches(range(steps + 2), run.training)
    decoding = _seconds_each(lambda: next(alone), steps)
    batch = next(alone)
    computing = _seconds_each(lambda: run.forward(dict(batch), backward=True), steps)
    batches, waited, started = run.batches(range(steps + 2), run.training), 0.0, 0.0
    for number in range(steps + 2):
        if number == 2:  # the worker has begun, and the model warmed up
            waited, started = 0.0, time.perf_counter()
        before = time.perf_counter()
        one = next(batches)
        waited += time.perf_counter() - before
        run.forward(one, backward=True)
    step, wait = (time.perf_counter() - started) / steps, waited / steps
    numbers = {"decoding": decoding, "computing": computing, "waiting": wait, "waiting_share": wait / step}
    numbers["waiting_beyond"] = wait - max(0.0, decoding - computing) - 0.1 * step
    yield Told("training on mp4", step, size, "clips", numbers, [Bar("waiting_beyond", most=0.0)])


def _seconds_each(work: Any, steps: int) -> float:
    work()
    start = time.perf_counter()
    for _ in range(steps):
        work()
    return (time.perf_counter() - start) / steps

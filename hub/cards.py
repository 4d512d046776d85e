"""
Model cards, made from what a model's folder holds.

The generated parts of a card stand between marks, `<!-- violet:NAME -->` and `<!-- /violet:NAME -->`. Making it again
replaces these parts and the metadata that follow from the folder; everything else stays as it was written.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import CONFIG_MAPPING, AutoConfig

from ..configuration import VioletVisionConfig
from ..core.catalogue import MODEL_CLASSES, tasks_of
from ..core.files import sha256, write_text
from ..core.registry import PACKAGE
from ..core.weights import FOLDER
from ..evaluation.provenance import METRICS_FILE
from ..modeling_violet import ENCODERS
from ..modeling_violet.encoders.frame_by_frame import FrameByFrame
from .weight_files import WeightsError, num_parameters, weight_files

CARD_FILE = "README.md"
REPORT_FILE = "report.json"
CONVERSION_FILE = "conversion_report.json"
CURVES_FILE = "curves.png"
NOT_RESULTS = ("steps", "seconds")
"""Numbers in `metrics.json` that say nothing of a model's worth."""
OTHERS = "published"
"""How the names of others' measurements begin, in a report."""
REPO_NAME = re.compile(r"[\w.-]+/[\w.-]+")
LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


class CardError(ValueError):
    """A card that cannot be made or refreshed; the message says what is wrong and where."""


@dataclass(frozen=True)
class CardText:
    """
    The texts of a model class's card.

    Attributes:
        what: a sentence; `{size}`, `{encoder}` and `{answers}` are filled in.
        usage: code behind the imports; `{load}`, `{model}`, `{text}` and `{options}` are filled in.
        text: what the code asks if the folder holds no example.
        columns: where an example's text stands, the first that it has.
        limits: a sentence; `{answers}` is filled in.
        imported: from transformers.
    """

    what: str
    usage: str
    limits: str
    text: str = ""
    columns: tuple[str, ...] = ()
    imported: str = "pipeline"


CARDS: Mapping[str, CardText] = {
    "VioletForQuestionAnswering": CardText(
        what="A [VIOLET](https://arxiv.org/abs/2111.12681) model ({size}) that answers questions about short videos: "
        "{encoder}, BERT's text embeddings and a BERT fusion encoder, with a classifier over {answers} answers.",
        usage='answer = {load}\nprint(answer("clip.mp4", {text}))',
        limits="It can give only its {answers} answers, and gives one, with a score, also to questions that it was "
        "not trained on.",
        text="what is shown?",
        columns=("question",),
    ),
    "VioletForMultipleChoice": CardText(
        what="A [VIOLET](https://arxiv.org/abs/2111.12681) model ({size}) that chooses one of several answers to a "
        "question about a short video: it scores each of them behind the question, beside the video.",
        usage='choose = {load}\nprint(choose("clip.mp4", {text}, options={options}))',
        limits="It always prefers one of the options, also if none is right.",
        text="where does it go?",
        columns=("question",),
    ),
    "VioletForMaskedLM": CardText(
        what="A [VIOLET](https://arxiv.org/abs/2111.12681) model ({size}) that fills the blanks of sentences about "
        "short videos with words of its vocabulary.",
        usage='fill = {load}\nprint(fill("clip.mp4", {text}))',
        limits="It knows little beyond what its training data show and the words of its vocabulary.",
        text="it moves [MASK]",
        columns=("text",),
    ),
    "VioletForRetrieval": CardText(
        what="A [VIOLET](https://arxiv.org/abs/2111.12681) model ({size}) that says how well a text fits a short "
        "video, to find videos by texts and texts by videos. Each video and each text is encoded once; every pair "
        "then passes the fusion.",
        usage='search = {load}\nprint(search({text}, videos=["clip.mp4"]))',
        limits="A pair costs a pass through the fusion: a search takes time in proportion to the number of videos.",
        text="something moves",
        columns=("caption",),
    ),
    "VioletForCaptioning": CardText(
        what="A [VIOLET](https://arxiv.org/abs/2111.12681) model ({size}) that writes captions of short videos, word "
        "by word.",
        usage='write = {load}\nprint(write("clip.mp4"))',
        limits="It describes every video in the words of its training data, also one that shows something else.",
    ),
    "VioletForConditionalGeneration": CardText(
        what="A [VIOLET](https://arxiv.org/abs/2111.12681) model ({size}) that answers in writing what is asked about "
        "short videos: {encoder}, whose tokens a language model reads among its words.",
        usage='chat = {load}\nprint(chat("clip.mp4", {text}))',
        limits="It answers every question, also one that the video does not tell the answer of.",
        text="Describe the video.",
        columns=("question",),
    ),
    "VioletForVideoClassification": CardText(
        what="A [VIOLET](https://arxiv.org/abs/2111.12681) model ({size}) that tells which of {answers} classes a "
        "short video has: {encoder} and a BERT encoder over its tokens, without a text.",
        usage='classify = {load}\nprint(classify("clip.mp4"))',
        limits="It can give only its {answers} classes, also to a video that shows something else.",
    ),
    "VioletForPreTraining": CardText(
        what="A [VIOLET](https://arxiv.org/abs/2111.12681) model ({size}), pre-trained on videos and captions to be "
        "fine-tuned: {encoder}, BERT's text embeddings and a BERT fusion encoder. Without fine-tuning it fills "
        "blanks in captions and compares videos with captions.",
        usage='fill = {load}\nprint(fill("clip.mp4", {text}))',
        limits="It knows little beyond what its training data show and the words of their captions.",
        text="it moves [MASK]",
        columns=("text",),
    ),
    "VioletModel": CardText(
        what="A [VIOLET](https://arxiv.org/abs/2111.12681) model ({size}) without a head: features of short videos, "
        "or of videos and texts together.",
        usage='describe = {load}\nprint(describe("clip.mp4").shape)',
        limits="Its features are made to be trained further; what they tell by themselves was not measured.",
    ),
    "VioletVisionModel": CardText(
        what="The video encoder of [VIOLET](https://arxiv.org/abs/2111.12681) models ({size}): a Video Swin "
        "Transformer without a head.",
        usage="model = AutoModel.from_pretrained({model})\nframes = AutoVideoProcessor.from_pretrained({model})\n"
        'print(model(**frames("clip.mp4", return_tensors="pt")).last_hidden_state.shape)',
        limits="Its features are made to be trained further; what they tell by themselves was not measured.",
        imported="AutoModel, AutoVideoProcessor",
    ),
}
"""What a model says of itself, by its class: one for each of `MODEL_CLASSES`."""


@dataclass(frozen=True)
class Facts:
    """
    What a card says of a model, read from its folder.

    Attributes:
        name: of the class that it holds.
        kind: its entry of `CARDS`.
        config, processor: config.json, and processor_config.json if there is one.
        results: the metrics of metrics.json by name, without `NOT_RESULTS`.
        run: the other numbers there.
        settings, provenance: what metrics.json has under these names, see `evaluation.provenance.run_provenance`.
        report: report.json of a benchmark's run.
        conversion: conversion_report.json of weights that were converted.
    """

    folder: Path
    name: str
    kind: CardText
    config: Mapping[str, Any]
    processor: Mapping[str, Any]
    results: Mapping[str, float] = field(default_factory=dict)
    run: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    conversion: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """The nearest of the Hub's own tasks."""
        return MODEL_CLASSES[self.name].tag

    @property
    def task(self) -> str | None:
        """Of its first pipeline; None if it has none."""
        return next(iter(tasks_of(self.name)), None)

    @property
    def benchmark(self) -> str | None:
        return self.report.get("origin", {}).get("benchmark")

    @property
    def frames(self) -> Mapping[str, Any]:
        """The video processor's settings."""
        return self.processor.get("video_processor", self.processor)


def read_facts(folder: Path) -> Facts:
    """
    Raises:
        CardError: if the folder holds no model of this package, or a file of it cannot be read.
    """
    if not (folder / "config.json").is_file():
        raise CardError(f"{folder} holds no config.json: it is no model's folder.")
    config = _read_json(folder / "config.json")
    name = (config.get("architectures") or ["none"])[0]
    if name not in CARDS:
        raise CardError(f"{folder}/config.json: `architectures` is {name}; cards are made of {', '.join(CARDS)}.")
    metrics = _read_json(folder / METRICS_FILE)
    settings, provenance = metrics.pop("settings", {}), metrics.pop("provenance", {})
    return Facts(
        folder,
        name,
        CARDS[name],
        config,
        _read_json(folder / "processor_config.json") or _read_json(folder / "video_preprocessor_config.json"),
        {name: value for name, value in metrics.items() if name not in NOT_RESULTS},
        {name: value for name, value in metrics.items() if name in NOT_RESULTS},
        settings,
        provenance,
        _read_json(folder / REPORT_FILE),
        _read_json(folder / CONVERSION_FILE),
    )


def _read_json(file: Path) -> dict[str, Any]:
    """Its object; an empty one if there is no such file."""
    if not file.exists():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CardError(f"{file} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CardError(f"{file} must hold an object, not {type(value).__name__}.")
    return value


def write_model_card(
    folder: Path, *, name: str | None = None, license_name: str | None = None, model: str | None = None
) -> Path:
    """
    Writes `README.md` into a model's folder, in the form that the Hub shows, from what the folder holds: the
    configuration, the weights, `metrics.json`, `report.json`, `curves.png`. A card that is there is refreshed: see the
    head of this file. Doing it twice changes nothing.

    Args:
        name: the title; by default the one that is there, else the folder's name.
        license_name: the licence of the weights, in the Hub's spelling; by default the one that is there.
        model: the folder or Hub name that the card's code loads; by default `name` if it is one of the Hub's
            (ORG/NAME), else this folder.

    Raises:
        CardError: if a file of the folder cannot be read, or a mark in the card lost its counterpart.
    """
    file = folder / CARD_FILE
    data, body = read_card(file)
    if license_name is not None and not LICENCE.fullmatch(license_name):
        raise CardError(
            f"--license: {license_name!r} is not spelt as on the Hub, such as apache-2.0, mit, cc-by-nc-4.0 or other "
            "(https://huggingface.co/docs/hub/repositories-licenses)."
        )
    facts = read_facts(folder)
    heading = _heading(body)
    if name is None:
        name = card_title(folder) or folder.resolve().name
    if model is None and REPO_NAME.fullmatch(name):
        model = name
    _fill_metadata(data, facts, name, license_name, told=body)
    if heading is None:
        body = f"# {name}\n\n{body}".rstrip() + "\n"
    else:
        body = re.sub(f"^{re.escape(heading)}$", lambda _: f"# {name}", body, count=1, flags=re.MULTILINE)
    try:
        body = _fill_sections(body, {section: write(facts, model) for section, write in SECTIONS.items()})
    except WeightsError as error:
        raise CardError(str(error)) from error
    except ValueError as error:
        raise CardError(f"{file}: {error}") from error
    return write_text(file, f"---\n{data.to_yaml()}\n---\n\n{body}")


def read_card(file: Path) -> tuple[ModelCardData, str]:
    """
    The metadata and the text of a card; both empty if there is none.

    Raises:
        CardError: if the metadata cannot be read.
    """
    if not file.exists():
        return ModelCardData(), ""
    try:
        card = ModelCard(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise CardError(f"{file}: the metadata between the two lines of --- cannot be read: {error}") from error
    return card.data, card.text.lstrip("\n")


# --- metadata ---


def _fill_metadata(data: ModelCardData, facts: Facts, name: str, license_name: str | None, told: str) -> None:
    """
    Sets what follows from the facts. Other keys and tags stay, and results but those that the text so far, `told`, has
    in its table: these were made from the folder as it was.
    """
    data.library_name, data.pipeline_tag = "transformers", facts.tag
    data.license = license_name or data.license or ("other" if facts.config.get("weights_license") else None)
    wanted = [tag for tag in ("violet", facts.task) if tag]
    data.tags = [*(data.tags or []), *(tag for tag in wanted if tag not in (data.tags or []))]
    data.base_model = facts.provenance.get("base_model") or data.base_model
    data.datasets = facts.provenance.get("dataset") or data.datasets
    results = evaluation_results(facts)
    ours = {(one.unique_identifier, one.metric_type) for one in results}
    kept = [
        one
        for one in data.eval_results or []
        if (one.unique_identifier, one.metric_type) not in ours
        and _row(one.dataset_name, one.dataset_split, one.metric_type) not in told
    ]
    data.model_name, data.eval_results = (name, results + kept) if results or kept else (None, None)


def _row(dataset: str, split: str | None, metric: str) -> str:
    """How a result's row of the table begins."""
    return f"| {_cell(f'{dataset}, {split}')} | {_cell(metric)} |"


def evaluation_results(facts: Facts) -> list[EvalResult]:
    """The results as the Hub's `model-index` has them: of each its name in metrics.json, data set, split and value."""
    found = []
    for key, value in facts.results.items():
        dataset, label, split, metric = _place(facts, key)
        found.append(
            EvalResult(
                task_type=facts.tag,
                task_name=facts.task,
                dataset_type=dataset,
                dataset_name=label,
                dataset_split=split,
                metric_type=metric,
                metric_name=key,
                metric_value=value,
            )
        )
    return found


def _place(facts: Facts, key: str) -> tuple[str, str, str, str]:
    """A metric's name in metrics.json -> its data set, that one's name for people, the split, the metric."""
    if "/" in key:  # pre-training: DATASET/METRIC
        dataset, metric = key.split("/", 1)
        return dataset, dataset, "validation", metric
    splits = sorted(set(facts.provenance.get("splits", {})) | {"validation"}, key=len, reverse=True)
    split = next((split for split in splits if key.startswith(f"{split}_")), "test")
    metric = key.removeprefix(f"{split}_")
    if facts.benchmark is not None:
        return facts.benchmark, facts.benchmark, split, metric
    if (name := facts.provenance.get("dataset")) is not None:
        return name, name, split, metric
    file = facts.settings.get(f"{split}_file") or facts.settings.get("train_file")
    if "train_sha256" in facts.settings:
        return "tables", "tables given to `finetune`", split, metric
    if file is None:
        return "moving_shapes", "moving shapes, drawn by violet.data.moving_shapes", split, metric
    return Path(file).stem, Path(file).name, split, metric


# --- text ---


def card_title(folder: Path) -> str | None:
    """The title of a folder's card, if there is one."""
    heading = _heading(read_card(folder / CARD_FILE)[1])
    return heading and heading[2:].strip()


def _heading(body: str) -> str | None:
    """The first heading of the first level, as it stands."""
    code = False
    for line in body.splitlines():
        code ^= line.startswith("```")
        if not code and line.startswith("# "):
            return line
    return None


def _fill_sections(body: str, sections: Mapping[str, str]) -> str:
    """Replaces each section; one that is not there comes behind the one before it, or at the end."""
    behind = None
    for name, text in sections.items():
        start, end = f"<!-- violet:{name} -->", f"<!-- /violet:{name} -->"
        if body.count(start) > 1 or body.count(start) != body.count(end) or body.find(start) > body.find(end):
            raise ValueError(f"the marks {start} and {end} must stand there once each, in this order, or not at all.")
        block = f"{start}\n{text}\n{end}"
        if start in body:
            before, rest = body.split(start)
            body = before + block + rest.split(end)[1]
        elif behind is None:
            body = f"{body.rstrip()}\n\n{block}\n".lstrip("\n")
        else:
            body = body.replace(behind, f"{behind}\n\n{block}")
        behind = end
    return body


def _cell(value: Any) -> str:
    """A value as it can stand in a table; of a path on this machine the last name."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = Path(text).name if text.startswith("/") else text
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _about(facts: Facts, model: str | None) -> str:
    return facts.kind.what.format(size=_size(facts), encoder=_encoder(facts), answers=_answers(facts))


def _encoder(facts: Facts) -> str:
    """The vision encoder in a sentence."""
    kind = _vision(facts)["model_type"]
    if kind == VioletVisionConfig.model_type:
        return "Video Swin"
    ours = kind in CONFIG_MAPPING and CONFIG_MAPPING[kind].__module__.startswith(f"{PACKAGE}.")
    return f"a `{kind}`" if ours else f"a `{kind}` of transformers"


def _vision(facts: Facts) -> Mapping[str, Any]:
    """Every field of the vision encoder's configuration; of one that nobody here knows, those in the file."""
    fields = facts.config.get("vision_config", facts.config)
    kind = fields.get("model_type", VioletVisionConfig.model_type)
    return AutoConfig.for_model(**{**fields, "model_type": kind}).to_dict() if kind in CONFIG_MAPPING else fields


def _encoder_sizes(vision: Mapping[str, Any]) -> str:
    """What a table says of the vision encoder."""
    if vision["model_type"] == VioletVisionConfig.model_type:
        return (
            f"Video Swin: stages of {_list(vision['depths'])} blocks, {vision['embed_dim']} channels in the first, "
            f"windows of {_list(vision['window_size'])} patches, patches of {vision['temporal_patch_size']} frames by "
            f"{vision['patch_size']} pixels"
        )
    said = {
        "num_hidden_layers": "{} layers",
        "hidden_size": "width {}",
        "num_attention_heads": "{} heads",
        "patch_size": "patches of {} pixels",
        "tubelet_size": "each of {} frames",
    }
    told = [sentence.format(vision[name]) for name, sentence in said.items() if vision.get(name)]
    frames = vision.get("frames_per_clip", vision.get("num_frames", vision.get("temporal_size")))
    if frames is not None:
        told.append(f"clips of {frames} frames")
    elif ENCODERS.find(vision["model_type"]) is FrameByFrame:
        told.append("each frame as a picture")
    return f"{vision['model_type']}: {', '.join(told)}"


def _size(facts: Facts) -> str:
    return f"{num_parameters(facts.folder) / 1e6:.1f} million parameters"


def _answers(facts: Facts) -> int:
    return len(facts.config.get("id2label", ()))


def _usage(facts: Facts, model: str | None) -> str:
    """Code that runs if `clip.mp4` is a video."""
    kind, example = facts.kind, facts.provenance.get("example", {})
    text = next((example[name] for name in kind.columns if example.get(name)), kind.text)
    if model is None and facts.folder.resolve().parent == FOLDER.resolve():
        named = f"violet.pretrained({_quoted(facts.folder.name)})"
    else:
        named = _quoted(str(facts.folder) if model is None else model)
    carried = "auto_map" in facts.config
    named += ", trust_remote_code=True" * carried
    load = f'pipeline("{facts.task}", model={named})'
    options = ", ".join(_quoted(option) for option in example.get("options", ("left", "right")))
    code = kind.usage.format(load=load, model=named, text=_quoted(text), options=f"[{options}]")
    imports = f"from transformers import {kind.imported}"
    if not carried:
        imports = f"import violet  # makes the model known to transformers\n{imports}"
    needed = (
        "The model's code is in the checkpoint; `transformers`, `torch`, `torchvision` and `av` must be installed."
        if carried
        else "The package `violet` must be installed."
    )
    return f"## How to use\n\n{needed} `clip.mp4` stands for a video of yours.\n\n```python\n{imports}\n\n{code}\n```"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _architecture(facts: Facts, model: str | None) -> str:
    config, frames = facts.config, facts.frames
    rows: list[tuple[Any, ...]] = [
        ("class", config["architectures"][0]),
        ("parameters", f"{num_parameters(facts.folder):,}"),
        (
            "video encoder",
            _encoder_sizes(_vision(facts)),
        ),
    ]
    if "vision_config" in config:
        rows += [
            (
                "fusion encoder",
                f"{config['num_hidden_layers']} layers of width {config['hidden_size']}, "
                f"{config['num_attention_heads']} heads, {config['fusion_norm']}-norm",
            ),
            ("vocabulary", f"{config['vocab_size']} words and pieces"),
        ]
    if config.get("id2label"):
        rows.append(("answers", f"{_answers(facts)}"))
    if frames:
        size = frames.get("size", {})
        cut = "stretched to a square" if frames.get("do_stretch") else "cropped to a square"
        fit = "padded to a square" if frames.get("do_pad_to_square") else cut
        rows.append(
            (
                "input",
                f"{frames.get('num_frames')} frames of {size.get('height')} by {size.get('width')} pixels, {fit}",
            )
        )
    return f"## Architecture\n\n{_table(('part', 'what it is'), rows)}"


def _list(numbers: list[int]) -> str:
    return "×".join(map(str, numbers))


def _data(facts: Facts, model: str | None) -> str:
    settings, splits = facts.settings, facts.provenance.get("splits", {})
    if facts.benchmark is not None:
        text = f"The benchmark {facts.benchmark}."
    elif "datasets" in settings:
        text = "\n".join(f"- {_cell(_described(dataset))}" for dataset in settings["datasets"])
    elif settings.get("train_file"):
        files = {split: settings.get(f"{split}_file") for split in ("train", "validation", "test")}
        text = ", ".join(f"{split}: `{Path(file).name}`" for split, file in files.items() if file) + "."
    elif "train_sha256" in settings:
        text = "Tables that `finetune` was given from Python."
    elif settings:
        text = (
            "The built-in moving shapes (`violet.data.moving_shapes`), drawn videos of one or two shapes that move, "
            f"turn, grow, shrink or stay: {settings.get('shapes_clips')} for training, of seed "
            f"{settings.get('shapes_seed')}."
        )
    elif facts.conversion:
        text = f"The weights were converted ({_cell(facts.conversion['kind'])}): what they saw, their makers tell."
    else:
        text = "This folder does not tell what the model was trained on."
    if splits:
        rows = [(name, split["rows"], f"`{split['sha256']}`") for name, split in splits.items()]
        text += f"\n\n{_table(('split', 'rows', 'sha256 of the rows'), rows)}"
    return f"## Data\n\n{text}"


def _described(dataset: Mapping[str, Any]) -> str:
    """A data set of a pre-training recipe, without the places of its files."""
    if dataset["source"] == "moving_shapes":
        return (
            f"{dataset['name']}: the built-in moving shapes (`violet.data.moving_shapes`, split "
            f"`{dataset['split'] or 'pretrain'}`), {dataset['clips']} drawn videos of seed {dataset['seed']}, each "
            "with one sentence that says what happens"
        )
    return f"{dataset['name']}: `{Path(dataset['path']).name}`"


def _results(facts: Facts, model: str | None) -> str:
    told = facts.report.get("metrics", {})
    rows = []
    for key, value in facts.results.items():
        _, dataset, split, metric = _place(facts, key)
        one = told.get(key, {})
        interval = " to ".join(f"{end:.4g}" for end in one.get("interval") or ())
        published = "" if one.get("published") is None else f"{one['published']:.4g}"
        rows.append((f"{dataset}, {split}", metric, f"{value:.4g}", *((interval, published) if told else ())))
    if not rows:
        return "## Results\n\nThis folder holds no measurement."
    head = ["data", "metric", "value"]
    parts: list[str] = []
    if told:
        head += [f"{facts.report['interval_level']:.0%} interval", "published"]
        parts += [
            f"P{name[1:]}: {_cell(value)}."
            for name, value in facts.report["origin"].items()
            if name.startswith(f"{OTHERS} (")
        ]
        parts.append("The best and the worst samples are in [report.html](report.html).")
    parts.append(f"The same numbers, in full, are in `{METRICS_FILE}`.")
    if (facts.folder / CURVES_FILE).exists():
        parts.append(f"![Curves of the run]({CURVES_FILE})")
    return "## Results\n\n" + "\n\n".join([_table(tuple(head), rows), *parts])


ELSEWHERE = re.compile(r".*_(file|folder|dir|sha256)|shapes_.*|datasets|trackers")
"""Settings that name places on the machine of the run, or data, which have a part of their own."""


def _training(facts: Facts, model: str | None) -> str:
    told = {**facts.run, **facts.settings}
    rows = [(name, value) for name, value in told.items() if value is not None and not ELSEWHERE.fullmatch(name)]
    if not rows:
        return "## Training\n\nThis folder does not tell how the model was trained."
    return f"## Training\n\n{_table(('setting', 'value'), rows)}"


def _limits(facts: Facts, model: str | None) -> str:
    frames = facts.frames
    size = frames.get("size", {})
    seen = (
        f" Of a video it sees {frames['num_frames']} frames, {size.get('height')} by {size.get('width')} pixels each: "
        "what is shorter or smaller is lost."
        if frames.get("num_frames")
        else ""
    )
    terms = facts.config.get("weights_license")
    licence = "" if terms is None else f"**The weights may not be passed on.** {terms}\n\n"
    return (
        f"## Limits\n\n{licence}{facts.kind.limits.format(answers=_answers(facts))}{seen} Audio is ignored. "
        "What it says about people was not examined. Its scores are not calibrated probabilities, unless the results "
        "above say so."
    )


def _provenance(facts: Facts, model: str | None) -> str:
    rows: list[tuple[Any, ...]] = [
        (f"sha256 of `{file.name}`", f"`{sha256(file)}`")
        for file in [*weight_files(facts.folder), facts.folder / METRICS_FILE]
        if file.exists()
    ]
    conversion = {name: facts.conversion.get(name) for name in ("kind", "source", "sha256")}
    rows += [(f"converted: {name}", Path(value).name) for name, value in conversion.items() if value is not None]
    told = ("splits", "software", "example")
    rows += [(name.replace("_", " "), value) for name, value in facts.provenance.items() if name not in told]
    origin = facts.report.get("origin", {})
    rows += [(f"measured: {name}", value) for name, value in origin.items() if not name.startswith(OTHERS)]
    rows += [(name, f"{version}") for name, version in facts.provenance.get("software", {}).items()]
    return f"## Provenance\n\n{_table(('what', 'which'), rows)}"


SECTIONS: Mapping[str, Callable[[Facts, str | None], str]] = {
    "about": _about,
    "usage": _usage,
    "architecture": _architecture,
    "data": _data,
    "results": _results,
    "training": _training,
    "limits": _limits,
    "provenance": _provenance,
}
"""The generated parts of a card by name, in their order: (facts, what the code loads) -> Markdown."""

"""
The code that a checkpoint carries beside its weights, so that it works where this package is not installed.

The package's modules that models, processors and pipelines need are written into one folder, their relative imports
rewritten to siblings. One more file, `violet_code.py`, names the classes: everything is loaded through it, because
transformers copies the files of each entry into a folder of their own, and the classes of two copies are not the same.

This module travels too: a model that was loaded from such a checkpoint saves another one.
"""

import ast
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .._version import __version__
from .files import write_json, write_text

HERE = Path(__file__).parent
TRAVELLING = HERE.name != "core" or not (HERE.parent / "configuration").is_dir()
"""Whether this module came with a checkpoint, flattened, and is not in the package."""
ROOT = HERE if TRAVELLING else HERE.parent
ENTRY = "violet_code"
JSON_FILES = ("config.json", "processor_config.json", "video_preprocessor_config.json", "tokenizer_config.json")
"""The files of a checkpoint that name its code …"""
NAMING_CODE = ("auto_map", "custom_pipelines")
"""… and the keys."""
CARRIED = ("core", "configuration", "modeling_violet", "processing", "evaluation", "pipelines")
"""The package's folders whose modules a checkpoint may carry."""
STAYING = frozenset({"galleries"})
"""Modules of these folders that stay behind: a function that imports one says that it needs the package."""

AUTO_CLASSES: Mapping[str, Mapping[str, str]] = {
    "violet": {
        "AutoConfig": "VioletConfig",
        "AutoModel": "VioletModel",
        "AutoModelForImageTextToText": "VioletForCaptioning",
        "AutoModelForMaskedLM": "VioletForMaskedLM",
        "AutoModelForMultipleChoice": "VioletForMultipleChoice",
        "AutoModelForPreTraining": "VioletForPreTraining",
        "AutoModelForVisualQuestionAnswering": "VioletForQuestionAnswering",
        "AutoModelForZeroShotImageClassification": "VioletForRetrieval",
    },
    "violet_vision": {"AutoConfig": "VioletVisionConfig", "AutoModel": "VioletVisionModel"},
}
"""
By `model_type`: transformers' Auto class -> ours. It has none for retrieval; the one that stands here is for models
that score any texts against a picture, and `pipeline` can ask for no other than its own.
"""
PIPELINES = {
    "video-captioning": "VideoCaptioningPipeline",
    "video-feature-extraction": "VideoFeatureExtractionPipeline",
    "video-fill-mask": "VideoFillMaskPipeline",
    "video-question-answering": "VideoQuestionAnsweringPipeline",
    "video-text-retrieval": "VideoTextRetrievalPipeline",
}
TASKS: Mapping[str, Mapping[str, str]] = {
    "VioletModel": {"video-feature-extraction": "AutoModel"},
    "VioletForCaptioning": {
        "video-captioning": "AutoModelForImageTextToText",
        "video-question-answering": "AutoModelForImageTextToText",
    },
    "VioletForMaskedLM": {
        "video-fill-mask": "AutoModelForMaskedLM",
        "video-question-answering": "AutoModelForMaskedLM",
    },
    "VioletForMultipleChoice": {"video-question-answering": "AutoModelForMultipleChoice"},
    "VioletForPreTraining": {
        "video-feature-extraction": "AutoModel",
        "video-fill-mask": "AutoModelForMaskedLM",
        "video-question-answering": "AutoModelForMaskedLM",
        "video-text-retrieval": "AutoModelForZeroShotImageClassification",
    },
    "VioletForQuestionAnswering": {"video-question-answering": "AutoModelForVisualQuestionAnswering"},
    "VioletForRetrieval": {"video-text-retrieval": "AutoModelForZeroShotImageClassification"},
}
"""By the class that a checkpoint holds: its pipelines, and the Auto class through which each loads the model."""
PROCESSORS = {"AutoProcessor": "VideoTextProcessor", "AutoVideoProcessor": "VioletVideoProcessor"}


def add_code(folder: Path) -> list[Path]:
    """
    Puts the code that a saved model, processor, or both need into their folder, and names it in their JSON files
    (`auto_map`, `custom_pipelines`): then they load with `trust_remote_code=True` where this package is not
    installed. `pipeline` finds the task by itself where the model has but one, see `TASKS`. The weights are not
    touched.

    Returns:
        The files written.

    Raises:
        ValueError: for a folder that holds neither a model nor a processor of this package.
    """
    folder = Path(folder)
    files = [folder / name for name in JSON_FILES if (folder / name).is_file()]
    settings: dict[Path, dict[str, Any]] = {file: json.loads(file.read_text(encoding="utf-8")) for file in files}
    names: set[str] = set()
    for file, content in settings.items():
        if file.name == "config.json":
            names |= _name_model(content, file)
        elif file.name == "tokenizer_config.json":  # its class is transformers' own, whatever transformers notes here
            content.pop("auto_map", None)
        else:
            names |= _name_processors(content)
    if not names:
        raise ValueError(f"{folder} holds neither a model (config.json) nor a processor (processor_config.json).")
    written = [write_text(folder / file, source) for file, source in _sources(sorted(names)).items()]
    return written + [write_json(file, content) for file, content in settings.items()]


def _name_model(config: dict[str, Any], file: Path) -> set[str]:
    """Names the code in a `config.json`, and returns the classes that are to be carried."""
    auto_classes = AUTO_CLASSES.get(config.get("model_type", ""))
    if auto_classes is None:
        raise ValueError(
            f"{file}: `model_type` is {config.get('model_type')!r}, no model of this package; known are "
            f"{', '.join(AUTO_CLASSES)}."
        )
    holds = (config.get("architectures") or [""])[0]
    # The heads and teachers of pre-training are carried by a checkpoint of it alone: they are a fifth of the code.
    carried = {auto: name for auto, name in auto_classes.items() if name == holds or name != "VioletForPreTraining"}
    tasks = TASKS.get(holds, {})
    config["auto_map"] = {auto: f"{ENTRY}.{name}" for auto, name in carried.items()}
    config["custom_pipelines"] = {
        task: {"impl": f"{ENTRY}.{PIPELINES[task]}", "pt": [auto], "type": "multimodal"}
        for task, auto in tasks.items()
    }
    return {*carried.values(), *(PIPELINES.values() if tasks else ()), *(PROCESSORS.values() if tasks else ())}


def _name_processors(settings: dict[str, Any]) -> set[str]:
    """The like for what processors save."""
    for auto, part in (("AutoProcessor", settings), ("AutoVideoProcessor", settings.get("video_processor", settings))):
        part.setdefault("auto_map", {})[auto] = f"{ENTRY}.{PROCESSORS[auto]}"
    return set(PROCESSORS.values())


def without_code(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    The settings of a checkpoint, without what names its code where this package is installed: it would name it again
    when it saves them, without the files.
    """
    return {key: value for key, value in settings.items() if TRAVELLING or key not in NAMING_CODE}


def _sources(names: Iterable[str]) -> dict[str, str]:
    """The files that these classes need, by name: flattened, and the entry among them."""
    if TRAVELLING:  # so did all that is needed
        return {file.name: file.read_text(encoding="utf-8") for file in ROOT.glob("*.py") if file.stem != "__init__"}
    entry, needed = flatten("\n".join(f"from .{_part(name)} import {name}" for name in names), ROOT)
    sources: dict[str, str] = {}
    taken: dict[str, Path] = {}
    while needed:
        file = needed.pop()
        if taken.setdefault(file.name, file) != file:
            raise ValueError(f"{taken[file.name]} and {file} cannot lie in one folder: rename one of them.")
        if file.name not in sources:
            source = file.read_text(encoding="utf-8")
            sources[file.name], further = flatten(source, file.parent)
            needed |= further
            for module, part in _parts_of_tables(source):  # imported by the entry, or transformers would not copy them
                needed.add(file.parent / f"{module}.py")
                entry += f"\nfrom .{module} import {part}"
    sources[f"{ENTRY}.py"] = (
        f'"""The code of violet-video {__version__} that this checkpoint needs: its classes."""\n\n'
        f"{entry}\n\n__all__ = {list(names)}\n"
    )
    return dict(sorted(sources.items()))


def _parts_of_tables(source: str) -> list[tuple[str, str]]:
    """(module, name) of each "module:name" that stands in a `Registry(…)` of this source."""
    tables = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Registry"
    ]
    texts = [node.value for table in tables for node in ast.walk(table) if isinstance(node, ast.Constant)]
    found = [re.fullmatch(r"(\w+):(\w+)", text) for text in texts if isinstance(text, str)]
    return [(match[1], match[2]) for match in found if match is not None]


def _part(name: str) -> str:
    """The folder of the package that gives a class."""
    endings = {"Config": "configuration", "Processor": "processing", "Pipeline": "pipelines"}
    return next((part for ending, part in endings.items() if name.endswith(ending)), "modeling_violet")


def flatten(source: str, folder: Path) -> tuple[str, set[Path]]:
    """
    The source of a module in this folder of the package, with relative imports that are right where all modules lie
    in one folder; and the files that it imports.

    Raises:
        ValueError: for an import that cannot be flattened, with the statement.
    """
    lines = source.splitlines(keepends=True)
    needed: set[Path] = set()
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.level]
    for node in sorted(found, key=lambda node: -node.lineno):
        by_file: dict[Path, list[str]] = {}
        for name in node.names:
            file = _file_of(folder, node, name.name)
            by_file.setdefault(file, []).append(ast.unparse(name))
        indent = " " * node.col_offset
        statements = []
        for file, imported in by_file.items():
            if file.stem in STAYING and node.col_offset:
                statements.append('raise ImportError("This needs the whole package: pip install violet-video")')
                break
            _check_carried(file, node)
            needed.add(file)
            statements.append(f"from .{file.stem} import {', '.join(imported)}")
        end = node.end_lineno or node.lineno
        rest = lines[end - 1].encode()[node.end_col_offset :].decode()  # a comment, the end of the line
        lines[node.lineno - 1 : end] = [indent + f"\n{indent}".join(statements) + rest]
    return "".join(lines), needed


def _file_of(folder: Path, node: ast.ImportFrom, name: str) -> Path:
    """The file that defines what is imported here, through the `__init__.py` of folders."""
    target = folder
    for _ in range(node.level - 1):
        target = target.parent
    target = target.joinpath(*(node.module or "").split("."))
    if not target.is_dir():
        return target.with_suffix(".py")
    for inner in ast.parse((target / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(inner, ast.ImportFrom) and inner.level and name in {alias.name for alias in inner.names}:
            return _file_of(target, inner, name)
    raise ValueError(f"`{ast.unparse(node)}`: {target / '__init__.py'} does not import {name} from a module.")


def _check_carried(file: Path, node: ast.ImportFrom) -> None:
    part = file.relative_to(ROOT).parts[0]
    if part not in (*CARRIED, "_version.py") or not file.is_file() or file.stem in STAYING:
        raise ValueError(f"`{ast.unparse(node)}` leads to {file}, which no checkpoint carries.")

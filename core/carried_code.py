"""
The code that a checkpoint carries beside its weights, so that it works if this package is not installed.

Its JSON files name classes in `violet_code.py`, which imports them from the modules beside it: see `flat_modules`.

This module travels too: a model that was loaded from such a checkpoint saves another one.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .catalogue import (
    CONFIGURATIONS,
    ENTRY,
    MODEL_CLASSES,
    PIPELINE_CLASSES,
    PIPELINES,
    PROCESSORS,
    class_name,
    tasks_of,
)
from .files import write_json, write_text
from .registry import ROOT, TRAVELLING

JSON_FILES = ("config.json", "processor_config.json", "video_preprocessor_config.json", "tokenizer_config.json")
"""JSON files of a checkpoint that refer to carried code."""
NAMING_CODE = ("auto_map", "custom_pipelines")
"""The keys in them that do."""


def add_code(folder: Path) -> list[Path]:
    """
    Puts the code that a saved model, processor, or both need into their folder, and names it in their JSON files
    (`auto_map`, `custom_pipelines`): then they load with `trust_remote_code=True` if this package is not installed.
    `pipeline` finds the task by itself if the model has but one, see `catalogue.tasks_of`. The weights are not
    touched.

    Returns:
        The files written.

    Raises:
        ValueError: for a folder that holds neither a model nor a processor of this package; for code that cannot be
            carried, with its file and statement.
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
    sources = _sources(sorted(names), settings.get(folder / "config.json", {}))
    written = [write_text(folder / file, source) for file, source in sources.items()]
    return written + [write_json(file, content) for file, content in settings.items()]


def _name_model(config: dict[str, Any], file: Path) -> set[str]:
    """Names the code in a `config.json`, and returns the classes that are to be carried."""
    model_type = config.get("model_type", "")
    if model_type not in CONFIGURATIONS:
        raise ValueError(
            f"{file}: `model_type` is {config.get('model_type')!r}, and code is carried for models of type "
            f"{' and '.join(CONFIGURATIONS)} only. Another vision encoder of this package carries its code as part of "
            "a `VioletModel`: save that one."
        )
    holds = (config.get("architectures") or [""])[0]
    # The heads and teachers of pre-training are carried by a checkpoint of it only: they are a fifth of the code.
    carried = {"AutoConfig": class_name(CONFIGURATIONS, model_type)}
    for name, known in sorted(MODEL_CLASSES.items(), key=lambda entry: entry[0] != holds):  # what it holds first
        if known.model_type == model_type and (name == holds or not known.holds):
            for auto_class in (known.auto_class, *(known.also if name == holds else ())):
                carried.setdefault(auto_class, name)
    tasks = tasks_of(holds)
    config["auto_map"] = {auto: f"{ENTRY}.{name}" for auto, name in sorted(carried.items())}
    config["custom_pipelines"] = {
        task: {
            "impl": f"{ENTRY}.{class_name(PIPELINES, task)}",
            "pt": [MODEL_CLASSES[loaded_as].auto_class],
            "type": "multimodal",
        }
        for task, loaded_as in sorted(tasks.items())
        if task in PIPELINES  # the others are transformers' own
    }
    asked_by = {class_name(PIPELINES, task) for task in PIPELINE_CLASSES} | _processors() if tasks else set()
    return {*carried.values(), *asked_by}


def _name_processors(settings: dict[str, Any]) -> set[str]:
    """The same for what processors save."""
    for auto, part in (("AutoProcessor", settings), ("AutoVideoProcessor", settings.get("video_processor", settings))):
        part.setdefault("auto_map", {})[auto] = f"{ENTRY}.{class_name(PROCESSORS, auto)}"
    return _processors()


def _processors() -> set[str]:
    return {class_name(PROCESSORS, auto) for auto in PROCESSORS}


def without_code(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    The settings of a checkpoint, without what names its code if this package is installed: it would name it again
    when it saves them, without the files.
    """
    return {key: value for key, value in settings.items() if TRAVELLING or key not in NAMING_CODE}


def _sources(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """The files that these classes and the parts in a config.json need, and the entry: flattened, by name."""
    if TRAVELLING:  # so did all that is needed
        return {file.name: file.read_text(encoding="utf-8") for file in ROOT.glob("*.py") if file.stem != "__init__"}
    from .flat_modules import flat_modules

    return flat_modules(names, config)

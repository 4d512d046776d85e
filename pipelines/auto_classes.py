"""
Auto classes for the pipelines' tasks: of the models that can do a task, the one that a checkpoint holds. And what
makes pipelines known to transformers: the package's, and one of your own.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import transformers
from transformers import AutoConfig
from transformers.pipelines import PIPELINE_REGISTRY, Pipeline
from transformers.utils import CONFIG_NAME, cached_file

from ..configuration import VioletConfig
from ..core.catalogue import AUTO_CLASSES, MODELS, MODELS_OF_ADDED, PIPELINE_CLASSES, PIPELINES, models_of
from ..core.registry import TRAVELLING
from ..core.upstream import _BaseAutoModelClass, _LazyAutoMapping

HUB_SETTINGS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)
"""Those of `from_pretrained` that say where a file lies."""


def _models(task: str) -> _LazyAutoMapping:
    """The class that a checkpoint's `architectures` names, else the first that has the task."""
    mapping = _LazyAutoMapping(OrderedDict(), OrderedDict())
    mapping.register(VioletConfig, tuple(MODELS[name] for name in models_of(task) if MODELS.is_here(name)))
    return mapping


class _AutoModelOfTask(_BaseAutoModelClass):
    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args: Any, **kwargs: Any):
        """
        As of every Auto class, but a checkpoint without weights for the task is refused; other Auto classes start a
        new head and warn. An adapter may bring a head of its own.

        Raises:
            ValueError: names the checkpoint, what it holds, and what is missing.
        """
        wanted = kwargs.pop("output_loading_info", False)
        kwargs |= cls._choice(pretrained_model_name_or_path, kwargs)
        model, report = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        missing = sorted(report["missing_keys"])
        if missing and not getattr(model, "_hf_peft_config_loaded", False):
            raise ValueError(
                f"{pretrained_model_name_or_path} holds {' or '.join(model.config.architectures or ['a model'])}, "
                f"which has no weights for `{missing[0]}` ({len(missing)} are missing) of {type(model).__name__}: "
                f"fine-tune it for this task first. {cls.__name__} takes checkpoints of "
                f"{', '.join(known.__name__ for known in cls._model_mapping[VioletConfig])}."
            )
        return (model, report) if wanted else model

    @classmethod
    def _choice(cls, source: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
        """
        Of a checkpoint of another class, such as one of pre-training, transformers takes the first class: if its
        fusion does not serve that one, the `config` that names the first that it serves.
        """
        known, config = cls._model_mapping[VioletConfig], settings.get("config")
        if config is None:
            where = {name: settings[name] for name in HUB_SETTINGS if name in settings}
            if cached_file(source, CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **where) is None:
                return {}  # an adapter
            config = AutoConfig.from_pretrained(source, **where)
        classes = known if isinstance(known, tuple) else (known,)
        if not isinstance(config, VioletConfig) or classes[0].is_served(config):
            return {}
        able = [one.__name__ for one in classes if one.is_served(config)]
        if not able or (config.architectures or [""])[0] in able:
            return {}
        config.architectures = able[:1]
        return {"config": config}


class AutoModelForVideoQuestionAnswering(_AutoModelOfTask):
    """Loads a checkpoint that answers questions, in whichever way; one of pre-training as `VioletForMaskedLM`."""

    _model_mapping = _models("video-question-answering")


class AutoModelForVideoCaptioning(_AutoModelOfTask):
    """Loads a checkpoint that writes captions."""

    _model_mapping = _models("video-captioning")


class AutoModelForVideoFillMask(_AutoModelOfTask):
    """Loads a checkpoint that fills in a [MASK] beside a video."""

    _model_mapping = _models("video-fill-mask")


class AutoModelForVideoTextRetrieval(_AutoModelOfTask):
    """Loads a checkpoint that scores texts against videos."""

    _model_mapping = _models("video-text-retrieval")


@cache
def auto_class(task: str) -> type:
    """The Auto class that loads the models of a task's pipeline."""
    name = PIPELINE_CLASSES[task].auto_class if task in PIPELINE_CLASSES else None
    if task in AUTO_CLASSES:
        return AUTO_CLASSES[task]
    if name is not None:
        return getattr(transformers, name)
    name = "AutoModelFor" + "".join(word.capitalize() for word in task.split("-"))
    return type(name, (_AutoModelOfTask,), {"_model_mapping": _models(task)})


def register_pipelines() -> None:
    """Makes every pipeline of the catalogue known to `transformers.pipeline`; doing it twice is harmless."""
    for task in PIPELINES:
        if task not in PIPELINE_REGISTRY.get_supported_tasks():
            PIPELINE_REGISTRY.register_pipeline(
                task, pipeline_class=PIPELINES[task], pt_model=auto_class(task), type="multimodal"
            )


def add_pipeline(task: str, pipeline_class: type[Pipeline], models: Iterable[str]) -> type[Pipeline]:
    """
    Makes a pipeline of your own known to `transformers.pipeline`, and gives its class back. Checkpoints of these model
    classes list it, and carry its file if they carry their code: call this at the end of that file.

    Args:
        task: its name for `pipeline`.
        pipeline_class: best a `VideoTextPipeline`.
        models: the names of the model classes that it asks, such as "VioletForMaskedLM".

    Raises:
        ValueError: for a task that another pipeline has, or an unknown model class.
    """
    names = tuple(models)
    for name in names:
        MODELS.source(name)
    PIPELINES.add(task, pipeline_class)
    MODELS_OF_ADDED[task] = names
    if not TRAVELLING:  # else the checkpoint names it
        register_pipelines()
    return pipeline_class

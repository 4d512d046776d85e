"""Auto classes for the pipelines' tasks: of the models that can do a task, the one that a checkpoint holds."""

from collections import OrderedDict
from typing import Any

from transformers import PreTrainedModel

from ..configuration import VioletConfig
from ..core.upstream import _BaseAutoModelClass, _LazyAutoMapping
from ..modeling_violet import (
    VioletForCaptioning,
    VioletForMaskedLM,
    VioletForMultipleChoice,
    VioletForQuestionAnswering,
    VioletForRetrieval,
)


def _models(*classes: type[PreTrainedModel]) -> _LazyAutoMapping:
    """The class that a checkpoint's `architectures` names, else the first of these."""
    mapping = _LazyAutoMapping(OrderedDict(), OrderedDict())
    mapping.register(VioletConfig, classes)
    return mapping


class _AutoModelOfTask(_BaseAutoModelClass):
    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args: Any, **kwargs: Any):
        """
        As of every Auto class, but nothing is made up: a checkpoint without weights for the task is refused, where
        other Auto classes start a new head and warn. An adapter may bring a head of its own.

        Raises:
            ValueError: names the checkpoint, what it holds, and what is missing.
        """
        wanted = kwargs.pop("output_loading_info", False)
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


class AutoModelForVideoQuestionAnswering(_AutoModelOfTask):
    """Whatever answers questions: by a classifier, at a [MASK], by a choice, in writing. From pre-training: [MASK]."""

    _model_mapping = _models(
        VioletForMaskedLM, VioletForQuestionAnswering, VioletForMultipleChoice, VioletForCaptioning
    )


class AutoModelForVideoCaptioning(_AutoModelOfTask):
    """Whatever writes captions."""

    _model_mapping = _models(VioletForCaptioning)


class AutoModelForVideoFillMask(_AutoModelOfTask):
    """Whatever fills in a [MASK] beside a video."""

    _model_mapping = _models(VioletForMaskedLM)


class AutoModelForVideoTextRetrieval(_AutoModelOfTask):
    """Whatever scores texts against videos."""

    _model_mapping = _models(VioletForRetrieval)

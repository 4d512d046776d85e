"""
VIOLET video-language models for the Hugging Face ecosystem.

Importing this package registers its models, processors and pipelines with transformers' Auto classes and `pipeline`.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

from ._version import __version__

_PUBLIC = {
    "NAMED_CONFIGURATIONS": "configuration",
    "VioletConfig": "configuration",
    "VioletVisionConfig": "configuration",
    "named_configuration": "configuration",
    "VioletForCaptioning": "modeling_violet",
    "VioletForMaskedLM": "modeling_violet",
    "VioletForMultipleChoice": "modeling_violet",
    "VioletForPreTraining": "modeling_violet",
    "VioletForQuestionAnswering": "modeling_violet",
    "VioletForRetrieval": "modeling_violet",
    "VioletForVideoClassification": "modeling_violet",
    "VioletModel": "modeling_violet",
    "VioletPreTrainedModel": "modeling_violet",
    "VioletVisionModel": "modeling_violet",
    "VideoDecodeError": "processing",
    "VideoTextProcessor": "processing",
    "VioletVideoProcessor": "processing",
    "decode_video": "processing",
    "AutoModelForVideoCaptioning": "pipelines",
    "AutoModelForVideoFillMask": "pipelines",
    "AutoModelForVideoQuestionAnswering": "pipelines",
    "AutoModelForVideoTextRetrieval": "pipelines",
    "VideoCaptioningPipeline": "pipelines",
    "VideoFeatureExtractionPipeline": "pipelines",
    "VideoFillMaskPipeline": "pipelines",
    "VideoQuestionAnsweringPipeline": "pipelines",
    "VideoTextRetrievalPipeline": "pipelines",
    "VioletTrainer": "training",
    "QuestionCollator": "training",
    "build_model": "hub",
    "export_original": "hub",
    "from_original": "hub",
    "pretrained": "core.weights",
}

__all__ = ["__version__", "register", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


def register() -> None:
    """Registers configurations, models, processors and pipelines with transformers; doing it twice is harmless."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageTextToText,
        AutoModelForMaskedLM,
        AutoModelForMultipleChoice,
        AutoModelForPreTraining,
        AutoModelForVideoClassification,
        AutoModelForVisualQuestionAnswering,
        AutoProcessor,
        AutoVideoProcessor,
    )
    from transformers.pipelines import PIPELINE_REGISTRY

    from . import configuration, modeling_violet, pipelines, processing
    from .core.upstream import warn_if_untested

    warn_if_untested()

    AutoConfig.register("violet", configuration.VioletConfig, exist_ok=True)
    AutoConfig.register("violet_vision", configuration.VioletVisionConfig, exist_ok=True)
    AutoModel.register(configuration.VioletVisionConfig, modeling_violet.VioletVisionModel, exist_ok=True)
    for auto_class, model_class in (
        (AutoModel, modeling_violet.VioletModel),
        (AutoModelForImageTextToText, modeling_violet.VioletForCaptioning),
        (AutoModelForMaskedLM, modeling_violet.VioletForMaskedLM),
        (AutoModelForMultipleChoice, modeling_violet.VioletForMultipleChoice),
        (AutoModelForPreTraining, modeling_violet.VioletForPreTraining),
        (AutoModelForVideoClassification, modeling_violet.VioletForVideoClassification),
        (AutoModelForVisualQuestionAnswering, modeling_violet.VioletForQuestionAnswering),
    ):
        auto_class.register(configuration.VioletConfig, model_class, exist_ok=True)
    AutoVideoProcessor.register(configuration.VioletConfig, processing.VioletVideoProcessor, exist_ok=True)
    AutoProcessor.register(configuration.VioletConfig, processing.VideoTextProcessor, exist_ok=True)
    for task, pipeline_class, auto_class in (
        ("video-captioning", pipelines.VideoCaptioningPipeline, pipelines.AutoModelForVideoCaptioning),
        ("video-feature-extraction", pipelines.VideoFeatureExtractionPipeline, AutoModel),
        ("video-fill-mask", pipelines.VideoFillMaskPipeline, pipelines.AutoModelForVideoFillMask),
        (
            "video-question-answering",
            pipelines.VideoQuestionAnsweringPipeline,
            pipelines.AutoModelForVideoQuestionAnswering,
        ),
        ("video-text-retrieval", pipelines.VideoTextRetrievalPipeline, pipelines.AutoModelForVideoTextRetrieval),
    ):
        if task not in PIPELINE_REGISTRY.get_supported_tasks():
            PIPELINE_REGISTRY.register_pipeline(
                task, pipeline_class=pipeline_class, pt_model=auto_class, type="multimodal"
            )


# The `violet` command registers when a sub-command needs it: `violet --help` answers without loading torch.
if Path(sys.argv[0]).stem != "violet":
    register()

"""
Every class that the package gives to others, in one table each: model classes, pipelines, configurations, processors.

What is made of it: `violet.register` and the package's public names, the code that a checkpoint carries and lists,
the pipelines' Auto classes and ways of answering, model cards, `violet predict`. A model class, or a pipeline, is one
entry here. The tables are texts: reading them imports none of these classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .registry import PACKAGE, Registry

ENTRY = "violet_code"
"""The module of a checkpoint with its code through which all classes are loaded."""


@dataclass(frozen=True)
class ModelClass:
    """
    A class of models.

    Attributes:
        module: where it is defined, below the package.
        auto_class: the one of transformers' Auto classes that loads it.
        pipelines: the tasks that its own head does; of several the first is what it is for. One that is not in
            `PIPELINE_CLASSES` is transformers' own.
        holds: other classes of which it has all weights: a checkpoint of it is loaded as one of them for their tasks.
        answers, chooses: its way of answering open questions, and of choosing among options: names of classes in
            `pipelines.answering`.
        tag: of the Hub's own tasks, the nearest.
        model_type: of its configuration.
        in_checkpoints_only: the Auto class is another task's. It is used in checkpoints that carry their code, whose
            pipelines can name no other, and not registered.
        also: other Auto classes that load it.
    """

    module: str
    auto_class: str
    tag: str
    pipelines: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    answers: str | None = None
    chooses: str | None = None
    model_type: str = "violet"
    in_checkpoints_only: bool = False
    also: tuple[str, ...] = ()


MODEL_CLASSES: Mapping[str, ModelClass] = {
    "VioletModel": ModelClass(
        "modeling_violet.modeling_violet", "AutoModel", "feature-extraction", ("video-feature-extraction",)
    ),
    "VioletForMaskedLM": ModelClass(
        "modeling_violet.modeling_violet",
        "AutoModelForMaskedLM",
        "fill-mask",
        ("video-fill-mask", "video-question-answering"),
        answers="ByMask",
        chooses="ByNumber",
    ),
    "VioletForQuestionAnswering": ModelClass(
        "modeling_violet.modeling_violet",
        "AutoModelForVisualQuestionAnswering",
        "visual-question-answering",
        ("video-question-answering",),
        answers="ByClassifier",
    ),
    "VioletForMultipleChoice": ModelClass(
        "modeling_violet.modeling_matching",
        "AutoModelForMultipleChoice",
        "visual-question-answering",
        ("video-question-answering",),
        chooses="ByMatch",
    ),
    "VioletForCaptioning": ModelClass(
        "modeling_violet.modeling_captioning",
        "AutoModelForImageTextToText",
        "video-text-to-text",
        ("video-captioning", "video-question-answering"),
        answers="ByWriting",
    ),
    "VioletForConditionalGeneration": ModelClass(
        "modeling_violet.modeling_conditional_generation",
        "AutoModelForImageTextToText",
        "video-text-to-text",
        ("video-text-to-text", "video-question-answering"),
        answers="ByChat",
        also=("AutoModelForMultimodalLM",),
    ),
    "VioletForRetrieval": ModelClass(
        "modeling_violet.modeling_matching",
        "AutoModelForZeroShotImageClassification",
        "video-text-to-text",
        ("video-text-retrieval",),
        in_checkpoints_only=True,
    ),
    "VioletForVideoClassification": ModelClass(
        "modeling_violet.modeling_classification",
        "AutoModelForVideoClassification",
        "video-classification",
        ("video-classification",),
    ),
    "VioletForPreTraining": ModelClass(
        "modeling_violet.modeling_pretraining",
        "AutoModelForPreTraining",
        "fill-mask",
        holds=("VioletForMaskedLM", "VioletModel", "VioletForRetrieval"),
    ),
    "VioletVisionModel": ModelClass(
        "modeling_violet.encoders.video_swin", "AutoModel", "feature-extraction", model_type="violet_vision"
    ),
}
"""
By name. Of several classes for a task, or for an Auto class, the first is what a checkpoint of another class is loaded
as. transformers has no Auto class for retrieval; the one that stands here is for models that score any texts against a
picture.
"""


@dataclass(frozen=True)
class PipelineClass:
    """
    A pipeline.

    Attributes:
        entry: the class, as "module:Class" below the package.
        auto_class: what loads its models: the name of one of transformers' Auto classes, or "module:Class" below the
            package, or None for one that is made of the model classes with this task.
    """

    entry: str
    auto_class: str | None = None


PIPELINE_CLASSES: Mapping[str, PipelineClass] = {
    "video-captioning": PipelineClass(
        "pipelines.video_captioning:VideoCaptioningPipeline", "pipelines.auto_classes:AutoModelForVideoCaptioning"
    ),
    "video-feature-extraction": PipelineClass(
        "pipelines.video_feature_extraction:VideoFeatureExtractionPipeline", "AutoModel"
    ),
    "video-fill-mask": PipelineClass(
        "pipelines.video_fill_mask:VideoFillMaskPipeline", "pipelines.auto_classes:AutoModelForVideoFillMask"
    ),
    "video-question-answering": PipelineClass(
        "pipelines.video_question_answering:VideoQuestionAnsweringPipeline",
        "pipelines.auto_classes:AutoModelForVideoQuestionAnswering",
    ),
    "video-text-retrieval": PipelineClass(
        "pipelines.video_text_retrieval:VideoTextRetrievalPipeline",
        "pipelines.auto_classes:AutoModelForVideoTextRetrieval",
    ),
    "video-text-to-text": PipelineClass("pipelines.video_text_to_text:VideoTextToTextPipeline"),
}
"""By task."""

CONFIGURATIONS: Registry[Any] = Registry(
    "configuration",
    PACKAGE,
    {
        "violet": "configuration.configuration_violet:VioletConfig",
        "violet_vision": "configuration.configuration_violet:VioletVisionConfig",
    },
)
"""By `model_type`."""
PROCESSORS: Registry[Any] = Registry(
    "processor",
    PACKAGE,
    {
        "AutoProcessor": "processing.processing_violet:VideoTextProcessor",
        "AutoVideoProcessor": "processing.video_processing_violet:VioletVideoProcessor",
    },
)
"""By transformers' Auto class."""
MODELS: Registry[Any] = Registry(
    "model class", PACKAGE, {name: f"{known.module}:{name}" for name, known in MODEL_CLASSES.items()}
)
PIPELINES: Registry[Any] = Registry(
    "pipeline",
    PACKAGE,
    {task: known.entry for task, known in PIPELINE_CLASSES.items()},
    config_keys=("custom_pipelines",),
)
"""By task, with those of `pipelines.auto_classes.add_pipeline`."""
MODELS_OF_ADDED: dict[str, tuple[str, ...]] = {}
"""Of each pipeline that was added: the names of the model classes that it asks."""
AUTO_CLASSES: Registry[Any] = Registry(
    "Auto class",
    PACKAGE,
    {
        task: known.auto_class
        for task, known in PIPELINE_CLASSES.items()
        if known.auto_class and ":" in known.auto_class
    },
)
"""The package's own, by task."""


def models_of(task: str) -> list[str]:
    """The names of the model classes that have a head for a task, or none and need none."""
    added = MODELS_OF_ADDED.get(task, ())
    return [name for name, known in MODEL_CLASSES.items() if task in known.pipelines or name in added]


def classes_by_auto_class(model_type: str) -> dict[str, list[str]]:
    """Of models of that type: the names of the classes that each Auto class of transformers loads, in order."""
    found: dict[str, list[str]] = {}
    for name, known in MODEL_CLASSES.items():
        if known.model_type == model_type and not known.in_checkpoints_only:
            for auto_class in (known.auto_class, *known.also):
                found.setdefault(auto_class, []).append(name)
    return found


def tasks_of(model: str) -> dict[str, str]:
    """
    What a checkpoint that holds this class can be asked: the pipelines' tasks, and the class as which each loads it.
    Nothing for a class that is not in the table.
    """
    if model not in MODEL_CLASSES:
        return {}
    found: dict[str, str] = {}
    for name in (model, *MODEL_CLASSES[model].holds):
        added = [task for task, models in MODELS_OF_ADDED.items() if name in models]
        for task in (*MODEL_CLASSES[name].pipelines, *added):
            found.setdefault(task, name)
    return found


def class_name(registry: Registry[Any], name: str) -> str:
    """
    The name of the class of an entry, which is not imported for that.

    Raises:
        ValueError: for one that was added and has no name in its module.
    """
    source = registry.source(name)
    if source.attribute is None:
        raise ValueError(f"The {registry.role} {name!r} has no name in {source.module}, which added it: give it one.")
    return source.attribute


PUBLIC: Mapping[str, str] = {
    **{
        class_name(registry, name): registry.source(name).module
        for registry in (CONFIGURATIONS, MODELS, PROCESSORS, PIPELINES, AUTO_CLASSES)
        for name in registry
    },
    "NAMED_CONFIGURATIONS": f"{PACKAGE}.configuration",
    "QuestionCollator": f"{PACKAGE}.training",
    "VideoDecodeError": f"{PACKAGE}.processing",
    "VioletPreTrainedModel": f"{PACKAGE}.modeling_violet",
    "VioletTrainer": f"{PACKAGE}.training",
    "build_model": f"{PACKAGE}.hub",
    "build_processor": f"{PACKAGE}.hub",
    "decode_video": f"{PACKAGE}.processing",
    "export_original": f"{PACKAGE}.hub",
    "from_original": f"{PACKAGE}.hub",
    "named_configuration": f"{PACKAGE}.configuration",
    "pretrained": f"{PACKAGE}.core.weights",
}
"""The names that `violet` itself gives, and the module or folder that defines each."""

"""New models that start from public weights: `build_model` and the processor that goes with one, `build_processor`."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from ..configuration import VioletConfig, named_configuration
from ..core.quiet import quietly
from ..modeling_violet import (
    VioletForConditionalGeneration,
    VioletForPreTraining,
    VioletModel,
    VioletPreTrainedModel,
)
from ..modeling_violet.encoders import find_encoder
from ..modeling_violet.encoders.whole_clip import WholeClip
from ..processing import VideoTextProcessor, VioletVideoProcessor
from .conversion import (
    ConversionReport,
    build,
    check_settings,
    convert_tensors,
    frames_of,
    join_parts,
    load_tokenizer,
    own_tokenizer,
    plan_for,
    processor_of,
    read_tokenizer,
    shapes_of,
)
from .kinds import FUSION, MLM, TEXT
from .language_models import (
    language_configuration,
    language_processor,
    language_weights,
    take_generation_config,
    with_language_model,
)
from .planning import ConversionError, ConversionPlan, plan_conversion
from .vision_models import (
    FRAMES_OF_PICTURE_MODELS,
    check_clip,
    encoder_of,
    own_clip,
    picture_settings,
    sides,
    vision_configuration,
)
from .weight_files import Weights, WeightsError, first_line, read_weights

Source = Mapping[str, Any] | str | os.PathLike

PARTS = {
    "vision": ("projection.video_projection.",),
    "text": (TEXT, FUSION, MLM, "answer_head.0.", "projection.text_projection.", "projection.logit_scale"),
}
"""
What is taken of each source, and of the first one the vision encoder; the masked-language head, the pooler and the
projection only if source and model have one.
"""
BERT_FIELDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size"),
    *("layer_norm_eps", "initializer_range", "pad_token_id"),
)
"""What a VIOLET's configuration takes of a BERT's."""


def build_model(
    configuration: str | VioletConfig,
    vision: Source | None = None,
    text: Source | None = None,
    model_class: type[VioletPreTrainedModel] | None = None,
    num_frames: int | None = None,
    image_size: int | Sequence[int] | None = None,
    attn_implementation: str | None = None,
) -> Any:
    """
    A model to be trained, initialised from public weights. The rest is freshly initialised.

    Args:
        configuration: the name of one, or one.
        vision: weights for the vision encoder: of a Video Swin, or of a Swin for pictures, which is inflated in time
            (a state dict, a file, a folder or a name on the Hub, of any kind that `from_original` reads); or the
            folder or name of another model of pictures or videos of transformers (CLIP, SigLIP, DINOv2, ViT,
            VideoMAE, V-JEPA 2, TimeSformer, …), which then is the encoder in place of the configuration's.
        text: weights of a BERT, for the text embeddings, the fusion (its first layers, as many as there are) and the
            masked-language head, of any kind that `from_original` reads; or the folder or name of a language model of
            transformers (Llama, Qwen, SmolLM, …), which then reads videos among its words in place of the
            configuration's words and fusion.
        model_class: what to build; by default `VioletForPreTraining`, and with a language model
            `VioletForConditionalGeneration`.
        num_frames, image_size: of the clips, which the model then has learned places for; by default those that a
            model of transformers was made for (six frames for one of pictures), else the configuration's places.
        attn_implementation: `eager` or `sdpa`; by default transformers' choice.

    Returns:
        The model, in evaluation mode. Its `conversion_report` maps `"vision"` and `"text"` to their
        `ConversionReport`s.

    Raises:
        ValueError: for an unknown configuration.
        WeightsError: for weights that cannot be read or do not fit the configuration, naming file and key.
    """
    config = named_configuration(configuration) if isinstance(configuration, str) else configuration
    tensors: dict[str, torch.Tensor] = {}
    reports: dict[str, ConversionReport] = {}
    encoder = vision_configuration(vision, config.vision_config)
    config = with_places(config, vision, encoder, num_frames, image_size)
    language: Any = text if language_configuration(text) is not None else None
    if model_class is None:
        model_class = VioletForPreTraining if language is None else VioletForConditionalGeneration
    if language is not None:
        known = encoder is not None or image_size is not None  # else the places may be more than the cells of a frame
        config = with_language_model(config, language, sides(config.video_grid_size) if known else (1, 1))
        tensors, reports["text"] = language_weights(language, config, model_class)
        text = None
    if encoder is not None:
        found, reports["vision"] = _encoder_weights(vision, config, model_class)
        tensors |= found
    for role, source in (("vision", None if encoder is not None else vision), ("text", text)):
        if source is None:
            continue
        weights = read_weights(source)
        join_parts(weights, config)
        try:
            plan = plan_conversion(shapes_of(weights), model_class, config)
        except ConversionError as error:
            raise ConversionError(f"`{role}` ({weights.origin}): {error}") from None
        check_settings(plan, weights)
        key = f"video_encoder.{find_encoder(config.vision_config).key}."
        parts = (key, *PARTS[role]) if role == "vision" else PARTS[role]
        found, reports[role] = convert_tensors(plan, weights, parts)
        if not found:
            raise ConversionError(f"`{role}` ({weights.origin}): {plan.kind.name} holds nothing for it.")
        tensors |= found
    model: Any = build(model_class, config, tensors, attn_implementation)
    if language is not None:
        take_generation_config(model, language)
    model.conversion_report = reports
    return model


def processor_of_system(
    source: str | os.PathLike, system: str, num_frames: int | None = None, image_size: int | None = None
) -> VideoTextProcessor:
    """
    The processor of a model that `build_system` makes: the source's tokenizer, and frames as the system takes them.

    Args:
        num_frames, image_size: of the clips; by default the system's, and the side of the source's pictures.

    Raises:
        WeightsError: as that one does; for clips that the model cannot take, or no tokenizer.
    """
    _, plan = _plan_system(source, system)
    named, frames = own_tokenizer(source, plan.kind) or str(source), frames_of(plan)
    reads_texts = plan.kind.tokenizer is not None  # else it has one for its processor only
    words = read_tokenizer(named, plan.config) if reads_texts else load_tokenizer(named)
    frames.num_frames = num_frames or frames.num_frames
    if image_size is not None:
        frames.size = {"height": image_size, "width": image_size}
    check_clip(
        find_encoder(plan.config.vision_config), frames.num_frames, (frames.size["height"], frames.size["width"])
    )
    return processor_of(plan, words, frames)


def build_system(
    source: str | os.PathLike,
    system: str,
    model_class: type[VioletPreTrainedModel],
    image_size: int | None = None,
    attn_implementation: str | None = None,
    **changes: Any,
) -> Any:
    """
    A model of a system that is made of a model of transformers key by key: of a CLIP's two towers CLIP-ViP's, of its
    pictures' tower a UniFormerV2. What the system has beside them begins afresh.

    Args:
        source: a folder or a name on the Hub.
        system: the `model_type` of the system's encoder, such as "clip_vip".
        image_size: side of the frames that have a learned position each; by default that of the source's pictures.
        changes: further fields of the configuration.

    Returns:
        The model, in evaluation mode, with its `conversion_report`.

    Raises:
        WeightsError: for weights that cannot be read, or are of another kind.
    """
    weights, plan = _plan_system(source, system)
    if model_class.needs_fusion and not plan.config.has_fusion:
        raise ConversionError(
            f"{weights.origin} becomes a {system!r}, which has no fusion, and {model_class.__name__} reads the states "
            "of one: it is for retrieval and classification."
        )
    if image_size is not None:
        plan.config.vision_config.image_size = image_size
    config = VioletConfig(**{**plan.config.to_dict(), **changes})
    plan = plan_for(weights, model_class, config)
    check_settings(plan, weights)
    tensors, report = convert_tensors(plan, weights)
    model: Any = build(model_class, config, tensors, attn_implementation)
    model.conversion_report = report
    return model


def _plan_system(source: str | os.PathLike, system: str) -> tuple[Weights, ConversionPlan]:
    weights = read_weights(source)
    plan = plan_for(weights, VioletModel, None, system)
    if plan.kind.system != system:
        raise ConversionError(f"{weights.origin}: weights of {plan.kind.name}, which become no {system!r}.")
    return weights, plan


def configuration_for(text: str | os.PathLike, **changes: Any) -> VioletConfig:
    """
    The configuration of a model that starts from a BERT: words and fusion have its sizes. Of a language model,
    VIOLET's own, which `build_model` gives that language model.

    Args:
        text: a folder or a name on the Hub.
        changes: further fields.

    Raises:
        WeightsError: if there is no BERT.
    """
    if language_configuration(text) is not None:  # `build_model` takes all that it says
        return VioletConfig(**changes)
    try:
        config = AutoConfig.from_pretrained(text)
    except (OSError, ValueError) as error:
        raise WeightsError(f"`text` ({text}): no model ({first_line(error)}); a BERT is needed.") from error
    if config.model_type != "bert":
        raise WeightsError(
            f"`text` ({text}): a model of type {config.model_type!r}, and a BERT or a language model is needed."
        )
    return VioletConfig(**{**{name: getattr(config, name) for name in BERT_FIELDS}, **changes})


def with_places(
    config: VioletConfig,
    vision: Source | None,
    encoder: PreTrainedConfig | None,
    num_frames: int | None,
    image_size: int | Sequence[int] | None,
) -> VioletConfig:
    """
    The configuration with another vision encoder, if one is given, and learned places for as many steps and cells
    as clips of that size have; see `build_model`.

    Raises:
        WeightsError: for a model that is no vision encoder, or clips that it cannot take.
    """
    if encoder is None and num_frames is None and image_size is None:
        return config
    used = encoder_of(str(vision), config.vision_config if encoder is None else encoder)
    side: int | tuple[int, int]
    if encoder is None:
        side = used.frame_size(*sides(config.video_grid_size))
        frames = (used.steps or config.num_video_frames) * used.cell[0]
    else:
        frames, side = own_clip(used, config.num_video_frames)
    steps, rows, columns = check_clip(used, num_frames or frames, image_size or side)
    square = config.vision_positions == "violet"  # whose places are those of a square grid, of which any may be cut
    size = max(rows, columns) if square or rows == columns else (rows, columns)
    changed: dict[str, Any] = {"num_video_frames": steps, "video_grid_size": size}
    if encoder is not None:
        changed["vision_config"] = encoder.to_dict()
    return VioletConfig(**{**config.to_dict(), **changed})


def _encoder_weights(
    vision: Any, config: VioletConfig, model_class: type[VioletPreTrainedModel]
) -> tuple[dict[str, torch.Tensor], ConversionReport]:
    """The weights of a model of transformers, by their names in ours."""
    encoder = find_encoder(config.vision_config)
    unused = set(encoder.unused)
    with quietly():
        try:
            model, loading = AutoModel.from_pretrained(
                vision, config=config.vision_config, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise WeightsError(f"`vision` ({vision}): {first_line(error)}") from error
    weights = {name: value for name, value in model.state_dict().items() if not set(name.split(".")) & unused}
    missing = sorted(loading["missing_keys"] & weights.keys())
    if missing:
        raise ConversionError(
            f"`vision` ({vision}): the weights of {type(model).__name__} lack {missing[0]} ({len(missing)} in all)."
        )
    prefix = f"{'' if model_class is VioletModel else 'violet.'}video_encoder.{encoder.key}."
    report = ConversionReport(str(vision), type(model).__name__, model_class.__name__)
    report.used = {name: prefix + name for name in weights}
    report.loaded = {target: name for name, target in report.used.items()}
    report.skipped = dict.fromkeys(sorted(loading["unexpected_keys"]), "no part of the vision model")
    report.skipped |= dict.fromkeys(sorted(model.state_dict().keys() - weights.keys()), "not read")
    return {prefix + name: value for name, value in weights.items()}, report


def build_frames(
    vision: str | os.PathLike, num_frames: int | None = None, image_size: int | Sequence[int] | None = None
) -> VioletVideoProcessor:
    """
    Frames as a vision model of transformers takes them; see `build_processor`.

    Raises:
        WeightsError: for a model that is no vision encoder, a source without the settings of its pictures, or clips
            that the model cannot take.
    """
    own = vision_configuration(vision)
    if own is None:
        raise WeightsError(f"`vision` ({vision}) is no model of transformers that says how it takes its pictures.")
    encoder = encoder_of(vision, own)
    frames, side = own_clip(encoder, FRAMES_OF_PICTURE_MODELS)
    settings, of_pictures = picture_settings(vision)
    if not isinstance(encoder, WholeClip):  # its positions are interpolated: DINOv2 has 518 pixels and is asked at 224
        side = of_pictures or side
    frames, (height, width) = num_frames or frames, sides(image_size or side)
    check_clip(encoder, frames, (height, width))
    return VioletVideoProcessor(num_frames=frames, size={"height": height, "width": width}, **settings)


def build_processor(
    vision: str | os.PathLike,
    text: str | os.PathLike,
    num_frames: int | None = None,
    image_size: int | Sequence[int] | None = None,
    config: VioletConfig | None = None,
) -> VideoTextProcessor:
    """
    The processor of a model that `build_model` starts from these two: the text model's tokenizer, and frames as the
    vision model takes them: its mean, standard deviation, size and resampling. A frame is padded to its shape.

    Args:
        vision, text: folders or names on the Hub.
        num_frames: frames of a clip; by default a video model's own number, and 8 for a model of pictures.
        image_size: side of a frame in pixels, or (height, width); by default the model's own.
        config: of the model that `build_model` gave, if the text model is a language model: how many of its words a
            video takes the place of.

    Raises:
        WeightsError: for a language model without `config`, a model that is no vision encoder, a source without the
            settings of its pictures or without a tokenizer, or clips that the model cannot take.
    """
    frames_of_clip = build_frames(vision, num_frames, image_size)
    tokenizer = load_tokenizer(str(text))
    if language_configuration(text) is None:
        return VideoTextProcessor(tokenizer, frames_of_clip)
    if config is None:
        raise WeightsError(
            f"`text` ({text}) is a language model: give `config`, that of the model that `build_model` made of it, "
            "from which the tokens of a video are counted."
        )
    return language_processor(config, tokenizer, frames_of_clip)

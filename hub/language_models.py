"""Language models of transformers as starting points: which source is one, its weights, and the processor for it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from ..configuration import VioletConfig
from ..core.quiet import quietly
from ..modeling_violet import VioletModel, VioletPreTrainedModel
from ..modeling_violet.embeddings import VISION_POSITIONS
from ..modeling_violet.fusions import find_fusion
from ..modeling_violet.fusions.language_model import VioletLanguageModelConfig
from ..modeling_violet.texts.language_model_text import check_language_model
from ..processing import VideoTextProcessor, VioletVideoProcessor, with_videos_among_words
from ..processing.chats import VIDEO_TOKEN
from .conversion import ConversionReport, load_tokenizer
from .planning import ConversionError
from .weight_files import WeightsError, first_line

POOLED_GRID = 4
"""Side of the grid that a step of a video is pooled to if nothing else is asked for: sixteen tokens a step."""


def language_configuration(source: Any) -> PreTrainedConfig | None:
    """The configuration of a folder or a name on the Hub that holds a language model of transformers; else None."""
    if not isinstance(source, str | os.PathLike) or Path(source).is_file():
        return None
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        return None
    try:
        config = AutoConfig.from_pretrained(source)
        check_language_model(config)
    except (OSError, ValueError):  # what reads it as something else says what is wrong
        return None
    return config


def with_language_model(config: VioletConfig, source: str | os.PathLike, grid: tuple[int, int]) -> VioletConfig:
    """
    The configuration with the language model of the source as its text side.

    Args:
        grid: (rows, columns) of a frame's cells. If they are enough, a frame is pooled to `POOLED_GRID`, unless the
            configuration has a fusion by a language model already.
    """
    language = language_configuration(source)
    assert language is not None  # asked before
    fusion: Any = config.fusion_model_config
    if getattr(fusion, "written_by", None) is None:
        pooled = POOLED_GRID if min(grid) > POOLED_GRID else None
        fusion = VioletLanguageModelConfig(pooled_grid=pooled)
    video = video_token_of(load_tokenizer(str(source)))
    changes = {
        "text_config": language.to_dict(),
        "fusion_model_config": {**fusion.to_dict(), "video_token_id": video},
    }
    return VioletConfig(**{**config.to_dict(), **changes})


def video_token_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of `<video>`, which the tokenizer learns if it lacks it."""
    if VIDEO_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([VIDEO_TOKEN], special_tokens=True)
    return tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)


def language_weights(
    source: str | os.PathLike, config: VioletConfig, model_class: type[VioletPreTrainedModel]
) -> tuple[dict[str, torch.Tensor], ConversionReport]:
    """
    The weights of a language model, by their names in ours.

    Raises:
        WeightsError: for weights that cannot be read, or are not all there.
    """
    with quietly():
        try:
            model, loading = AutoModelForCausalLM.from_pretrained(
                source, config=config.text_config, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise WeightsError(f"`text` ({source}): {first_line(error)}") from error
    weights = model.state_dict()
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ConversionError(
            f"`text` ({source}): the weights of {type(model).__name__} lack {missing[0]} ({len(missing)} in all)."
        )
    prefix = f"{'' if model_class is VioletModel else 'violet.'}text_embeddings.language_model."
    report = ConversionReport(str(source), type(model).__name__, model_class.__name__)
    report.used = {name: prefix + name for name in weights}
    report.loaded = {target: name for name, target in report.used.items()}
    report.skipped = dict.fromkeys(sorted(loading["unexpected_keys"]), "no part of the language model")
    return {prefix + name: value for name, value in weights.items()}, report


def take_generation_config(model: Any, source: str | os.PathLike) -> None:
    """How the source's model writes by default (which tokens end a text, sampling, …), if it says so."""
    if not model.can_generate():
        return
    try:
        model.generation_config = GenerationConfig.from_pretrained(source)
    except OSError:  # it says nothing: what follows from its configuration stays
        return


def language_processor(
    config: VioletConfig, tokenizer: PreTrainedTokenizerBase, frames: VioletVideoProcessor
) -> VideoTextProcessor:
    """
    The processor of a model with a language model as its text side.

    Args:
        config: of that model.
        tokenizer: of the language model.
        frames: the clips that the model takes.

    Raises:
        WeightsError: for a tokenizer with more words than the language model, or another id of `<video>`.
    """
    text: Any = config.text_config
    fusion: Any = config.fusion_model_config
    video = video_token_of(tokenizer)
    last = max(number for number in tokenizer.get_vocab().values() if number != video)
    if last >= text.vocab_size:
        raise WeightsError(
            f"The tokenizer has words up to the number {last}, and the language model {text.vocab_size} words: they "
            "do not belong together."
        )
    expected = text.vocab_size if fusion.video_token_id is None else fusion.video_token_id
    if video != expected:
        raise WeightsError(
            f"{VIDEO_TOKEN} is the token {video} of the tokenizer, and the model takes {expected} for it "
            "(`fusion_model_config.video_token_id`): set that."
        )
    most = getattr(text, "max_position_embeddings", None) or tokenizer.model_max_length
    return with_videos_among_words(tokenizer, frames, video_places(config, frames), min(most, 2**20))


def video_places(config: VioletConfig, frames: VioletVideoProcessor) -> Mapping[str, int]:
    """
    `VideoTextProcessor.video_places` for that model and such clips: what a clip of black frames becomes on the "meta"
    device, which computes nothing but shapes.
    """
    black = torch.zeros(frames.num_frames, frames.size["height"], frames.size["width"], 3, dtype=torch.uint8)
    sound = {"sound": [None]} if frames.hears else {}
    clip = frames([black.numpy()], do_sample_frames=False, return_tensors="pt", **sound)
    with torch.device("meta"):
        states = VISION_POSITIONS.find(config.vision_positions)(config)
        tokens = states({name: clip[name].to("meta") for name in frames.inputs})
        fusion: Any = find_fusion(config)(config)
        tokens = fusion.connector(tokens)
    assert tokens.grid is not None
    steps, rows, columns = tokens.grid
    per_step = tokens.num_special_per_frame + rows * columns
    if states.encoder.steps is not None:  # as many of every clip
        return {"per_clip": tokens.num_special_per_clip + steps * per_step, "per_step": 0, "frames_per_step": 1}
    return {
        "per_clip": tokens.num_special_per_clip,
        "per_step": per_step,
        "frames_per_step": states.encoder.cell[0],
    }

"""What a named configuration starts from scratch with: its frames, its tokenizer, its processor."""

from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..configuration import named_configuration
from ..hub.language_models import language_processor
from ..hub.vision_models import sides
from ..modeling_violet.encoders import find_encoder
from ..processing import (
    VideoTextProcessor,
    VioletVideoProcessor,
    special_tokens,
    train_wordpiece_tokenizer,
    without_end,
)
from ..processing.chats import VIDEO_TOKEN

FRAMES_FROM_SCRATCH: dict[str, tuple[int | tuple[int, int], int]] = {
    "violet-tiny": (64, 4),
    "violet-v1-base": (224, 5),
    "violet-v2-base": (224, 5),
    "uniformerv2-base-16-scene": (224, 8),
    "uniformerv2-base-16-temporal": (224, 16),
    "uniformerv2-tiny": (64, 8),
    "clip-vip-base-16": (224, 12),
    "clip-vip-base-32": (224, 12),
    "clip-vip-tiny": (64, 4),
    "lf-vila-base": ((192, 320), 32),
    "lf-vila-tiny": (64, 8),
    "hd-vila-base": ((160, 256), 7),
    "hd-vila-tiny": (32, 7),
    "vatt-medium": (224, 32),
    "vatt-tiny": (64, 8),
    "imp-small": (256, 16),
    "imp-base": (256, 16),
    "imp-large": (256, 16),
    "imp-tiny": (64, 8),
    "violet-tiny-experts": (64, 4),
    "maskalign-base-16": (224, 8),
    "maskalign-large-16": (224, 8),
    "maskalign-tiny": (64, 4),
    "mm-gem-large": (224, 4),
    "mm-gem-tiny": (64, 4),
    "language-model-tiny": (64, 4),
    "coca-vit-base-32": (224, 8),
    "coca-vit-large-14": (224, 8),
    "coca-tiny": (64, 4),
    "vlora-tiny": (64, 4),
    "vlora-vicuna-7b": (336, 1),
}
"""Side in pixels (or height and width) and number of frames that a named configuration is trained with."""


def texts_from_scratch(model: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The fields of a named configuration that its vocabulary decides, with those of a text side of transformers."""
    tokens = special_tokens(tokenizer)
    config = named_configuration(model)
    beside = config.get_text_config() is not config and VIDEO_TOKEN in tokenizer.get_vocab()  # no word of the model
    fields: dict[str, Any] = {"vocab_size": len(tokenizer) - beside, **tokens}
    text: Any = config.text_config
    if hasattr(text, "vocab_size"):
        own = {name: value for name, value in fields.items() if hasattr(text, name)}
        fields["text_config"] = {**text.to_dict(), **own}
    return fields


def frames_from_scratch(
    model: str, image_size: int | Sequence[int] | None = None, num_frames: int | None = None
) -> VioletVideoProcessor:
    """What a named configuration starts from scratch with, if no size and number of frames are asked for."""
    side, frames = FRAMES_FROM_SCRATCH[model]
    height, width = sides(image_size or side)
    vision = named_configuration(model).vision_config
    return VioletVideoProcessor(
        size={"height": height, "width": width},
        num_frames=num_frames or frames,
        inputs=find_encoder(vision).inputs,
        num_clips=getattr(vision, "num_clips", 1),
        **getattr(vision, "normalization", {}),
    )


def processor_from_scratch(
    model: str,
    tokenizer: PreTrainedTokenizerBase | None,
    texts: Iterable[str],
    image_size: int | Sequence[int] | None = None,
    num_frames: int | None = None,
) -> VideoTextProcessor:
    """
    The processor of a named configuration that starts from scratch.

    Args:
        tokenizer: by default a WordPiece vocabulary of the configuration's size is trained on the texts.
        texts: read only if no tokenizer is given.
        image_size: side of a frame in pixels, or (height, width); by default the configuration's.
        num_frames: of a clip; by default the configuration's.
    """
    config: Any = named_configuration(model)
    if tokenizer is None:
        tokenizer = train_wordpiece_tokenizer(texts, config.vocab_size)
        tokenizer = tokenizer if config.get_text_config() is config else without_end(tokenizer)
    if config.get_text_config() is not config:
        config = named_configuration(model, **texts_from_scratch(model, tokenizer))
        return language_processor(config, tokenizer, frames_from_scratch(model, image_size, num_frames))
    processor = VideoTextProcessor(tokenizer, frames_from_scratch(model, image_size, num_frames))
    processor.max_length = min(processor.max_length, getattr(config.text_config, "max_words", processor.max_length))
    return processor

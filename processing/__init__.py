"""Files and words -> tensors."""

from .decoding import DecodedVideo, VideoDecodeError, decode_video
from .processing_violet import (
    VideoTextProcessor,
    special_tokens,
    train_wordpiece_tokenizer,
    with_videos_among_words,
    without_end,
)
from .video_processing_violet import VioletVideoProcessor

__all__ = [
    "DecodedVideo",
    "VideoDecodeError",
    "VideoTextProcessor",
    "VioletVideoProcessor",
    "decode_video",
    "special_tokens",
    "train_wordpiece_tokenizer",
    "with_videos_among_words",
    "without_end",
]

"""Files and words -> tensors."""

from .decoding import DecodedVideo, VideoDecodeError, decode_video
from .processing_violet import VideoTextProcessor, train_wordpiece_tokenizer
from .video_processing_violet import VioletVideoProcessor

__all__ = [
    "DecodedVideo",
    "VideoDecodeError",
    "VideoTextProcessor",
    "VioletVideoProcessor",
    "decode_video",
    "train_wordpiece_tokenizer",
]

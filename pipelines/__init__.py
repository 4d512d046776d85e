"""A user's question -> an answer: one file per task."""

from .auto_classes import (
    AutoModelForVideoCaptioning,
    AutoModelForVideoFillMask,
    AutoModelForVideoQuestionAnswering,
    AutoModelForVideoTextRetrieval,
)
from .video_captioning import VideoCaptioningPipeline
from .video_feature_extraction import VideoFeatureExtractionPipeline
from .video_fill_mask import VideoFillMaskPipeline
from .video_question_answering import VideoQuestionAnsweringPipeline
from .video_text_retrieval import VideoTextRetrievalPipeline
from .video_text_to_text import VideoTextToTextPipeline

__all__ = [
    "AutoModelForVideoCaptioning",
    "AutoModelForVideoFillMask",
    "AutoModelForVideoQuestionAnswering",
    "AutoModelForVideoTextRetrieval",
    "VideoCaptioningPipeline",
    "VideoFeatureExtractionPipeline",
    "VideoFillMaskPipeline",
    "VideoQuestionAnsweringPipeline",
    "VideoTextRetrievalPipeline",
    "VideoTextToTextPipeline",
]

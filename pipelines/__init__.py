"""A person's question -> an answer: one file a task."""

from .video_fill_mask import VideoFillMaskPipeline
from .video_question_answering import VideoQuestionAnsweringPipeline

__all__ = ["VideoFillMaskPipeline", "VideoQuestionAnsweringPipeline"]

"""The networks and their losses: no file, data set or download is known here."""

from .embeddings import VideoTokens
from .modeling_pretraining import VioletForPreTraining, VioletPreTrainingOutput
from .modeling_violet import (
    VioletForMaskedLM,
    VioletForQuestionAnswering,
    VioletModel,
    VioletModelOutput,
    VioletPreTrainedModel,
    VioletTaskOutput,
)
from .video_swin import VioletVisionModel

__all__ = [
    "VideoTokens",
    "VioletForMaskedLM",
    "VioletForPreTraining",
    "VioletForQuestionAnswering",
    "VioletModel",
    "VioletModelOutput",
    "VioletPreTrainedModel",
    "VioletPreTrainingOutput",
    "VioletTaskOutput",
    "VioletVisionModel",
]

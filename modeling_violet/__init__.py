"""The networks and their losses: no file, data set or download is known here."""

from .embeddings import VideoTokens
from .modeling_captioning import VioletCaptioningOutput, VioletForCaptioning
from .modeling_classification import VioletForVideoClassification
from .modeling_matching import VioletForMultipleChoice, VioletForRetrieval
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
    "VioletCaptioningOutput",
    "VioletForCaptioning",
    "VioletForMaskedLM",
    "VioletForMultipleChoice",
    "VioletForPreTraining",
    "VioletForQuestionAnswering",
    "VioletForRetrieval",
    "VioletForVideoClassification",
    "VioletModel",
    "VioletModelOutput",
    "VioletPreTrainedModel",
    "VioletPreTrainingOutput",
    "VioletTaskOutput",
    "VioletVisionModel",
]

"""The networks and their losses: no file, data set or download is known here."""

from .encoders import ENCODERS, VioletVisionModel
from .modeling_captioning import VioletCaptioningOutput, VioletForCaptioning
from .modeling_classification import VioletForVideoClassification
from .modeling_conditional_generation import VioletConditionalGenerationOutput, VioletForConditionalGeneration
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
from .tokens import Tokens

__all__ = [
    "ENCODERS",
    "Tokens",
    "VioletCaptioningOutput",
    "VioletConditionalGenerationOutput",
    "VioletForCaptioning",
    "VioletForConditionalGeneration",
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

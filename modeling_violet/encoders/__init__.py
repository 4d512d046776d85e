"""Vision encoders: what turns pixels into states on a grid. A new one is a file here and a line of `ENCODERS`."""

from .encoder import ENCODERS, Encoder, find_encoder
from .video_swin import VioletVisionModel

__all__ = ["ENCODERS", "Encoder", "VioletVisionModel", "find_encoder"]

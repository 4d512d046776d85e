"""Contrast of clips and their middle frames with subtitles and captions (`omnisource`), CLIP-ViP's pre-training."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...configuration.configuration_violet import VioletConfig
from ..encoders.encoder import find_encoder
from ..losses import at_least_float32
from .embedding_forms import FormObjective
from .passes import Passes

FRAMES = "pixel_values_middle_frames"
CAPTIONS = ("frame_caption_ids", "frame_caption_attention_mask")


@dataclass
class OmnisourceOptions:
    """
    Attributes:
        form: `vsc_fc`, `vsc`, `vs_vc`, `vs_vc_fc`, `vs_fc` or `pooled`, see `contrastive_losses`.
        column: the rows' column with a caption of the middle frame; `caption` is the clip's subtitle.
    """

    form: str = "vsc_fc"
    column: str = "frame_caption"


class Omnisource(FormObjective):
    """
    Clips with their subtitles and, through the same tower as clips of one frame, middle frames with captions of their
    own (Xue et al., 2023, arXiv:2209.06430, section 3.3).
    """

    Options = OmnisourceOptions
    available = ("videos", "texts", "frames", "frame_captions")

    def __init__(self, name: str, config: VioletConfig):
        super().__init__(name, config)
        self.needs = (*CAPTIONS, FRAMES) if "frames" in self.form.sets else CAPTIONS

    def check(self, config: VioletConfig) -> None:
        super().check(config)
        if "frame_captions" not in self.form.sets:
            raise ValueError(
                f"`objectives`: {self.name!r}: the form {self.options.form!r} reads no captions of frames; the "
                "objective 'contrast' has it."
            )
        vision: Any = config.vision_config
        inputs = find_encoder(vision).inputs
        if "frames" in self.form.sets and len(inputs) > 1:
            raise ValueError(
                f"`objectives`: {self.name!r} encodes a frame as a clip, and the encoder `vision_config.model_type` "
                f"{vision.model_type!r} takes {' and '.join(inputs)} of each: use the form 'vsc'."
            )

    def embed(self, passes: Passes) -> dict[str, torch.Tensor]:
        videos, texts = passes.embeddings
        captions = passes.violet.embed_texts(*(passes.inputs[name] for name in CAPTIONS))
        sets = {"videos": videos, "texts": texts, "frame_captions": captions}
        if "frames" in self.form.sets:
            frames = {passes.violet.vision_encoder.inputs[0]: passes.inputs[FRAMES]}
            sets["frames"] = passes.violet.embed_videos(passes.violet.encode_videos(**frames))
        return sets

    def scale(self, passes: Passes) -> torch.Tensor:
        """The logarithm itself is kept from 0 to that of the projection's bound, so that it never stops learning."""
        projection = passes.violet.projection
        logarithm = projection.logarithm()
        if passes.model.training and isinstance(logarithm, nn.Parameter):
            with torch.no_grad():
                logarithm.clamp_(0, math.log(projection.largest_scale))
        return at_least_float32(logarithm).exp()

"""BERT's encoder over a text and each clip of a video by itself; the text's states are joined behind it."""

from dataclasses import replace

import torch
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, Cache, PreTrainedConfig
from transformers.utils import logging

from ...configuration.configuration_violet import _refuse, _refuse_unknown
from ...core.carried_code import without_code
from ..clip_pooling import CLIP_POOLING
from ..tokens import Tokens
from .bert_fusion import VioletBertFusion
from .fusion import CLIP_STATES

logger = logging.get_logger(__name__)


def _clips(config: PreTrainedConfig) -> int:
    return getattr(config.vision_config, "num_clips", 1)


@strict
class ClipByClipConfig(PreTrainedConfig):
    r"""
    Configuration of the fusion clip by clip. Its layers are described by the whole model, [`VioletConfig`].

    Args:
        clip_pooling (`str`): how the states of a text beside each clip become one, of `CLIP_POOLING`: `"lse"` (the
            published HD-VILA), `"lse_corrected"`, `"mean"` or `"max"`. All are the same for one clip.
    """

    model_type = "clip_by_clip"
    base_config_key = "fusion_model_config"

    clip_pooling: str = "lse"

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))

    def validate_architecture(self):
        """Refuses what is unknown, naming the field."""
        super().validate_architecture()
        if self.clip_pooling not in CLIP_POOLING:
            _refuse("clip_pooling", f"{self.clip_pooling!r} is unknown; known are {', '.join(CLIP_POOLING)}.")


class VioletClipByClipFusion(VioletBertFusion):
    """
    A step of the video's grid is a clip, and each passes the layers with the text (and prompt) by itself, as if it
    were a video of its own; behind them the text's states are joined, number by number. The video's states are those
    of each clip. Without a text the clips pass one by one.
    """

    rules = ("bidirectional",)
    narrows = False

    def __init__(self, config):
        super().__init__(config)
        if config.fusion_model_config.clip_pooling == "lse_corrected" and _clips(config) == 1:
            logger.warning(
                "`fusion_model_config.clip_pooling` 'lse_corrected' has no effect with `vision_config.num_clips` 1: "
                "there is nothing to join."
            )

    def forward(
        self,
        groups: dict[str, Tokens],
        rule: str = "bidirectional",
        cache: Cache | None = None,
        past_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> dict[str, torch.Tensor]:
        video = groups["video"]
        if video.grid is None or video.num_special_per_clip:
            raise ValueError(
                "`fusion_model_config.model_type` 'clip_by_clip' takes videos apart by the steps of their grid, and "
                f"these have {video.num_special_per_clip} tokens of the whole video: use 'bert'."
            )
        clips = video.grid[0]
        by_clip = {
            "video": replace(
                video,
                # (texts, clips * tokens, width) -> (texts * clips, tokens, width)
                tokens=video.tokens.unflatten(1, (clips, -1)).flatten(0, 1),
                mask=video.mask.unflatten(1, (clips, -1)).flatten(0, 1),
                grid=(1, *video.grid[1:]),
                pooled=None,
            )
        }
        for name, group in groups.items():
            if name != "video":
                repeated = (group.tokens.repeat_interleave(clips, dim=0), group.mask.repeat_interleave(clips, dim=0))
                by_clip[name] = Tokens(*repeated)
        states = super().forward(by_clip, rule, cache, past_mask, **kwargs)
        pool = CLIP_POOLING[self.config.fusion_model_config.clip_pooling]
        joined = {
            # (texts * clips, tokens, width) -> (texts, clips, tokens, width)
            name: pool(one.unflatten(0, (-1, clips))) if clips > 1 else one
            for name, one in states.items()
            if name != "video"
        }
        if clips > 1 and joined:  # the first state behind the video, beside each clip
            behind = next(iter(joined))
            joined[CLIP_STATES] = states[behind][:, 0].unflatten(0, (-1, clips))
        # (texts * clips, tokens, width) -> (texts, clips * tokens, width)
        return {"video": states["video"].unflatten(0, (-1, clips)).flatten(1, 2), **joined}


AutoConfig.register(ClipByClipConfig.model_type, ClipByClipConfig, exist_ok=True)

"""Configurations of VIOLET: the video encoder and the whole model."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import SubConfigSpec

from ..core.carried_code import without_code

FUSION_NORMS = ("post", "pre")
TASK_TOKENS = {"match": 0, "multiple-choice": 1, "open-ended": 2, "captioning": 3}
"""Rows of the learned task tokens that VIOLETv2's published weights use (of 10)."""

IMAGENET_BLACK = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
"""A black pixel after normalisation with ImageNet's mean and standard deviation."""


def _refuse(field: str, problem: str):
    raise ValueError(f"`{field}`: {problem}")


LIBRARY_KEYS = frozenset(GenerationConfig().to_dict()) | {
    *("attn_implementation", "auto_map", "custom_pipelines", "experts_implementation", "model_type", "name_or_path"),
    *("num_labels", "output_attentions", "quantization_config", "torch_dtype", "use_cache"),
}
"""What transformers gives to a configuration or writes into its file, beside the fields that it declares."""


def _refuse_unknown(config: PreTrainedConfig, keys: Iterable[str]):
    unknown = sorted(key for key in keys if key not in LIBRARY_KEYS and not key.startswith("_"))
    if unknown:
        raise ValueError(f"{type(config).__name__} has no field {', '.join(unknown)}.")


def _require_positive(config: PreTrainedConfig, *fields: str):
    for field in fields:
        if getattr(config, field) < 1:
            _refuse(field, f"must be 1 or more, got {getattr(config, field)}.")


def _require_whole_heads(config: PreTrainedConfig):
    if config.hidden_size % config.num_attention_heads:
        _refuse(
            "num_attention_heads", f"{config.num_attention_heads} does not divide `hidden_size` {config.hidden_size}."
        )


def _whole_patches(config: PreTrainedConfig, height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of the patches of a frame."""
    side = config.patch_size
    if min(height, width) < side or height % side or width % side:
        _refuse(
            "patch_size",
            f"{config.model_type} needs frames whose sides are multiples of {side} pixels, got {height} x {width}.",
        )
    return height // side, width // side


def _require_activation(config: PreTrainedConfig):
    if config.hidden_act not in ACT2FN:
        _refuse("hidden_act", f"{config.hidden_act!r} is unknown; known are {', '.join(sorted(ACT2FN))}.")


class SwinStage(NamedTuple):
    """Blocks of one width and window, and whether the merging of 2 x 2 cells stands behind them."""

    width: int
    depth: int
    num_heads: int
    window: tuple[int, int, int]
    merges: bool


@strict
class VioletVisionConfig(PreTrainedConfig):
    r"""
    Configuration of the Video Swin Transformer. The defaults are those of VIOLETv2 (Swin-Base).

    Args:
        embed_dim (`int`): channels after the patch embedding; stage `i` has `embed_dim * 2**i`.
        depths (`list[int]`): blocks in each stage.
        num_heads (`list[int]`): attention heads in each stage; each divides its stage's width.
        window_size (`list[int]`): largest attention window as (frames, rows, columns) of patches.
        patch_size (`int`): side of a patch, in pixels.
        temporal_patch_size (`int`): frames that one patch embedding reads.
        temporal_stride (`int`): frames between two patch embeddings; 1 keeps the frame count.
        mlp_ratio (`float`): width of a block's feed-forward layer, as a multiple of the stage's width.
        qkv_bias (`bool`): whether the query, key and value projections have a bias.
        drop_path_rate (`float`): stochastic depth of the last block; it grows linearly from 0 at the first.
    """

    model_type = "violet_vision"
    base_config_key = "vision_config"

    embed_dim: int = 128
    depths: list[int] | tuple[int, ...] = (2, 2, 18, 2)
    num_heads: list[int] | tuple[int, ...] = (4, 8, 16, 32)
    window_size: list[int] | tuple[int, ...] = (8, 7, 7)
    num_channels: int = 3
    patch_size: int = 4
    temporal_patch_size: int = 2
    temporal_stride: int = 1
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    drop_path_rate: float | int = 0.2
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        super().__post_init__(**without_code(kwargs))

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage."""
        return self.embed_dim * 2 ** (len(self.depths) - 1)

    @property
    def stages(self) -> list[SwinStage]:
        """What the network is built of, from the first stage to the last."""
        frames, rows, columns = self.window_size
        last = len(self.depths) - 1
        return [
            SwinStage(self.embed_dim * 2**i, depth, heads, (frames, rows, columns), merges=i < last)
            for i, (depth, heads) in enumerate(zip(self.depths, self.num_heads, strict=True))
        ]

    @property
    def temporal_shift(self) -> bool:
        """Whether every second block's windows are shifted in time too."""
        return True

    @property
    def cell(self) -> tuple[int, int, int]:
        """(frames, rows, columns) of pixels that become one cell of the last stage's grid."""
        side = self.patch_size * 2 ** (len(self.depths) - 1)
        return self.temporal_stride, side, side

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """The last stage's (steps, rows, columns) for clips of that size; every size is padded to whole cells."""
        stride, side, _ = self.cell
        return -(-frames // stride), -(-height // side), -(-width // side)

    def validate_architecture(self):
        """Refuses contradictions, naming the field."""
        super().validate_architecture()
        _require_positive(
            self, "embed_dim", "num_channels", "patch_size", "temporal_patch_size", "temporal_stride", "mlp_ratio"
        )
        _require_activation(self)
        if len(self.depths) == 0 or min(self.depths) < 1:
            _refuse("depths", f"needs at least one stage and one block in each, got {self.depths}.")
        if len(self.num_heads) != len(self.depths):
            _refuse("num_heads", f"{self.num_heads} must name one number per stage, and `depths` has {self.depths}.")
        for stage, heads in enumerate(self.num_heads):
            width = self.embed_dim * 2**stage
            if heads < 1 or width % heads:
                _refuse("num_heads", f"{heads} heads do not divide the width {width} of stage {stage}.")
        if len(self.window_size) != 3 or min(self.window_size) < 1:
            _refuse("window_size", f"must be three positive numbers (frames, rows, columns), got {self.window_size}.")
        if self.temporal_stride > self.temporal_patch_size:
            _refuse(
                "temporal_stride",
                f"{self.temporal_stride} exceeds `temporal_patch_size` {self.temporal_patch_size}: "
                "frames would be skipped.",
            )
        if not 0 <= self.drop_path_rate < 1:
            _refuse("drop_path_rate", f"must lie in [0, 1), got {self.drop_path_rate}.")


class VioletNoPartConfig(PreTrainedConfig):
    """Configuration of a part that a model does not have: `fusion_model_config` or `text_config`."""

    model_type = "none"


@strict
class VioletConfig(PreTrainedConfig):
    r"""
    Configuration of a VIOLET model. The defaults are the shapes of the published VIOLETv2.

    Args:
        vision_config (`dict` or a configuration): the vision encoder, by its `model_type`: Video Swin
            ([`VioletVisionConfig`], the default), or a model of pictures or videos of transformers, such as
            `clip_vision_model` or `videomae`; see `modeling_violet.encoders`.
        text_config (`dict` or a configuration, *optional*): the text side, by its `model_type`, such as `bert` for a
            BERT with its layers; see `modeling_violet.texts`. `None` is BERT's embedding layer (VIOLET), which the
            fields here describe; of the type `none` the model reads no text.
        fusion_model_config (`dict` or a configuration, *optional*): the fusion, by its `model_type`; see
            `modeling_violet.fusions`. `None` is BERT's encoder (VIOLET), which the fields here describe; of the type
            `none` there is no fusion: videos and texts are compared by their vectors. (By the name `fusion_config`
            transformers itself looks for fused kernels.)
        audio_config (`dict` or a configuration, *optional*): the audio encoder, by its `model_type`; see
            `modeling_violet.sounds`. `None` for a model without sound.
        vision_positions (`str`): what is added to the vision encoder's states: `"violet"` (a token per frame,
            learned places in the frame and in time, and a norm), `"cells"` (a learned place per cell and per frame,
            and a norm), `"rows_and_columns"` (a learned place per row and per column, and a norm),
            `"attentional_pooler"` (a learned row per frame, and then as many tokens as the `pooler` has queries), or
            `"none"` (the encoder's states as they are).
        pooler (`dict`, *optional*): options of the positions `"attentional_pooler"`, see
            `attentional_pooler.PoolerOptions`.
        fusion_norm (`str`): `"post"` (BERT, the published models) or `"pre"` (normalised before each sub-layer,
            easier to train from scratch).
        num_video_frames (`int`): frames that have a learned place in time; more are interpolated.
        video_grid_size (`int`): side of the grid of learned patch positions; larger grids are interpolated. With
            the positions `"cells"` it may be (rows, columns).
        hidden_frame_order (`bool`): whether a frame's place in time can be hidden (VIOLETv2).
        clip_summary (`bool`): whether each frame's special token holds a summary of the whole clip that keeps the
            order of its frames; off in the published models. A small fusion encoder learns time from it.
        num_task_tokens (`int`): learned task tokens (VIOLETv2 has 10, see `TASK_TOKENS`); 0 for none.
        masked_patch_value (`list[float]`): what a masked patch's normalised pixels are set to, a channel.
            VIOLET masks to black, VIOLETv2 to the mean colour.
        projection_dim (`int`, *optional*): width of the embeddings before the fusion; `None` for no projection.
        projection_type (`str`): how they are pooled, a name of `modeling_violet.projection.PROJECTIONS`.
        contrastive_weight (`float`): weight of the video-text contrastive loss if captions are given.
        mvm_targets (`dict[str, dict]`): what masked patches predict in pre-training: names of
            `masked_vision.MVM_TARGETS`, each with the options of its head (`{}` for its defaults).
        objectives (`dict[str, dict]`): pre-training objectives beyond those that every model has: names of
            `objective.OBJECTIVES`, each with its options (`{}` for its defaults).
        head_type (`str`): what reads the first text state to tell answers and matches: `"mlp"` (VIOLET), `"pooler"`
            (BERT's: a layer with tanh, then one linear layer), or `"pooler_mlp"` (that layer, then VIOLET's head). For
            the class of a video by itself also `"embedding"`, a linear layer on its embedding before the fusion.
        word_head_type (`str`): what tells a word of its state: `"mlm"` (BERT's masked-language head) or `"linear"`
            (one linear layer without bias, CoCa's).
        match_classes (`int`): outputs of a match head: 1, a score, or 2, "no match" and "match" (BERT's), whose
            difference is the score; 2 needs the head type `"pooler"`.
        span_head (`bool`): whether multiple choice also tells of each step in time whether the answer is seen there.
        match_temperature (`float`): what match scores are divided by before their softmax.
        retrieval_directions (`int`): 1 for a loss over the texts of each video (VIOLET), 2 for both ways (VIOLETv2).
        label_smoothing (`float`): the part of each target that the losses of tasks, and of written captions
            in pre-training, spread over all classes.
        next_word_prediction (`bool`): whether captioning predicts a word from the word before it, instead of from a
            [MASK] in its own place (the published models).
        caption_contrast_weight (`float`): weight of the video-text contrastive loss beside that of the words when
            captions are learned; 0 for none.
        weights_license (`str`, *optional*): the terms, in words, under which others gave the weights that this model
            was made of, if these may not be passed on, nor what is derived from them. It stays with every model that
            is trained from this one; the card says it, and a push asks for an explicit word.
        mask_token_id, bos_token_id, eos_token_id (`int`): [MASK], [CLS] and [SEP], with which texts are written;
            by default BERT's.
    """

    model_type = "violet"
    keys_to_ignore_at_inference = ["cache", "past_key_values", "measures"]  # no predictions, for the Trainer
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(AutoConfig, VioletVisionConfig.model_type),
        "text_config": SubConfigSpec(AutoConfig, "bert", optional=True),
        "fusion_model_config": SubConfigSpec(AutoConfig, "bert", optional=True),
        "audio_config": SubConfigSpec(AutoConfig, "bert", optional=True),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    fusion_model_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    vision_positions: str = "violet"
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    fusion_norm: str = "post"
    num_video_frames: int = 6
    video_grid_size: int | list[int] | tuple[int, ...] = 14
    hidden_frame_order: bool = True
    clip_summary: bool = False
    num_task_tokens: int = 0
    masked_patch_value: list[float] | tuple[float, ...] = (0.0, 0.0, 0.0)
    classifier_dropout: float | int = 0.1
    projection_dim: int | None = None
    projection_type: str = "in_order"
    contrastive_weight: float | int = 1.0
    mvm_targets: dict[str, dict[str, int | float | str]] | None = None
    objectives: dict[str, dict[str, Any]] | None = None
    pooler: dict[str, int | str | bool] | None = None
    head_type: str = "mlp"
    word_head_type: str = "mlm"
    match_classes: int = 1
    span_head: bool = False
    match_temperature: float = 0.05
    retrieval_directions: int = 2
    label_smoothing: float | int = 0.0
    next_word_prediction: bool = False
    caption_contrast_weight: float | int = 0.0
    weights_license: str | None = None
    mask_token_id: int = 103
    bos_token_id: int | None = 101
    eos_token_id: int | list[int] | None = 102

    def __post_init__(self, **kwargs):
        _refuse_unknown(self, kwargs)
        vision, own = self.vision_config, VioletVisionConfig.model_type
        if isinstance(vision, dict) and vision.get("model_type", own) == own:
            # Not through AutoConfig's table: another copy of this code may have put its class there.
            self.vision_config = VioletVisionConfig(**vision)
        super().__post_init__(**without_code(kwargs))
        written = self.get_text_config()
        if written is not self:  # whose vocabulary it is
            for field in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id"):
                setattr(self, field, getattr(written, field, None))

    @property
    def has_fusion(self) -> bool:
        """Whether videos and texts meet in a fusion, and not only as vectors."""
        return getattr(self.fusion_model_config, "model_type", None) != VioletNoPartConfig.model_type

    @property
    def num_frames(self) -> None:
        """
        None: how many frames are taken of a video, the processor says. transformers' pipeline `video-classification`
        asks the configuration, and hands the answer to the processor.
        """
        return None

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """
        Whose the vocabulary and the layers are that write: its own fields, but for a fusion whose configuration names
        another part in `written_by`. Else `text_config` is a text side's, from which transformers would take the size
        of the vocabulary and of a cache.
        """
        part = getattr(self.fusion_model_config, "written_by", None)
        return self if part is None or getattr(self, part) is None else getattr(self, part)

    def to_dict(self) -> dict[str, Any]:
        """The fields, without those of other parts that have their defaults: VIOLETs are saved as they always were."""
        unused: dict[str, Any] = dict.fromkeys(
            ("text_config", "fusion_model_config", "audio_config", "objectives", "weights_license")
        )
        unused |= {"vision_positions": "violet", "projection_type": "in_order"}
        unused |= {"head_type": "mlp", "match_classes": 1, "span_head": False, "pooler": None}
        unused |= {"word_head_type": "mlm", "caption_contrast_weight": 0.0}
        fields = super().to_dict().items()
        return {name: value for name, value in fields if name not in unused or value != unused[name]}

    def validate_architecture(self):
        """Refuses contradictions, naming the field."""
        super().validate_architecture()
        _require_positive(
            self,
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
            "num_video_frames",
        )
        sides = [self.video_grid_size] if isinstance(self.video_grid_size, int) else list(self.video_grid_size)
        if min(sides, default=0) < 1 or (len(sides) != 1 and (len(sides) != 2 or self.vision_positions != "cells")):
            _refuse(
                "video_grid_size",
                f"must be 1 or more, and (rows, columns) only with the `vision_positions` 'cells', got "
                f"{self.video_grid_size}.",
            )
        _require_activation(self)
        _require_whole_heads(self)
        if self.fusion_norm not in FUSION_NORMS:
            _refuse("fusion_norm", f"{self.fusion_norm!r} is unknown; known are {', '.join(FUSION_NORMS)}.")
        if self.match_classes not in (1, 2):
            _refuse("match_classes", f"must be 1 or 2, got {self.match_classes}.")
        if self.match_classes == 2 and self.head_type != "pooler":
            _refuse("match_classes", f"2 needs the `head_type` 'pooler', got {self.head_type!r}.")
        if self.head_type == "embedding" and self.projection_dim is None:
            _refuse("head_type", "'embedding' reads the embedding before the fusion, and `projection_dim` is None.")
        if self.retrieval_directions not in (1, 2):
            _refuse("retrieval_directions", f"must be 1 or 2, got {self.retrieval_directions}.")
        if not 0 <= self.label_smoothing < 1:
            _refuse("label_smoothing", f"must lie in [0, 1), got {self.label_smoothing}.")
        if self.pooler is not None and self.vision_positions != "attentional_pooler":
            _refuse(
                "pooler",
                "is read by the `vision_positions` 'attentional_pooler' only, and they are "
                f"{self.vision_positions!r}.",
            )
        if self.caption_contrast_weight < 0:
            _refuse("caption_contrast_weight", f"must be 0 or more, got {self.caption_contrast_weight}.")
        if self.caption_contrast_weight and not self.next_word_prediction:
            _refuse(
                "caption_contrast_weight", "reads whole texts, and `next_word_prediction` is false: words are masked."
            )
        if self.caption_contrast_weight and self.projection_dim is None:
            _refuse("caption_contrast_weight", "compares embeddings, and `projection_dim` is None: set it.")
        if self.num_task_tokens < 0:
            _refuse("num_task_tokens", f"must be 0 or more, got {self.num_task_tokens}.")
        if self.projection_dim is not None:
            _require_positive(self, "projection_dim")
        channels = getattr(self.vision_config, "num_channels", 3)
        if len(self.masked_patch_value) != channels:
            _refuse(
                "masked_patch_value", f"must have {channels} numbers, one a channel, got {self.masked_patch_value}."
            )


AutoConfig.register(VioletVisionConfig.model_type, VioletVisionConfig, exist_ok=True)
AutoConfig.register(VioletNoPartConfig.model_type, VioletNoPartConfig, exist_ok=True)

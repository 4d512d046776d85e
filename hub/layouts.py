"""
What public checkpoints call the parts of VIOLET, and in which form they keep them.

There is one table, from our names to theirs; the way back is its inverse over the names that a model has. Our names
are those below the base model (`fusion.layers.0.…`); the one head at [CLS] is `answer_head.…`, also if it matches.

What is known of each kind: VIOLET's names come from its key lists; those of torchvision, and of transformers' BERT and
Swin, from the installed packages, which the tests run. The Swin projects', SwinBERT's and `decoder_vq` are written
down from knowledge of that code; no published file was at hand.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from operator import methodcaller
from typing import Any

import torch
from torch import nn

from ..modeling_violet.embeddings import interpolate_grid, interpolate_rows

Shape = tuple[int, ...]
Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

SWIN: Rules = ((r"^stages\.", "layers."), (r"\.mlp\.0\.", ".mlp.fc1."), (r"\.mlp\.2\.", ".mlp.fc2."))
SWIN_TORCHVISION: Rules = (
    (r"^stages\.(\d+)\.blocks\.", lambda found: f"features.{2 * int(found[1])}."),
    (r"^stages\.(\d+)\.downsample\.", lambda found: f"features.{2 * int(found[1]) + 1}."),
    (r"\.mlp\.2\.", ".mlp.3."),
)
SWIN_TRANSFORMERS_NAMES: Rules = (
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.qkv\.", ".attention.self.{query,key,value}."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
    (r"\.mlp\.0\.", ".intermediate.dense."),
    (r"\.mlp\.2\.", ".output.dense."),
)
VIDEO_TOKENS: Rules = (
    (r"^frame_token$", "emb_cls"),
    (r"^position_embeddings$", "emb_pos"),
    (r"^frame_embeddings$", "emb_len"),
    (r"^hidden_order_embedding$", "emb_odr"),
    (r"^projection\.", "fc."),
)
EMBEDDINGS: Rules = ((r"^norm\.", "LayerNorm."),)
LAYERS: Rules = (
    (r"\.attention\.(query|key|value)\.", r".attention.self.\1."),
    (r"\.attention\.output\.", ".attention.output.dense."),
    (r"\.attention_norm\.", ".attention.output.LayerNorm."),
    (r"\.intermediate\.", ".intermediate.dense."),
    (r"^(\d+)\.output\.", r"\1.output.dense."),
    (r"\.output_norm\.", ".output.LayerNorm."),
)
MASKED_WORDS: Rules = ((r"^norm\.", "transform.LayerNorm."), (r"^dense\.", "transform.dense."))

OPTIONAL = ("answer_head.", "span_head.", "mlm_head.", "mvm_heads.", "task_tokens")
"""What a source may lack altogether; if it holds some of such a part, it must hold the whole."""
BACKBONE, TEXT, FUSION = "video_encoder.swin.", "text_embeddings.", "fusion.layers."
MLM = "mlm_head."
FEATURES = ("2d_feature", "3d_feature", "2d_clip_feature")
"""MVM targets with the same head: the weights do not tell which of them it predicts."""


def rename(name: str, rules: Rules) -> str:
    """The name after each of the rules, in their order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def holds(names: Iterable[str], start: str) -> bool:
    """Whether any of the names begins so."""
    return any(map(methodcaller("startswith", start), names))


@dataclass(frozen=True)
class Form:
    """
    How a source keeps a tensor, if that is not our form.

    Attributes:
        theirs: (our shape, our attention window) -> the source's shape.
        ours: (the source's tensor, our shape) -> our tensor.
        length: the axis of the source's shape whose length is free, because `ours` fits it.
        lengths: which lengths it may have.
    """

    theirs: Callable[[Shape, Shape], Shape] = lambda shape, window: shape
    ours: Callable[[torch.Tensor, Shape], torch.Tensor] = lambda value, shape: value.reshape(shape)
    length: int | None = None
    lengths: Callable[[int], bool] = lambda length: length > 0

    def expected(self, ours: Shape, window: Shape, found: Shape) -> Shape:
        """The shape that the source must have, given the one that it has."""
        expected = self.theirs(ours, window)
        if self.length is None or len(found) != len(expected) or not self.lengths(found[self.length]):
            return expected
        return (*expected[: self.length], found[self.length], *expected[self.length + 1 :])


def _resize_frames(value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(1, frames, 1, D) -> (our frames, D)"""
    return interpolate_rows(value.reshape(-1, shape[1]), shape[0])


def _resize_grid(value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(1, 1, 1 + side², D) -> (1 + our side², D)"""
    side = math.isqrt(shape[0] - 1)
    return interpolate_grid(value.reshape(-1, shape[1]), side, side)


def is_grid(length: int) -> bool:
    """Whether this number of positions is that of a special token and a square grid."""
    return length > 1 and math.isqrt(length - 1) ** 2 == length - 1


def _inflate_patches(value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(width, channels, side, side) -> (width, channels, frames, side, side): still frames give what one gave"""
    return value.unsqueeze(2).expand(shape) / shape[2]


def _resize_table(window: Shape, value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """
    (offsets in a frame, heads) -> (offsets in the window, heads): resized bicubically to the window's rows and
    columns, the same for each distance in time
    """
    side, (frames, rows, columns) = math.isqrt(len(value)), (2 * length - 1 for length in window)
    # (offsets, heads) -> (1, heads, side, side) -> (1, heads, rows, columns) -> (rows * columns, heads)
    picture = value.t().unflatten(1, (side, side)).unsqueeze(0)
    picture = nn.functional.interpolate(picture, size=(rows, columns), mode="bicubic", align_corners=False)
    return picture[0].flatten(1).t().repeat(frames, 1)


def _tile_patches(value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(width, channels, side, side) -> larger patches that give the mean of the small ones: tiled, and divided"""
    tiles = shape[3] // value.shape[2]
    return _inflate_patches(value.repeat(1, 1, tiles, tiles) / tiles**2, shape)


def _inflate_table(value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(offsets in a frame, heads) -> (offsets in a window, heads), the same for each distance in time"""
    return value.repeat(shape[0] // value.shape[0], 1)


@dataclass(frozen=True)
class Numbering:
    """
    What the numbers in our names depend on, of a model's class and configuration.

    Attributes:
        model_class: the class's name.
        depths: blocks of each stage of a Video Swin; () for other encoders.
        windows: its window in each stage.
        merges: the stages with a merging behind them.
        text_layers: layers of the text side that read sentences, and those that read paragraphs; () for others.
    """

    model_class: str = ""
    depths: tuple[int, ...] = ()
    windows: tuple[Shape, ...] = ()
    merges: tuple[int, ...] = ()
    text_layers: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Kind:
    """
    A family of checkpoints.

    Attributes:
        name: for people.
        parts: beginning of our names -> (beginning of theirs, rules for the rest), or None for what it does not hold;
            the first that fits is taken.
        forms: pattern of their names -> their form, if it is not ours.
        skipped: pattern of their names -> why it is not needed.
        aliases: other spellings of their names -> the one in `parts`.
        of_pictures: whether it knows no time.
        kept: pattern of their names -> why no model reads it; it is kept beside a converted model, for the way back.
        numbers: what our names become before they are looked up in `parts`, if both number layers differently.
        classes: pattern of their names -> the class of model that weights with such a name are of, the first that
            fits; () where heads tell it, see `planning.infer_class`.
        frames: settings of the video processor that its models were trained with, if they are not the default.
        position_ids: whether its files hold BERT's `position_ids`.
        license: the terms of published weights of this kind, if they may not be passed on.
        vision: the `model_type` of the vision encoder of models that can be written in this kind; None for none.
        fit: (this kind, a model's numbering, that of the source) -> the kind for that model, if names or forms depend
            on it. See `fitted`.
    """

    name: str
    parts: Mapping[str, tuple[str, Rules] | None]
    forms: Mapping[str, Form] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    aliases: Rules = ()
    of_pictures: bool = False
    kept: Mapping[str, str] = field(default_factory=dict)
    numbers: Rules = ()
    classes: tuple[tuple[str, str], ...] = ()
    license: str | None = None
    vision: str | None = None
    frames: Mapping[str, Any] = field(default_factory=dict)
    position_ids: bool = False
    fit: Callable[["Kind", "Numbering", "Numbering"], "Kind"] | None = None

    def fitted(self, model: "Numbering", source: "Numbering") -> "Kind":
        """The kind for a model of that numbering."""
        return self if self.fit is None else self.fit(self, model, source)

    def their_name(self, ours: str) -> str | None:
        """What this kind calls it, or None if it holds no such thing."""
        return _their_name(self, ours)

    def part(self, ours: str) -> str | None:
        """The first of `parts` that our name begins with."""
        ours = rename(ours, self.numbers)
        return next((start for start in self.parts if ours.startswith(start)), None)

    def start(self, part: str) -> str:
        """How their names of a part begin."""
        found = self.parts[part]
        assert found is not None
        return found[0]

    def form(self, theirs: str) -> Form:
        return next((form for pattern, form in self.forms.items() if re.search(pattern, theirs)), Form())


@cache
def _their_name(kind: Kind, ours: str) -> str | None:
    part = kind.part(ours)
    found = None if part is None else kind.parts[part]
    if part is None or found is None:
        return None
    theirs, rules = found
    return theirs + rename(rename(ours, kind.numbers).removeprefix(part), rules)


VIOLET = Kind(
    "VIOLET",
    parts={
        BACKBONE: ("enc_img.swin.", SWIN),
        "video_encoder.clip_summary.": None,
        "video_encoder.": ("enc_img.", VIDEO_TOKENS),
        TEXT: ("enc_txt.emb_txt.", EMBEDDINGS),
        "task_tokens": ("emb_task", ()),
        FUSION: ("trsfr.layer.", LAYERS),
        "answer_head.": ("fc.", ()),
        MLM: ("fc_mtm.predictions.", MASKED_WORDS),
        **{f"mvm_heads.{name}.projection.": (f"decoder_{name}.0.", ()) for name in ("pixel", "hog", "depth")},
        "mvm_heads.optical_flow.projection.": ("decoder_flow.0.", ()),
        "mvm_heads.vq.projection.": ("decoder_vq.0.", ()),
        "mvm_heads.vq.classifier.": ("fc_mvm.", ()),
        **{f"mvm_heads.{name}.": ("fc_mvm.", ()) for name in ("vq", *FEATURES)},
    },
    forms={
        r"^enc_img\.emb_(cls|odr)$": Form(lambda shape, window: (1, 1, 1, *shape)),
        r"^enc_img\.emb_pos$": Form(lambda shape, window: (1, 1, *shape), _resize_grid, 2, is_grid),
        r"^enc_img\.emb_len$": Form(lambda shape, window: (1, shape[0], 1, shape[1]), _resize_frames, 1),
        r"^decoder_\w+\.0\.weight$": Form(lambda shape, window: (*shape, 1, 1)),
    },
    vision="violet_vision",
)

ANOTHER_HEAD = "a head of another task"
VIDEO_SWIN = Kind(
    "Video Swin",
    parts={BACKBONE: ("", SWIN)},
    skipped={r"^(cls_head|head)\.": ANOTHER_HEAD},
    aliases=((r"^backbone\.", ""),),
)
# Liu et al., 2022, arXiv:2106.13230, section 3.3: the patch embedding's weights are repeated and divided by their
# number, the table of relative positions is repeated for each distance in time.
INFLATED = {
    r"^(patch_embed\.proj|embeddings\.patch_embeddings\.projection)\.weight$": Form(
        lambda shape, window: (*shape[:2], *shape[3:]), _inflate_patches
    ),
    r"relative_position_bias_table$": Form(
        lambda shape, window: ((2 * window[1] - 1) * (2 * window[2] - 1), *shape[1:]), _inflate_table
    ),
}
SWIN_PATCH = 4
"""Side of a patch of every Swin for pictures, in pixels."""


@cache
def _spread(kind: Kind, model: Numbering, source: Numbering) -> Kind:
    """
    A Swin for pictures, for a model whose stages are others than its own: its blocks in their order onto the model's,
    its mergings in their order onto the model's, its tables resized to each stage's window.
    """
    if not model.depths or (model.depths, model.merges) == (source.depths, source.merges):
        return kind
    places = [f"{stage}.blocks.{block}" for stage, depth in enumerate(source.depths) for block in range(depth)]

    def place(stage: int, block: int) -> str:
        return places[min(sum(model.depths[:stage]) + block, len(places) - 1)]

    def merging(found: re.Match) -> str:
        stage = int(found[1])
        return f"stages.{model.merges.index(stage) if stage in model.merges else stage}.downsample."

    forms = {
        r"^(patch_embed\.proj|embeddings\.patch_embeddings\.projection)\.weight$": Form(
            lambda shape, window: (
                *shape[:2],
                *[SWIN_PATCH if side % SWIN_PATCH == 0 else side for side in shape[3:]],
            ),
            _tile_patches,
        )
    }
    side = 2 * source.windows[0][1] - 1
    for stage, (depth, window) in enumerate(zip(model.depths, model.windows, strict=True)):
        for block in range(depth):
            theirs = re.escape(f"layers.{place(stage, block)}")
            forms[theirs + r"\..*relative_position_bias_table$"] = Form(
                lambda shape, window: (side * side, *shape[1:]), partial(_resize_table, window)
            )
    numbers: Rules = (
        (
            r"stages\.(\d+)\.blocks\.(\d+)\.",
            lambda found: f"stages.{place(int(found[1]), int(found[2]))}.",
        ),
        (r"stages\.(\d+)\.downsample\.", merging),
        (r"(?<=^video_encoder\.swin\.)clip_merging\.", f"stages.{len(source.depths) - 2}.downsample."),
        (r"(?<=^video_encoder\.swin\.)clip_norm\.", "norm."),
    )
    return replace(kind, forms=forms, numbers=numbers, fit=None)


SWIN_2D = Kind(
    "Swin (pictures), inflated in time",
    parts={BACKBONE: ("", SWIN)},
    forms=INFLATED,
    skipped={r"^head\.": ANOTHER_HEAD, r"\.attn_mask$": "computed, for pictures of one size"},
    aliases=((r"^backbone\.", ""),),
    of_pictures=True,
    fit=_spread,
)
SWIN_TRANSFORMERS = Kind(
    "transformers' Swin (pictures), inflated in time",
    parts={
        BACKBONE + "patch_embed.proj.": ("embeddings.patch_embeddings.projection.", ()),
        BACKBONE + "patch_embed.norm.": ("embeddings.norm.", ()),
        BACKBONE + "stages.": ("encoder.layers.", SWIN_TRANSFORMERS_NAMES),
        BACKBONE + "norm.": ("layernorm.", ()),
    },
    forms=INFLATED,
    skipped={
        r"^(classifier|decoder)\.": ANOTHER_HEAD,
        r"^embeddings\.mask_token$": "VIOLET masks pixels",
    },
    aliases=((r"^swin\.", ""),),
    of_pictures=True,
    fit=_spread,
)
TORCHVISION = Kind(
    "torchvision's swin3d",
    parts={BACKBONE: ("", SWIN_TORCHVISION)},
    skipped={r"^head\.": ANOTHER_HEAD},
)
BERT = Kind(
    "BERT",
    parts={
        TEXT: ("embeddings.", EMBEDDINGS),
        FUSION: ("encoder.layer.", LAYERS),
        MLM: ("cls.predictions.", MASKED_WORDS),
    },
    skipped={r"^pooler\.": "VIOLET reads [CLS] without a pooler", r"^cls\.seq_relationship\.": ANOTHER_HEAD},
    aliases=((r"^bert\.", ""), (r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
)
SWINBERT = Kind(
    "SwinBERT",
    parts={
        BACKBONE: ("swin.backbone.", SWIN),
        TEXT: ("trans_encoder.bert.embeddings.", EMBEDDINGS),
        FUSION: ("trans_encoder.bert.encoder.layer.", LAYERS),
        MLM: ("trans_encoder.cls.predictions.", MASKED_WORDS),
    },
    skipped={
        r"^trans_encoder\.bert\.pooler\.": "VIOLET reads [CLS] without a pooler",
        r"^(fc|trans_encoder\.bert\.img_embedding)\.": "VIOLET has one projection here, with a norm behind it",
        r"^trans_encoder\.bert\.LayerNorm\.": "VIOLET has a norm of its own here",
        r"^learn_vid_att\.": "VIOLET learns no mask between video tokens",
        r"^swin\.cls_head\.": ANOTHER_HEAD,
    },
)


@cache
def _paragraph_layers(kind: Kind, model: Numbering, source: Numbering) -> Kind:
    """BERT's layers in one row: those of sentences, those of paragraphs, the fusion's. And whose the last layer is."""
    first = dict(zip((f"{TEXT}sentence_layers", f"{TEXT}paragraph_layers"), (0, *model.text_layers), strict=False))
    first["fusion.layers"] = sum(model.text_layers)
    row: Rules = (
        (
            r"^(text_embeddings\.sentence_layers|text_embeddings\.paragraph_layers|fusion\.layers)\.(\d+)\.",
            lambda found: f"text_layers.{first[found[1]] + int(found[2])}.",
        ),
    )
    parts = dict(kind.parts)
    if model.model_class in ("VioletForQuestionAnswering", "VioletForMultipleChoice"):
        parts["answer_head.3."] = ("text_encoder.classifier.", ())
    return replace(kind, parts=parts, numbers=row, fit=None)


LF_VILA_HEADS = r"^text_encoder\.(bert\.pooler|cls|seq_relationship|classifier|span_classifier)\."
LF_VILA_TERMS = (
    "LF-VILA's published weights stand under a licence of Microsoft Research "
    "(https://github.com/microsoft/XPretrain): non-commercial use only, and neither the weights nor anything derived "
    "from them may be passed on."
)
LF_VILA = Kind(
    "LF-VILA",
    parts={
        BACKBONE + "clip_merging.": ("video_encoder.local_feat_proj.", ()),
        BACKBONE + "clip_norm.": ("video_encoder.norm_local.", ()),
        BACKBONE: ("video_encoder.", SWIN),
        "video_encoder.cell_embeddings.weight": ("video_token_pos.s_pos_embed", ()),
        "video_encoder.frame_embeddings.weight": ("video_token_pos.t_pos_embed", ()),
        "video_encoder.norm.": ("video_token_pos.norm.", ()),
        TEXT + "embeddings.": ("text_encoder.bert.embeddings.", EMBEDDINGS),
        TEXT + "places.": ("sent_embedding.", ()),
        "text_layers.": ("text_encoder.bert.encoder.layer.", LAYERS),
        "projection.video_projection.": ("video_global_proj.", ()),
        "projection.text_projection.": ("text_global_proj.", ()),
        "projection.clip_projection.": ("video_local_proj.", ()),
        "projection.sentence_projection.": ("text_local_proj.", ()),
        "answer_head.0.": ("text_encoder.bert.pooler.dense.", ()),
        "answer_head.3.": ("text_encoder.seq_relationship.", ()),
        "span_head.": ("text_encoder.span_classifier.", ()),
        "classifier.": ("classifier.", ()),
        MLM: ("text_encoder.cls.predictions.", MASKED_WORDS),
    },
    forms={
        r"^video_token_pos\.s_pos_embed$": Form(lambda shape, window: (1, 1, *shape)),
        r"^video_token_pos\.t_pos_embed$": Form(lambda shape, window: (1, shape[0], 1, shape[1])),
    },
    kept={
        r"^video_encoder\.(local_feat_proj|norm_local)\.": "the original computes it, and reads the last map instead",
        LF_VILA_HEADS: "a head that this class of model does not have",
        r"^(video|text)_(local|global|frame)_proj\.": "a projection that this class of model does not have",
    },
    classes=(
        (r"^text_encoder\.span_classifier\.", "VioletForMultipleChoice"),
        (r"^text_encoder\.classifier\.", "VioletForQuestionAnswering"),
        (r"^classifier\.", "VioletForVideoClassification"),
        (r"^video_token_pos\.", "VioletForPreTraining"),
        (r"", "VioletForRetrieval"),
    ),
    license=LF_VILA_TERMS,
    vision="lf_vila",
    position_ids=True,
    fit=_paragraph_layers,
)


@cache
def _upper_layers(kind: Kind, model: Numbering, source: Numbering) -> Kind:
    """BERT's layers in one row: those of the text side, those of the fusion. And whose the head's last layers are."""
    first = model.text_layers[0] if model.text_layers else 0
    row: Rules = (
        (r"^text_embeddings\.layers\.", "text_layers."),
        (r"^fusion\.layers\.(\d+)\.", lambda found: f"text_layers.{first + int(found[1])}."),
    )
    parts = dict(kind.parts)
    if model.model_class in ("VioletForQuestionAnswering", "VioletForMultipleChoice"):
        parts["answer_head.3."] = ("transformer.classifier.0.", ())
        parts["answer_head.5."] = ("transformer.classifier.2.", ())
    return replace(kind, parts=parts, numbers=row, fit=None)


TIMESFORMER: Rules = (
    (r"^position_embeddings$", "pos_embed"),
    (r"^time_embeddings$", "time_embed"),
    (r"\.temporal_norm\.", ".temporal_norm1."),
    (r"\.temporal_attention\.", ".temporal_attn."),
    (r"\.attention\.", ".attn."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.2\.", ".mlp.fc2."),
)
VISUAL = "transformer.bert.visual_embeddings."
HD_VILA_TERMS = (
    "HD-VILA's published weights stand under a licence of Microsoft Research "
    "(https://github.com/microsoft/XPretrain): non-commercial use only, and neither the weights nor anything derived "
    "from them may be passed on."
)
HD_VILA = Kind(
    "HD-VILA",
    parts={
        "video_encoder.two_resolutions.sharp.": ("cnn.", ()),
        "video_encoder.two_resolutions.small.": ("cnn_low.", ()),
        "video_encoder.two_resolutions.sharp_projection.": ("grid_encoder.0.", ()),
        "video_encoder.two_resolutions.small_projection.": ("grid_encoder_low.0.", ()),
        "video_encoder.two_resolutions.join.": ("grid_encoder_combine.0.", ()),
        "video_encoder.two_resolutions.timesformer.": ("timesformer.", TIMESFORMER),
        "video_encoder.row_embeddings.": (VISUAL + "row_position_embeddings.", ()),
        "video_encoder.column_embeddings.": (VISUAL + "col_position_embeddings.", ()),
        "video_encoder.type_embeddings.": (VISUAL + "token_type_embeddings.", ()),
        "video_encoder.norm.": (VISUAL + "LayerNorm.", ()),
        TEXT + "embeddings.": ("transformer.bert.embeddings.", EMBEDDINGS),
        TEXT + "pooler.": ("transformer.bert.pooler1.dense.", ()),
        "text_layers.": ("transformer.bert.encoder.layer.", LAYERS),
        "projection.video_projection.": ("transformer.v_proj.", ()),
        "projection.text_projection.": ("transformer.t_proj.", ()),
        "answer_head.0.": ("transformer.bert.pooler2.dense.", ()),
        "answer_head.3.": ("transformer.cls.seq_relationship.", ()),
        MLM: ("transformer.cls.predictions.", MASKED_WORDS),
    },
    kept={
        r"\.num_batches_tracked$": "it counts batches in training, which never move these norms",
        r"^cnn_low\.layer4\.": "small frames go no further than the third stage",
        r"^timesformer\.norm\.": "the original holds it, and no pass reads it",
        r"^transformer\.bert\.visual_embeddings\.position_embeddings\.": "the original holds it, and no pass reads it",
        r"^transformer\.(bert\.pooler2|cls|classifier)\.": "a head that this class of model does not have",
        r"^transformer\.(bert\.pooler1|[tv]_proj)\.": "a projection that this model does not have",
    },
    classes=(
        (r"^transformer\.classifier\.", "VioletForQuestionAnswering"),
        (r"^transformer\.bert\.visual_embeddings\.", "VioletForPreTraining"),
        (r"", "VioletForRetrieval"),
    ),
    license=HD_VILA_TERMS,
    vision="hd_vila",
    frames={
        "num_frames": 7,
        "size": {"height": 160, "width": 256},
        "inputs": ["pixel_values_videos", "pixel_values_detail"],
    },
    fit=_upper_layers,
)
KINDS = {
    kind.name: kind
    for kind in (VIOLET, LF_VILA, HD_VILA, SWINBERT, TORCHVISION, VIDEO_SWIN, SWIN_2D, SWIN_TRANSFORMERS, BERT)
}


def find_kind(shapes: Mapping[str, Shape]) -> Kind | None:
    """The kind of checkpoint that these names (without wrappers' prefixes) and shapes are of."""
    for kind, pattern in (
        (VIOLET, r"(enc_img|enc_txt|trsfr)\."),
        (LF_VILA, r"(video_encoder\.(patch_embed|layers|norm_local)|video_token_pos|sent_embedding)\."),
        (HD_VILA, r"(cnn_low|grid_encoder|timesformer\.blocks|transformer\.bert)\b"),
        (SWINBERT, r"(swin\.backbone|trans_encoder)\."),
        (TORCHVISION, r"features\.\d"),
        (SWIN_TRANSFORMERS, r"(swin\.)?(embeddings\.patch_embeddings|encoder\.layers\.\d+\.blocks)\."),
        (BERT, r"(bert\.)?(embeddings|encoder\.layer)\."),
        (VIDEO_SWIN, r"(backbone\.)?(patch_embed|layers\.\d)"),
    ):
        if any(re.match(pattern, name) for name in shapes):
            patches = [shape for name, shape in shapes.items() if name.endswith("patch_embed.proj.weight")]
            return SWIN_2D if kind is VIDEO_SWIN and any(len(shape) == 4 for shape in patches) else kind
    return None

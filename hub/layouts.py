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
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling

from ..modeling_violet.embeddings import interpolate_grid, interpolate_rows
from ..modeling_violet.encoders.maskalign_vit import sine_positions

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

UNIFORMERV2_BLOCK: Rules = (
    (r"\.local_(\d)\.norm\.", r".lmhra\1.pos_embed.0."),
    (r"\.local_(\d)\.reduce\.", r".lmhra\1.pos_embed.1."),
    (r"\.local_(\d)\.mix\.", r".lmhra\1.pos_embed.2."),
    (r"\.local_(\d)\.expand\.", r".lmhra\1.pos_embed.3."),
    (r"\.attention\.qkv\.", ".attn.in_proj_"),
    (r"\.attention\.out\.", ".attn.out_proj."),
    (r"\.attention\.(query_)?norm\.", ".ln_1."),
    (r"\.attention\.memory_norm\.", ".ln_3."),
    (r"\.attention\.in_proj_", ".attn.in_proj_"),
    (r"\.mlp\.norm\.", ".ln_2."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)
UNIFORMERV2_NAMES: Rules = (
    (r"^embeddings\.patch_embedding\.", "conv1."),
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.position_embedding$", "positional_embedding"),
    (r"^embeddings\.norm\.", "ln_pre."),
    (r"^query$", "transformer.temporal_cls_token"),
    (r"^balance$", "transformer.balance"),
    (r"^layers\.", "transformer.resblocks."),
    (r"^global_blocks\.(\d+)\.place\.", r"transformer.dpe.\1."),
    (r"^global_blocks\.", "transformer.dec."),
    *UNIFORMERV2_BLOCK,
)
UNIFORMERV2_CLIP_NAMES: Rules = (
    (r"^embeddings\.position_embedding$", "embeddings.position_embedding.weight"),
    (r"^embeddings\.norm\.", "pre_layrnorm."),
    (r"^layers\.", "encoder.layers."),
    (r"\.attention\.norm\.", ".layer_norm1."),
    (r"\.attention\.qkv\.", ".self_attn.{q_proj,k_proj,v_proj}."),
    (r"\.attention\.out\.", ".self_attn.out_proj."),
    (r"\.mlp\.norm\.", ".layer_norm2."),
)

OPTIONAL = (
    *("answer_head.", "span_head.", "classifier.", "mlm_head.", "mvm_heads.", "objective_heads.", "task_tokens"),
)
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
        whole: whether it holds whole numbers, such as a count.
        back: (our tensor, the source's shape) -> the source's tensor.
    """

    theirs: Callable[[Shape, Shape], Shape] = lambda shape, window: shape
    ours: Callable[[torch.Tensor, Shape], torch.Tensor] = lambda value, shape: value.reshape(shape)
    length: int | None = None
    lengths: Callable[[int], bool] = lambda length: length > 0
    whole: bool = False
    back: Callable[[torch.Tensor, Shape], torch.Tensor] = lambda value, shape: value.reshape(shape)

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
        positions: rows and columns of the square grid whose positions the vision encoder computes; 0 for others.
    """

    model_class: str = ""
    depths: tuple[int, ...] = ()
    windows: tuple[Shape, ...] = ()
    merges: tuple[int, ...] = ()
    text_layers: tuple[int, ...] = ()
    positions: int = 0


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
        needs: beginnings of our names, of `parts` -> (field of the model's configuration, value): without it the model
            has something else under these names.
        of_pictures: whether it knows no time.
        absent: pattern of our names that it does not hold, within `parts`.
        numbers: what our names become before they are looked up in `parts`, if both number layers differently.
        fit: (this kind, a model's numbering, that of the source) -> the kind for that model, if names or forms depend
            on it. See `fitted`.
        classes: pattern of their names -> the class of model that weights with such a name are of, the first that
            fits; () where heads tell it, see `planning.infer_class`.
        kept: pattern of their names -> why a model has no place for it. It is kept beside a converted model, for the
            way back.
        joined: a pattern, and names of tensors that are one in ours, see `weight_files.join`.
        system: the `model_type` of the vision encoder that its weights become, or of the model that they start; how
            its sizes are told, see `sizing.SYSTEMS`.
        published: whether files of this kind are published, so that a model of the system can be written as one.
        position_ids: whether its files hold `position_ids`.
        license: the terms of published weights of this kind, if they may not be passed on.
        tokenizer: with which its texts are read, a name on the Hub; None if it reads none.
        max_length: tokens of a text, beyond which it is cut; None for the processor's own.
        frames: how its frames are chosen, fitted and normalised: settings of `VioletVideoProcessor`.
        told: beginnings of our names -> the part of a `config.json` beside the weights ("" is the whole) that tells
            what their shapes do not.
        computed: their name of positions that follow from the sizes -> (the tensor whose width they have, (rows,
            columns, width) -> the positions in our form).
        assumed: what its shapes do not tell, and is taken for granted without a configuration, for the report.
    """

    name: str
    parts: Mapping[str, tuple[str, Rules] | None]
    forms: Mapping[str, Form] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    aliases: Rules = ()
    needs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    of_pictures: bool = False
    absent: str | None = None
    numbers: Rules = ()
    fit: Callable[["Kind", "Numbering", "Numbering"], "Kind"] | None = None
    classes: tuple[tuple[str, str], ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    joined: tuple[str, tuple[str, ...]] | None = None
    system: str = "violet_vision"
    published: bool = False
    position_ids: bool = False
    license: str | None = None
    tokenizer: str | None = "bert-base-uncased"
    max_length: int | None = None
    frames: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)
    computed: Mapping[str, tuple[str, Callable[[int, int, int], torch.Tensor]]] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()

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

    def serves(self, part: str, config: Mapping[str, Any]) -> bool:
        """Whether a model with this configuration, as JSON, has that part of this kind; see `needs`."""
        path, needed = self.needs.get(part, ("", None))
        value: Any = config
        for step in path.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        return value == needed

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
    if part is None or found is None or (kind.absent and re.search(kind.absent, ours)):
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
        r"^enc_img\.emb_pos$": Form(lambda shape, window: (1, 1, *shape), _resize_grid, length=2, lengths=is_grid),
        r"^enc_img\.emb_len$": Form(lambda shape, window: (1, shape[0], 1, shape[1]), _resize_frames, length=1),
        r"^decoder_\w+\.0\.weight$": Form(lambda shape, window: (*shape, 1, 1)),
    },
    published=True,
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


@cache
def _bert_in_three(kind: Kind, model: Numbering, source: Numbering) -> Kind:
    """A BERT for a text side of sentences and paragraphs: its layers in one row, its places for both tables."""
    if not model.text_layers:
        return kind
    first = {"sentence_layers": 0, "paragraph_layers": model.text_layers[0], "fusion": sum(model.text_layers)}
    numbers: Rules = (
        (
            r"^(?:text_embeddings\.(sentence_layers|paragraph_layers)|(fusion)\.layers)\.(\d+)\.",
            lambda found: f"{FUSION}{first[found[1] or found[2]] + int(found[3])}.",
        ),
        (r"^text_embeddings\.embeddings\.", TEXT),
        (r"^text_embeddings\.places\.position_embeddings\.", TEXT + "position_embeddings."),
    )
    parts = {TEXT + "places.": None, **kind.parts, "answer_head.0.": ("pooler.dense.", ())}
    return replace(kind, parts=parts, numbers=numbers, fit=None)


BERT = Kind(
    "BERT",
    parts={
        TEXT: ("embeddings.", EMBEDDINGS),
        FUSION: ("encoder.layer.", LAYERS),
        MLM: ("cls.predictions.", MASKED_WORDS),
    },
    skipped={r"^pooler\.": "VIOLET reads [CLS] without a pooler", r"^cls\.seq_relationship\.": ANOTHER_HEAD},
    aliases=((r"^bert\.", ""), (r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    fit=_bert_in_three,
    told={"": ""},
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
    system="lf_vila",
    published=True,
    position_ids=True,
    frames={"num_frames": 32, "size": {"height": 192, "width": 320}, "do_pad_to_square": False},
    assumed=(
        "`num_attention_heads` is the width / 64",
        "8 layers read sentences and 4 paragraphs",
        "`sentence_length`, `pool_size` and `num_clips` are as published",
    ),
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
    system="hd_vila",
    published=True,
    assumed=(
        "`num_attention_heads` is the width / 64",
        "beside a fusion the lower half of BERT's layers reads the text by itself",
        "`position_grid` is as published",
    ),
    frames={
        "num_frames": 7,
        "size": {"height": 160, "width": 256},
        "inputs": ["pixel_values_videos", "pixel_values_detail"],
    },
    fit=_upper_layers,
)
CLIP_PICTURES = re.compile(r"(vision_model\.)?pre_layrnorm\.")
CLIP_WORDS = re.compile(r"(text_model\.)?embeddings\.token_embedding\.")
CLIP_TOWER, CLIP_TEXT = "video_encoder.clip_vip.", "text_embeddings.model."


def _resize_clip_grid(value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(1 + side², D) -> (1 + our side², D): the grid bicubically, as transformers' CLIP does for larger pictures"""
    sides = [math.isqrt(length - 1) for length in (value.shape[0], shape[0])]
    # (side², D) -> (1, D, side, side) -> (1, D, our side, our side) -> (our side², D)
    grid = value[1:].unflatten(0, (sides[0], sides[0])).permute(2, 0, 1)[None]
    grid = nn.functional.interpolate(grid, size=(sides[1], sides[1]), mode="bicubic", align_corners=False)
    return torch.cat([value[:1], grid[0].flatten(1).t()])


CLIP_FRAMES = {
    "image_mean": OPENAI_CLIP_MEAN,
    "image_std": OPENAI_CLIP_STD,
    "resample": PILImageResampling.BICUBIC,
    "do_pad_to_square": False,
    "do_stretch": True,
    "frame_sampling": "ends",
}
"""As CLIP-ViP was trained."""
CLIP_NAMES = {
    CLIP_TOWER: "vision_model.",
    CLIP_TEXT: "text_model.",
    "projection.video_projection.": "visual_projection.",
    "projection.text_projection.": "text_projection.",
    "projection.logit_scale": "logit_scale",
}
"""Beginnings of our names -> of those of transformers' CLIP; the rest is the same."""
CLIP_INSIDE = r"^(?=(embeddings|encoder|pre_layrnorm|post_layernorm|final_layer_norm)\.)"
"""How names inside a tower begin."""
NEW_IN_CLIP_VIP = tuple(f"{CLIP_TOWER}embeddings.{name}" for name in ("added_cls", "temporal_embedding"))


def _clip(name: str, held: Iterable[str] = CLIP_NAMES, prefix: str = "", tower: str = "") -> Kind:
    """
    A kind with CLIP's names (Radford et al., 2021, arXiv:2103.00020), which has nothing of `NEW_IN_CLIP_VIP`.

    Args:
        held: which of `CLIP_NAMES` it holds.
        prefix: of all its names; CLIP-ViP's own, whose files hold everything.
        tower: what older releases of transformers put before the names of a tower by itself, and newer ones do not.
    """
    own = {} if prefix else dict.fromkeys(NEW_IN_CLIP_VIP)
    return Kind(
        name,
        parts={**own, **{ours: (prefix + CLIP_NAMES[ours], ()) for ours in held}},
        forms={
            r"logit_scale$": Form(lambda shape, window: ()),
            r"vision_model\.embeddings\.position_embedding\.weight$": Form(
                ours=_resize_clip_grid, length=0, lengths=is_grid
            ),
        },
        aliases=((CLIP_INSIDE, tower),) if tower else (),
        needs={
            CLIP_TEXT: ("text_config.model_type", "clip_text_model"),
            **{ours: ("projection_type", "pooled") for ours in CLIP_NAMES if ours.startswith("projection.")},
        },
        system="clip_vip",
        published=bool(prefix),
        position_ids=True,
        tokenizer="openai/clip-vit-base-patch32",
        max_length=70,  # of CLIP-ViP's pre-training
        frames=CLIP_FRAMES,
        told={CLIP_TOWER: "vision_config", CLIP_TEXT: "text_config"},
    )


CLIP_VIP = _clip("CLIP-ViP", prefix="clipmodel.")
CLIP = _clip("CLIP")
CLIP_VISION, CLIP_VISION_PROJECTED, CLIP_TEXTS, CLIP_TEXTS_PROJECTED = (
    _clip(f"CLIP's {name}", [part, *projection], tower=CLIP_NAMES[part])
    for name, part, projection in (
        ("vision tower", CLIP_TOWER, ()),
        ("vision tower with its projection", CLIP_TOWER, ("projection.video_projection.",)),
        ("text tower", CLIP_TEXT, ()),
        ("text tower with its projection", CLIP_TEXT, ("projection.text_projection.",)),
    )
)


def _centre_tap(value: torch.Tensor, shape: Shape) -> torch.Tensor:
    """(width, channels, side, side) -> (width, channels, frames, side, side): the middle one, and zeros"""
    inflated = value.new_zeros(shape)
    inflated[:, :, shape[2] // 2] = value
    return inflated


UNIFORMERV2_TOWER = "video_encoder.backbone."
UNIFORMERV2_FORMS = {
    r"\.pos_embed\.[13]\.weight$": Form(lambda shape, window: (*shape, 1, 1, 1)),
    r"\.pos_embed\.2\.weight$": Form(lambda shape, window: (*shape, 1)),
    r"\.num_batches_tracked$": Form(whole=True),
}


def _uniformerv2(name: str, parts: Mapping[str, tuple[str, Rules]], **options: Any) -> Kind:
    """A kind whose weights become a UniFormerV2's (Li et al., 2022, arXiv:2211.09552)."""
    frames = {"image_mean": [0.45] * 3, "image_std": [0.225] * 3, "do_pad_to_square": False}
    return Kind(name, parts, system="uniformerv2", tokenizer=None, **{"frames": frames, **options})


UNIFORMERV2, UNIFORMERV2_OPENMMLAB = (
    _uniformerv2(
        name,
        {UNIFORMERV2_TOWER: ("backbone.", UNIFORMERV2_NAMES), **head},
        forms=UNIFORMERV2_FORMS,
        skipped={r"^data_preprocessor\.": "mean and deviation of colours, which the processor has"},
        aliases=(
            (r"^backbone\.transformer\.norm\.", "backbone.transformer.proj.0."),
            (r"^cls_head\.fc_cls\.", "backbone.transformer.proj.2."),
        ),
        assumed=(
            "`num_attention_heads` is the width / 64",
            "`global_layers` are the last ones, as many as there are global blocks",
        ),
        published=True,
        kept={r"\.balance$": "the configuration's features are the query, without the class tokens"},
    )
    for name, head in (
        ("UniFormerV2", {"classifier.": ("backbone.transformer.proj.", ())}),
        (
            "UniFormerV2 (OpenMMLab)",
            {"classifier.0.": ("backbone.transformer.norm.", ()), "classifier.2.": ("cls_head.fc_cls.", ())},
        ),
    )
)
"""The published files and OpenMMLab's are read as the first, and written as either."""
NEW_IN_UNIFORMERV2 = r"backbone\.(query|balance|global_blocks\.|layers\.\d+\.local_)"
NO_SUCH_PART = "a part of CLIP that UniFormerV2 does not have"
OPENAI_CLIP = _uniformerv2(
    "CLIP (OpenAI's names), which starts a UniFormerV2",
    {UNIFORMERV2_TOWER: ("visual.", UNIFORMERV2_NAMES)},
    forms={
        r"^visual\.conv1\.weight$": Form(lambda shape, window: (*shape[:2], *shape[3:]), _centre_tap),
        r"^visual\.positional_embedding$": Form(ours=_resize_clip_grid, length=0, lengths=is_grid),
    },
    skipped={
        r"^visual\.(proj$|ln_post\.)": NO_SUCH_PART,
        r"^(transformer|token_embedding|ln_final)\.": NO_SUCH_PART,
        r"^(positional_embedding|text_projection|logit_scale)$": NO_SUCH_PART,
        r"^(input_resolution|context_length|vocab_size)$": "sizes, which shapes tell",
    },
    absent=NEW_IN_UNIFORMERV2,
)
CLIP_START = _uniformerv2(
    "CLIP, which starts a UniFormerV2",
    {UNIFORMERV2_TOWER: ("vision_model.", UNIFORMERV2_CLIP_NAMES)},
    frames={"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD, "do_pad_to_square": False},
    forms={
        r"\.patch_embedding\.weight$": Form(lambda shape, window: (*shape[:2], *shape[3:]), _centre_tap),
        r"\.position_embedding\.weight$": Form(ours=_resize_clip_grid, length=0, lengths=is_grid),
    },
    skipped={
        r"^(vision_model\.post_layernorm|visual_projection|text_model|text_projection)\.|^logit_scale$": NO_SUCH_PART
    },
    aliases=((CLIP_INSIDE, "vision_model."),),
    absent=NEW_IN_UNIFORMERV2,
    joined=(r".*self_attn\.", ("q_proj", "k_proj", "v_proj")),
)


def _axes(*order: int) -> Form:
    """A tensor of the source whose axes, in this order, are ours."""
    return Form(
        theirs=lambda shape, window: tuple(shape[order.index(axis)] for axis in range(len(order))),
        ours=lambda value, shape: value.permute(order),
        back=lambda value, shape: value.permute(tuple(order.index(axis) for axis in range(len(order)))).contiguous(),
    )


VATT_BASE, VATT_HEAD = "_base_layer/unified_backbone/unified_transformer/", "_head_layer/_bridge_heads/0/"
VATT_ENDS: Rules = (
    (r"norm\.weight$", "norm/gamma"),
    (r"norm\.bias$", "norm/beta"),
    (r"\.weight$", "/kernel"),
    (r"\.bias$", "/bias"),
)
"""TensorFlow's names of a layer's weights."""
VATT_DENSE: Rules = ((r"^weight$", "kernel"),)
VATT_NORM: Rules = (
    (r"^weight$", "gamma"),
    (r"^bias$", "beta"),
    (r"^running_mean$", "moving_mean"),
    (r"^running_var$", "moving_variance"),
)
VATT_BLOCKS: Rules = (
    (r"^layers\.(\d+)\.", r"layers/\1/"),
    (r"attention_norm\.", "layer_norm."),
    (r"attention\.([qkv])_proj\.", r"mha/\1."),
    (r"attention\.out_proj\.", "mha/o."),
    (r"mlp_norm\.", "feed_forward/layer_norm."),
    (r"fc1\.", "feed_forward/mlp/wi."),
    (r"fc2\.", "feed_forward/mlp/wo."),
    (r"^norm\.", "final_layer_norm."),
    *VATT_ENDS,
)


def _vatt_stream(name: str, short: str) -> Rules:
    """What a modality has of its own."""
    places = "pos_embedding_lookup"
    return (
        (r"^words\.weight$", f"raw_to_embeddings/{name}/embeddings"),
        (r"^patches\.", f"raw_to_embeddings/{name}."),
        (r"^stream\.(pre|post)_projection\.", rf"\1_proj/{name}."),
        (r"^stream\.positions\.temporal$", f"{places}/{name}/temporal_position_embeddings/embeddings"),
        (r"^stream\.positions\.vertical$", f"{places}/{name}/vertical_position_embeddings/embeddings"),
        (r"^stream\.positions\.horizontal$", f"{places}/{name}/horizontal_position_embeddings/embeddings"),
        (r"^stream\.positions\.norm\.", f"{places}/{name}/layernorm."),
        (r"^stream\.aggregate$", f"{short}_agg_embedding"),
        *VATT_ENDS,
    )


VATT_PROJECTION: Mapping[str, str] = {
    "video_hidden.": "vid_to_hid/",
    "hidden_norm.": "hid_to_va/pre_bn/",
    "video_fine.": "hid_to_va/dense/",
    "fine_norm.": "hid_to_va/bn/",
    "video_coarse.": "va_to_vat/dense/",
    "coarse_norm.": "va_to_vat/bn/",
    "sound_fine.": "aud_to_va/",
    "text_coarse.": "txt_to_vat/",
    **{
        f"heads.{name}.{ours}.": f"{short}_to_vat/{theirs}/"
        for name, short in (("video", "vid"), ("audio", "aud"), ("text", "txt"))
        for ours, theirs in (("dense", "dense"), ("norm", "bn"))
    },
}
"""Our projections -> the original's heads, of both kinds."""
VATT = Kind(
    "VATT",
    parts={
        "video_encoder.vatt.backbone.": (VATT_BASE + "tx/", VATT_BLOCKS),
        "video_encoder.vatt.": (VATT_BASE, _vatt_stream("video", "vid")),
        "audio_encoder.model.": (VATT_BASE, _vatt_stream("audio", "aud")),
        TEXT + "model.": (VATT_BASE, _vatt_stream("text", "txt")),
        **{
            f"projection.{ours}": (VATT_HEAD + theirs, VATT_NORM if "norm" in ours else VATT_DENSE)
            for ours, theirs in VATT_PROJECTION.items()
        },
    },
    forms={
        r"raw_to_embeddings/video/kernel$": _axes(4, 3, 0, 1, 2),
        r"raw_to_embeddings/audio/kernel$": _axes(2, 1, 0),
        r"/kernel$": _axes(1, 0),
    },
    aliases=((r"^.*?(?=_(base|head)_layer/)", ""), (r"/\.ATTRIBUTES/VARIABLE_VALUE$", "")),
    skipped={
        r"\.OPTIMIZER_SLOT|^optimizer/|^save_counter$|^_CHECKPOINTABLE_OBJECT_GRAPH$": "no weights, but what training "
        "kept beside them",
    },
    system="vatt",
    published=True,
    tokenizer=None,
    frames={"num_frames": 32, "size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    assumed=("heads are 64 wide (`head_dim`)", "sound has 48,000 samples a second"),
)
MASKALIGN_NAMES: Rules = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
)
ALIGNED = r"^distill_(heads|weights)\b"


def _maskalign(name: str, **options: Any) -> Kind:
    """A kind whose weights are MaskAlign's student's (Xue et al., 2023, arXiv:2211.08887)."""
    return Kind(
        name,
        parts={
            "video_encoder.maskalign_vit.": ("", MASKALIGN_NAMES),
            "objective_heads.align.weights": ("distill_weights", ()),
            "objective_heads.align.heads.": ("distill_heads.", ()),
        },
        forms={r"^cls_token$": Form(lambda shape, window: (1, 1, *shape))},
        classes=((r"", "VioletModel"),),
        kept={
            r"^(clip|dino)_model\.": "the frozen teacher, which has a checkpoint of its own",
            ALIGNED: "it aligns the student with its teacher, and the encoder does without",
            r"^(fc_norm|head)\.": ANOTHER_HEAD,
            r"^pos_embed$": "sines, which are computed for each grid",
        },
        computed={"pos_embed": ("cls_token", sine_positions)},
        system="maskalign_vit",
        tokenizer=None,
        frames={"do_pad_to_square": False, "resample": PILImageResampling.BICUBIC},
        assumed=("`num_attention_heads` is the width / 64",),
        **options,
    )


MASKALIGN = _maskalign("MaskAlign", published=True)
MASKALIGN_TUNED = _maskalign("MaskAlign, fine-tuned", absent=r"^video_encoder\.maskalign_vit\.norm\.")
KINDS = {
    kind.name: kind
    for kind in (
        *(VIOLET, LF_VILA, HD_VILA, SWINBERT, TORCHVISION, VIDEO_SWIN, SWIN_2D, SWIN_TRANSFORMERS, BERT),
        *(CLIP_VIP, CLIP, CLIP_VISION, CLIP_VISION_PROJECTED, CLIP_TEXTS, CLIP_TEXTS_PROJECTED),
        *(UNIFORMERV2, UNIFORMERV2_OPENMMLAB, OPENAI_CLIP, CLIP_START, VATT),
        *(MASKALIGN, MASKALIGN_TUNED),
    )
}
STARTING: Mapping[str, Mapping[str, Kind]] = {
    "uniformerv2": dict.fromkeys((CLIP.name, CLIP_VISION.name, CLIP_VISION_PROJECTED.name), CLIP_START)
}
"""
By the `model_type` of a vision encoder: kinds by whose names it starts, in the place of those of the same weights that
are found without knowing it (by their names).
"""


def _clip_kind(names: Iterable[str]) -> Kind | None:
    """Which part of a CLIP these names are of, if they are one's."""
    names = list(names)
    if holds(names, "clipmodel."):
        return CLIP_VIP
    if any(map(CLIP_PICTURES.match, names)):
        if holds(names, "text_model."):
            return CLIP
        return CLIP_VISION_PROJECTED if holds(names, "visual_projection.") else CLIP_VISION
    if holds(names, "vision_model.") or not any(map(CLIP_WORDS.match, names)):
        return None
    return CLIP_TEXTS_PROJECTED if holds(names, "text_projection.") else CLIP_TEXTS


def find_kind(shapes: Mapping[str, Shape], encoder: str | None = None) -> Kind | None:
    """
    The kind of checkpoint that these names (without wrappers' prefixes) and shapes are of.

    Args:
        encoder: `model_type` of the vision encoder that they are to become, if it is known.
    """
    found = _kind_by_names(shapes)
    return found if found is None else STARTING.get(encoder or "", {}).get(found.name, found)


def _kind_by_names(shapes: Mapping[str, Shape]) -> Kind | None:
    clip = _clip_kind(shapes)
    if clip is not None:
        return clip
    if any(re.match(r"blocks\.\d+\.attn\.qkv\.", name) for name in shapes) and "pos_embed" in shapes:
        aligned = any(re.match(ALIGNED, name) for name in shapes)
        if aligned or holds(shapes, "fc_norm."):
            return MASKALIGN if aligned else MASKALIGN_TUNED
    for kind, pattern in (
        (VIOLET, r"(enc_img|enc_txt|trsfr)\."),
        (VATT, rf".*{VATT_BASE}"),
        (UNIFORMERV2, r"backbone\.transformer\."),
        (OPENAI_CLIP, r"visual\.(conv1|transformer)\."),
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

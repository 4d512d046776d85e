"""What a checkpoint must hold to become a model, and what will become of each key: only from names and shapes."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedModel

from ..configuration import VioletConfig
from ..core.catalogue import MODELS
from ..modeling_violet import (
    VioletForMaskedLM,
    VioletForPreTraining,
    VioletForQuestionAnswering,
    VioletForRetrieval,
    VioletForVideoClassification,
    VioletModel,
    VioletPreTrainedModel,
    VioletVisionModel,
)
from ..modeling_violet.encoders import find_encoder
from ..modeling_violet.encoders.video_swin import relative_position_index
from ..modeling_violet.heads import build_head, build_word_head
from ..modeling_violet.objectives.masked_vision import build_mvm_heads
from .kinds import FUSION, MLM, OPTIONAL, TEXT, Form, Kind, Numbering, Shape, holds, rename
from .layouts import BERT, KINDS, VIOLET, find_kind
from .sizing import infer_configuration
from .weight_files import WeightsError, strip_prefixes

POSITION_INDEX, POSITION_IDS = "relative_position_index", "position_ids"
SHOWN = 12
"""How many problems of one kind an error names."""


class ConversionError(WeightsError):
    """Weights that do not fit; the message names every key that is unknown, missing or of a wrong shape."""


@dataclass(frozen=True)
class Piece:
    """A tensor that the source must hold, by its kind's name; `target` is None if the model has no place for it."""

    ours: str
    theirs: str
    shape: Shape
    form: Form
    target: str | None


@dataclass(frozen=True)
class Derived:
    """
    A tensor of the source that follows from others, and is checked against them.

    Attributes:
        of: the tensor that it follows from, by the kind's name.
        shape: it must have.
        why: it is not needed.
        value: (the source's tensors by the kind's names) -> what it must be.
        group: exports without it exist: they lack all of this group. None if it must be there.
        rows_of: a table of the source, by the kind's name, whose rows it counts: of another length than ours if that
            is interpolated.
    """

    of: str
    shape: Shape
    why: str
    value: Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
    group: str | None = None
    rows_of: str | None = None

    def expected(self, found: Mapping[str, Shape]) -> Shape:
        """The shape that it must have in a source of these shapes."""
        rows = found.get(self.rows_of or "", ())
        return (1, rows[0]) if rows else self.shape


@dataclass(frozen=True)
class Layout:
    """What a source of a kind must hold for a class of model; `new`: target key -> why the source does not hold it."""

    pieces: tuple[Piece, ...]
    derived: Mapping[str, Derived]
    new: Mapping[str, str]
    window: Shape


@dataclass(frozen=True)
class ConversionPlan:
    """
    What will become of every key, found only from names and shapes.

    Attributes:
        kind: of the source.
        model_class, config: of the model.
        layout: what the source must hold, and does.
        names: the kind's name -> the source's.
        skipped: source key -> why it is not needed.
        assumed: what the weights do not tell and was taken for granted.
    """

    kind: Kind
    model_class: type[PreTrainedModel]
    config: Any
    layout: Layout
    names: Mapping[str, str]
    skipped: Mapping[str, str]
    assumed: tuple[str, ...] = ()


def plan_conversion(
    shapes: Mapping[str, Shape],
    model_class: type[PreTrainedModel] | None = None,
    config: Any = None,
    settings: Mapping[str, Any] | None = None,
    encoder: str | None = None,
) -> ConversionPlan:
    """
    What `from_original` will do with weights of these names and shapes.

    Args:
        settings: the `config.json` beside the weights: what shapes do not tell of a configuration that is not given.
        encoder: `model_type` of the vision encoder that they are to become, if no configuration is given.

    Raises:
        ConversionError: if a key is unknown, missing or of a wrong shape; it names the key.
    """
    stripped = strip_prefixes(list(shapes))
    encoder = encoder if config is None else encoder_type(config)
    kind = find_kind({name: shapes[source] for name, source in stripped.items()}, encoder)
    if kind is None:
        some = ", ".join(map(repr, list(shapes)[:3]))
        raise ConversionError(f"The weights are of no kind that is known ({', '.join(KINDS)}): they hold {some}.")
    problems: list[str] = []
    names: dict[str, str] = {}
    for name, source in stripped.items():
        name = rename(name, kind.aliases)
        if name in names:
            problems.append(f"{names[name]!r} and {source!r} are the same key")
        names[name] = source
    found = {name: tuple(shapes[source]) for name, source in names.items()}

    try:
        of_source, conflicts = infer_configuration(kind, found, config is None, settings)
    except WeightsError as error:
        if config is None:
            raise ConversionError(str(error)) from error
        of_source, conflicts = config.to_json_string(use_diff=False), []
    except StrictDataclassError as error:
        raise ConversionError(f"The weights' shapes make no model: {str(error).splitlines()[-1].strip()}") from error
    problems += conflicts
    if model_class is None:
        model_class = infer_class(kind, found, of_source)
        if is_vision_model(model_class) and config is not None and not isinstance(config, VioletConfig):
            model_class = find_encoder(config).model_class or model_class
    if is_vision_model(model_class) and isinstance(config, VioletConfig):
        config = config.vision_config
    if config is None:
        wanted = _own_configuration(kind, model_class, of_source)
    elif isinstance(config, model_class.config_class):
        wanted = config.to_json_string(use_diff=False)
    else:
        raise ConversionError(f"{model_class.__name__} needs a {model_class.config_class.__name__}.")

    own = numbering(model_class, of_source)
    of_its_own, kind = kind.fitted(own, own), kind.fitted(numbering(model_class, wanted), own)
    starts = {part: kind.start(part) for part, theirs in kind.parts.items() if theirs and part.startswith(OPTIONAL)}
    present = frozenset(part for part, start in starts.items() if holds(found, start))
    tied = () if kind is VIOLET or MLM not in present else tuple(_absent_from_decoder(kind, found))
    layout = _layout(kind, of_its_own, model_class, wanted, of_source, present, tied)  # type: ignore[arg-type]  # it is hashable
    skipped, found_problems = _compare(kind, model_class, layout, found, names)
    problems += found_problems
    if problems:
        raise ConversionError("The weights do not fit: " + "; ".join(problems) + ".")
    assumed = kind.assumed if config is None else ()
    if config is None:
        config = model_class.config_class.from_dict(json.loads(wanted))
    return ConversionPlan(kind, model_class, config, layout, names, skipped, assumed)


def encoder_type(config: Any) -> str | None:
    """`model_type` of a configuration's vision encoder, or its own if it is one's."""
    return getattr(getattr(config, "vision_config", config), "model_type", None)


def infer_class(kind: Kind, shapes: Mapping[str, Shape], config_json: str) -> type[PreTrainedModel]:
    """
    The class whose heads the weights hold. Pre-training's has a match head beside masked words, or heads for masked
    patches and no answers; a match head without them is retrieval's, which multiple choice shares. A model of two
    towers without a fusion is retrieval's, and a vision encoder only its own class.
    """
    for pattern, name in kind.classes:
        if any(re.match(pattern, theirs) for theirs in shapes):
            return MODELS.find(name)
    of_model = VioletConfig.from_dict(json.loads(config_json))
    encoder = find_encoder(of_model.vision_config)
    of_videos = (f"video_encoder.{encoder.key}.", "projection.video_projection.")
    if all(part.startswith(of_videos) for part in kind.parts) and encoder.model_class is not None:
        return encoder.model_class
    if not of_model.has_fusion and of_model.projection_dim is not None:
        return VioletForRetrieval

    def has(part: str) -> bool:
        return part in kind.parts and holds(shapes, kind.start(part))

    if has("classifier."):
        return VioletForVideoClassification
    config = json.loads(config_json)
    matches = has("answer_head.") and config["id2label"] is not None and len(config["id2label"]) == 1
    if has(MLM):
        patches = config["mvm_targets"] and not has("answer_head.")
        return VioletForPreTraining if matches or patches else VioletForMaskedLM
    if has("answer_head."):
        return VioletForRetrieval if matches else VioletForQuestionAnswering
    return VioletModel


def is_vision_model(model_class: type[PreTrainedModel]) -> bool:
    """Whether it is a video encoder by itself."""
    return not issubclass(model_class, VioletPreTrainedModel)


def numbering(model_class: type[PreTrainedModel], config_json: str) -> Numbering:
    """What the numbers in the names of a model's weights depend on."""
    settings = json.loads(config_json)
    is_whole = settings.get("model_type") == VioletConfig.model_type
    config: Any = (VioletConfig if is_whole else model_class.config_class).from_dict(settings)
    stages = getattr(config.vision_config if is_whole else config, "stages", ())
    text = getattr(config, "text_config", None)
    layers: tuple[int, ...] = (getattr(text, "num_sentence_layers", 0), getattr(text, "num_paragraph_layers", 0))
    if not any(layers):
        layers = (getattr(text, "num_hidden_layers", 0),)
    return Numbering(
        model_class.__name__,
        tuple(stage.depth for stage in stages),
        tuple(stage.window for stage in stages),
        tuple(i for i, stage in enumerate(stages) if stage.merges),
        layers if any(layers) else (),
        _computed_positions(config.vision_config if is_whole else config),
        getattr(config.vision_config if is_whole else config, "num_hidden_layers", 0),
    )


def _computed_positions(vision: Any) -> int:
    """`Numbering.positions` of a vision encoder's configuration."""
    if vision.model_type != "maskalign_vit" or vision.image_size is None:
        return 0
    return vision.image_size // vision.patch_size


def _own_configuration(kind: Kind, model_class: type[PreTrainedModel], config_json: str) -> str:
    """What the shapes tell. A backbone by itself keeps its stride in time, which in VIOLET is 1."""
    if not is_vision_model(model_class):
        return config_json
    vision = json.loads(config_json)["vision_config"]
    if model_class is VioletVisionModel and kind is not VIOLET:
        vision["temporal_stride"] = vision["temporal_patch_size"]
    return json.dumps(vision)


def _absent_from_decoder(kind: Kind, names: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """
    BERTs' masked-language head without `decoder.weight` is tied to the word embeddings; without `decoder.bias` it has
    only `bias`. Gives our names with those to take instead.
    """
    start = kind.start(MLM)
    for ours, instead in (("weight", kind.their_name(TEXT + "word_embeddings.weight")), ("bias", start + "bias")):
        if kind.their_name(f"{MLM}decoder.{ours}") not in names:
            assert instead is not None
            yield f"{MLM}decoder.{ours}", instead


@lru_cache(maxsize=32)
def _layout(
    kind: Kind,
    of_its_own: Kind,
    model_class: type[PreTrainedModel],
    config_json: str,
    source_json: str,
    present: frozenset[str],
    tied: tuple[tuple[str, str], ...],
) -> Layout:
    source = _source_shapes(source_json, present & {"answer_head.", "classifier.", MLM})
    targets = {
        below_the_model(model_class, name): (name, shape)
        for name, shape in _model_shapes(model_class, config_json).items()  # type: ignore[arg-type]  # it is hashable
    }
    pieces: dict[str, Piece] = {}
    new: dict[str, str] = {}
    config = json.loads(config_json)
    # Names that the source's own shapes tell come first: they claim a key that several of ours could be.
    for ours in sorted(targets, key=lambda ours: ours not in source):
        target, shape = targets[ours]
        part, theirs = kind.part(ours), dict(tied).get(ours) or kind.their_name(ours)
        if part is None or theirs is None:
            new[target] = f"{kind.name} holds no such part"
        elif not kind.serves(part, config):
            new[target] = f"{kind.name} holds another: see `{kind.needs[part][0]}`"
        elif part.startswith(OPTIONAL) and part not in present and ours not in source:
            new[target] = f"the source holds no {kind.start(part)!r}"
        elif part.startswith("mvm_heads.") and theirs in {piece.theirs for piece in pieces.values()}:
            new[target] = f"the source's {theirs!r} is another head's"
        else:
            pieces[ours] = Piece(ours, theirs, shape, kind.form(theirs), target)
    claimed = {piece.theirs for piece in pieces.values()}
    for ours, shape in source.items():
        theirs = dict(tied).get(ours) or of_its_own.their_name(ours)
        if ours not in pieces and theirs is not None and theirs not in claimed:
            pieces[ours] = Piece(ours, theirs, shape, kind.form(theirs), None)
    own = numbering(model_class, source_json).windows
    windows = own if kind.of_pictures else numbering(model_class, config_json).windows or own
    window = windows[0] if windows else ()  # only a Video Swin has windows
    positions = numbering(model_class, config_json).positions
    return Layout(tuple(pieces.values()), derived_pieces(kind, pieces, windows, positions), new, window)


def _index(window: Shape, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    t, h, w = window
    return relative_position_index((t, h, w))


def _places(table: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.arange(len(tensors[table]))[None]


def _computed(
    table: Callable[[int, int, int], torch.Tensor], grid: int, of: str, tensors: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    return table(grid, grid, tensors[of].shape[-1])[None]


def derived_pieces(
    kind: Kind, pieces: Mapping[str, Piece], windows: tuple[Shape, ...], positions: int = 0
) -> dict[str, Derived]:
    """
    What follows from these pieces, by the kind's names; `windows`: of each stage of a Video Swin; `positions`: see
    `Numbering`.
    """
    derived: dict[str, Derived] = {}
    widths = {piece.theirs: piece.shape[-1] for piece in pieces.values() if piece.shape}
    for name, (of, table) in kind.computed.items():
        if positions and of in widths:
            shape = (1, 1 + positions**2, widths[of])
            derived[name] = Derived(of, shape, "computed", partial(_computed, table, positions, of))
    for ours, piece in pieces.items():
        stage = re.search(r"stages\.(\d+)\..*relative_position_bias_table$", ours)
        if stage is not None:
            window = (1, *windows[0][1:]) if kind.of_pictures else windows[min(int(stage[1]), len(windows) - 1)]
            tokens = math.prod(window)
            name = piece.theirs.replace("bias_table", "index")
            derived[name] = Derived(
                piece.theirs,
                (tokens, tokens),
                "computed from the window size",
                partial(_index, window),
                POSITION_INDEX,
            )
        elif places_of := re.fullmatch(r"(|.*\.)position_embeddings?\.weight", piece.theirs):
            name, count = f"{places_of[1]}position_ids", partial(_places, piece.theirs)
            derived[name] = Derived(piece.theirs, (1, piece.shape[0]), "computed", count, POSITION_IDS, piece.theirs)
    bias = pieces.get(MLM + "decoder.bias")
    if bias is not None and bias.theirs != kind.start(MLM) + "bias":
        derived[kind.start(MLM) + "bias"] = Derived(
            bias.theirs,
            bias.shape,
            f"a copy of {bias.theirs}, which is the one in use",
            lambda tensors: tensors[bias.theirs],
        )
    return derived


@lru_cache(maxsize=32)
def _model_shapes(model_class: type[PreTrainedModel], config_json: str) -> dict[str, Shape]:
    with torch.device("meta"):
        model = model_class(model_class.config_class.from_dict(json.loads(config_json)))
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@lru_cache(maxsize=32)
def _source_shapes(config_json: str, has: frozenset[str]) -> dict[str, Shape]:
    """Everything that weights of this configuration, with these heads, hold, by our names below the base model."""
    config = VioletConfig.from_dict(json.loads(config_json))
    with torch.device("meta"):
        heads = nn.ModuleDict({"mvm_heads": build_mvm_heads(config)})
        if "answer_head." in has:
            heads["answer_head"] = build_head(config, config.num_labels)
        if MLM in has:
            heads["mlm_head"] = build_word_head(config)
    shapes = {name: tuple(value.shape) for name, value in heads.state_dict().items()}
    if "classifier." in has:
        of_classifier = _model_shapes(VioletForVideoClassification, config_json)
        shapes |= {name: shape for name, shape in of_classifier.items() if name.startswith("classifier.")}
    return {**_model_shapes(VioletModel, config_json), **shapes}


def below_the_model(model_class: type[PreTrainedModel], name: str) -> str:
    """A key of a model's state dict -> its name in `layouts`."""
    if is_vision_model(model_class):
        return f"video_encoder.{model_class.base_model_prefix}.{name}"
    return re.sub(r"^match_head\.", "answer_head.", name.removeprefix(model_class.base_model_prefix + "."))


def _compare(
    kind: Kind,
    model_class: type[PreTrainedModel],
    layout: Layout,
    found: Mapping[str, Shape],
    names: Mapping[str, str],
) -> tuple[dict[str, str], list[str]]:
    """(source key -> why it is not needed, what is wrong in words)"""
    skipped: dict[str, str] = {}
    problems, missing, unplaced, unknown = list[str](), list[str](), list[str](), list[str]()
    groups = {one.group for name, one in layout.derived.items() if name in found} | {None}

    def compare(name: str, expected: Shape, target: str | None = None) -> None:
        if found[name] != expected:
            becomes = "" if target is None else f" to become {target!r}"
            problems.append(f"{names[name]!r} has shape {found[name]}, but needs {expected}{becomes}")

    for piece in layout.pieces:
        if piece.theirs not in found:
            missing.append(piece.theirs)
            continue
        compare(piece.theirs, piece.form.expected(piece.shape, layout.window, found[piece.theirs]), piece.target)
        if piece.target is None:
            why = _why_unplaced(kind, model_class, piece)
            if why is None:
                unplaced.append(names[piece.theirs])
            else:
                skipped[names[piece.theirs]] = why
    for name, derived in layout.derived.items():
        if name in found:
            compare(name, derived.expected(found))
            skipped[names[name]] = derived.why
        elif derived.group in groups:
            missing.append(name)
    known = {piece.theirs for piece in layout.pieces} | set(layout.derived)
    encoder = f"video_encoder.{model_class.base_model_prefix}."
    of_encoder = tuple(theirs[0] for part, theirs in kind.parts.items() if theirs and part.startswith(encoder))
    for name in found:
        if name not in known:
            why = _reason({**kind.skipped, **kind.kept}, name)
            if why is None and is_vision_model(model_class) and not name.startswith(of_encoder):
                why = f"{model_class.__name__} is only the video encoder"
            if why is None:
                unknown.append(names[name])
            else:
                skipped[names[name]] = why
    first = []
    if not any(piece.target for piece in layout.pieces):
        first.append(f"nothing of {kind.name} has a place in {model_class.__name__}")
    for what, keys in (
        ("missing", missing),
        (f"unknown to {kind.name}", unknown),
        (f"without a place in {model_class.__name__} of this configuration", unplaced),
    ):
        first += [f"{what}: {listed(keys)}"] if keys else []
    problems = first + problems
    if len(problems) > SHOWN:
        problems = [*problems[:SHOWN], f"and {len(problems) - SHOWN} more"]
    return skipped, problems


def _reason(reasons: Mapping[str, str], name: str) -> str | None:
    return next((why for pattern, why in reasons.items() if re.search(pattern, name)), None)


def listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _why_unplaced(kind: Kind, model_class: type[PreTrainedModel], piece: Piece) -> str | None:
    ours = piece.ours
    kept = _reason(kind.kept, piece.theirs)
    if kept is not None:
        return kept
    if is_vision_model(model_class):
        return f"{model_class.__name__} is only the video encoder"
    if ours == "task_tokens":
        return "the configuration has no task tokens"
    if kind.part(ours) in kind.needs:
        return f"the configuration has no such part: its text side or projection is not {kind.name}'s"
    if ours.startswith(OPTIONAL):
        return f"{model_class.__name__} has no such head"
    if kind.name == BERT.name and ours.startswith(FUSION):
        return "the configuration has fewer layers"
    return None

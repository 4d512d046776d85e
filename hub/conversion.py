"""
Weights of other code, read (`from_original`) and written (`export_original`): every key of source and model is
explained, or nothing is made. The commands convert and export-original write the result into a folder or a file.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..configuration import NAMED_CONFIGURATIONS, VioletConfig, named_configuration
from ..core.catalogue import MODELS
from ..core.files import new_file, new_folder, sha256, write_json, write_tensors
from ..core.quiet import quietly
from ..modeling_violet import ENCODERS, VioletPreTrainedModel
from ..modeling_violet.encoders import find_encoder
from ..processing import VideoTextProcessor, VioletVideoProcessor, special_tokens
from ..processing.video_processing_violet import match_sound
from .cards import CONVERSION_FILE
from .kinds import Kind, Shape, holds
from .layouts import KINDS, find_kind
from .planning import (
    POSITION_IDS,
    ConversionError,
    ConversionPlan,
    Piece,
    below_the_model,
    derived_pieces,
    encoder_type,
    listed,
    numbering,
    plan_conversion,
)
from .vision_models import FRAMES_OF_PICTURE_MODELS, STARTS, vision_model_type
from .weight_files import Weights, WeightsError, first_line, join, read_weights, strip_prefixes

KEPT_FILE = "kept_from_original.safetensors"
"""Beside a converted model, if needed: what the source holds and no model reads, to be given back."""


@dataclass
class ConversionReport:
    """
    What was done with every key.

    Attributes:
        source: where the weights came from.
        kind: what they are, such as "VIOLET" or "BERT".
        model_class: of the model that was made.
        used: source key -> target keys, divided by commas.
        skipped: source key -> why it is not needed.
        loaded: target key -> the source key that it was filled from.
        new: target key -> why the source does not hold it; it is freshly initialised.
        assumed: what the weights do not tell and was taken for granted.
        unlike: skipped source key that follows from others and has not the numbers that it should -> its name in the
            original.
        kept: skipped source key that a way back needs -> its name in the original, see `layouts.Kind.kept`.
        changed: source key -> how its numbers were changed beyond their shape: precision, interpolation.
    """

    source: str
    kind: str
    model_class: str
    used: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    loaded: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    unlike: dict[str, str] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As it is written into `conversion_report.json`."""
        return asdict(self)

    def summary(self) -> str:
        """A few lines for people."""
        lines = [f"{self.source} ({self.kind}) -> {self.model_class}"]
        lines.append(f"  {len(self.used)} keys used, {len(self.loaded)} of the model's loaded")
        lines += [f"  assumed: {one}" for one in self.assumed]
        for title, entries in (("skipped", self.skipped), ("new", self.new), ("changed", self.changed)):
            reasons: dict[str, list[str]] = {}
            for key, why in entries.items():
                reasons.setdefault(why, []).append(key)
            for why, keys in reasons.items():
                more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
                lines.append(f"  {title}: {keys[0]}{more}: {why}")
        return "\n".join(lines)


def from_original(
    state_dict_or_path: Mapping[str, Any] | str | os.PathLike,
    model_class: type[PreTrainedModel] | None = None,
    config: PreTrainedConfig | None = None,
) -> tuple[Any, ConversionReport]:
    """
    A model from the weights of other code: the original VIOLET and VIOLETv2, SwinBERT, Video Swin (of its authors, of
    torchvision), Swin for pictures (of its authors, of transformers; inflated in time), BERT, CLIP-ViP, and CLIP (of
    transformers), which becomes a CLIP-ViP. See `layouts` for what is known of each.

    Args:
        state_dict_or_path: a state dict, a file (safetensors, or one that torch wrote, read with `weights_only=True`),
            a folder that transformers wrote, or its name on the Hub.
        model_class: what to build; by default the class whose heads the weights hold, and for weights of a vision
            encoder only that of the encoder, such as `VioletVisionModel`.
        config: by default what the shapes tell. Positions in frame and time of another number are interpolated, as the
            model itself does with longer clips.

    Returns:
        The model in evaluation mode and float32, and the report of every source and target key.

    Raises:
        WeightsError: for a file that cannot be read, or that asks for more than tensors.
        ConversionError: if a key is unknown, missing or of a wrong shape; it names the key.
    """
    weights = read_weights(state_dict_or_path)
    plan = plan_for(weights, model_class, config)
    check_settings(plan, weights)
    tensors, report = convert_tensors(plan, weights)
    return build(plan.model_class, plan.config, tensors), report


def plan_for(
    weights: Weights,
    model_class: type[PreTrainedModel] | None,
    config: PreTrainedConfig | None,
    encoder: str | None = None,
) -> ConversionPlan:
    """
    `plan_conversion`.

    Raises:
        ConversionError: as that one does; for a model of pictures or videos that needs no conversion, what to do.
    """
    join_parts(weights, config, encoder)
    try:
        return plan_conversion(shapes_of(weights), model_class, config, weights.settings, encoder)
    except ConversionError as error:
        kind = vision_model_type(weights.settings)
        if kind is None or kind in STARTS:
            raise
        raise ConversionError(
            f"{weights.origin}: a model of type {kind!r} of transformers is not converted: it becomes a VIOLET's "
            f"encoder as it is, by `violet finetune --model {weights.origin}`, or in Python by "
            f'`violet.build_model("violet-v2-base", vision="{weights.origin}", text="bert-base-uncased")`.'
        ) from error


def join_parts(weights: Weights, config: PreTrainedConfig | None, encoder: str | None = None) -> None:
    """Puts tensors together that are one in the model of that configuration, if its kind says so."""
    stripped = strip_prefixes(list(weights.tensors))
    encoder = encoder if config is None else encoder_type(config)
    kind = find_kind({name: tuple(weights.tensors[source].shape) for name, source in stripped.items()}, encoder)
    if kind is not None and kind.joined is not None:
        join(weights.tensors, *kind.joined)


def shapes_of(weights: Weights) -> dict[str, Shape]:
    """The shape of each key."""
    return {name: tuple(value.shape) for name, value in weights.tensors.items()}


def build(
    model_class: type[PreTrainedModel],
    config: Any,
    tensors: dict[str, torch.Tensor],
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """The model with these weights, in evaluation mode and float32; the others are freshly initialised."""
    kernel = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    with quietly():
        model = model_class.from_pretrained(None, config=config, state_dict=tensors, dtype=torch.float32, **kernel)
    return model.eval()


def convert_tensors(
    plan: ConversionPlan, weights: Weights, parts: tuple[str, ...] = ("",)
) -> tuple[dict[str, torch.Tensor], ConversionReport]:
    """
    The model's tensors, in float32, and the report. What was converted is taken out of `weights`, so that no second
    copy of a large file stays in memory.

    Args:
        parts: beginnings of our names (see `layouts`) of what is to be taken; everything by default.

    Raises:
        ConversionError: for a weight that is no floating-point tensor.
    """
    report = ConversionReport(weights.origin, plan.kind.name, plan.model_class.__name__)
    if plan.kind.license is not None and isinstance(plan.config, VioletConfig):
        plan.config.weights_license = plan.kind.license
    report.skipped = {**weights.skipped, **plan.skipped}
    report.new, report.assumed = dict(plan.layout.new), list(plan.assumed)
    by_name = {name: weights.tensors[source] for name, source in plan.names.items()}
    for name, derived in plan.layout.derived.items():
        if name in by_name:
            expected, value = derived.value(by_name), by_name[name]
            if value.dtype != expected.dtype or not torch.equal(value, expected):
                report.unlike[plan.names[name]] = name
                report.skipped[plan.names[name]] = f"{derived.why}; the source holds other numbers, which are not read"
    tensors: dict[str, torch.Tensor] = {}
    uses = Counter(piece.theirs for piece in plan.layout.pieces)
    for piece in plan.layout.pieces:
        source, value = plan.names[piece.theirs], by_name[piece.theirs]
        if not value.is_floating_point() and not piece.form.whole:
            raise ConversionError(f"{source!r} holds {value.dtype}: numbers with a fraction are needed.")
        if piece.target is None:
            continue
        if not piece.ours.startswith(parts):
            report.skipped.setdefault(source, "not asked for")
            report.new[piece.target] = "not taken from this source"
            continue
        changes = [] if piece.form.whole or value.dtype == torch.float32 else [f"{value.dtype} made float32"]
        if piece.form.length is not None and piece.form.theirs(piece.shape, plan.layout.window) != value.shape:
            changes.append(f"{tuple(value.shape)} made {piece.shape}")
        value = value.detach() if piece.form.whole else value.detach().float()
        tensors[piece.target] = piece.form.ours(value, piece.shape).clone(memory_format=torch.contiguous_format)
        uses[piece.theirs] -= 1
        if not uses[piece.theirs] and source not in report.unlike:
            del by_name[piece.theirs], weights.tensors[source]
        report.used[source] = ", ".join(filter(None, [report.used.get(source), piece.target]))
        report.loaded[piece.target] = source
        if changes:
            report.changed[source] = ", ".join(changes)
    for source in report.used:
        report.skipped.pop(source, None)  # one key may be asked for in one place and not in another
    if plan.kind.kept:
        read = {piece.theirs for piece in plan.layout.pieces if piece.target is not None}
        read |= {name for name, derived in plan.layout.derived.items() if derived.of in read}
        unread = {name: source for name, source in plan.names.items() if name not in read}
        report.kept = {
            source: name
            for name, source in unread.items()
            if any(re.search(pattern, name) for pattern in plan.kind.kept)
        }
    report.loaded = dict(sorted(report.loaded.items()))
    report.new = dict(sorted(report.new.items()))
    return tensors, report


def check_settings(plan: ConversionPlan, weights: Weights) -> None:
    """
    Compares the `config.json` beside a BERT or a CLIP with the configuration, in what the weights do not tell.

    Raises:
        ConversionError: if a field differs.
    """
    if not plan.kind.told or not weights.settings:
        return
    theirs: Any = AutoConfig.for_model(**weights.settings)
    for part, side in plan.kind.told.items():
        if not any(piece.target is not None and piece.ours.startswith(part) for piece in plan.layout.pieces):
            continue
        settings, own = getattr(theirs, side, theirs), getattr(plan.config, side, plan.config)
        for name in ("num_attention_heads", "hidden_act", "layer_norm_eps"):
            told, ours = getattr(settings, name, None), getattr(own, name)
            if told is not None and told != ours:
                raise ConversionError(f"{weights.origin}: `{name}` is {told} in its config.json, and {ours} in ours.")


def export_original(
    model: VioletPreTrainedModel | str | os.PathLike, kind_name: str | None = None
) -> dict[str, torch.Tensor]:
    """
    The weights of a model under the names of the original, VIOLET's or its encoder's, and in its shapes, with what it
    keeps twice or could compute: what `violet convert` read in float32 comes back to the bit.

    Args:
        model: a model, or its folder or name on the Hub. In a folder that `violet convert` wrote, what the original
            keeps twice may lie apart (`KEPT_FILE`), if it had other numbers than it should.
        kind_name: under whose names, if several kinds are published of this system; by default the first one's.

    Raises:
        ConversionError: for a kind as which this model cannot be written, and for parts that the original does not
            have, naming them.
    """
    kept: dict[str, torch.Tensor] = {}
    if not isinstance(model, nn.Module):
        if (Path(model) / KEPT_FILE).is_file():
            kept = read_weights(Path(model) / KEPT_FILE).tensors
        model = load_model(model)
    if not isinstance(model, VioletPreTrainedModel):
        raise ConversionError(f"{type(model).__name__} is no VIOLET: the original has no form for it.")
    for target, options in (model.config.mvm_targets or {}).items():
        there = holds(model.state_dict(), f"mvm_heads.{target}.")
        if there and (options.get("shift", 0.0) != 0 or options.get("scale", 1.0) != 1):
            raise ConversionError(f"The head of {target!r} has a shift and a scale, which the original does not know.")
    vision = model.config.vision_config
    written = [kind for kind in KINDS.values() if kind.published]
    kinds = {kind.name: kind for kind in written if kind.system == vision.model_type}
    if not kinds:
        known = ", ".join(repr(system) for system in dict.fromkeys(kind.system for kind in written))
        raise ConversionError(
            f"The vision encoder is a {vision.model_type!r}, and originals are known of {known} only: there is no "
            "form in which an original's code could read this model."
        )
    if kind_name is not None and kind_name not in kinds:
        raise ConversionError(f"A {vision.model_type!r} is written as {' or '.join(kinds)}, not as {kind_name!r}.")
    numbers = numbering(type(model), model.config.to_json_string(use_diff=False))
    kind, windows = kinds[kind_name or next(iter(kinds))].fitted(numbers, numbers), numbers.windows
    pieces: dict[str, Piece] = {}
    weights: dict[str, torch.Tensor] = {}
    homeless: list[str] = []
    for target, value in model.state_dict().items():
        ours = below_the_model(type(model), target)
        theirs = kind.their_name(ours)
        if theirs is None and kind.left_out and re.search(kind.left_out, ours) and not value.any():
            continue
        if theirs is None or theirs in weights:
            homeless.append(target)
            continue
        form = kind.form(theirs)
        pieces[ours] = Piece(ours, theirs, tuple(value.shape), form, target)
        weights[theirs] = form.back(value, form.theirs(tuple(value.shape), windows[0] if windows else ()))
    if homeless:
        raise ConversionError(f"The original, {kind.name}, has no place for {listed(homeless)}.")
    for name, derived in derived_pieces(kind, pieces, windows, numbers.positions).items():
        if derived.group != POSITION_IDS or kind.position_ids:
            weights[name] = kept[name] if name in kept else derived.value(weights).clone()
    return {**kept, **weights}


def load_model(source: str | os.PathLike) -> PreTrainedModel:
    """
    The model in a folder or on the Hub, of the class that its configuration names.

    Raises:
        WeightsError: if there is no model, or it is none of this package's.
    """
    try:
        model_class = find_class((VioletConfig.from_pretrained(source).architectures or ["none"])[0])
        with quietly():
            return model_class.from_pretrained(source)
    except ConversionError:
        raise
    except (OSError, ValueError, StrictDataclassError) as error:
        raise WeightsError(f"{source}: no VIOLET model ({first_line(error)}).") from error


def find_class(name: str) -> type[PreTrainedModel]:
    """
    The model class of that name.

    Raises:
        ConversionError: for a name that is none of ours.
    """
    try:
        return MODELS.find(name)
    except ValueError as error:
        raise ConversionError(str(error)) from None


def convert(
    source: str | os.PathLike,
    output: str | os.PathLike,
    model_class: str | None = None,
    config: str | None = None,
    tokenizer: str | None = None,
    with_tokenizer: bool = True,
) -> ConversionReport:
    """
    Writes the folder `output`, whole or not at all: configuration, `model.safetensors`, processor, and a report of
    every key.

    Args:
        source: see `from_original`.
        model_class: the name of the class to build; by default the one whose heads the weights hold.
        config: a folder, a name on the Hub, or a named configuration; by default what the shapes tell.
        tokenizer: a folder or a name on the Hub; by default the one with which the weights' kind reads texts.
        with_tokenizer: whether to write one; else only the video processor.

    Raises:
        FileExistsError: if there is an `output` already.
        WeightsError: for weights, a class, a configuration or a tokenizer that cannot be had or do not fit.
    """
    if Path(output).exists():
        raise FileExistsError(f"{output} exists already: name another folder.")
    from .shards import convert_by_shards, convertible_by_shards

    if model_class is None and convertible_by_shards(source):
        wanted = None if config is None else read_configuration(config)
        return convert_by_shards(source, output, wanted, tokenizer, with_tokenizer)
    weights = read_weights(source)
    plan = plan_for(
        weights,
        None if model_class is None else find_class(model_class),
        None if config is None else read_configuration(config),
    )
    check_settings(plan, weights)
    processor: Any = frames_of(plan)
    tokenizer = tokenizer or own_tokenizer(source, plan.kind)
    if isinstance(plan.config, VioletConfig) and with_tokenizer and tokenizer is not None:
        processor = processor_of(plan, read_tokenizer(tokenizer, plan.config), processor)
    tensors, report = convert_tensors(plan, weights)
    model = build(plan.model_class, plan.config, tensors)
    with new_folder(output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        if report.unlike or report.kept:
            unread = {**report.unlike, **report.kept}
            kept = {name: weights.tensors[source].contiguous() for source, name in unread.items()}
            write_tensors(folder / KEPT_FILE, kept)
        facts = {"sha256": sha256(source)} if Path(source).is_file() else {}
        write_json(folder / CONVERSION_FILE, facts | report.to_dict())
    return report


def frames_of(plan: ConversionPlan) -> VioletVideoProcessor:
    """How the model takes its clips: as its kind does, of the size and length that its positions have."""
    vision = getattr(plan.config, "vision_config", plan.config)
    settings = dict(plan.kind.frames)
    if "size" not in settings and getattr(vision, "image_size", None) is not None:
        settings["size"] = {"height": vision.image_size, "width": vision.image_size}
        steps = find_encoder(vision).cell[0] * FRAMES_OF_PICTURE_MODELS
        settings["num_frames"] = getattr(vision, "temporal_size", None) or steps
    frames = VioletVideoProcessor(**settings)
    match_sound(frames, plan.config)
    return frames


def processor_of(
    plan: ConversionPlan, tokenizer: PreTrainedTokenizerBase, frames: VioletVideoProcessor
) -> VideoTextProcessor:
    """The processor of a model, with texts of the length that its kind has, or of the longest that has places."""
    processor = VideoTextProcessor(tokenizer, frames)
    if plan.kind.max_length is not None:
        places = getattr(plan.config.text_config, "max_position_embeddings", plan.kind.max_length)
        processor.max_length = min(plan.kind.max_length, places)
    text = plan.config.text_config
    if hasattr(text, "max_sentences"):  # a paragraph's places are counted over the padding of its sentences
        processor.max_length, processor.max_sentences = text.sentence_length, text.max_sentences
    return processor


def own_tokenizer(source: Any, kind: Kind) -> str | None:
    """The source, if it is a folder with a tokenizer; else that of its kind. None for a kind that reads no texts."""
    folder = isinstance(source, str | os.PathLike) and Path(source).is_dir()
    return os.fspath(source) if folder and (Path(source) / "tokenizer_config.json").is_file() else kind.tokenizer


def read_configuration(name: str) -> PreTrainedConfig:
    """
    A named configuration, or that of a folder or a Hub repository.

    Raises:
        WeightsError: if there is none, or it is not one of ours.
    """
    if name in NAMED_CONFIGURATIONS:
        return named_configuration(name)
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, StrictDataclassError) as error:
        known = ", ".join(NAMED_CONFIGURATIONS)
        raise WeightsError(
            f"{name}: no configuration ({first_line(error)}); a folder, a Hub name, or {known}."
        ) from error
    own_encoder = config.model_type in ENCODERS and find_encoder(config).model_class is not None
    if not isinstance(config, VioletConfig) and not own_encoder:
        raise WeightsError(f"{name}: a configuration of {config.model_type!r}, not of VIOLET.")
    return config


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """
    The tokenizer in a folder or on the Hub.

    Raises:
        WeightsError: if it cannot be had.
    """
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{name}: the tokenizer cannot be had ({first_line(error)}). Give a folder that holds one."
        ) from error


def read_tokenizer(name: str, config: VioletConfig) -> PreTrainedTokenizerBase:
    """
    The tokenizer in a folder or on the Hub; `config` is told its special tokens.

    Raises:
        WeightsError: if it cannot be had, or has another number of words than the weights.
    """
    tokenizer = load_tokenizer(name)
    if len(tokenizer) != config.vocab_size:
        raise ConversionError(
            f"{name}: the tokenizer has {len(tokenizer)} words, and the weights have {config.vocab_size}."
        )
    tokens = special_tokens(tokenizer)
    text: Any = config.text_config
    if getattr(text, "model_type", None) == "clip_text_model":
        end = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id  # 2 stands for the largest number
        if tokens.get("eos_token_id") != end:
            raise ConversionError(
                f"{name}: texts end with the token {tokens.get('eos_token_id')}, and the text tower is read at the "
                f"token {end} (`text_config.eos_token_id`): CLIP's own tokenizer is needed."
            )
    for name_of_token, token in tokens.items():
        setattr(config, name_of_token, token)
    return tokenizer


def export(
    model: str | os.PathLike, output: str | os.PathLike, kind_name: str | None = None
) -> dict[str, torch.Tensor]:
    """
    Writes what `export_original` gives into a `.pt`, `.pth` or `.safetensors` file, whole or not at all.

    Raises:
        FileExistsError: if there is an `output` already.
        WeightsError: for another kind of file, or a model that the original has no form for.
    """
    path = Path(output)
    if path.exists():
        raise FileExistsError(f"{path} exists already: name another file.")
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise WeightsError(f"{path}: a name that ends in .pt, .pth or .safetensors is needed.")
    weights = export_original(model, kind_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        write_tensors(path, {name: value.contiguous() for name, value in weights.items()}, {"format": "pt"})
    else:
        with new_file(path) as file:
            torch.save(weights, file)
    return weights

"""What a family of checkpoints calls the parts of our models, and in which form it keeps them: `Kind`."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from operator import methodcaller
from typing import Any

import torch

Shape = tuple[int, ...]

Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

SWIN: Rules = ((r"^stages\.", "layers."), (r"\.mlp\.0\.", ".mlp.fc1."), (r"\.mlp\.2\.", ".mlp.fc2."))

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

OPTIONAL = (
    *("answer_head.", "span_head.", "classifier.", "mlm_head.", "mvm_heads.", "objective_heads.", "task_tokens"),
)
"""What a source may lack altogether; if it holds some of such a part, it must hold the whole."""

BACKBONE, TEXT, FUSION = "video_encoder.swin.", "text_embeddings.", "fusion.layers."

MLM = "mlm_head."


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


def is_grid(length: int) -> bool:
    """Whether this number of positions is that of a special token and a square grid."""
    return length > 1 and math.isqrt(length - 1) ** 2 == length - 1


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
        vision_layers: blocks of a vision encoder of transformers; 0 for others.
    """

    model_class: str = ""
    depths: tuple[int, ...] = ()
    windows: tuple[Shape, ...] = ()
    merges: tuple[int, ...] = ()
    text_layers: tuple[int, ...] = ()
    positions: int = 0
    vision_layers: int = 0


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
        left_out: pattern of our names of what it does not hold and what is 0 in a model of its weights: where it still
            is 0, a model is written without it.
        assumed: what its shapes do not tell, and is taken for granted without a configuration, for the report.
        by_shards: whether its files are too large for memory: a folder is converted file by file, in the numbers that
            it has, see `shards`. Each of our tensors is one of theirs.
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
    left_out: str | None = None
    assumed: tuple[str, ...] = ()
    by_shards: bool = False

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


ANOTHER_HEAD = "a head of another task"

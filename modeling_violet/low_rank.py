"""
A clip as low-rank weights of a text model's layers (Ma et al., 2024, "Visual Perception by Large Language Model's
Weights", VLoRA): what adds them. `weight_generator.py` makes them.

Of a layer's matrix W (out x in) a row of the batch with the clip's own A gets W + B A^T: y = W x + B (A^T x). The
letters below: rows of the batch, X tokens, d the text model's width, r the rank, k the layers that get weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

KINDS = "qkvom"
"""query, key, value, output of the attention, and a branch around the whole MLP."""
NAME = "low_rank"
"""The argument by which a layer, and within it its attention, is given its `LowRankWeights`."""


@dataclass(frozen=True)
class Places:
    """
    Where the weights of a layer belong, by the names of its modules.

    Attributes:
        attention: the attention, to which the layer passes its named arguments on, before it calls its MLP.
        modules: by kind the module whose input is read, and that to whose output the product is added.
    """

    attention: str
    modules: Mapping[str, tuple[str, str]]


BERT_PLACES = Places(
    "attention",
    {
        **{"q": ("attention.query", "attention.query"), "k": ("attention.key", "attention.key")},
        **{"v": ("attention.value", "attention.value"), "o": ("attention.output", "attention.output")},
        "m": ("intermediate", "output"),
    },
)
"""Of a layer of ours."""
DECODER_PLACES = Places(
    "self_attn",
    {**{kind: (f"self_attn.{kind}_proj", f"self_attn.{kind}_proj") for kind in "qkvo"}, "m": ("mlp", "mlp")},
)
"""Of a layer of transformers' Llama and of those that are named like it."""


def add_product(states: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """
    B (A^T x) of each token's x.

    Args:
        states: (rows, X, d).
        a: (rows, d, r), each row's own.
        b: (d, r).

    Returns:
        (rows, X, d)
    """
    return (states @ a) @ b.t()


@dataclass
class LowRankWeights:
    """
    The weights that rows of a batch add to a model's layers.

    Attributes:
        types: a letter of `KINDS` for each kind.
        a: (rows, kinds, k, d, r).
        b: (kinds, k, d, r), with its factor alpha / r.
        measured: whether a pass notes how large they are beside the model's own.
        taken: the layers that took theirs in a pass.
        sizes: (rows,) of each matrix of a measured pass, ||B A^T|| / ||W||.
    """

    types: str
    a: torch.Tensor
    b: torch.Tensor
    measured: bool = False
    taken: set[int] = field(default_factory=set)
    sizes: list[torch.Tensor] = field(default_factory=list)

    def only(self, types: str) -> "LowRankWeights":
        """Those of some kinds."""
        kinds = [self.types.index(kind) for kind in types]
        return LowRankWeights(types, self.a[:, kinds], self.b[kinds])

    def select(self, index: torch.Tensor) -> "LowRankWeights":
        """The rows of that index, in its order."""
        return LowRankWeights(self.types, self.a[index], self.b)

    def matrices(self) -> torch.Tensor:
        """(rows, kinds, k, d, d), B A^T."""
        return self.b @ self.a.transpose(-1, -2)

    def measures(self) -> dict[str, torch.Tensor]:
        """
        After a measured pass: `low_rank_size` (), the mean of ||B A^T|| / ||W|| over rows, layers and q, k, v, o ("m"
        stands beside an MLP, which is no matrix).
        """
        return {"low_rank_size": torch.cat(self.sizes).mean()} if self.sizes else {}


@torch.no_grad()
def product_norms(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(rows,), the Frobenius norms of B A^T, without making it: |B A^T|^2 = tr((A^T A) (B^T B))."""
    a, b = a.float(), b.float()
    inner = (a.transpose(-1, -2) @ a) * (b.t() @ b)
    return inner.sum((-1, -2)).clamp(min=0).sqrt()


class _LayerHooks:
    """
    A layer's side: it takes its weights from its attention's argument `NAME`, and its modules' hooks read them. An
    argument of what the layer calls, so that a layer that is computed again for its gradients (gradient checkpointing)
    gets the same.
    """

    def __init__(self, number: int, place: int | None):
        self.number = number
        self.place = place  # among the k, or None for a layer without weights
        self.weights: LowRankWeights | None = None
        self.read: dict[str, torch.Tensor] = {}

    def begin(self, attention: nn.Module, inputs: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        kwargs = dict(kwargs)
        self.read.clear()
        self.weights = kwargs.pop(NAME, None)
        if self.weights is not None and self.place is not None:
            self.weights.taken.add(self.number)
        return inputs, kwargs

    def end(self, layer: nn.Module, inputs: tuple, output: Any) -> None:
        self.weights = None
        self.read.clear()


class _Reader:
    """The hook of a module whose input is read: keeps it for the `_Writer` of the same kind."""

    def __init__(self, layer: _LayerHooks, kind: str):
        self.layer, self.kind = layer, kind

    def __call__(self, module: nn.Module, inputs: tuple) -> None:
        if self.layer.weights is not None and self.kind in self.layer.weights.types:
            self.layer.read[self.kind] = inputs[0]


class _Writer:
    """The hook of a module to whose output the product is added."""

    def __init__(self, layer: _LayerHooks, kind: str):
        self.layer, self.kind = layer, kind

    def __call__(self, module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        weights, place = self.layer.weights, self.layer.place
        if weights is None or place is None or self.kind not in weights.types:
            return output
        kind = weights.types.index(self.kind)
        a, b = weights.a[:, kind, place].to(output), weights.b[kind, place].to(output)
        if weights.measured and self.kind != "m":
            own: Any = module.weight
            weights.sizes.append(product_norms(a, b) / own.detach().float().norm())
        return output + add_product(self.layer.read.pop(self.kind), a, b)


def weighted_layers(num_layers: int, skip: int) -> range:
    """The numbers of the layers that get weights: every `skip`-th, the last one among them."""
    return range(skip - 1, num_layers, skip)


class LowRankLayers:
    """
    The layers of a text model, able to take `LowRankWeights` by their argument `NAME`. The model itself keeps its
    classes, weights and names: all is done by hooks.

    Args:
        layers: all of them, the first one first; each passes its named arguments on to its attention.
        skip: every `skip`-th layer gets weights.
        types: the kinds of weights, of `KINDS`.
        width: d, of all matrices that get weights.
        places: the names of the modules in a layer.
        field: how the configuration calls `types`, for messages.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        skip: int,
        types: str,
        width: int,
        places: Places,
        field: str = "fusion_model_config.types",
    ):
        self.layers, self.types, self.places = layers, types, places
        self.numbers = weighted_layers(len(layers), skip)
        for number, layer in enumerate(layers):
            place = self.numbers.index(number) if number in self.numbers else None
            hooks = _LayerHooks(number, place)
            attention = self._module(layer, number, places.attention, types[0], field)
            attention.register_forward_pre_hook(hooks.begin, with_kwargs=True)
            layer.register_forward_hook(hooks.end, always_call=True)
            if place is None:
                continue
            for kind in types:
                read, written = (self._module(layer, number, name, kind, field) for name in places.modules[kind])
                if kind != "m":
                    _require_square(written, width, number, kind, field)
                read.register_forward_pre_hook(_Reader(hooks, kind))
                written.register_forward_hook(_Writer(hooks, kind))

    @staticmethod
    def _module(layer: nn.Module, number: int, name: str, kind: str, field: str) -> nn.Module:
        try:
            return layer.get_submodule(name)
        except AttributeError as error:
            raise ValueError(
                f"`{field}` has the kind {kind!r}, and layer {number} ({type(layer).__name__}) has no module {name!r} "
                "that could take its weights: leave the letter out, or use a model that is named like Llama."
            ) from error

    def linear(self, number: int, kind: str) -> nn.Linear:
        """The linear layer of a kind (not "m") in a layer."""
        module: Any = self.layers[number].get_submodule(self.places.modules[kind][1])
        return getattr(module, "base_layer", module)  # LoRA of the model itself keeps it there

    @contextmanager
    def merged(self, weights: LowRankWeights) -> Iterator[LowRankWeights]:
        """
        Within it the matrices of q, k, v and o are W + B A^T of one clip, in copies: many or long texts about the clip
        then cost what they cost without it. It gives what is left to add, "m", which no matrix of an MLP can hold.
        Worth it beyond about d / 2 tokens.

        Args:
            weights: of one row.

        Raises:
            ValueError: for weights of several rows.
        """
        if len(weights.a) != 1:
            raise ValueError(
                f"Weights of one video can be merged into those of the model, and these are of {len(weights.a)}: "
                "merge one video at a time, or leave the weights apart."
            )
        kinds = "".join(kind for kind in weights.types if kind != "m")
        kept: list[tuple[nn.Linear, Any]] = []
        with torch.no_grad():
            changes = weights.only(kinds).matrices()[0]
            for i, kind in enumerate(kinds):
                for place, number in enumerate(self.numbers):
                    linear = self.linear(number, kind)
                    kept.append((linear, linear.weight))
                    changed = linear.weight + changes[i, place].to(linear.weight.dtype)
                    linear.weight = nn.Parameter(changed, requires_grad=False)
        try:
            yield weights.only("".join(kind for kind in weights.types if kind == "m"))
        finally:
            for linear, weight in kept:
                linear.weight = weight


def _require_square(module: nn.Module, width: int, number: int, kind: str, field: str) -> None:
    weight: Any = getattr(module, "weight", None)
    if isinstance(module, nn.Linear) and tuple(weight.shape) == (width, width):
        return
    shape = "no linear layer" if weight is None else f"{type(module).__name__} {tuple(weight.shape)}"
    raise ValueError(
        f"`{field}` has the kind {kind!r}, whose weights are {width} x {width} (`hidden_size`), and layer {number} "
        f"has {shape} there. Grouped keys and values (`num_key_value_heads` below `num_attention_heads`) and heads "
        "wider than their share take none: leave the letter out, or use another model."
    )

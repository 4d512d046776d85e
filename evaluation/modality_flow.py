"""
Inter-modality flow (IMF; the idea: Xue et al., 2021, arXiv:2106.13488; these formulas are our own, theirs are not
published): how much of what a fusion's text tokens are made of came from the video, and the reverse.

Letters: B pairs, L tokens, n_v and n_t counted tokens of video and text, n their sum, K layers.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..core.clip_inputs import take_clip_inputs
from ..modeling_violet.attention import RULES
from ..modeling_violet.fusions import Fusion
from ..modeling_violet.fusions.bert_fusion import record_fusion_attention
from ..modeling_violet.losses import IGNORE_INDEX
from ..modeling_violet.tokens import Tokens

DIRECTIONS = ("text_from_video", "video_from_text")
ROWS = ("words", "cls", "patches")
"""Tokens whose flow can be asked for by name: hidden words, the first token behind the video, hidden patches."""


class ModalityFlow:
    """
    The flow of one pass, to which each layer's attention is added, the first layer first.

    A layer mixes the tokens by R = (1 - residual) Â + residual I, where Â is its attention: mean over heads, without
    the rows and columns of tokens that are not counted, each row scaled to 1. The share of a token at the end in a
    token at the start is its entry in the product of all R (attention rollout: Abnar and Zuidema, 2020,
    arXiv:2005.00928). Float32, with one (L, L) product in memory.

    It shows where states may come from; that a model uses them, only a loss can show.

    Attributes:
        both_ways: whether the rule of attention lets video tokens see text. Where it does not, the flow from text to
            video is 0 by construction, and there is no mean of the two.
        patches: (L,), True for the video's patches, in a pass that was recorded.
        behind_video: the place of the first token behind the video, which the answer and match heads read.
        layers: of each layer by itself and without the residual part, by direction, (B,) over its value for uniform
            attention.

    Args:
        video, text: (B, L), True for the tokens that count as one or the other; none as both.
        residual: the share of the residual connection, in [0, 1).
        both_ways: see above.

    Raises:
        ValueError: for another residual; for a pair in which no token counts as video, or none as text.
    """

    def __init__(self, video: torch.Tensor, text: torch.Tensor, residual: float = 0.5, both_ways: bool = True):
        if not 0 <= residual < 1:
            raise ValueError(f"`residual`: must lie in [0, 1), got {residual}.")
        if video.shape != text.shape or (video & text).any():
            raise ValueError("`video` and `text` must be masks of one shape (B, L) with no token in both.")
        for name, mask in (("video", video), ("text", text)):
            empty = (mask.sum(1) == 0).nonzero()
            if len(empty):
                raise ValueError(
                    f"Pair {int(empty[0])} has no {name} token that counts: there is no flow between modalities. With "
                    "`special_tokens=False` a text needs words beside [CLS] and [SEP]."
                )
        self.video, self.text = video, text
        self.residual = residual
        self.both_ways = both_ways
        self.patches: torch.Tensor | None = None
        self.behind_video: int | None = None
        self.layers: dict[str, list[torch.Tensor]] = {direction: [] for direction in DIRECTIONS}
        self._product: torch.Tensor | None = None

    def add(self, weights: torch.Tensor) -> None:
        """
        The next layer's attention, (B, heads, L, L), rows = queries.

        Raises:
            ValueError: for attention of other tokens than those of the masks.
        """
        (pairs, length), counted = self.video.shape, self.video | self.text
        if weights.shape[0] != pairs or weights.shape[2:] != (length, length):
            raise ValueError(
                f"A layer's attention is {tuple(weights.shape)} (pairs, heads, tokens, tokens) for {pairs} pairs of "
                f"{length} tokens: the flow is that of a fusion that holds the whole video and the text in one "
                "sequence, without a cache (not the fusion 'clip_by_clip')."
            )
        between = weights.detach().float().mean(1) * (counted[:, :, None] & counted[:, None, :])
        between = between / between.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        for direction, mass, share in self._masses(between):
            self.layers[direction].append(mass / share)
        step = (1 - self.residual) * between
        step.diagonal(dim1=1, dim2=2).add_(self.residual)
        self._product = step if self._product is None else step @ self._product

    def _masses(self, product: torch.Tensor) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Of each direction: its name, the mean over its rows of the mass on its columns, and the columns' share."""
        for direction, rows, columns in zip(DIRECTIONS, (self.text, self.video), (self.video, self.text), strict=True):
            yield direction, mean_mass(product, rows, columns), self._share(columns)

    def _share(self, columns: torch.Tensor) -> torch.Tensor:
        """(B,), which part of the counted tokens these are."""
        return columns.sum(1) / (self.video | self.text).sum(1)

    @property
    def depth(self) -> int:
        return len(self.layers[DIRECTIONS[0]])

    @property
    def product(self) -> torch.Tensor:
        """(B, L, L): the share of each token at the start (column) in each at the end (row)."""
        if self._product is None:
            raise ValueError("No layer's attention was added yet: there was no pass through the fusion.")
        return self._product

    def values(self) -> dict[str, torch.Tensor]:
        """
        Of each pair, (B,): `text_from_video`, `video_from_text`, each in [0, 1]; both `…_corrected`, divided by the
        value of uniform attention of that depth and those sizes, which clips of different lengths share: 1 is as much
        as uniform attention; and, if tokens see one another both ways, `imf` and `imf_corrected`, the means.
        """
        found, corrected = {}, {}
        for direction, mass, share in self._masses(self.product):
            found[direction] = mass
            corrected[f"{direction}_corrected"] = mass / self._uniform(share)
        if self.both_ways:
            found["imf"] = torch.stack(list(found.values())).mean(0)
            corrected["imf_corrected"] = torch.stack(list(corrected.values())).mean(0)
        return found | corrected

    def imf(self, corrected: bool = True) -> torch.Tensor:
        """
        (B,), the mean of both directions.

        Raises:
            ValueError: for a rule of attention under which video sees no text: one of the two is 0 by construction.
        """
        if not self.both_ways:
            raise ValueError(
                "`imf` is no number for a rule of attention under which the video sees no text (such as "
                "'sequence_to_sequence'): video_from_text is 0 by construction. Read `text_from_video`."
            )
        return self.values()["imf_corrected" if corrected else "imf"]

    def into(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        The flow into some tokens only, such as hidden words, [CLS], or hidden patches: this tells models apart best.

        Args:
            rows: (B, L), True for these tokens, which must count.

        Returns:
            (B,) each: `from_video` and `from_text`, in [0, 1], and both `…_corrected` as `values` has them. NaN for a
            pair without such a token.

        Raises:
            ValueError: for a token that does not count.
        """
        if (rows & ~(self.video | self.text)).any():
            raise ValueError("`rows` holds tokens that do not count as video or text: padding or special tokens.")
        found: dict[str, torch.Tensor] = {}
        for name, columns in (("from_video", self.video), ("from_text", self.text)):
            mass = mean_mass(self.product, rows, columns)
            found |= {name: mass, f"{name}_corrected": mass / self._uniform(self._share(columns))}
        return found

    def _uniform(self, share: torch.Tensor) -> torch.Tensor:
        return (1 - self.residual**self.depth) * share

    def sources(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, L), the share of each token at the start in the mean of these tokens (B, L) at the end."""
        return (self.product * rows.unsqueeze(-1)).sum(1) / rows.sum(1, keepdim=True)


def mean_mass(product: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The mean over those rows of the sum over those columns: (B, L, L), (B, L), (B, L) -> (B,)"""
    mass = (product * columns.unsqueeze(1)).sum(-1)
    return (mass * rows).sum(1) / rows.sum(1)


def patch_places(video: Tokens) -> torch.Tensor:
    """(L_v,), True where a video's token is a patch, and no special one."""
    length = video.tokens.shape[1]
    numbers = torch.arange(length, device=video.mask.device)
    # (L_v,) -> (1, L_v, 1) -> (1, steps, rows, columns, 1)
    patches = replace(video, tokens=numbers.view(1, -1, 1)).patches().flatten()
    return torch.isin(numbers, patches)


def masks_of_groups(
    groups: Mapping[str, Tokens], special_tokens: bool = True, special_words: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Which tokens of a fusion's groups count as video and as text, (B, L) each. Padding never does; a prompt is text.

    Args:
        special_tokens: whether [CLS], [SEP] and the special tokens of frames and clips count, as their modality.
        special_words: (B, X), True for [CLS] and [SEP], needed without them; a text side's own tokens in front of the
            words are special too.

    Raises:
        ValueError: for groups without video or text.
    """
    missing = [name for name in ("video", "text") if name not in groups]
    if missing:
        raise ValueError(
            f"This fusion's pass holds no {missing[0]}, only {', '.join(groups)}: there is no flow between modalities "
            "within it."
        )
    counted = {name: group.mask.bool() for name, group in groups.items()}
    if not special_tokens:
        if special_words is None:
            raise ValueError("`special_tokens=False` needs `special_words`, which of a text's tokens are special.")
        counted["video"] = counted["video"] & patch_places(groups["video"])
        in_front = counted["text"].shape[1] - special_words.shape[1]
        counted["text"] = counted["text"] & ~nn.functional.pad(special_words, (in_front, 0), value=True)
    is_video = torch.cat([torch.full_like(mask, name == "video") for name, mask in counted.items()], dim=1)
    every = torch.cat(list(counted.values()), dim=1)
    return every & is_video, every & ~is_video


@contextmanager
def record_modality_flow(
    model: nn.Module,
    residual: float = 0.5,
    special_tokens: bool = True,
    special_words: torch.Tensor | None = None,
    pass_over_empty: bool = False,
) -> Iterator[list[ModalityFlow]]:
    """
    Within it, each pass through a fusion adds its `ModalityFlow` to the list. No gradient, plain attention steps, and
    one layer's weights in memory at a time. Put the model into evaluation mode: dropout is no part of the flow.

    Args:
        model: a model with a fusion, or the fusion itself.
        residual, special_tokens, special_words: see `ModalityFlow` and `masks_of_groups`.
        pass_over_empty: leave pairs without a text out, such as options that a question does not have, instead of
            refusing them.

    Raises:
        ValueError: for a model without a fusion; for a fusion of other layers than BERT's, or one that does not hold
            video and text in one sequence.
    """
    fusion = next((module for module in model.modules() if isinstance(module, Fusion)), None)
    if fusion is None:
        raise ValueError(f"{type(model).__name__}: there is no fusion (`fusion_model_config`) to record the flow of.")
    passes: list[ModalityFlow] = []
    kept: list[Any] = [slice(None)]
    signature = inspect.signature(fusion.forward)

    def begin(module: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        given = signature.bind(*arguments, **named).arguments
        video, text = masks_of_groups(given["groups"], special_tokens, special_words)
        both_ways = RULES.find(given.get("rule", "bidirectional")).allowed is None
        kept[0] = text.any(1) if pass_over_empty else slice(None)
        flow = ModalityFlow(video[kept[0]], text[kept[0]], residual, both_ways)
        tokens = given["groups"]["video"]
        flow.behind_video = tokens.tokens.shape[1]
        flow.patches = nn.functional.pad(patch_places(tokens), (0, video.shape[1] - flow.behind_video))
        passes.append(flow)

    hook = fusion.register_forward_pre_hook(begin, with_kwargs=True)
    try:
        with record_fusion_attention(fusion, lambda weights: passes[-1].add(weights[kept[0]])), torch.no_grad():
            yield passes
    finally:
        hook.remove()


def named_rows(
    flow: ModalityFlow, name: str, labels: torch.Tensor | None = None, masked: torch.Tensor | None = None
) -> torch.Tensor:
    """
    (B, L), the tokens of one of `ROWS` in a pass that was recorded.

    Args:
        labels: (B, X), −100 where no word is hidden.
        masked: (B, steps, rows, columns), True where a patch is hidden.

    Raises:
        ValueError: for another name, or if nothing says what is hidden.
    """
    if name not in ROWS:
        raise ValueError(f"`rows` {name!r} is unknown; use {', '.join(ROWS)}.")
    rows = torch.zeros_like(flow.text)
    if name == "cls":
        rows[:, flow.behind_video] = True
        return rows
    hidden = labels if name == "words" else masked
    if hidden is None:
        raise ValueError(f"`rows` {name!r}: no {name} are hidden in this pass.")
    if name == "words":
        rows[:, -hidden.shape[1] :] = hidden != IGNORE_INDEX
    else:
        assert flow.patches is not None  # a pass that was recorded has them
        rows[:, flow.patches] = hidden.flatten(1).bool()
    return rows


def into_rows(flow: ModalityFlow, name: str, rows: torch.Tensor) -> torch.Tensor:
    """(B,), the corrected flow from the other modality into rows of `named_rows`."""
    return flow.into(rows)["from_text_corrected" if name == "patches" else "from_video_corrected"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it a model is in evaluation mode; behind it, in the mode that it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def other_text(words: torch.Tensor) -> torch.Tensor | None:
    """
    Another row's text for each video, (B,): all moved on by as many rows as leave the fewest with the words that they
    had. None if each has only its own words to be given.

    Args:
        words: (B, X), unmasked.
    """
    same = (words[:, None] == words).all(-1)
    places = torch.arange(len(words), device=words.device)
    moves = [(places + shift) % len(words) for shift in range(1, len(words))]
    kept = [int(same[places, move].sum()) for move in moves]
    return moves[kept.index(min(kept))] if moves and min(kept) < len(words) else None


def batch_flow(model: Any, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """
    Numbers () of a pre-training batch for a log: the corrected flow `flow_text_from_video` and `flow_video_from_text`,
    and into what is hidden, `flow_words_from_video` and `flow_patches_from_text`; and beside it what shows the use of
    the other modality: each loss of hidden words or patches in evaluation mode, `flow_mlm_own`, and with another row's
    text beside each video, `flow_mlm_shuffled`. Empty if no video is fused with its text.

    Args:
        model: a `VioletForPreTraining`.
        inputs: the arguments of its `forward`, with `objectives`.
    """
    with evaluating(model), record_modality_flow(model) as passes:
        output = model(**inputs)
    if not passes:
        return {}
    found = fused_numbers(passes[0], len(inputs["input_ids"]))
    labels, masked = inputs.get("labels"), output.bool_masked_pos
    masked = inputs.get("bool_masked_pos") if masked is None else masked
    for name, hidden in (("words", labels), ("patches", masked)):
        if hidden is not None:
            rows = named_rows(passes[0], name, *(one_each(passes[0], one) for one in (labels, masked)))
            into = into_rows(passes[0], name, rows)[: len(hidden)]
            source = "from_text" if name == "patches" else "from_video"
            if not into.isnan().all():
                found[f"flow_{name}_{source}"] = into.nanmean()
    reading = {
        name: 1.0
        for name in inputs["objectives"]
        if {"labels", "bool_masked_pos"} & set(model.objectives[name].needs)
        and "negative_index" not in model.objectives[name].needs
    }
    words = inputs["input_ids"] if labels is None else torch.where(labels >= 0, labels, inputs["input_ids"])
    partner = other_text(words)
    if not reading or partner is None:
        return found
    texts = {name: inputs[name][partner] for name in TEXT_INPUTS if inputs.get(name) is not None}
    with evaluating(model), torch.no_grad():
        shuffled = model(**{**inputs, **texts, "objectives": reading})
    for name in reading:
        found |= {f"flow_{name}_own": output.losses[name], f"flow_{name}_shuffled": shuffled.losses[name]}
    return found


TEXT_INPUTS = ("input_ids", "attention_mask", "labels")


def one_each(flow: ModalityFlow, given: torch.Tensor | None) -> torch.Tensor | None:
    """Rows of a batch for all pairs of a pass, which begins with a pair each: others have nothing hidden."""
    if given is None or len(given) == len(flow.text):
        return given
    none = torch.full_like(given[:1], IGNORE_INDEX if given.dtype != torch.bool else 0)
    return torch.cat([given, none.expand(len(flow.text) - len(given), *none.shape[1:])])


def fused_numbers(flow: ModalityFlow, pairs: int) -> dict[str, torch.Tensor]:
    """The means () over the first pairs of a pass of the corrected flow in both directions, for a log."""
    values = flow.values()
    return {f"flow_{direction}": values[f"{direction}_corrected"][:pairs].mean() for direction in DIRECTIONS}


def task_flow(model: Any, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """
    As `batch_flow`, of a fine-tuning batch: the flow in its first pass through the fusion, the loss of the answers in
    evaluation mode (`flow_loss_own`), and with the next video in place of each text's own (`flow_loss_shuffled`).

    Args:
        model: of a task, with `violet`.
        inputs: the arguments of its `forward`, with labels.
    """
    inputs = {name: value for name, value in inputs.items() if not name.startswith("caption_")}
    with evaluating(model), record_modality_flow(model, pass_over_empty=True) as passes:
        output = model(**inputs)
    if not passes:
        return {}
    found = fused_numbers(passes[0], len(passes[0].text))
    pixels = take_clip_inputs(dict(inputs))
    videos = len(next(iter(pixels.values())))
    if output.loss is None or videos < 2:
        return found
    index = inputs.get("video_index")
    moved = {name: one.roll(1, 0) for name, one in pixels.items()} if index is None else {}
    moved |= {} if index is None else {"video_index": (index + 1) % videos}
    with evaluating(model), torch.no_grad():
        shuffled = model(**{**inputs, **moved})
    return found | {"flow_loss_own": output.loss, "flow_loss_shuffled": shuffled.loss}

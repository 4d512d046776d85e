"""
Experts in the place of a layer's MLP: several MLPs, of which each token passes a few, so that there are more
parameters at the same cost a token.

Letters in this file: B batch, L tokens of a row, G groups of S tokens, E experts, C places of an expert in a group,
D width, F width inside an expert, K experts of a token.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from .losses import at_least_float32
from .offloading import read_weights

CHOICES, GROUPS = ("experts", "tokens"), ("sample", "batch")
MEASURES = "experts_"
"""How the names of what is measured of experts begin."""


@dataclass(frozen=True)
class ExpertOptions:
    """
    What a configuration's `experts` may say.

    Attributes:
        number: experts of a layer, E.
        layers: how many layers have experts, the last ones.
        choice: `experts`: each expert takes the C tokens of a group that its router gives the highest probabilities
            (expert choice: Zhou et al., 2022, arXiv:2202.09368; as IMP has it: Akbari et al., 2023, arXiv:2305.06324);
            which experts a token passes then depends on the tokens behind it, so that no causal rule is served.
            `tokens`: each token takes `top_k` experts (Switch: Fedus et al., 2021, arXiv:2101.03961; two: Lepikhin et
            al., 2020, arXiv:2006.16668), which causal rules allow.
        capacity_factor: C is that many times S / E (times K where tokens choose), rounded, halves to even, and at
            least 1. Where tokens choose, it limits training only: an answer drops no token.
        top_k: experts of a token, 1 or 2, where tokens choose.
        groups: who competes for places in training: the tokens of a `sample`, or of the `batch`. In evaluation always
            those of a sample: an answer does not depend on its batch.
        group_size: the most tokens of a group of a batch.
        z_loss_weight: of the mean of (logsumexp of the router's logits)², which keeps them small (Zoph et al., 2022,
            arXiv:2202.08906). 1.0 as IMP's code adds it.
        balance_loss_weight: of Switch's balance loss, where tokens choose.
        bfloat16: round the experts' inputs, outputs and gates to bfloat16, as IMP's code does.
        as_published: with all that IMP's code does and an answer should not: groups of a batch in evaluation too, as
            many of them as experts divide, padding that takes places, and no place at all where C rounds to 0.
    """

    number: int = 4
    layers: int = 6
    choice: str = "experts"
    capacity_factor: float = 1.0
    top_k: int = 1
    groups: str = "sample"
    group_size: int = 2048
    z_loss_weight: float = 0.001
    balance_loss_weight: float = 0.01
    bfloat16: bool = False
    as_published: bool = False

    @staticmethod
    def of(given: Mapping[str, Any], key: str) -> "ExpertOptions":
        """
        The options that a configuration names under `key`.

        Raises:
            ValueError: for an unknown one, or values that cannot be, naming them.
        """
        known = [option.name for option in fields(ExpertOptions)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(f"`{key}` has no option {', '.join(unknown)}; it has {', '.join(known)}.")
        options = ExpertOptions(**given)
        problem = options.problem()
        if problem is not None:
            raise ValueError(f"`{key}`: {problem}")
        return options

    def problem(self) -> str | None:
        """What is wrong, in words; None if nothing is."""
        for name in ("number", "layers", "group_size"):
            if getattr(self, name) < 1:
                return f"`{name}` must be 1 or more, got {getattr(self, name)}."
        for name, known in (("choice", CHOICES), ("groups", GROUPS)):
            if getattr(self, name) not in known:
                return f"`{name}` {getattr(self, name)!r} is unknown; use {' or '.join(known)}."
        if not 0 < self.capacity_factor <= self.number:
            return (
                f"`capacity_factor` {self.capacity_factor} must lie above 0 and be at most `number` {self.number}: an "
                "expert has no more places in a group than the group has tokens."
            )
        if self.number == 1 and self.capacity_factor != 1 and not self.as_published:
            return (
                f"`capacity_factor` {self.capacity_factor} with `number` 1: the one expert would drop tokens; set it "
                "to 1, or take more experts."
            )
        if self.top_k not in (1, 2) or self.top_k > self.number:
            return f"`top_k` must be 1 or 2, and at most `number` {self.number}, got {self.top_k}."
        if self.choice == "tokens" and self.as_published:
            return "`as_published` is of `choice` 'experts': no tokens choose in IMP's code."
        if min(self.z_loss_weight, self.balance_loss_weight) < 0:
            return (
                f"`z_loss_weight` {self.z_loss_weight} and `balance_loss_weight` {self.balance_loss_weight} must be 0 "
                "or more."
            )
        return None

    def holds(self, layer: int, depth: int) -> bool:
        """Whether that layer, from 0, of this depth has experts."""
        return layer >= depth - self.layers

    def capacity(self, tokens: int) -> int:
        """Places of an expert in a group of that many tokens, C."""
        each = self.top_k if self.choice == "tokens" else 1
        places = round(self.capacity_factor * each * tokens / self.number)
        return 0 if not tokens else max(places, 0 if self.as_published else 1)


def published_groups(tokens: int, most: int, experts: int) -> int:
    """Into how many groups IMP's code cuts that many tokens: a divisor, and, if there is one, a multiple of E."""
    groups = max(tokens // most, experts)
    while groups < tokens and (tokens % groups or groups % experts):
        groups += 1
    return min(groups, tokens)


@lru_cache(maxsize=64)
def capacities(options: ExpertOptions, size: int) -> tuple[int, ...]:
    """C for groups of 0, 1, …, `size` tokens."""
    return tuple(options.capacity(tokens) for tokens in range(size + 1))


@dataclass
class ExpertChoice:
    """
    Which tokens of each group the experts take.

    Attributes:
        logits: (G, S, E), the router's, in float32.
        tokens: (G, E, C), numbers of tokens in their group, the most probable first, ties to the earlier one.
        gates: (G, E, C), what each expert's output is multiplied by; 0 for a place that nobody has.
        filled: (G, E, C), False for such a place.
    """

    logits: torch.Tensor
    tokens: torch.Tensor
    gates: torch.Tensor
    filled: torch.Tensor

    def times_taken(self) -> torch.Tensor:
        """(G, S), how many experts took each token."""
        zeros = torch.zeros(self.logits.shape[:2], device=self.logits.device)
        return zeros.scatter_add(1, self.tokens.flatten(1), self.filled.flatten(1).float())


@dataclass
class ExpertReport:
    """
    What one pass through a layer of experts was like. Numbers are (), of its real tokens.

    Attributes:
        experts: the layer.
        tokens: how many.
        z_loss, balance_loss: before their weights; the second is None if experts choose.
        left_behind: the share of tokens that no expert took, or that were dropped: only their residual passes.
        confidence: the mean gate of the places that were filled.
        capacity: the mean over groups of the places that an expert has; of tokens, where nothing is limited.
        load: (E,), the tokens that each expert took, over their mean: 1 is as many as the others.
        say: (E,), the sum of its gates, over the mean: 0 is an expert that says nothing.
        taken: (B, L, E), which expert took which token, if the record asks for it.
        real: (B, L), which tokens are no padding, if it does.
    """

    experts: "VioletExperts"
    tokens: torch.Tensor
    z_loss: torch.Tensor
    balance_loss: torch.Tensor | None
    left_behind: torch.Tensor
    confidence: torch.Tensor
    capacity: torch.Tensor
    load: torch.Tensor
    say: torch.Tensor
    taken: torch.Tensor | None = None
    real: torch.Tensor | None = None

    def loss(self) -> torch.Tensor:
        """What this pass adds to a loss."""
        options = self.experts.options
        loss = options.z_loss_weight * self.z_loss
        return loss if self.balance_loss is None else loss + options.balance_loss_weight * self.balance_loss


class VioletExperts(nn.Module):
    """
    E MLPs without biases and a router that says which tokens pass which of them: y = Σ over a token's experts of
    gate · MLP(x). A token that no expert took gets 0.

    Args:
        options: see `ExpertOptions`.
        width: of the states, D.
        inner: inside an expert, F.
        activation: its name, of transformers' `ACT2FN`.
        std: of the weights at the start; by default 1 / √(the width of what they multiply).
    """

    def __init__(self, options: ExpertOptions, width: int, inner: int, activation: str, std: float | None = None):
        super().__init__()
        self.options = options
        self.activation = ACT2FN[activation]
        self.std = std
        self.router = nn.Linear(width, options.number, bias=False)
        self.inner = nn.Parameter(torch.empty(options.number, width, inner))
        self.outer = nn.Parameter(torch.empty(options.number, inner, width))

    def start_weights(self) -> None:
        """Draws the experts' weights; the router is a linear layer like others."""
        for weight in self.matrices():
            init.trunc_normal_(weight, std=weight.shape[1] ** -0.5 if self.std is None else self.std)

    def matrices(self) -> list[nn.Parameter]:
        """Parameters that are weights of linear layers, though no `nn.Linear` holds them: they decay."""
        return [self.inner, self.outer]

    def forward(self, x: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            x: (B, L, D).
            real: (B, L), 1 for a token and 0 for padding, which no expert takes; all 1 if it is not given.

        Returns:
            (B, L, D)
        """
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if real is not None and not self.options.as_published:
            mask = real.bool()
        if self.options.choice == "tokens":
            return self._tokens_choose(x, mask)
        grouped, real_of = self.group(x, mask)
        choice = self.choose(grouped, real_of)
        output = self.apply_choice(grouped, choice)
        self._report_choice(choice, real_of, x.shape[:2])
        return self._ungroup(output, x.shape)

    def group(self, x: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L, D) and (B, L) -> groups (G, S, D) and (G, S), the last one filled up with what is not real."""
        options = self.options
        if options.groups == "sample" or not (self.training or options.as_published):
            return x, real
        tokens = x.shape[0] * x.shape[1]
        if options.as_published:
            groups = published_groups(tokens, options.group_size, options.number)
        else:
            groups = math.ceil(tokens / options.group_size)
        size = math.ceil(tokens / groups)
        missing = groups * size - tokens
        # (B, L, D) -> (B * L, D) -> (G, S, D)
        flat = nn.functional.pad(x.flatten(0, 1), (0, 0, 0, missing))
        return flat.unflatten(0, (groups, size)), nn.functional.pad(real.flatten(), (0, missing)).view(groups, size)

    def _ungroup(self, grouped: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """(G, S, …) -> (B, L, …)"""
        batch, length = shape[:2]
        return grouped.flatten(0, 1)[: batch * length].unflatten(0, (batch, length))

    def route(self, x: torch.Tensor) -> torch.Tensor:
        """(…, D) -> logits (…, E), computed in float32 whatever the model's type."""
        kind = x.device.type if torch.amp.is_autocast_available(x.device.type) else "cpu"  # "meta" has none
        with torch.autocast(kind, enabled=False):
            weight = read_weights(self.router, lambda: self.router.weight)
            return at_least_float32(x) @ weight.to(at_least_float32(x).dtype).t()

    def choose(self, x: torch.Tensor, real: torch.Tensor) -> ExpertChoice:
        """Groups (G, S, D), and which of their tokens are real (G, S) -> what each expert takes."""
        size = x.shape[1]
        logits = self.route(x)
        # (G, S, E) -> (G, E, S)
        wanted = logits.softmax(-1).transpose(1, 2).masked_fill(~real.unsqueeze(1), -1.0)
        ranked, order = wanted.sort(dim=-1, descending=True, stable=True)  # ties: the earlier token
        places = self.options.capacity(size)
        limits = torch.tensor(capacities(self.options, size), device=x.device)[real.sum(1)]  # (G,)
        filled = torch.arange(places, device=x.device) < limits[:, None, None]
        filled = filled.expand(-1, self.options.number, -1)
        gates = torch.where(filled, ranked[..., :places], 0.0)
        return ExpertChoice(logits, order[..., :places], gates, filled)

    def apply_choice(self, x: torch.Tensor, choice: ExpertChoice) -> torch.Tensor:
        """Groups (G, S, D) -> Σ of gate · MLP over the experts that took a token, (G, S, D)."""
        groups, experts, places = choice.tokens.shape
        at = choice.tokens.flatten(1).unsqueeze(-1).expand(-1, -1, x.shape[-1])  # (G, E * C, D)
        # (G, S, D) -> (G, E * C, D) -> (G, E, C, D) -> (E, G, C, D) -> (E, G * C, D)
        taken = x.gather(1, at).unflatten(1, (experts, places)).transpose(0, 1).flatten(1, 2)
        found = self._round(self._mlp(self._round(taken)))
        # (E, G * C, D) -> (E, G, C, D) -> (G, E * C, D)
        found = found.unflatten(1, (groups, places)).transpose(0, 1).flatten(1, 2)
        weighted = found * self._round(choice.gates).flatten(1).unsqueeze(-1).to(found.dtype)
        return torch.zeros_like(x, dtype=found.dtype).scatter_add(1, at, weighted)

    def _mlp(self, x: torch.Tensor) -> torch.Tensor:
        """(E, n, D), the tokens of each expert -> the same shape"""
        return torch.bmm(self.activation(torch.bmm(x, self.inner)), self.outer)

    def _round(self, values: torch.Tensor) -> torch.Tensor:
        return values.bfloat16().to(values.dtype) if self.options.bfloat16 else values

    def _report_choice(self, choice: ExpertChoice, real: torch.Tensor, shape: Sequence[int]) -> None:
        times, tokens = choice.times_taken(), real.sum().clamp(min=1)
        squares = choice.logits.logsumexp(-1).square()
        filled = choice.filled.sum().clamp(min=1)
        load, say = choice.filled.sum((0, 2)).float(), choice.gates.detach().sum((0, 2))
        _report(
            lambda: ExpertReport(
                self,
                tokens,
                torch.where(real, squares, 0.0).sum() / tokens,
                None,
                ((times == 0) & real).sum() / tokens,
                choice.gates.detach().sum() / filled,
                filled / (choice.filled.shape[0] * self.options.number),
                load / load.mean().clamp(min=1e-9),
                say / say.mean().clamp(min=1e-9),
            ),
            lambda: (self._who_took(choice, torch.Size(shape)), self._ungroup(real, torch.Size(shape))),
        )

    def _who_took(self, choice: ExpertChoice, shape: torch.Size) -> torch.Tensor:
        """(B, L, E)"""
        taken = torch.zeros_like(choice.logits.transpose(1, 2)).scatter(2, choice.tokens, choice.filled.float())
        return self._ungroup(taken.transpose(1, 2), shape).bool()  # (G, E, S) -> (G, S, E) -> (B, L, E)

    # --- tokens choose ---

    def _tokens_choose(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """
        Each token passes the `top_k` experts of its highest probabilities. Gates are those probabilities; of two,
        divided by their sum. In training an expert takes tokens of a group in their order until its places are full:
        which tokens come later does not matter.
        """
        grouped, real_of = self.group(x, real)
        logits = self.route(grouped)
        gates, chosen = logits.softmax(-1).topk(self.options.top_k, dim=-1)  # (G, S, K)
        if self.options.top_k > 1:
            gates = gates / gates.sum(-1, keepdim=True)
        wanted = nn.functional.one_hot(chosen, self.options.number) * real_of[..., None, None]  # (G, S, K, E)
        kept = real_of.unsqueeze(-1).expand_as(chosen)
        if self.training:
            # (G, S, K, E) -> (G, S * K, E): how many came before each, token by token
            before = (wanted.flatten(1, 2).cumsum(1) - wanted.flatten(1, 2)).view_as(wanted)
            limits = torch.tensor(capacities(self.options, grouped.shape[1]), device=x.device)[real_of.sum(1)]
            kept = kept & ((before * wanted).sum(-1) < limits[:, None, None])
        # (G, S, …) -> (G * S, …)
        rows, weights = grouped.flatten(0, 1), torch.where(kept, gates, 0.0).flatten(0, 1)
        output = torch.zeros_like(rows)
        for number in range(self.options.number):
            of_it = (chosen == number) & kept
            at, which = of_it.flatten(0, 1).nonzero(as_tuple=True)
            inner = self.activation(self._round(rows[at]) @ self.inner[number])
            found = self._round(inner @ self.outer[number])
            found = found * self._round(weights[at, which]).unsqueeze(-1).to(found.dtype)
            output = output.to(found.dtype).index_add(0, at, found)
        self._report_tokens(logits, chosen, kept, torch.where(kept, gates, 0.0).detach(), real_of, x.shape)
        return self._ungroup(output.view(*grouped.shape[:2], -1), x.shape)

    def _report_tokens(
        self,
        logits: torch.Tensor,
        chosen: torch.Tensor,
        kept: torch.Tensor,
        gates: torch.Tensor,
        real: torch.Tensor,
        shape: torch.Size,
    ) -> None:
        tokens, number = real.sum().clamp(min=1), self.options.number
        taken = nn.functional.one_hot(chosen, number) * kept.unsqueeze(-1)  # (G, S, K, E)
        first = (nn.functional.one_hot(chosen[..., 0], number) * real.unsqueeze(-1)).sum((0, 1)) / tokens
        probable = (logits.softmax(-1) * real.unsqueeze(-1)).sum((0, 1)) / tokens
        load, say = taken.sum((0, 1, 2)).float(), (taken * gates.unsqueeze(-1)).sum((0, 1, 2))
        limit = torch.tensor(float(self.options.capacity(real.shape[1]) if self.training else real.shape[1]))
        _report(
            lambda: ExpertReport(
                self,
                tokens,
                torch.where(real, logits.logsumexp(-1).square(), 0.0).sum() / tokens,
                number * (first * probable).sum(),
                (~kept.any(-1) & real).sum() / tokens,
                gates.sum() / kept.sum().clamp(min=1),
                limit.to(logits.device),
                load / load.mean().clamp(min=1e-9),
                say / say.mean().clamp(min=1e-9),
            ),
            lambda: (self._ungroup(taken.sum(2), shape).bool(), self._ungroup(real, shape)),
        )


# --- what is told of experts, and what they add to a loss ---


class ExpertReports(list[ExpertReport]):
    """The reports of some passes, in their order; `detailed` if they are to say who took which token."""

    def __init__(self, detailed: bool = False):
        super().__init__()
        self.detailed = detailed


_REPORTS: ContextVar[ExpertReports | None] = ContextVar("expert_reports", default=None)


@contextmanager
def record_experts(detailed: bool = False) -> Iterator[ExpertReports]:
    """
    Within it, each pass through a layer of experts adds its report to the list. Layers that are computed again in the
    backward pass, behind it, add none.

    Args:
        detailed: whether the reports say which expert took which token.
    """
    reports = ExpertReports(detailed)
    token = _REPORTS.set(reports)
    try:
        yield reports
    finally:
        _REPORTS.reset(token)


def _report(make: Any, who_took: Any) -> None:
    report, reports = make(), _REPORTS.get()  # made in any case: a layer that is computed again does the same
    if reports is not None:
        if reports.detailed:
            report.taken, report.real = who_took()
        reports.append(report)


@contextmanager
def as_one_pass() -> Iterator[None]:
    """Within it, several passes through each layer, such as parts of a batch, are told as one."""
    outside = _REPORTS.get()
    if outside is None:  # nobody is told
        yield
        return
    with record_experts(outside.detailed) as reports:
        yield
    for experts in {id(one.experts): one.experts for one in reports}.values():
        outside.append(_joined([one for one in reports if one.experts is experts]))


def _joined(parts: Sequence[ExpertReport]) -> ExpertReport:
    """The means over the parts' tokens."""
    counts = torch.stack([one.tokens for one in parts])
    shares = counts / counts.sum()

    def mean(name: str) -> Any:
        values = [getattr(one, name) for one in parts]
        return None if values[0] is None else sum(share * one for share, one in zip(shares, values, strict=True))

    means = {field.name: mean(field.name) for field in fields(ExpertReport) if field.name not in NOT_AVERAGED}
    return ExpertReport(experts=parts[0].experts, tokens=counts.sum(), **means)


NOT_AVERAGED = ("experts", "tokens", "taken", "real")


def measures_of(reports: Sequence[ExpertReport]) -> dict[str, torch.Tensor]:
    """
    Numbers () for a log, by name: `experts_z_loss` and `experts_balance_loss`, sums over layers and passes, before
    their weights; `experts_left_behind`, `experts_confidence`, `experts_capacity`, means of them; of all layers the
    least and most of each expert's load (`experts_load_least`, `…_most`: 1 is as many tokens as the others) and the
    least say (`experts_say_least`: 0 is an expert that says nothing).
    """
    if not reports:
        return {}
    found = {"z_loss": torch.stack([one.z_loss for one in reports]).sum()}
    balance = [one.balance_loss for one in reports if one.balance_loss is not None]
    if balance:
        found["balance_loss"] = torch.stack(balance).sum()
    for name in ("left_behind", "confidence", "capacity"):
        found[name] = torch.stack([getattr(one, name).float() for one in reports]).mean()
    loads, says = torch.stack([one.load for one in reports]), torch.stack([one.say for one in reports])
    found |= {"load_least": loads.min(), "load_most": loads.max(), "say_least": says.min()}
    return {f"{MEASURES}{name}": value.detach() for name, value in found.items()}


def with_measures(forward: Any) -> Any:
    """
    Decorates the `forward` of a model's head, whose output has `loss` and `measures`: the losses of all experts that
    it passed are added to its loss, and what is measured of them, and in training what its fusion measures, to its
    measures.

    Raises:
        ValueError: if the loss is computed in parts of a batch (`embedding_gradients`): those of experts are means
            over the whole.
    """

    @wraps(forward)
    def measured(self: Any, *args: Any, **kwargs: Any) -> Any:
        fusion = self.base_model.fusion
        if self.training and fusion.measures:
            fusion.measures = {}  # of the pass before
        if not has_experts(self.config):
            output = forward(self, *args, **kwargs)
        else:
            with record_experts() as reports:
                output = forward(self, *args, **kwargs)
            if reports and kwargs.get("embedding_gradients") is not None:
                raise ValueError(
                    "`grad_cache_chunk_size`: the losses of `experts` are means over a batch, which is not computed "
                    "in parts: leave it out."
                )
            if reports and output.loss is not None:
                output.loss = output.loss + torch.stack([one.loss() for one in reports]).sum()
            output.measures = {**(output.measures or {}), **measures_of(reports)}
        if self.training and fusion.measures:
            output.measures = {**(output.measures or {}), **fusion.measures}
        return output

    return measured


def has_experts(config: Any) -> bool:
    """Whether a part of a model has experts: its configuration says so in `experts`."""
    parts = (getattr(config, f"{name}_config", None) for name in ("vision", "audio", "text", "fusion_model"))
    return any(getattr(part, "experts", None) is not None for part in parts)


def expert_layers(model: nn.Module) -> dict[str, VioletExperts]:
    """A model's layers of experts, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, VioletExperts)}


def refuse_causal(options: ExpertOptions, rules: Iterable[str], key: str) -> dict[str, str]:
    """Why each of these causal rules of attention is not served, by rule; empty where tokens choose."""
    if options.choice == "tokens":
        return {}
    reason = (
        f"and `{key}.choice` 'experts' lets each expert take its tokens among all of a text: a token's experts then "
        f"depend on the words behind it, and neither a cache nor `generate` can be right. Set `{key}.choice` to "
        "'tokens'"
    )
    return dict.fromkeys(rules, reason)

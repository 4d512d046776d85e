"""NaN and infinity planted in the input, the loss or the gradient of real steps: reported, and no weight changes."""

import json
import random
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from campaign import BrokenPromise, Promise
from small_runs import recipe, separate_run, trainer

STEPS, BORNE = 5, 3
WHERE = ("gradient", "loss", "input")
VALUES = (float("nan"), float("inf"), float("-inf"))


class Planted:
    """Plants a value in some steps of a run, and looks at the weights on both sides of each call of the optimiser."""

    def __init__(self, run: Any, model: Any, optimizer: Any, chance: random.Random, micro: int, where: str):
        self.run, self.value = run, chance.choice(VALUES)
        self.where = where
        first, count = chance.randint(1, STEPS - 1), chance.randint(1, BORNE)
        self.steps = set(range(first, min(first + count, STEPS + 1)))
        self.micro = chance.randrange(micro)
        self.adds = chance.random() < 0.5
        self.changed: dict[int, bool] = {}
        model.register_forward_pre_hook(self.into_input, with_kwargs=True)
        model.register_forward_hook(lambda module, given, output: self.into_loss(output))
        compare = model.compare_embeddings if hasattr(model, "compare_embeddings") else None
        if compare is not None:
            model.compare_embeddings = lambda *given, **named: self.into_loss(compare(*given, **named))
        named = [(name, one) for name, one in model.named_parameters() if one.requires_grad and one.dim() == 1]
        every = [
            one for name, one in named if "video_encoder" in name
        ]  # that of clips has a gradient whatever the loss
        every[chance.randrange(len(every))].register_hook(self.into_gradient)
        self.watch_steps(model, optimizer)

    def now(self, done: int = 0) -> bool:
        """Whether this is the batch; `done` says whether its loss was noted already."""
        guard = self.run.guard
        return guard.step in self.steps and len(guard._losses) == self.micro + done

    def into_input(self, module: Any, given: Any, named: dict[str, Any]) -> Any:
        if self.where == "input" and self.now() and module.training:
            pixels = named["pixel_values_videos"].clone()
            pixels.view(-1)[::7] = self.value
            named = named | {"pixel_values_videos": pixels}
        return given, named

    def into_loss(self, output: Any) -> Any:
        loss = getattr(output, "loss", None)
        if self.where == "loss" and self.now() and loss is not None and loss.requires_grad:
            output.loss = loss + self.value if self.adds else loss * self.value
        return output

    def into_gradient(self, gradient: Any) -> Any:
        if self.where == "gradient" and self.now(1):
            gradient = gradient.clone()
            gradient.view(-1)[0] = self.value
        return gradient

    def watch_steps(self, model: Any, optimizer: Any) -> None:
        """Notes whether weights, the optimiser's state or batch norms change by a step."""
        step, self.taken = optimizer.step, 0
        begin = self.run.guard.begin_step

        def state() -> list[Any]:
            moments = [value for one in optimizer.state.values() for value in one.values()]
            return [one.detach().clone() for one in [*model.parameters(), *model.buffers(), *moments]]

        def begins(number: int, *rest: Any) -> None:
            begin(number, *rest)
            self.before, self.number = state(), number

        def steps(*given: Any, **named: Any) -> Any:
            found, after = step(*given, **named), state()
            pairs = zip(self.before, after, strict=False)
            same = len(after) == len(self.before) and all(one.equal(other) for one, other in pairs)
            self.changed[self.number] = not same
            return found

        self.run.guard.begin_step, optimizer.step = begins, steps


def pretrain(
    chance: random.Random, folder: Path, where: str
) -> tuple[Any, Planted, Callable[[], Any], list[set[str]]]:
    """A run of pre-training, with its samples by step."""
    from violet.training.pretraining import Pretraining
    from violet.training.recipe import read_recipe

    micro, changes = chance.randint(1, 2), {}
    if chance.random() < 0.3:
        changes = {"grad_cache_chunk_size": 3, "objectives": {"vtc": 1.0}, "mvm_targets": {}}
    if chance.random() < 0.25:
        changes["mixed_precision"] = "bf16"
    changes |= {"max_steps": STEPS, "gradient_accumulation_steps": micro, "max_bad_steps": BORNE, "eval_batches": 1}
    run = Pretraining(read_recipe(recipe(folder / "run", **changes)))
    planted = Planted(run, run.model, run.optimizer.optimizer, chance, micro, where)
    numbers = [range(step * micro, (step + 1) * micro) for step in range(STEPS)]
    samples = [{name for number in of_step for name in run.training[number]["ids"]} for of_step in numbers]
    return run, planted, lambda: run.run(resume=False), samples


def finetune(chance: random.Random, folder: Path, where: str) -> tuple[Any, Planted, Callable[[], Any], None]:
    """A run of the Trainer."""
    micro = chance.randint(1, 2)
    settings = {"bf16": True} if chance.random() < 0.25 else {}
    run = trainer(folder, max_steps=STEPS, gradient_accumulation_steps=micro, max_bad_steps=BORNE, **settings)
    run.create_optimizer()
    planted = Planted(run, run.model, run.optimizer, chance, micro, where)
    return run, planted, run.train, None


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """One run of five steps in which a value that is not finite stands in one to three of them, side by side."""
    chance = random.Random(seed)
    with separate_run():
        run, planted, go, samples = (pretrain if seed % 2 else finetune)(chance, folder, WHERE[seed % 3])
        ends = None
        try:
            go()
        except FloatingPointError as error:
            ends = str(error)
    bad = sorted(planted.steps)
    about = f"{planted.value} in the {planted.where} of steps {bad}, batch {planted.micro}"
    lines = run.guard.lines()
    reported = sorted({line["step"] for line in lines})
    if reported != bad:
        raise BrokenPromise(f"{about}: reported were {reported}")
    if (ends is not None) != (len(bad) == BORNE):
        raise BrokenPromise(f"{about}: the run ended by {ends}")
    for step, changed in planted.changed.items():
        if changed != (step not in bad):
            raise BrokenPromise(f"{about}: step {step} {'changed' if changed else 'did not change'} the weights")
    finite = all(one.isfinite().all() for one in run.model.parameters())
    if not finite or len(planted.changed) < len(bad) - (ends is not None):
        raise BrokenPromise(f"{about}: weights are finite: {finite}, the optimiser was called {planted.changed}")
    for line in lines:
        named = set(line["samples"])
        if not named or (samples is not None and not named <= samples[line["step"] - 1]):
            raise BrokenPromise(f"{about}: the samples of step {line['step']} are not {sorted(named)}")
    for file in (folder / "run").rglob("log.jsonl"):
        if any(value != value for line in map(json.loads, file.read_text().splitlines()) for value in line.values()):
            raise BrokenPromise(f"{about}: the log is not finite")
    return {"planted": len(bad), "reported": len(reported), "stopped": int(ends is not None)}


@contextmanager
def takes_the_step():
    """A guard that reports a bad step and lets it be taken."""
    from violet.training.guards import StepGuard

    judge = StepGuard.may_apply
    with patch.object(StepGuard, "may_apply", lambda self, norm: judge(self, norm) or True):
        yield


@contextmanager
def looks_at_losses_only():
    """A guard that does not look at the gradient."""
    from violet.training.guards import StepGuard

    judge = StepGuard.may_apply
    with patch.object(StepGuard, "may_apply", lambda self, norm: judge(self, 1.0)):
        yield


MUTANTS = {"the step is taken all the same": takes_the_step, "the gradient is not looked at": looks_at_losses_only}
PROMISE = Promise(
    "planted_numbers",
    "NaN or Inf in input, loss or gradient: each such step is reported, none is taken, three in a row stop the run",
    400,
    trial,
    code=("training", "modeling_violet"),
)

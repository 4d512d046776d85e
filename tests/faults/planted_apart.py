"""NaN and infinity planted in one of two training processes: neither takes the step, and both go on alike."""

import json
import random
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from campaign import BrokenPromise, Promise, module_of
from planted_numbers import BORNE, STEPS, VALUES, WHERE, Planted
from small_runs import recipe, two_processes

PROGRAM = "planted_apart.run(sys.argv[1], int(sys.argv[2]))"


def of_seed(seed: int) -> dict[str, Any]:
    """In which process what is planted, in which steps."""
    chance = random.Random(seed)
    first, count = chance.randint(1, STEPS - 1), chance.randint(1, BORNE)
    return {
        "rank": chance.randrange(2),
        "steps": set(range(first, min(first + count, STEPS + 1))),
        "value": chance.choice(VALUES),
        "where": WHERE[seed % 3],
        "micro": chance.randint(1, 2),
    }


def run(folder: str, seed: int) -> None:
    """What each process does: pre-trains, and writes what became of its weights."""
    from violet.core.files import write_json
    from violet.training.pretraining import Pretraining
    from violet.training.recipe import read_recipe

    given, broken = of_seed(seed), json.loads((Path(folder) / "mutant.json").read_text())
    with module_of("planted_apart").BROKEN[broken]():
        one = Pretraining(read_recipe(yaml.safe_load((Path(folder) / "recipe.yaml").read_text())))
        rank, model = one.accelerator.process_index, one.accelerator.unwrap_model(one.model)
        planted = Planted(one, model, one.optimizer.optimizer, random.Random(seed), given["micro"], given["where"])
        planted.value, planted.steps = given["value"], given["steps"] if rank == given["rank"] else set()
        ends = None
        try:
            with one.watch:
                one.run(resume=False)
        except FloatingPointError as error:
            ends = str(error)
    weights = [float(value.double().sum()).hex() for value in model.state_dict().values()]
    write_json(Path(folder) / f"found_{rank}.json", {"changed": planted.changed, "ends": ends, "weights": weights})


def trial(seed: int, folder: Path) -> dict[str, Any]:
    """One run of two processes and five steps."""
    given = of_seed(seed)
    made = recipe(folder / "run", max_steps=STEPS, gradient_accumulation_steps=given["micro"], max_bad_steps=BORNE)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(made))
    (folder / "mutant.json").write_text(json.dumps(_mutant))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = two_processes(folder, port, "import planted_apart; " + PROGRAM, str(folder), str(seed))
    try:
        statuses = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
    bad, said = sorted(given["steps"]), "".join((folder / f"said_{rank}.txt").read_text()[-1500:] for rank in range(2))
    if statuses != [0, 0]:
        raise BrokenPromise(f"{given}: the processes ended by {statuses}: {said}")
    found = [json.loads((folder / f"found_{rank}.json").read_text()) for rank in range(2)]
    lines = [json.loads(line) for line in (folder / "run/bad_steps.jsonl").read_text().splitlines()]
    if sorted({line["step"] for line in lines}) != bad:
        raise BrokenPromise(f"{given}: reported are {lines}")
    told = {line["process"] for line in lines}  # contrast is over all processes: an input spoils all their losses
    if told != {given["rank"]} if given["where"] == "loss" else given["rank"] not in told:
        raise BrokenPromise(f"{given}: reported are {lines}")
    for one in found:
        changed = {int(step) for step, is_changed in one["changed"].items() if is_changed}
        if changed.intersection(bad) or (one["ends"] is not None) != (len(bad) == BORNE):
            raise BrokenPromise(f"{given}: changed were {one['changed']}, ended by {one['ends']}")
    if found[0]["weights"] != found[1]["weights"]:
        raise BrokenPromise(f"{given}: the processes have other weights")
    return {"planted": len(bad), "reported": len({line["step"] for line in lines})}


@contextmanager
def takes_it_where_losses_are_finite():
    """A guard that judges together, and then lets a process take the step whose own losses are finite."""
    from violet.training.guards import StepGuard

    judge = StepGuard.may_apply

    def judges(self: Any, norm: Any) -> bool:
        return judge(self, norm) or all(bool(loss.isfinite()) for loss in self._losses)

    with patch.object(StepGuard, "may_apply", judges):
        yield


@contextmanager
def whole():
    yield


BROKEN = {"": whole, "each judges for itself": takes_it_where_losses_are_finite}
_mutant = ""


def named(name: str):
    @contextmanager
    def mutant():
        with patch.object(module_of("planted_apart"), "_mutant", name):
            yield

    return mutant


MUTANTS = {name: named(name) for name in BROKEN if name}
PROMISE = Promise(
    "planted_apart",
    "NaN or Inf in one of two processes: reported with its rank, neither takes the step, both have the same weights",
    100,
    trial,
    processes=2,
    short_seeds=0,
    code=("training",),
)

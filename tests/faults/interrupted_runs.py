"""
Small runs, each in a process of its own that is forked from this one, which has everything imported: fine-tuning, and
pre-training, by the functions behind the commands; and a loop over a stream of shards. All have random crops and
frames, dropout and, but for the stream, masks. A run can be interrupted at a given moment by a real signal.
"""

import contextlib
import ctypes
import functools
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign import BrokenPromise, inputs, source_of

KINDS = ("finetune", "pretrain", "stream")
EPOCHS, STEPS = 3, 12
CODE = ("core", "configuration", "data", "modeling_violet", "processing", "training")
MOMENTS = ("before the step", "after the step", "before a save", "after a save")
SMALL: dict[str, Any] = {
    "vision_config": {
        "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": (2, 2, 2), "patch_size": 4,
        "drop_path_rate": 0.1,
    },
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "projection_dim": 16,
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "classifier_dropout": 0.1,
    "mvm_targets": {"pixel": {}},
}  # fmt: skip


def _make_inputs(folder: Path) -> None:
    """Drawn clips, a table of them, shards of them, and a model to start from."""
    import torch

    from violet import VideoTextProcessor, VioletForCaptioning, VioletVideoProcessor, named_configuration
    from violet.data import moving_shapes
    from violet.data.sharding import prepare_shards
    from violet.modeling_violet import VioletForPreTraining
    from violet.processing import train_wordpiece_tokenizer

    none = {"train": 0, "test": 0, "test_unseen": 0, "test_together": 0}
    rows = moving_shapes(folder / "shapes", pretrain=12, validation=1, size=32, num_frames=4, **none)["pretrain"]
    lines = [f'{Path(row["video"]).relative_to(folder)},"{row["caption"]}"' for row in rows]
    (folder / "captions.csv").write_text("\n".join(["video,caption", *lines]))
    prepare_shards(folder / "captions.csv", folder / "shards", shard_size=0.01)
    tokenizer = train_wordpiece_tokenizer(rows["caption"], 150)
    frames = VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=2, fit="random_crop")
    frames.frame_sampling = "jitter"
    config = named_configuration("violet-tiny", **SMALL, vocab_size=len(tokenizer))
    for name, model_class in {"finetune": VioletForCaptioning, "pretrain": VioletForPreTraining}.items():
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder / name)
        VideoTextProcessor(tokenizer, frames, max_length=16).save_pretrained(folder / name)


@functools.cache
def made() -> Path:
    """The folder with what the runs read. Ask for it before a run begins: making it sets generators."""
    return inputs(f"runs-{source_of(CODE)[:10]}", _make_inputs)


# --- processes ---


@dataclass
class Ended:
    """How a process ended: its status (below 0: the signal that killed it), and what it said."""

    status: int
    said: str


def in_process(work: Callable[[], Any], said: Path, group: bool = True, seconds: float = 120.0) -> Ended:
    """Does it in a forked process of a session of its own, all of which ends with it."""
    pid = start(work, said)
    return finish(pid, said, seconds)


def start(work: Callable[[], Any], said: Path) -> int:
    """Starts that process; its number."""
    sys.stdout.flush(), sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it ends with the one that forked it
        if os.getppid() != parent:
            os._exit(1)
        number = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(number, 1), os.dup2(number, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        status = work() or 0
    except BaseException:  # noqa: BLE001  it is told by the status
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def finish(pid: int, said: Path, seconds: float = 120.0) -> Ended:
    """Waits for it, and ends what it left running."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            end_group(pid)
            os.waitpid(pid, 0)
            raise BrokenPromise(f"a run did not end within {seconds:g} s: {said.read_text()[-2000:]}")
        time.sleep(0.003)
    end_group(pid)
    return Ended(os.waitstatus_to_exitcode(status), said.read_text(errors="replace") if said.exists() else "")


def end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


# --- runs ---


@dataclass(frozen=True)
class Interruption:
    """A signal that a run gets from itself, at that moment of that step; or with it all that it started."""

    step: int
    moment: str = MOMENTS[0]
    signal: int = signal.SIGKILL
    to_all: bool = False


def quiet() -> None:
    """What a forked process needs before it runs: no state of another run, one thread, no network."""
    import torch
    from accelerate.state import AcceleratorState
    from transformers.utils import logging

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    AcceleratorState._reset_state(True)
    torch.set_num_threads(1)
    logging.set_verbosity_warning()
    logging.disable_progress_bar()


def run(kind: str, output: Path, workers: int, interrupted: Interruption | None = None, save_steps: int = 1) -> int:
    """
    The run, to its end or the interruption; its status, as of the command. In a process of its own. Which samples each
    step had is added to `order.jsonl` in the output folder.
    """
    quiet()
    from violet.training import RunStopped

    watch = Watch(output, interrupted)
    try:
        RUNS[kind](output, workers, save_steps, watch)
    except RunStopped as stop:
        print(f"stopped: {stop}")
        return 143
    return 0


class Watch:
    """Notes the samples of each step, and gives the signal when it is time."""

    def __init__(self, output: Path, interrupted: Interruption | None):
        self.file = output / "order.jsonl"
        self.interrupted = interrupted

    def at(self, step: int, moment: str) -> None:
        due = self.interrupted
        if due is not None and (due.step, due.moment) == (step, moment):
            os.killpg(0, due.signal) if due.to_all else os.kill(os.getpid(), due.signal)

    def saw(self, step: int, names: Any) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file, "a") as file:
            file.write(json.dumps([step, names]) + "\n")


def _finetune(output: Path, workers: int, save_steps: int, watch: Watch) -> None:
    from violet.training import DataArguments, FinetuningArguments, ModelArguments, finetune
    from violet.training.trainer import VioletTrainer

    prepare, step_of, save = VioletTrainer._prepare_inputs, VioletTrainer.training_step, VioletTrainer._save_checkpoint

    def prepared(self, given):
        watch.saw(self.state.global_step + 1, [given.get("videos"), given["input_ids"].tolist()])
        return prepare(self, given)

    def training_step(self, *given, **more):
        watch.at(self.state.global_step + 1, MOMENTS[0])
        loss = step_of(self, *given, **more)
        watch.at(self.state.global_step + 1, MOMENTS[1])
        return loss

    def saved(self, *given):
        watch.at(self.state.global_step, MOMENTS[2])
        save(self, *given)
        watch.at(self.state.global_step, MOMENTS[3])

    VioletTrainer._prepare_inputs, VioletTrainer.training_step = prepared, training_step
    VioletTrainer._save_checkpoint = saved
    folder = made()
    finetune(
        ModelArguments(model=str(folder / "finetune"), freeze_backbone=False),
        DataArguments(task="captioning", train_file=str(folder / "captions.csv")),
        FinetuningArguments(
            output_dir=str(output), per_device_train_batch_size=3, num_train_epochs=EPOCHS, learning_rate=1e-2,
            save_steps=save_steps, logging_steps=5, lr_scheduler_type="cosine", dataloader_num_workers=workers,
            report_to="none", disable_tqdm=True, bf16=False, seed=7,
        ),
    )  # fmt: skip


def recipe(output: Path, workers: int, save_steps: int = 1) -> Any:
    from violet.training.recipe import read_recipe

    folder = made()
    shapes = {"source": "table", "path": str(folder / "captions.csv")}
    return read_recipe(
        {
            "datasets": [{"name": "videos", **shapes, "weight": 2.0}, {"name": "stills", **shapes, "num_frames": 1}],
            "output_dir": str(output),
            "model": str(folder / "pretrain"),
            "objectives": [{"vtm": 1.0, "mlm": 1.0, "mvm_pixel": 1.0, "share": 2.0}, {"mlm": 1.0, "vtc": 0.5}],
            "mvm_targets": {"pixel": {}},
            "masks": {"random": 1.0, "block": 1.0, "attended": 1.0},
            "num_negatives": 1, "group_size": 2, "max_text_length": 16,
            "max_steps": STEPS, "batch_size": 4, "learning_rate": 1e-2, "mixed_precision": "no", "ema_decay": 0.9,
            "logging_steps": 1, "eval_steps": 5, "eval_batches": 1, "save_steps": save_steps, "trackers": [],
            "num_workers": workers, "frame_sampling": "jitter", "fit": "random_crop", "seed": 7,
        }
    )  # fmt: skip


def _pretrain(output: Path, workers: int, save_steps: int, watch: Watch) -> None:
    from violet.training import pretraining
    from violet.training.pretraining import Pretraining, pretrain

    pretraining.draw_curves = lambda *given: None  # the picture takes as long as the run
    take, forward, save = Pretraining.train_step, Pretraining.forward, Pretraining.save_checkpoint

    def train_step(self, step, *given):
        watch.at(step, MOMENTS[0])
        self.watched = step
        take(self, step, *given)
        watch.at(step, MOMENTS[1])

    def forwarded(self, batch, backward=False, **more):
        if backward:
            watch.saw(self.watched, [list(batch["ids"]), batch["input_ids"].tolist()])
        return forward(self, batch, backward, **more)

    def saved(self, step, *given):
        watch.at(step, MOMENTS[2])
        save(self, step, *given)
        watch.at(step, MOMENTS[3])

    Pretraining.train_step, Pretraining.forward, Pretraining.save_checkpoint = train_step, forwarded, saved
    pretrain(recipe(output, workers, save_steps), resume=True)


def _stream(output: Path, workers: int, save_steps: int, watch: Watch) -> None:
    """A loop of one's own over a stream of shards: what this package gives for it, and a model of two layers."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    from violet.core.files import write_json, write_tensors
    from violet.data import ShardStream
    from violet.data.loading import FailedSamples
    from violet.processing import decode_video
    from violet.training.checkpoints import checkpoint_to_resume, new_checkpoint
    from violet.training.run_state import generators, load_optimizer, save_optimizer, set_generators
    from violet.training.runs import only_run_in

    set_seed(7)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    accelerator, done = Accelerator(cpu=True), 0
    stream = ShardStream(made() / "shards", batch_size=3, seed=7, lanes=2, block=4)
    with only_run_in(output, True):
        found = checkpoint_to_resume(output, accelerator, FailedSamples(output))
        if found is not None:
            from safetensors.torch import load_file

            model.load_state_dict(load_file(Path(found) / "model.safetensors"))
            optimizer.load_state_dict(load_optimizer(Path(found))[0])
            state = json.loads((Path(found) / "process_0.json").read_text())
            set_generators(state["generators"])
            done = state["step"]
        for step in range(done, EPOCHS * len(stream)):
            epoch, position = divmod(step, len(stream))
            if step == done or position == 0:
                stream.set_epoch(epoch, position)
                loader = torch.utils.data.DataLoader(
                    stream, batch_size=None, num_workers=workers, generator=torch.Generator()
                )
                batches = iter(loader)
            watch.at(step + 1, MOMENTS[0])
            rows = next(batches)
            watch.saw(step + 1, [[row["video"], row["caption"], row["draw"]] for row in rows])
            frames = [decode_video(row["clip"], lambda total, fps, n=row["draw"]: [n % total]).frames for row in rows]
            colours = torch.stack([torch.from_numpy(one).float().mean((0, 1, 2)) / 255 for one in frames])
            loss = (model(colours) - colours.sum(1, keepdim=True)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            watch.at(step + 1, MOMENTS[1])
            watch.at(step + 1, MOMENTS[2])
            with new_checkpoint(output, step + 1, accelerator, 2) as folder:
                write_tensors(folder / "model.safetensors", model.state_dict())
                save_optimizer(folder, optimizer.state_dict())
                write_json(
                    folder / "process_0.json", {"step": step + 1, "generators": generators(), "loss": loss.item()}
                )
            watch.at(step + 1, MOMENTS[3])


RUNS: Mapping[str, Callable[[Path, int, int, Watch], None]] = {
    "finetune": _finetune,
    "pretrain": _pretrain,
    "stream": _stream,
}


# --- what a run leaves ---


def outcome(kind: str, output: Path, ordered: bool = True) -> dict[str, Any]:
    """All that must be equal of two runs: weights, optimiser, schedule, generators (by their bytes), log and order."""
    from equal_logs import lines, without_times

    from violet.core.files import MANIFEST, sha256
    from violet.training.checkpoints import checkpoints_of, step_of

    # pre-training writes the model after its last step, and a checkpoint there only if SIGTERM comes in that step
    last = [one for one in checkpoints_of(output) if kind != "pretrain" or step_of(one) < STEPS][-1]
    manifest = json.loads((last / MANIFEST).read_text())
    found: dict[str, Any] = {"step": step_of(last)}
    found |= {f"last checkpoint: {name}": one["sha256"] for name, one in manifest.items() if name not in UNEQUAL}
    if (output / "model.safetensors").exists():
        found["model"] = sha256(output / "model.safetensors")
    if kind == "finetune":
        state = json.loads((last / "trainer_state.json").read_text())
        found["log"] = [without_times(line) for line in state["log_history"] if "loss" in line]
    elif kind == "pretrain":
        found["log"] = lines(output)
    if not ordered:
        return found
    order: dict[int, Any] = {}
    for line in (output / "order.jsonl").read_text().splitlines():
        step, names = json.loads(line)
        if order.setdefault(step, names) != names:
            raise BrokenPromise(f"step {step} had other samples when it was taken again: {order[step]}, then {names}")
    return found | {"order": order}


UNEQUAL = ("manifest.json", "trainer_state.json", "training_args.bin", "tokenizer.json")
"""They hold times, paths, the number of workers, and whether this process or its workers tokenized last."""


def expected(kind: str) -> dict[str, Any]:
    """The outcome of the run that was not interrupted, without workers."""

    def make(folder: Path) -> None:
        made()
        ended = in_process(lambda: run(kind, folder / "run", 0), folder / "said")
        if ended.status != 0:
            raise BrokenPromise(f"the uninterrupted run of {kind} ended with {ended.status}: {ended.said[-3000:]}")

    folder = inputs(f"whole-{kind}-{source_of(CODE)[:10]}", make)
    return outcome(kind, folder / "run")


def check_outcome(kind: str, output: Path, ordered: bool = True) -> None:
    """
    Args:
        ordered: whether the run noted its samples.

    Raises:
        BrokenPromise: if a run that was interrupted ended otherwise than the one that was not.
    """
    one, other = expected(kind), outcome(kind, output, ordered)
    if not ordered:
        del one["order"]
    unequal = [name for name in one if other.get(name) != one[name]] + [name for name in other if name not in one]
    if unequal:
        first = unequal[0]
        raise BrokenPromise(
            f"{kind}: {', '.join(unequal)} differ from the uninterrupted run; {first}: {one.get(first)} and "
            f"{other.get(first)}"[:2000]
        )
    litter = sorted(
        str(path.relative_to(output))
        for path in output.rglob("*")
        if "partial" in path.name or path.name in (".lock", ".workers")
    )
    if litter:
        raise BrokenPromise(f"{kind}: left behind: {', '.join(litter)}")


def interrupted_run(kind: str, folder: Path, interruptions: list[Interruption], workers: list[int]) -> int:
    """
    A run that each interruption ends in turn, with that many workers in each part, the last one to its end; how many
    interruptions there were.

    Raises:
        BrokenPromise: if a part ends otherwise than by its interruption, or the whole differs.
    """
    made()
    output, said = folder / "run", folder / "said"
    for number, one in enumerate(interruptions):
        ended = in_process(lambda one=one, number=number: run(kind, output, workers[number], one), said)
        wanted = 143 if one.signal == signal.SIGTERM and kind != "stream" else -one.signal
        if ended.status != wanted:
            raise BrokenPromise(f"{kind}, {one}: ended with {ended.status}, not {wanted}: {ended.said[-3000:]}")
    ended = in_process(lambda: run(kind, output, workers[-1]), said)
    if ended.status != 0:
        raise BrokenPromise(f"{kind}: the last part ended with {ended.status}: {ended.said[-3000:]}")
    check_outcome(kind, output)
    return len(interruptions)


def draw_interruption(chance: random.Random, kind: str, step: int) -> Interruption:
    """A moment of that step and a signal."""
    by_term = kind != "stream" and chance.random() < 0.3  # a loop of one's own ends by it
    moments = MOMENTS
    if kind == "pretrain" and (by_term or step == STEPS):  # no save follows its last step, and in a save it is asked
        moments = MOMENTS[:2]  # to end after the next step, which may be that of the next interruption
    return Interruption(
        step, chance.choice(moments), signal.SIGTERM if by_term else signal.SIGKILL, chance.random() < 0.5
    )

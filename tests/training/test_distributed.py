"""Pre-training in two real processes (gloo, on the CPU): the same run as in one, killed or not."""

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from equal_logs import lines
from own_process import OwnProcess
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining

from violet.cli import main
from violet.configuration import named_configuration
from violet.core.files import is_whole
from violet.data import moving_shapes
from violet.modeling_violet import VioletForPreTraining
from violet.processing import VideoTextProcessor, VioletVideoProcessor, train_wordpiece_tokenizer
from violet.training import TASKS
from violet.training.pretraining import pretrain
from violet.training.recipe import read_recipe

pytestmark = pytest.mark.slow

STEPS = 6
SMALL = {
    "vision_config": {
        "embed_dim": 8, "depths": (1, 1, 1), "num_heads": (1, 2, 2), "window_size": (2, 2, 2), "patch_size": 4,
        "drop_path_rate": 0.0, "initializer_range": 0.1,
    },
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.1, "projection_dim": 16,
    "mvm_targets": {"pixel": {}, "mfr": {"group": 2, "hide": "pixels"}},
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0,
}  # fmt: skip
EXAMPLES = Path(__file__).parents[2] / "examples"
SHARD_ON_CPU = """
# Accelerate shards on GPUs only and falls back to whole weights elsewhere; torch and gloo can shard on a CPU.
import sys

from accelerate import Accelerator, DistributedType
from accelerate.state import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin

from violet import cli
from violet.training import building


class Sharding(Accelerator):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin()  # by the launcher's settings
        self.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    def clip_grad_norm_(self, parameters, *arguments):
        parameters = list(parameters)
        held, whole = (sum(one.numel() for one in ones) for ones in ([p.to_local() for p in parameters], parameters))
        assert whole > 10000 and 0.4 < held / whole < 0.6, "each process holds about a half"
        return super().clip_grad_norm_(parameters, *arguments)


building.Accelerator = Sharding
sys.exit(cli.main(sys.argv[1:]))
"""
DEEPSPEED_ON_CPU = """
# Accelerate asks DeepSpeed for the GPUs' backend and counts one process without one; both work with gloo.
import sys

from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from violet import cli
from violet.training import building


class OnCPU(Accelerator):
    def __init__(self, *arguments, **options):
        handlers = [InitProcessGroupKwargs(backend="gloo")]
        super().__init__(*arguments, **{**options, "cpu": False, "kwargs_handlers": handlers})
        assert self.distributed_type == DistributedType.DEEPSPEED and self.num_processes == 2

    def clip_grad_norm_(self, parameters, *arguments):
        (engine,) = self._models
        optimizer = engine.optimizer
        held = sum(one.numel() for one in optimizer.single_partition_of_fp32_groups)
        whole = sum(one.numel() for one in engine.parameters() if one.requires_grad)
        assert whole > 10000 and 0.4 < held / whole < 0.6, "each process holds about a half"
        return super().clip_grad_norm_(parameters, *arguments)


building.Accelerator = OnCPU
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory, drawn):
    """Saves a small model to start from, with that dropout, and its processor."""
    counts = {"train": 0, "test": 0, "test_unseen": 0, "test_together": 0}
    captions = moving_shapes(drawn, pretrain=24, validation=8, **counts)["pretrain"]["caption"]
    tokenizer = train_wordpiece_tokenizer(captions, 150)
    processor = VideoTextProcessor(tokenizer, VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=2))

    def save(dropout: float) -> Path:
        names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        overrides = SMALL | dict.fromkeys(names, dropout)
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("start")
        VioletForPreTraining(
            named_configuration("violet-tiny", **overrides, vocab_size=len(tokenizer))
        ).save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    return save


def settings(drawn, model, output, **changes):
    return {
        "datasets": [
            {"name": "videos", "source": "moving_shapes", "path": str(drawn), "clips": 24, "validation_clips": 8}
        ],
        "output_dir": str(output),
        "model": str(model),
        "objectives": {"vtm": 1.0, "mlm": 1.0, "vtc": 0.5, "mvm_pixel": 1.0, "mvm_mfr": 1.0},
        "mvm_targets": {"pixel": {}},
        "masks": {"random": 1.0, "block": 1.0, "attended": 1.0, "correlated": 1.0},
        "num_negatives": 3,
        "max_steps": STEPS,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "mixed_precision": "no",
        "num_workers": 0,
        "logging_steps": 1,
        "eval_batches": 2,
        "save_steps": 1000,
        "trackers": [],
        **changes,
    }


def launch(recipe: dict, *more: str, way: str = "ddp") -> subprocess.Popen:
    """Starts two processes that pre-train, in the way of examples/accelerate_WAY.yaml."""
    folder = Path(recipe["output_dir"]).parent
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    program = ["-m", "violet.cli"]
    if way != "ddp":
        program = [str(folder / "on_cpu.py")]
        Path(program[0]).write_text({"fsdp": SHARD_ON_CPU, "deepspeed": DEEPSPEED_ON_CPU}[way])
    return launch_two(EXAMPLES / f"accelerate_{way}.yaml", folder, *program, "pretrain", str(file), *more)


def run_two(recipe: dict) -> None:
    """Two processes pre-train, with the environment that a launcher gives them."""
    folder = Path(recipe["output_dir"]).parent
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    said = [folder / f"said_{rank}.txt" for rank in range(2)]
    started = [
        OwnProcess(
            *("-m", "violet.cli", "pretrain", folder / "recipe.yaml"),
            env=both | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=said[rank],
        )
        for rank in range(2)
    ]
    try:
        statuses = [process.wait() for process in started]
    finally:
        for process in started:
            process.kill()
    assert statuses == [0, 0], [file.read_text()[-3000:] for file in said]


def launch_two(launcher: Path, folder: Path, *program: str) -> subprocess.Popen:
    # `accelerate launch --cpu --num_processes 2` starts one process; the file for GPUs two, which find none.
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launcher), "--num_processes", "2",
        "--main_process_port", "0", "--num_cpu_threads_per_process", "1", *program,
    ]  # fmt: skip
    settings = {"stderr": subprocess.STDOUT, "env": os.environ | {"CUDA_VISIBLE_DEVICES": ""}}
    with open(folder / "said.txt", "w") as said:
        return subprocess.Popen(command, stdout=said, **settings)


def assert_two_processes(checkpoint: Path):
    own = [*checkpoint.glob("process_*.json"), *checkpoint.glob("random_states_*")]  # the latter of sharded weights
    assert is_whole(checkpoint) and len(own) == 2


def wait_for(checkpoint: Path, process: subprocess.Popen):
    deadline = time.monotonic() + 240
    while not (checkpoint / "manifest.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, said_in(checkpoint.parent)
        time.sleep(0.01)


def said_in(output: Path) -> str:
    return (output.parent / "said.txt").read_text()


def kill(process: subprocess.Popen):
    """SIGKILL to the launcher and to all that it started, which stand in process groups of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        process.kill()  # first, so that it cannot end the others more gently
        for one in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(started, timeout=60)
    process.wait()


def finish(process: subprocess.Popen, output: Path) -> Path:
    try:
        assert process.wait(timeout=240) == 0, said_in(output)[-6000:]
    finally:
        kill(process)
    return output


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def run_one(recipe: dict) -> None:
    """This process pre-trains by itself, with one thread, on the CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ACCELERATE_USE_CPU", "true")
            pretrain(read_recipe(recipe))
    finally:
        AcceleratorState._reset_state(True)
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, drawn, start):
    model = start(dropout=0.0)
    output = tmp_path_factory.mktemp("one") / "run"
    run_one(settings(drawn, model, output))
    return model, output


def assert_same_run(output, expected, initial):
    one, other = lines(expected), lines(output)
    assert len(one) == STEPS + 1
    for line, found in zip(one, other, strict=True):
        assert line.keys() == found.keys()
        for name, value in line.items():
            assert math.isfinite(found[name])
            # Adam turns the rounding of gradients that should be 0 (keys' biases) into steps, which grow: losses
            # differ by 1.3e-4 after two of them on a processor without AVX-512, the gradient's norm by 0.05 at the
            # fourth with torch 2.9, where the loss is equal to 1.2e-5. Since windows' weights are made again for their
            # gradient, which rounds twice as much, they differed by 2.4e-3 and 0.15 at the fifth, and in another order
            # of the sums by less than before; with AVX-512 the norm differed by 0.34 at the fifth.
            if name == "gradient_norm":
                tolerance = 1e-3 if line["step"] < 3 else 0.25 if line["step"] < 5 else 0.5
            else:
                tolerance = 1e-4 if line["step"] == 1 else 5e-3
            one_in_eight = 0.126 if name.startswith("accuracy") and line["step"] > 1 else 0  # near a tie
            assert found[name] == pytest.approx(value, rel=tolerance, abs=one_in_eight), (line["step"], name)
    steps = one[:STEPS]
    assert {"loss_vtm", "loss_mlm", "loss_vtc", "loss_mvm_pixel", "loss_mvm_mfr", "gradient_norm"} <= steps[0].keys()
    assert max(line["loss"] for line in steps) - min(line["loss"] for line in steps) > 0.05, "it is a curve"
    before, one, other = weights(initial), weights(expected), weights(output)
    assert one.keys() == other.keys() == before.keys()
    # What softmax or ReLU leave no gradient but rounding (a key's bias, for one), Adam makes steps of all the same: of
    # the weights 0.03 % (torch 2.14) to 1.2 % (torch 2.9) differ by more than a twentieth of the longest way.
    far = {name: (value - other[name]).abs() > 0.05 * 1e-3 * STEPS for name, value in one.items()}
    assert sum(int(places.sum()) for places in far.values()) < 0.03 * sum(value.numel() for value in one.values())
    still = [name for name, value in one.items() if (value - before[name]).abs().max() <= 1e-4]
    assert not [name for name in still if not name.endswith("key.bias")], "all were trained"


@pytest.mark.parametrize("launched", [False, pytest.param(True, marks=pytest.mark.proof)])
def test_two_processes_train_as_one_does_on_the_same_rows(launched, one_process, drawn, tmp_path):
    """A proof: started by `accelerate launch`, as in the other proofs."""
    model, expected = one_process
    output = tmp_path / "run"
    recipe = settings(drawn, model, output, save_steps=3)
    if launched:
        finish(launch(recipe), output)
    else:
        run_two(recipe)
    assert_two_processes(output / "checkpoint-3")
    assert_same_run(output, expected, model)


@pytest.mark.proof
def test_two_processes_with_gradient_caching_train_as_one_does_on_whole_batches(drawn, start, tmp_path):
    """Parts of three rows of the four of a process."""
    model = start(dropout=0.0)
    compared = {"objectives": {"vtc": 1.0}, "mvm_targets": {}, "masks": {"random": 1.0}}
    one, two = tmp_path / "one" / "run", tmp_path / "two" / "run"
    one.parent.mkdir()
    two.parent.mkdir()
    run_one(settings(drawn, model, one, **compared))
    finish(launch(settings(drawn, model, two, save_steps=3, grad_cache_chunk_size=3, **compared)), two)
    assert_two_processes(two / "checkpoint-3")
    assert len(lines(one)) == STEPS + 1
    for line, found in zip(lines(one), lines(two), strict=True):
        assert found == pytest.approx(line, rel=1e-4), line["step"]
    before, expected, other = weights(model), weights(one), weights(two)
    assert sum(not torch.equal(before[name], value) for name, value in expected.items()) > 50, "it trained"
    for name, value in expected.items():  # keys' biases are stepped by rounding only, see `assert_same_run`
        torch.testing.assert_close(other[name], value, rtol=0, atol=0.05 * 1e-3 * STEPS, msg=name)


@pytest.mark.proof
def test_two_killed_processes_go_on_to_the_same_weights(drawn, start, tmp_path):
    """With dropout: each process has random numbers of its own to go on with."""
    model = start(dropout=0.2)
    changes = {"save_steps": 1, "gradient_accumulation_steps": 2, "ema_decay": 0.9}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, killed = (settings(drawn, model, tmp_path / name / "run", **changes) for name in ("whole", "killed"))
    expected = finish(launch(whole), tmp_path / "whole" / "run")
    assert_two_processes(expected / f"checkpoint-{STEPS - 1}")

    output = tmp_path / "killed" / "run"
    process = launch(killed)
    try:
        wait_for(output / "checkpoint-3", process)
    finally:
        kill(process)
    assert not (output / "model.safetensors").exists(), "they were killed before they ended"
    finish(launch(killed, "--resume"), output)
    assert "Going on from" in said_in(output)
    one, other = weights(expected), weights(output)
    assert one.keys() == other.keys() and len(one) > 50
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert lines(output) == lines(expected)


@pytest.mark.proof
@pytest.mark.parametrize("way", ["fsdp", "deepspeed"])
def test_sharded_weights_train_as_whole_ones_do_and_go_on_when_killed(way, one_process, drawn, tmp_path, monkeypatch):
    """
    FSDP 2: parameters, gradients and the optimiser's state are shared out over the processes; DeepSpeed's ZeRO 2: the
    latter two.
    """
    if way == "deepspeed":
        pytest.importorskip("deepspeed")
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")
        monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    model, expected = one_process
    output = tmp_path / "run"
    recipe = settings(drawn, model, output, save_steps=2)
    process = launch(recipe, way=way)
    try:
        wait_for(output / "checkpoint-4", process)
    finally:
        kill(process)
    assert not (output / "model.safetensors").exists(), "they were killed before they ended"
    finish(launch(recipe, "--resume", way=way), output)
    assert "checkpoint-4" in said_in(output)
    assert_two_processes(output / "checkpoint-4")
    assert_same_run(output, expected, model)
    assert AutoModelForPreTraining.from_pretrained(output).num_parameters() > 10000


# --- fine-tuning ---

FINE_TUNE = """
import json, sys
from pathlib import Path

from violet import cli

for arguments in json.loads(Path(sys.argv[1]).read_text()):
    assert cli.main(arguments) == 0
"""


def finetuning(task: str, table: Path, model: Path, output: Path, batch_size: int) -> list[str]:
    # SGD: Adam would make whole steps of the rounding in gradients that should be 0 (keys' biases).
    return [
        *("finetune", f"--task={task}", f"--model={model}", f"--train_file={table}", f"--output_dir={output}"),
        *(f"--per_device_train_batch_size={batch_size}", "--max_steps=3", "--optim=sgd", "--learning_rate=0.1"),
        *("--questions_per_video=2", "--use_cpu=true", "--save_strategy=no", "--seed=3"),
        "--allow_unknown_words=true",
    ]


@pytest.mark.proof
def test_every_task_is_fine_tuned_by_two_processes_as_by_one(drawn, start, tmp_path, capfd):
    """Of the rows of one global batch each process has half: other numbers of videos, of valid words, of labels."""
    model = start(dropout=0.0)
    counts = {"validation": 0, "test": 0, "test_unseen": 0, "test_together": 0}
    clips = moving_shapes(tmp_path / "shapes", train=120, **counts)["train"]
    runs: dict[str, list[list[str]]] = {"one": [], "two": []}
    for task in TASKS:
        table = tmp_path / f"{task}.jsonl"
        rows = [dict(row) for row in TASKS[task].rows(clips)]
        if task in ("retrieval", "captioning"):  # some videos have several captions
            rows += [row | {"caption": f"two shapes, {row['caption']}"} for row in rows[::3]]
        assert len(rows) >= 30, "three whole batches: two processes fill up the last one"
        table.write_text("\n".join(map(json.dumps, rows)))
        for name, batch_size in (("one", 10), ("two", 5)):
            runs[name].append(finetuning(task, table, model, tmp_path / name / task, batch_size))
    for arguments in runs["one"]:
        assert main(arguments) == 0, capfd.readouterr()
    (tmp_path / "runs.json").write_text(json.dumps(runs["two"]))
    (tmp_path / "fine_tune.py").write_text(FINE_TUNE)
    process = launch_two(
        EXAMPLES / "accelerate_ddp.yaml", tmp_path, str(tmp_path / "fine_tune.py"), str(tmp_path / "runs.json")
    )
    finish(process, tmp_path / "two")
    before = weights(model)
    for task in TASKS:
        one, other = weights(tmp_path / "one" / task), weights(tmp_path / "two" / task)
        assert one.keys() == other.keys() and len(one) > 50
        moved = [name for name, value in one.items() if name in before and not torch.equal(value, before[name])]
        assert len(moved) > 50, task
        assert [name for name in one if not torch.allclose(other[name], one[name], rtol=1e-4, atol=1e-6)] == [], task


@pytest.mark.proof
def test_two_processes_skip_the_same_samples_as_one_does(drawn, start, tmp_path, capfd):
    """A process has more bad rows than the other, once a whole batch of them: both take every step."""
    model = start(dropout=0.0)
    counts = {"validation": 0, "test": 0, "test_unseen": 0, "test_together": 0}
    clips = moving_shapes(tmp_path / "shapes", train=120, **counts)["train"]
    runs: dict[str, list[list[str]]] = {"one": [], "two": []}
    for name, is_bad in (("some", lambda number: number % 4 == 1), ("most", lambda number: number % 5 > 0)):
        rows = [dict(row) for row in TASKS["open-ended"].rows(clips)]
        videos = list(dict.fromkeys(row["video"] for row in rows))
        for number, video in enumerate(videos):
            if is_bad(number):
                (tmp_path / f"{name}-{number}.mp4").write_bytes(Path(video).read_bytes()[:700])
                for row in rows:
                    row["video"] = str(tmp_path / f"{name}-{number}.mp4") if row["video"] == video else row["video"]
        table = tmp_path / f"{name}.jsonl"
        table.write_text("\n".join(map(json.dumps, rows)))
        for run, batch_size in (("one", 8), ("two", 4)):
            arguments = finetuning("open-ended", table, model, tmp_path / run / name, batch_size)
            more = [
                f"--test_file={table}",
                "--bad_samples=skip",
                "--max_bad_share=1",
                "--frame_sampling=jitter",
                "--fit=random_crop",
            ]
            runs[run].append([*arguments, *more])
    for arguments in runs["one"]:
        assert main(arguments) == 0, capfd.readouterr()
    (tmp_path / "runs.json").write_text(json.dumps(runs["two"]))
    (tmp_path / "fine_tune.py").write_text(FINE_TUNE)
    program = str(tmp_path / "fine_tune.py"), str(tmp_path / "runs.json")
    finish(launch_two(EXAMPLES / "accelerate_ddp.yaml", tmp_path, *program), tmp_path / "two")
    for name in ("some", "most"):
        metrics = [json.loads((tmp_path / run / name / "metrics.json").read_text()) for run in ("one", "two")]
        failed = [
            {(one["rows"], one["row"], one["video"]) for one in map(json.loads, file.read_text().splitlines())}
            for file in (tmp_path / run / name / "failed_samples.jsonl" for run in ("one", "two"))
        ]
        assert (
            failed[0] == failed[1] and len(failed[0]) == metrics[0]["samples_failed"] == metrics[1]["samples_failed"]
        )
        assert metrics[0]["steps"] == metrics[1]["steps"] == 3
    one, other = weights(tmp_path / "one" / "some"), weights(tmp_path / "two" / "some")
    assert [name for name in one if not torch.allclose(other[name], one[name], rtol=1e-4, atol=1e-6)] == []

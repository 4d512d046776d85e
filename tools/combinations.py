"""
`python tools/combinations.py [--encoders NAME …] [--tables NAME …] [--output docs/combinations.md]`: every vision
encoder with every task, objective and pipeline, and with what a model must do besides (saving, gradient checkpointing,
bf16, torch.compile, other sizes, carried code, two processes), on small random models. Writes a page with a table of
each, and fails where something neither works nor is refused by name. An hour at most.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

import torch  # noqa: E402
from datasets import DatasetDict  # noqa: E402
from encoder_configs import (  # noqa: E402
    ENCODER_CONFIGS,
    FRAMES,
    PICTURES,
    SIDE,
    TWO_RESOLUTIONS,
    frame_settings,
    model_config,
    shown,
)
from language_models import language_config  # noqa: E402
from public_models import OUR_ENCODERS, PUBLIC_ENCODERS, save_bert, save_vision_model  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoTokenizer, pipeline  # noqa: E402

import violet  # noqa: E402
from violet.core.catalogue import MODEL_CLASSES, PIPELINE_CLASSES  # noqa: E402
from violet.core.files import write_text  # noqa: E402
from violet.data import moving_shapes  # noqa: E402
from violet.hub.language_models import language_processor  # noqa: E402
from violet.modeling_violet.objectives.masked_vision import MVM_TARGETS, predict_mvm  # noqa: E402
from violet.processing import without_end  # noqa: E402
from violet.training import TASKS, DataArguments, FinetuningArguments, ModelArguments, finetune  # noqa: E402

ASKING = ROOT / "tests" / "pipelines" / "asking.py"
LAUNCHER = ROOT / "examples" / "accelerate_ddp.yaml"
CLASSES = tuple(name for name in MODEL_CLASSES if name != "VioletVisionModel")
WRITING = "VioletForConditionalGeneration"
OBJECTIVES = ("vtc", "vtm", "mlm", "smtm", *(f"mvm_{name}" for name in MVM_TARGETS))
SIZES = (
    (FRAMES, SIDE),
    (1, SIDE),
    (FRAMES + 1, SIDE),
    (2 * FRAMES, SIDE),
    (FRAMES, 48),
    (FRAMES + 1, 40),
    (FRAMES, 8),
)
"""(frames, pixels a side) of the clips that each encoder is asked to take."""
LABELS = ("disc", "a red disc", "no")
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
QUESTION = "what moves left?"
WORDS = ["what moves left ?", "a red disc moves left", "a blue square grows", "option : 0 1 2 3"]
WORDS += ["write a description about the video .", "which colour comes first ? yes no green"]


class Failed(Exception):
    """Something that neither works nor is refused by name."""


@dataclass
class Bench:
    """
    What the checks of one encoder share.

    Attributes:
        encoder: its model type.
        folder: of this encoder's runs, emptied behind it.
        parts: a folder for each public model, `bert`, and of each encoder of ours a VIOLET's.
        clips: the drawn clips by split.
        notes: what the page says below the tables.
    """

    encoder: str
    folder: Path
    parts: Path
    clips: DatasetDict
    notes: list[str] = field(default_factory=list)

    @property
    def videos(self) -> list[str]:
        return list(self.clips["test"]["video"][:3])

    @property
    def pixels(self) -> torch.Tensor:
        return torch.randn(2, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    @property
    def shown(self) -> dict[str, torch.Tensor]:
        """The same by the names that the encoder takes."""
        return shown(self.encoder, self.pixels)

    def save(self, name: str, folder: Path, **settings: Any) -> None:
        """A random model of that class, and its processor."""
        model = self.model(name).eval()
        model.save_pretrained(folder, **settings)
        self.processor(model.config if name == WRITING else None).save_pretrained(folder, **settings)

    def processor(self, writing: Any = None) -> Any:
        """The processor of all models, or of the language model with that configuration."""
        settings = {"size": {"height": SIDE, "width": SIDE}, "num_frames": FRAMES, **frame_settings(self.encoder)}
        frames = violet.VioletVideoProcessor(**settings)
        tokenizer = AutoTokenizer.from_pretrained(self.parts / "bert")
        if writing is not None:
            return language_processor(writing, without_end(tokenizer), frames)
        return violet.VideoTextProcessor(tokenizer, frames)

    def model(self, name: str, **changes: Any) -> Any:
        """A random model of that class, without dropout, for the vocabulary of `bert`."""
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(self.parts / "bert")
        special = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
        special |= {"mask_token_id": tokenizer.mask_token_id, "pad_token_id": tokenizer.pad_token_id}
        labels = {"id2label": dict(enumerate(LABELS)), "label2id": {word: i for i, word in enumerate(LABELS)}}
        settings = {"vocab_size": len(tokenizer), **special, **labels, **dict.fromkeys(DROPOUTS, 0.0), **changes}
        settings.setdefault("num_labels", len(LABELS))
        if name == "VioletForPreTraining":
            settings.setdefault("mvm_targets", {"pixel": {}})
        if name == WRITING:
            text = {**language_config("llama").to_dict(), "vocab_size": len(tokenizer), "max_position_embeddings": 512}
            fusion = {"model_type": "language_model", "video_token_id": len(tokenizer)}
            settings |= {"text_config": {**text, **special}, "fusion_model_config": fusion, "projection_dim": None}
        return getattr(violet, name)(model_config(self.encoder, **settings))

    def inputs(self, name: str, model: Any) -> dict[str, Any]:
        """What a class is trained with."""
        ids = torch.tensor([[2, 9, 8, 7, 3], [2, 5, 6, 7, 3]])
        given: dict[str, Any] = {**self.shown, "input_ids": ids}
        if name in ("VioletForMaskedLM", "VioletForCaptioning"):
            given["labels"] = ids
        elif name == WRITING:
            with torch.no_grad():
                places = model.violet.encode_videos(**self.shown).tokens.shape[1]
            ids = torch.cat([ids.new_full((2, places), model.violet.fusion.video_token_id), ids], dim=1)
            given |= {"input_ids": ids, "labels": ids}
        elif name == "VioletForMultipleChoice":
            given |= {"input_ids": torch.stack([ids, ids.flip(0), ids.flip(1)], dim=1), "labels": torch.tensor([0, 2])}
        elif name == "VioletForVideoClassification":
            given = {**self.shown, "labels": torch.tensor([0, 2])}
        elif name == "VioletForPreTraining":
            grid = model.violet.video_encoder.encoder.grid(FRAMES, SIDE, SIDE)
            masked = torch.zeros(2, *grid, dtype=torch.bool)
            masked[:, 0, 0, 0] = True
            given |= {"labels": ids, "negative_index": torch.tensor([[1], [0]]), "bool_masked_pos": masked}
            given["mvm_targets"] = {"pixel": self.pixels}
        elif name != "VioletModel":
            given["labels"] = torch.tensor([0, 1])
        return given


def loss_of(output: Any) -> torch.Tensor:
    """The loss, or for a model without one a number that everything decides."""
    loss = getattr(output, "loss", None)
    return output.last_hidden_state.float().square().mean() if loss is None else loss


def require(condition: Any, what: str) -> None:
    """Raises `Failed`."""
    if not condition:
        raise Failed(what)


# --- tasks ---


def check_task(task: str, bench: Bench) -> str | None:
    """A step from public weights by `finetune`, evaluated, saved, the same when loaded, and asked by its pipeline."""
    rows = TASKS[task].rows(bench.clips["train"])
    tables = DatasetDict({"train": rows.select(range(4)), "test": rows.select(range(2))})
    frames = {"num_frames": FRAMES} if bench.encoder in PICTURES else {}
    start = ModelArguments(model=str(bench.parts / bench.encoder), text=str(bench.parts / "bert"), **frames)
    output = bench.folder / task
    few: dict[str, Any] = {
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "dataloader_num_workers": 0,
        "save_strategy": "no",
    }
    training = FinetuningArguments(output_dir=str(output), report_to="none", disable_tqdm=True, **few)
    result = finetune(start, DataArguments(task=task), training, tables)
    loaded = TASKS[task].model_class.from_pretrained(output).state_dict()
    trained = result.model.state_dict()
    same = trained.keys() == loaded.keys() and all(torch.equal(value, loaded[key]) for key, value in trained.items())
    require(same, "the loaded model has other weights")
    require(len(result.metrics) > 1, "nothing was measured")
    command = ["predict", "--model", str(output), *TASKS[task].ask(rows[0]), "--json"]
    require(violet_command(command).strip(), "violet predict says nothing")
    return None


def violet_command(arguments: Sequence[str]) -> str:
    """What the command prints, run in this process."""
    import contextlib
    import io

    from violet.cli import main

    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        status = main(list(arguments))
    require(status == 0, f"violet {arguments[0]}: {errors.getvalue()[-500:]}")
    return said.getvalue()


# --- objectives ---


def check_objective(objective: str, bench: Bench) -> str | None:
    """The loss of one objective is finite and trains every parameter that the objective says it trains."""
    target = objective.removeprefix("mvm_") if objective.startswith("mvm_") else None
    options = {} if target is None else {name: 6 for name in ("channels",) if name in MVM_TARGETS.find(target).options}
    model = bench.model("VioletForPreTraining", mvm_targets={target: options} if target else {})
    given = bench.inputs("VioletForPreTraining", model) | {"mvm_targets": {}}
    if target is not None and MVM_TARGETS.find(target).teacher is not None:
        grid = given["bool_masked_pos"].shape[1:]
        states = torch.randn(2, *grid, model.config.hidden_size)
        with torch.no_grad():
            shape = predict_mvm(model.config, target, model.mvm_heads[target], states)
        given["mvm_targets"][target] = (
            torch.randint(shape.shape[-1], shape.shape[:-1]) if target == "vq" else torch.randn_like(shape)
        )
    model.freeze_unused({objective: 1.0})
    loss = model.train()(**given, objectives={objective: 1.0}).loss
    loss.backward()
    require(torch.isfinite(loss), f"the loss is {loss}")
    trained = [one for one in model.objectives[objective].trained(model) if one.requires_grad]
    require(all(one.grad is not None for one in trained), "a parameter got no gradient")
    moved = [one.grad for one in model.violet.video_encoder.vision_model.parameters() if one.grad is not None]
    require(any(gradient.abs().sum() > 0 for gradient in moved), "the encoder got no gradient")
    return None


# --- pipelines ---


ASKED: Mapping[str, Mapping[str, Callable[[Any, list[str]], Any]]] = runpy.run_path(str(ASKING))["ASKED"]


def check_pipeline(task: str, bench: Bench) -> str | None:
    """The pipeline answers with each class of model that has it, as many times as it is asked."""
    asked = 0
    for name, questions in ASKED.items():
        if task in questions:
            folder = bench.folder / f"{task}-{name}"
            bench.save(name, folder)
            pipe = pipeline(task, model=str(folder))
            said = [json.dumps(questions[task](pipe, bench.videos)) for _ in range(2)]
            require(said[0] == said[1] and len(said[0]) > 2, f"{name} says {said}")
            asked += 1
    require(asked, "no class was asked")
    return None


def check_gallery(bench: Bench) -> str | None:
    """A gallery of clips is encoded, stored, opened and searched."""
    folder, stored = bench.folder / "search", bench.folder / "gallery"
    bench.save("VioletForRetrieval", folder)
    pipe = pipeline("video-text-retrieval", model=str(folder))
    pipe.open(stored, videos=bench.videos)
    found = pipe("a red disc", top_k=3)
    again, memory = (pipeline("video-text-retrieval", model=str(folder)) for _ in range(2))
    again.open(stored)
    memory.add(bench.videos)
    require(len(found) == 3 and found == again("a red disc", top_k=3), "the stored gallery finds others")
    require(near(found, memory("a red disc", top_k=3)), "the gallery in memory finds others")
    return None


# --- what a model must do besides ---


def check_saving(bench: Bench) -> str | None:
    """Each class is saved and loaded to the same numbers, without a key that is missing or left over."""
    for name in CLASSES:
        model = bench.model(name).eval()
        folder = bench.folder / f"saved-{name}"
        model.save_pretrained(folder)
        loaded, report = type(model).from_pretrained(folder, output_loading_info=True)
        require(not any(report.values()), f"{name}: {report}")
        given = bench.inputs(name, model)
        with torch.no_grad():
            pairs = loss_of(model(**given)), loss_of(loaded.eval()(**given))
        require(torch.allclose(*pairs, rtol=1e-5), f"{name}: {pairs}")
    return None


def check_checkpointing(bench: Bench) -> str | None:
    """Gradients with and without activation checkpointing are the same, for each class."""
    for name in CLASSES:
        model = bench.model(name).train()
        given = bench.inputs(name, model)
        gradients: list[dict[str, torch.Tensor]] = []
        for checkpointing in (False, True):
            if checkpointing:
                model.gradient_checkpointing_enable()
            model.zero_grad()
            torch.manual_seed(1)
            loss_of(model(**given)).backward()
            gradients.append({key: one.grad.clone() for key, one in model.named_parameters() if one.grad is not None})
        one, other = gradients
        require(one.keys() == other.keys() and one, f"{name}: other parameters have gradients")
        far = [key for key in one if not torch.allclose(one[key], other[key], atol=1e-5)]
        require(not far, f"{name}: the gradients of {far[:3]} differ")
    return None


def check_bf16(bench: Bench) -> str | None:
    """Each class computes in bfloat16 and trains under autocast."""
    for name in CLASSES:
        model = bench.model(name).train()
        given = bench.inputs(name, model)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model(**given))
        loss.backward()
        require(torch.isfinite(loss), f"{name}: the loss under autocast is {loss}")
        model = model.to(torch.bfloat16)
        half = {**given, **{key: one.bfloat16() for key, one in bench.shown.items()}}
        with torch.no_grad():
            loss = loss_of(model(**half))
        require(torch.isfinite(loss), f"{name}: the loss in bfloat16 is {loss}")
    return None


def check_compile(bench: Bench) -> str | None:
    """
    Each class is compiled into one graph. Where a model of transformers breaks it, that is noted, and ours is compiled
    behind it: the fusion and its head over tokens that are there.
    """
    broken = ""
    for name in CLASSES:
        model = bench.model(name).eval()
        given = bench.inputs(name, model)
        with torch.no_grad():
            expected = loss_of(model(**given))
            try:
                torch.compiler.reset()
                got = loss_of(torch.compile(model, fullgraph=True, backend="eager")(**given))
            except torch._dynamo.exc.TorchDynamoException as error:
                broken = broken or break_in_transformers(error)
                require(broken, f"{name}: {str(error)[:800]}")
                continue
        require(torch.allclose(got, expected, rtol=1e-4), f"{name}: {got} is not {expected}")
    if broken:
        check_compile_behind(bench)
        bench.notes.append(f"`torch.compile(fullgraph=True)` with {bench.encoder}: {broken}")
        return "breaks in transformers"
    return None


def check_compile_behind(bench: Bench) -> None:
    """What is ours, compiled into one graph over encoded videos."""
    model = bench.model("VioletModel").eval()
    ids = torch.tensor([[2, 9, 8, 7, 3], [2, 5, 6, 7, 3]])

    def fuse(tokens: Any) -> torch.Tensor:
        return model(video_tokens=tokens, input_ids=ids).last_hidden_state

    with torch.no_grad():
        tokens = model.encode_videos(**bench.shown)
        expected = fuse(tokens)
        torch.compiler.reset()
        got = torch.compile(fuse, fullgraph=True, backend="eager")(tokens)
    require(torch.allclose(got, expected, atol=1e-5), "the compiled fusion gives other numbers")


def break_in_transformers(error: Exception) -> str:
    """The place of a graph break in a model of transformers; "" where it lies elsewhere."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip().startswith("File ")]
    ours = [line for line in lines if "/site-packages/torch/" not in line]
    if not ours or "/transformers/models/" not in ours[-1]:
        return ""
    place = ours[-1].split("/site-packages/")[-1].replace('"', "")
    return f"{place}: {str(error).strip().splitlines()[0]}"


def check_sizes(bench: Bench) -> str | None:
    """Clips of other lengths and sizes run, or are refused in a sentence that names the encoder."""
    model = bench.model("VioletForQuestionAnswering").eval()
    ids = torch.tensor([[2, 9, 8, 7, 3]])
    taken = []
    for frames, side in SIZES:
        try:
            with torch.no_grad():
                logits = model(**shown(bench.encoder, torch.randn(1, frames, 3, side, side)), input_ids=ids).logits
        except ValueError as error:
            require(bench.encoder in str(error), f"{frames} frames of {side}: {error}")
            if not any(note.startswith(f"Sizes with {bench.encoder}") for note in bench.notes):
                bench.notes.append(f"Sizes with {bench.encoder}, refused first: {error}")
            continue
        require(logits.isfinite().all(), f"{frames} frames of {side}: no finite numbers")
        taken.append((frames, side))
    require((FRAMES, SIDE) in taken, "its own size is refused")
    return None if len(taken) == len(SIZES) else f"{len(taken)} of {len(SIZES)}, others refused"


def check_carried_code(bench: Bench) -> str | None:
    """A fresh process without the package loads every class by the code it carries, and answers as here."""
    folder = bench.folder / "carried"
    for name in ASKED:
        bench.save(name, folder / name, with_code=True)
    clips = bench.folder / "three"
    clips.mkdir()
    for video in bench.videos:
        shutil.copy(video, clips)
    settings = {"HF_MODULES_CACHE": str(bench.folder / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    answers = bench.folder / "answers.json"
    command = [sys.executable, str(ASKING), str(folder), str(clips), str(answers), "--refuse"]
    done = subprocess.run(command, cwd=clips, env=os.environ | settings, capture_output=True, text=True)
    require(done.returncode == 0, done.stderr[-800:])
    there = json.loads(answers.read_text())
    require(not there["modules"], f"the package was imported: {there['modules'][:3]}")
    for name, questions in ASKED.items():
        for task, question in questions.items():
            said = question(pipeline(task, model=str(folder / name)), sorted(map(str, clips.rglob("*.mp4"))))
            require(near(json.loads(json.dumps(said)), there["answers"][name][task]), f"{name}, {task}: other answers")
    return None


def near(one: Any, other: Any) -> bool:
    """Whether two answers are the same but for the last digits of their numbers."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-4 * max(1.0, abs(one))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(near, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    return one == other


def check_two_processes(bench: Bench) -> str | None:
    """Two processes pre-train to the weights that one gives."""
    start = bench.folder / "start"
    model = bench.model("VioletForPreTraining")
    if bench.encoder in TWO_RESOLUTIONS:
        # As torch starts them, untrained ResNets tell one video from another by so little that the gradients are
        # mostly rounding, of which Adam makes whole steps: He's start keeps what is different.
        for module in model.violet.vision_model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    model.save_pretrained(start)
    bench.processor().save_pretrained(start)
    drawn = {"source": "moving_shapes", "path": str(bench.parts / "drawn"), "clips": 24, "validation_clips": 8}
    weights, logs = [], []
    for processes in (1, 2):
        output = bench.folder / f"processes-{processes}"
        recipe = {
            "datasets": [{"name": "videos", **drawn}],
            "output_dir": str(output),
            "model": str(start),
            "objectives": {"vtc": 1.0, "vtm": 1.0, "mlm": 1.0, "mvm_pixel": 1.0},
            "mvm_targets": {"pixel": {}},
            "max_steps": 3,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "mixed_precision": "no",
            "num_workers": 0,
            "logging_steps": 1,
            "eval_batches": 1,
            "trackers": [],
        }
        file = bench.folder / f"recipe-{processes}.yaml"
        file.write_text(json.dumps(recipe))  # YAML holds JSON
        program = ["-m", "violet.cli", "pretrain", str(file)]
        settings = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        if processes == 2:
            launch = ["-m", "accelerate.commands.launch", "--config_file", str(LAUNCHER), "--num_processes", "2"]
            program = [*launch, "--main_process_port", "0", "--num_cpu_threads_per_process", "1", *program]
        else:
            settings["ACCELERATE_USE_CPU"] = "true"
        done = subprocess.run(
            [sys.executable, *program], env=os.environ | settings, capture_output=True, text=True, timeout=600
        )
        require(done.returncode == 0, (done.stdout + done.stderr)[-800:])
        weights.append(load_file(output / "model.safetensors"))
        logs.append([json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()])
    before = load_file(start / "model.safetensors")
    one, two = weights
    # Adam makes steps of the rounding of gradients that should be 0: those of keys' and match heads' biases, and here
    # and there of a weight.
    differ = {key: ((one[key] - two[key]).abs() > 1e-4).float().mean() for key in one if one[key].ndim > 1}
    far = [key for key, share in differ.items() if share > 0.01]
    require(not far, f"{far[:3]} differ")
    losses = [[line[name] for line in log for name in sorted(line) if "loss" in name] for log in logs]
    require(losses[0] and near(*losses), f"other losses: {losses}")
    require(any(not torch.equal(one[key], before[key]) for key in one), "nothing was learned")
    return None


TABLES: dict[str, dict[str, Callable[[Bench], str | None]]] = {
    "tasks": {task: partial(check_task, task) for task in TASKS},
    "objectives": {objective: partial(check_objective, objective) for objective in OBJECTIVES},
    "pipelines": {
        **{task: partial(check_pipeline, task) for task in (*PIPELINE_CLASSES, "video-classification")},
        "search gallery": check_gallery,
    },
    "models": {
        "save and load": check_saving,
        "gradient checkpointing": check_checkpointing,
        "bf16": check_bf16,
        "compile": check_compile,
        "sizes": check_sizes,
        "carried code": check_carried_code,
        "two processes": check_two_processes,
    },
}
ABOUT = {
    "tasks": "One step of `violet finetune` from public weights, measured, saved, loaded, asked by `violet predict`.",
    "objectives": "The loss and the gradients of each pre-training objective.",
    "pipelines": "Each pipeline, with each class of model that has it.",
    "models": "Each model class: what is saved is what is loaded; gradients are the same with gradient checkpointing; "
    "bfloat16, and autocast; `torch.compile(fullgraph=True)`; clips of other lengths and sizes; answers of a fresh "
    "process that has not this package, by the code that the checkpoint carries; two processes as one.",
}


def run_check(check: Callable[[Bench], str | None], bench: Bench) -> tuple[str, str]:
    """(what the table's cell says, what went wrong or "")."""
    try:
        return check(bench) or "yes", ""
    except Failed as error:
        return "NO", str(error)
    except ValueError as error:
        if bench.encoder in str(error):  # refused by name
            bench.notes.append(f"{bench.encoder}: {error}")
            return "refused", ""
        return "NO", traceback.format_exc()[-1500:]
    except Exception:  # noqa: BLE001 a walk over everything goes on, and says at its end what failed
        return "NO", traceback.format_exc()[-1500:]


def prepare(folder: Path) -> tuple[Path, DatasetDict]:
    """The public parts and the drawn clips that all encoders share."""
    counts: dict[str, Any] = {"train": 24, "validation": 4, "test": 8, "test_unseen": 0, "test_together": 0}
    clips = moving_shapes(folder / "shapes", **counts)
    texts = [*clips["train"]["caption"], *WORDS]
    texts += [f"{one['question']} {one['answer']}" for asked in clips["train"]["questions"] for one in asked]
    parts = folder / "parts"
    save_bert(texts * 2, parts / "bert")
    for encoder in PUBLIC_ENCODERS:
        save_vision_model(encoder, parts / encoder)
    for encoder in OUR_ENCODERS:
        bench = Bench(encoder, folder, parts, clips)
        bench.model("VioletForPreTraining").save_pretrained(parts / encoder)
        bench.processor().save_pretrained(parts / encoder)
    return parts, clips


def page(cells: Mapping[str, Mapping[str, Mapping[str, str]]], notes: Sequence[str], seconds: float) -> str:
    """The page: by table and encoder what each column's cell says."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "torch"))
    lines = [
        "# What was tried together",
        "",
        f"Written by `make combinations` on {date.today().isoformat()}, in {seconds / 60:.0f} minutes: violet "
        f"{violet.__version__}, {versions}, Python {platform.python_version()}. Small random models of the real "
        "classes, on a CPU. `yes`: it works; `refused`: it cannot be, and is refused by a sentence below.",
    ]
    for name, rows in cells.items():
        columns = list(next(iter(rows.values())))
        lines += ["", f"## {name.capitalize()}", "", ABOUT[name], ""]
        lines += [f"| encoder | {' | '.join(columns)} |", f"|---{'|---' * len(columns)}|"]
        lines += [f"| {encoder} | {' | '.join(row[column] for column in columns)} |" for encoder, row in rows.items()]
    if notes:
        lines += ["", "## Notes", "", *(f"- {' '.join(note.split())}" for note in notes)]
    return "\n".join(lines) + "\n"


def walk(encoders: Sequence[str], tables: Sequence[str], folder: Path) -> Iterator[tuple[str, str, str, str, Bench]]:
    """(table, column, encoder, what the cell says, its bench), one after the other."""
    parts, clips = prepare(folder)
    for encoder in encoders:
        bench = Bench(encoder, folder / "runs", parts, clips)
        bench.folder.mkdir()
        for table in tables:
            for column, check in TABLES[table].items():
                started = time.perf_counter()
                cell, wrong = run_check(check, bench)
                seconds = time.perf_counter() - started
                sys.stdout.write(f"{seconds:6.1f} s  {encoder:20} {table:11} {column:26} {cell}\n{wrong}")
                sys.stdout.flush()
                yield table, column, encoder, cell, bench
        shutil.rmtree(bench.folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODER_CONFIGS), choices=list(ENCODER_CONFIGS))
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "combinations.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    violet.register()
    started = time.perf_counter()
    cells: dict[str, dict[str, dict[str, str]]] = {table: {} for table in options.tables}
    notes: dict[str, None] = {}
    with tempfile.TemporaryDirectory() as folder:
        for table, column, encoder, cell, bench in walk(options.encoders, options.tables, Path(folder)):
            cells[table].setdefault(encoder, {})[column] = cell
            notes |= dict.fromkeys(bench.notes)
    write_text(options.output, page(cells, list(notes), time.perf_counter() - started))
    failed = sum(cell == "NO" for rows in cells.values() for row in rows.values() for cell in row.values())
    sys.stdout.write(f"{options.output}; {failed} failed\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

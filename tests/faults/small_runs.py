"""Clips, a small model and runs of it, for promises about training. Imports are inside: a campaign starts quickly."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from campaign import inputs

CLIPS = 24
SMALL = {
    "vision_config": {
        "embed_dim": 8, "depths": (1, 1, 1), "num_heads": (1, 2, 2), "window_size": (2, 2, 2), "patch_size": 4,
        "drop_path_rate": 0.1, "initializer_range": 0.1,
    },
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.1, "projection_dim": 16, "mvm_targets": {"pixel": {}},
}  # fmt: skip
COUNTS = {"train": 0, "test": 0, "test_unseen": 0, "test_together": 0}


def captioned() -> tuple[Path, Any]:
    """The folder of drawn clips with captions, and their rows."""
    from violet.data import moving_shapes

    folder = inputs("captioned", lambda path: moving_shapes(path, pretrain=CLIPS, validation=8, **COUNTS))
    return folder, moving_shapes(folder, pretrain=CLIPS, validation=8, **COUNTS)["pretrain"]


def captioned_shards() -> Path:
    """The same clips and captions in shards."""
    from violet.data import prepare_shards

    return (
        inputs("shards", lambda folder: prepare_shards(retrieval_table(folder), folder / "set", shard_size=0.02))
        / "set"
    )


def start() -> Path:
    """A small model of clips of 32 x 32 pixels, and its processor."""
    import torch

    from violet.configuration import named_configuration
    from violet.modeling_violet import VioletForPreTraining
    from violet.processing import VideoTextProcessor, VioletVideoProcessor, train_wordpiece_tokenizer

    _, rows = captioned()

    def save(folder: Path) -> None:
        tokenizer = train_wordpiece_tokenizer(rows["caption"], 150)
        frames = VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=2)
        torch.manual_seed(0)
        config = named_configuration("violet-tiny", **SMALL, vocab_size=len(tokenizer))
        VioletForPreTraining(config).save_pretrained(folder)
        VideoTextProcessor(tokenizer, frames).save_pretrained(folder)

    return inputs("start", save)


def recipe(output: Path, **changes: Any) -> dict[str, Any]:
    """Pre-training of a few steps."""
    folder, _ = captioned()
    shapes = {"source": "moving_shapes", "path": str(folder), "clips": CLIPS, "validation_clips": 8}
    return {
        "datasets": [{"name": "videos", **shapes}],
        "output_dir": str(output),
        "model": str(start()),
        "objectives": {"vtm": 1.0, "mlm": 1.0, "vtc": 0.5, "mvm_pixel": 1.0},
        "mvm_targets": {"pixel": {}},
        "max_steps": 5,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "mixed_precision": "no",
        "num_workers": 0,
        "logging_steps": 1,
        "eval_batches": 1,
        "save_steps": 1000,
        "trackers": [],
        **changes,
    }


def retrieval_table(folder: Path) -> Path:
    """A table of clips and captions to fine-tune retrieval on."""
    import json

    clips, rows = captioned()
    table = folder / "table.jsonl"
    table.write_text("\n".join(json.dumps({"video": row["video"], "caption": row["caption"]}) for row in rows))
    return table


def trainer(folder: Path, table: Path | None = None, data: dict[str, Any] | None = None, **settings: Any) -> Any:
    """A `VioletTrainer` for retrieval with the small model."""
    from violet.training import DataArguments, FinetuningArguments, ModelArguments
    from violet.training.finetuning import build_model_and_processor, build_trainer, load_tables

    settings = {
        "max_steps": 5, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "report_to": "none", "seed": 1,
        "save_strategy": "no", "disable_tqdm": True, "dataloader_num_workers": 0, "logging_steps": 1, **settings,
    }  # fmt: skip
    training = FinetuningArguments(output_dir=str(folder / "run"), **settings)
    given = DataArguments(
        task="retrieval", train_file=str(table or retrieval_table(folder)), allow_unknown_words=True, **(data or {})
    )
    tables = load_tables(given)
    model, processor = build_model_and_processor(
        ModelArguments(model=str(start())), tables["train"], given, kernel=None
    )
    return build_trainer(model, processor, tables, given, training)


def two_processes(folder: Path, port: int, program: str, *arguments: str, **environment: str) -> list[Any]:
    """Two processes with the environment that a launcher gives them; what they say is in `said_RANK.txt`."""
    from own_process import OwnProcess

    here = Path(__file__).parent
    code = f"import sys; sys.path[:0] = {[str(here), str(here.parent / 'helpers')]!r}; {program}"
    both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    both |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", **environment}
    return [
        OwnProcess(
            *("-c", code, *arguments),
            env=both | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=folder / f"said_{rank}.txt",
        )
        for rank in range(2)
    ]


@contextmanager
def separate_run() -> Iterator[None]:
    """
    Accelerate keeps one state for a process, and a run changes the number of threads. No picture of a run's curves is
    drawn: that takes as long as the run.
    """
    import torch
    from accelerate.state import AcceleratorState

    threads = torch.get_num_threads()
    AcceleratorState._reset_state(True)
    torch.set_num_threads(1)
    try:
        with patch("violet.training.pretraining.draw_curves"):
            yield
    finally:
        AcceleratorState._reset_state(True)
        torch.set_num_threads(threads)

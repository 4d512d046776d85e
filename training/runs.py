"""What every run leaves in its folder: its settings when it begins; model, metrics and card when it ends."""

import errno
import fcntl
import json
import logging
import multiprocessing
import os
import platform
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from ..configuration import NAMED_CONFIGURATIONS
from ..core.files import save_into, write_json
from ..evaluation.provenance import METRICS_FILE, run_provenance
from ..hub import write_model_card
from ..modeling_violet import VioletPreTrainedModel
from ..processing import VideoTextProcessor
from .arguments import SettingsError

logger = logging.getLogger(__name__)
RUN_FILE = "run.json"
LOCK_FILE = ".lock"
WORKERS_FOLDER = ".workers"

_held: set[int] = set()
"""Locked files that this process has open."""


def _let_go() -> None:
    """In a forked process, such as a worker: the lock ends with the process that took it, not with this one."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def only_run_in(output_dir: Path, is_main: bool) -> Iterator[None]:
    """
    Keeps other runs out of a folder while the block runs. The lock ends with the process, however that ends. What the
    data loader's workers need on the disk lies in that folder too: of one that is killed nothing is left elsewhere.

    Args:
        is_main: whether this is the process that locks, one of each run.

    Raises:
        SettingsError: if another run is in the folder.
    """
    if not is_main:
        with _sockets_in(output_dir / WORKERS_FOLDER):
            yield
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    number = _lock(output_dir)
    sockets = output_dir / WORKERS_FOLDER
    shutil.rmtree(sockets, ignore_errors=True)  # of a run that was killed
    try:
        with _sockets_in(sockets):
            yield
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
        if number in _held:  # else this is a process that was forked meanwhile
            with suppress(OSError):  # it may stay: it is locked no longer
                (output_dir / LOCK_FILE).unlink()
            _held.remove(number)
            os.close(number)


@contextmanager
def _sockets_in(folder: Path) -> Iterator[None]:
    """
    Makes a folder the one in which `multiprocessing` puts the sockets of processes that start in the block, through
    which workers hand over tensors. By default each worker makes one in the temporary folder.
    """
    process: Any = multiprocessing.current_process()
    before = process._config.get("tempdir")  # what `multiprocessing.util.get_temp_dir` makes if it is not there
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as one:  # too long a path, or a file system that has none
            one.bind(str(folder / f"listener-{os.getpid():08}"))
            (folder / f"listener-{os.getpid():08}").unlink()
        process._config["tempdir"] = str(folder)
    except OSError:
        logger.debug("%s cannot hold sockets: workers use the temporary folder.", folder)
    try:
        yield
    finally:
        process._config["tempdir"] = before


def _lock(output_dir: Path) -> int:
    """An open file that only this process has locked."""
    path = output_dir / LOCK_FILE
    while True:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(number, 200, 0).decode(errors="replace") or "unknown"
            os.close(number)
            raise SettingsError(
                f"{output_dir} is in use by another run (process {holder}): wait until it has ended, or give another "
                "output folder."
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                os.close(number)
                raise
            logger.warning("%s: this file system has no locks (%s); start no second run there.", output_dir, error)
        with suppress(FileNotFoundError):  # the run that had it before deleted it: another one may have made it again
            if os.path.samestat(os.fstat(number), os.stat(path)):
                break
        os.close(number)
    os.ftruncate(number, 0)
    os.pwrite(number, f"{os.getpid()} on {platform.node()}".encode(), 0)
    _held.add(number)
    return number


def is_hub_name(model: str) -> bool:
    """Whether `from_pretrained` would look on the Hub for it."""
    return model not in NAMED_CONFIGURATIONS and not os.path.isdir(model)


def freeze(model: VioletPreTrainedModel, names: Iterable[str], option: str) -> None:
    """
    Keeps the weights of modules of these names, and logs how many they are.

    Raises:
        SettingsError: for a name that no module has; it names the option that said it.
    """
    known, frozen = dict(model.named_modules()), False
    for name in names:
        if not name or name not in known:
            near = sorted(one for one in known if one and one.count(".") <= 1)
            raise SettingsError(
                f"{option}: no module is named {name!r}; there are {', '.join(near)} and those inside."
            )
        known[name].requires_grad_(False)
        frozen = True
        logger.info("%s is frozen: %d parameters.", name, sum(one.numel() for one in known[name].parameters()))
    if frozen:
        trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
        logger.info("%d of %d parameters are trained.", trained, model.num_parameters())


FREE = (
    *("num_workers", "frame_cache_mb", "bad_samples", "max_bad_share", "max_bad_steps", "decode_time_limit"),
    "process_time_limit",
)
"""Settings that a run may go on with others of: they decide how it computes, and not what."""


def begin_run(output_dir: Path, settings: dict[str, Any]) -> None:
    """
    Writes the run's settings into its folder, or compares them with those that are there, but for those of `FREE`.

    Raises:
        SettingsError: if the folder holds a run with other settings; it names them.
    """
    file = output_dir / RUN_FILE
    if not file.exists():
        write_json(file, settings)
        return
    before = json.loads(file.read_text())
    other = [
        f"{name} was {before.get(name)!r} and is {settings.get(name)!r}"
        for name in sorted({*before, *settings} - {*FREE})
        if before.get(name) != settings.get(name)
    ]
    if other:
        raise SettingsError(
            f"{output_dir} holds a run with other settings: {'; '.join(other)}. "
            "Give another output folder, or the same settings to go on with that run."
        )


def save_model(
    output_dir: Path,
    model: VioletPreTrainedModel,
    processor: VideoTextProcessor,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """
    Saves model and processor into the run's folder, both at once.

    Args:
        weights: the model's, by name, if it does not hold the whole of them itself.
    """

    def write(folder: Path) -> None:
        model.save_pretrained(folder, state_dict=weights)
        processor.save_pretrained(folder)

    save_into(output_dir, write)


def write_metrics(
    output_dir: Path,
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    tables: Mapping[str, Dataset],
    **facts: Any,
) -> None:
    """`metrics.json`: the metrics, the settings, and what they rest on (`run_provenance` of `tables` and `facts`)."""
    provenance = run_provenance(tables, **facts)
    write_json(output_dir / METRICS_FILE, {**metrics, "settings": dict(settings), "provenance": provenance})


def end_run(
    output_dir: Path,
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    tables: Mapping[str, Dataset],
    license_name: str | None = None,
    **facts: Any,
) -> None:
    """
    `write_metrics`, and the model card, which is made of what the folder then holds.

    Args:
        license_name: of the weights, in the Hub's spelling; by default the one in the card that is there.
    """
    write_metrics(output_dir, metrics, settings, tables, **facts)
    write_model_card(output_dir, license_name=license_name)

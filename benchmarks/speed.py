"""`violet speed`: every path of the package in one table."""

import gc
import json
import math
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from ..core.files import write_json
from ..core.quiet import silence_transformers
from ..evaluation.pictures import draw_growth
from ..evaluation.provenance import source_commit
from . import exported, judged_paths, other_paths, serving, systems
from .clips import real_or_drawn
from .measuring import Case, Setting, Told, measure, told

Paths = Callable[[Setting], Iterator[Case | Told]]

PATHS: dict[str, Paths] = {
    "encoder": judged_paths.encoder,
    "fusion": judged_paths.fusion,
    "captions": judged_paths.captions,
    "retrieval": judged_paths.retrieval,
    "starting": judged_paths.starting,
    "weights": judged_paths.weights,
    "training": judged_paths.training,
    "pretraining": judged_paths.pretraining,
    "checkpointing": judged_paths.checkpointing,
    "configurations": other_paths.configurations,
    "systems": systems.encoders,
    "clip-vip": systems.clip_vip_layers,
    "vlora": systems.low_rank,
    "coca": systems.coca,
    "maskalign": systems.maskalign,
    "experts": systems.experts,
    "gradient-caching": systems.gradient_caching,
    "tasks": other_paths.tasks,
    "precision": other_paths.precision,
    "loading": other_paths.loading,
    "export": exported.export,
    "serving": serving.serving,
    "growth": other_paths.growth,
}
"""What is measured, by the name that chooses it; a path may have several rows."""

COLUMNS = f"{'':34}{'ms':>11}{'rate':>20}{'of matmul':>11}{'peak MB':>9}{'ratio':>7}  beside"


def list_paths() -> str:
    """The names and what they measure."""
    lines = (f"{name:18}{(path.__doc__ or '').strip().splitlines()[0]}" for name, path in PATHS.items())
    return "\n".join(lines)


def run_speed(
    names: Sequence[str] = (),
    quick: bool = False,
    clock: str = "wall",
    threads: int | None = None,
    clips: str | None = None,
    output: str | None = None,
    against: str | None = None,
    picture: str | None = None,
) -> int:
    """
    Measures paths, prints a line for each, and judges those that have a bar.

    Args:
        names: of `PATHS`; all by default.
        quick: two minutes on two cores: smaller sizes, few rounds, and no bars.
        clock: "wall", or "cpu", the time of the processor, on a machine that other work keeps busy (one thread).
        threads: of torch; as many as it takes by default.
        clips: a folder of mp4 files to load; drawn ones by default.
        output: a JSON file for machine and rows.
        against: another run's JSON file, to compare with path by path.
        picture: a PNG of how times grow, if the path `growth` is measured.

    Returns:
        1 if a bar is missed or a path failed, else 0.

    Raises:
        ValueError: for an unknown name, or a clock of the processor with several threads.
    """
    unknown = [name for name in names if name not in PATHS]
    if unknown:
        raise ValueError(f"There is no path {', '.join(map(repr, unknown))}; there are {', '.join(PATHS)}.")
    if threads is not None:
        torch.set_num_threads(threads)
    if clock == "cpu" and (torch.get_num_threads() > 1 or torch.cuda.is_available()):
        raise ValueError("`--clock cpu` is the time of one processor: give `--threads 1`, and use no GPU.")
    other = {} if against is None else read_rows_by_name(against)
    silence_transformers()  # nothing stands between a table's lines
    machine = machine_facts(clock)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(COLUMNS, flush=True)
    rows, failed, threads = [], [], torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="violet-speed-") as folder:
        files = real_or_drawn(clips, Path(folder), quick)
        for name in dict.fromkeys(names or PATHS):
            own = Path(folder) / f"path-{name}"  # two paths may write files of one name
            own.mkdir()
            setting = Setting(quick, own, files, clock, *((0.4, 3) if quick else (40.0, 7)))
            torch.manual_seed(0)
            torch.set_num_threads(threads)  # pre-training leaves some of them to its workers
            try:
                for case in PATHS[name](setting):
                    row = told(case, setting) if isinstance(case, Told) else measure(case, setting)
                    rows.append({"path": name, **row})
                    print(line_of(row, other.get(row["name"])), flush=True)
            except Exception:  # noqa: BLE001 - told, and the other paths' rows are not lost
                failed.append(name)
                print(f"{name}: failed\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            gc.collect()
            if output is not None:
                write_json(output, {"machine": machine, "quick": quick, "rows": rows, "failed": failed})
    grown = {row["name"].removeprefix("growth, "): row["numbers"] for row in rows if row["path"] == "growth"}
    if picture is not None and grown:
        draw_growth(
            picture, {name: (one["sizes"], one["seconds_of_sizes"], one["exponent"]) for name, one in grown.items()}
        )
    missed = [f"{row['name']}: {bar['bar']}" for row in rows for bar in row["bars"] if bar["reached"] is False]
    for one in missed:
        print(f"missed: {one}")
    return int(bool(missed or failed))


def machine_facts(clock: str) -> dict[str, Any]:
    """What a table is read with: processor, threads, releases, commit, load."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform.startswith("linux") else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "violet": __version__,
        "commit": source_commit() or "none",
        "processor": model,
        "cores": os.cpu_count(),
        **gpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "clock": clock,
        "load": round(os.getloadavg()[0], 1),
    }


def read_rows_by_name(file: str) -> dict[str, dict[str, Any]]:
    """
    The rows of another run.

    Raises:
        ValueError: for a file that is none.
    """
    try:
        return {row["name"]: row for row in json.loads(Path(file).read_text())["rows"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} holds no rows of `violet speed --json`: {error}") from error


def line_of(row: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> str:
    """A row of the printed table; `other` is the same path in another run."""

    def shown(value: float | None, form: str) -> str:
        return "" if value is None or math.isnan(value) else format(value, form)

    rate = f"{row['rate']:.4g} {row['unit']}/s"
    peak = None if row["peak_bytes"] is None else row["peak_bytes"] / 1e6
    beside = row["beside"] or ""
    line = f"{row['name']:34}{1000 * row['seconds']:11.1f}{rate:>20}{shown(row['share'], '.3f'):>11}"
    line += f"{shown(peak, '.0f'):>9}{shown(row['ratio'], '.3f'):>7}  {beside}"
    notes = [f"{name} {value:.4g}" for name, value in row["numbers"].items() if isinstance(value, int | float)]
    notes += [f"{bar['bar']}: {_verdict(bar['reached'])}" for bar in row["bars"]]
    if other is not None:
        notes.append(f"{other['seconds'] / row['seconds']:.3f} x the other run's rate")
    return line.rstrip() + (f"\n{'':6}{'; '.join(notes)}" if notes else "")


def _verdict(reached: bool | None) -> str:
    return {True: "reached", False: "MISSED", None: "not measured here"}[reached]

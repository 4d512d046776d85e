"""The whole test suite in three environments: the lowest releases that setup.cfg allows, constraints.txt, the newest.

    python measurements/compatibility.py [--folder outputs/compatibility] [--rows lowest constraints newest]

uv resolves and makes each environment (some 7 GB, and up to five minutes for the downloads). `newest` ignores the
floors and ceilings of setup.cfg. The output of each run of pytest is in FOLDER/NAME.log; docs/compatibility.md has a
row for each environment, with its versions and the tests that failed. Rows that are not run again stay as they are.
Exits with 1 if a test failed.
"""

import argparse
import configparser
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from violet.core.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "compatibility.md"
MEASURED = "<!-- what follows is written by `make compat` -->"
SHOWN = ("transformers", "torch", "torchvision", "huggingface-hub", "accelerate", "datasets", "numpy", "av")
ROWS = ("lowest", "constraints", "newest")
WORKERS = ("-n", "logical", "--maxprocesses", "4", "--dist", "worksteal")
"""As `make test`."""
UV = Path(sys.executable).with_name("uv")


def requirements(folder: Path) -> Path:
    """Every requirement of setup.cfg and of its extra `test`, by its bare name: no floors, no ceilings."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    lines = settings["options"]["install_requires"].splitlines()
    lines += settings["options.extras_require"]["test"].splitlines()
    names = sorted({match[0] for line in lines if (match := re.match(r"[\w.-]+", line.strip()))})
    return write_text(folder / "newest.in", "\n".join(names) + "\n")


def make_environment(row: str, folder: Path) -> Path:
    """Makes the row's environment, with this checkout installed in it, and returns its Python."""
    environment = folder / row
    shutil.rmtree(environment, ignore_errors=True)
    python = environment / "bin" / "python"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([UV, "venv", "--quiet", "--seed", "--python", sys.executable, environment], check=True)
    if row == "constraints":
        pins = ROOT / "constraints.txt"
        wanted = ["--constraints", pins, "-e", f"{ROOT}[test]"]
    else:
        source = ["setup.cfg", "--extra", "test", "--resolution", "lowest-direct"]
        source = source if row == "lowest" else [requirements(folder)]
        pins = folder / f"{row}.txt"
        compile = [UV, "pip", "compile", "--quiet", "--python-version", version, "--output-file", pins, *source]
        subprocess.run(compile, cwd=ROOT, check=True)
        wanted = ["-r", pins]
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, *wanted], check=True)
    if row != "constraints":
        ourselves = [UV, "pip", "install", "--quiet", "--python", python, "--no-deps", "-e", ROOT]
        subprocess.run(ourselves, check=True)
    return python


def run_suite(row: str, python: Path, folder: Path) -> dict[str, Any]:
    """Runs the suite there and returns versions, counts and the names of the tests that failed."""
    results, started = folder / f"{row}.xml", time.perf_counter()
    with open(folder / f"{row}.log", "w") as log:
        subprocess.run(
            [python, "-m", "pytest", *WORKERS, f"--junitxml={results}"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": ""},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    cases = list(ElementTree.parse(results).iter("testcase"))
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    asked = f"import importlib.metadata as m, json; print(json.dumps([m.version(n) for n in {SHOWN!r}]))"
    told = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    return {
        "date": datetime.date.today().isoformat(),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "versions": dict(zip(SHOWN, json.loads(told.stdout), strict=True)),
        "passed": len(cases) - len(failed) - skipped,
        "skipped": skipped,
        "failed": failed,
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }


def describe(results: dict[str, dict[str, Any]]) -> str:
    """The tables of docs/compatibility.md."""
    lines = [
        f"| | date | Python | {' | '.join(SHOWN)} | passed | skipped | failed |",
        "|---" * (len(SHOWN) + 6) + "|",
    ]
    for row, found in results.items():
        versions = " | ".join(found["versions"].values())
        counts = f"{found['passed']} | {found['skipped']} | {len(found['failed'])}"
        lines.append(f"| {row} | {found['date']} | {found['python']} | {versions} | {counts} |")
    for row, found in results.items():
        if found["failed"]:
            lines += ["", f"Failed in {row}:", "", *(f"- `{name}`" for name in found["failed"])]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/compatibility"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / "results.json"
    results = json.loads(written.read_text()) if written.is_file() else {}
    for row in options.rows:
        found = run_suite(row, make_environment(row, folder), folder)
        results[row] = found
        write_json(written, results)
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        counts = f"{found['passed']} passed, {found['skipped']} skipped, {len(found['failed'])} failed"
        print(f"{row:12} {counts} in {found['minutes']} min ({versions})")
        for name in found["failed"]:
            print(f"             failed: {name}")
    text = DOCUMENT.read_text().split(MEASURED)[0]
    write_text(DOCUMENT, f"{text}{MEASURED}\n\n{describe({row: results[row] for row in ROWS if row in results})}")
    return int(any(results[row]["failed"] for row in options.rows))


if __name__ == "__main__":
    sys.exit(main())

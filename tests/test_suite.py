"""What the suite watches over itself, shown by a run of pytest over tests that must fail."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = '''
import pytest

LIBRARY = """
import warnings
from transformers.utils import logging
def log(how, message):
    getattr(logging.get_logger(__name__), how)(message)
def warn(category, stacklevel=1):
    warnings.warn("`old` has a new name", category, stacklevel=stacklevel)
"""
CALLERS = "def log_by(*given): log(*given)\\ndef warn_by(*given): warn(*given)"
library = {"__name__": "transformers.somewhere"}
exec(LIBRARY, library)
ours = library | {"__name__": "violet.somewhere"}
exec(CALLERS, ours)
theirs = library | {"__name__": "peft.somewhere"}
exec(CALLERS, theirs)


@pytest.mark.parametrize("how", ["warning", "warning_once", "warning_once"])
def test_logged_by_ours(how):
    ours["log_by"](how, "`old` is deprecated")


@pytest.fixture(scope="module")
def made():
    ours["log_by"]("warning", "`old` will be removed in version 6")


def test_logged_by_ours_in_a_fixture(made):
    pass


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
@pytest.mark.parametrize("stacklevel", [1, 2])
def test_warned_by_ours(category, stacklevel):
    ours["warn_by"](category, stacklevel)


def test_others(made):
    theirs["log_by"]("warning_once", "`old` is deprecated")
    library["log"]("warning", "`old` is deprecated")
    theirs["warn_by"](DeprecationWarning)
    library["warn"](FutureWarning)
    ours["log_by"]("warning", "some weights are new")
    ours["log_by"]("info", "`old` is deprecated")
    ours["warn_by"](UserWarning)
'''


@pytest.fixture
def run(tmp_path):
    """Runs pytest with these settings and conftest.py over the tests that are given."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests/conftest.py", tmp_path / "tests")

    def pytest_over(tests: str, *options: str) -> str:
        (tmp_path / "tests/test_it.py").write_text(tests)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout

    return pytest_over


def test_a_deprecated_use_fails_the_test_if_it_is_our_own(run):
    said = run(TESTS)
    failed = re.findall(r"^FAILED tests/test_it.py::(\S+)", said, re.MULTILINE)
    assert failed == [
        "test_logged_by_ours[warning]",
        "test_logged_by_ours[warning_once0]",
        "test_logged_by_ours[warning_once1]",
        "test_logged_by_ours_in_a_fixture",
        *(
            f"test_warned_by_ours[{stacklevel}-{category}]"
            for stacklevel in (1, 2)
            for category in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")
        ),
    ], said
    assert "10 failed, 1 passed" in said


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_ends_with_its_time_and_its_largest_process(run, workers):
    """Each of the two tests holds its memory for itself; the larger is one that it starts."""
    said = run(
        "import subprocess, sys\n"
        "def test_small(): bytearray(b'x') * 300_000_000\n"
        "def test_large(): subprocess.run([sys.executable, '-c', 'bytearray(b\"x\") * 600_000_000'], check=True)\n",
        f"-n{workers}",
    )
    held = re.search(r"^\d+ min \d+ s, (.+); the largest held ([\d.]+) GB$", said, re.MULTILINE)
    assert held, said
    assert held[1] == (f"{workers} workers" if workers else "one process")
    assert 0.6 < float(held[2]) < 0.8

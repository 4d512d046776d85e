"""
What all tests share. Every process computes with one thread, since `make test` runs several. A deprecated use that our
own code makes fails the test in which it happens, and a run says at its end how long it took and what memory it held.
"""

import ctypes
import gc
import logging
import os
import re
import resource
import sys
import time
import warnings
from pathlib import Path

import psutil
import pytest

# Before torch is imported; the processes that tests start inherit it.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
os.environ["VIOLET_LOCAL_ADDRESSES"] = "1"  # the servers of tests are on this machine


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """`../shared`: reference outputs and real clips, which are not part of the project."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory) -> Path:
    """A small set of moving shapes: real mp4 files."""
    from violet.data import moving_shapes

    folder = tmp_path_factory.mktemp("data") / "shapes"
    moving_shapes(folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)
    return folder


@pytest.fixture(scope="session")
def questions(shapes_folder):
    """The rows of its splits, one a question."""
    from violet.data import moving_shapes, open_ended

    clips = moving_shapes(shapes_folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)
    return {split: open_ended(rows) for split, rows in clips.items()}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, questions) -> Path:
    """A saved violet-tiny for question answering, randomly initialised, with its processor."""
    import torch

    from violet.training import DataArguments, ModelArguments
    from violet.training.finetuning import build_model_and_processor

    torch.manual_seed(0)
    model, processor = build_model_and_processor(
        ModelArguments(from_scratch=True), questions["train"], DataArguments(), kernel=None
    )
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


# --- deprecated uses by our own code ---


LIBRARIES = {"transformers", "huggingface_hub", "tokenizers", "torch"}


class OwnDeprecations(logging.Handler):
    """
    Collects what the libraries call deprecated, through `logging` or through `warnings`, if the nearest caller
    outside of them is a module of violet. Warnings are mostly attributed to the library that gives them, so that
    pytest's own filter (see pyproject.toml) does not see whose they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if re.search("deprecated|will be removed", record.getMessage()):
            self.add(record.getMessage())

    def showwarning(self, message, category, *place) -> None:
        if issubclass(category, DeprecationWarning | PendingDeprecationWarning | FutureWarning):
            self.add(f"{category.__name__}: {message}")
        shown(message, category, *place)

    def add(self, message: str) -> None:
        frame = sys._getframe(2)
        while (
            package := frame.f_globals.get("__name__", "").partition(".")[0]
        ) in LIBRARIES | sys.stdlib_module_names:
            if frame.f_back is None:
                return
            frame = frame.f_back
        if package == "violet":
            self.found.append(f"{frame.f_code.co_filename}:{frame.f_lineno}: {message}")


own_deprecations = OwnDeprecations()
shown = warnings.showwarning
for library in ("transformers", "huggingface_hub"):
    logging.getLogger(library).addHandler(own_deprecations)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Within pytest's own, which collects warnings. What transformers says once a process is heard in each test."""
    own_deprecations.found.clear()
    warnings.showwarning = own_deprecations.showwarning
    logged = sys.modules.get("transformers.utils.logging")
    if logged is not None:
        logged.warning_once.cache_clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """What a fixture of a wider scope used counts for the first test that asks for it."""
    result = yield
    if own_deprecations.found:
        pytest.fail("our code uses what is deprecated:\n" + "\n".join(own_deprecations.found), pytrace=False)
    return result


# --- memory ---


def free_memory() -> None:
    """What is no longer used goes back to the system: else the allocator keeps it, and more comes on top of it."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session", name="free_memory")
def free_memory_fixture():
    """The function, for those who hold a GB and let go of it."""
    return free_memory


resident = 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    """A test that leaves a lot behind is cleaned up after."""
    global resident
    result = yield
    if psutil.Process().memory_info().rss > resident + 300e6:
        free_memory()
        resident = psutil.Process().memory_info().rss
    return result


# --- a run's last line: its time, and the largest process ---

started = time.perf_counter()
largest: list[int] = []


def peak() -> int:
    """The most memory that this process or one of those it started held, in bytes."""
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    status = Path("/proc/self/status")  # a process inherits `ru_maxrss` from the one that started it
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    own = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (1 if sys.platform == "darwin" else 1024) * max(own, of_children)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # a worker of xdist
        session.config.workeroutput["peak"] = peak()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    largest.append(getattr(node, "workeroutput", {}).get("peak", 0))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    minutes, seconds = divmod(round(time.perf_counter() - started), 60)
    processes = f"{len(largest)} workers" if largest else "one process"
    held = max([peak(), *largest]) / 1e9
    terminalreporter.write_line(f"{minutes} min {seconds} s, {processes}; the largest held {held:.2f} GB")

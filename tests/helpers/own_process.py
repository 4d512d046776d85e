"""
Python in a process of its own, as the command `python` would run it, with the libraries loaded already: processes are
forked from a server that imported them once (not this package), since importing them takes longer than most of what
tests ask of a process.
"""

import atexit
import os
import runpy
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver, get_all_start_methods, get_context
from pathlib import Path
from types import ModuleType
from typing import Any

LIBRARIES = [
    *("torch", "torch._dynamo", "torchvision", "accelerate", "datasets", "av", "transformers.modeling_utils"),
    *("transformers.pipelines", "transformers.trainer", "transformers.video_processing_utils"),
]
START = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"


@cache
def of_server() -> Any:
    """What starts processes; the server is there, and what the libraries read from the environment is read."""
    context = get_context(START)
    if START == "forkserver":
        modules, before = tempfile.mkdtemp(prefix="modules-"), dict(os.environ)
        atexit.register(shutil.rmtree, modules, ignore_errors=True)
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": modules, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # else asking for a GPU keeps forked processes from using it
        context.set_forkserver_preload(LIBRARIES)
        forkserver.ensure_running()
        os.environ.clear()
        os.environ |= before
    return context


def become(command: list[str], folder: str, environment: dict[str, str], streams: list[str]) -> None:
    """What the process does: `python COMMAND`, in that folder, and with files as its output."""
    os.environ.clear()
    os.environ |= environment
    for number, file in enumerate(streams, start=1):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.chdir(folder)
    installed = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    sys.path[:] = ["", *installed]
    option, program, *arguments = command if command[0] in ("-c", "-m") else ["", *command]
    sys.argv = [program if option != "-c" else "-c", *arguments]
    if option == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    elif option == "-c":
        sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(program, "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        runpy.run_path(program, run_name="__main__")


class OwnProcess:
    """
    Starts `python COMMAND`, as `subprocess.Popen` does.

    Args:
        command: `-c CODE`, `-m MODULE` or a file, and arguments.
        cwd: its folder; by default this process's.
        env: variables beside those of this process. What the libraries read when they are imported is read already.
        stdout, stderr: files that it writes to, or named pipes; by default nowhere.
    """

    def __init__(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: Path | str = os.devnull,
        stderr: Path | str = os.devnull,
    ):
        given = [str(one) for one in command], str(cwd or Path.cwd()), dict(os.environ) | dict(env or {})
        self.process = of_server().Process(target=become, args=(*given, [str(stdout), str(stderr)]))
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float = 240) -> int:
        """
        Its status; it is killed if it takes longer.

        Raises:
            TimeoutError: if it took longer.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"a process took more than {timeout} seconds")
        return self.process.exitcode

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.join()


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def run_python(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Done:
    """`subprocess.run([sys.executable, *command], capture_output=True, text=True)`, see `OwnProcess`."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = (Path(folder) / name for name in ("out", "err"))
        status = OwnProcess(*command, cwd=cwd, env=env, stdout=out, stderr=err).wait()
        return Done(status, out.read_text(), err.read_text())

"""
The decoder's process, with a PyAV that never comes back from files of some names: what no file is known to do to it,
and some do to decord. It is this program in the place of `decoder_process.py`, which it then runs.
"""

import collections
import itertools
import os
import runpy
import signal
from pathlib import Path

LOOPS, STOPS = "loops for ever", "is stopped"


def hangs(file: str) -> None:
    """Does what the file's name says: loops in C and holds the interpreter's lock, or lets itself be stopped."""
    if Path(file).stem == LOOPS:
        collections.deque(itertools.repeat(None), maxlen=0)
    if Path(file).stem == STOPS:
        os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    import av

    whole = av.open

    def open_or_hang(file, *given, **named):
        hangs(str(file))
        return whole(file, *given, **named)

    av.open = open_or_hang
    here = Path(__file__).parents[2] / "processing"
    runpy.run_path(str(here / "decoder_process.py"), run_name="__main__")

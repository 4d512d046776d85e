"""Runs that are asked to end, and two runs in one folder: real processes and signals."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from own_process import OwnProcess

from violet.training import SettingsError
from violet.training.runs import LOCK_FILE, begin_run, only_run_in
from violet.training.stopping import RunStopped, StopRequest

HOLD = """
import os, sys, time
from pathlib import Path
from violet.training.runs import only_run_in

with only_run_in(Path(sys.argv[1]), True):
    if os.fork() == 0:  # as a worker of the data loader, which outlives a process that is killed
        time.sleep(30)
        os._exit(0)
    Path(sys.argv[1], "held").touch()
    time.sleep(30)
"""


def test_a_second_run_in_a_folder_is_refused_until_the_first_is_dead(tmp_path):
    holder = OwnProcess("-c", HOLD, tmp_path / "run")
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "held").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with (
            pytest.raises(SettingsError, match=rf"run is in use .*process {holder.process.pid} on "),
            only_run_in(tmp_path / "run", True),
        ):
            pass
        with only_run_in(tmp_path / "run", False):
            pass
    finally:
        holder.kill()
    with (
        only_run_in(tmp_path / "run", True),
        pytest.raises(SettingsError, match="in use"),
        only_run_in(tmp_path / "run", True),
    ):
        pass
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_a_first_sigterm_asks_and_a_second_one_ends(tmp_path):
    class OneProcess:
        num_processes = 1

    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        users = signal.getsignal(signal.SIGTERM)
        with pytest.raises(RunStopped), StopRequest() as request:
            assert not request.made(OneProcess())
            os.kill(os.getpid(), signal.SIGTERM)
            assert request.made(OneProcess())
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            raise RunStopped
        assert signal.getsignal(signal.SIGTERM) == users and not came
        with StopRequest():
            pass
        assert signal.getsignal(signal.SIGTERM) == users and not came
        with StopRequest():
            os.kill(os.getpid(), signal.SIGTERM)  # behind the last step: nobody looks
            assert not came
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_may_go_on_with_other_workers(tmp_path):
    begin_run(tmp_path, {"seed": 1, "num_workers": 2})
    begin_run(tmp_path, {"seed": 1})
    with pytest.raises(SettingsError, match="seed was 1 and is 2"):
        begin_run(Path(tmp_path), {"seed": 2, "num_workers": 2})
    assert json.loads((tmp_path / "run.json").read_text())["num_workers"] == 2

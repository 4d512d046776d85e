"""Videos read ahead by processes: as read one by one, in order, with damaged files and killed processes among them."""

import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing.util import get_temp_dir
from pathlib import Path

import psutil
import pytest
import torch

from violet.data.lasting import LastingLoader
from violet.data.reading_ahead import read_ahead
from violet.processing import VideoDecodeError, VioletVideoProcessor, decode_video

WORKERS = 2
AHEAD = 2 * WORKERS + 1
"""How many inputs may be asked for before the first video is taken: two a process, and the one that is given."""


@pytest.fixture(scope="module")
def clips(shapes_folder) -> list[str]:
    return sorted(str(path) for path in shapes_folder.rglob("train-*.mp4"))[:10]


@pytest.fixture(scope="module")
def damaged(clips, tmp_path_factory) -> str:
    """An mp4 file cut off in its middle."""
    whole = Path(clips[0]).read_bytes()
    path = tmp_path_factory.mktemp("damaged") / "truncated.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    return str(path)


@pytest.fixture
def frames() -> VioletVideoProcessor:
    return VioletVideoProcessor(num_frames=4, size={"height": 48, "width": 48})


@pytest.fixture(autouse=True)
def nothing_left():
    """No process is left behind, and no file in the temporary folder."""

    def files() -> set[str]:
        return {path for path in os.listdir(tempfile.gettempdir()) if path.startswith(("torch_", "pymp-"))}

    get_temp_dir()  # this process has one until it ends
    before, children = files(), set(psutil.Process().children(recursive=True))
    yield
    gc.collect()
    _, left = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - children, timeout=30)
    assert not left and files() <= before


def inputs_of(videos):
    return [{"video": video, "number": number} for number, video in enumerate(videos)]


def test_processes_give_what_the_processor_makes_in_order_with_errors_in_their_places(frames, clips, damaged):
    videos = [*clips[:3], damaged, "missing.mp4", decode_video(clips[3]).frames, clips[0], Path(clips[4]).read_bytes()]
    found = list(read_ahead(frames, inputs_of(videos), WORKERS))
    assert [one["number"] for one, _ in found] == list(range(len(videos)))
    for number, (_, read) in enumerate(found):
        if number in (3, 4):
            with pytest.raises(VideoDecodeError) as here:
                frames([videos[number]])
            assert isinstance(read, VideoDecodeError) and str(read) == str(here.value)
            continue
        assert set(read) == {"pixel_values_videos"} and read["pixel_values_videos"].dtype == torch.uint8
        expected = frames([videos[number]], return_tensors="pt")["pixel_values_videos"]
        assert expected.std() > 0.1 and torch.equal(frames.normalize_pixels(read["pixel_values_videos"]), expected)


def test_a_killed_process_is_replaced_and_nothing_is_lost_or_doubled(frames, clips, damaged, monkeypatch):
    restarts, give_up = [], LastingLoader._give_up
    monkeypatch.setattr(LastingLoader, "_give_up", lambda self, *given: restarts.append(1) or give_up(self, *given))
    videos = [*clips, damaged, *clips[:2]]
    reading, found = read_ahead(frames, inputs_of(videos), WORKERS), []
    for one, read in reading:
        found.append((one["number"], read))
        if len(found) == 2:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    assert restarts and [number for number, _ in found] == list(range(len(videos)))
    for (_, read), video in zip(found, videos, strict=True):
        if video == damaged:
            assert isinstance(read, VideoDecodeError) and damaged in str(read)
            continue
        expected = frames([video], do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values_videos"]
        assert torch.equal(read["pixel_values_videos"], expected)


def test_inputs_are_asked_for_as_they_are_needed_and_who_has_enough_leaves_nothing_behind(frames, clips):
    asked = []

    def endless():
        for number in itertools.count():
            asked.append(number)
            yield {"video": clips[number % len(clips)], "number": number}

    reading = read_ahead(frames, endless(), WORKERS)
    for number in range(3):
        one, _ = next(reading)
        assert one["number"] == number and len(asked) <= number + AHEAD
    assert len(multiprocessing.active_children()) == WORKERS
    reading.close()


@pytest.mark.parametrize("workers", [0, WORKERS])
def test_inputs_that_fail_are_an_error_and_no_end(frames, clips, workers):
    def fails():
        yield from inputs_of(clips[:2])
        raise OSError("the list is on a disk that is gone")

    reading, found = read_ahead(frames, fails(), workers), []
    with pytest.raises(OSError, match="a disk that is gone"):
        found.extend(reading)
    assert [one["number"] for one, _ in found] == [0, 1]


def test_frames_by_time_and_boxes_are_the_processors(frames, clips):
    by_time = VioletVideoProcessor(fps=2.0, size={"height": 48, "width": 48})
    boxed = [{"video": clips[0], "boxes": [0.1, 0.2, 0.5, 0.6]}, {"video": clips[1], "boxes": None}]
    for processor, inputs in ((by_time, inputs_of(clips[:2])), (frames, boxed)):
        for one, read in read_ahead(processor, inputs, 1):
            given = {"boxes": [one["boxes"]]} if "boxes" in one else {}
            expected = processor([one["video"]], return_tensors="pt", **given)
            assert set(read) == set(expected) - {"video_metadata"}
            read["pixel_values_videos"] = processor.normalize_pixels(read["pixel_values_videos"])
            for name, values in read.items():
                assert torch.equal(values, expected[name]), name


LEFT_UNFINISHED = """
import atexit, sys, threading
from violet.data.reading_ahead import read_ahead
from violet.processing import VioletVideoProcessor

frames = VioletVideoProcessor(num_frames=4, size={"height": 48, "width": 48})
given = read_ahead(frames, ({"video": video} for video in sys.argv[1:]), 1)
next(given)

def tell() -> None:
    print([thread.name for thread in threading.enumerate() if "_watch" in thread.name])

tell()
atexit.register(tell)  # called when all threads that are no daemons have ended
"""


def test_a_pass_left_unfinished_leaves_no_thread_behind_when_python_ends(clips, tmp_path):
    """A thread that frees a tensor while Python shuts down ends the process by SIGABRT, see `LastingLoader._watch`."""
    command, own = [sys.executable, "-c", LEFT_UNFINISHED, *clips], {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run(command, env=own, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "['Thread-1 (_watch)']\n[]\n"), ended.stderr

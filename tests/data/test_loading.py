"""Clips that last: hung decoders and workers are killed with real signals, bad samples raised or counted."""

import json
import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from violet.data import TableError
from violet.data.loading import ClipReader, FailedSample, FailedSamples, WorkerDiedError, explained_workers
from violet.processing import VideoDecodeError, VioletVideoProcessor, decode_video
from violet.processing.decoder_process import DecoderProcess
from violet.processing.video_processing_violet import evenly_spaced_indices, strided_indices

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def clips(shapes_folder) -> list[str]:
    return sorted(str(path) for path in shapes_folder.rglob("train-*.mp4"))


@pytest.fixture
def decoder():
    decoder = DecoderProcess(time_limit=60)
    yield decoder
    decoder.kill()


def four(total_frames, fps):
    return evenly_spaced_indices(total_frames, 4)


def is_gone(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_another_process_gives_the_very_same_frames(decoder, clips):
    processes = set()
    for clip in clips[:3]:
        for source in (clip, Path(clip), Path(clip).read_bytes()):
            here, there = decode_video(source, four), decoder.decode(source, four)
            np.testing.assert_array_equal(there.frames, here.frames)
            np.testing.assert_array_equal(there.times, here.times)
            np.testing.assert_array_equal(there.indices, here.indices)
            assert (there.total_frames, there.fps, there.backend) == (here.total_frames, here.fps, here.backend)
            assert there.frames.flags.writeable and there.indices.dtype == here.indices.dtype
            processes.add(decoder.pid)
    assert len(processes) == 1 and os.getpid() not in processes


@pytest.mark.shared
def test_real_clips_are_the_same_too(decoder, shared_folder):
    for clip in sorted((shared_folder / "data/msrvtt").glob("*.mp4"))[:4]:
        here, there = decode_video(clip, four), decoder.decode(clip, four)
        np.testing.assert_array_equal(there.frames, here.frames)
        np.testing.assert_array_equal(there.times, here.times)


def test_errors_are_those_of_decoding_here_and_leave_the_process_alive(decoder, clips, tmp_path):
    decoder.decode(clips[0], four)
    process = decoder.pid
    for source, choose in ((tmp_path / "absent.mp4", four), (clips[0], lambda total, fps: [total]), (b"x" * 99, four)):
        with pytest.raises(ValueError, match=r"\S") as there:
            decoder.decode(source, choose)
        with pytest.raises(ValueError, match=r"\S") as here:
            decode_video(source, choose)
        assert (type(there.value), str(there.value)) == (type(here.value), str(here.value))
    assert decoder.pid == process


def test_a_decoder_that_hangs_is_killed_and_the_next_video_is_read(clips, tmp_path):
    os.mkfifo(tmp_path / "hangs.mp4")  # to open it is to wait for a writer, for ever
    decoder = DecoderProcess(time_limit=0.5)
    decoder.decode(clips[0], four)
    process = decoder.pid
    with pytest.raises(VideoDecodeError, match=r"hangs\.mp4 \(row 3\): it took longer than 0.5 s"):
        decoder.decode(tmp_path / "hangs.mp4", four, name=f"{tmp_path}/hangs.mp4 (row 3)")
    assert is_gone(process)
    decoder.time_limit = 60
    np.testing.assert_array_equal(decoder.decode(clips[1], four).frames, decode_video(clips[1], four).frames)
    assert decoder.pid != process
    decoder.kill()


def test_a_decoder_that_hears_no_signal_is_killed_while_a_large_file_is_sent(clips):
    decoder = DecoderProcess(time_limit=0.5)
    decoder.decode(clips[0], four)
    process = decoder.pid
    os.kill(process, signal.SIGSTOP)
    with pytest.raises(VideoDecodeError, match=r"20000000 bytes: it took longer"):
        decoder.decode(bytes(20_000_000), four)
    assert is_gone(process)


def test_a_decoder_that_dies_is_a_bad_sample_that_is_named(decoder, clips):
    def dies(total_frames, fps):
        os.kill(decoder.pid, signal.SIGSEGV)
        return four(total_frames, fps)

    with pytest.raises(VideoDecodeError, match=rf"{clips[0]}: the decoder died \(signal 11, Segmentation fault\)"):
        decoder.decode(clips[0], dies)
    assert decoder.decode(clips[0], four).frames.shape[0] == 4


def test_a_choice_that_fails_does_not_answer_the_next_request(decoder, clips):
    with pytest.raises(ZeroDivisionError):
        decoder.decode(clips[0], lambda total, fps: 1 / 0)
    np.testing.assert_array_equal(decoder.decode(clips[1], four).frames, decode_video(clips[1], four).frames)


def test_the_decoder_dies_with_the_process_that_it_serves(clips):
    numbers = FORK.SimpleQueue()

    def serve():
        own = DecoderProcess(60)
        own.decode(clips[0], four)
        numbers.put(own.pid)
        time.sleep(600)

    parent = FORK.Process(target=serve, daemon=True)
    parent.start()
    child = numbers.get()
    os.kill(child, signal.SIGSTOP)  # it cannot notice anything by itself
    assert not is_gone(child)
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 30
    while not is_gone(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- reading ---


@pytest.fixture
def reader():
    readers = []

    def build(cache_bytes=0, time_limit=60.0, **settings):
        processor = VioletVideoProcessor(num_frames=4, size={"height": 32, "width": 32}, **settings)
        readers.append(ClipReader(processor, cache_bytes, time_limit))
        return readers[-1]

    yield build
    for one in readers:
        one.decoder.kill()


def test_frames_that_are_drawn_are_those_of_the_draw_whatever_the_cache_holds(reader, clips):
    plain = reader()
    total = decode_video(clips[0]).total_frames
    for sampling in ("random_start", "jitter"):
        cached = reader(cache_bytes=10**8, frame_sampling=sampling)
        evaluated = cached.read(clips[0])
        assert evaluated.indices == plain.read(clips[0]).indices == evenly_spaced_indices(total, 4).tolist()
        seen = set()
        for draw in range(12):
            clip = cached.read(clips[0], draw=draw)
            assert clip.indices == cached.read(clips[0], draw=draw).indices
            expected = decode_video(clips[0], lambda total, fps, indices=clip.indices: indices)
            np.testing.assert_array_equal(clip.frames, expected.frames)
            seen.add(tuple(clip.indices))
        assert len(seen) > 1, sampling
        assert cached.read(clips[0]).indices == evaluated.indices and len(cached.clips) == 1


def test_test_clips_are_kept_apart(reader, clips):
    cached = reader(cache_bytes=10**8)
    total = decode_video(clips[0]).total_frames
    for _ in range(2):
        for number in range(2):
            clip = cached.read(clips[0], test_clip=(number, 2))
            assert clip.indices == strided_indices(total, 4, (number + 0.5) / 2).tolist()
    assert len(cached.clips) == 2


def test_a_pickled_reader_starts_a_decoder_of_its_own(reader, clips):
    original = reader()
    original.read(clips[0])
    copy = pickle.loads(pickle.dumps(original))
    np.testing.assert_array_equal(copy.read(clips[0]).frames, original.read(clips[0]).frames)
    assert copy.decoder.pid != original.decoder.pid
    copy.decoder.kill()


def test_the_row_of_a_damaged_tsv_is_named(reader, tmp_path):
    (tmp_path / "pictures.tsv").write_text("a\t!!!\n")
    with pytest.raises(TableError, match=r"Row 7: .*pictures\.tsv, line 1 \(id 'a'\), frame 1: bad base64"):
        reader().read(f"{tmp_path}/pictures.tsv#a", row=7)


# --- workers ---


class Clips(torch.utils.data.Dataset):
    def __init__(self, reader: ClipReader, videos: list[str]):
        self.reader, self.videos = reader, videos

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, row):
        return torch.from_numpy(self.reader.read(self.videos[row], row=row).frames)


def test_each_worker_has_a_decoder_that_ends_with_it(reader, clips):
    own = reader()
    expected = [own.read(clip).frames for clip in clips[:8]]  # a decoder of this process is there before the fork
    loader = torch.utils.data.DataLoader(
        Clips(own, clips[:8]), batch_size=None, num_workers=2, persistent_workers=True
    )
    found = list(loader)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.numpy(), other)
    started = [
        child for child in psutil.Process().children(recursive=True) if "decoder_process" in str(child.cmdline())
    ]
    assert len(started) == 3
    assert {child.ppid() for child in started} > {os.getpid()}
    del loader
    gone, alive = psutil.wait_procs([child for child in started if child.pid != own.decoder.pid], timeout=30)
    assert len(gone) == 2 and not alive
    np.testing.assert_array_equal(own.read(clips[0]).frames, expected[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_reported_with_the_sample_that_it_held(reader, clips, tmp_path, workers):
    os.mkfifo(tmp_path / "held.mp4")
    own = reader()
    rows = Clips(own, [clips[0], clips[1], str(tmp_path / "held.mp4"), clips[2]])
    loader = torch.utils.data.DataLoader(rows, batch_size=None, num_workers=workers)

    def kill_its_worker():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for child in psutil.Process().children():
                if str(own.held.of(child.pid)).endswith("held.mp4 (row 2)"):
                    os.kill(child.pid, signal.SIGKILL)
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=kill_its_worker)
    thread.start()
    with pytest.raises(WorkerDiedError, match=r"had taken up: .*held\.mp4 \(row 2\)"), explained_workers(own):
        for _ in loader:
            pass
    thread.join()


def test_a_bad_sample_in_a_worker_is_said_as_without_workers(reader, clips, tmp_path):
    (tmp_path / "text.mp4").write_bytes(b"a page, not a video\n" * 9)
    own = reader()
    rows = Clips(own, [clips[0], str(tmp_path / "text.mp4")])
    messages = []
    for workers in (0, 1):
        loader = torch.utils.data.DataLoader(rows, batch_size=None, num_workers=workers)
        with pytest.raises(VideoDecodeError) as caught, explained_workers(own):
            list(loader)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"Cannot decode {tmp_path}/text.mp4 (row 1): ") and "\n" not in messages[0]


def test_other_errors_pass_as_they_are(reader):
    with pytest.raises(RuntimeError, match="^something else$"), explained_workers(reader()):
        raise RuntimeError("something else")


# --- the count ---


def sample(row: int, rows: str = "train") -> FailedSample:
    return FailedSample(rows, row, f"/videos/{row}.mp4", f"Cannot decode /videos/{row}.mp4: it is empty.")


def test_a_sample_is_written_once_whoever_finds_it(tmp_path, caplog):
    one, other = FailedSamples(tmp_path / "run"), FailedSamples(tmp_path / "run")
    assert one.metrics() == {"samples_failed": 0} and not (tmp_path / "run").exists()
    one.add([sample(1), sample(1), sample(2)])
    other.add([sample(2), sample(3), sample(1, "evaluation")])
    one.add([sample(3)])
    lines = [json.loads(line) for line in one.path.read_text().splitlines()]
    assert [(line["rows"], line["row"]) for line in lines] == [
        ("train", 1),
        ("train", 2),
        ("train", 3),
        ("evaluation", 1),
    ]
    assert lines[0]["video"] == "/videos/1.mp4" and "it is empty" in lines[0]["reason"]
    assert one.metrics() == other.metrics() == FailedSamples(tmp_path / "run").metrics() == {"samples_failed": 4}
    assert "/videos/1.mp4 (train row 1)" in caplog.text and "it is empty" in caplog.text


def test_half_a_line_of_a_killed_process_is_replaced(tmp_path):
    FailedSamples(tmp_path).add([sample(1)])
    with open(tmp_path / "failed_samples.jsonl", "a") as file:
        file.write('{"rows": "tra')
    again = FailedSamples(tmp_path)
    again.add([sample(2)])
    assert [entry.row for entry in FailedSamples(tmp_path).all()] == [1, 2]
    again.forget()
    assert FailedSamples(tmp_path).all() == [] and not again.path.exists()


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    def write(name):
        found = FailedSamples(tmp_path)
        for row in range(60):
            found.add([FailedSample("train", row, "shared", "x"), FailedSample("train", row, name, "y")])

    writers = [FORK.Process(target=write, args=[name]) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = [json.loads(line) for line in (tmp_path / "failed_samples.jsonl").read_text().splitlines()]
    assert len(lines) == 180 == len({(line["row"], line["video"]) for line in lines})

"""Every kind of source gives the same frames, whatever reads it; damage is an error that names the file."""

import functools
import http.server
import importlib.util
import io
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchcodec_here import torchcodec_works

from violet.processing.decoding import VideoDecodeError, decode_video

av = pytest.importorskip("av")

BACKENDS = [
    "pyav",
    pytest.param("decord", marks=pytest.mark.skipif(not importlib.util.find_spec("decord"), reason="needs decord")),
    pytest.param(
        "torchcodec",
        marks=pytest.mark.skipif(not torchcodec_works(), reason="needs torchcodec and FFmpeg's libraries"),
    ),
]


def moving_frames(count: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    """(count, height, width, 3) uint8: coarse coloured blocks that move to the right, no two frames alike."""
    blocks = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    return np.stack([np.roll(picture, 3 * i, axis=1) for i in range(count)])


def write_video(path, frames, codec="libx264", rate=10, pix_fmt="yuv420p", options=None, container=None, rotation=0):
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return path


def write_sound(path):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def every_frame_in_order(path) -> np.ndarray:
    """The plainest use of PyAV, to compare with."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def at(*indices):
    return lambda total_frames, fps: indices


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.mp4", moving_frames())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name, codec, options",
    [
        ("short_groups.mp4", "libx264", {"x264-params": "keyint=4:min-keyint=4:bframes=2:open-gop=0"}),
        ("open_groups.mp4", "libx264", {"x264-params": "keyint=4:min-keyint=4:bframes=2:open-gop=1"}),
        ("interlaced.mp4", "libx264", {"x264-params": "tff=1"}),
        ("clip.mkv", "libx264", {}),
        ("clip.ts", "libx264", {}),
        ("clip.avi", "mpeg4", {}),
        ("reordered.avi", "libx264", {"bf": "2"}),
        ("clip.webm", "libvpx-vp9", {}),
        ("alternate_references.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("clip.flv", "libx264", {}),
    ],
)
def test_any_choice_of_frames_equals_those_of_a_full_decode(tmp_path, backend, name, codec, options):
    path = write_video(tmp_path / name, moving_frames(24), codec=codec, options=options)
    expected = every_frame_in_order(path)
    assert len({frame.tobytes() for frame in expected}) == 24
    for indices in [(0,), (5,), (23,), (20, 3, 9), (7, 7, 8), range(24)]:
        decoded = decode_video(path, at(*indices), backend)
        np.testing.assert_array_equal(decoded.frames, expected[list(indices)])
        np.testing.assert_array_equal(decoded.indices, indices)
        np.testing.assert_allclose(decoded.times, np.array(indices) / 10, atol=2e-3)
        assert (decoded.total_frames, decoded.fps) == (24, 10.0)


@pytest.mark.shared
def test_backends_agree_to_the_bit_on_real_clips(shared_folder):
    clips = sorted((shared_folder / "data/msrvtt").glob("*.mp4"))
    assert len(clips) == 10
    installed = ["pyav", *(["decord"] if importlib.util.find_spec("decord") else [])]
    installed += ["torchcodec"] if torchcodec_works() else []
    for clip in clips:
        with av.open(str(clip)) as container:
            frames = list(container.decode(video=0))
        indices = sorted(np.random.default_rng(0).integers(0, len(frames), 5))
        expected = np.stack([frames[index].to_ndarray(format="rgb24") for index in indices])  # 5 of some hundred
        for backend in installed:
            decoded = decode_video(clip, at(*indices), backend)
            assert decoded.backend == backend
            np.testing.assert_array_equal(decoded.frames, expected)
            np.testing.assert_allclose(decoded.times, np.array(indices) / decoded.fps, atol=1e-6)


def test_a_raw_stream_without_time_stamps_is_read_in_order(tmp_path):
    path = write_video(tmp_path / "raw.h264", moving_frames(24))
    for source in (path, path.read_bytes()):
        decoded = decode_video(source, at(9, 4))
        np.testing.assert_array_equal(decoded.frames, every_frame_in_order(path)[[9, 4]])


def test_sampling_sees_the_frame_count_and_rate(clip):
    seen = []
    decode_video(clip, lambda total_frames, fps: seen.append((total_frames, fps)) or [0])
    assert seen == [(12, 10.0)]


@pytest.mark.parametrize("indices", [(12,), (-1,), (), (0.5,), ((0, 1),)])
@pytest.mark.parametrize("kind", ["file", "array"])
def test_impossible_frame_indices_are_refused(clip, indices, kind):
    with pytest.raises(ValueError, match="[Ff]rame indices"):
        decode_video(clip if kind == "file" else moving_frames(), at(*indices))


def test_an_unknown_backend_is_refused(clip):
    with pytest.raises(ValueError, match="opencv"):
        decode_video(clip, backend="opencv")


@pytest.mark.parametrize("rotation", [90, 180, -90])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_turned_video_is_shown_upright(tmp_path, rotation, backend):
    path = write_video(tmp_path / "turned.mp4", moving_frames(), rotation=rotation)
    upright = np.rot90(every_frame_in_order(path), rotation // 90, axes=(1, 2))
    np.testing.assert_array_equal(decode_video(path, backend=backend).frames, upright)


def test_paths_bytes_and_urls_give_the_same_frames(clip, tmp_path):
    expected = every_frame_in_order(clip)
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for source in (clip, str(clip), clip.read_bytes(), f"{address}/clip.mp4"):
            np.testing.assert_array_equal(decode_video(source).frames, expected)
        with pytest.raises(VideoDecodeError, match="absent.mp4.*404"):
            decode_video(f"{address}/absent.mp4")
        server.shutdown()
    with pytest.raises(VideoDecodeError, match=f"{address}/clip.mp4.*cannot be fetched"):
        decode_video(f"{address}/clip.mp4")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_a_gif_gives_its_frames_and_times(tmp_path):
    frames = moving_frames(6)
    pictures = [Image.fromarray(frame).quantize(64) for frame in frames]
    durations = [100, 200, 100, 100, 300, 100]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=durations)
    decoded = decode_video(tmp_path / "a.gif", at(4, 1, 1))
    expected = np.stack([np.asarray(pictures[i].convert("RGB")) for i in (4, 1, 1)])
    np.testing.assert_array_equal(decoded.frames, expected)
    np.testing.assert_allclose(decoded.times, [0.5, 0.1, 0.1])
    assert (decoded.total_frames, decoded.fps) == (6, 10.0)


def test_an_animated_webp_gives_its_frames(tmp_path):
    frames = moving_frames(4)
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=50, lossless=True)
    np.testing.assert_array_equal(decode_video(tmp_path / "a.webp").frames, frames)


def test_a_picture_is_a_video_of_one_frame(tmp_path):
    frame = moving_frames()[0]
    Image.fromarray(frame).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), Image.fromarray(frame)):
        decoded = decode_video(source, at(0, 0))
        np.testing.assert_array_equal(decoded.frames, [frame, frame])
        assert decoded.total_frames == 1


def test_a_folder_is_read_in_natural_order_and_only_where_needed(tmp_path):
    frames = moving_frames(12)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    decoded = decode_video(tmp_path)
    np.testing.assert_array_equal(decoded.frames, frames)
    assert np.isnan(decoded.times).all() and decoded.fps is None
    (tmp_path / "frame5.png").write_bytes(b"broken")
    np.testing.assert_array_equal(decode_video(tmp_path, at(10, 2)).frames, frames[[10, 2]])
    with pytest.raises(VideoDecodeError, match="frame5.png"):
        decode_video(tmp_path, at(5))


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_arrays_of_every_layout_and_type_give_the_same_frames(make, channels_first, dtype):
    frames = moving_frames()
    array = frames if dtype == "uint8" else (frames / 255).astype(dtype)
    array = np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if channels_first else array
    np.testing.assert_array_equal(decode_video(make(array), at(3, 1)).frames, frames[[3, 1]])
    np.testing.assert_array_equal(decode_video([make(frame) for frame in array]).frames, frames)


def test_bfloat16_tensors_are_read():
    tensor = torch.rand(2, 3, 8, 8).to(torch.bfloat16)
    expected = (tensor.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(decode_video(tensor).frames, expected)


def test_grey_becomes_rgb_and_alpha_is_dropped():
    frames = moving_frames()
    grey = frames[..., :1]
    np.testing.assert_array_equal(decode_video(grey).frames, grey.repeat(3, axis=-1))
    np.testing.assert_array_equal(decode_video(list(grey[..., 0])).frames, grey.repeat(3, axis=-1))
    alpha = np.concatenate([frames, np.full_like(grey, 7)], axis=-1)
    np.testing.assert_array_equal(decode_video(alpha).frames, frames)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA", "CMYK"])
def test_pictures_of_any_mode_become_rgb(mode):
    pictures = [Image.fromarray(frame).convert(mode) for frame in moving_frames(3)]
    expected = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    np.testing.assert_array_equal(decode_video(pictures).frames, expected)


@pytest.mark.parametrize(
    "source, reason",
    [
        (np.zeros((8, 3, 48, 3), np.uint8), "either axis 1 or the last"),
        (np.zeros((8, 48, 64, 5), np.uint8), "no axis has"),
        (np.zeros((48, 64, 3), np.uint8), "of one picture"),
        (np.zeros((48, 64), np.uint8), "not that of a video"),
        (np.zeros((0, 48, 64, 3), np.uint8), "not that of a video"),
        (np.full((2, 48, 64, 3), 255.0), "outside of 0..1"),
        (np.full((2, 48, 64, 3), np.nan), "outside of 0..1"),
        (np.zeros((2, 48, 64, 3), np.int64), "int64"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))], "differ in size"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], "differ in shape"),
        ([Image.new("RGB", (8, 8)), "a.mp4"], "not all pictures"),
        ([], "empty"),
        (3.5, "no kind of video"),
        (None, "no kind of video"),
    ],
)
def test_what_is_no_video_is_refused_by_name(source, reason):
    with pytest.raises(VideoDecodeError, match=reason):
        decode_video(source)


def damaged_files(folder: Path) -> dict[str, Path]:
    """Files that no backend may read, by the reason expected."""
    frames = moving_frames(24)
    whole = write_video(folder / "whole.mp4", frames, container={"movflags": "faststart"}).read_bytes()
    late = write_video(folder / "late.mp4", frames).read_bytes()
    loose = write_video(folder / "loose.webm", frames, codec="libvpx-vp9").read_bytes()
    avi = write_video(folder / "loose.avi", frames, codec="mpeg4").read_bytes()
    files = {
        "absent.mp4": None,
        "empty.mp4": b"",
        "text.mp4": b"This is a page, not a video.\n" * 50,
        "page.txt": b"Text that FFmpeg would draw as a video.\n" * 50,
        "zeros.mp4": bytes(5000),
        "moov_last.mp4": late[: len(late) // 2],
        "third.mp4": whole[: len(whole) // 3],
        "half.mp4": whole[: len(whole) // 2],
        "nearly_whole.mp4": whole[:-20],
        "half.webm": loose[: len(loose) // 2],
        "half.avi": avi[: len(avi) // 2],
    }
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    (folder / "no_frames").mkdir()
    write_sound(folder / "sound.m4a")
    Image.fromarray(frames[0]).save(
        folder / "whole.gif", save_all=True, append_images=[Image.fromarray(frame) for frame in frames[1:]]
    )
    (folder / "half.gif").write_bytes((folder / "whole.gif").read_bytes()[:-200])
    return {name: folder / name for name in [*files, "no_frames", "sound.m4a", "half.gif"]}


@pytest.mark.parametrize("backend", BACKENDS)
def test_damage_is_an_error_that_names_the_file_whatever_the_backend(tmp_path, backend):
    for name, path in damaged_files(tmp_path).items():
        with pytest.raises(VideoDecodeError) as caught:
            decode_video(path, at(0), backend)
        assert str(path) in str(caught.value), name
        assert caught.value.source == str(path)
        with pytest.raises(VideoDecodeError) as reference:
            decode_video(path, at(0), "pyav")
        assert caught.value.reason == reference.value.reason


def test_the_reason_says_what_is_wrong(tmp_path):
    files = damaged_files(tmp_path)
    reasons = {
        "absent.mp4": "No such file",
        "empty.mp4": "empty",
        "text.mp4": "not a video",
        "page.txt": "not a video",
        "half.mp4": "truncated",
        "half.webm": "truncated",
        "half.gif": "truncated",
        "no_frames": "no frames",
        "sound.m4a": "no video stream",
    }
    for name, reason in reasons.items():
        with pytest.raises(VideoDecodeError, match=reason):
            decode_video(files[name])


@pytest.mark.parametrize("seed", range(5))
def test_flipped_bytes_never_change_frames_in_number(clip, seed):
    """Damaged payload is reported or, if the decoder notices nothing, still gives every frame asked for."""
    data = bytearray(clip.read_bytes())
    rng = np.random.default_rng(seed)
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    try:
        decoded = decode_video(bytes(data))
    except VideoDecodeError as error:
        assert error.reason
    else:
        assert decoded.frames.shape == (12, 48, 64, 3)


def test_a_damaged_picture_inside_a_whole_container_is_an_error(clip):
    data = bytearray(clip.read_bytes())
    with av.open(io.BytesIO(bytes(data))) as container:
        second = [packet for packet in container.demux(video=0) if packet.size][1]
        start, size = second.pos, second.size
    data[start + 5 : start + size] = b"\xff" * (size - 5)
    with pytest.raises(VideoDecodeError, match="damaged"):
        decode_video(bytes(data))


def test_the_error_survives_pickling(tmp_path):
    error = pickle.loads(pickle.dumps(VideoDecodeError("a.mp4", "it is empty", "Fetch it.")))
    assert (error.source, error.reason, str(error)) == (
        "a.mp4",
        "it is empty",
        "Cannot decode a.mp4: it is empty. Fetch it.",
    )

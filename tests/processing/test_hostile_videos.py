"""Broken, odd and hostile inputs: each gives the right frames or the documented error, in the process that decodes."""

import io
import os
import struct
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from violet.processing import VideoDecodeError, decode_video
from violet.processing.decoder_process import DecoderProcess

av = pytest.importorskip("av")

SIZE = (48, 64)
EITHER = "either"  # an error, or the very frames of the whole file: a cut through bytes that nobody needs
ERROR = "error"


def drawn_frames(count: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    """(count, height, width, 3) uint8: coarse blocks that move, no two frames alike."""
    blocks = np.random.default_rng(1).integers(0, 255, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.stack([np.roll(picture, 3 * i, axis=1) ^ np.uint8(i) for i in range(count)])


def encode(path: Path, frames, codec="libx264", pix_fmt="yuv420p", rotation=0, times=None, options=None, muxing=None):
    with av.open(str(path), "w", options=muxing or {}) as output:
        stream = output.add_stream(codec, rate=10, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        if rotation:
            stream.set_display_rotation(rotation)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[-1] == 4 else "rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def stored_frames(path: Path) -> np.ndarray:
    """The plainest use of PyAV, to compare with."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def sound(path: Path, codec: str) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=16000)
        for start in range(0, 8192, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def png_that_promises(width: int, height: int) -> bytes:
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def saved(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def cuts(folder: Path):
    """(name, a file cut at a random byte, EITHER with the whole file's frames)"""
    frames = drawn_frames()
    pictures = [Image.fromarray(frame) for frame in frames]
    wholes = {
        "faststart.mp4": encode(folder / "faststart.mp4", frames, muxing={"movflags": "faststart"}),
        "late.mp4": encode(folder / "late.mp4", frames),
        "whole.webm": encode(folder / "whole.webm", frames, "libvpx-vp9"),
        "whole.mkv": encode(folder / "whole.mkv", frames),
        "whole.avi": encode(folder / "whole.avi", frames, "mpeg4"),
        "whole.mov": encode(folder / "whole.mov", frames),
    }
    wholes = {name: (path.read_bytes(), stored_frames(path)) for name, path in wholes.items()}
    for kind in ("gif", "png", "jpeg", "webp", "bmp"):
        path = folder / f"whole.{kind}"
        more = {"save_all": True, "append_images": pictures[1:]} if kind == "gif" else {}
        pictures[0].save(path, **more)
        with Image.open(path) as image:
            shown = []
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                shown.append(np.asarray(image.convert("RGB")))
        wholes[path.name] = path.read_bytes(), np.stack(shown)
    generator = np.random.default_rng(0)
    for name, (content, expected) in wholes.items():
        count = 10 if name.endswith((".mp4", ".webm")) else 6
        for place in sorted(generator.integers(1, len(content), count).tolist()):
            path = folder / f"cut_at_{place}_{name}"
            path.write_bytes(content[:place])
            yield path.name, path, (EITHER, expected)


def files_that_are_no_videos(folder: Path):
    """(name, source, ERROR)"""
    frames = drawn_frames()
    generator = np.random.default_rng(2)
    video = encode(folder / "origin.mp4", frames).read_bytes()
    contents = {f"empty.{kind}": b"" for kind in ("mp4", "webm", "avi", "gif", "jpg", "mkv")}
    contents |= {
        "text.mp4": b"This is a page, not a video.\n" * 50,
        "page.mp4": b"<!DOCTYPE html><html><body>404</body></html>" * 20,
        "json.mp4": b'{"error": "rate limited"}',
        "text.avi": "Ein Text, k\u00fcrzer.".encode("latin-1") * 90,
        "utf16.mp4": "not a video\n".encode("utf-16") * 50,
        "subtitles.mp4": b"1\n00:00:00,000 --> 00:00:02,000\nHello\n\n" * 20,
        "playlist.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n/etc/passwd\n#EXT-X-ENDLIST\n",
        "script.mp4": b"#!/bin/sh\ntouch /tmp/violet-was-here\n",
        "archive.mp4": b"PK\x03\x04" + generator.bytes(500),
        "pdf.mp4": b"%PDF-1.7\n" + generator.bytes(500),
        "zeros.mp4": bytes(5000),
        "ones.webm": b"\xff" * 5000,
        "header_alone.mp4": video[:32],
        "header_alone.webm": b"\x1aE\xdf\xa3" + bytes(40),
        "huge_box.mp4": struct.pack(">I4sQ", 1, b"ftyp", 2**62) + bytes(100),
        "box_in_circles.mp4": struct.pack(">I4s", 0, b"moov") * 200,
        "huge.png": png_that_promises(10_000, 10_000),
        "very_huge.png": png_that_promises(2**31 - 1, 2**31 - 1),
        "huge.gif": b"GIF89a" + struct.pack("<HH", 10_000, 10_000) + b"\x80\0\0\0\0\0\xff\xff\xff,"
        + struct.pack("<HHHHB", 0, 0, 10_000, 10_000, 0) + b"\x02\x02D\x01\0;",
        "huge.bmp": b"BM" + struct.pack("<IHHIIiiHH", 100, 0, 0, 54, 40, 10_000, 10_000, 1, 24) + bytes(24),
        "fake_jpeg.jpg": b"\xff\xd8\xff\xe0" + generator.bytes(300),
        "fake.gif": b"GIF89a" + generator.bytes(300),
        "fake.webp": b"RIFF" + struct.pack("<I", 300) + b"WEBP" + generator.bytes(300),
    }  # fmt: skip
    contents |= {f"noise_{number}.mp4": generator.bytes(int(generator.integers(1, 5000))) for number in range(8)}
    contents |= {f"noise_behind_a_header_{number}.mp4": video[:40] + generator.bytes(2000) for number in range(4)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        yield name, folder / name, ERROR
    jpeg = bytearray(saved(Image.fromarray(frames[0]), "jpeg"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", 10_000, 10_000)
    (folder / "huge.jpg").write_bytes(jpeg)
    yield "huge.jpg", folder / "huge.jpg", ERROR
    tall = np.zeros((1, 8200, 8200, 3), np.uint8)
    yield "really_huge.mkv", encode(folder / "really_huge.mkv", tall, "mjpeg", "yuvj420p"), ERROR
    for name, codec in (("sound.m4a", "aac"), ("sound.mp4", "aac"), ("sound.mkv", "aac")):
        yield name, sound(folder / name, codec), ERROR
    with wave.open(str(folder / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000))
    yield "sound.wav", folder / "sound.wav", ERROR
    for name in ("no_frames", "folder.mp4", "other_files", "broken_frames", "unequal_frames"):
        (folder / name).mkdir()
        if name == "other_files":
            (folder / name / "notes.txt").write_text("none")
        if name == "broken_frames":
            (folder / name / "1.jpg").write_bytes(b"\xff\xd8\xff")
        if name == "unequal_frames":
            for side in (8, 9):
                Image.new("RGB", (side, side)).save(folder / name / f"{side}.png")
        yield name, folder / name, ERROR
    (folder / "circle.mp4").symlink_to(folder / "circle.mp4")
    (folder / "nowhere.mp4").symlink_to(folder / "gone")
    yield from ((name, folder / name, ERROR) for name in ("circle.mp4", "nowhere.mp4", "absent.mp4", "a" * 300))
    yield "a zero byte", f"{folder}/a\0b.mp4", ERROR
    yield "address", "http://127.0.0.1:9/clip.mp4", ERROR
    yield "bytes", generator.bytes(100), ERROR
    yield "no bytes", b"", ERROR


def odd_videos(folder: Path):
    """(name, source, the frames that it holds)"""
    for height, width in ((2, 2), (4, 2), (2, 16), (6, 10), (18, 34), (16, 640)):
        path = encode(folder / f"{height}x{width}.mp4", drawn_frames(5, height, width))
        yield path.name, path, stored_frames(path)
    for height, width in ((1, 1), (1, 3), (3, 5), (17, 31), (47, 63)):
        path = encode(folder / f"{height}x{width}.mkv", drawn_frames(5, height, width), "ffv1", "bgr0")
        yield path.name, path, drawn_frames(5, height, width)
    for turn in (90, 180, 270):
        path = encode(folder / f"turned_{turn}.mp4", drawn_frames(), rotation=turn)
        yield path.name, path, np.rot90(stored_frames(path), turn // 90, axes=(1, 2))
    for name, codec in (("one.mp4", "libx264"), ("one.webm", "libvpx-vp9"), ("one.avi", "mpeg4"), ("one.mkv", "ffv1")):
        path = encode(folder / name, drawn_frames(1), codec, "bgr0" if codec == "ffv1" else "yuv420p")
        yield name, path, stored_frames(path)
    uneven = np.cumsum([0, 1, 1, 5, 1, 9, 2, 2, 7, 1, 1, 3]).tolist()
    for name, codec in (("uneven.mp4", "libx264"), ("uneven.mkv", "libx264"), ("uneven.webm", "libvpx-vp9")):
        path = encode(folder / name, drawn_frames(), codec, times=uneven)
        yield name, path, stored_frames(path)
    for name, codec, pixels in (
        ("ten_bits.mkv", "libx265", "yuv420p10le"), ("ten_bits.mp4", "libx264", "yuv420p10le"),
        ("ten_bits_lossless.mkv", "ffv1", "yuv420p10le"), ("full_colour.mp4", "libx264", "yuv444p"),
        ("full_range.mp4", "libx264", "yuvj420p"), ("grey.mkv", "ffv1", "gray"),
    ):  # fmt: skip
        path = encode(folder / name, drawn_frames(), codec, pixels)
        yield name, path, stored_frames(path)
    clear = np.concatenate([drawn_frames(), np.full((12, *SIZE, 1), 100, np.uint8)], axis=-1)
    for name, codec, pixels in (("alpha.webm", "libvpx-vp9", "yuva420p"), ("alpha.mkv", "ffv1", "bgra")):
        path = encode(folder / name, clear, codec, pixels)
        yield name, path, stored_frames(path)
    frames = drawn_frames()
    for mode in ("RGBA", "LA", "L", "P", "1"):
        picture = Image.fromarray(frames[0]).convert(mode)
        picture.save(folder / f"{mode}.png")
        yield f"{mode}.png", folder / f"{mode}.png", np.asarray(picture.convert("RGB"))[None]
    picture = Image.fromarray(frames[0])
    for kind in ("png", "bmp", "webp"):
        more = {"lossless": True} if kind == "webp" else {}
        picture.save(folder / f"picture.{kind}.mp4", kind, **more)
        yield f"picture.{kind}.mp4", folder / f"picture.{kind}.mp4", frames[:1]
    video = encode(folder / "video.mp4", frames)
    for name in (
        "video.jpg",
        "video.gif",
        "video.txt",
        "video",
        "a clip, äöü 视频.mp4",
        "new\nline.mp4",
        "quo'\"te.mp4",
    ):
        (folder / name).write_bytes(video.read_bytes())
        yield name, folder / name, stored_frames(video)
    no_utf8 = os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.mp4")
    Path(no_utf8).write_bytes(video.read_bytes())
    yield "a name that is no UTF-8", no_utf8, stored_frames(video)


CASES = (cuts, files_that_are_no_videos, odd_videos)


@pytest.fixture(scope="module")
def decoder():
    decoder = DecoderProcess(time_limit=60)
    yield decoder
    decoder.kill()


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_each_file_gives_its_frames_or_the_documented_error(tmp_path, decoder, make):
    count, errors, process = 0, 0, None
    for name, source, expected in make(tmp_path):
        before = sorted(tmp_path.rglob("*"))
        try:
            decoded = decoder.decode(source, lambda total_frames, fps: range(total_frames))
        except VideoDecodeError as error:
            assert isinstance(expected, tuple | str), f"{name}: {error}"
            assert isinstance(source, bytes) or str(source) in str(error)
            errors += 1
        else:
            assert not isinstance(expected, str), f"{name} was read: {decoded.frames.shape}"
            np.testing.assert_array_equal(decoded.frames, expected[1] if isinstance(expected, tuple) else expected)
        assert sorted(tmp_path.rglob("*")) == before, "nothing is written"
        process = process or decoder.pid
        assert decoder.pid == process, f"{name} killed the decoder"
        count += 1
    assert count >= {cuts: 70, files_that_are_no_videos: 55, odd_videos: 40}[make]
    assert errors == 0 if make is odd_videos else errors > 0.9 * count
    assert not Path("/tmp/violet-was-here").exists()


def impossible_arrays():
    frames = drawn_frames(4)
    real = frames / 255
    for place in ((0, 0, 0, 0), (3, 47, 63, 2)):
        for value in (np.nan, np.inf, -np.inf):
            broken = real.copy()
            broken[place] = value
            yield broken
            yield broken.astype(np.float32)
    yield from (real * 255, real - 0.5, real.astype(np.complex64), frames.astype(np.int32), frames.astype(object))
    yield from (frames[0], frames[0, 0], frames[None], np.zeros(()), np.zeros((0, 8, 8, 3), np.uint8))
    yield from (np.zeros((4, 0, 8, 3), np.uint8), np.zeros((4, 8, 8, 2), np.uint8), np.zeros((4, 3, 8, 3), np.uint8))
    yield from ([real[0], real[1, :8]], [frames[0], "clip.mp4"], [], {}, 7, None, [None], frames.astype("U3"))


def test_each_impossible_array_is_refused_by_its_shape_or_its_values():
    refused = 0
    for array in impossible_arrays():
        with pytest.raises(VideoDecodeError, match=r"Cannot decode .+: .+\. .+"):
            decode_video(array, lambda total_frames, fps: [0])
        refused += 1
    assert refused >= 30

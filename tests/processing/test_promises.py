"""What files promise of their frames is held against what they have; limits are said; whole files pass untouched."""

import functools
import http.server
import io
import json
import threading
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from violet.data import TableError, TarShard
from violet.data.loading import ClipReader, FailedSamples, OtherFrames, doubts_of
from violet.data.sources import stored_clip
from violet.processing import VideoDecodeError, VioletVideoProcessor, addresses, decode_video, decoder_process
from violet.processing.addresses import fetch_address
from violet.processing.decoded_video import shrunk
from violet.processing.decoder_process import DecoderProcess

av = pytest.importorskip("av")

COUNT = 20


def drawn(count=COUNT, height=48, width=64):
    blocks = np.random.default_rng(1).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    return [np.roll(picture, 3 * number, axis=1) ^ np.uint8(number) for number in range(count)]


def write(path, codec="libx264", muxing=None, with_sound=False, frames=None, kind=None, pixels="yuv420p"):
    with av.open(str(path), "w", format=kind, options=muxing or {}) as output:
        stream = output.add_stream(codec, rate=25, options={"g": "7"})
        frames = drawn() if frames is None else frames
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        sound = output.add_stream("libopus" if path.suffix == ".webm" else "mp2", rate=48000) if with_sound else None
        if sound is not None:
            sound.layout = "stereo"
            for start in range(0, 48000, 960 if path.suffix == ".webm" else 1152):
                size = 960 if path.suffix == ".webm" else 1152
                noise = np.zeros((1, 2 * size), np.int16)
                frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="stereo")
                frame.sample_rate, frame.pts = 48000, start
                output.mux(sound.encode(frame))
        for picture in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())
        if sound is not None:
            output.mux(sound.encode())
    return path


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("faststart.mp4", {"muxing": {"movflags": "faststart"}}),
        ("fragments.mp4", {"muxing": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}}),
        ("later_fragments.mp4", {"muxing": {"movflags": "frag_keyframe"}}),
        ("sound.mp4", {"with_sound": True}),
        ("sound.mov", {"with_sound": True}),
        ("no_edits.mp4", {"muxing": {"use_editlist": "0"}}),
        ("sound.mkv", {"with_sound": True}),
        ("live.mkv", {"muxing": {"live": "1"}}),
        ("cues_first.mkv", {"muxing": {"cues_to_front": "1", "reserve_index_space": "2000"}}),
        ("live.webm", {"codec": "libvpx", "muxing": {"live": "1"}, "with_sound": True}),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("sound.avi", {"codec": "mpeg4", "with_sound": True}),
        ("raw.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
        ("sound.ts", {"codec": "mpeg2video", "with_sound": True}),
        ("blu_ray.m2ts", {"kind": "mpegts", "muxing": {"mpegts_m2ts_mode": "1"}, "with_sound": True}),
        ("clip.flv", {}),
    ],
)
def test_whole_files_of_many_makings_are_taken_without_a_word(tmp_path, name, more):
    path = write(tmp_path / name, **more)
    for source in (path, path.read_bytes()):
        decoded = decode_video(source)
        assert (decoded.total_frames, len(decoded.frames), decoded.doubt) == (COUNT, COUNT, None)


@pytest.mark.shared
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_known_damage_is_refused_or_told_with_both_counts_and_whole_files_are_taken(shared_folder, backend):
    folder = shared_folder / "data/broken"
    seen = json.loads((folder / "frames_seen.json").read_text())
    found = {}
    for path in sorted(folder.glob("*.*")):
        if path.suffix == ".json":
            continue
        try:
            decoded = decode_video(path, backend=backend)
        except VideoDecodeError as error:
            found[path.name] = error.promised_frames
            assert path.suffix == ".ts" or (error.promised_frames, error.held_frames is None) == (50, False)
        else:
            assert decoded.total_frames == seen.get(path.name, 50)
            found[path.name] = decoded.promised_frames if decoded.doubt else "whole"
    assert {name for name, said in found.items() if said == "whole"} == {
        f"whole.{kind}" for kind in ("avi", "mp4", "ts", "webm")
    }
    assert set(found) == set(seen) | {f"whole.{kind}" for kind in ("avi", "mp4", "ts", "webm")}
    assert found["flip-1.mp4"] == 50


@pytest.fixture
def shorter(tmp_path):
    """A clip whose edit list starts a little later: FFmpeg leaves out its first frame."""
    path = write(tmp_path / "shorter.mp4")
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 16
    content[place : place + 4] = (int.from_bytes(content[place : place + 4], "big") + 4).to_bytes(4, "big")
    path.write_bytes(content)
    return path


def test_a_trimmed_clip_is_whole(tmp_path):
    """Its edit list shows 9 frames from the ninth on, which starts no group; 11 are not shown."""
    path = write(tmp_path / "trimmed.mp4")
    content = bytearray(path.read_bytes())

    def put(name, place, value):
        found = content.index(name) + 4 + place
        content[found : found + 4] = value.to_bytes(4, "big")

    edit = content.index(b"elst") + 16
    first = int.from_bytes(content[edit : edit + 4], "big")
    put(b"elst", 8, 9 * 40)
    put(b"elst", 12, first + 8 * 512)
    put(b"tkhd", 20, 9 * 40)
    put(b"mvhd", 16, 9 * 40)
    whole = decode_video(path).frames
    path.write_bytes(content)
    trimmed = decode_video(path)
    assert (trimmed.total_frames, trimmed.doubt) == (9, None)
    np.testing.assert_array_equal(trimmed.frames, whole[8:17])


def test_pulled_down_film_on_television_is_whole_and_a_gap_in_the_clock_is_told(tmp_path):
    def stream(name, places):
        path = tmp_path / name
        with av.open(str(path), "w") as output:
            video = output.add_stream("mpeg2video", rate=50)
            video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
            video.codec_context.max_b_frames = 0
            for place, picture in zip(places, drawn(), strict=True):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = place, Fraction(1, 50)
                output.mux(video.encode(frame))
            output.mux(video.encode())
        return decode_video(path)

    assert stream("film.ts", np.cumsum([2, 3] * (COUNT // 2)).tolist()).doubt is None
    gap = stream("gap.ts", [2 * number + 6 * (number > 11) for number in range(COUNT)])
    assert (gap.total_frames, gap.promised_frames) == (COUNT, COUNT + 3)


def test_another_count_than_promised_is_in_the_runs_report_with_both(shorter, tmp_path, caplog):
    processor = VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=4)
    reader = ClipReader(processor)
    clip = reader.read(str(shorter))
    assert clip.counts == (COUNT, COUNT - 1)
    assert reader.read(str(write(tmp_path / "whole.mp4"))).counts is None
    reader.decoder.kill()
    report = FailedSamples(tmp_path / "run")
    report.add(doubts_of("train", 3, str(shorter), clip))
    line = json.loads((tmp_path / "run/frames_report.jsonl").read_text())
    assert (line["row"], line["promised"], line["found"]) == (3, COUNT, COUNT - 1)
    assert report.metrics() == {"samples_failed": 0, "samples_with_other_frames": 1}
    assert isinstance(report.frames.all()[0], OtherFrames) and str(shorter) in caplog.text
    caplog.clear()
    processor([str(shorter)], return_tensors="pt")
    assert f"promises {COUNT} frames, and {COUNT - 1} are found" in caplog.text


def test_refusals_carry_both_counts_out_of_the_decoders_process(tmp_path):
    path = write(tmp_path / "cut.webm", codec="libvpx")
    path.write_bytes(path.read_bytes()[:-3000])
    decoder = DecoderProcess(60)
    with pytest.raises(VideoDecodeError, match="truncated") as caught:
        decoder.decode(path, lambda total, fps: [0])
    decoder.kill()
    assert 0 < caught.value.held_frames < COUNT


def test_a_picture_over_the_limit_is_refused_with_the_limit():
    for side in (9000, 15000):
        file = io.BytesIO()
        Image.new("1", (side, side)).save(file, "png")
        with pytest.raises(VideoDecodeError, match=r"pixels; more than 67108864 are refused. Scale it down"):
            decode_video(file.getvalue())


def test_large_frames_shrink_as_they_are_decoded(tmp_path):
    path = write(tmp_path / "clip.mkv", codec="ffv1", pixels="bgr0")
    frames = np.stack(drawn())
    for most, factor in ((48 * 64, 1), (48 * 64 - 1, 2), (200, 4)):
        decoded = decode_video(path, lambda total, fps: [4, 9, 4], most_pixels=most)
        squares = frames[[4, 9, 4]].reshape(3, 48 // factor, factor, 64 // factor, factor, 3)
        np.testing.assert_allclose(decoded.frames, squares.mean((2, 4)), atol=0.51)
    assert shrunk(one := frames[0], 48 * 64) is one
    assert shrunk(np.zeros((7, 9, 3), np.uint8), 20).shape == (4, 5, 3)
    pictures = [Image.fromarray(frame) for frame in frames]
    assert decode_video(pictures, lambda total, fps: [4, 9], most_pixels=200).frames.shape == (2, 12, 16, 3)


def test_a_decoders_process_is_replaced_before_what_libraries_lose_adds_up(tmp_path, monkeypatch):
    monkeypatch.setattr(decoder_process, "MOST_VIDEOS", 2)
    path, decoder, processes = write(tmp_path / "clip.mp4"), DecoderProcess(60), []
    for _ in range(3):
        decoder.decode(path, lambda total, fps: [0])
        processes.append(decoder.pid)
    decoder.kill()
    assert processes[1] is None and None not in (processes[0], processes[2]) and processes[0] != processes[2]


@pytest.fixture
def server(tmp_path):
    ended = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:9/clip.mp4")
                self.end_headers()
            elif self.path == "/slow":
                self.send_response(200)
                self.send_header("Content-Length", "100")
                self.end_headers()
                self.wfile.write(b".")
                ended.wait(60)
            else:
                super().do_GET()

        def log_message(self, *given):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path)) as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        ended.set()
        made.shutdown()


def test_addresses_of_this_machine_are_refused_unless_allowed(server, tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"content")
    assert fetch_address(f"{server}/a.bin") == b"content"
    monkeypatch.delenv(addresses.LOCAL_ADDRESSES)
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
        with pytest.raises(VideoDecodeError, match="VIOLET_LOCAL_ADDRESSES=1"):
            fetch_address(f"{server}/a.bin".replace("127.0.0.1", host))
    with pytest.raises(TableError, match="VIOLET_LOCAL_ADDRESSES=1"):
        list(TarShard(f"{server}/a.tar").rows())


def test_a_redirect_is_held_to_the_same(server, monkeypatch):
    """The first connection is let through, as to a public machine; the one that it leads to is not."""
    answers = iter([True, False])
    monkeypatch.setattr(addresses, "_allows_local", lambda: next(answers, False))
    with pytest.raises(VideoDecodeError, match="127.0.0.1 is 127.0.0.1, an address of this machine"):
        fetch_address(f"{server}/away")


def test_what_is_fetched_has_a_limit(server, tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(bytes(2000))
    monkeypatch.setattr(addresses.read_within, "__defaults__", (1000,))
    with pytest.raises(VideoDecodeError, match="it has 2000 bytes; at most 1000 are read"):
        fetch_address(f"{server}/a.bin")
    (tmp_path / "a.mp4").write_bytes(bytes(2000))
    with pytest.raises(TableError, match="refused: it has 2000 bytes; at most 1000 are read"):
        stored_clip(f"{server}/a.mp4")


def test_a_server_that_sends_a_byte_now_and_then_has_a_limit_too(server, monkeypatch):
    """Not only when a whole part has come."""
    monkeypatch.setattr(addresses, "FETCH_SECONDS", 0)
    with pytest.raises(VideoDecodeError, match="it was not there after 0 s"):
        fetch_address(f"{server}/slow")


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://a.org/b.mp4", "s3://a/b.mp4", "zip://a::http://b"])
def test_other_addresses_than_http_are_refused(address):
    with pytest.raises(VideoDecodeError, match="addresses are http, https, hf"):
        fetch_address(address)

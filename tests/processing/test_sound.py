"""The sound of real files, written by real encoders: PyAV's own samples, in time with the frames, masked elsewhere."""

import gc
import io
import logging
import os
import re
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torchcodec_here import need_torchcodec
from transformers import AutoProcessor

from tests.helpers.sounding_files import FPS, loudest, own_samples, tone, write_video
from violet import VideoTextProcessor
from violet.processing import VideoDecodeError, VioletVideoProcessor, decode_video, train_wordpiece_tokenizer
from violet.processing.decoder_process import DecoderProcess
from violet.processing.sound import decode_with_sound, given_sound, has_sound, join_sounds, no_sound, read_sound

RATE = 48000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sounding")


@pytest.fixture(scope="module")
def noisy(folder) -> Path:
    """2 s of frames with 2 s of noise and a tone, AAC."""
    generator = np.random.default_rng(0)
    sound = tone(440, 2, RATE) + 0.1 * generator.standard_normal(2 * RATE).astype(np.float32)
    return write_video(folder / "noisy.mp4", 2, np.clip(sound, -1, 1))


@pytest.fixture(scope="module")
def processor() -> VideoTextProcessor:
    words = train_wordpiece_tokenizer(["what makes the low tone"], 60)
    frames = VioletVideoProcessor(num_frames=2, size={"height": 32, "width": 32}, sampling_rate=RATE, num_samples=RATE)
    return VideoTextProcessor(words, frames)


def sound_of(path, rate=RATE, count=RATE, **settings):
    return decode_with_sound(path, lambda total, fps: [0], sampling_rate=rate, num_samples=count, **settings).sound


@pytest.mark.parametrize(
    ("name", "codec", "layout", "rate", "video_codec"),
    [
        ("mono.mp4", "aac", "mono", 48000, "libx264"),
        ("stereo.mov", "aac", "stereo", 44100, "libx264"),
        ("surround.mp4", "aac", "5.1", 48000, "libx264"),
        ("telephone.mp4", "aac", "mono", 8000, "libx264"),
        ("opus.webm", "libopus", "stereo", 48000, "libvpx-vp9"),
        ("opus.mkv", "libopus", "mono", 48000, "libx264"),
        ("mp3.mp4", "libmp3lame", "stereo", 44100, "libx264"),
        ("mp3.mkv", "libmp3lame", "mono", 32000, "libx264"),
        ("plain.mkv", "pcm_s16le", "stereo", 16000, "libx264"),
        ("lossless.mkv", "flac", "5.1", 48000, "libx264"),
        ("stream.ts", "aac", "stereo", 48000, "libx264"),
        ("old.avi", "pcm_s16le", "mono", 22050, "libx264"),
    ],
)
def test_without_resampling_the_samples_are_pyavs_own(folder, name, codec, layout, rate, video_codec):
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    generator = np.random.default_rng(channels)
    sound = np.stack([tone(300 + 100 * i, 1, rate, 0.3) for i in range(channels)])
    sound += 0.05 * generator.standard_normal(sound.shape).astype(np.float32)
    path = write_video(folder / name, 1, sound, rate, codec, layout, video_codec=video_codec)
    heard, own = sound_of(path, rate, rate), own_samples(path)
    assert heard.found and heard.values.dtype == np.float32 and heard.values.shape == heard.mask.shape == (rate,)
    assert heard.mask.mean() > 0.93 and np.abs(heard.values).max() > 0.1
    first = int(heard.mask.argmax())  # an encoder's delay may be cut off, or come before the frames
    kept = heard.values[heard.mask]
    places = [place for place in range(len(own) - len(kept) + 1) if own[place] == kept[0]]
    assert any(np.array_equal(own[place : place + len(kept)], kept) for place in places), (first, len(own))


def test_a_tone_keeps_its_frequency_and_its_place_at_another_rate(folder):
    sound = np.concatenate([np.zeros(RATE // 2, np.float32), tone(1000, 1, RATE), np.zeros(RATE // 2, np.float32)])
    path = write_video(folder / "tone.mkv", 2, sound, codec="flac")
    for rate in (16000, 44100, 22050, 8000, 96000):
        heard = sound_of(path, rate, 2 * rate)
        assert heard.mask.all() and heard.missing == 0
        assert loudest(heard.values, rate) == pytest.approx(1000, abs=1)
        loud = np.flatnonzero(np.abs(heard.values) > 0.2) / rate
        assert loud[0] == pytest.approx(0.5, abs=0.001) and loud[-1] == pytest.approx(1.5, abs=0.001)
        expected = np.sin(2 * np.pi * 1000 * (np.arange(rate, 1.2 * rate) / rate - 0.5)) / 2
        assert np.abs(heard.values[rate : rate + len(expected)] - expected).max() < 0.01, "no delay"


def test_channels_are_averaged_before_the_rate_changes(folder):
    left, right = tone(500, 1, RATE), -tone(500, 1, RATE)
    path = write_video(folder / "opposed.mkv", 1, np.stack([left, right]), codec="flac", layout="stereo")
    for rate in (RATE, 16000):
        heard = sound_of(path, rate, rate)
        assert heard.mask.all() and np.abs(heard.values).max() < 1e-3, "opposed channels leave nothing: their mean"


def test_silence_is_sound_and_no_sound_is_not(folder):
    silent = sound_of(write_video(folder / "silent.mp4", 1, np.zeros(RATE, np.float32)))
    deaf = sound_of(write_video(folder / "deaf.mp4", 1))
    assert silent.found and silent.mask.all() and not np.abs(silent.values).max()
    assert not deaf.found and not deaf.mask.any() and not deaf.values.any() and not deaf.is_short
    assert has_sound(folder / "silent.mp4") and not has_sound(str(folder / "deaf.mp4"))


def test_sound_shorter_than_the_frames_is_padded_masked_and_told(folder, processor, caplog):
    path = write_video(folder / "short.mp4", 2, tone(440, 0.5, RATE))
    heard = sound_of(path, RATE, 2 * RATE)
    assert heard.is_short and heard.missing == pytest.approx(1.5, abs=0.05)
    assert heard.mask[: RATE // 2].all() and not heard.mask[int(0.55 * RATE) :].any()
    assert not heard.values[~heard.mask].any()
    with caplog.at_level(logging.WARNING):
        batch = processor(videos=[path], text="what", sound=True)
    assert batch["audio_attention_mask"].sum() == pytest.approx(RATE / 2, abs=0.05 * RATE)
    assert re.search(r"short\.mp4: its sound lacks 0\.(4[5-9]|50) s of the clip", caplog.text)
    exact = sound_of(path, RATE, RATE // 4)
    assert not exact.is_short and exact.mask.all(), "what a model takes is all there"


def test_sound_longer_than_the_frames_ends_with_them(folder):
    path = write_video(folder / "long.mp4", 0.5, tone(440, 2, RATE))
    heard = sound_of(path, RATE, RATE)
    assert heard.mask.sum() == RATE // 2 and heard.mask[: RATE // 2].all() and heard.missing == 0
    assert sound_of(path, RATE, 1000).mask.all()


@pytest.mark.parametrize("name", ["later.mp4", "later.mkv"])
def test_sound_that_starts_later_or_earlier_than_the_frames_stays_in_time(folder, name):
    sound = tone(440, 1, RATE)
    codec = "flac" if name.endswith("mkv") else "aac"
    late = sound_of(write_video(folder / name, 2, sound, codec=codec, sound_starts=0.7), RATE, 2 * RATE)
    start = int(late.mask.argmax()) / RATE
    assert start == pytest.approx(0.7, abs=0.03) and not late.values[: int(0.65 * RATE)].any()
    loud = np.flatnonzero(np.abs(late.values) > 0.3) / RATE
    assert loud[0] == pytest.approx(0.7, abs=0.03) and loud[-1] == pytest.approx(1.7, abs=0.03)
    assert late.is_short and late.missing == pytest.approx(1.0, abs=0.05)

    click = np.zeros(2 * RATE, np.float32)
    click[int(1.25 * RATE)] = 0.9
    path = write_video(folder / f"early-{name}", 1, click, codec=codec, frames_start=1.0)
    early = sound_of(path, RATE, RATE)
    span = decode_video(path, lambda total, fps: [0]).span
    assert np.abs(early.values).argmax() / RATE == pytest.approx(1.25 - span[0], abs=0.002)
    if name.endswith("mkv"):
        assert span[0] == pytest.approx(1.0, abs=0.002), "the frames start with the second second"


def test_a_gap_in_the_sound_is_masked_and_what_follows_stays_in_time(folder):
    path = folder / "gap.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width = video.height = 32
        video.pix_fmt, video.options = "yuv420p", {"bf": "0", "threads": "1"}
        heard = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for _ in range(20):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(video.encode(None))
        for start in (0, 16000):
            samples = np.full((1, 8000), 1000 if start else 500, np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(heard.encode(frame))
        container.mux(heard.encode(None))
    found = sound_of(path, 16000, 32000)
    expected = np.zeros(32000, np.float32)
    expected[:8000], expected[16000:24000] = 500 / 32768, 1000 / 32768
    np.testing.assert_array_equal(found.values, expected)
    np.testing.assert_array_equal(found.mask, expected > 0)
    assert found.missing == pytest.approx(1.0)


def test_a_part_of_a_file_is_the_same_part_of_its_sound(noisy):
    whole = read_sound(noisy, "x", (0.0, 2.0), RATE, 2 * RATE)
    part = read_sound(noisy, "x", (0.5, 1.25), RATE, RATE)
    assert part.mask.sum() == 0.75 * RATE and part.missing == 0
    np.testing.assert_array_equal(part.values[part.mask], whole.values[RATE // 2 : int(1.25 * RATE)])


@pytest.mark.parametrize("backend", ["pyav", "decord", "torchcodec"])
def test_every_backend_of_frames_comes_with_the_same_sound(noisy, backend):
    expected = sound_of(noisy)
    found = sound_of(noisy, backend=backend)
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.mask.all()


def test_another_process_gives_the_very_same_sound_within_its_time(noisy, folder):
    decoder = DecoderProcess(time_limit=60)
    try:
        for source in (noisy, noisy.read_bytes(), write_video(folder / "none.mp4", 1)):
            here = sound_of(source, 16000, 24000)
            there = decoder.decode(source, lambda total, fps: [0, 1, 2], sound=(16000, 24000))
            np.testing.assert_array_equal(there.sound.values, here.values)
            np.testing.assert_array_equal(there.sound.mask, here.mask)
            assert (there.sound.found, there.sound.missing) == (here.found, here.missing)
            assert there.frames.shape[0] == 3
        assert decoder.decode(noisy, lambda total, fps: [0]).sound is None
        hung = folder / "hung.mp4"
        os.mkfifo(hung)
        decoder.time_limit = 0.5
        with pytest.raises(VideoDecodeError, match=r"took longer than 0.5 s.*killed"):
            decoder.decode(hung, lambda total, fps: [0], sound=(16000, 24000))
    finally:
        decoder.kill()


def test_damaged_sound_is_refused_by_name(noisy, folder):
    content = bytearray(noisy.read_bytes())
    with av.open(io.BytesIO(bytes(content))) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
    for packet in packets[5:60]:
        content[packet.pos : packet.pos + packet.size] = os.urandom(packet.size)
    path = folder / "damaged.mp4"
    path.write_bytes(bytes(content))
    decode_video(path, lambda total, fps: [0])
    with pytest.raises(VideoDecodeError, match=r"damaged\.mp4: its sound is damaged"):
        sound_of(path, RATE, 2 * RATE)


def test_values_that_are_no_numbers_are_refused(folder):
    sound = tone(440, 1, RATE)
    sound[1000] = np.nan
    path = write_video(folder / "nan.mkv", 1, sound, codec="pcm_f32le")
    with pytest.raises(VideoDecodeError, match=r"nan\.mkv: its sound has values that are NaN"):
        sound_of(path)


def test_a_processor_makes_rows_of_sound_and_of_none(noisy, folder, processor):
    deaf = write_video(folder / "quiet.mp4", 1)
    batch = processor(videos=[noisy, deaf], text=["what makes", "tone"], sound=True)
    assert batch["audio_values"].shape == batch["audio_attention_mask"].shape == (2, RATE)
    assert batch["audio_values"].dtype == torch.float32 and batch["audio_attention_mask"].dtype == torch.int64
    assert torch.equal(batch["audio_values"][0], torch.from_numpy(sound_of(noisy).values))
    assert batch["audio_attention_mask"].sum(1).tolist() == [RATE, 0] and not batch["audio_values"][1].any()
    assert batch["audio_values"].abs().max() <= 1
    again = processor(videos=[noisy, deaf], text=["what makes", "tone"])
    assert torch.equal(again["audio_values"], batch["audio_values"]), "its settings say that it hears"
    assert "audio_values" not in processor(videos=[noisy], sound=False)
    other = processor(videos=noisy, sound=True, sampling_rate=8000, num_samples=4000, return_tensors="np")
    assert other["audio_values"].shape == (1, 4000) and isinstance(other["audio_values"], np.ndarray)
    by_time = processor(videos=noisy, sound=True, num_frames=None, fps=2)
    assert (
        torch.equal(by_time["audio_values"], batch["audio_values"][:1])
        and by_time["pixel_values_videos"].shape[1] == 4
    )


def test_settings_of_sound_save_and_load_with_the_processor(processor, noisy, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    frames = loaded.video_processor
    assert (frames.sampling_rate, frames.num_samples, frames.hears) == (RATE, RATE, True)
    assert torch.equal(loaded(videos=noisy)["audio_values"], processor(videos=noisy)["audio_values"])
    plain = VioletVideoProcessor(num_frames=2)
    assert not plain.hears and not {"sampling_rate", "num_samples", "sound"} & set(plain.to_dict())
    assert list(plain(noisy, return_tensors="pt")) == ["pixel_values_videos"]


def test_settings_of_sound_that_contradict_are_refused(noisy):
    with pytest.raises(ValueError, match=r"`sampling_rate` and `num_samples` belong together"):
        VioletVideoProcessor(sampling_rate=16000)
    with pytest.raises(ValueError, match=r"`num_samples` must be 1 or more, got 0"):
        VioletVideoProcessor(sampling_rate=16000, num_samples=0)
    with pytest.raises(ValueError, match=r"`sound` needs `sampling_rate` \(Hz\) and `num_samples`.*`audio_config`"):
        VioletVideoProcessor(num_frames=2)([noisy], sound=True)
    frames = VioletVideoProcessor(num_frames=2, sampling_rate=16000, num_samples=100)
    with pytest.raises(ValueError, match=r"`sound`: 1 for 2 clips"):
        frames([noisy, noisy], sound=[None])


def test_every_form_of_a_file_is_heard_and_frames_are_refused_by_name(noisy, folder, processor, tmp_path):
    expected = processor(videos=[noisy])["audio_values"]
    forms = [str(noisy), noisy.read_bytes(), {"path": str(noisy), "bytes": None}, {"bytes": noisy.read_bytes()}]
    assert torch.equal(processor(videos=forms)["audio_values"], expected.expand(4, -1))
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    with pytest.raises(
        VideoDecodeError, match=r"clip 1 .*of shape \(4, 32, 32, 3\): it is no file, and frames have no"
    ):
        processor(videos=[noisy, frames], sound=True)
    batch = processor(videos=[frames, frames], sound=[None, str(noisy)])
    assert batch["audio_attention_mask"].sum(1).tolist() == [0, RATE]
    assert torch.equal(batch["audio_values"][1:], expected)
    from PIL import Image

    pictures = [Image.new("RGB", (32, 32), (i, 0, 0)) for i in (0, 200)]
    pictures[0].save(tmp_path / "two.gif", save_all=True, append_images=pictures[1:])
    (tmp_path / "frames").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "frames" / f"{number}.png")
    batch = processor(videos=[tmp_path / "two.gif", tmp_path / "frames"], sound=True)
    assert not batch["audio_attention_mask"].any(), "files without sound, and masked"
    assert not processor(images=[pictures[0]])["audio_attention_mask"].any()


def test_sounds_given_beside_frames(noisy, folder):
    wave = tone(440, 0.5, 16000)
    whole = given_sound({"array": wave, "sampling_rate": 16000}, "x", 16000, 16000)
    np.testing.assert_array_equal(whole.values[:8000], wave)
    assert whole.mask.sum() == 8000 and whole.mask[:8000].all()
    stereo = np.stack([wave, np.zeros_like(wave)])
    for array in (stereo, stereo.T, torch.from_numpy(stereo)):
        np.testing.assert_allclose(
            given_sound({"array": array, "sampling_rate": 16000}, "x", 16000, 8000).values, wave / 2
        )
    assert loudest(given_sound({"array": wave, "sampling_rate": 16000}, "x", 8000, 4000).values, 8000) == 440
    only = folder / "only.flac"
    with av.open(str(only), "w") as container:
        heard = container.add_stream("flac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.rint(wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(heard.encode(frame))
        container.mux(heard.encode(None))
    for source in (only, str(only), only.read_bytes(), {"path": str(only), "bytes": None}):
        np.testing.assert_allclose(given_sound(source, "x", 16000, 8000).values, wave, atol=1e-4)
    assert not given_sound(None, "x", 16000, 100).found
    ready = no_sound(100)
    assert given_sound(ready, "x", 16000, 100) is ready


def test_a_column_of_datasets_audio_is_a_sound(noisy, folder, processor):
    need_torchcodec()
    from torchcodec.decoders import AudioDecoder

    decoder = AudioDecoder(str(noisy))
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    given = processor(videos=[frames], sound=[decoder])
    np.testing.assert_allclose(given["audio_values"][0], sound_of(noisy).values, atol=1e-3)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.zeros(100, np.float32), r"x: its `sound` is ndarray of shape \(100,\), without its rate"),
        ({"array": np.zeros((2, 2, 2)), "sampling_rate": 8000}, r"an array of shape \(2, 2, 2\)"),
        ({"array": np.zeros(9, np.int64), "sampling_rate": 8000}, r"type int64"),
        ({"array": np.full(9, 3.0), "sampling_rate": 8000}, r"run from 3 to 3, outside of -1..1"),
        ({"array": np.array([0.0, np.nan]), "sampling_rate": 8000}, r"NaN or infinite"),
        (7, r"its `sound` is object of type int"),
        ("absent.wav", r"cannot be opened"),
    ],
)
def test_what_is_no_sound_is_refused_by_name(given, says):
    with pytest.raises(VideoDecodeError, match=says):
        given_sound(given, "x", 8000, 100)


def test_a_file_without_sound_is_refused_as_a_sound(folder):
    with pytest.raises(VideoDecodeError, match=r"given as its sound, .*mute\.mp4, has none"):
        given_sound(write_video(folder / "mute.mp4", 1), "x", 8000, 100)


def test_sounds_of_several_clips_stand_one_behind_the_other(noisy):
    one, none = sound_of(noisy, 8000, 100), no_sound(100)
    both = join_sounds([none, one])
    assert both.found and both.mask.tolist() == [False] * 100 + [True] * 100
    np.testing.assert_array_equal(both.values[100:], one.values)


@pytest.mark.shared
def test_real_clips_sound_as_pyav_reads_them(shared_folder):
    found = {}
    for clip in sorted((shared_folder / "data/msrvtt").glob("*.mp4")):
        heard = sound_of(clip, 44100, 44100 * 2)
        found[clip.stem] = heard.found
        if heard.found:
            with av.open(str(clip)) as container:
                frames = list(container.decode(audio=0))
            first = round(frames[0].time * 44100)
            own = np.concatenate([frame.to_ndarray() for frame in frames], axis=1).mean(0, dtype=np.float32)
            place = max(0, first)
            np.testing.assert_array_equal(heard.values[place:], own[place - first :][: 88200 - place].clip(-1, 1))
            assert heard.mask[place:].all() and not heard.mask[:place].any() and place < 500
    assert [name for name, has in found.items() if not has] == ["video7013"]


def test_memory_does_not_grow_with_the_files_that_are_heard(noisy):
    import psutil

    process = psutil.Process()
    sound_of(noisy)
    gc.collect()
    before = process.memory_info().rss
    for _ in range(30):
        sound_of(noisy)
    assert process.memory_info().rss - before < 30 * 2**20, sys.version

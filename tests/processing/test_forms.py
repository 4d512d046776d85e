"""Every form in which a video is handed over gives what the same clip gives by its path; `fps` goes by time stamps."""

import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torchcodec_here import need_torchcodec
from transformers.video_utils import VideoMetadata, default_sample_indices_fn

from violet import VideoTextProcessor, VioletVideoProcessor, decode_video
from violet.data.loading import ClipReader
from violet.processing import VideoDecodeError, decoding, train_wordpiece_tokenizer
from violet.processing.decoding import VIDEO_FORMS

av = pytest.importorskip("av")

STAMPS = (0, 0.4, 0.9, 13, 28)
"""Of a screen recording: seconds at which something changed."""


def pictures(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """(count, height, width, 3) uint8: coarse blocks that move, no two frames alike."""
    blocks = np.random.default_rng(2).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
    return np.stack([np.roll(picture, 3 * number, axis=1) for number in range(count)])


def encode(path: Path, frames, stamps, codec="libx264", pix_fmt="yuv420p", rotation=0, **options) -> Path:
    """A video whose frames have these time stamps, in seconds; each lasts until the next."""
    tick = Fraction(1, 30000)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        stream.codec_context.time_base = tick
        if rotation:
            stream.set_display_rotation(rotation)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="gray" if picture.ndim == 2 else "rgb24")
            frame.pts, frame.time_base = round(stamps[number] / tick), tick
            until = stamps[number + 1] if number + 1 < len(stamps) else stamps[number] + Fraction(1, 30)
            frame.duration = round((until - stamps[number]) / tick)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def at_rate(count: int, fps: int) -> list[Fraction]:
    return [Fraction(number, fps) for number in range(count)]


@pytest.fixture
def clip(tmp_path):
    """24 frames at 30 a second, with frames that are stored out of order."""
    return encode(tmp_path / "clip.mp4", pictures(24), at_rate(24, 30), **{"x264-params": "keyint=8:bframes=2"})


@pytest.fixture
def recording(tmp_path):
    """A recording of variable frame rate, 28 seconds long."""
    return encode(tmp_path / "recording.mp4", pictures(5), STAMPS, bf="0")


@pytest.fixture
def small():
    return VioletVideoProcessor(num_frames=3, size={"height": 32, "width": 32})


@pytest.fixture
def processor(small):
    return VideoTextProcessor(train_wordpiece_tokenizer(["what moves left?"] * 4, vocab_size=60), small)


@pytest.fixture
def video_decoder():
    """torchcodec's class; it needs FFmpeg's shared libraries on the machine as well."""
    need_torchcodec()
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder


def equal(found, expected):
    torch.testing.assert_close(found["pixel_values_videos"], expected["pixel_values_videos"], rtol=0, atol=0)
    assert expected["pixel_values_videos"].std() > 0.1


# --- forms ---


def test_dictionaries_of_datasets_are_files(small, clip, recording):
    content = clip.read_bytes()
    expected, path = small(clip), str(clip)
    for video in (
        {"path": path, "bytes": None},
        {"bytes": content, "path": None},
        {"bytes": content},
        {"path": path},
        {"path": str(recording), "bytes": content},
        {"path": "no/such/clip.mp4", "bytes": content},
    ):
        equal(small(video), expected)
        equal(small([video, video]), small([clip, clip]))
    for handed in ([path], [{"bytes": content, "path": "clip.mp4"}]):
        rows = datasets.Dataset.from_dict({"video": handed}).cast_column("video", datasets.Video(decode=False))
        assert set(rows[0]["video"]) == {"path", "bytes"}
        equal(small(rows[0]["video"]), expected)
        equal(small(rows["video"]), expected)


def test_an_address_of_fsspec_is_read_too(small, clip, tmp_path):
    """Such as `hf://…`, which streamed data sets have as paths; `zip://` goes the same way and needs no network."""
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        archive.write(clip, "inside/clip.mp4")
    address = f"zip://inside/clip.mp4::{tmp_path}/clips.zip"
    equal(small(address), small(clip))
    equal(small({"path": address, "bytes": None}), small(clip))
    reader = ClipReader(small)
    np.testing.assert_array_equal(reader.read(address).frames, reader.read(clip).frames)
    reader.decoder.kill()
    for wrong in (f"zip://absent.mp4::{tmp_path}/clips.zip", "zip://a.mp4::/no/such.zip", "nonsense://a.mp4"):
        with pytest.raises(VideoDecodeError, match=f"{wrong}: it cannot be fetched"):
            small(wrong)


@pytest.mark.parametrize(
    "video, said",
    [
        ({"path": None, "bytes": None}, "both its path and its bytes are missing"),
        ({"video": "clip.mp4"}, "its keys are 'video'"),
        ({}, "its keys are none"),
        (3.5, "object of type float: it is no kind of video"),
        ([1, 2], "list of 2 int"),
        ([[Image.new("RGB", (8, 8)), "a.mp4"]], "not all pictures"),
    ],
)
def test_a_wrong_form_is_named_with_the_list_of_right_ones(small, video, said):
    with pytest.raises(VideoDecodeError, match=r"\S") as caught:
        decode_video(video) if said.startswith("list") else small(video)
    text = str(caught.value)
    assert said in text or said.startswith("list of 2 int") and "its items are not all" in text
    assert text.count(VIDEO_FORMS) == 1


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("mode", ["exact", "approximate"])
def test_the_decoder_of_torchcodec_gives_the_frames_of_the_file(video_decoder, small, clip, order, mode):
    def decoder():
        return video_decoder(str(clip), dimension_order=order, seek_mode=mode)

    expected = decode_video(clip)
    assert len({frame.tobytes() for frame in expected.frames}) == 24
    for indices in (range(24), (20, 3, 3, 11)):
        decoded = decode_video(decoder(), lambda total, fps, indices=indices: indices)
        np.testing.assert_array_equal(decoded.frames, expected.frames[list(indices)])
        np.testing.assert_array_equal(decoded.indices, indices)
        np.testing.assert_allclose(decoded.times, expected.times[list(indices)], atol=1e-6)
        assert (decoded.total_frames, decoded.fps, decoded.backend) == (24, 30, "torchcodec")
    equal(small(decoder()), small(clip))
    equal(small(decoder(), fps=12), small(clip, fps=12))


def test_a_decoder_that_gives_floats_differs_by_its_own_conversion(video_decoder, clip):
    """torchcodec converts to float32 from YUV by itself; to uint8, as datasets asks it to, with FFmpeg's scaler."""
    try:
        decoder = video_decoder(clip, output_dtype=torch.float32)
    except TypeError:
        pytest.skip("this torchcodec gives uint8 only")
    decoded = decode_video(decoder).frames
    assert 0 < np.abs(decoded.astype(int) - decode_video(clip).frames).max() <= 3


@pytest.mark.parametrize("name, codec", [("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"), ("turned.mp4", "libx264")])
def test_the_decoder_gives_the_frames_of_other_files_too(video_decoder, small, tmp_path, name, codec):
    path = encode(tmp_path / name, pictures(24), at_rate(24, 30), codec, rotation=90 if "turned" in name else 0)
    decoder = video_decoder(path)
    if "turned" in name and decoder[0].shape[-2:] == (48, 64):
        pytest.skip("this torchcodec leaves turned videos as they were stored")
    np.testing.assert_array_equal(decode_video(decoder).frames, decode_video(path).frames)


@pytest.mark.shared
def test_the_decoder_gives_the_frames_of_real_clips(video_decoder, shared_folder):
    def some(total_frames, fps):
        return np.linspace(0, total_frames - 1, 7).astype(int)

    clips = sorted((shared_folder / "data/msrvtt").glob("*.mp4"))
    assert len(clips) == 10
    for path in clips:
        np.testing.assert_array_equal(decode_video(video_decoder(path), some).frames, decode_video(path, some).frames)


def test_the_decoder_of_a_data_set_is_a_video(video_decoder, small, clip):
    for handed in (str(clip), {"bytes": clip.read_bytes(), "path": None}):
        rows = datasets.Dataset.from_dict({"video": [handed]}).cast_column("video", datasets.Video())
        assert isinstance(rows[0]["video"], video_decoder)
        equal(small(rows[0]["video"]), small(clip))
        equal(small(rows["video"], fps=10), small(clip, fps=10))


def test_a_decoder_that_fails_is_named(video_decoder, small, recording):
    guessing = video_decoder(recording, seek_mode="approximate")  # of this file it guesses frames that are not there
    with pytest.raises(VideoDecodeError, match="torchcodec's decoder fails .*seek_mode='exact'"):
        small(guessing, fps=1)


def test_torchcodec_is_not_imported_for_other_videos(clip):
    script = (
        "import sys, types\n"
        "package = sys.modules['apart'] = types.ModuleType('apart')\n"
        f"package.__path__ = [{str(Path(decoding.__file__).parent)!r}]\n"
        "from apart.decoding import decode_video\n"
        f"assert len(decode_video({{'path': {str(clip)!r}, 'bytes': None}}).frames) == 24\n"
        "assert not any(name.startswith('torch') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_grey_frames_need_no_axis_of_channels(small, tmp_path, make):
    grey = pictures(10)[..., 0]
    path = encode(tmp_path / "grey.mkv", grey, at_rate(10, 30), "ffv1", "gray")
    np.testing.assert_array_equal(decode_video(path).frames, grey[..., None].repeat(3, axis=-1))
    expected = small(path)
    for frames in (grey, (grey / 255).astype(np.float32)):
        video = make(frames)
        equal(small(video), expected)
        equal(small([video, video]), small([path, path]))
        equal(small([path, video]), small([path, path]))
        equal(small(list(video)), expected)


@pytest.mark.parametrize("shape", [(3, 48, 64), (48, 64, 3), (48, 64, 4), (48, 64, 1)])
def test_an_array_that_may_be_a_picture_is_not_taken_for_grey_frames(small, shape):
    with pytest.raises(VideoDecodeError, match="grey frames, or of one picture.*images="):
        small(np.zeros(shape, np.uint8))


def test_every_form_in_one_list(small, clip, recording):
    frames = decode_video(clip).frames
    grey = frames[:, :, :, 0]
    videos = [
        {"path": str(clip), "bytes": None},
        {"path": None, "bytes": clip.read_bytes()},
        clip,
        frames,
        list(frames),
        [Image.fromarray(frame) for frame in frames],
        torch.from_numpy(frames).permute(0, 3, 1, 2),
    ]
    batch = small([*videos, grey, recording])["pixel_values_videos"]
    alone = small(clip)["pixel_values_videos"]
    torch.testing.assert_close(batch[:7], alone.expand(7, -1, -1, -1, -1), rtol=0, atol=0)
    torch.testing.assert_close(batch[7:8], small(grey)["pixel_values_videos"], rtol=0, atol=0)
    torch.testing.assert_close(batch[8:], small(recording)["pixel_values_videos"], rtol=0, atol=0)


# --- images ---


def test_images_are_clips_of_one_frame(processor, tmp_path):
    picture = pictures(1)[0]
    image, path = Image.fromarray(picture), tmp_path / "a.png"
    image.save(path)
    expected = processor(videos=picture[None], num_frames=1)
    assert expected["pixel_values_videos"].shape == (1, 1, 3, 32, 32)
    forms = [
        image,
        picture,
        torch.from_numpy(picture).permute(2, 0, 1),
        picture / 255,
        path,
        str(path),
        path.read_bytes(),
        {"path": str(path), "bytes": None},
        {"path": None, "bytes": path.read_bytes()},
    ]
    for form in forms:
        equal(processor(images=form), expected)
    batch = processor(text=["what moves left?"] * len(forms), images=forms)
    assert len(batch["input_ids"]) == len(batch["pixel_values_videos"]) == len(forms)
    for pixels in batch["pixel_values_videos"]:
        equal({"pixel_values_videos": pixels[None]}, expected)
    equal(processor(images=np.stack([picture] * 2)), {"pixel_values_videos": batch["pixel_values_videos"][:2]})
    rows = datasets.Dataset.from_dict({"image": [str(path)]}).cast_column("image", datasets.Image())
    equal(processor(images=rows["image"]), expected)
    equal(processor(images=rows.cast_column("image", datasets.Image(decode=False))["image"]), expected)


def test_a_grey_image_has_no_channels(processor):
    picture = pictures(1)[0, :, :, 0]
    equal(processor(images=picture), processor(videos=picture[None], num_frames=1))
    equal(processor(images=Image.fromarray(picture)), processor(images=picture))


def test_what_is_no_image_is_refused(processor, clip, tmp_path):
    picture = Image.fromarray(pictures(1)[0])
    with pytest.raises(VideoDecodeError, match=r"clip.mp4: it has 24 frames, and is no picture.*`videos=`"):
        processor(images=[picture, clip])
    with pytest.raises(VideoDecodeError, match=r"image 1 \(of 0 to 1\), object of type int"):
        processor(images=[picture, 3])
    with pytest.raises(ValueError, match="not both"):
        processor(images=picture, videos=clip)
    with pytest.raises(ValueError, match="empty"):
        processor(images=[])
    with pytest.raises(ValueError, match="`fps` samples frames"):
        processor(images=picture, fps=2)


# --- fps ---


def taken(processor, video, **settings) -> list[list[int]]:
    metadata = processor(video, return_metadata=True, **settings)["video_metadata"]
    return [list(one.frames_indices) for one in metadata]


@pytest.mark.parametrize("name, codec", [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")])
def test_a_recording_of_variable_rate_is_sampled_evenly_in_time(small, tmp_path, name, codec):
    path = encode(tmp_path / name, pictures(5), STAMPS, codec, **({"bf": "0"} if codec == "libx264" else {}))
    np.testing.assert_allclose(decode_video(path).times, STAMPS, atol=1e-3)
    assert taken(small, path, fps=1) == [[0, *[2] * 12, *[3] * 15, 4]]
    assert taken(small, path, fps=0.1) == [[0, 2, 3]]
    assert taken(small, path, fps=10)[0][:12] == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2]
    assert (
        taken(small, path, num_frames=4) == taken(small, path, num_frames=4, decode_backend="pyav") == [[1, 2, 3, 4]]
    )
    (metadata,) = small(path, fps=1, return_metadata=True)["video_metadata"]
    assert metadata.duration == pytest.approx(28.033, abs=0.01) and metadata.total_num_frames == 5
    assert metadata.fps == pytest.approx(5 / 28.033, rel=1e-3)
    frames = decode_video(path).frames
    raw = {"do_rescale": False, "do_normalize": False, "do_resize": False, "do_pad_to_square": False}
    pixels = small(path, fps=0.1, **raw)["pixel_values_videos"][0].permute(0, 2, 3, 1)
    np.testing.assert_array_equal(pixels, frames[[0, 2, 3]])


def test_the_decoder_samples_by_time_as_the_file_does(video_decoder, small, recording, clip):
    for path, rates in ((recording, (0.1, 0.5, 1, 3)), (clip, (1, 7, 30, 60))):
        for fps in rates:
            equal(small(video_decoder(path), fps=fps), small(path, fps=fps))
            assert taken(small, video_decoder(path), fps=fps) == taken(small, path, fps=fps)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("fps", [30, 15, 10, 3, 1])
def test_at_a_constant_rate_frames_are_those_that_transformers_takes(small, tmp_path, suffix, fps):
    path = encode(tmp_path / f"a.{suffix}", pictures(60), at_rate(60, 30))
    metadata = VideoMetadata(total_num_frames=60, fps=30.0)
    expected = default_sample_indices_fn(metadata, fps=fps).tolist()
    assert len(expected) == 2 * fps
    assert taken(small, path, fps=fps) == [expected]
    assert small.sample_frames(metadata, fps=fps).tolist() == expected


def test_a_rate_above_the_files_repeats_frames(small, clip):
    assert taken(small, clip, fps=60) == [[number // 2 for number in range(48)]]


def test_at_least_one_frame_is_taken(small, clip, tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    assert taken(small, clip, fps=0.01) == taken(small, tmp_path / "a.png", fps=5) == [[0]]


def test_a_gif_has_time_stamps(small, tmp_path):
    images = [Image.fromarray(frame).quantize(64) for frame in pictures(4)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[100, 700, 100, 1100])
    assert taken(small, tmp_path / "a.gif", fps=5) == [[0, 1, 1, 1, 2, 3, 3, 3, 3, 3]]
    images[0].save(tmp_path / "b.gif", save_all=True, append_images=images[1:], duration=0)
    with pytest.raises(VideoDecodeError, match="b.gif.*no time stamps"):
        small(tmp_path / "b.gif", fps=5)


def test_num_frames_and_fps_exclude_each_other(small, clip):
    with pytest.raises(ValueError, match="`num_frames` and `fps` exclude each other"):
        small(clip, num_frames=4, fps=1)
    with pytest.raises(ValueError, match="exclude each other"):
        VioletVideoProcessor(num_frames=4, fps=1)
    with pytest.raises(ValueError, match="`fps` samples frames"):
        small(clip, fps=1, do_sample_frames=False)
    for fps in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="`fps` must be above 0"):
            small(clip, fps=fps)


def test_a_processor_may_have_a_rate_of_its_own_and_keeps_it(clip, tmp_path):
    saved = VioletVideoProcessor(fps=10, size={"height": 32, "width": 32})
    saved.save_pretrained(tmp_path / "saved")
    loaded = VioletVideoProcessor.from_pretrained(tmp_path / "saved")
    assert loaded.to_dict() == saved.to_dict() and loaded.fps == 10
    assert taken(loaded, clip) == [[0, 3, 6, 9, 12, 15, 18, 21]]
    assert taken(loaded, clip, fps=5) == [[0, 6, 12, 18]]
    assert taken(loaded, clip, num_frames=2) == taken(VioletVideoProcessor(num_frames=2), clip)
    with pytest.raises(ValueError, match=r"`fps` 10\).*`num_frames`"):
        ClipReader(loaded)


def test_clips_of_unequal_length_come_as_a_list(processor, clip, recording):
    found = processor.video_processor([clip, recording], fps=1)["pixel_values_videos"]
    assert [len(pixels) for pixels in found] == [1, 29]
    with pytest.raises(ValueError, match="unequal shapes"):
        processor(videos=[clip, recording], fps=1)
    found = processor(text="what moves left?", videos=recording, fps=1, return_metadata=True)
    equal(found, processor.video_processor(recording, fps=1))
    assert [list(one.frames_indices) for one in found["video_metadata"]] == taken(
        processor.video_processor, recording, fps=1
    )


# --- video_metadata ---


@pytest.mark.parametrize(
    "metadata",
    [
        {"fps": 30},
        {"duration": 0.8},
        VideoMetadata(total_num_frames=24, fps=30.0),
        {"fps": 30.0, "frames_indices": list(range(24)), "total_num_frames": 24},
        [{"fps": 30}],
        [[{"fps": 30}]],
    ],
)
def test_metadata_tell_when_the_frames_of_an_array_are_shown(small, clip, metadata, tmp_path):
    frames = decode_video(clip).frames
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    for video in (frames, [Image.fromarray(frame) for frame in frames], list(frames), str(tmp_path)):
        equal(small(video, fps=12, video_metadata=metadata), small(clip, fps=12))
        assert taken(small, video, fps=12, video_metadata=metadata) == taken(small, clip, fps=12)


def test_frames_that_were_taken_of_a_longer_video_keep_their_numbers(small):
    frames = pictures(5)
    metadata = {"fps": 15, "frames_indices": [0, 6, 14, 195, 420], "total_num_frames": 435}
    found = small(frames, fps=1, video_metadata=metadata, return_metadata=True)
    (made,) = found["video_metadata"]
    assert found["pixel_values_videos"].shape[1] == 29
    assert made.frames_indices == [0, *[14] * 12, *[195] * 15, 420]
    assert (made.fps, made.total_num_frames, made.duration) == (15, 435, 29)
    (kept,) = small(frames, video_metadata=metadata, do_sample_frames=False, return_metadata=True)["video_metadata"]
    assert kept.frames_indices == metadata["frames_indices"]
    assert kept.timestamps == [0, 6 / 15, 14 / 15, 13, 28]


def test_each_clip_of_a_list_has_its_own_metadata_and_files_need_none(small, clip):
    frames = decode_video(clip).frames
    metadata = [{"fps": 60}, None, {"fps": 15}]
    found = small([frames, clip, frames], fps=10, video_metadata=metadata)["pixel_values_videos"]
    assert [len(pixels) for pixels in found] == [4, 8, 16]
    with pytest.raises(ValueError, match="`video_metadata`: 1 for 2 clips"):
        small([frames, frames], fps=10, video_metadata={"fps": 30})


@pytest.mark.parametrize(
    "metadata, message",
    [
        (None, "no time stamps.*Give `video_metadata` with its `fps` or `duration`"),
        ({"total_num_frames": 5}, "no time stamps"),
        ({"fps": 10, "total_num_frames": 7}, "`total_num_frames` is 7, but there are 5 frames"),
        ({"fps": 10, "frames_indices": [0, 1]}, "must be 5 ascending numbers"),
        ({"fps": 10, "frames_indices": [0, 1, 3, 2, 4]}, "must be 5 ascending numbers"),
        ({"fps": 10, "frames_indices": [0, 1, 2, 3, 9], "total_num_frames": 9}, "frame 9 of 9"),
        ({"duration": 9, "frames_indices": [0, 1, 2, 3, 9]}, "`frames_indices` needs `fps`, or `total_num_frames`"),
        ({"fps": 0}, "`fps` must be above 0"),
        ({"duration": -1}, "`duration` must be above 0"),
        ({"rate": 10}, "with some of total_num_frames, fps.*'rate'"),
        (["10 fps"], "must be VideoMetadata"),
    ],
)
def test_metadata_that_cannot_be_are_refused(small, metadata, message):
    with pytest.raises(ValueError, match=message):
        small(pictures(5), fps=1, video_metadata=metadata)


def test_a_folder_of_frames_has_no_time_stamps(small, tmp_path):
    for number, frame in enumerate(pictures(3)):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    with pytest.raises(VideoDecodeError, match=f"{tmp_path}.*no time stamps.*video_metadata"):
        small(tmp_path, fps=1)


def test_times_are_what_is_asked_of_decode_video(recording):
    asked = []

    def times(duration):
        asked.append(duration)
        return [0, 12.99, 13, 28]

    assert decode_video(recording, sample_times=times).indices.tolist() == [0, 2, 3, 4]
    assert asked == [pytest.approx(28.033, abs=0.01)]
    for wrong in ([], [-1], [29], [[0]], [float("nan")]):
        with pytest.raises(ValueError, match="Times must be"):
            decode_video(recording, sample_times=lambda duration, wrong=wrong: wrong)
    with pytest.raises(ValueError, match="not both"):
        decode_video(recording, lambda total, fps: [0], sample_times=times)

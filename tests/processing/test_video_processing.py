"""Clips of every kind become the same pictures; the settings survive saving and workers."""

import pickle

import numpy as np
import pytest
import torch
from own_process import of_server
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as tvF
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.video_utils import VideoMetadata

from violet.processing.decoding import VideoDecodeError
from violet.processing.video_processing_violet import VioletVideoProcessor, evenly_spaced_indices

av = pytest.importorskip("av")


def random_frames(count: int = 9, height: int = 30, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.fixture
def small():
    return VioletVideoProcessor(num_frames=3, size={"height": 32, "width": 32})


@pytest.fixture
def clip(tmp_path):
    """An mp4 of 12 frames, and its frames as they are stored (lossy)."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for frame in random_frames(12, 32, 48):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    with av.open(str(path)) as container:
        return path, np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize(
    "total_frames, num_frames, expected",
    [(270, 5, [45, 90, 135, 180, 225]), (10, 4, [2, 4, 6, 8]), (2, 4, [0, 0, 1, 1]), (1, 3, [0, 0, 0]), (7, 1, [3])],
)
def test_frames_are_taken_where_the_original_takes_them(total_frames, num_frames, expected):
    assert evenly_spaced_indices(total_frames, num_frames).tolist() == expected


def test_a_clip_is_padded_to_a_centred_black_square_then_resized_and_normalised(small):
    frames = random_frames(9, 30, 40)
    square = np.zeros((3, 40, 40, 3), np.uint8)
    square[:, 5:35] = frames[[2, 4, 6]]
    pictures = torch.from_numpy(square).permute(0, 3, 1, 2)  # (frames, height, width, 3) -> (frames, 3, height, width)
    expected = tvF.resize(pictures, [32, 32], antialias=True).float() / 255
    expected = tvF.normalize(expected, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    torch.testing.assert_close(small(frames).pixel_values_videos, expected[None])


@pytest.mark.parametrize("height, width", [(20, 40), (40, 20), (30, 30)])
def test_without_padding_the_short_side_is_resized_and_the_centre_taken(height, width):
    processor = VioletVideoProcessor(num_frames=2, size={"height": 10, "width": 10}, do_pad_to_square=False)
    frames = random_frames(2, height, width)
    pictures = torch.from_numpy(frames[[0, 1]]).permute(0, 3, 1, 2)
    scale = 10 / min(height, width)
    covering = tvF.resize(pictures, [round(height * scale), round(width * scale)], antialias=True)
    expected = tvF.normalize(
        tvF.center_crop(covering, [10, 10]).float() / 255, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    )
    torch.testing.assert_close(processor(frames).pixel_values_videos[0], expected)


@pytest.mark.parametrize("do_pad_to_square", [True, False])
@pytest.mark.parametrize("height, width", [(7, 13), (13, 7), (224, 224), (5, 9)])
def test_any_shape_becomes_the_size_asked_for(do_pad_to_square, height, width):
    processor = VioletVideoProcessor(size={"height": 24, "width": 16}, do_pad_to_square=do_pad_to_square)
    assert processor(random_frames(2, height, width)).pixel_values_videos.shape == (1, 4, 3, 24, 16)


def test_every_kind_of_clip_gives_the_same_pictures_alone_and_in_a_mixture(small, clip, tmp_path):
    path, frames = clip
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{i}.png")
    kinds = [
        path,
        str(path),
        path.read_bytes(),
        frames,
        frames.transpose(0, 3, 1, 2),
        torch.from_numpy(frames),
        frames / 255,
        torch.from_numpy(frames / 255).permute(0, 3, 1, 2),
        [Image.fromarray(frame) for frame in frames],
        list(frames),
        tmp_path / "frames",
    ]
    expected = small(frames).pixel_values_videos
    assert expected.shape == (1, 3, 3, 32, 32) and expected.dtype == torch.float32 and expected.std() > 0.1
    for kind in kinds:
        torch.testing.assert_close(small(kind).pixel_values_videos, expected, rtol=0, atol=0)
    other = random_frames(5, 50, 20)
    batch = small([*kinds, other]).pixel_values_videos
    torch.testing.assert_close(batch[:-1], expected.expand(len(kinds), -1, -1, -1, -1), rtol=0, atol=0)
    torch.testing.assert_close(batch[-1:], small(other).pixel_values_videos, rtol=0, atol=0)


def test_a_list_of_pictures_is_one_clip_and_a_list_of_arrays_several(small):
    frames = random_frames()
    assert len(small([Image.fromarray(frame) for frame in frames]).pixel_values_videos) == 1
    assert len(small(list(frames)).pixel_values_videos) == 1
    assert len(small([frames, frames]).pixel_values_videos) == 2
    assert len(small(np.stack([frames, frames, frames])).pixel_values_videos) == 3
    with pytest.raises(ValueError, match="empty"):
        small([])


def test_without_sampling_every_frame_is_kept(small):
    assert small(random_frames(9), do_sample_frames=False).pixel_values_videos.shape[1] == 9
    ragged = [random_frames(9), random_frames(4)]
    assert [len(clip) for clip in small(ragged, do_sample_frames=False).pixel_values_videos] == [9, 4]
    with pytest.raises(ValueError, match="unequal"):
        small(ragged, do_sample_frames=False, return_tensors="pt")


def test_settings_of_one_call_are_obeyed(small, clip):
    path, frames = clip
    pixels = small(path, num_frames=2, do_normalize=False, size={"height": 32, "width": 48}, decode_backend="pyav")
    assert pixels.pixel_values_videos.shape == (1, 2, 3, 32, 48)
    assert pixels.pixel_values_videos.min() >= 0 and pixels.pixel_values_videos.max() <= 1
    raw = small(frames, do_rescale=False, do_normalize=False, do_resize=False, do_pad_to_square=False)
    np.testing.assert_array_equal(raw.pixel_values_videos[0].permute(0, 2, 3, 1), frames[[3, 6, 9]])
    with pytest.raises(ValueError, match="opencv"):
        small(path, decode_backend="opencv")
    with pytest.raises(ValueError, match="crop_size"):
        small(path, crop_size={"height": 5, "width": 5})
    with pytest.raises(TypeError, match="nonsense"):
        small(path, nonsense=1)


@pytest.mark.parametrize("settings", [{}, {"do_rescale": False}, {"do_normalize": False}, {"image_mean": [0, 0, 1]}])
def test_pictures_may_stay_as_they_are_and_be_normalised_later(clip, settings):
    processor = VioletVideoProcessor(size={"height": 32, "width": 32}, num_frames=3, **settings)
    expected = processor([clip[0]], return_tensors="pt")["pixel_values_videos"]
    raw = processor([clip[0]], return_tensors="pt", do_rescale=False, do_normalize=False)["pixel_values_videos"]
    assert raw.dtype == torch.uint8 and raw.float().std() > 20
    torch.testing.assert_close(processor.normalize_pixels(raw), expected, rtol=0, atol=0)
    assert processor.normalize_pixels(expected) is expected


def test_metadata_says_which_frames_were_taken(small, clip):
    (metadata,) = small(clip[0], return_metadata=True)["video_metadata"]
    assert (metadata.frames_indices, metadata.total_num_frames, metadata.fps) == ([3, 6, 9], 12, 10.0)
    assert metadata.duration == pytest.approx(1.2)


def test_fetch_videos_decodes_what_the_indices_ask_for(small, clip):
    path, frames = clip
    fetched, metadata = small.fetch_videos(str(path), lambda metadata: [0, metadata.total_num_frames - 1])
    np.testing.assert_array_equal(fetched, frames[[0, 11]])
    assert metadata.frames_indices == [0, 11]


def test_a_broken_clip_in_a_batch_is_named(small, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoDecodeError, match="broken.mp4"):
        small([random_frames(), tmp_path / "broken.mp4"])


def test_settings_survive_saving(tmp_path, clip):
    settings = {
        "num_frames": 6,
        "do_sample_frames": True,
        "size": {"height": 48, "width": 40},
        "do_pad_to_square": False,
        "do_rescale": True,
        "rescale_factor": 1 / 128,
        "do_normalize": True,
        "image_mean": (0.1, 0.2, 0.3),
        "image_std": (0.4, 0.5, 0.6),
        "do_random_crop": True,
        "frame_sampling": "jitter",
        "do_convert_rgb": True,
        "decode_backend": "pyav",
    }
    saved = VioletVideoProcessor(**settings)
    saved.save_pretrained(tmp_path / "saved")
    loaded = VioletVideoProcessor.from_pretrained(tmp_path / "saved")
    assert loaded.to_dict() == saved.to_dict() and "draws" not in saved.to_dict()
    for name, value in settings.items():
        assert (dict(loaded.size) if name == "size" else getattr(loaded, name)) == value
    torch.testing.assert_close(loaded(clip[0]).pixel_values_videos, saved(clip[0]).pixel_values_videos, rtol=0, atol=0)


@pytest.mark.parametrize("start", ["fork", "in a new process"])
def test_workers_give_the_same_pictures(small, clip, start):
    paths, context = [clip[0], clip[0]], start if start == "fork" else of_server()
    loader = DataLoader(paths, batch_size=2, collate_fn=small, num_workers=1, multiprocessing_context=context)
    (batch,) = list(loader)
    expected = small(paths).pixel_values_videos
    torch.testing.assert_close(batch["pixel_values_videos"], expected, rtol=0, atol=0)


def test_a_pickled_processor_is_the_same(small):
    copy = pickle.loads(pickle.dumps(small))
    frames = random_frames()
    torch.testing.assert_close(copy(frames).pixel_values_videos, small(frames).pixel_values_videos, rtol=0, atol=0)


@pytest.mark.parametrize(
    "setting, value",
    [
        ("num_frames", 0),
        ("decode_backend", "ffmpeg"),
        ("frame_sampling", "random"),
        ("do_random_crop", True),
        ("do_stretch", True),
    ],
)
def test_an_impossible_setting_is_refused_by_name(setting, value):
    with pytest.raises(ValueError, match=setting):
        VioletVideoProcessor(**{setting: value})


@pytest.mark.parametrize("height, width", [(30, 40), (40, 30)])
def test_a_random_crop_is_a_place_of_the_resized_clip_the_same_in_all_frames(height, width):
    settings = {"num_frames": 2, "size": {"height": 12, "width": 12}, "do_normalize": False, "do_pad_to_square": False}
    frames = random_frames(2, height, width)
    frames[1] = frames[0]
    whole = tvF.resize(torch.from_numpy(frames).permute(0, 3, 1, 2), 12, antialias=True).float() / 255
    processor = VioletVideoProcessor(do_random_crop=True, **settings)
    windows = {
        start: whole[0].narrow(1 if height > width else 2, start, 12) for start in range(max(whole.shape[-2:]) - 11)
    }
    found = set()
    for draw in range(30):
        (pixels,) = processor(frames, do_sample_frames=False, draws=[draw]).pixel_values_videos
        assert torch.equal(pixels[0], pixels[1])
        (place,) = [start for start, window in windows.items() if torch.allclose(window, pixels[0])]
        found.add(place)
        again = processor(frames, do_sample_frames=False, draws=[draw]).pixel_values_videos[0]
        assert torch.equal(again, pixels)
    assert found == set(windows) and len(found) == 5, "every place comes"
    centre = VioletVideoProcessor(**settings)(frames, do_sample_frames=False).pixel_values_videos
    assert torch.equal(processor(frames, do_sample_frames=False).pixel_values_videos, centre), "without a draw"


def test_each_clip_of_a_mixture_has_its_own_crop():
    processor = VioletVideoProcessor(
        num_frames=2, size={"height": 8, "width": 8}, do_pad_to_square=False, do_random_crop=True
    )
    clips = [random_frames(2, *size, seed=i) for i, size in enumerate([(10, 90), (90, 10), (10, 90), (20, 60)])]
    together = processor(clips, draws=[4, 5, 6, 7]).pixel_values_videos
    for number, clip in enumerate(clips):
        alone = processor(clip, draws=[4 + number]).pixel_values_videos[0]
        torch.testing.assert_close(together[number], alone)
        assert not torch.equal(alone, processor(clip, draws=[44 + number]).pixel_values_videos[0])
    with pytest.raises(ValueError, match="2 numbers for 4 clips"):
        processor(clips, draws=[1, 2])


def test_drawn_frames_lie_one_in_each_part(small, clip):
    path, frames = clip
    parts = [range(0, 4), range(4, 8), range(8, 12)]
    spread: dict[str, set] = {"random_start": set(), "jitter": set()}
    for sampling, seen in spread.items():
        processor = VioletVideoProcessor(num_frames=3, frame_sampling=sampling, size={"height": 8, "width": 8})
        for draw in range(100):
            (metadata,) = processor(frames, draws=[draw], return_metadata=True)["video_metadata"]
            assert all(index in part for index, part in zip(metadata.frames_indices, parts, strict=True))
            seen.add(tuple(metadata.frames_indices))
        (metadata,) = processor(path, return_metadata=True)["video_metadata"]
        assert metadata.frames_indices == [3, 6, 9], "without a draw"
    assert spread["random_start"] == {(0, 4, 8), (1, 5, 9), (2, 6, 10), (3, 7, 11)}
    assert len(spread["jitter"]) > 50


@pytest.mark.parametrize("total, count, clips", [(12, 3, 4), (12, 3, 1), (5, 8, 2), (1, 4, 3)])
def test_several_test_clips_share_out_the_frames(total, count, clips):
    processor = VioletVideoProcessor(num_frames=count)
    metadata = VideoMetadata(total_num_frames=total, fps=None)
    found = [processor.sample_frames(metadata, test_clip=(number, clips)).tolist() for number in range(clips)]
    assert all(0 <= index < total for indices in found for index in indices)
    if (total, count, clips) == (12, 3, 4):
        assert found == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    if clips == 1:
        assert found == [evenly_spaced_indices(total, count).tolist()]


def test_a_frame_is_padded_to_the_shape_of_the_size_whatever_that_is():
    frames = VioletVideoProcessor(size={"height": 32, "width": 64}, do_normalize=False, num_frames=1)
    for height, width, shown in ((20, 20, (32, 32)), (10, 40, (16, 64)), (16, 32, (32, 64))):
        white = np.full((1, height, width, 3), 255, np.uint8)
        pixels = frames(white, return_tensors="pt")["pixel_values_videos"][0, 0]
        assert pixels.shape == (3, 32, 64)
        rows, columns = (pixels[0] > 0.5).any(1).sum(), (pixels[0] > 0.5).any(0).sum()
        assert (int(rows), int(columns)) == shown


@pytest.mark.shared
def test_frames_from_the_first_to_the_last_are_those_of_clip_vip(shared_folder):
    rows = np.load(shared_folder / "goldens" / "clip_vip_public.npz")["test_frames"]
    for total, count, *indices in rows.tolist():
        processor = VioletVideoProcessor(num_frames=count, frame_sampling="ends")
        found = processor.sample_frames(VideoMetadata(total_num_frames=total, fps=None))
        assert found.tolist() == indices[:count] and set(indices[count:]) <= {-1}
    assert len(rows) == 24


def test_drawn_ends_lie_near_the_first_and_the_last_frame():
    processor = VioletVideoProcessor(num_frames=5, frame_sampling="ends")
    assert processor.is_random
    metadata = VideoMetadata(total_num_frames=41, fps=None)
    drawn = [processor.sample_frames(metadata, draw=draw) for draw in range(300)]
    assert {indices[0] for indices in drawn} == set(range(11)) and {indices[-1] for indices in drawn} == set(
        range(30, 41)
    )
    for total, count in ((1, 1), (1, 12), (2, 2), (3, 2), (9, 1), (5, 12)):
        for draw in range(20):
            indices = processor.sample_frames(VideoMetadata(total_num_frames=total, fps=None), count, draw)
            assert len(indices) == count and indices.min() >= 0 and indices.max() < total
            assert (np.diff(indices) >= 0).all()


def test_a_stretched_frame_is_seen_whole_whatever_its_shape():
    settings = {"size": {"height": 16, "width": 16}, "do_normalize": False, "num_frames": 1, "resample": 3}
    frames = random_frames(1, 20, 40)
    pixels = VioletVideoProcessor(do_pad_to_square=False, do_stretch=True, **settings)(frames).pixel_values_videos
    expected = tvF.resize(
        torch.from_numpy(frames).permute(0, 3, 1, 2), [16, 16], tvF.InterpolationMode.BICUBIC, antialias=True
    )
    torch.testing.assert_close(pixels[0], expected.float() / 255)

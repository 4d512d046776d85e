"""What all pipelines take, and how they refuse what they cannot read."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torchcodec_here import need_torchcodec
from transformers import pipeline

from violet import VideoDecodeError, VioletVideoProcessor, decode_video

QUESTION, SENTENCE = "what moves left?", "a red [MASK] moves left"
TASKS = {
    "video-question-answering": ("VioletForMaskedLM", lambda pipe, videos, **kw: pipe(videos, QUESTION, **kw)),
    "video-fill-mask": ("VioletForMaskedLM", lambda pipe, videos, **kw: pipe(videos, SENTENCE, **kw)),
    "video-captioning": ("VioletForCaptioning", lambda pipe, videos, **kw: pipe(videos, max_new_tokens=4, **kw)),
    "video-feature-extraction": ("VioletModel", lambda pipe, videos, **kw: pipe(videos, **kw)),
    "video-text-retrieval": ("VioletForRetrieval", lambda pipe, videos, **kw: pipe(QUESTION, videos=videos, **kw)),
}


@pytest.fixture(scope="module", params=TASKS)
def task(request, saved):
    name, call = TASKS[request.param]
    pipe = pipeline(request.param, model=saved[name])
    return request.param, lambda videos, **settings: call(pipe, videos, **settings), pipe


def flat(results):
    """The numbers in a result, in order."""
    if isinstance(results, torch.Tensor):
        return results.flatten().tolist()
    if isinstance(results, dict):
        return [value for value in results.values() if isinstance(value, float)]
    return [number for one in results for number in flat(one)]


def texts(results):
    if isinstance(results, dict):
        return [value for key, value in results.items() if key in ("answer", "token_str", "generated_text", "index")]
    return [] if isinstance(results, torch.Tensor) else [text for one in results for text in texts(one)]


def alike(results, expected):
    assert flat(results) == pytest.approx(flat(expected), abs=1e-4) and texts(results) == texts(expected)
    assert flat(results) or texts(results)


def test_paths_arrays_tensors_pictures_and_folders_are_one_video_each(task, clips, tmp_path):
    _, call, _ = task
    frames = decode_video(clips[0]).frames
    pictures = [Image.fromarray(frame) for frame in frames]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    expected = call(clips[0])
    for source in (frames, torch.from_numpy(frames), pictures, tmp_path, frames.astype(np.float32) / 255):
        alike(call(source), expected)


def test_what_a_data_set_holds_is_a_video(task, clips):
    name, call, _ = task
    expected = call(clips[0])
    content = Path(clips[0]).read_bytes()
    for video in ({"path": clips[0], "bytes": None}, {"path": "clip.mp4", "bytes": content}, {"bytes": content}):
        alike(call(video), expected)
    rows = datasets.Dataset.from_dict({"video": clips[:2]}).cast_column("video", datasets.Video(decode=False))
    several = call(clips[:2])
    alike(call(rows["video"]), several)
    alike(call(list(rows["video"]), batch_size=2), several)
    if name not in ("video-text-retrieval", "video-question-answering", "video-fill-mask"):
        alike(call([{"video": video} for video in rows["video"]]), several)
    with pytest.raises(VideoDecodeError, match="both its path and its bytes are missing"):
        call({"path": None, "bytes": None})


def test_the_decoder_of_torchcodec_is_a_video(task, clips):
    need_torchcodec()
    _, call, _ = task
    rows = datasets.Dataset.from_dict({"video": clips[:2]}).cast_column("video", datasets.Video())
    alike(call(rows[0]["video"]), call(clips[0]))
    alike(call(rows["video"], batch_size=2), call(clips[:2]))
    alike(call([rows[0]["video"], clips[1]]), call(clips[:2]))


def test_grey_frames_are_a_video(task, clips):
    _, call, _ = task
    grey = decode_video(clips[0]).frames[..., 0]
    expected = call(np.stack([grey] * 3, axis=-1))
    for video in (grey, torch.from_numpy(grey)):
        alike(call(video), expected)


def test_a_processor_may_sample_by_time_and_its_videos_come_one_by_one(task, clips, monkeypatch):
    """Frames that a batch is padded with would change the answers."""
    _, call, pipe = task
    frames = pipe.processor.video_processor
    sampled = decode_video(clips[0], sample_times=lambda duration: [0, 0.5]).frames
    with monkeypatch.context() as patched:
        patched.setattr(frames, "do_sample_frames", False)
        expected = call(sampled)
    monkeypatch.setattr(frames, "fps", 2)
    monkeypatch.setattr(frames, "num_frames", None)
    alike(call(clips[0]), expected)
    with pytest.raises(ValueError, match="leave `batch_size` at 1"):
        call(clips[:2], batch_size=2)


def test_many_videos_of_any_kinds_give_what_each_gives(task, clips):
    name, call, _ = task
    videos = [clips[0], decode_video(clips[1]).frames, clips[2]]
    listed = call(videos, batch_size=2)
    if name == "video-text-retrieval":
        alike(listed, call(videos))
        return
    single = [call(video) for video in videos]
    alike(listed, single)
    alike(list(call(iter(videos))), single)


def test_a_truncated_file_among_good_ones_is_named(task, clips, truncated):
    _, call, _ = task
    for batch_size in (1, 3):
        with pytest.raises(VideoDecodeError, match=r"truncated\.mp4"):
            call([clips[0], truncated, clips[1]], batch_size=batch_size)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_frame_that_is_no_picture_is_named_with_its_clip(task, clips, value):
    _, call, _ = task
    good = decode_video(clips[0]).frames.astype(np.float32) / 255
    bad = good.copy()
    bad[5, 3, 4, 1] = value
    with pytest.raises(VideoDecodeError, match=r"input 2 .*frame 5 \(of 0 to 7\) has NaN or infinite"):
        call([good, clips[0], bad])
    with pytest.raises(VideoDecodeError, match="frame 5 "):
        call(bad)


def test_videos_read_by_processes_give_what_this_one_gives(task, clips):
    _, call, _ = task
    videos = [*clips[:3], decode_video(clips[3]).frames]
    alike(call(videos, batch_size=2, num_workers=2), call(videos, batch_size=2))
    with pytest.raises(ValueError, match="`num_workers` must be 0 or more, got -1"):
        call(videos, num_workers=-1)


def test_what_processes_cannot_read_is_named_and_a_generator_stays_one(saved, clips, truncated):
    call = pipeline("video-feature-extraction", model=saved["VioletModel"])
    with pytest.raises(VideoDecodeError, match=r"truncated\.mp4"):
        call([clips[0], truncated, clips[1]], num_workers=1)
    with pytest.raises(VideoDecodeError, match=r"input 1 .*frame 0 \(of 0 to 7\) has NaN or infinite"):
        call([clips[0], np.full((8, 16, 16, 3), np.nan, np.float32)], num_workers=1)
    found = call(iter(clips[:2]), num_workers=1)
    assert not isinstance(found, list)
    alike(list(found), call(clips[:2]))


def test_an_empty_list_is_refused(task):
    _, call, _ = task
    with pytest.raises(ValueError, match="list of videos is empty"):
        call([])


def test_a_text_longer_than_the_models_positions_is_refused_and_none_is_cut(saved, clips):
    long = "what moves left? " * 20
    for name, call in {
        "video-question-answering": lambda pipe: pipe(clips[0], long),
        "video-fill-mask": lambda pipe: pipe(clips[0], f"{long} [MASK]"),
        "video-captioning": lambda pipe: pipe(clips[0], prompt=long),
        "video-feature-extraction": lambda pipe: pipe(clips[0], long),
        "video-text-retrieval": lambda pipe: pipe(long, videos=clips[:1]),
    }.items():
        pipe = pipeline(name, model=saved[TASKS[name][0]])
        with pytest.raises(ValueError, match="this model takes 64 at most"):
            call(pipe)
    fill = pipeline("video-fill-mask", model=saved["VioletForMaskedLM"])
    assert fill.processor.max_length == 32
    assert len(fill(clips[0], f"{'what moves left? ' * 9} [MASK]", top_k=2)) == 2  # 39 tokens


def test_a_saved_pipeline_is_itself_again(task, clips, tmp_path):
    name, call, pipe = task
    pipe.save_pretrained(tmp_path / "saved")
    again = pipeline(name, model=str(tmp_path / "saved"))
    assert type(again.model) is type(pipe.model)
    alike(TASKS[name][1](again, clips[0]), call(clips[0]))


def test_the_video_processor_names_a_bad_clip_by_its_place(clips):
    good = decode_video(clips[0]).frames.astype(np.float32) / 255
    bad = good.copy()
    bad[1] = np.nan
    with pytest.raises(VideoDecodeError, match=r"clip 1 \(of 0 to 2\), ndarray .* frame 1 \(of 0 to 7\)"):
        VioletVideoProcessor()([good, bad, clips[0]])

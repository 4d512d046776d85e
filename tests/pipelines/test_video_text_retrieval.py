import shutil

import pytest
import torch
from transformers import AutoProcessor, pipeline

from violet import VideoDecodeError, VideoTextRetrievalPipeline, VioletForRetrieval, decode_video
from violet.processing.joined_clips import join_clips

TEXTS = ["a red disc moves left", "the yellow ring turns", "a blue square grows"]


@pytest.fixture
def search(saved, clips):
    pipe = pipeline("video-text-retrieval", model=saved["VioletForRetrieval"])
    pipe.add(clips)
    return pipe


@pytest.fixture(scope="module")
def expected(saved, clips):
    """(texts, videos) of the model's own forward pass."""
    folder = saved["VioletForRetrieval"]
    model, processor = VioletForRetrieval.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        return model(**processor(text=TEXTS, videos=clips)).logits.softmax(-1)


def test_every_text_meets_every_video_of_the_gallery(search, clips, expected):
    assert isinstance(search, VideoTextRetrievalPipeline) and search.gallery == tuple(clips)
    for found, scores in zip(search(TEXTS, top_k=100), expected, strict=True):
        assert [entry["index"] for entry in found] == scores.argsort(descending=True).tolist()
        for entry in found:
            assert entry["video"] == clips[entry["index"]]
            assert entry["score"] == pytest.approx(scores[entry["index"]].item(), abs=1e-5)
    assert len({round(score, 4) for score in expected.flatten().tolist()}) > len(clips)
    assert search(TEXTS[0], top_k=2) == search(TEXTS, top_k=2)[0]


def test_batches_chunks_and_generators_change_no_result(search):
    single = [[entry["video"] for entry in search(text)] for text in TEXTS]
    for found in (
        search(TEXTS, batch_size=2),
        search(TEXTS, pairs_per_pass=1),
        list(search(text for text in TEXTS)),
    ):
        assert [[entry["video"] for entry in one] for one in found] == single


def test_a_video_is_encoded_once(search, clips, monkeypatch):
    encoded = []
    encode = search.model.violet.encode_videos
    monkeypatch.setattr(
        search.model.violet, "encode_videos", lambda **pixels: encoded.extend(*pixels.values()) or encode(**pixels)
    )
    search(TEXTS)
    search(TEXTS[0])
    assert encoded == []
    search.clear()
    assert search.gallery == ()
    search.add(clips[:2], batch_size=2)
    search.add([clips[1], clips[2]])
    assert len(encoded) == 3 and search.gallery == tuple(clips[:3])


def test_other_videos_can_be_searched_without_the_gallery(search, clips, expected):
    found = search(TEXTS, videos=clips[:3], top_k=3)
    assert search.gallery == tuple(clips)
    for one, scores in zip(found, expected, strict=True):
        among = scores[:3] / scores[:3].sum()
        assert {entry["index"]: entry["score"] for entry in one} == pytest.approx(
            dict(enumerate(among.tolist())), abs=1e-5
        )


def test_videos_in_memory_are_named_by_their_place_or_as_asked(search, clips):
    frames = decode_video(clips[0]).frames
    search.clear()
    search.add([frames, clips[1], frames])
    assert search.gallery[0].startswith("0: ndarray") and search.gallery[2].startswith("2: ndarray")
    search.add(frames, names=["mine"])
    assert search.gallery[-1] == "mine"
    scores = {entry["index"]: entry["score"] for entry in search(TEXTS[0])}
    assert scores[0] == pytest.approx(scores[2]) == pytest.approx(scores[3]) and scores[0] != scores[1]


def test_a_gallery_with_a_broken_video_stays_as_it_was(search, clips, truncated):
    before = search(TEXTS)
    with pytest.raises(VideoDecodeError, match=r"truncated\.mp4"):
        search.add([decode_video(clips[0]).frames, truncated])
    with pytest.raises(VideoDecodeError, match=r"truncated\.mp4"):
        search(TEXTS, videos=[clips[0], truncated])
    assert search.gallery == tuple(clips) and search(TEXTS) == before


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_videos_are_left_out_and_told_if_that_is_asked_for(search, clips, truncated, workers):
    before = search(TEXTS, top_k=100)
    search.clear()
    mixed = [clips[0], truncated, *clips[1:4], "missing.mp4", clips[4], clips[0]]
    for videos in (mixed[:4], iter(mixed[4:])):
        search.add(videos, batch_size=2, num_workers=workers, skip_bad=True)
    assert search.gallery == tuple(clips) and set(search.failed) == {truncated, "missing.mp4"}
    assert search.failed["missing.mp4"].startswith("Cannot decode missing.mp4: ")
    for found, expected in zip(search(TEXTS, top_k=100), before, strict=True):
        assert [one["video"] for one in found] == [one["video"] for one in expected]
        assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-5)
    search.clear()
    assert search.failed == {}


def test_searching_nothing_or_for_nothing_is_refused(search, clips):
    for empty in ([], iter([])):
        with pytest.raises(ValueError, match="list of videos is empty"):
            search.add(empty)
    with pytest.raises(ValueError, match="list of inputs is empty"):
        search([])
    with pytest.raises(ValueError, match="1 names for 2 videos"):
        search.add(clips[:2], names=["one"])
    with pytest.raises(ValueError, match="top_k"):
        search(TEXTS, top_k=0)
    search.clear()
    with pytest.raises(ValueError, match="nothing to search"):
        search(TEXTS)


def test_a_gallery_on_disk_is_searched_as_one_in_memory_is(search, saved, clips, tmp_path):
    expected = search(TEXTS, top_k=100)
    search.clear()
    search.open(tmp_path / "gallery", videos=clips, batch_size=2)
    assert search.gallery == tuple(clips)
    for one, other in zip(search(TEXTS, top_k=100), expected, strict=True):
        assert [entry["index"] for entry in one] == [entry["index"] for entry in other]
        assert [entry["score"] for entry in one] == pytest.approx([entry["score"] for entry in other], abs=1e-5)
    again = pipeline("video-text-retrieval", model=saved["VioletForRetrieval"])
    again.open(tmp_path / "gallery")
    assert again(TEXTS) == search(TEXTS)
    with pytest.raises(ValueError, match="gallery on disk cannot grow"):
        again.add(clips[0])
    shutil.rmtree(tmp_path / "gallery")
    with pytest.raises(ValueError, match="no whole gallery"):
        again.open(tmp_path / "gallery")


def test_a_shortlist_is_what_is_nearest_before_the_fusion(search, saved, clips, tmp_path, expected):
    search.model.violet.get_submodule("projection")  # there is one
    in_memory = search(TEXTS, shortlist=3, top_k=100)
    search.open(tmp_path / "gallery", videos=clips)
    on_disk = search(TEXTS, shortlist=3, top_k=100, batch_size=2)
    model, processor = search.model, search.processor
    with torch.no_grad():
        near = model.violet.get_text_features(**processor(text=TEXTS)).pooler_output
        near = near @ model.violet.get_video_features(processor(videos=clips)["pixel_values_videos"]).pooler_output.t()
    for found, other, similar, scores in zip(in_memory, on_disk, near, expected, strict=True):
        numbers = similar.topk(3).indices
        assert {entry["index"] for entry in found} == set(numbers.tolist())
        among = (scores[numbers] / scores[numbers].sum()).tolist()
        assert {entry["index"]: entry["score"] for entry in found} == pytest.approx(
            dict(zip(numbers.tolist(), among, strict=True)), abs=1e-5
        )
        assert [entry["index"] for entry in found] == [entry["index"] for entry in other]
    with pytest.raises(ValueError, match="`shortlist` must be 1 or more"):
        search(TEXTS, shortlist=0)


def test_a_video_of_several_clips_is_searched_in_memory_and_on_disk(saved, clips, tmp_path):
    search = pipeline("video-text-retrieval", model=saved["VioletForRetrieval"])
    videos = [join_clips(clips[:2]), clips[2]]
    found = search("a red disc", videos=videos)
    search.open(tmp_path / "gallery", videos=videos)
    stored = search("a red disc")
    assert [one["video"] for one in found] == [one["video"] for one in stored]
    assert {one["video"]: one["index"] for one in found} == {videos[0]: 0, videos[1]: 1}
    assert [one["score"] for one in stored] == pytest.approx([one["score"] for one in found], abs=1e-5)

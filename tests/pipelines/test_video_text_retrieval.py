import pytest
import torch
from transformers import AutoProcessor, pipeline

from violet import VideoDecodeError, VideoTextRetrievalPipeline, VioletForRetrieval, decode_video

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
    monkeypatch.setattr(search.model.violet, "encode_videos", lambda pixels: encoded.extend(pixels) or encode(pixels))
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

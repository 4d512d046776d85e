import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoProcessor, pipeline

import violet
from violet import VideoDecodeError, VideoFillMaskPipeline


@pytest.fixture(scope="module")
def fill():
    return pipeline("video-fill-mask", model=violet.pretrained("violet-tiny"))


@pytest.fixture(scope="module")
def clips(shapes_folder):
    from violet.data import moving_shapes

    splits = moving_shapes(shapes_folder, train=24, validation=4, test=8, test_unseen=0, test_together=0)
    return [clip for split in ("test", "train") for clip in splits[split].to_list()]


def test_the_shipped_weights_fill_what_is_seen(fill, clips):
    assert isinstance(fill, VideoFillMaskPipeline)
    singles = [clip for clip in clips if clip["kind"] == "single" and clip["shapes"][0]["colour"]]
    right = 0
    for clip in singles:
        colour = clip["shapes"][0]["colour"]
        sentence = clip["caption"].replace(colour, "[MASK]")
        best = fill(clip["video"], sentence, top_k=1)[0]
        assert best["sequence"] == sentence.replace("[MASK]", best["token_str"])
        right += best["token_str"] == colour
    assert len(singles) >= 4 and right >= len(singles) - 1


def test_scores_are_the_models_probabilities(fill, clips):
    folder, video, text = violet.pretrained("violet-tiny"), clips[0]["video"], "a [MASK] disc"
    model, processor = AutoModelForMaskedLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    inputs = processor(text=text, videos=video)
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    place = inputs["input_ids"][0].tolist().index(processor.tokenizer.mask_token_id)
    expected = logits[place].softmax(-1)
    for word in fill(video, text, top_k=3):
        assert word["score"] == pytest.approx(expected[word["token"]].item(), abs=1e-5)
        assert word["token_str"] == processor.tokenizer.decode([word["token"]])


def test_several_blanks_videos_and_sentences(fill, clips):
    videos = [clip["video"] for clip in clips[:3]]
    both = fill(videos[0], "a [MASK] disc moves [MASK]", top_k=2)
    assert len(both) == 2 and all(len(words) == 2 for words in both)
    single = [fill(video, "a [MASK] disc") for video in videos]
    together = fill(videos, "a [MASK] disc", batch_size=3)
    for one, other in zip(single, together, strict=True):
        assert [word["token"] for word in one] == [word["token"] for word in other]
    assert len(fill(videos[0], ["a [MASK] disc", "it [MASK]"])) == 2


def test_refusals(fill, clips, tmp_path):
    video = clips[0]["video"]
    with pytest.raises(ValueError, match=r"no \[MASK\]"):
        fill(video, "a red disc")
    with pytest.raises(ValueError, match="top_k"):
        fill(video, "a [MASK] disc", top_k=0)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(VideoDecodeError, match=r"broken\.mp4"):
        fill(str(tmp_path / "broken.mp4"), "a [MASK] disc")

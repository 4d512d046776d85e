import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

TEXT = "a red disc moves left"


@pytest.fixture(scope="module")
def features(saved):
    return pipeline("video-feature-extraction", model=saved["VioletForRetrieval"])


@pytest.fixture(scope="module")
def parts(saved):
    folder = saved["VioletForRetrieval"]
    return AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def test_a_video_gives_its_embedding_before_the_fusion(features, parts, clips):
    model, processor = parts
    with torch.no_grad():
        expected = model.get_video_features(**processor(videos=clips))
    for number, clip in enumerate(clips):
        torch.testing.assert_close(features(clip), expected.pooler_output[number], atol=1e-5, rtol=0)
        torch.testing.assert_close(features(clip, pool=False), expected.last_hidden_state[number], atol=1e-5, rtol=0)
    together = features(clips, batch_size=3)
    torch.testing.assert_close(torch.stack(together), expected.pooler_output, atol=1e-5, rtol=0)


def test_without_a_projection_it_is_the_mean_of_the_tokens(save_model, clips):
    features = pipeline("video-feature-extraction", model=str(save_model("VioletModel", projection_dim=None)))
    torch.testing.assert_close(features(clips[0]), features(clips[0], pool=False).mean(0), atol=1e-5, rtol=0)


def test_with_a_text_the_features_are_fused(features, parts, clips):
    model, processor = parts
    texts = [TEXT, "what is it?"]
    for clip, text, got, pooled in zip(
        clips,
        texts,
        features(clips[:2], texts, pool=False, batch_size=2),
        features(clips[:2], texts, batch_size=2),
        strict=False,
    ):
        with torch.no_grad():
            expected = model(**processor(text=text, videos=clip))
        torch.testing.assert_close(got, expected.last_hidden_state[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(pooled, expected.text_hidden_state[0, 0], atol=1e-5, rtol=0)
    assert (features(clips[0], TEXT) - features(clips[0], "what is it?")).abs().max() > 1e-3

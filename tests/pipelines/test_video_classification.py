"""transformers' own pipeline `video-classification` with our models."""

import inspect
import logging

import pytest
import torch
from transformers import AutoModelForVideoClassification, AutoProcessor, VideoClassificationPipeline, pipeline

from violet import VioletForVideoClassification


def probabilities(folder: str, clips: list[str], several: bool = False) -> torch.Tensor:
    """From model and processor, without the pipeline."""
    model, processor = AutoModelForVideoClassification.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(model) is VioletForVideoClassification
    with torch.no_grad():
        logits = model(**processor(videos=clips, return_tensors="pt")).logits
    return logits.sigmoid() if several else logits.softmax(-1)


def test_its_scores_are_the_models_probabilities_of_the_files(saved, clips, caplog):
    folder = saved["VioletForVideoClassification"]
    logging.getLogger("transformers").addHandler(caplog.handler)
    classify = pipeline("video-classification", model=folder)
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert "not supported" not in caplog.text
    assert type(classify) is VideoClassificationPipeline and classify.model.config.num_labels == 6
    said = classify(clips, top_k=6)
    expected = probabilities(folder, clips)
    for of_clip, scores in zip(said, expected, strict=True):
        assert [one["score"] for one in of_clip] == sorted((one["score"] for one in of_clip), reverse=True)
        assert {one["label"]: one["score"] for one in of_clip} == pytest.approx(
            dict(zip(classify.model.config.id2label.values(), scores.tolist(), strict=True)), abs=1e-5
        )
    assert classify(clips[0]) == said[0][:5]


def test_more_frames_can_be_asked_for(saved, clips):
    classify = pipeline("video-classification", model=saved["VioletForVideoClassification"])
    assert classify.preprocess(clips[0])["pixel_values_videos"].shape == (1, 4, 3, 64, 64), "the processor's own"
    assert classify.preprocess(clips[0], num_frames=6)["pixel_values_videos"].shape == (1, 6, 3, 64, 64)
    assert classify(clips[0], num_frames=6) != classify(clips[0])


def test_labels_of_which_a_video_may_have_several_are_scored_by_themselves(save_model, clips):
    folder = str(save_model("VioletForVideoClassification", problem_type="multi_label_classification"))
    own = inspect.signature(VideoClassificationPipeline.postprocess).parameters["function_to_apply"].default is None
    asked = {} if own else {"function_to_apply": "sigmoid"}  # before 5.24 the pipeline does not read `problem_type`
    said = pipeline("video-classification", model=folder)(clips[0], top_k=6, **asked)
    expected = probabilities(folder, clips[:1], several=True)[0]
    assert sorted(one["score"] for one in said) == pytest.approx(sorted(expected.tolist()), abs=1e-5)
    assert sum(one["score"] for one in said) != pytest.approx(1, abs=0.1)


@pytest.mark.shared
def test_a_real_clip_of_a_web_video_is_classified(saved, shared_folder):
    (clip, *_) = sorted((shared_folder / "data" / "msrvtt").rglob("*.mp4"))
    (best, *_) = pipeline("video-classification", model=saved["VioletForVideoClassification"])(str(clip))
    assert best["label"] in {"disc", "cross", "square", "ring", "yes", "no"} and 1 / 6 <= best["score"] <= 1

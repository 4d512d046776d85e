"""A checkpoint of MM-GEM's pre-training in pipelines: captions, features and search of boxes of real clips."""

import numpy as np
import pytest
import torch
from transformers import pipeline

from violet import VioletForPreTraining
from violet.configuration import named_configuration
from violet.data import moving_shapes, regions
from violet.data.moving_shapes import SPLITS
from violet.training.scratch import processor_from_scratch, texts_from_scratch

LEFT, RIGHT = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    return regions(moving_shapes(folder, **dict.fromkeys(SPLITS, 0) | {"test_together": 3})["test_together"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, rows) -> str:
    """Random weights, those of the language model times 3 so that it does not write one word for all."""
    torch.manual_seed(0)
    processor = processor_from_scratch("mm-gem-tiny", None, rows["caption"])
    own = {"contrast": {}, "generation": {}}
    config = named_configuration("mm-gem-tiny", **texts_from_scratch("mm-gem-tiny", processor.tokenizer))
    config.objectives = own
    model = VioletForPreTraining(config)
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return str(path)


def test_a_caption_is_that_of_the_box(folder, rows):
    describe = pipeline("video-captioning", model=folder)
    video, settings = rows[0]["video"], {"max_new_tokens": 6, "do_sample": False}
    whole = describe(video, **settings)
    assert describe(video, boxes=[0, 0, 1, 1], **settings) == whole
    several = describe([video, video, video], boxes=[None, LEFT, rows[0]["boxes"]], batch_size=3, **settings)
    assert several[0] == whole
    assert several[1] == describe(video, boxes=LEFT, **settings)
    assert len({one[0]["generated_text"] for one in several}) > 1


def test_features_of_a_box_are_not_those_of_the_whole(folder, rows):
    features = pipeline("video-feature-extraction", model=folder)
    video = rows[0]["video"]
    whole, left, right = features(video), features(video, boxes=LEFT), features(video, boxes=RIGHT)
    torch.testing.assert_close(features(video, boxes=[0, 0, 1, 1]), whole, atol=1e-6, rtol=0)
    assert float(left @ whole) < 0.9999 and float(left @ right) < 0.9999


def test_boxes_are_found_by_texts(folder, rows):
    search = pipeline("video-text-retrieval", model=folder)
    search.add(rows["video"], boxes=rows["boxes"], names=rows["id"])
    assert search.gallery == tuple(rows["id"])
    search.clear()
    video = rows[0]["video"]
    search.add([video, video], boxes=[LEFT, RIGHT])
    assert search.gallery == (f"{video} {LEFT}", f"{video} {RIGHT}")
    found = search("a small red disc moves left")
    features = pipeline("video-feature-extraction", model=folder)
    model, processor = search.model, search.processor
    with torch.no_grad():
        text = model.violet.embed_texts(**processor(text=["a small red disc moves left"]))[0]
    nearness = [float(features(video, boxes=box) @ text) for box in (LEFT, RIGHT)]
    assert found[0]["index"] == int(np.argmax(nearness))


@pytest.mark.parametrize("task", ["video-captioning", "video-feature-extraction"])
def test_wrong_boxes_are_named(folder, rows, task):
    ask, video = pipeline(task, model=folder), rows[0]["video"]
    with pytest.raises(ValueError, match=r"\(10, 12, 40, 60\) is in pixels"):
        ask(video, boxes=[10, 12, 40, 60])
    with pytest.raises(ValueError, match="2 boxes for 1 videos"):
        ask([video], boxes=[LEFT, RIGHT])
    with pytest.raises(ValueError, match="A generator's inputs have their own boxes"):
        ask(iter([video]), boxes=[LEFT])


def test_a_model_that_reads_no_boxes_says_so(model_folder, rows):
    features = pipeline("video-feature-extraction", model=str(model_folder))
    with pytest.raises(ValueError, match="This model reads no boxes"):
        features(rows[0]["video"], boxes=LEFT)

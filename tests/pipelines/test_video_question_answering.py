import numpy as np
import pytest
import torch
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor, pipeline

from violet import VideoDecodeError, VideoQuestionAnsweringPipeline, decode_video


@pytest.fixture(scope="module")
def ask(model_folder):
    return pipeline("video-question-answering", model=str(model_folder))


@pytest.fixture(scope="module")
def rows(questions):
    return questions["test"].to_list()[:6]


def by_hand(model_folder, row):
    """The probabilities from model and processor, without the pipeline."""
    model = AutoModelForVisualQuestionAnswering.from_pretrained(model_folder)
    processor = AutoProcessor.from_pretrained(model_folder)
    inputs = processor(text=row["question"], videos=row["video"])
    with torch.no_grad():
        scores = model(**inputs).logits[0].softmax(-1)
    return {model.config.id2label[i]: score for i, score in enumerate(scores.tolist())}


def test_it_is_found_by_its_name_and_agrees_with_model_and_processor(ask, model_folder, rows):
    assert isinstance(ask, VideoQuestionAnsweringPipeline)
    expected = by_hand(model_folder, rows[0])
    answers = ask(rows[0]["video"], rows[0]["question"], top_k=1000)
    assert {entry["answer"]: entry["score"] for entry in answers} == pytest.approx(expected, abs=1e-5)
    assert [entry["score"] for entry in answers] == sorted((entry["score"] for entry in answers), reverse=True)
    assert sum(entry["score"] for entry in answers) == pytest.approx(1)


def test_top_k(ask, rows):
    question = (rows[0]["video"], rows[0]["question"])
    assert len(ask(*question)) == 5
    assert ask(*question, top_k=2) == ask(*question)[:2]
    with pytest.raises(ValueError, match="top_k"):
        ask(*question, top_k=0)
    with pytest.raises(TypeError, match="top"):
        ask(*question, topk=2)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batches_and_generators_give_what_single_calls_give(ask, rows, batch_size):
    single = [ask(row["video"], row["question"]) for row in rows]
    assert len({answers[0]["score"] for answers in single}) > 1, "the model looks at its inputs"
    inputs = [{"video": row["video"], "question": row["question"]} for row in rows]
    listed = ask(inputs, batch_size=batch_size)
    generated = list(ask((item for item in inputs), batch_size=batch_size))
    lists = ask([row["video"] for row in rows], [row["question"] for row in rows], batch_size=batch_size)
    for got in (listed, generated, lists):
        assert [[entry["answer"] for entry in answers] for answers in got] == [
            [entry["answer"] for entry in answers] for answers in single
        ]
        scores = np.array([[entry["score"] for entry in answers] for answers in got])
        np.testing.assert_allclose(scores, [[entry["score"] for entry in answers] for answers in single], atol=1e-5)


def test_one_video_with_many_questions_and_one_question_for_many_videos(ask, rows):
    video, other = rows[0]["video"], rows[-1]["video"]
    asked = ["what comes first?", "what colour is it?"]
    assert ask(video, asked) == [ask(video, question) for question in asked]
    assert ask([video, other], asked[0]) == [ask(video, asked[0]), ask(other, asked[0])]
    with pytest.raises(ValueError, match="2 videos and 3 questions"):
        ask([video, other], [*asked, asked[0]])


def test_a_clip_may_be_an_array_or_a_list_of_pictures(ask, rows):
    from PIL import Image

    frames = decode_video(rows[0]["video"]).frames
    expected = ask(rows[0]["video"], rows[0]["question"])
    assert ask(frames, rows[0]["question"]) == expected
    assert ask([Image.fromarray(frame) for frame in frames], rows[0]["question"]) == expected


def test_a_video_that_cannot_be_read_is_named(ask, rows, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"")
    with pytest.raises(VideoDecodeError, match="broken.mp4"):
        ask([rows[0]["video"], str(broken)], "what comes first?")


def test_an_input_without_a_question_is_refused(ask, rows):
    with pytest.raises(ValueError, match="a video and a question"):
        ask(rows[0]["video"])

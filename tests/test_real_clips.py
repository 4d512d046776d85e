"""The whole way on ten real clips: table, decoding, training, saving, pipeline. What it learns can only be memory."""

import json

import pytest
from transformers import pipeline

from violet.training import DataArguments, FinetuningArguments, ModelArguments, finetune


@pytest.mark.slow
@pytest.mark.shared
def test_ten_real_clips_are_learned_and_their_answers_come_from_the_videos(shared_folder, tmp_path):
    clips = shared_folder / "data" / "msrvtt"
    table = clips / "annotations.jsonl"
    result = finetune(
        ModelArguments(model="violet-tiny", from_scratch=True),
        DataArguments(train_file=str(table), test_file=str(table)),
        FinetuningArguments(
            output_dir=str(tmp_path / "model"),
            max_steps=40,
            per_device_train_batch_size=10,
            learning_rate=2e-3,
            save_strategy="no",
            disable_tqdm=True,
        ),
    )
    assert result.metrics["accuracy"] == 1.0

    rows = [json.loads(line) for line in table.read_text().splitlines()]
    videos, questions = [str(clips / row["video"]) for row in rows], [row["question"] for row in rows]
    ask = pipeline("video-question-answering", model=str(tmp_path / "model"))
    own = [answers[0]["answer"] for answers in ask(videos, questions)]
    assert own == [row["answer"] for row in rows]
    swapped = [answers[0]["answer"] for answers in ask(videos[3:] + videos[:3], questions)]
    assert sum(a != b for a, b in zip(own, swapped, strict=True)) >= 5

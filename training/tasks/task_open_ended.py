"""Open-ended questions: the answer is one of a fixed list, the most frequent ones of the training rows."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset

from ...data import COLUMNS, open_ended
from ...modeling_violet import VioletForConditionalGeneration, VioletForQuestionAnswering
from ...modeling_violet.losses import IGNORE_INDEX
from ...processing import VideoTextProcessor
from ..collating import VideoTextCollator, video_ids
from .chat_answers import CHAT_WORDS, ChatCollator, measure_written_answers
from .choosing import measure_answers, normalize_answer
from .task import Row, Task

if TYPE_CHECKING:
    from ..arguments import DataArguments, ModelArguments

logger = logging.getLogger(__name__)


def answer_vocabulary(answers: Iterable[str], most: int) -> list[str]:
    """The `most` frequent answers, normalised; the most frequent first, equals in alphabetical order."""
    counts = Counter(normalize_answer(answer) for answer in answers)
    return sorted(counts, key=lambda answer: (-counts[answer], answer))[:most]


def _configure(
    model: "ModelArguments", data: "DataArguments", rows: Dataset, labels_before: list[str] | None
) -> dict[str, Any]:
    """The answers are those of the rows; if the weights have the very same ones, in their order."""
    answers = answer_vocabulary(rows["answer"], data.max_answers)
    answers = labels_before if labels_before is not None and set(labels_before) == set(answers) else answers
    numbers = {answer: number for number, answer in enumerate(answers)}
    unknown = sum(normalize_answer(answer) not in numbers for answer in rows["answer"])
    if unknown:
        logger.warning("%d training rows have an answer outside the %d most frequent: no loss.", unknown, len(answers))
    return {"id2label": dict(enumerate(answers)), "label2id": numbers}


class QuestionCollator(VideoTextCollator):
    """
    Questions about videos -> what `VioletForQuestionAnswering` takes.

    Args:
        processor, settings: as of `VideoTextCollator`.
        label2id: the answers' numbers; an answer that is not there gets the label −100: no loss, never right.
        captions: whether to pass the videos' captions on for the contrastive loss, if the rows have them.
    """

    def __init__(
        self,
        processor: VideoTextProcessor,
        label2id: Mapping[str, int] | None = None,
        captions: bool = False,
        **settings: Any,
    ):
        super().__init__(processor, **settings)
        self.label2id = label2id
        self.captions = captions

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Rows with `question` and, for labels, `answer` -> `input_ids` and `attention_mask` (rows, tokens), `labels`
        (rows,), and `caption_ids` and `caption_attention_mask` (videos, tokens) and `video_ids` (videos,) if every
        video has a `caption`.
        """
        batch = dict(self.processor(text=[row["question"] for row in rows]))
        if self.label2id is not None:
            labels = [self.label2id.get(normalize_answer(row["answer"]), IGNORE_INDEX) for row in rows]
            batch["labels"] = torch.tensor(labels)
        if self.captions and all(row.get("caption") for row in first_rows):
            captions = self.processor(text=[row["caption"] for row in first_rows])
            batch["caption_ids"] = captions["input_ids"]
            batch["caption_attention_mask"] = captions["attention_mask"]
            batch["video_ids"] = video_ids(first_rows)
        return batch


def _say(model, processor: VideoTextProcessor, row: Row, chosen: list[int]) -> tuple[str, str]:
    return model.config.id2label[chosen[0]], normalize_answer(row["answer"])


def _collate(processor, model, data, training: bool, **settings) -> VideoTextCollator:
    # A frozen backbone has nothing to learn from contrast.
    learns = any(parameter.requires_grad for parameter in model.violet.vision_model.parameters())
    captions = training and learns and model.violet.has_embeddings
    return QuestionCollator(processor, model.config.label2id, captions=captions, **settings)


def _collate_chat(processor, model, data, training: bool, **settings) -> VideoTextCollator:
    return ChatCollator(processor, itemgetter("question"), lambda row: str(row["answer"]), **settings)


WRITTEN = Task(
    model_class=VioletForConditionalGeneration,
    columns=COLUMNS["open-ended"],
    texts=("question", "answer"),
    reads=("question", "answer"),
    rows=open_ended,
    test_rows=open_ended,
    collate=_collate_chat,
    measure=measure_written_answers,
    metrics=None,
    words=CHAT_WORDS,
)
TASK = Task(
    model_class=VioletForQuestionAnswering,
    columns=COLUMNS["open-ended"],
    texts=("question", "answer", "caption"),
    reads=("question", "caption"),
    rows=open_ended,
    test_rows=open_ended,
    collate=_collate,
    measure=partial(measure_answers, say=_say),
    configure=_configure,
    label_head="answer_head",
    masked_columns={},
    written=WRITTEN,
)

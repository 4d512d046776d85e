"""Captioning: a sentence is written about each video."""

import zlib
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from ...data import COLUMNS, described
from ...evaluation.captions import caption_scores
from ...evaluation.measures import Evaluation
from ...evaluation.sharing import gather, on_first
from ...modeling_violet import VioletForCaptioning, VioletForConditionalGeneration
from ...modeling_violet.losses import IGNORE_INDEX
from ...processing import VideoTextProcessor
from ..collating import VideoTextCollator
from .chat_answers import CHAT_WORDS, ChatCollator, written_answers
from .evaluation_batches import encoded_videos, first_of_each, need_some, precision
from .task import Task

if TYPE_CHECKING:
    from ..arguments import DataArguments, ModelArguments

ASKED = "Describe the video."
"""What a language model is asked for a caption."""


class CaptionCollator(VideoTextCollator):
    """
    Captions -> what `VioletForCaptioning` learns from: masked words, the end of the text among them, or, with
    `next_word`, all words.

    Args:
        processor, settings: as of `VideoTextCollator`.
        word_ratio: the share of words that are masked, at least one of each caption. Which ones is drawn from the
            row's `draw` (see `DrawnRows`), or from its caption if it has none.
        next_word: for a model whose configuration has `next_word_prediction`.
    """

    def __init__(
        self, processor: VideoTextProcessor, word_ratio: float = 0.15, next_word: bool = False, **settings: Any
    ):
        super().__init__(processor, **settings)
        self.word_ratio = word_ratio
        self.next_word = next_word

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Rows with `caption` -> `input_ids`, `attention_mask` and `labels`, (rows, tokens) each."""
        batch = dict(self.processor(text=[row["caption"] for row in rows]))
        ids, labels = batch["input_ids"], torch.full_like(batch["input_ids"], IGNORE_INDEX)
        for row, line, mask, target in zip(rows, ids, batch["attention_mask"], labels, strict=True):
            length = int(mask.sum())
            if self.next_word:
                target[:length] = line[:length]
                continue
            draw = row.get("draw", zlib.crc32(str(row["caption"]).encode()))
            count = max(1, round(self.word_ratio * (length - 1)))  # [CLS] stays
            order = torch.randperm(length - 1, generator=torch.Generator().manual_seed(draw))
            places = 1 + order[:count]
            target[places] = line[places]
            line[places] = self.processor.tokenizer.mask_token_id
        batch["labels"] = labels
        return batch


@torch.no_grad()
def measure_captions(
    model, collator: VideoTextCollator, rows: Dataset, data: "DataArguments", training: TrainingArguments
) -> Evaluation:
    """What `caption_scores` says of a caption written for each video, against all captions that the rows have."""
    references = _references(rows)
    mine: list[tuple[str, str]] = []
    for of_batch, tokens in encoded_videos(model, collator, first_of_each(rows), training):
        with precision(model, training):
            ids = model.generate(video_tokens=tokens, max_length=collator.processor.max_length, do_sample=False)
        said = collator.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        mine += zip((row["video"] for row in of_batch), said, strict=True)
    return _compare(mine, rows, references)


def measure_chat_captions(
    model, collator: Any, rows: Dataset, data: "DataArguments", training: TrainingArguments
) -> Evaluation:
    """The same of captions that a language model writes when it is asked for them."""
    answers = written_answers(model, collator, first_of_each(rows), training)
    return _compare([(row["video"], text) for row, text in answers], rows, _references(rows))


def _references(rows: Dataset) -> dict[str, list[str]]:
    """All captions that the rows have, by video."""
    references: dict[str, list[str]] = {}
    for video, caption in zip(rows["video"], rows["caption"], strict=True):
        references.setdefault(video, []).append(caption)
    return references


def _compare(mine: list[tuple[str, str]], rows: Dataset, references: dict[str, list[str]]) -> Evaluation:
    """Captions of this process's videos, by video, against those of the rows."""
    written = dict(gather(mine))
    need_some(written, rows)
    given = [references[video] for video in written]
    scores = on_first(lambda: caption_scores(list(written.values()), given))
    numbers = {video: number for number, video in reversed(list(enumerate(rows["video"])))}
    samples = [
        {
            "row": numbers[video],
            "video": video,
            "question": "",
            "prediction": caption,
            "truth": " | ".join(people),
            "right": bool(values["exact"]),
            "score": values.get("cider_d", values["exact"]),
            **values,
        }
        for (video, caption), people, values in zip(written.items(), given, scores.samples, strict=True)
    ]
    failed = len(rows) - sum(map(len, given))
    return Evaluation(scores.measures, scores.numbers, samples, scores.notes, failed)


def _collate(processor, model, data, training: bool, **settings) -> VideoTextCollator:
    return CaptionCollator(processor, data.word_ratio, next_word=model.config.next_word_prediction, **settings)


def _configure(
    model: "ModelArguments", data: "DataArguments", rows: Dataset, labels_before: list[str] | None
) -> dict[str, Any]:
    return {"next_word_prediction": model.next_word_prediction}


def _ask(row: Mapping[str, Any]) -> list[str]:
    return ["--video", str(row["video"])]


def _collate_chat(processor, model, data, training: bool, **settings) -> VideoTextCollator:
    return ChatCollator(processor, lambda row: ASKED, itemgetter("caption"), **settings)


WRITTEN = Task(
    model_class=VioletForConditionalGeneration,
    columns=COLUMNS["captioning"],
    texts=("caption",),
    reads=("caption",),
    rows=described,
    test_rows=described,
    collate=_collate_chat,
    measure=measure_chat_captions,
    metrics=None,
    ask=lambda row: ["--video", str(row["video"]), "--question", ASKED],
    words=f"{CHAT_WORDS} {ASKED}",
)
TASK = Task(
    model_class=VioletForCaptioning,
    columns=COLUMNS["captioning"],
    texts=("caption",),
    reads=("caption",),
    rows=described,
    test_rows=described,
    collate=_collate,
    measure=measure_captions,
    configure=_configure,
    metrics=None,
    ask=_ask,
    written=WRITTEN,
)

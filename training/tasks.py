"""What VIOLET can be fine-tuned for: for each task its rows, its model, its batches and its measure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from ..data import captioned, described, fill_in_the_blank, gallery, multiple_choice, open_ended
from ..data.loading import ClipReader, FailedSamples, explained_workers
from ..evaluation.answers import AnswerAccuracy, choose_answers
from ..evaluation.captions import caption_metrics
from ..evaluation.retrieval import join_videos, retrieval_metrics, score_gallery
from ..modeling_violet import (
    VioletForCaptioning,
    VioletForMaskedLM,
    VioletForMultipleChoice,
    VioletForQuestionAnswering,
    VioletForRetrieval,
    VioletPreTrainedModel,
)
from ..processing import VideoTextProcessor
from .arguments import DataArguments
from .collating import (
    BlankCollator,
    CaptionCollator,
    MultipleChoiceCollator,
    QuestionCollator,
    RetrievalCollator,
    VideoTextCollator,
)
from .sampling import NumberedRows
from .trainer import VioletTrainer

Row = dict[str, Any]


def check_options(row: Row) -> Row:
    """
    A row of multiple choice as its collator takes it: `options` as a list of texts (a table without lists writes them
    as "left|right"), `answer` as the right one's number (or, in the table, that option itself).

    Raises:
        ValueError: for less than two options, or an answer that is none of them.
    """
    options = row["options"].split("|") if isinstance(row["options"], str) else list(row["options"])
    options = [str(option).strip() for option in options]
    if len(options) < 2:
        raise ValueError(f"column 'options' needs two or more, written as a list or as left|right; it is {options}.")
    answer = str(row["answer"]).strip()
    number = options.index(answer) if answer in options else int(answer) if answer.isdigit() else -1
    if not 0 <= number < len(options):
        raise ValueError(f"column 'answer' is {answer!r}: neither one of the options {options} nor its number from 0.")
    return {**row, "options": options, "answer": number}


def check_blanks(row: Row) -> Row:
    """
    A row of fill in the blank, `answer` as a list.

    Raises:
        ValueError: where `text` has not as many [MASK]s as there are answers.
    """
    answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    blanks = str(row["text"]).count("[MASK]")
    if blanks != len(answers):
        raise ValueError(f"column 'text' has {blanks} [MASK] for {len(answers)} answers: {row['text']!r}.")
    return {**row, "answer": [str(answer) for answer in answers]}


def _collate_questions(processor, model, data, training: bool, **settings) -> VideoTextCollator:
    # A frozen backbone has nothing to learn from contrast.
    learns = any(parameter.requires_grad for parameter in model.violet.video_encoder.swin.parameters())
    captions = training and learns and model.violet.projection is not None
    return QuestionCollator(processor, model.config.label2id, captions=captions, **settings)


def _collate_captions(processor, model, data, training: bool, **settings) -> VideoTextCollator:
    return CaptionCollator(processor, data.word_ratio, next_word=model.config.next_word_prediction, **settings)


def _plain(collator: type[VideoTextCollator]) -> Callable[..., VideoTextCollator]:
    def collate(processor, model, data, training: bool, **settings) -> VideoTextCollator:
        return collator(processor, **settings)

    return collate


@dataclass(frozen=True)
class Task:
    """
    Attributes:
        model_class: the model that is fine-tuned.
        columns: what every row of a table must have.
        texts: the columns whose words a vocabulary from scratch is trained on, as far as the rows have them.
        rows: the clips of the built-in data set -> the rows of a split.
        test_rows: the like for the splits that are measured.
        collate: (processor, model, data arguments, whether for training, settings of `VideoTextCollator`) -> collator.
        check: a row of a table -> the row as the collator takes it; a `ValueError` says what is wrong with it.
        measure: (model, collator, rows, training arguments) -> metrics, where accuracy is not what counts.
    """

    model_class: type[VioletPreTrainedModel]
    columns: tuple[str, ...]
    texts: tuple[str, ...]
    rows: Callable[[Dataset], Dataset]
    test_rows: Callable[[Dataset], Dataset]
    collate: Callable[..., VideoTextCollator]
    check: Callable[[Row], Row] | None = None
    measure: Callable[[Any, VideoTextCollator, Dataset, TrainingArguments], dict[str, float]] | None = None

    def metrics_of(self, rows: Dataset | None) -> dict[str, Any]:
        """What a Trainer needs to measure these rows, beside their loss."""
        if self.measure is not None or rows is None:
            return {}
        types = list(rows["question_type"]) if "question_type" in rows.column_names else None
        return {"compute_metrics": AnswerAccuracy(types), "preprocess_logits_for_metrics": choose_answers}

    def evaluate(
        self,
        model: VioletPreTrainedModel,
        processor: VideoTextProcessor,
        rows: Dataset,
        data: DataArguments,
        training: TrainingArguments,
        shuffle_frames: bool = False,
    ) -> dict[str, float]:
        """The metrics of a model on rows of the task; `shuffle_frames` puts each video's frames into another order."""
        collator = self.collate(
            processor,
            model,
            data,
            training=False,
            reader=ClipReader(processor.video_processor, time_limit=data.decode_time_limit),
            shuffle_frames=shuffle_frames,
            skip_bad=data.bad_samples == "skip",
            test_clips=data.test_clips,
        )
        if self.measure is not None:
            with explained_workers(collator.reader):
                return self.measure(model.eval(), collator, rows, training)
        trainer = VioletTrainer(
            model=model, args=training, eval_dataset=rows, data_collator=collator, **self.metrics_of(rows)
        )
        metrics = trainer.evaluate(metric_key_prefix="")
        return {
            name.removeprefix("_"): value for name, value in metrics.items() if name.startswith(("_accuracy", "_loss"))
        }


def _encoded_videos(model, collator: VideoTextCollator, rows: Dataset, training: TrainingArguments):
    """
    The videos of the rows, encoded, batch by batch, without those that could not be read, which are counted; and
    beside them the numbers of their rows.
    """
    failed_samples = FailedSamples(str(training.output_dir))
    loader = torch.utils.data.DataLoader(
        NumberedRows(rows),
        batch_size=training.per_device_eval_batch_size,
        collate_fn=collator,
        num_workers=training.dataloader_num_workers,
    )
    first = 0
    for batch in loader:
        pixels = batch["pixel_values_videos"]
        failed_samples.add(batch.get("failed", []))
        read = ~batch.get("unread", torch.zeros(len(pixels), dtype=torch.bool))  # one row a video
        numbers = [first + number for number in read.nonzero().flatten().tolist()]
        first += len(pixels)
        if numbers:
            with torch.autocast(model.device.type, torch.bfloat16, enabled=training.bf16):
                yield model.violet.encode_videos(pixels[read].to(model.device)), numbers


def first_of_each(rows: Dataset) -> Dataset:
    """The first row of each video."""
    first: dict[str, int] = {}
    for number, video in enumerate(rows["video"]):
        first.setdefault(video, number)
    return rows.select(list(first.values()))


@torch.no_grad()
def measure_retrieval(model, collator: VideoTextCollator, rows: Dataset, training) -> dict[str, float]:
    """Recall and ranks, both ways, of every text of the rows against every one of their videos that can be read."""
    encoded = []
    numbers: dict[str, int] = {}
    videos = first_of_each(rows)
    for tokens, places in _encoded_videos(model, collator, videos, training):
        encoded.append(tokens)
        numbers |= {videos[place]["video"]: len(numbers) + count for count, place in enumerate(places)}
    if not encoded:
        return {"gallery": 0.0}
    gallery = join_videos(encoded)
    captions = [row for row in rows.select_columns(["video", "caption"]) if row["video"] in numbers]
    texts = collator.processor(text=[row["caption"] for row in captions], return_tensors="pt").to(model.device)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=training.bf16):
        scores = score_gallery(model, gallery, texts["input_ids"], texts["attention_mask"])
    metrics = retrieval_metrics(scores, torch.tensor([numbers[row["video"]] for row in captions]))
    return {"gallery": float(len(numbers)), **metrics}


@torch.no_grad()
def measure_captions(model, collator: VideoTextCollator, rows: Dataset, training) -> dict[str, float]:
    """
    What `caption_metrics` says of a caption written for each video that can be read, against all captions that the
    rows have.
    """
    captions: dict[str, list[str]] = {}
    for video, caption in zip(rows["video"], rows["caption"], strict=True):
        captions.setdefault(video, []).append(caption)
    tokenizer, videos = collator.processor.tokenizer, list(captions)
    written: list[str] = []
    references: list[list[str]] = []
    for tokens, places in _encoded_videos(model, collator, first_of_each(rows), training):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=training.bf16):
            ids = model.generate(video_tokens=tokens, max_length=collator.processor.max_length, do_sample=False)
        written += tokenizer.batch_decode(ids, skip_special_tokens=True)
        references += [captions[videos[place]] for place in places]
    return caption_metrics(written, references) if written else {}


TASKS: Mapping[str, Task] = {
    "open-ended": Task(
        model_class=VioletForQuestionAnswering,
        columns=("video", "question", "answer"),
        texts=("question", "answer", "caption"),
        rows=open_ended,
        test_rows=open_ended,
        collate=_collate_questions,
    ),
    "multiple-choice": Task(
        model_class=VioletForMultipleChoice,
        columns=("video", "question", "options", "answer"),
        texts=("question", "options", "caption"),
        rows=multiple_choice,
        test_rows=multiple_choice,
        collate=_plain(MultipleChoiceCollator),
        check=check_options,
    ),
    "fill-in-the-blank": Task(
        model_class=VioletForMaskedLM,
        columns=("video", "text", "answer"),
        texts=("text", "answer", "caption"),
        rows=fill_in_the_blank,
        test_rows=fill_in_the_blank,
        collate=_plain(BlankCollator),
        check=check_blanks,
    ),
    "retrieval": Task(
        model_class=VioletForRetrieval,
        columns=("video", "caption"),
        texts=("caption",),
        rows=captioned,
        test_rows=gallery,
        collate=_plain(RetrievalCollator),
        measure=measure_retrieval,
    ),
    "captioning": Task(
        model_class=VioletForCaptioning,
        columns=("video", "caption"),
        texts=("caption",),
        rows=described,
        test_rows=described,
        collate=_collate_captions,
        measure=measure_captions,
    ),
}

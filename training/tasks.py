"""What VIOLET can be fine-tuned for: for each task its rows, its model, its batches and its measure."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainingArguments

from ..data import COLUMNS, captioned, described, fill_in_the_blank, gallery, multiple_choice, open_ended
from ..data.loading import ClipReader, FailedSamples, explained_workers
from ..evaluation.answers import AnswerAccuracy, answer_measures, answer_places, choose_answers
from ..evaluation.captions import caption_scores
from ..evaluation.measures import Evaluation
from ..evaluation.retrieval import retrieval_measures
from ..evaluation.searching import join_videos, score_gallery
from ..evaluation.sharing import gather, on_first, own_share
from ..modeling_violet import (
    VioletForCaptioning,
    VioletForMaskedLM,
    VioletForMultipleChoice,
    VioletForQuestionAnswering,
    VioletForRetrieval,
    VioletPreTrainedModel,
)
from ..modeling_violet.losses import IGNORE_INDEX
from ..processing import VideoTextProcessor
from .arguments import DataArguments
from .collating import (
    BlankCollator,
    CaptionCollator,
    MaskedAnswerCollator,
    MultipleChoiceCollator,
    QuestionCollator,
    RetrievalCollator,
    VideoTextCollator,
    normalize_answer,
    single_token,
    words_of,
)
from .sampling import NumberedRows

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


def check_masked(row: Row) -> Row:
    """
    A question that is answered at a [MASK], with options as `check_options` gives them, where it has some.

    Raises:
        ValueError: where it has several [MASK]s of its own.
    """
    masks = str(row["question"]).count("[MASK]")
    if masks > 1:
        raise ValueError(f"column 'question' has {masks} [MASK]s, and one answer: {row['question']!r}.")
    return check_options(row) if row.get("options") else row


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
        words: what else the texts have that the model reads, for such a vocabulary.
        reads: the columns whose words the model reads or learns to write, as far as the rows have them.
        rows: the clips of the built-in data set -> the rows of a split.
        test_rows: the like for the splits that are measured.
        collate: (processor, model, data arguments, whether for training, settings of `VideoTextCollator`) -> collator.
        check: a row of a table -> the row as the collator takes it; a `ValueError` says what is wrong with it.
        measure: (model, collator, rows, data arguments, training arguments) -> what the model is worth on the rows.
        chooses: whether it answers by choosing, so that a Trainer can measure its accuracy.
        sayable: (tokenizer, answer) -> whether it can be learned at a [MASK], where answers are said there.
        unsayable: why one cannot.
        apart: whether a batch should hold many videos, rather than all rows of a few: what is learned is to tell the
            videos of a batch apart.
    """

    model_class: type[VioletPreTrainedModel]
    columns: tuple[str, ...]
    texts: tuple[str, ...]
    reads: tuple[str, ...]
    rows: Callable[[Dataset], Dataset]
    test_rows: Callable[[Dataset], Dataset]
    collate: Callable[..., VideoTextCollator]
    measure: Callable[[Any, VideoTextCollator, Dataset, DataArguments, TrainingArguments], Evaluation]
    check: Callable[[Row], Row] | None = None
    chooses: bool = True
    sayable: Callable[[Any, str], bool] | None = None
    unsayable: str = ""
    apart: bool = False
    words: str = ""

    def metrics_of(self, rows: Dataset | None) -> dict[str, Any]:
        """What a Trainer needs to measure these rows, beside their loss."""
        if not self.chooses or rows is None:
            return {}
        types = list(rows["question_type"]) if "question_type" in rows.column_names else None
        return {"compute_metrics": AnswerAccuracy(types), "preprocess_logits_for_metrics": choose_answers}

    def examine(
        self,
        model: VioletPreTrainedModel,
        processor: VideoTextProcessor,
        rows: Dataset,
        data: DataArguments,
        training: TrainingArguments,
        shuffle_frames: bool = False,
    ) -> Evaluation:
        """
        What a model is worth on rows of the task: numbers with intervals, and what it said to each row. Processes that
        run together share the rows out, and all of them get the whole result.

        Args:
            shuffle_frames: whether to put each video's frames into another order.
        """
        model = model.eval().to(training.device)
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
        with explained_workers(collator.reader):
            return self.measure(model, collator, rows, data, training)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The numbers of `examine`."""
        return self.examine(*args, **kwargs).metrics


@dataclass
class _Batch:
    """
    Attributes:
        rows: with their numbers as `row`.
        read: (rows,), whose video could be read; the others' is black.
        clips: how many clips of each row's video there are.
        inputs: what the model takes, (rows * clips, ...) each.
    """

    rows: list[Row]
    read: torch.Tensor
    clips: int
    inputs: dict[str, torch.Tensor]

    def rows_read(self) -> list[Row]:
        return [row for row, read in zip(self.rows, self.read.tolist(), strict=True) if read]


def _collate_with_rows(collator: VideoTextCollator, rows: list[Row]) -> tuple[list[Row], dict[str, Any]]:
    return rows, collator(rows)


def _batches(model, collator: VideoTextCollator, rows: Dataset, training: TrainingArguments) -> Iterator[_Batch]:
    """This process's share of the rows, batch by batch; what cannot be read is counted in the run's folder."""
    failed_samples = FailedSamples(str(training.output_dir))
    collator.raw_pixels = True
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(NumberedRows(rows), own_share(len(rows))),
        batch_size=training.per_device_eval_batch_size,
        collate_fn=partial(_collate_with_rows, collator),
        num_workers=training.dataloader_num_workers,
    )
    for of_batch, inputs in loader:
        failed_samples.add(inputs.pop("failed", []))
        clips = inputs.pop("test_clips", 1)
        unread = inputs.pop("unread", torch.zeros(len(of_batch) * clips, dtype=torch.bool))
        yield _Batch(of_batch, ~unread[::clips], clips, collator.processor.to_device(inputs, model.device))


def _precision(model, training: TrainingArguments) -> torch.autocast:
    return torch.autocast(
        model.device.type, torch.float16 if training.fp16 else torch.bfloat16, enabled=training.bf16 or training.fp16
    )


def _encoded_videos(model, collator: VideoTextCollator, rows: Dataset, training: TrainingArguments):
    """
    The videos of this process's share of the rows, batch by batch, as far as they can be read: the rows with their
    numbers, `VideoTokens`.
    """
    for batch in _batches(model, collator, rows, training):
        if batch.read.any():
            with _precision(model, training):
                tokens = model.violet.encode_videos(batch.inputs["pixel_values_videos"][batch.read])
            yield batch.rows_read(), tokens


def first_of_each(rows: Dataset) -> Dataset:
    """The first row of each video."""
    first: dict[str, int] = {}
    for number, video in enumerate(rows["video"]):
        first.setdefault(video, number)
    return rows.select(list(first.values()))


@torch.no_grad()
def measure_answers(
    model,
    collator: VideoTextCollator,
    rows: Dataset,
    data: DataArguments,
    training: TrainingArguments,
    say: Callable[[Any, VideoTextProcessor, Row, list[int]], tuple[str, str]],
    by_frequency: bool = True,
) -> Evaluation:
    """
    The `loss` and what `answer_measures` says of the answers that are chosen.

    Args:
        say: (model, processor, row, the numbers chosen) -> the answer that these are, and the right one, in words.
        by_frequency: whether answers are words that some rows share, so that their frequency means something.
    """
    found: list[dict[str, Any]] = []
    for batch in _batches(model, collator, rows, training):
        labels = batch.inputs.pop("labels")[:: batch.clips]
        with _precision(model, training):
            logits = model(**batch.inputs).logits.float().unflatten(0, (-1, batch.clips)).mean(1)
        surprise = torch.nn.functional.cross_entropy(
            logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
        ).view(len(labels), -1)
        asked = labels.view(len(labels), -1) != IGNORE_INDEX  # (rows, X)
        chosen = logits.argmax(-1).view(len(labels), -1)
        places = answer_places(logits, labels).tolist()
        for place, row in enumerate(batch.rows):
            if not batch.read[place]:
                continue
            of_row = chosen[place][asked[place]] if labels.dim() == 2 else chosen[place]
            answer, truth = say(model, collator.processor, row, of_row.tolist())
            found.append(
                {
                    "row": row["row"],
                    "place": places[place],
                    "video": row["video"],
                    "question": row["question"] if "question" in row else row["text"],
                    "question_type": row.get("question_type"),
                    "prediction": answer,
                    "truth": truth,
                    "surprise": surprise[place].sum().item(),
                    "labels": int(asked[place].sum()),
                    "answers": logits.shape[-1],
                }
            )
    found = gather(found)
    _need_some(found, rows)
    typed = "question_type" in rows.column_names
    measures = answer_measures(
        [sample["place"] for sample in found],
        [sample["question_type"] for sample in found] if typed else None,
        [sample["truth"] for sample in found] if by_frequency else None,
        max(sample["answers"] for sample in found),
        [sample["video"] for sample in found],
    )
    labels_in_all = sum(sample["labels"] for sample in found)
    loss = sum(sample["surprise"] for sample in found) / max(1, labels_in_all)
    samples = [
        {
            **{name: sample[name] for name in ("row", "video", "question", "prediction", "truth")},
            **({"question_type": sample["question_type"]} if typed else {}),
            "right": sample["place"] <= 1,
            # The probability of the right answer, a mean over its words.
            "score": float(np.exp(-sample["surprise"] / sample["labels"])) if sample["labels"] else 0.0,
        }
        for sample in found
    ]
    return Evaluation(measures, {"loss": loss}, samples, failed=len(rows) - len(found))


def _need_some(found: Collection[Any], rows: Dataset) -> None:
    if not found:
        raise ValueError(f"None of the {len(rows)} rows could be read: there is nothing to measure.")


def _say_answer(model, processor: VideoTextProcessor, row: Row, chosen: list[int]) -> tuple[str, str]:
    return model.config.id2label[chosen[0]], normalize_answer(row["answer"])


def _say_option(model, processor: VideoTextProcessor, row: Row, chosen: list[int]) -> tuple[str, str]:
    return row["options"][chosen[0]], row["options"][row["answer"]]


def _say_masked(model, processor: VideoTextProcessor, row: Row, chosen: list[int]) -> tuple[str, str]:
    said = processor.tokenizer.decode(chosen)
    if not row.get("options"):
        return said, normalize_answer(row["answer"])
    options = dict(enumerate(row["options"]))
    return options.get(int(said), said) if said.isdecimal() else said, options[row["answer"]]


def _say_words(model, processor: VideoTextProcessor, row: Row, chosen: list[int]) -> tuple[str, str]:
    answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    return processor.tokenizer.decode(chosen), " ".join(normalize_answer(answer) for answer in answers)


@torch.no_grad()
def measure_retrieval(
    model, collator: VideoTextCollator, rows: Dataset, data: DataArguments, training: TrainingArguments
) -> Evaluation:
    """
    Recall and ranks, both ways, of every text of the rows against every one of their videos. Each process encodes and
    scores its share of the videos.
    """
    encoded, mine = [], []
    for of_batch, tokens in _encoded_videos(model, collator, first_of_each(rows), training):
        encoded.append(tokens)
        mine += [row["video"] for row in of_batch]
    texts = collator.processor(text=list(rows["caption"]), return_tensors="pt").to(model.device)
    columns = np.empty((0, len(rows)), np.float32)
    if encoded:
        with _precision(model, training):
            scores = score_gallery(model, join_videos(encoded), texts["input_ids"], texts["attention_mask"])
        columns = scores.t().cpu().numpy()
    by_video = dict(gather(list(zip(mine, columns, strict=True))))
    _need_some(by_video, rows)
    videos = {video: number for number, video in enumerate(by_video)}
    asked = [number for number, video in enumerate(rows["video"]) if video in videos]
    scores = torch.from_numpy(np.stack(list(by_video.values()), 1)[asked])
    own = [videos[rows["video"][number]] for number in asked]
    measures = retrieval_measures(scores, own)
    ranks = measures["text_to_video_mean_rank"].values
    names, captions = list(videos), rows["caption"]
    samples = [
        {
            "row": number,
            "video": names[video],
            "question": captions[number],
            "prediction": names[best],
            "found": names[best],
            "truth": names[video],
            "right": bool(rank == 1),
            "score": -float(rank),
        }
        for number, video, best, rank in zip(asked, own, scores.argmax(1).tolist(), ranks, strict=True)
    ]
    if data.dual_softmax:
        measures |= retrieval_measures(scores, own, use_dual_softmax=True)
    notes = {"score": "minus the rank of the text's own video; equal scores count as in a random order of them"}
    return Evaluation(measures, {"gallery": float(len(videos))}, samples, notes, len(rows) - len(asked))


@torch.no_grad()
def measure_captions(
    model, collator: VideoTextCollator, rows: Dataset, data: DataArguments, training: TrainingArguments
) -> Evaluation:
    """What `caption_scores` says of a caption written for each video, against all captions that the rows have."""
    references: dict[str, list[str]] = {}
    for video, caption in zip(rows["video"], rows["caption"], strict=True):
        references.setdefault(video, []).append(caption)
    mine: list[tuple[str, str]] = []
    for of_batch, tokens in _encoded_videos(model, collator, first_of_each(rows), training):
        with _precision(model, training):
            ids = model.generate(video_tokens=tokens, max_length=collator.processor.max_length, do_sample=False)
        said = collator.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        mine += zip((row["video"] for row in of_batch), said, strict=True)
    written = dict(gather(mine))
    _need_some(written, rows)
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


TASKS: Mapping[str, Task] = {
    "open-ended": Task(
        model_class=VioletForQuestionAnswering,
        columns=COLUMNS["open-ended"],
        texts=("question", "answer", "caption"),
        reads=("question", "caption"),
        rows=open_ended,
        test_rows=open_ended,
        collate=_collate_questions,
        measure=partial(measure_answers, say=_say_answer),
    ),
    "masked-answer": Task(
        model_class=VioletForMaskedLM,
        columns=COLUMNS["masked-answer"],
        texts=("question", "answer", "options", "caption"),
        reads=("question", "answer", "options"),
        words="answer: option 0 1 2 3 4 5 6 7 8 9",
        rows=open_ended,
        test_rows=open_ended,
        collate=_plain(MaskedAnswerCollator),
        measure=partial(measure_answers, say=_say_masked),
        check=check_masked,
        sayable=lambda tokenizer, answer: single_token(tokenizer, answer) is not None,
        unsayable="it is not one token of it",
    ),
    "multiple-choice": Task(
        model_class=VioletForMultipleChoice,
        columns=COLUMNS["multiple-choice"],
        texts=("question", "options", "caption"),
        reads=("question", "options"),
        rows=multiple_choice,
        test_rows=multiple_choice,
        collate=_plain(MultipleChoiceCollator),
        measure=partial(measure_answers, say=_say_option, by_frequency=False),
        check=check_options,
    ),
    "fill-in-the-blank": Task(
        model_class=VioletForMaskedLM,
        columns=COLUMNS["fill-in-the-blank"],
        texts=("text", "answer", "caption"),
        reads=("text", "answer"),
        rows=fill_in_the_blank,
        test_rows=fill_in_the_blank,
        collate=_plain(BlankCollator),
        measure=partial(measure_answers, say=_say_words),
        check=check_blanks,
        sayable=lambda tokenizer, answer: tokenizer.unk_token_id not in words_of(tokenizer, answer),
        unsayable="it has a word that is not there",
    ),
    "retrieval": Task(
        model_class=VioletForRetrieval,
        columns=COLUMNS["retrieval"],
        texts=("caption",),
        reads=("caption",),
        rows=captioned,
        test_rows=gallery,
        collate=_plain(RetrievalCollator),
        measure=measure_retrieval,
        apart=True,
        chooses=False,
    ),
    "captioning": Task(
        model_class=VioletForCaptioning,
        columns=COLUMNS["captioning"],
        texts=("caption",),
        reads=("caption",),
        rows=described,
        test_rows=described,
        collate=_collate_captions,
        measure=measure_captions,
        chooses=False,
    ),
}

"""Multiple choice: each option is scored behind its question."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ...data import COLUMNS, multiple_choice
from ...modeling_violet import VioletForMultipleChoice
from ...processing import VideoTextProcessor
from ...processing.questions import by_question, question_with_option
from ...processing.sentences import option_sentences
from ..collating import VideoTextCollator
from .choosing import measure_answers
from .task import Row, Task, ask_with_options


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
    is_number = isinstance(row["answer"], int)  # else it were taken for an option "3" among "2", "3", "4", "1"
    number = options.index(answer) if answer in options and not is_number else int(answer) if answer.isdigit() else -1
    if not 0 <= number < len(options):
        raise ValueError(f"column 'answer' is {answer!r}: neither one of the options {options} nor its number from 0.")
    return {**row, "options": options, "answer": number}


class MultipleChoiceCollator(VideoTextCollator):
    """Questions with options -> what `VioletForMultipleChoice` takes: each option behind its question."""

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Rows with `question`, `options` (texts) and `answer` (the right one's number) -> `input_ids` and
        `attention_mask` (rows, options, tokens), all padding if a row has fewer options, and `labels` (rows,). For
        models that read paragraphs, each option is one, of question, option and the row's `subtitles`.
        """
        texts = [self.text_of(row, option) for row in rows for option in row["options"]]
        flat = self.processor(text=texts)
        counts = [len(row["options"]) for row in rows]
        batch: dict[str, Any] = by_question(flat, counts, self.processor.tokenizer.pad_token_id)
        batch["labels"] = torch.tensor([row["answer"] for row in rows])
        return batch

    def text_of(self, row: Mapping[str, Any], option: str) -> str:
        """An option behind its question, as the processor splits it."""
        most = getattr(self.processor, "max_sentences", None)
        if most is None:
            return question_with_option(row["question"], option)
        return "\n".join(option_sentences(row["question"], option, row.get("subtitles") or (), most))


def _say(model, processor: VideoTextProcessor, row: Row, chosen: list[int]) -> tuple[str, str]:
    return row["options"][chosen[0]], row["options"][row["answer"]]


def _collate(processor, model, data, training: bool, **settings) -> VideoTextCollator:
    return MultipleChoiceCollator(processor, **settings)


TASK = Task(
    model_class=VioletForMultipleChoice,
    columns=COLUMNS["multiple-choice"],
    texts=("question", "options", "caption"),
    reads=("question", "options"),
    rows=multiple_choice,
    test_rows=multiple_choice,
    collate=_collate,
    measure=partial(measure_answers, say=_say, by_frequency=False),
    check=check_options,
    ask=ask_with_options,
    masked_columns={},
)

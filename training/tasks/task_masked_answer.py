"""Questions that are answered by one token at a [MASK]."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ...data import COLUMNS, open_ended
from ...modeling_violet import VioletForMaskedLM
from ...modeling_violet.losses import IGNORE_INDEX
from ...processing import VideoTextProcessor
from ...processing.questions import cut_around_mask, masked_question, number_tokens, options_in_one_text, pad_texts
from ..collating import VideoTextCollator
from .choosing import measure_answers, normalize_answer, single_token
from .task import Row, Task, ask_with_options
from .task_multiple_choice import check_options


def check_masked(row: Row) -> Row:
    """
    A question that is answered at a [MASK], with options as `check_options` gives them, if it has some.

    Raises:
        ValueError: if it has several [MASK]s of its own.
    """
    masks = str(row["question"]).count("[MASK]")
    if masks > 1:
        raise ValueError(f"column 'question' has {masks} [MASK]s, and one answer: {row['question']!r}.")
    return check_options(row) if row.get("options") else row


class MaskedAnswerCollator(VideoTextCollator):
    """
    Questions about videos -> what `VioletForMaskedLM` takes, answered by one token at a [MASK], as VIOLETv2 does. An
    answer that is not one token of the vocabulary gets the label −100: no loss, never right.
    """

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Rows with `question`, which may have a [MASK] of its own, and `answer`, a text; or with `options` as well, of
        which `answer` is the number -> `input_ids` and `attention_mask` (rows, tokens), and `labels` (rows, tokens),
        −100 but at the [MASK]. Of a text that is too long, the tokens around its [MASK] stay.
        """
        tokenizer = self.processor.tokenizer
        texts, answers = [], []
        for row in rows:
            if row.get("options"):
                text = options_in_one_text(tokenizer, row["question"], row["options"])
                answer = number_tokens(tokenizer, len(row["options"]))[row["answer"]]
            else:
                text = masked_question(tokenizer, row["question"])
                answer = single_token(tokenizer, row["answer"])
            texts.append(cut_around_mask(tokenizer, text, self.processor.max_length))
            answers.append(IGNORE_INDEX if answer is None else answer)
        input_ids, attention_mask = pad_texts(texts, tokenizer.pad_token_id)
        labels = torch.full_like(input_ids, IGNORE_INDEX)
        labels[input_ids == tokenizer.mask_token_id] = torch.tensor(answers)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def _say(model, processor: VideoTextProcessor, row: Row, chosen: list[int]) -> tuple[str, str]:
    said = processor.tokenizer.decode(chosen)
    if not row.get("options"):
        return said, normalize_answer(row["answer"])
    options = dict(enumerate(row["options"]))
    return options.get(int(said), said) if said.isdecimal() else said, options[row["answer"]]


def _collate(processor, model, data, training: bool, **settings) -> VideoTextCollator:
    return MaskedAnswerCollator(processor, **settings)


TASK = Task(
    model_class=VioletForMaskedLM,
    columns=COLUMNS["masked-answer"],
    texts=("question", "answer", "options", "caption"),
    reads=("question", "answer", "options"),
    rows=open_ended,
    test_rows=open_ended,
    collate=_collate,
    measure=partial(measure_answers, say=_say),
    check=check_masked,
    ask=ask_with_options,
    sayable=lambda tokenizer, answer: single_token(tokenizer, answer) is not None,
    unsayable="it is not one token of it",
    words="answer: option 0 1 2 3 4 5 6 7 8 9",
)

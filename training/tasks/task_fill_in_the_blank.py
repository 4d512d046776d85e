"""Fill in the blank: the words that a sentence about the video lacks."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ...data import COLUMNS, fill_in_the_blank
from ...modeling_violet import VioletForMaskedLM
from ...modeling_violet.losses import IGNORE_INDEX
from ...processing import VideoTextProcessor
from ..collating import VideoTextCollator
from .choosing import measure_answers, normalize_answer, words_of
from .task import Row, Task


def check_blanks(row: Row) -> Row:
    """
    A row of fill in the blank, `answer` as a list.

    Raises:
        ValueError: if `text` has not as many [MASK]s as there are answers.
    """
    answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    blanks = str(row["text"]).count("[MASK]")
    if blanks != len(answers):
        raise ValueError(f"column 'text' has {blanks} [MASK] for {len(answers)} answers: {row['text']!r}.")
    return {**row, "answer": [str(answer) for answer in answers]}


class BlankCollator(VideoTextCollator):
    """
    Sentences with blanks -> what `VioletForMaskedLM` takes. An answer of several tokens makes as many [MASK]s of its
    blank; a row with a word that the vocabulary does not have gets the labels −100: no loss, never right.
    """

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Rows with `text`, a sentence with [MASK]s, and `answer`, one text or a list of them, in order -> `input_ids`
        and `attention_mask` (rows, tokens), and `labels` (rows, tokens), −100 but at the [MASK]s.
        """
        tokenizer = self.processor.tokenizer
        mask, unknown = tokenizer.mask_token, tokenizer.unk_token_id
        sentences, answers = [], []
        for row in rows:
            given = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
            tokens = [words_of(tokenizer, answer) for answer in given]
            parts = row["text"].split(mask)
            masks = [" ".join([mask] * len(answer)) for answer in tokens]
            sentences.append("".join(part + filler for part, filler in zip(parts, [*masks, ""], strict=True)))
            words = [token for answer in tokens for token in answer]
            answers.append([IGNORE_INDEX] * len(words) if unknown in words else words)
        batch = dict(self.processor(text=sentences))
        labels = torch.full_like(batch["input_ids"], IGNORE_INDEX)
        for line, ids, words, sentence in zip(labels, batch["input_ids"], answers, sentences, strict=True):
            places = (ids == tokenizer.mask_token_id).nonzero().flatten()
            if len(places) != len(words):
                raise ValueError(
                    f"{sentence!r} is cut after {len(ids)} tokens, before its last {mask}: give a greater "
                    "`max_text_length`, or shorten it."
                )
            line[places] = torch.tensor(words)
        batch["labels"] = labels
        return batch


def _say(model, processor: VideoTextProcessor, row: Row, chosen: list[int]) -> tuple[str, str]:
    answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    return processor.tokenizer.decode(chosen), " ".join(normalize_answer(answer) for answer in answers)


def _collate(processor, model, data, training: bool, **settings) -> VideoTextCollator:
    return BlankCollator(processor, **settings)


TASK = Task(
    model_class=VioletForMaskedLM,
    columns=COLUMNS["fill-in-the-blank"],
    texts=("text", "answer", "caption"),
    reads=("text", "answer"),
    rows=fill_in_the_blank,
    test_rows=fill_in_the_blank,
    collate=_collate,
    measure=partial(measure_answers, say=_say),
    check=check_blanks,
    masked_columns={"text": "question"},
    sayable=lambda tokenizer, answer: tokenizer.unk_token_id not in words_of(tokenizer, answer),
    unsayable="it has a word that is not there",
)

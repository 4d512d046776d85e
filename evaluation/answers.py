"""Scores of answers by [MASK], and the accuracy of answers, over all questions and by type of question."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..modeling_violet import VideoTokens
from ..modeling_violet.losses import IGNORE_INDEX
from ..processing.questions import TokenIds, pad_texts

UNREAD = -101
"""The label of a row whose video could not be read."""


class AnswerAccuracy:
    """
    `compute_metrics` of a Trainer: `accuracy`, and `accuracy_TYPE` for each type of question.

    Args:
        question_types: each row's type, in the order of the data set that is evaluated; `None` without types.
    """

    def __init__(self, question_types: Sequence[str] | None = None):
        self.question_types = question_types

    def __call__(self, prediction) -> dict[str, float]:
        """
        `prediction.predictions`, the chosen answers, and `label_ids`: (rows,), or (rows, X) with −100 where there is
        nothing to choose; a row is right where all of its labels are, and wrong where it has none. Rows with the label
        `UNREAD` have no part; where no row has one, there is no number.
        """
        chosen, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        chosen, labels = chosen.reshape(len(chosen), -1), labels.reshape(len(labels), -1)
        counts = labels != IGNORE_INDEX
        right = ((chosen == labels) | ~counts).all(1) & counts.any(1)
        read = (labels != UNREAD).all(1)
        if not read.any():
            return {}
        metrics = {"accuracy": float(right[read].mean())}
        if self.question_types is not None:
            types = np.asarray(self.question_types)
            if len(types) != len(right):
                raise ValueError(f"{len(right)} predictions for {len(types)} rows with a question type.")
            for name in sorted(set(types[read])):
                metrics[f"accuracy_{name}"] = float(right[read & (types == name)].mean())
        return metrics


def choose_answers(logits, labels):
    """`preprocess_logits_for_metrics` of a Trainer: (..., answers) -> the best answer of each place, (...)."""
    return logits.argmax(dim=-1)


@torch.no_grad()
def answer_log_probabilities(
    model: Any,
    video_tokens: VideoTokens,
    questions: Sequence[Mapping[int, TokenIds]],
    answers: Sequence[Sequence[TokenIds]],
    mask_token_id: int,
    video_index: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """
    What a masked language head gives for answers of one or several tokens, each question having its own: the mean over
    an answer's tokens of their log-probabilities, read at as many [MASK]s in one pass. One pass for each number of
    tokens that occurs; videos come encoded.

    Args:
        model: a `VioletForMaskedLM`, in evaluation mode.
        questions: each question's token ids, by the number of [MASK]s, see `processing.questions.masked_question`.
        answers: each question's answers, as token ids, see `processing.questions.answer_tokens`.
        video_index: (questions,), the video of each question; its own number where it is not given.

    Returns:
        For each question (its answers,) float32.
    """
    device = video_tokens.tokens.device
    if video_index is None:
        video_index = torch.arange(len(questions), device=device)
    scores = [torch.zeros(len(of_question), device=device) for of_question in answers]
    for count in sorted({len(answer) for of_question in answers for answer in of_question}):
        asked = [row for row, of_question in enumerate(answers) if any(len(answer) == count for answer in of_question)]
        input_ids, attention_mask = pad_texts(
            [questions[row][count] for row in asked], model.config.pad_token_id, device
        )
        logits = model(
            video_tokens=video_tokens,
            input_ids=input_ids,
            attention_mask=attention_mask,
            video_index=video_index[asked],
        ).logits
        # (rows, X, vocabulary) -> (rows, [MASK]s, vocabulary)
        at_masks = logits[input_ids == mask_token_id].view(len(asked), count, -1).float().log_softmax(-1)
        for words, row in zip(at_masks, asked, strict=True):
            places = [place for place, answer in enumerate(answers[row]) if len(answer) == count]
            tokens = torch.tensor([answers[row][place] for place in places], device=device)  # (answers, count)
            scores[row][places] = words[torch.arange(count, device=device), tokens].mean(1)
    return scores

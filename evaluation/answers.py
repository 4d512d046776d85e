"""Scores of answers by [MASK], and the accuracy of answers, over all questions and by type of question."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ..modeling_violet import Tokens
from ..modeling_violet.losses import IGNORE_INDEX
from ..processing.questions import TokenIds, pad_texts
from .measures import Measure
from .metrics import Metric, Score, measures_of

TOP = 5


def answer_measures(
    places: Sequence[float],
    question_types: Sequence[str] | None = None,
    answers: Sequence[str] | None = None,
    num_answers: int | None = None,
    videos: Sequence[str] | None = None,
) -> dict[str, Measure]:
    """
    `accuracy`, the share of rows whose right answer stands first; `accuracy_top5`, among the first five, if more
    than five can be given; `accuracy_TYPE` for each type of question; and by how often people gave the answer,
    `accuracy_frequent_answers`, `accuracy_less_frequent_answers`, `accuracy_rare_answers`: of the answers in order of
    their number among these rows (equals in alphabetical order), those that begin in the first, second and last third
    of the rows.

    Args:
        places: (rows,), where the right answer stands, from 1; infinite if it cannot be given.
        question_types, answers, videos: (rows,) each, if they are known. The rows of a video are drawn together for
            intervals.
        num_answers: how many answers can be given to a question.
    """
    units = None if videos is None else np.asarray(videos)
    measures = measures_of("answers", ChosenAnswers(np.asarray(places, float), num_answers), units)
    right = measures["accuracy"].values
    groups: dict[str, np.ndarray] = {}
    if question_types is not None:
        types = np.asarray(question_types)
        groups |= {str(name): types == name for name in sorted(set(question_types))}
    if answers is not None:
        third = thirds_by_frequency(answers)
        names = ("frequent_answers", "less_frequent_answers", "rare_answers")
        groups |= {name: third == number for number, name in enumerate(names)}
    for name, chosen in groups.items():
        if chosen.any():
            measures[f"accuracy_{name}"] = Measure(right[chosen], units=None if units is None else units[chosen])
    return measures


@dataclass(frozen=True)
class ChosenAnswers:
    """
    What a metric of answers is computed from.

    Attributes:
        places: (rows,), where the right answer stands, from 1; infinite if it cannot be given.
        num_answers: how many answers can be given to a question, if that is known.
    """

    places: np.ndarray
    num_answers: int | None


def _among_first(count: int, answers: ChosenAnswers) -> Score | None:
    if answers.num_answers is not None and 1 < count >= answers.num_answers:
        return None
    return Score(Measure((answers.places <= count).astype(float)))


ACCURACY = Metric("answers", partial(_among_first, 1), is_share=True)
ACCURACY_TOP5 = Metric("answers", partial(_among_first, TOP), is_share=True)


def thirds_by_frequency(answers: Sequence[str]) -> np.ndarray:
    """(rows,), 0 for rows with a most frequent answer, 1, 2 for those with a rare one, see `answer_measures`."""
    counts, before, third = Counter(answers), 0, {}
    for answer in sorted(counts, key=lambda answer: (-counts[answer], answer)):
        third[answer] = 3 * before // len(answers)
        before += counts[answer]
    return np.array([third[answer] for answer in answers])


def answer_places(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Where the right answer stands among all, from 1: equal scores stand in the order of their numbers, as `argmax`
    takes them. With several labels per row, the worst place of them; infinite for a row without any.

    Args:
        logits: (rows, answers), or (rows, X, answers).
        labels: (rows,), or (rows, X) with −100 if there is nothing to choose.

    Returns:
        (rows,)
    """
    counts = labels != IGNORE_INDEX
    chosen = labels.where(counts, 0).unsqueeze(-1)
    own = logits.gather(-1, chosen)
    before = torch.arange(logits.shape[-1], device=logits.device) < chosen
    place = 1.0 + ((logits > own) | ((logits == own) & before)).sum(-1)
    place = place.masked_fill(~counts, 0).view(len(labels), -1).amax(1)
    return place.masked_fill(~counts.view(len(labels), -1).any(1), float("inf"))


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
        `prediction.predictions`, the chosen answers, and `label_ids`: (rows,), or (rows, X) with −100 if there is
        nothing to choose; a row is right if all of its labels are, and wrong if it has none. Rows with the label
        `UNREAD` have no part; if no row has one, there is no number.
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
    video_tokens: Tokens,
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
        video_index: (questions,), the video of each question; its own number if it is not given.

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

"""Accuracy of answers, over all questions and by type of question."""

from collections.abc import Sequence

import numpy as np


class AnswerAccuracy:
    """
    `compute_metrics` of a Trainer: `accuracy`, and `accuracy_TYPE` for each type of question.

    Args:
        question_types: each row's type, in the order of the data set that is evaluated; `None` without types.
    """

    def __init__(self, question_types: Sequence[str] | None = None):
        self.question_types = question_types

    def __call__(self, prediction) -> dict[str, float]:
        """`prediction.predictions` (rows,), the chosen answers; `label_ids` (rows,), −100 counting as wrong."""
        right = np.asarray(prediction.predictions) == np.asarray(prediction.label_ids)
        metrics = {"accuracy": float(right.mean())}
        if self.question_types is not None:
            types = np.asarray(self.question_types)
            if len(types) != len(right):
                raise ValueError(f"{len(right)} predictions for {len(types)} rows with a question type.")
            for name in sorted(set(self.question_types)):
                metrics[f"accuracy_{name}"] = float(right[types == name].mean())
        return metrics


def choose_answers(logits, labels):
    """`preprocess_logits_for_metrics` of a Trainer: (texts, answers) -> the best answer of each text, (texts,)."""
    return logits.argmax(dim=-1)

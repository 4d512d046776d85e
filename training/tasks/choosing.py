"""Tasks that answer by choosing: what they measure, and how answers are compared."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainingArguments

from ...evaluation.answers import answer_measures, answer_places
from ...evaluation.measures import Evaluation
from ...evaluation.sharing import gather
from ...modeling_violet.losses import IGNORE_INDEX
from ...processing import VideoTextProcessor
from ...processing.questions import TokenIds
from ..collating import VideoTextCollator
from .evaluation_batches import EvaluationBatch, evaluation_batches, need_some, precision
from .task import Row

if TYPE_CHECKING:
    from ..arguments import DataArguments

Say = Callable[[Any, VideoTextProcessor, Row, list[int]], tuple[str, str]]
"""(model, processor, row, the numbers chosen) -> the answer that these are, and the right one, in words."""


def words_of(tokenizer: Any, answer: Any) -> TokenIds:
    """The tokens of an answer, [UNK] among them."""
    return tokenizer(str(answer), add_special_tokens=False)["input_ids"]


def single_token(tokenizer: Any, answer: Any) -> int | None:
    """The token that an answer is; None if it is several, or has none."""
    ids = words_of(tokenizer, answer)
    return ids[0] if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else None


def normalize_answer(answer: Any) -> str:
    """An answer as answers are compared: lower case, single spaces."""
    return " ".join(str(answer).lower().split())


@torch.no_grad()
def measure_answers(
    model,
    collator: VideoTextCollator,
    rows: Dataset,
    data: "DataArguments",
    training: TrainingArguments,
    say: Say,
    by_frequency: bool = True,
) -> Evaluation:
    """
    The `loss` and what `answer_measures` says of the answers that are chosen.

    Args:
        by_frequency: whether answers are words that some rows share, so that their frequency means something.
    """
    found: list[dict[str, Any]] = []
    for batch in evaluation_batches(model, collator, rows, training):
        labels = batch.inputs.pop("labels")[:: batch.clips]
        with precision(model, training):
            logits = model(**batch.inputs).logits.float().unflatten(0, (-1, batch.clips)).mean(1)
        found += _answers_of(batch, logits, labels, lambda row, chosen: say(model, collator.processor, row, chosen))
    found = gather(found)
    need_some(found, rows)
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


def _answers_of(
    batch: EvaluationBatch,
    logits: torch.Tensor,
    labels: torch.Tensor,
    say: Callable[[Row, list[int]], tuple[str, str]],
) -> list[dict[str, Any]]:
    """What was chosen for each row of the batch that could be read, and how probable the right answer was."""
    surprise = torch.nn.functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    ).view(len(labels), -1)
    asked = labels.view(len(labels), -1) != IGNORE_INDEX  # (rows, X)
    chosen = logits.argmax(-1).view(len(labels), -1)
    places = answer_places(logits, labels).tolist()
    found = []
    for place, row in enumerate(batch.rows):
        if not batch.read[place]:
            continue
        of_row = chosen[place][asked[place]] if labels.dim() == 2 else chosen[place]
        answer, truth = say(row, of_row.tolist())
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
    return found

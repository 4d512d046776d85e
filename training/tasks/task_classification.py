"""Classification: which of the labels of the training rows a video has, one or several."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainingArguments

from ...data import COLUMNS, classified
from ...evaluation.answers import answer_places
from ...evaluation.classes import ClassAccuracy, class_measures, label_set_measures
from ...evaluation.measures import Evaluation
from ...evaluation.sharing import gather
from ...modeling_violet import VioletForVideoClassification
from ...modeling_violet.losses import IGNORE_INDEX, masked_binary_cross_entropy, masked_cross_entropy
from ...modeling_violet.modeling_classification import ONE_LABEL, SEVERAL_LABELS
from ...processing import VideoTextProcessor
from ..collating import VideoTextCollator
from .evaluation_batches import evaluation_batches, need_some, precision
from .task import Row, Task

if TYPE_CHECKING:
    from ..arguments import DataArguments, ModelArguments

logger = logging.getLogger(__name__)


def check_label(row: Row) -> Row:
    """
    A row of classification, `label` as a list of texts (a table without lists writes several as "run|jump").

    Raises:
        ValueError: for an empty label.
    """
    given = row["label"]
    labels = given if isinstance(given, list | tuple) else str(given).split("|")
    labels = [str(label).strip() for label in labels]
    if not all(labels):
        raise ValueError(f"column 'label' is {given!r}: a label is empty. Several are written as a list or as a|b.")
    return {**row, "label": list(dict.fromkeys(labels))}


class ClassificationCollator(VideoTextCollator):
    """
    Videos with labels -> what `VioletForVideoClassification` takes.

    Args:
        processor, settings: as of `VideoTextCollator`.
        label2id: the labels' numbers. One that is not there is −100: no loss, never right; of several it is left out.
        several: whether a video may have several labels.
    """

    def __init__(
        self, processor: VideoTextProcessor, label2id: Mapping[str, int], several: bool = False, **settings: Any
    ):
        super().__init__(processor, **settings)
        self.label2id = label2id
        self.several = several

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Rows with `label`, a list -> `labels` (rows,), or with several (rows, labels) of 0 and 1."""
        numbers = [[self.label2id.get(label, IGNORE_INDEX) for label in row["label"]] for row in rows]
        if not self.several:
            return {"labels": torch.tensor([of_row[0] for of_row in numbers])}
        labels = torch.zeros(len(rows), len(self.label2id), dtype=torch.long)
        for line, of_row in zip(labels, numbers, strict=True):
            line[[number for number in of_row if number != IGNORE_INDEX]] = 1
        return {"labels": labels}


@torch.no_grad()
def measure_classes(
    model, collator: VideoTextCollator, rows: Dataset, data: "DataArguments", training: TrainingArguments
) -> Evaluation:
    """The `loss`, and what `class_measures` or, with several labels, `label_set_measures` says of the scores."""
    found: list[dict[str, Any]] = []
    for batch in evaluation_batches(model, collator, rows, training):
        labels = batch.inputs.pop("labels")[:: batch.clips].cpu()
        with precision(model, training):
            logits = model(**batch.inputs).logits.float().unflatten(0, (-1, batch.clips)).mean(1).cpu()
        for row, of_row, right, read in zip(batch.rows, logits, labels, batch.read.tolist(), strict=True):
            if read:
                kept = {name: row[name] for name in ("row", "video", "label")}
                found.append(kept | {"logits": of_row.numpy(), "labels": right.numpy()})
    found = gather(found)
    need_some(found, rows)
    logits = torch.from_numpy(np.stack([sample["logits"] for sample in found]))
    labels = torch.from_numpy(np.stack([sample["labels"] for sample in found]))
    videos, names = [sample["video"] for sample in found], model.config.id2label
    if labels.dim() == 2:
        measures = label_set_measures(logits.numpy(), labels.numpy() > 0, videos)
        loss = masked_binary_cross_entropy(logits, labels)
        said = [_labels_above_half(of_row, names) for of_row in logits]
        scores = [_worst_of(of_row.sigmoid(), right) for of_row, right in zip(logits, labels, strict=True)]
    else:
        truths = [sample["label"][0] for sample in found]
        measures = class_measures(answer_places(logits, labels).tolist(), truths, logits.shape[1], videos)
        loss = masked_cross_entropy(logits, labels)
        said = [[names[number]] for number in logits.argmax(1).tolist()]
        probabilities = logits.softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
        scores = probabilities.masked_fill(labels == IGNORE_INDEX, 0.0).tolist()
    samples = [
        {
            "row": sample["row"],
            "video": sample["video"],
            "question": "",
            "prediction": " | ".join(chosen),
            "truth": " | ".join(sample["label"]),
            "right": set(chosen) == set(sample["label"]),
            "score": score,
        }
        for sample, chosen, score in zip(found, said, scores, strict=True)
    ]
    return Evaluation(measures, {"loss": loss.item()}, samples, failed=len(rows) - len(found))


def _labels_above_half(logits: torch.Tensor, names: Mapping[int, str]) -> list[str]:
    return [names[number] for number in (logits > 0).nonzero().flatten().tolist()]


def _worst_of(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """The least probability of any label's right value: 1 if all of them are sure and right."""
    return float(torch.where(labels > 0, probabilities, 1 - probabilities).min())


def _configure(
    model: "ModelArguments", data: "DataArguments", rows: Dataset, labels_before: list[str] | None
) -> dict[str, Any]:
    """The labels are those of the rows; if the weights have the very same ones, in their order."""
    known = sorted({label for labels in rows["label"] for label in labels})
    known = labels_before if labels_before is not None and set(labels_before) == set(known) else known
    several = any(len(labels) != 1 for labels in rows["label"])
    return {
        "id2label": dict(enumerate(known)),
        "label2id": {label: number for number, label in enumerate(known)},
        "problem_type": SEVERAL_LABELS if several else ONE_LABEL,
    }


def _collate(processor, model, data, training: bool, **settings) -> VideoTextCollator:
    several = model.config.problem_type == SEVERAL_LABELS
    return ClassificationCollator(processor, model.config.label2id, several, **settings)


def _ask(row: Mapping[str, Any]) -> list[str]:
    return ["--video", str(row["video"])]


TASK = Task(
    model_class=VioletForVideoClassification,
    columns=COLUMNS["classification"],
    texts=("label", "caption"),
    reads=(),
    rows=classified,
    test_rows=classified,
    collate=_collate,
    measure=measure_classes,
    check=check_label,
    configure=_configure,
    label_head="classifier",
    metrics=lambda rows: {"compute_metrics": ClassAccuracy()},
    ask=_ask,
)

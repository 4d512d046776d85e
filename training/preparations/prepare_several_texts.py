"""Several texts of each video, of which one at least is true (`mil_nce`)."""

from collections.abc import Mapping
from typing import Any

import torch

from .preparation import Samples


def texts_of(row: Mapping[str, Any], options: Any) -> list[str]:
    """
    The texts of a row.

    Raises:
        ValueError: if it has no list of them, naming the column.
    """
    texts = row.get(options.column)
    if isinstance(texts, str):  # a table may hold one sentence per line
        texts = texts.split("\n")
    texts = [text for text in texts or () if isinstance(text, str) and text.strip()]
    if not texts:
        raise ValueError(
            f"column {options.column!r} is missing or has no text, and the objective 'mil_nce' needs a list of them "
            "(its option `column` names another)."
        )
    return texts


def check_several_texts(row: Mapping[str, Any], options: Any) -> None:
    """As `texts_of`."""
    texts_of(row, options)


def prepare_several_texts(samples: Samples, options: Any) -> dict[str, Any]:
    """
    `several_ids` and `several_attention_mask` (batch, L, X), L texts of each row, drawn if it has more; `several_mask`
    (batch, L), 0 where it has fewer.
    """
    chosen = []
    for row, generator in zip(samples.rows, samples.generators("mil_nce"), strict=True):
        texts = texts_of(row, options)
        if len(texts) > options.texts:
            texts = [texts[i] for i in torch.randperm(len(texts), generator=generator)[: options.texts].tolist()]
        chosen.append(texts)
    padded = [text for texts in chosen for text in [*texts, *[texts[0]] * (options.texts - len(texts))]]
    words = samples.settings.processor(text=padded)
    counts = torch.tensor([len(texts) for texts in chosen])
    shape = (len(chosen), options.texts)
    return {
        "several_ids": words["input_ids"].unflatten(0, shape),  # (batch * L, X) -> (batch, L, X)
        "several_attention_mask": words["attention_mask"].unflatten(0, shape),
        "several_mask": (torch.arange(options.texts) < counts[:, None]).long(),
    }

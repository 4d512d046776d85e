"""What the contrast of videos, sounds and texts (`vatt`) needs beside clips with sound and captions."""

from collections.abc import Mapping
from typing import Any

import torch

from .preparation import Samples
from .prepare_several_texts import texts_of


def check_vatt_texts(row: Mapping[str, Any], options: Any) -> None:
    """
    Raises:
        ValueError: if several texts are asked for, and the row's column of them is something else than a list.
    """
    texts = row.get(options.column) if options.texts > 1 else []
    if texts is not None and not isinstance(texts, str | list | tuple):
        raise ValueError(
            f"column {options.column!r} must have a list of texts for the objective 'vatt', got {texts!r}."
        )


def prepare_vatt(samples: Samples, options: Any) -> dict[str, Any]:
    """
    `vatt_draws` (batch,), a seed for each row, by which its tokens are dropped; `vatt_text_mask` (batch,), 1 for a row
    with text. With several texts a video `vatt_ids` and `vatt_attention_mask` (batch, L, X): L of each row, drawn if
    it has more, repeated if it has fewer, empty ones if it has none.
    """
    generators = samples.generators("vatt")
    draws = torch.tensor([int(torch.randint(2**62, (), generator=one)) for one in generators])
    if options.texts == 1:
        real = torch.tensor([int(bool(row["caption"].strip())) for row in samples.rows])
        return {"vatt_draws": draws, "vatt_text_mask": real}
    chosen = []
    for row, generator in zip(samples.rows, generators, strict=True):
        texts = texts_of(row, options) if row.get(options.column) else []
        order = torch.randperm(len(texts), generator=generator).tolist()
        chosen.append([texts[order[i % len(texts)]] if texts else "" for i in range(options.texts)])
    words = samples.settings.processor(text=[text for texts in chosen for text in texts])
    shape, real = (len(chosen), options.texts), torch.tensor([int(bool(texts[0])) for texts in chosen])
    return {
        "vatt_draws": draws,
        "vatt_text_mask": real,
        "vatt_ids": words["input_ids"].unflatten(0, shape),  # (batch * L, X) -> (batch, L, X)
        "vatt_attention_mask": words["attention_mask"].unflatten(0, shape),
    }

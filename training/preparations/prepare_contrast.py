"""Captions that are nearly true of a video, but not true: contrast tells the video apart from them too."""

from typing import Any

from .preparation import Samples


def prepare_wrong_captions(samples: Samples, options: None = None) -> dict[str, Any]:
    """`wrong_ids` and `wrong_attention_mask` (batch, X'), if every row has a `wrong_caption`."""
    captions = [row.get("wrong_caption") for row in samples.rows]
    if not all(captions):
        return {}
    wrong = samples.settings.processor(text=captions)
    return {"wrong_ids": wrong["input_ids"], "wrong_attention_mask": wrong["attention_mask"]}

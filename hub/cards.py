"""Model cards, written from facts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_text

TEMPLATE = """\
---
library_name: transformers
pipeline_tag: visual-question-answering
tags:
- violet
- video-question-answering
{license}---

# {name}

A [VIOLET](https://arxiv.org/abs/2111.12681) model ({parameters:.1f} million parameters) that answers questions about
short videos: Video Swin, BERT's text embeddings and a BERT fusion encoder, with a classifier over {answers} answers.

## How to use

```python
import violet  # registers the model and the pipeline
from transformers import pipeline

answer = pipeline("video-question-answering", model="{model}")
print(answer({video}, {question}))
```

## Data

{data}

## Results

| metric | value |
|---|---|
{metrics}

## Training

| setting | value |
|---|---|
{settings}

## Limits

It knows {answers} answers and nothing else, and what it was not trained on it answers all the same, with a score.
"""


def write_model_card(
    folder: Path,
    *,
    name: str,
    data: str,
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    num_parameters: int,
    num_answers: int,
    example: tuple[str, str] = ("clip.mp4", "what is shown?"),
    license_name: str | None = None,
) -> Path:
    """
    Writes `README.md` into a model's folder, in the form that the Hub shows.

    Args:
        data: what the model was trained on, in Markdown.
        metrics: names and numbers, as in `metrics.json`.
        settings: what decided the run.
        example: a video and a question about it.
        license_name: the licence of the weights, in the Hub's spelling; left out where it is not known.
    """
    rows = "\n".join(f"| {key} | {value:.4g} |" for key, value in metrics.items())
    chosen = "\n".join(f"| {key} | {value} |" for key, value in settings.items() if value is not None)
    text = TEMPLATE.format(
        license=f"license: {license_name}\n" if license_name else "",
        name=name,
        parameters=num_parameters / 1e6,
        answers=num_answers,
        model=folder,
        video=repr(example[0]),
        question=repr(example[1]),
        data=data,
        metrics=rows,
        settings=chosen,
    )
    return write_text(folder / "README.md", text)

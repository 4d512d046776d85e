"""Model cards, written from facts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import write_text

TEMPLATE = """\
---
library_name: transformers
pipeline_tag: {pipeline_tag}
tags:
- violet
- {task}
{license}---

# {name}

{what}

## How to use

```python
{usage}
```

## Data

{data}

## Results

| metric | value |
|---|---|
{metrics}
{curves}
## Training

| setting | value |
|---|---|
{settings}

## Limits

{limits}
"""


@dataclass(frozen=True)
class CardText:
    """What a kind of model says of itself; `{…}` is filled in."""

    pipeline_tag: str
    task: str
    what: str
    usage: str
    limits: str


QUESTION_ANSWERING = CardText(
    pipeline_tag="visual-question-answering",
    task="video-question-answering",
    what="""\
A [VIOLET](https://arxiv.org/abs/2111.12681) model ({parameters:.1f} million parameters) that answers questions about
short videos: Video Swin, BERT's text embeddings and a BERT fusion encoder, with a classifier over {answers}
    answers.""",
    usage="""\
import violet  # registers the model and the pipeline
from transformers import pipeline

answer = pipeline("video-question-answering", model={model})
print(answer({video}, {text}))""",
    limits="It knows {answers} answers and nothing else, and what it was not trained on it answers all the same, "
    "with a score.",
)
MULTIPLE_CHOICE = CardText(
    pipeline_tag="visual-question-answering",
    task="video-question-answering",
    what="""\
A [VIOLET](https://arxiv.org/abs/2111.12681) model ({parameters:.1f} million parameters) that chooses one of several
answers to a question about a short video: it scores each of them behind the question, beside the video.""",
    usage="""\
import violet  # registers the model and the pipeline
from transformers import pipeline

choose = pipeline("video-question-answering", model={model})
print(choose({video}, {text}, options=["left", "right"]))""",
    limits="It always prefers one of the options, also where none is right.",
)
FILL_IN_THE_BLANK = CardText(
    pipeline_tag="fill-mask",
    task="video-fill-mask",
    what="""\
A [VIOLET](https://arxiv.org/abs/2111.12681) model ({parameters:.1f} million parameters) that fills the blanks of
sentences about short videos with words of its vocabulary.""",
    usage="""\
import violet  # registers the model and the pipeline
from transformers import pipeline

fill = pipeline("video-fill-mask", model={model})
print(fill({video}, {text}))""",
    limits="It knows the words of its vocabulary and what its data show, and little beyond.",
)
RETRIEVAL = CardText(
    pipeline_tag="video-text-to-text",
    task="video-text-retrieval",
    what="""\
A [VIOLET](https://arxiv.org/abs/2111.12681) model ({parameters:.1f} million parameters) that says how well a text fits
a short video, to find videos by texts and texts by videos. Each video and each text is encoded once; every pair then
passes the fusion.""",
    usage="""\
import violet  # registers the model and the pipeline
from transformers import pipeline

search = pipeline("video-text-retrieval", model={model})
print(search({text}, videos=[{video}]))""",
    limits="A pair costs a pass through the fusion: a search takes time in proportion to the number of videos.",
)
CAPTIONING = CardText(
    pipeline_tag="video-text-to-text",
    task="video-captioning",
    what="""\
A [VIOLET](https://arxiv.org/abs/2111.12681) model ({parameters:.1f} million parameters) that writes captions of short
videos, word by word.""",
    usage="""\
import violet  # registers the model and the pipeline
from transformers import pipeline

write = pipeline("video-captioning", model={model})
print(write({video}))""",
    limits="It writes what its data describe, in their words, also of a video that shows something else.",
)
PRE_TRAINING = CardText(
    pipeline_tag="fill-mask",
    task="video-fill-mask",
    what="""\
A [VIOLET](https://arxiv.org/abs/2111.12681) model ({parameters:.1f} million parameters), pre-trained on videos and
captions to be fine-tuned: Video Swin, BERT's text embeddings and a BERT fusion encoder. Without fine-tuning it fills
blanks in captions and compares videos with captions.""",
    usage="""\
import violet  # registers the model and the pipeline
from transformers import pipeline

fill = pipeline("video-fill-mask", model={model})
print(fill({video}, {text}))""",
    limits="It knows what its data show and the words that their captions use, and little beyond.",
)


CARDS = {
    "open-ended": QUESTION_ANSWERING,
    "multiple-choice": MULTIPLE_CHOICE,
    "fill-in-the-blank": FILL_IN_THE_BLANK,
    "retrieval": RETRIEVAL,
    "captioning": CAPTIONING,
}
"""What a fine-tuned model says of itself, by task."""


def write_model_card(
    folder: Path,
    *,
    text: CardText,
    name: str,
    data: str,
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    num_parameters: int,
    num_answers: int = 0,
    model: str | None = None,
    example: tuple[str, str] = ("clip.mp4", "what is shown?"),
    curves: str | None = None,
    license_name: str | None = None,
) -> Path:
    """
    Writes `README.md` into a model's folder, in the form that the Hub shows.

    Args:
        text: what models of its kind say: `PRE_TRAINING`, or one of `CARDS`.
        data: what the model was trained on, in Markdown.
        metrics: names and numbers, as in `metrics.json`.
        settings: what decided the run.
        model: how Python code names the model; by default the folder, in quotes.
        example: a video and a text for it.
        curves: name of a picture in the folder, shown below the results.
        license_name: the licence of the weights, in the Hub's spelling; left out where it is not known.
    """
    facts = {
        "parameters": num_parameters / 1e6,
        "answers": num_answers,
        "model": repr(str(folder)) if model is None else model,
        "video": repr(example[0]),
        "text": repr(example[1]),
    }
    chosen = "\n".join(f"| {key} | {value} |" for key, value in settings.items() if value is not None)
    card = TEMPLATE.format(
        pipeline_tag=text.pipeline_tag,
        task=text.task,
        license=f"license: {license_name}\n" if license_name else "",
        name=name,
        what=text.what.format(**facts),
        usage=text.usage.format(**facts),
        data=data,
        metrics="\n".join(f"| {key} | {value:.4g} |" for key, value in metrics.items()),
        curves=f"\n![Curves of the run]({curves})\n" if curves else "",
        settings=chosen,
        limits=text.limits.format(**facts),
    )
    return write_text(folder / "README.md", card)

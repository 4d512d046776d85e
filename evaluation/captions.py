"""Metrics of written captions against those of people."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from .caption_tokens import has_java, own_words, ptb_words
from .measures import Measure
from .metrics import Metric, Score, metrics_reading

logger = logging.getLogger(__name__)

ORDERS = (1, 2, 3, 4)
"""n-grams up to four words count in BLEU and CIDEr."""
PACKAGE, JAVA = "pycocoevalcap", "Java"
REMEDIES = {PACKAGE: "pip install pycocoevalcap", JAVA: "it needs Java"}
"""What is said of metrics that lack what they need."""


@dataclass(frozen=True)
class CaptionScores:
    """
    Attributes:
        measures: `exact`, the share of captions that are, but for case and spaces, one of their video's; and, if
            `pycocoevalcap` is installed, `bleu_1` … `bleu_4` (Papineni et al., 2002; nearest reference length),
            `rouge_l` (Lin, 2004; β = 1.2), `cider_d` and `cider` (Vedantam et al., 2015, arXiv:1411.5726; 10 is a
            perfect score). `cider_d` is what `pycocoevalcap`, and papers that use it, call CIDEr: counts are clipped
            and lengths that differ are punished. `cider` has neither. Words are not stemmed in either.
        numbers: `meteor` (Denkowski and Lavie, 2014), if there is Java. It is no mean, and has no interval.
        samples: for each video `exact`, `bleu_4`, `rouge_l`, `cider_d`, `cider`, `meteor`, if they were computed.
        notes: `words`, who split the captions into words; `bleu`, why it is 0; `left out`, what was not computed, and
            why.
    """

    measures: dict[str, Measure]
    numbers: dict[str, float]
    samples: list[dict[str, float]]
    notes: dict[str, str]

    @property
    def metrics(self) -> dict[str, float]:
        """Every number by its name."""
        return {name: measure.value() for name, measure in self.measures.items()} | self.numbers


def caption_metrics(
    written: Sequence[str], references: Sequence[Sequence[str]], java: bool | None = None
) -> dict[str, float]:
    """The numbers of `caption_scores`."""
    return caption_scores(written, references, java).metrics


def caption_scores(
    written: Sequence[str], references: Sequence[Sequence[str]], java: bool | None = None
) -> CaptionScores:
    """
    Args:
        written: a caption for each video.
        references: the captions that people gave each video, one at least.
        java: whether to use PTB's tokenizer and METEOR; by default if there is Java.

    Raises:
        ValueError: if captions or references are missing.
    """
    if len(written) != len(references) or not written:
        raise ValueError(
            f"{len(written)} captions for {len(references)} videos: one each is needed, and at least one."
        )
    if not all(references):
        missing = [number for number, captions in enumerate(references) if not captions]
        raise ValueError(f"{len(missing)} videos have no caption to compare with, the first is number {missing[0]}.")
    captions = WrittenCaptions(written, references, has_java() if java is None else java)
    scores: dict[str, Score] = {}
    left_out: dict[str, list[str]] = {}
    for name, metric in metrics_reading("captions").items():
        lacking = [need for need in metric.needs if not captions.has(need)]
        if lacking:
            left_out.setdefault(lacking[0], []).append(metric.title)
        elif (score := metric.compute(captions)) is not None:
            scores[name] = score
    notes = captions.notes() if "bleu_4" in scores else {}
    for need, titles in left_out.items():
        *others, last = dict.fromkeys(titles)
        notes["left out"] = f"{', '.join(others)}{' and ' if others else ''}{last}: {REMEDIES[need]}"
        if need == PACKAGE:
            logger.warning("Left out: %s.", notes["left out"])
    return CaptionScores(
        {name: score.value for name, score in scores.items() if isinstance(score.value, Measure)},
        {name: score.value for name, score in scores.items() if not isinstance(score.value, Measure)},
        _by_video({name: score.of_samples for name, score in scores.items() if score.of_samples is not None}),
        notes,
    )


@dataclass(frozen=True)
class WrittenCaptions:
    """
    What a metric of captions is computed from.

    Attributes:
        written: a caption for each video.
        references: the captions that people gave each video.
        java: whether PTB's tokenizer and METEOR are used.
    """

    written: Sequence[str]
    references: Sequence[Sequence[str]]
    java: bool

    def has(self, need: str) -> bool:
        """Whether what a metric needs is there."""
        return self.java if need == JAVA else self._has_package

    @cached_property
    def _has_package(self) -> bool:
        try:
            import pycocoevalcap.cider.cider
            import pycocoevalcap.rouge.rouge  # noqa: F401
        except ImportError:
            return False
        return True

    @cached_property
    def _words(self) -> list[list[str]]:
        texts = [*self.written, *(caption for captions in self.references for caption in captions)]
        return ptb_words(texts) if self.java else [own_words(caption) for caption in texts]

    @cached_property
    def said(self) -> list[list[str]]:
        """The words of each video's caption."""
        return self._words[: len(self.written)]

    @cached_property
    def right(self) -> list[list[list[str]]]:
        """The words of each video's references."""
        rest = iter(self._words[len(self.written) :])
        return [[next(rest) for _ in captions] for captions in self.references]

    @cached_property
    def ours(self) -> dict[int, list[str]]:
        """`said` as pycocoevalcap takes it."""
        return {number: [" ".join(words)] for number, words in enumerate(self.said)}

    @cached_property
    def given(self) -> dict[int, list[str]]:
        """`right` as pycocoevalcap takes it."""
        return {number: [" ".join(words) for words in captions] for number, captions in enumerate(self.right)}

    @cached_property
    def bleu_counts(self) -> np.ndarray:
        """See the function of that name."""
        return bleu_counts(self.ours, self.given)

    def notes(self) -> dict[str, str]:
        """`words` and `bleu`, see `CaptionScores`."""
        notes = {
            "words": "PTBTokenizer of Stanford CoreNLP 3.4.1" if self.java else "violet.evaluation.caption_tokens"
        }
        right = self.bleu_counts[:, -len(ORDERS) :].sum(0)
        shared = [order for order, right_ones in zip(ORDERS, right, strict=True) if right_ones]
        if len(shared) < len(ORDERS):
            words = f"{len(shared) + 1} words in a row" if shared else "a word"
            notes["bleu"] = (
                f"0 from bleu_{len(shared) + 1} on: no caption has {words} in common with those of its video"
            )
        return notes


def _by_video(columns: dict[str, Any]) -> list[dict[str, float]]:
    return [dict(zip(columns, map(float, values), strict=True)) for values in zip(*columns.values(), strict=True)]


def bleu_counts(written: dict[int, list[str]], references: dict[int, list[str]]) -> np.ndarray:
    """
    What BLEU adds up over videos, by `pycocoevalcap`'s counting: (videos, 2 + 4 + 4), the words written, those of the
    reference nearest in length, the n-grams written and how many of them are right, for n from 1 to 4.
    """
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=len(ORDERS))
    for number, (caption,) in written.items():
        scorer += (caption, references[number])
    rows = []
    for one in scorer.ctest:
        nearest = min((abs(length - one["testlen"]), length) for length in one["reflen"])[1]
        rows.append([one["testlen"], nearest, *one["guess"], *one["correct"]])
    return np.array(rows, float)


def bleu(order: int, weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """
    A `Measure`'s statistic of `bleu_counts`: BLEU up to n-grams of that order, (draws,). It is 0, as its paper has it,
    if no n-gram of some length is right; `pycocoevalcap` gives 1e-16 to 1e-4 there.
    """
    written, nearest, *both = (weights @ counts).T
    guessed, right = np.array(both[: len(ORDERS)]), np.array(both[len(ORDERS) :])  # (orders, draws)
    precision = (right[:order] + 1e-15) / (guessed[:order] + 1e-9)  # as pycocoevalcap keeps off 0 / 0
    ratio = (written + 1e-15) / (nearest + 1e-9)
    brevity = np.exp(np.minimum(0, 1 - 1 / ratio))
    return np.where((right[:order] > 0).all(0), np.exp(np.log(precision).mean(0)) * brevity, 0.0)


def cider(written: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> np.ndarray:
    """
    CIDEr as its paper has it (equations 2 and 3), without stemming: for n from 1 to 4 the mean cosine between the
    tf-idf vectors of the caption's n-grams and of each reference's, the mean over n, times 10 as for CIDEr-D.

    Args:
        written: the words of a caption for each video.
        references: the words of each video's captions, which also tell how rare an n-gram is.

    Returns:
        (videos,)
    """
    videos = Counter(
        gram
        for captions in references
        for gram in {gram for words in captions for order in ORDERS for gram in _grams(words, order)}
    )

    def vector(words: Sequence[str], order: int) -> dict[tuple[str, ...], float]:
        return {
            gram: count * np.log(len(references) / max(1, videos[gram]))
            for gram, count in _grams(words, order).items()
        }

    def cosine(one: dict[tuple[str, ...], float], other: dict[tuple[str, ...], float]) -> float:
        lengths = np.sqrt(sum(x * x for x in one.values()) * sum(x * x for x in other.values()))
        return sum(value * other.get(gram, 0.0) for gram, value in one.items()) / lengths if lengths else 0.0

    scores = []
    for words, captions in zip(written, references, strict=True):
        by_order = []
        for order in ORDERS:
            own = vector(words, order)
            by_order.append(np.mean([cosine(own, vector(caption, order)) for caption in captions]))
        scores.append(10 * np.mean(by_order))
    return np.array(scores)


def _grams(words: Sequence[str], order: int) -> Counter:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def _normal(caption: str) -> str:
    return " ".join(caption.lower().replace(",", " ,").split())


def _each(values: Any) -> Score:
    """A mean over videos."""
    return Score(Measure(np.asarray(values)), values)


def _exact(captions: WrittenCaptions) -> Score:
    pairs = zip(captions.written, captions.references, strict=True)
    return _each([float(_normal(one) in map(_normal, many)) for one, many in pairs])


def _bleu(order: int, captions: WrittenCaptions) -> Score:
    counts, of_samples = captions.bleu_counts, None
    if order == ORDERS[-1]:
        of_samples = [float(bleu(order, np.ones((1, 1)), row[None])[0]) for row in counts]
    return Score(Measure(counts, partial(bleu, order)), of_samples)


def _rouge_l(captions: WrittenCaptions) -> Score:
    from pycocoevalcap.rouge.rouge import Rouge

    return _each(Rouge().compute_score(captions.given, captions.ours)[1])


def _cider_d(captions: WrittenCaptions) -> Score:
    from pycocoevalcap.cider.cider import Cider

    return _each(Cider().compute_score(captions.given, captions.ours)[1])


def _meteor(captions: WrittenCaptions) -> Score:
    from pycocoevalcap.meteor.meteor import Meteor

    return Score(*Meteor().compute_score(captions.given, captions.ours))


EXACT = Metric("captions", _exact, is_share=True)
BLEU_1, BLEU_2, BLEU_3, BLEU_4 = (
    Metric("captions", partial(_bleu, order), title="BLEU", needs=(PACKAGE,)) for order in ORDERS
)
ROUGE_L = Metric("captions", _rouge_l, title="ROUGE-L", needs=(PACKAGE,))
CIDER_D = Metric("captions", _cider_d, title="CIDEr", needs=(PACKAGE,))
CIDER = Metric(
    "captions", lambda captions: _each(cider(captions.said, captions.right)), title="CIDEr", needs=(PACKAGE,)
)
METEOR = Metric("captions", _meteor, title="METEOR", needs=(PACKAGE, JAVA))

"""Paragraphs as sentences: how a text is split, and how too many sentences become fewer."""

import re
from collections.abc import Iterable, Sequence

_TITLES = "".join(rf"(?<!\b{title}\.)" for title in ("Mr", "Mrs", "Ms", "Dr", "St", "Jr"))
_END = re.compile(rf"(?<=[.!?]){_TITLES}\s+(?=[\"'(]?[A-Z0-9])")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text: one ends at . ! or ? in front of a capital or a digit, but not at a title ("Mr.")."""
    return real_sentences(_END.split(text))


def real_sentences(sentences: Iterable[str]) -> list[str]:
    """Those that are not blank, each with single spaces between its words."""
    return [" ".join(words) for sentence in sentences if (words := sentence.split())]


def join_sentences(sentences: Iterable[str], most: int) -> list[str]:
    """
    At most `most` sentences, in their order and without blank ones: while there are more, the two neighbours that are
    shortest together, in letters, become one; the first such two of several.

    Raises:
        ValueError: if `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"`most` must be 1 or more, got {most}.")
    joined = real_sentences(sentences)
    while len(joined) > most:
        lengths = [len(sentence) for sentence in joined]
        first = min(range(len(joined) - 1), key=lambda place: lengths[place] + lengths[place + 1])
        joined[first : first + 2] = [f"{joined[first]} {joined[first + 1]}"]
    return joined


def option_sentences(question: str, option: str, subtitles: Sequence[str], most: int) -> list[str]:
    """
    A question's option as a paragraph of at most `most` sentences: the question, the option, and the subtitles, of
    which neighbours are joined until they fit.

    Raises:
        ValueError: if `most` has no room for the question, the option, and subtitles if there are some.
    """
    spoken = real_sentences(subtitles)
    asked = real_sentences((question, option))
    if most < len(asked) + bool(spoken):
        parts = f"a question, its option{' and subtitles' if spoken else ''}"
        raise ValueError(f"`max_sentences` must be {len(asked) + bool(spoken)} or more for {parts}; got {most}.")
    return [*asked, *(join_sentences(spoken, most - len(asked)) if spoken else [])]

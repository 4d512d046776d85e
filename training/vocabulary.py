"""The words of a table, the vocabulary that a model reads them with, and another one in its place."""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..modeling_violet import VioletPreTrainedModel
from ..processing import special_tokens
from .arguments import SettingsError
from .tasks import Task

logger = logging.getLogger(__name__)

WORD = re.compile(r"[^\W_]+")
"""A run of letters and digits: what spaces and punctuation leave of a text."""
MOST_UNKNOWN = 1 / 3
"""Of the words that stand in a table, each as often as it does; beyond, a run is refused."""
SHOWN = 5
WORDS_AT_ONCE = 10_000
CONTINUES = "##"
"""How WordPiece marks a piece that continues a word."""


@dataclass(frozen=True)
class TableWords:
    """
    Attributes:
        counts: how often each word stands in the texts.
        unknown: the counts of words that the tokenizer turns into [UNK] or spells letter by letter.
    """

    counts: Counter[str]
    unknown: Counter[str]

    @property
    def share(self) -> float:
        """The unknown part of all words, each counted as often as it occurs."""
        return self.unknown.total() / max(1, self.counts.total())

    def __str__(self) -> str:
        return (
            f"The tokenizer does not know {len(self.unknown)} of the {len(self.counts)} different words of the "
            f"training texts, {self.share:.1%} of all words there: it reads them as [UNK] or as single letters. The "
            f"commonest are {commonest(self.unknown)}."
        )


def commonest(counts: Counter[str]) -> str:
    """The first few by number."""
    return ", ".join(f"{word!r} ({count} times)" for word, count in counts.most_common(SHOWN))


def table_words(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> TableWords:
    """The words of the texts. The tokenizer is asked once about each, however often it stands there."""
    special = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)))
    counts = Counter(word for text in texts for word in WORD.findall(special.sub(" ", text)))
    words = list(counts)
    unknown: Counter[str] = Counter()
    for start in range(0, len(words), WORDS_AT_ONCE):
        some = words[start : start + WORDS_AT_ONCE]
        ids = tokenizer(some, add_special_tokens=False)["input_ids"]
        unknown |= {
            word: counts[word]
            for word, of_word in zip(some, ids, strict=True)
            if tokenizer.unk_token_id in of_word or _is_spelled(tokenizer.convert_ids_to_tokens(of_word))
        }
    return TableWords(counts, unknown)


def _is_spelled(tokens: list[str]) -> bool:
    """Whether WordPiece has nothing but the letters of a word: j, ##k, ##x."""
    first, *others = tokens or [""]
    return len(first) == 1 and bool(others) and all(len(token) == 3 and token[:2] == CONTINUES for token in others)


def check_words(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, allow_unknown: bool, log: bool = True
) -> TableWords:
    """
    Warns of words that the tokenizer does not know.

    Raises:
        SettingsError: if these are more than `MOST_UNKNOWN` of all that stand there, unless that is allowed.
    """
    words = table_words(texts, tokenizer)
    if not words.unknown:
        return words
    advice = "--tokenizer NAME_OR_FOLDER gives the model another vocabulary; so does another --model."
    if words.share > MOST_UNKNOWN and not allow_unknown:
        raise SettingsError(
            f"{words} {advice} More than a third is refused; --allow_unknown_words true trains all the same."
        )
    if log:
        logger.warning("%s %s", words, advice)
    return words


def check_answers(task: Task, rows: Dataset, tokenizer: PreTrainedTokenizerBase, log: bool = True) -> None:
    """
    Warns of answers that cannot be said at a [MASK] with this vocabulary.

    Raises:
        SettingsError: if no row has another: nothing would be learned.
    """
    if task.sayable is None:
        return
    answers = [[str(one) for one in (given if isinstance(given, list) else [given])] for given in rows["answer"]]
    said = {one: task.sayable(tokenizer, one) for one in dict.fromkeys(one for of_row in answers for one in of_row)}
    lost = [[one for one in of_row if not said[one]] for of_row in answers]
    count = sum(map(bool, lost))
    if not count:
        return
    told = (
        f"{count} of the {len(answers)} training rows have an answer that cannot be written with the vocabulary, as "
        f"{task.unsayable}: nothing is learned from them, and they count as wrong. The commonest are "
        f"{commonest(Counter(one for of_row in lost for one in of_row))}."
    )
    if count == len(answers):
        raise SettingsError(f"{told} Give another --tokenizer or --model, or another task.")
    if log:
        logger.warning(told)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """
    Raises:
        SettingsError: if it lacks a special token that texts are written with here.
    """
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    missing = [role for role in roles if getattr(tokenizer, role) is None]
    if missing:
        raise SettingsError(f"--tokenizer: {name} has no {', '.join(missing)}; one like BERT's is needed.")


def exchange_vocabulary(
    model: VioletPreTrainedModel, own: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase
) -> int:
    """
    Lets the model read texts with another tokenizer: tokens of both, and special tokens of one role, keep their
    embeddings and, if the model predicts words, their rows of the head; the others start at random. The
    configuration is told.

    Returns:
        How many tokens keep theirs.
    """
    numbers, known = other.get_vocab(), own.get_vocab()
    kept = {number: known[token] for token, number in numbers.items() if token in known}
    for role in ("pad_token_id", "unk_token_id", "cls_token_id", "sep_token_id", "mask_token_id"):
        kept[getattr(other, role)] = getattr(own, role)
    size, places = len(other), (list(kept), list(kept.values()))

    def with_rows(new: Any, old: Any) -> Any:
        new.apply(model._init_weights)
        for name, parameter in new.named_parameters():
            parameter.data[places[0]] = old.get_parameter(name).data[places[1]]
        return new.to(old.weight.device, old.weight.dtype)

    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    width = words.embedding_dim
    model.set_input_embeddings(with_rows(nn.Embedding(size, width, padding_idx=other.pad_token_id), words))
    if head is not None:  # not tied to the embeddings in VIOLET
        model.set_output_embeddings(with_rows(nn.Linear(width, size), head))
    model.config.vocab_size = size
    for field, token in special_tokens(other).items():
        setattr(model.config, field, token)
        if model.can_generate() and hasattr(model.generation_config, field):
            setattr(model.generation_config, field, token)
    return len(kept)

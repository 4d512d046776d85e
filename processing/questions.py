"""Questions as a model reads them: where the [MASK] of the answer stands, and how options are written.

The four places of the [MASK] are those of VIOLETv2; the weights of a model count on the one it was trained with. Its
code has one [MASK]; here an answer of several tokens gets as many, side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

INSERTED_AT = 10
"""Where VIOLETv2 inserts a [MASK]: this many tokens stand before it."""

TokenIds = list[int]


def append_masks(tokenizer: Any, text: str, count: int = 1) -> TokenIds:
    """`[CLS] text [MASK] … [SEP]`: behind the text."""
    return _between_cls_and_sep(tokenizer, [*_words(tokenizer, text), *_masks(tokenizer, count)])


def prepend_masks(tokenizer: Any, text: str, count: int = 1) -> TokenIds:
    """`[MASK] … [CLS] text [SEP]`: before everything else."""
    return [*_masks(tokenizer, count), *_between_cls_and_sep(tokenizer, _words(tokenizer, text))]


def insert_masks(tokenizer: Any, text: str, count: int = 1) -> TokenIds:
    """
    `[CLS] te [MASK] … xt [SEP]`: behind the first `INSERTED_AT` tokens, wherever that is. In a shorter text [PAD]s
    stand between its [SEP] and the [MASK]s: the place is the same for all texts.
    """
    ids = _between_cls_and_sep(tokenizer, _words(tokenizer, text))
    ids += [tokenizer.pad_token_id] * (INSERTED_AT - len(ids))
    return [*ids[:INSERTED_AT], *_masks(tokenizer, count), *ids[INSERTED_AT:]]


def replace_cls_by_masks(tokenizer: Any, text: str, count: int = 1) -> TokenIds:
    """`[MASK] … text [SEP]`: in the place of [CLS]."""
    return [*_masks(tokenizer, count), *_words(tokenizer, text), tokenizer.sep_token_id]


MASK_PLACES: Mapping[str, Callable[..., TokenIds]] = {
    "append": append_masks,
    "prepend": prepend_masks,
    "insert": insert_masks,
    "replace": replace_cls_by_masks,
}


def masked_question(tokenizer: Any, question: str, place: str = "append", count: int = 1) -> TokenIds:
    """
    An open-ended question with [MASK]s for its answer.

    Args:
        question: it may have one [MASK] of its own ("the disc moves [MASK]"), which is then the answer's place.
        place: of the [MASK]s elsewhere, a key of `MASK_PLACES`; "append" writes `question answer: [MASK]`.
        count: how many tokens the answer has.

    Raises:
        ValueError: for an unknown place, or a question with several [MASK]s.
    """
    mask = tokenizer.mask_token
    if question.count(mask) > 1:
        raise ValueError(f"{question!r} has {question.count(mask)} {mask}s, and a question has one answer.")
    if mask in question:
        before, after = question.split(mask)
        words = [*_words(tokenizer, before), *_masks(tokenizer, count), *_words(tokenizer, after)]
        return _between_cls_and_sep(tokenizer, words)
    return _placed(tokenizer, f"{question} answer:" if place == "append" else question, place, count)


def question_with_option(question: str, option: str) -> str:
    """One of the texts among which the match head chooses: `question option`, or the option if nothing is asked."""
    return f"{question} {option}".strip()


def by_question(
    options: Mapping[str, torch.Tensor], counts: Sequence[int], pad_token_id: int
) -> dict[str, torch.Tensor]:
    """
    `input_ids` and `attention_mask`, (options of all questions, X) -> (questions, options of the one with most, X),
    all padding if a question has fewer.

    Args:
        counts: how many options each question has, in order.
    """
    padding = {"input_ids": pad_token_id, "attention_mask": 0}
    return {
        name: torch.nn.utils.rnn.pad_sequence(options[name].split(list(counts)), batch_first=True, padding_value=value)
        for name, value in padding.items()
    }


def options_in_one_text(tokenizer: Any, question: str, options: Sequence[str], place: str = "append") -> TokenIds:
    """
    A question of multiple choice for the masked language head:
    `[CLS] question [SEP] option 0: … [SEP] option 1: … [MASK] [SEP]`; the [MASK] stands for the right option's number,
    see `number_tokens`.

    Args:
        place: of the [MASK], a key of `MASK_PLACES`.

    Raises:
        ValueError: for an unknown place, or if question or options have a [MASK] of their own.
    """
    numbered = [f"option {number}: {option}" for number, option in enumerate(options)]
    text = f" {tokenizer.sep_token} ".join([question, *numbered])
    if tokenizer.mask_token in text:
        raise ValueError(f"{text!r} has a {tokenizer.mask_token} already: it stands for the number of the option.")
    return _placed(tokenizer, text, place, 1)


def number_tokens(tokenizer: Any, count: int) -> TokenIds:
    """
    The tokens of the numbers 0, 1, … of `count` options.

    Raises:
        ValueError: if a number is not one token of the vocabulary.
    """
    numbers = [_words(tokenizer, str(number)) for number in range(count)]
    for number, ids in enumerate(numbers):
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise ValueError(f"The vocabulary has no token {str(number)!r}, which option {number} is chosen by.")
    return [ids[0] for ids in numbers]


def answer_tokens(tokenizer: Any, answer: str) -> TokenIds:
    """
    The tokens of an answer, without [CLS] and [SEP].

    Raises:
        ValueError: for one without words, or with a word that the vocabulary does not have.
    """
    ids = _words(tokenizer, answer)
    if not ids or tokenizer.unk_token_id in ids:
        raise ValueError(f"The answer {answer!r} cannot be written with the model's vocabulary.")
    return ids


def cut_around_mask(tokenizer: Any, ids: TokenIds, most: int) -> TokenIds:
    """
    At most `most` tokens of `[CLS] … [MASK] … [SEP]`: those behind the [MASK] are cut off first, then those before it.
    """
    if len(ids) <= most:
        return ids
    words, kept = ids[1:-1], most - 2
    first = max(0, words.index(tokenizer.mask_token_id) - kept + 1)
    return [ids[0], *words[first : first + kept], ids[-1]]


def pad_texts(texts: Sequence[TokenIds], padding: int, device: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    """
    `input_ids` and `attention_mask` (texts, tokens of the longest); a [PAD] inside of a text is masked as well, but
    not one that ends it: in some vocabularies one token stands for the end and for padding.
    """
    longest = max(len(ids) for ids in texts)
    input_ids = torch.tensor([[*ids, *[padding] * (longest - len(ids))] for ids in texts], device=device)
    mask = (input_ids != padding).long()
    for row, ids in zip(mask, texts, strict=True):
        row[len(ids) - 1] = 1
    return input_ids, mask


def _placed(tokenizer: Any, text: str, place: str, count: int) -> TokenIds:
    if place not in MASK_PLACES:
        raise ValueError(f"A {tokenizer.mask_token} can stand at {', '.join(MASK_PLACES)}, not at {place!r}.")
    return MASK_PLACES[place](tokenizer, text, count)


def _words(tokenizer: Any, text: str) -> TokenIds:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _masks(tokenizer: Any, count: int) -> TokenIds:
    return [tokenizer.mask_token_id] * count


def _between_cls_and_sep(tokenizer: Any, words: TokenIds) -> TokenIds:
    return [tokenizer.cls_token_id, *words, tokenizer.sep_token_id]

import pytest
import torch

from violet.processing import train_wordpiece_tokenizer
from violet.processing.questions import (
    MASK_PLACES,
    answer_tokens,
    masked_question,
    number_tokens,
    options_in_one_text,
    pad_texts,
    question_with_option,
)

QUESTION = "what moves left?"
LONG = "what moves left and what moves right and what is it?"


@pytest.fixture(scope="module")
def tokenizer():
    texts = [QUESTION, LONG, "answer:", "option 0: 1: a red disc", "blue cross"]
    return train_wordpiece_tokenizer(texts * 8, vocab_size=256)


def words(tokenizer, ids):
    return " ".join(tokenizer.convert_ids_to_tokens(ids))


@pytest.mark.parametrize(
    "place, expected",
    [
        ("append", "[CLS] what moves left ? answer : [MASK] [SEP]"),
        ("prepend", "[MASK] [CLS] what moves left ? [SEP]"),
        ("insert", "[CLS] what moves left ? [SEP] [PAD] [PAD] [PAD] [PAD] [MASK]"),
        ("replace", "[MASK] what moves left ? [SEP]"),
    ],
)
def test_the_four_places_of_the_mask(tokenizer, place, expected):
    assert words(tokenizer, masked_question(tokenizer, QUESTION, place)) == expected
    three = masked_question(tokenizer, QUESTION, place, count=3)
    assert words(tokenizer, three) == expected.replace("[MASK]", "[MASK] [MASK] [MASK]")


def test_in_a_long_text_ten_tokens_stand_before_the_inserted_mask(tokenizer):
    ids = masked_question(tokenizer, LONG, "insert")
    assert ids.index(tokenizer.mask_token_id) == 10
    assert ids[:10] + ids[11:] == tokenizer(LONG)["input_ids"]


def test_append_is_the_default_and_places_are_known(tokenizer):
    assert masked_question(tokenizer, QUESTION) == masked_question(tokenizer, QUESTION, "append")
    assert set(MASK_PLACES) == {"append", "prepend", "insert", "replace"}
    with pytest.raises(ValueError, match="append, prepend, insert, replace, not at 'end'"):
        masked_question(tokenizer, QUESTION, "end")


def test_a_questions_own_mask_is_where_the_answer_goes(tokenizer):
    ids = masked_question(tokenizer, "the [MASK] moves left", "prepend", count=2)
    assert words(tokenizer, ids).count("[MASK] [MASK] moves") == 1
    assert ids[0] == tokenizer.cls_token_id
    with pytest.raises(ValueError, match=r"has 2 \[MASK\]s"):
        masked_question(tokenizer, "[MASK] moves [MASK]")


def test_options_in_one_text_are_numbered_and_parted(tokenizer):
    ids = options_in_one_text(tokenizer, QUESTION, ["red disc", "blue cross"])
    expected = "[CLS] what moves left ? [SEP] option 0 : red disc [SEP] option 1 : blue cross [MASK] [SEP]"
    assert words(tokenizer, ids) == expected
    replaced = options_in_one_text(tokenizer, QUESTION, ["red disc", "blue cross"], "replace")
    assert replaced[0] == tokenizer.mask_token_id and tokenizer.cls_token_id not in replaced
    with pytest.raises(ValueError, match="already"):
        options_in_one_text(tokenizer, "[MASK] moves", ["red disc"])


def test_each_number_is_one_token_of_the_vocabulary(tokenizer):
    assert number_tokens(tokenizer, 2) == tokenizer.convert_tokens_to_ids(["0", "1"])
    with pytest.raises(ValueError, match="'2', which option 2 is chosen by"):
        number_tokens(tokenizer, 3)


def test_answers_must_be_writable(tokenizer):
    assert answer_tokens(tokenizer, "a red disc") == tokenizer.convert_tokens_to_ids(["a", "red", "disc"])
    for answer in ("", " ", "red 日本"):
        with pytest.raises(ValueError, match="cannot be written"):
            answer_tokens(tokenizer, answer)


def test_an_option_stands_behind_its_question(tokenizer):
    assert question_with_option(QUESTION, "red disc") == "what moves left? red disc"
    assert question_with_option("", "red disc") == "red disc"


def test_padding_is_masked_inside_of_texts_too(tokenizer):
    texts = [masked_question(tokenizer, QUESTION, "insert"), tokenizer(QUESTION)["input_ids"]]
    input_ids, attention_mask = pad_texts(texts, tokenizer.pad_token_id)
    assert attention_mask.tolist() == [[1] * 6 + [0] * 4 + [1], [1] * 6 + [0] * 5]
    assert torch.equal(input_ids[1, :6], torch.tensor(texts[1])) and not input_ids[1, 6:].any()

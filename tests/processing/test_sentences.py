"""Paragraphs as sentences: none is lost, neighbours stay neighbours."""

import random
from types import SimpleNamespace

import pytest
import torch

from violet.processing.questions import question_with_option
from violet.processing.sentences import join_sentences, option_sentences, split_sentences
from violet.training.tasks.task_multiple_choice import MultipleChoiceCollator


def test_the_two_shortest_neighbours_are_joined_until_enough_are_left():
    sentences = ["aaaa", "b", "cc", "d", "eeeee"]
    assert join_sentences(sentences, 4) == ["aaaa", "b cc", "d", "eeeee"]  # 3 letters, as cc and d; the first counts
    assert join_sentences(sentences, 3) == ["aaaa", "b cc d", "eeeee"]
    assert join_sentences(sentences, 2) == ["aaaa b cc d", "eeeee"]
    assert join_sentences(sentences, 1) == ["aaaa b cc d eeeee"]
    assert join_sentences(sentences, 5) == sentences


@pytest.mark.parametrize("most", [1, 2, 7, 30])
def test_no_word_is_lost_and_their_order_stays(most):
    draw = random.Random(most)
    sentences = [" ".join(f"w{number}.{word}" for word in range(draw.randint(1, 9))) for number in range(20)]
    joined = join_sentences(sentences, most)
    assert len(joined) == min(most, 20)
    assert " ".join(joined).split() == " ".join(sentences).split()


def test_blank_sentences_do_not_count():
    assert join_sentences([" a  b\n", "", "  ", "c"], 2) == ["a b", "c"]
    assert join_sentences([], 2) == []
    with pytest.raises(ValueError, match="`most` must be 1 or more, got 0"):
        join_sentences(["a"], 0)


def test_an_option_stands_between_its_question_and_the_subtitles():
    subtitles = ["a a a", "b", "c", "d d", "e e e", "f f", "g g g"]
    sentences = option_sentences("what is it?", "a knife", subtitles, 8)
    assert sentences == ["what is it?", "a knife", "a a a", "b c", "d d", "e e e", "f f", "g g g"]
    assert option_sentences("what is it?", "a knife", subtitles[:1], 4) == ["what is it?", "a knife", "a a a"]
    assert option_sentences("what is it?", "a knife", ["", " "], 2) == ["what is it?", "a knife"]
    assert option_sentences("", "a knife", subtitles[:2], 2) == ["a knife", "a a a b"]
    with pytest.raises(ValueError, match="`max_sentences` must be 3 or more for a question, its option and subtitles"):
        option_sentences("what is it?", "a knife", subtitles, 2)


def test_options_are_paragraphs_for_a_processor_of_paragraphs_and_one_text_for_others():
    class Processor:
        max_sentences: int | None = None
        tokenizer = SimpleNamespace(pad_token_id=0)

        def __call__(self, text):
            self.text = text
            return {name: torch.ones(len(text), 3, dtype=torch.long) for name in ("input_ids", "attention_mask")}

    row = {"question": "what is it?", "options": ["a knife", "a fork"], "answer": 1, "subtitles": ["take it", "cut"]}
    collator = MultipleChoiceCollator.__new__(MultipleChoiceCollator)
    collator.processor = Processor()
    batch = collator.texts([row], [row])
    assert batch["input_ids"].shape == (1, 2, 3) and batch["labels"].tolist() == [1]
    assert collator.processor.text == [question_with_option("what is it?", option) for option in row["options"]]
    collator.processor.max_sentences = 3
    collator.texts([row], [row])
    assert collator.processor.text == ["what is it?\na knife\ntake it cut", "what is it?\na fork\ntake it cut"]
    del row["subtitles"]
    collator.texts([row], [row])
    assert collator.processor.text == ["what is it?\na knife", "what is it?\na fork"]


def test_a_paragraph_is_split_at_its_ends_of_sentences():
    text = "After Mr. Branson (Robert James-Collier) leaves, Dr. Clarkson asks: why? "
    text += '"Nobody knows!" 3 men laugh... so it is.'
    assert split_sentences(text) == [
        "After Mr. Branson (Robert James-Collier) leaves, Dr. Clarkson asks: why?",
        '"Nobody knows!" 3 men laugh... so it is.',  # a quotation mark ends no sentence
    ]
    assert split_sentences("One. Two! 3 come.\nFour") == ["One.", "Two!", "3 come.", "Four"]
    assert split_sentences("no end at 2.5 seconds") == ["no end at 2.5 seconds"]

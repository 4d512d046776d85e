"""The ways in which a model answers a question about a video: one class for each kind of head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..core.catalogue import MODEL_CLASSES
from ..evaluation.answers import answer_log_probabilities
from ..modeling_violet import Tokens
from ..processing.questions import (
    TokenIds,
    answer_tokens,
    by_question,
    masked_question,
    number_tokens,
    options_in_one_text,
    pad_texts,
    question_with_option,
)
from .pairs import Asked, VideoTextPipeline
from .writing import join_prompts, write, write_behind


class Way:
    """
    How a head answers: `ask` makes what it reads of a question, `answer` scores what may be answered.

    Args:
        pipe: the pipeline, which has model and processor.
    """

    scores_given = False
    """Whether it scores answers that come with an open question."""
    writes = False
    """Whether it takes settings of `generate`."""

    def __init__(self, pipe: VideoTextPipeline):
        self.pipe = pipe
        self.model: Any = pipe.model
        self.tokenizer = pipe.processor.tokenizer

    def ask(self, question: str, names: Sequence[str], mask_place: str) -> Asked:
        """
        Args:
            names: the options, or the answers to choose among; empty if the model finds them itself.
            mask_place: where a [MASK] stands, see `processing.questions.MASK_PLACES`; of no matter elsewhere.
        """
        raise NotImplementedError

    def answer(self, pixels: torch.Tensor, asked: Sequence[Asked], **settings: Any) -> Mapping[str, torch.Tensor]:
        """
        Videos (videos, frames, 3, height, width) and a question for each -> `scores` (videos, answers), from 0 to 1,
        and whatever `name` needs.
        """
        raise NotImplementedError

    def name(self, asked: Asked, number: int, outputs: Mapping[str, torch.Tensor]) -> str:
        """The answer of this number, `outputs` being those of one question."""
        return asked.answers[number]

    def pad(self, texts: Sequence[TokenIds]) -> dict[str, torch.Tensor]:
        input_ids, attention_mask = pad_texts(texts, self.tokenizer.pad_token_id, self.pipe.device)
        return {"input_ids": input_ids, "attention_mask": attention_mask}


class ByClassifier(Way):
    """`VioletForQuestionAnswering`: probabilities over the model's answers."""

    def ask(self, question, names, mask_place):
        return Asked([self.pipe.tokenize(question)])

    def answer(self, pixels, asked):
        inputs = self.pad([one.texts[0] for one in asked])
        return {"scores": self.model(**pixels, **inputs).logits.float().softmax(-1)}

    def name(self, asked, number, outputs):
        return self.model.config.id2label[number]


class ByMatch(Way):
    """`VioletForMultipleChoice`: each option behind its question; probabilities over the options."""

    def ask(self, question, names, mask_place):
        return Asked([self.pipe.tokenize(question_with_option(question, name)) for name in names], names)

    def answer(self, pixels, asked):
        flat = self.pad([ids for one in asked for ids in one.texts])
        inputs = by_question(flat, [len(one.texts) for one in asked], self.tokenizer.pad_token_id)
        return {"scores": self.model(**pixels, **inputs).logits.float().softmax(-1)}


class ByMask(Way):
    """
    `VioletForMaskedLM`, open-ended: the words of its vocabulary at the [MASK], with their probabilities there; or
    given answers of any number of tokens, each with the geometric mean of its tokens' probabilities, read at as many
    [MASK]s.
    """

    scores_given = True

    def ask(self, question, names, mask_place):
        tokens = [answer_tokens(self.tokenizer, name) for name in names]
        counts = sorted({len(ids) for ids in tokens}) or [1]
        texts = [
            self.pipe.fitting(masked_question(self.tokenizer, question, mask_place, count), question)
            for count in counts
        ]
        return Asked(texts, names, tokens)

    def answer(self, pixels, asked):
        if asked[0].answers:
            return {"scores": self.score_answers(self.model.violet.encode_videos(**pixels), asked)}
        inputs = self.pad([one.texts[0] for one in asked])
        logits = self.model(**pixels, **inputs).logits
        scores = logits[inputs["input_ids"] == self.tokenizer.mask_token_id].float().softmax(-1)
        scores[:, self.tokenizer.all_special_ids] = 0  # no answers
        return {"scores": scores}

    def score_answers(self, video_tokens: Tokens, asked: Sequence[Asked]) -> torch.Tensor:
        """(questions, answers of the one with most)"""
        mask = self.tokenizer.mask_token_id
        by_count = [{ids.count(mask): ids for ids in one.texts} for one in asked]
        tokens = [one.answer_tokens for one in asked]
        scores = answer_log_probabilities(self.model, video_tokens, by_count, tokens, mask)
        return nn.utils.rnn.pad_sequence([of_one.exp() for of_one in scores], batch_first=True)

    def name(self, asked, number, outputs):
        return asked.answers[number] if asked.answers else self.tokenizer.decode([number])


class ByNumber(Way):
    """
    `VioletForMaskedLM`, multiple choice: question and options in one text, with a [MASK] for the number of the right
    one; probabilities over the options' numbers.
    """

    def ask(self, question, names, mask_place):
        ids = options_in_one_text(self.tokenizer, question, names, mask_place)
        numbers = [[token] for token in number_tokens(self.tokenizer, len(names))]
        return Asked([self.pipe.fitting(ids, f"{question} with its {len(names)} options")], names, numbers)

    def answer(self, pixels, asked):
        inputs = self.pad([one.texts[0] for one in asked])
        logits = self.model(**pixels, **inputs).logits
        at_mask = logits[inputs["input_ids"] == self.tokenizer.mask_token_id].float()  # (questions, vocabulary)
        scores = [
            row[[ids[0] for ids in one.answer_tokens]].softmax(-1) for row, one in zip(at_mask, asked, strict=True)
        ]
        return {"scores": nn.utils.rnn.pad_sequence(scores, batch_first=True)}


class ByWriting(Way):
    """
    `VioletForCaptioning`: the answer is written, with the question before it as a prompt; with the geometric mean of
    its tokens' probabilities, [SEP] included.
    """

    writes = True

    def ask(self, question, names, mask_place):
        return Asked([self.pipe.tokenize(question)])

    def answer(self, pixels, asked, **generate_kwargs):
        prompts = [one.texts[0] for one in asked]
        ids, scores = write(self.model, self.tokenizer, pixels, prompts, **generate_kwargs)
        return {"scores": scores, "sequences": ids}

    def name(self, asked, number, outputs):
        return self.tokenizer.decode(outputs["sequences"][0, number], skip_special_tokens=True)


class ByChat(Way):
    """
    `VioletForConditionalGeneration`: the language model writes its answer behind the question, as in a chat; with the
    geometric mean of its tokens' probabilities, the end included.
    """

    writes = True

    def ask(self, question, names, mask_place):
        processor = self.pipe.processor
        found = processor.texts_with_videos(processor.ask(question), 1, processor.video_processor.num_frames)
        return Asked([found["input_ids"][0].tolist()])

    def answer(self, pixels, asked, **generate_kwargs):
        prompts = [torch.tensor(one.texts[0]) for one in asked]
        texts = join_prompts(prompts, self.tokenizer.pad_token_id)
        moved = {name: ids.to(self.model.device) for name, ids in texts.items()}
        ids, scores = write_behind(self.model, {**moved, **pixels}, **generate_kwargs)
        return {"scores": scores, "sequences": ids}

    def name(self, asked, number, outputs):
        return self.tokenizer.decode(outputs["sequences"][0, number], skip_special_tokens=True).strip()


_WAYS = {way.__name__: way for way in (ByClassifier, ByMatch, ByMask, ByNumber, ByWriting, ByChat)}
OPEN_ENDED: Mapping[str, type[Way]] = {
    name: _WAYS[known.answers] for name, known in MODEL_CLASSES.items() if known.answers
}
WITH_OPTIONS: Mapping[str, type[Way]] = {
    name: _WAYS[known.chooses] for name, known in MODEL_CLASSES.items() if known.chooses
}
"""By the model's class, see `core.catalogue`."""


def model_name(model: Any) -> str:
    """The name of the model's class; of the one inside if adapters are around it."""
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__


def find_way(model: Any, with_options: bool, with_answers: bool) -> type[Way]:
    """
    How this model answers, given options, given answers to choose among, or neither.

    Raises:
        ValueError: says what the model needs or does not take.
    """
    name = model_name(model)
    if name not in OPEN_ENDED and name not in WITH_OPTIONS:
        able = ", ".join(dict.fromkeys([*OPEN_ENDED, *WITH_OPTIONS]))
        raise ValueError(f"{name} answers no questions; models that do are {able}.")
    if with_options and with_answers:
        raise ValueError(
            "Give `options` (the model chooses by number) or `answers` (it scores their words), not both."
        )
    if with_options and name not in WITH_OPTIONS:
        raise ValueError(f"{name} takes no `options`; models that choose are {', '.join(WITH_OPTIONS)}.")
    if not with_options and name not in OPEN_ENDED:
        raise ValueError(f"{name} chooses between options, and there are none: pipe(video, question, options=[...]).")
    way = (WITH_OPTIONS if with_options else OPEN_ENDED)[name]
    if with_answers and not way.scores_given:
        able = ", ".join(name for name, way in OPEN_ENDED.items() if way.scores_given)
        raise ValueError(f"{name} takes no `answers`; {able} scores given ones.")
    return way

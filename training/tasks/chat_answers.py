"""
Tasks whose answers a language model writes that sees videos among its words: a row is a chat of two turns, and what is
learned is the second one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from ...core.clip_inputs import take_clip_inputs
from ...evaluation.answers import answer_measures
from ...evaluation.measures import Evaluation
from ...evaluation.sharing import gather
from ...modeling_violet.losses import IGNORE_INDEX
from ...pipelines.writing import MOST_WRITTEN, join_prompts
from ...processing import VideoTextProcessor
from ..collating import VideoTextCollator
from .choosing import normalize_answer
from .evaluation_batches import evaluation_batches, need_some, precision
from .task import Row

if TYPE_CHECKING:
    from ..arguments import DataArguments

CHAT_WORDS = "user: assistant:"
"""What a plain chat has beside questions and answers."""


class ChatCollator(VideoTextCollator):
    """
    Rows -> what `VioletForConditionalGeneration` learns from: question and answer as turns of a chat, labels for the
    answer's tokens and the end.

    Args:
        processor, settings: as of `VideoTextCollator`.
        question, answer: a row -> the user's turn, and the model's.
    """

    def __init__(
        self,
        processor: VideoTextProcessor,
        question: Callable[[Mapping[str, Any]], str],
        answer: Callable[[Mapping[str, Any]], str],
        **settings: Any,
    ):
        super().__init__(processor, **settings)
        if self.test_clips > 1:
            raise ValueError(f"--test_clips {self.test_clips}: written answers are not averaged; leave it at 1.")
        self.question = question
        self.answer = answer

    def texts(self, rows: Sequence[Mapping[str, Any]], first_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`input_ids`, `attention_mask` and `labels` (rows, tokens), padded on the right."""
        most = self.processor.max_length
        pairs = [(prompt, self._answer_ids(row)) for prompt, row in zip(self.prompts(rows), rows, strict=True)]
        texts = [torch.cat([prompt, answer])[:most] for prompt, answer in pairs]
        ids = torch.nn.utils.rnn.pad_sequence(texts, True, self.processor.tokenizer.pad_token_id or 0)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE_INDEX)
        for row, (text, (prompt, _)) in enumerate(zip(texts, pairs, strict=True)):
            mask[row, : len(text)] = 1
            labels[row, len(prompt) : len(text)] = text[len(prompt) :]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def prompts(self, rows: Sequence[Mapping[str, Any]]) -> list[torch.Tensor]:
        """The tokens (X,) in front of each row's answer, with the places of its video."""
        frames = self.processor.video_processor.num_frames
        asked = [self.processor.ask(self.question(row)) for row in rows]
        return [self.processor.texts_with_videos(text, 1, frames)["input_ids"][0] for text in asked]

    def _answer_ids(self, row: Mapping[str, Any]) -> torch.Tensor:
        """The tokens (X,) of the answer, as the chat template writes it behind the question, and the end."""
        tokenizer = self.processor.tokenizer
        question, answer, end = self.question(row), self.answer(row), str(tokenizer.eos_token)
        prompt, chat = self.processor.ask(question), self.processor.ask(question, answer)
        if not chat.startswith(prompt):
            raise ValueError(
                "The chat template writes an answer otherwise than behind its own prompt, so that what is learned "
                f"would not be what is asked for: {chat!r} does not begin with {prompt!r}."
            )
        said = chat[len(prompt) :]
        said = said[: said.rindex(end) + len(end)] if end in said else said + end
        return torch.tensor(tokenizer(said, add_special_tokens=False)["input_ids"], dtype=torch.long)


@torch.no_grad()
def written_answers(
    model, collator: ChatCollator, rows: Dataset, training: TrainingArguments
) -> Iterator[tuple[Row, str]]:
    """What the model writes for each row of this process's share whose video can be read."""
    tokenizer = collator.processor.tokenizer
    for batch in evaluation_batches(model, collator, rows, training):
        texts = join_prompts(collator.prompts(batch.rows), tokenizer.pad_token_id)
        given = {name: ids.to(model.device) for name, ids in texts.items()} | take_clip_inputs(batch.inputs)
        with precision(model, training):
            ids = model.generate(
                **given, video_index=batch.inputs["video_index"], max_new_tokens=MOST_WRITTEN, do_sample=False
            )
        new = ids[:, texts["input_ids"].shape[1] :]
        said = [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
        for row, text, read in zip(batch.rows, said, batch.read.tolist(), strict=True):
            if read:
                yield row, text


def measure_written_answers(
    model, collator: Any, rows: Dataset, data: "DataArguments", training: TrainingArguments
) -> Evaluation:
    """What `answer_measures` says of written answers: right are those that are the row's, word by word."""
    found = gather(
        [
            {
                "row": row["row"],
                "video": row["video"],
                "question": row["question"],
                **({"question_type": row["question_type"]} if "question_type" in row else {}),
                "prediction": normalize_answer(text),
                "truth": normalize_answer(row["answer"]),
            }
            for row, text in written_answers(model, collator, rows, training)
        ]
    )
    need_some(found, rows)
    samples = [{**one, "right": one["prediction"] == one["truth"]} for one in found]
    measures = answer_measures(
        [1 if one["right"] else float("inf") for one in samples],
        [one["question_type"] for one in samples] if "question_type" in rows.column_names else None,
        [one["truth"] for one in samples],
        1,
        [one["video"] for one in samples],
    )
    samples = [{**one, "score": float(one["right"])} for one in samples]
    return Evaluation(measures, {}, samples, failed=len(rows) - len(samples))

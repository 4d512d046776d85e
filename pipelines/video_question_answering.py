"""The pipeline `video-question-answering`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .answering import OPEN_ENDED, ByWriting, Way, find_way, model_name
from .pairs import VideoTextPipeline, check_top_k, in_batch, need, pair_up
from .writing import MOST_WRITTEN, check_special_tokens, default_length


class VideoQuestionAnsweringPipeline(VideoTextPipeline):
    """
    Answers questions about videos, in the way that the model has:

        >>> answer = pipeline("video-question-answering", model="folder-or-hub-name")
        >>> answer("clip.mp4", "what moves left?", top_k=2)
        [{"answer": "disc", "score": 0.98}, {"answer": "cross", "score": 0.01}]

    | model | answers | score |
    |---|---|---|
    | `VioletForQuestionAnswering` | out of its answer vocabulary | probability among them |
    | `VioletForMaskedLM` | a word of its vocabulary, at a [MASK] | the word's probability there |
    | … with `answers=[...]` | these, of one or several words | geometric mean of its tokens' probabilities |
    | … with `options=[...]` | these, by their number in one text | probability among them |
    | `VioletForMultipleChoice` | `options=[...]` | probability among them |
    | `VioletForCaptioning`, `VioletForConditionalGeneration` | writes its answer | geometric mean of its tokens' \
probabilities |

    Several at once: lists of videos and of questions of one length, one of either for all of the other, a list or
    a generator of `{"video": ..., "question": ...}`, with `"options"` if there are some; with `batch_size`. Each
    gives a list of answers, best first.

    A video is anything that `violet.processing.decode_video` reads; one that cannot be read raises `VideoDecodeError`,
    which names it.
    """

    _pipeline_calls_generate = True
    _non_generation_params = ("top_k",)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if OPEN_ENDED.get(model_name(self.model)) is ByWriting:
            check_special_tokens(self.model, self.processor.tokenizer)
            self._generation_defaults["max_new_tokens"] = default_length(self.model, self.processor)
        elif self.writes:
            self._generation_defaults["max_new_tokens"] = MOST_WRITTEN

    @property
    def writes(self) -> bool:
        return OPEN_ENDED.get(model_name(self.model), Way).writes

    def __call__(
        self, videos: Any, question: str | list[str] | None = None, options: Sequence | None = None, **kwargs: Any
    ) -> Any:
        """
        Args:
            videos: a video or a list of them; or the inputs with their questions, if `question` is not given.
            question: a question or a list of them.
            options: what to choose between: a list for all questions, or a list of such lists, one a question.
            answers: a list of answers to choose among, for all questions.
            mask_place: where the [MASK] stands in a question that has none: "append" (default), "prepend", "insert"
                or "replace", see `violet.processing.questions`; the one that the model was trained with.
            top_k: how many answers to give, 5 if it is not given; all if there are fewer. A model that writes
                gives one, or as many as its best beams.
            batch_size: how many questions go through the model together.
            num_workers: how many processes read the next videos while the model works (see `run`), 0 by default.
            kwargs: for a model that writes, settings of `generate`: `max_new_tokens`, `num_beams`, …

        Returns:
            `[{"answer": str, "score": float}, ...]`, best first; a list of such lists for several questions; an
            iterator for a generator.
        """
        inputs = videos if question is None else pair_up(videos, question, "question")
        if options is not None:
            inputs = _add_options(inputs, options)
        return self.run(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        answers: Sequence[str] | None = None,
        mask_place: str | None = None,
        **generate_kwargs: Any,
    ):
        if generate_kwargs and not self.writes:
            raise TypeError(f"{model_name(self.model)} takes no {', '.join(map(repr, generate_kwargs))}.")
        asking: dict[str, Any] = {}
        if answers is not None:
            asking["answers"] = _as_names(answers, "answers")
        if mask_place is not None:
            asking["mask_place"] = mask_place
        top = check_top_k(top_k)
        return asking, {**generate_kwargs, **top}, top

    def preprocess(
        self, inputs: Mapping[str, Any], answers: Sequence[str] = (), mask_place: str = "append"
    ) -> dict[str, Any]:
        inputs = need(inputs, "question")
        options = inputs.get("options")
        options = () if options is None else _as_names(options, "options")
        way = find_way(self.model, bool(options), bool(answers))
        asked = way(self).ask(inputs["question"], options or answers, mask_place)
        return {**self.read_video(inputs), "asked": asked, "way": way}

    def _forward(self, model_inputs: dict[str, Any], top_k: int = 1, **generate_kwargs: Any) -> dict[str, Any]:
        asked, ways = in_batch(model_inputs["asked"]), in_batch(model_inputs["way"])
        if len(set(ways)) > 1:
            raise ValueError("Questions with options and questions without cannot be in one batch.")
        if ways[0].writes:
            generate_kwargs = self._prepare_generate_kwargs(generate_kwargs)
            if top_k > 1:
                beams = max(top_k, generate_kwargs.get("num_beams") or 1)
                generate_kwargs |= {"num_return_sequences": top_k, "num_beams": beams}
        outputs = ways[0](self).answer(self.clip_inputs(model_inputs), asked, **generate_kwargs)
        return {**outputs, "asked": model_inputs["asked"], "way": model_inputs["way"]}

    def postprocess(self, model_outputs: dict[str, Any], top_k: int = 5) -> list[dict[str, Any]]:
        way: Way = model_outputs["way"](self)
        asked, scores = model_outputs["asked"], model_outputs["scores"][0]
        if asked.answers:
            scores = scores[: len(asked.answers)]  # others of the batch may have more
        best = scores.topk(min(top_k, len(scores)))
        return [
            {"answer": way.name(asked, number, model_outputs), "score": score}
            for score, number in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def _as_names(names: Any, kind: str) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`{kind}` must be a list of texts, got {names!r}.")
    if not names:
        raise ValueError(f"The list of {kind} is empty.")
    return list(names)


def _add_options(inputs: Any, options: Sequence) -> Any:
    """The inputs with their options: one list for all, or one list for each."""
    if isinstance(options, list | tuple) and options and not any(isinstance(name, str) for name in options):
        if not isinstance(inputs, list | tuple) or len(inputs) != len(options):
            questions = len(inputs) if isinstance(inputs, list | tuple) else "one at a time"
            raise ValueError(
                f"{len(options)} lists of options for questions: {questions}. Give one list, or one each."
            )
        return [{**need(one, "question"), "options": names} for one, names in zip(inputs, options, strict=True)]
    names = _as_names(options, "options")
    if isinstance(inputs, Iterator):
        return ({**need(one, "question"), "options": names} for one in inputs)
    if isinstance(inputs, list | tuple):
        return [{**need(one, "question"), "options": names} for one in inputs]
    return {**need(inputs, "question"), "options": names}

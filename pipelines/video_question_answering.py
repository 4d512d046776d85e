"""The pipeline `video-question-answering`."""

from typing import Any

import torch

from .pairs import VideoTextPipeline, pair_up


class VideoQuestionAnsweringPipeline(VideoTextPipeline):
    """
    Answers questions about videos by a model's answer vocabulary.

        >>> answer = pipeline("video-question-answering", model="folder-or-hub-name")
        >>> answer("clip.mp4", "what moves left?", top_k=2)
        [{"answer": "disc", "score": 0.98}, {"answer": "cross", "score": 0.01}]

    Several at once: lists of videos and of questions of one length, one of them alone for all of the other, a list or
    a generator of `{"video": ..., "question": ...}`; with `batch_size`. Each gives a list of answers, best first.

    A video is anything that `violet.processing.decode_video` reads: a path, a URL, bytes, an array, PIL images, a
    folder of frames. One that cannot be read raises `VideoDecodeError`, which names it.
    """

    def __call__(self, videos: Any, question: str | list[str] | None = None, **kwargs: Any) -> Any:
        """
        Args:
            videos: a video or a list of them; or the inputs with their questions, where `question` is not given.
            question: a question or a list of them.
            top_k: how many answers to give, 5 where it is not given; all where there are fewer.
            batch_size: how many questions go through the model together.

        Returns:
            `[{"answer": str, "score": float}, ...]`, best first, the scores being probabilities over the model's
            answers; a list of such lists for several questions; an iterator for a generator.
        """
        return super().__call__(videos if question is None else pair_up(videos, question, "question"), **kwargs)

    def preprocess(self, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        if not isinstance(inputs, dict) or not {"video", "question"} <= set(inputs):
            raise ValueError(
                'Each input needs a video and a question: pipe(video, question) or {"video":, "question":}.'
            )
        # Padded to one length, so that questions of unequal length can be put into one batch.
        return dict(self.processor(text=[inputs["question"]], videos=[inputs["video"]], padding="max_length"))

    def _forward(self, model_inputs: dict[str, torch.Tensor]) -> Any:
        return self.model(**model_inputs)

    def postprocess(self, model_outputs: Any, top_k: int = 5) -> list[dict[str, Any]]:
        scores = model_outputs.logits[0].float().softmax(-1)
        best = scores.topk(min(top_k, len(scores)))
        return [
            {"answer": self.model.config.id2label[index], "score": score}
            for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

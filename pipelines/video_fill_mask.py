"""The pipeline `video-fill-mask`."""

from collections.abc import Mapping
from typing import Any

from ..processing.questions import pad_texts
from .pairs import Asked, VideoTextPipeline, check_top_k, in_batch, need, pair_up


class VideoFillMaskPipeline(VideoTextPipeline):
    """
    Fills the blanks of sentences about videos, word by word of the model's vocabulary.

        >>> fill = pipeline("video-fill-mask", model="folder-or-hub-name")
        >>> fill("clip.mp4", "a red disc moves [MASK]", top_k=1)
        [{"score": 0.97, "token": 61, "token_str": "left", "sequence": "a red disc moves left"}]

    Several at once: lists of videos and of sentences of one length, one of either for all of the other, a list or
    a generator of `{"video": ..., "text": ...}`; with `batch_size`. A sentence with several blanks gives a list for
    each.

    A video is anything that `violet.processing.decode_video` reads; one that cannot be read raises `VideoDecodeError`,
    which names it.
    """

    def __call__(self, videos: Any, text: str | list[str] | None = None, **kwargs: Any) -> Any:
        """
        Args:
            videos: a video or a list of them; or the inputs with their sentences, if `text` is not given.
            text: a sentence with [MASK] for each blank, or a list of them.
            top_k: how many words to give for a blank, 5 if it is not given.
            batch_size: how many sentences go through the model together.
            num_workers: how many processes read the next videos while the model works (see `run`), 0 by default.

        Returns:
            `[{"score": float, "token": int, "token_str": str, "sequence": str}, ...]`, best first; a list of such
            lists for several blanks, and for several sentences; an iterator for a generator.
        """
        return self.run(videos if text is None else pair_up(videos, text, "text"), **kwargs)

    def _sanitize_parameters(self, top_k: int | None = None):
        return {}, {}, check_top_k(top_k)

    def preprocess(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        inputs = need(inputs, "text")
        ids = self.tokenize(inputs["text"])
        if self.processor.tokenizer.mask_token_id not in ids:
            raise ValueError(f"{inputs['text']!r} has no {self.processor.tokenizer.mask_token}.")
        return {**self.read_video(inputs), "asked": Asked([ids])}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        texts = [one.texts[0] for one in in_batch(model_inputs["asked"])]
        input_ids, attention_mask = pad_texts(texts, self.processor.tokenizer.pad_token_id, self.device)
        logits = self.model(
            **self.clip_inputs(model_inputs), input_ids=input_ids, attention_mask=attention_mask
        ).logits
        return {"logits": logits, "input_ids": input_ids}

    def postprocess(self, model_outputs: Any, top_k: int = 5) -> list:
        tokenizer = self.processor.tokenizer
        ids = model_outputs["input_ids"][0]
        filled = []
        for place in (ids == tokenizer.mask_token_id).nonzero().flatten():
            probabilities = model_outputs["logits"][0, place].float().softmax(-1)
            best = probabilities.topk(min(top_k, len(probabilities)))
            words = []
            for score, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                sentence = ids.clone()
                sentence[place] = token
                kept = [
                    i for i in sentence.tolist() if i == tokenizer.mask_token_id or i not in tokenizer.all_special_ids
                ]
                words.append(
                    {
                        "score": score,
                        "token": token,
                        "token_str": tokenizer.decode([token]),
                        "sequence": tokenizer.decode(kept),
                    }
                )
            filled.append(words)
        return filled[0] if len(filled) == 1 else filled

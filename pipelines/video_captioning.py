"""The pipeline `video-captioning`."""

from collections.abc import Mapping
from typing import Any

from ..core.clip_inputs import take_clip_inputs
from .pairs import Asked, VideoTextPipeline, alone, in_batch, need
from .writing import check_special_tokens, default_length, write


class VideoCaptioningPipeline(VideoTextPipeline):
    """
    Writes a text about a video.

        >>> describe = pipeline("video-captioning", model="folder-or-hub-name")
        >>> describe("clip.mp4", num_beams=3)
        [{"generated_text": "a red disc moves left"}]

    Several at once: a list or a generator of videos; with `batch_size`. Each gives a list of texts.

    A video is anything that `violet.processing.decode_video` reads; one that cannot be read raises `VideoDecodeError`,
    which names it.
    """

    _pipeline_calls_generate = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        check_special_tokens(self.model, self.processor.tokenizer)
        self._generation_defaults["max_new_tokens"] = default_length(self.model, self.processor)

    def __call__(self, videos: Any, **kwargs: Any) -> Any:
        """
        Args:
            videos: a video or a list of them.
            prompt: an instruction in words between video and text, if the model was trained with one.
            batch_size: how many videos go through the model together.
            kwargs: settings of `generate`: `max_new_tokens` (up to the processor's `max_length` in all if it is
                not given), `num_beams`, `num_return_sequences`, `do_sample`, …

        Returns:
            `[{"generated_text": str}]`, one for each of `num_return_sequences`; a list of such lists for several
            videos; an iterator for a generator.
        """
        return self.run(alone(videos), **kwargs)

    def _sanitize_parameters(self, prompt: str | None = None, **generate_kwargs: Any):
        return {} if prompt is None else {"prompt": prompt}, generate_kwargs, {}

    def preprocess(self, inputs: Mapping[str, Any], prompt: str | None = None) -> dict[str, Any]:
        inputs = need(inputs)
        texts = [] if prompt is None else [self.tokenize(prompt)]
        return {**self.read_video(inputs), "asked": Asked(texts)}

    def _forward(self, model_inputs: dict[str, Any], **generate_kwargs: Any) -> dict[str, Any]:
        prompts = [ids for one in in_batch(model_inputs["asked"]) for ids in one.texts]
        generate_kwargs = self._prepare_generate_kwargs(generate_kwargs)
        pixels = take_clip_inputs(model_inputs)
        return {"sequences": write(self.model, self.processor.tokenizer, pixels, prompts, **generate_kwargs)[0]}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, str]]:
        texts = self.processor.tokenizer.batch_decode(model_outputs["sequences"][0], skip_special_tokens=True)
        return [{"generated_text": text} for text in texts]

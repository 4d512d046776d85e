"""The pipeline `video-captioning`."""

from collections.abc import Mapping
from typing import Any

import torch

from ..processing.chats import VIDEO_TOKEN
from .pairs import Asked, VideoTextPipeline, alone, in_batch, need, with_boxes
from .writing import MOST_WRITTEN, check_special_tokens, default_length, join_prompts, write, write_behind


class VideoCaptioningPipeline(VideoTextPipeline):
    """
    Writes a text about a video.

        >>> describe = pipeline("video-captioning", model="folder-or-hub-name")
        >>> describe("clip.mp4", num_beams=3)
        [{"generated_text": "a red disc moves left"}]

    Several at once: a list or a generator of videos; with `batch_size`. Each gives a list of texts.

    A language model that sees videos among its words (`VioletForConditionalGeneration`) writes behind the video; of a
    part of one too, if it was trained with `regions`:

        >>> describe("clip.mp4", boxes=[0.1, 0.2, 0.5, 0.6])

    A video is anything that `violet.processing.decode_video` reads; one that cannot be read raises `VideoDecodeError`,
    which names it.
    """

    _pipeline_calls_generate = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.writes_behind:
            self._generation_defaults["max_new_tokens"] = MOST_WRITTEN
            return
        check_special_tokens(self.model, self.processor.tokenizer)
        self._generation_defaults["max_new_tokens"] = default_length(self.model, self.processor)

    @property
    def writes_behind(self) -> bool:
        """Whether the model sees videos among its words."""
        return self.processor.video_places is not None

    def __call__(self, videos: Any, boxes: Any = None, **kwargs: Any) -> Any:
        """
        Args:
            videos: a video or a list of them.
            boxes: the part of the video that is meant, (x1, y1, x2, y2) in shares of its frames; or one for each frame
                of the video, None for a frame that does not show it. Of a list of videos a list of these.
            prompt: an instruction in words between video and text, if the model was trained with one.
            batch_size: how many videos go through the model together.
            num_workers: how many processes read the next videos while the model works (see `run`), 0 by default.
            kwargs: settings of `generate`: `max_new_tokens` (up to the processor's `max_length` in all if it is
                not given), `num_beams`, `num_return_sequences`, `do_sample`, …

        Returns:
            `[{"generated_text": str}]`, one for each of `num_return_sequences`; a list of such lists for several
            videos; an iterator for a generator.
        """
        return self.run(with_boxes(alone(videos), boxes), **kwargs)

    def _sanitize_parameters(self, prompt: str | None = None, **generate_kwargs: Any):
        return {} if prompt is None else {"prompt": prompt}, generate_kwargs, {}

    def preprocess(self, inputs: Mapping[str, Any], prompt: str | None = None) -> dict[str, Any]:
        inputs = need(inputs)
        pixels = self.read_video(inputs)
        return {**pixels, "asked": self.asked(pixels, prompt)}

    def asked(self, pixels: Mapping[str, torch.Tensor], prompt: str | None = None) -> Asked:
        """What stands in front of the text about a video of these pixels (videos, frames, …)."""
        if self.writes_behind:
            frames = pixels[self.processor.video_processor.inputs[0]].shape[1]
            found = self.processor.texts_with_videos(VIDEO_TOKEN + (prompt or ""), 1, frames)
            return Asked([found["input_ids"][0].tolist()])
        return Asked([] if prompt is None else [self.tokenize(prompt)])

    def _forward(self, model_inputs: dict[str, Any], **generate_kwargs: Any) -> dict[str, Any]:
        prompts = [ids for one in in_batch(model_inputs["asked"]) for ids in one.texts]
        generate_kwargs = self._prepare_generate_kwargs(generate_kwargs)
        encoded = model_inputs.get("video_tokens")  # by `violet embed`, once for all that it makes
        pixels = self.clip_inputs(model_inputs) if encoded is None else {"video_tokens": encoded}
        if self.writes_behind:
            texts = join_prompts([torch.tensor(ids) for ids in prompts], self.processor.tokenizer.pad_token_id)
            given = self.processor.to_device({**texts, **pixels}, self.model.device)
            return {"sequences": write_behind(self.model, given, **generate_kwargs)[0]}
        return {"sequences": write(self.model, self.processor.tokenizer, pixels, prompts, **generate_kwargs)[0]}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, str]]:
        texts = self.processor.tokenizer.batch_decode(model_outputs["sequences"][0], skip_special_tokens=True)
        return [{"generated_text": text.strip()} for text in texts]

"""The pipeline `video-text-to-text`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.clip_inputs import take_clip_inputs
from ..processing.chats import is_chat
from .pairs import VideoTextPipeline, in_batch, need, pair_up
from .writing import MOST_WRITTEN, join_prompts, write_behind

CHAT = "chat"
"""The key of an input that is a whole chat."""


@dataclass(frozen=True)
class Prompt:
    """
    One text with its videos. A dataclass, so that the pipeline's collate function does not stack it.

    Attributes:
        inputs: what the processor made: `input_ids`, `attention_mask` (1, X), and pixels (videos, …) if there are any.
    """

    inputs: Mapping[str, torch.Tensor]


class VideoTextToTextPipeline(VideoTextPipeline):
    """
    Answers in writing what is asked about videos, by a language model (`VioletForConditionalGeneration`):

        >>> chat = pipeline("video-text-to-text", model="folder-or-hub-name")
        >>> chat("clip.mp4", "What moves left?", max_new_tokens=20)
        [{"generated_text": "the red disc"}]
        >>> chat([{"role": "user", "content": [{"type": "video", "path": "clip.mp4"},
        ...                                    {"type": "text", "text": "What moves left?"}]}])

    Several at once: lists of videos and of texts of one length, one of either for all of the other, a list of chats, a
    list or a generator of `{"video": ..., "text": ...}` or `{"chat": ...}`; with `batch_size`. A text stands behind
    the video, or around it if it has a `<video>` of its own.

    A video is anything that `violet.processing.decode_video` reads; one that cannot be read raises `VideoDecodeError`,
    which names it.
    """

    _pipeline_calls_generate = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.processor.video_places is None:
            raise ValueError(
                "The pipeline video-text-to-text needs a model of videos among words, and the processor of this "
                f"{type(self.model).__name__} has no `video_places`."
            )
        self._generation_defaults["max_new_tokens"] = MOST_WRITTEN

    def __call__(self, videos: Any = None, text: Any = None, **kwargs: Any) -> Any:
        """
        Args:
            videos: a video or a list of them; or a chat, a list of chats, or the inputs with their texts.
            text: what is asked, a text or a list of texts; or a chat, or a list of chats, without `videos`.
            batch_size: how many texts go through the model together.
            num_workers: how many processes read the next videos while the model works (see `run`), 0 by default.
            kwargs: settings of `generate`: `max_new_tokens` (64 if it is not given), `num_beams`, …

        Returns:
            `[{"generated_text": str}]`, what was written behind the text, one for each of `num_return_sequences`; a
            list of such lists for several texts; an iterator for a generator.
        """
        inputs = text if videos is None else videos
        if inputs is None:
            raise ValueError("Nothing is asked: give a video and a text, or a chat.")
        if videos is not None and text is not None:
            if is_chat(text):
                raise ValueError("A chat has its videos in it: give no others beside it.")
            return self.run(pair_up(videos, text, "text"), **kwargs)
        if is_chat(inputs):
            return self.run({CHAT: inputs}, **kwargs)
        if isinstance(inputs, list | tuple):
            inputs = [{CHAT: one} if is_chat(one) else one for one in inputs]
        elif not isinstance(inputs, Mapping | Iterator):
            raise ValueError("A video needs a text: pipe(video, text).")
        return self.run(inputs, **kwargs)

    def _sanitize_parameters(self, **generate_kwargs: Any):
        return {}, generate_kwargs, {}

    def preprocess(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if CHAT in inputs:
            chat: Sequence[Mapping[str, Any]] = inputs[CHAT]
            goes_on = chat[-1]["role"] == "assistant"
            found = self.processor.apply_chat_template(
                chat,
                tokenize=True,
                return_dict=True,
                add_generation_prompt=not goes_on,
                continue_final_message=goes_on,
            )
            return {"prompt": Prompt(dict(found))}
        inputs = need(inputs, "text")
        pixels = self.processor.to_device(self.read_video(inputs), "cpu")  # as those of chats are
        prompt = self.processor.ask(inputs["text"])
        frames = next(iter(pixels.values())).shape[1]
        return {"prompt": Prompt({**pixels, **self.processor.texts_with_videos(prompt, 1, frames)})}

    def _forward(self, model_inputs: dict[str, Any], **generate_kwargs: Any) -> dict[str, Any]:
        prompts = [dict(one.inputs) for one in in_batch(model_inputs["prompt"])]
        pixels = [take_clip_inputs(one) for one in prompts]
        joined = {name: torch.cat([one[name] for one in pixels if one]) for name in next(filter(None, pixels), {})}
        texts = join_prompts([one["input_ids"][0] for one in prompts], self.processor.tokenizer.pad_token_id)
        given = self.processor.to_device({**texts, **joined}, self.model.device)
        generate_kwargs = self._prepare_generate_kwargs(generate_kwargs)
        return {"sequences": write_behind(self.model, given, **generate_kwargs)[0]}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, str]]:
        texts = self.processor.tokenizer.batch_decode(model_outputs["sequences"][0], skip_special_tokens=True)
        return [{"generated_text": text.strip()} for text in texts]
